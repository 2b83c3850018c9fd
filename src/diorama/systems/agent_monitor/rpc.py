"""JSON-RPC as both MCP proxies see it: which messages are actions, what is answered in the server's place, what is
learnt.

Messages are relayed as the bytes that arrived. Only `tools/call` is judged; everything else passes unchanged, except
text
that two parsers could read differently, which is refused.
"""

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from diorama.agents.actions import Action, ActionError, canonical_json, parse_strict, sha256
from diorama.agents.transcript import Message, Step, text_of
from diorama.systems.agent_monitor.instructions import in_view, injects
from diorama.systems.agent_monitor.pipeline import REFUSED, Gate, Refused, Release
from diorama.systems.agent_monitor.stages.schema import EXTRAS
from diorama.systems.agent_monitor.text import hidden_characters

Refusal = Literal["result", "error"]
HISTORY = 200
_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"


@dataclass
class RpcGuard:
    """One client's session: its run in the gate, what its agent has seen, and the calls under way.

    refusal: a blocked call is answered by a normal result with the error flag ('result', which a model sees) or by a
    JSON-RPC error ('error', which many clients hide from the model).
    """

    gate: Gate
    run: str
    task: str = ""
    refusal: Refusal = "result"
    history: deque[Message] = field(default_factory=lambda: deque(maxlen=HISTORY))
    count: int = 0
    _open: dict[str, Step] = field(default_factory=dict)
    _lists: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _tools: dict[str, str] = field(default_factory=dict)
    _poisoned: set[str] = field(default_factory=set)
    _judging: dict[str, "asyncio.Task[bytes | None]"] = field(default_factory=dict)

    @property
    def is_waiting(self) -> bool:
        """Whether the server owes an answer to a call or a listing."""
        return bool(self._open or self._lists)

    async def from_client(self, raw: bytes) -> tuple[bytes | None, bytes | None]:
        """What to do with a client's message: (bytes for the server, bytes for the client). Both None: nothing.

        Waits as long as a held call is held; run it as its own task so that other messages overtake it.
        """
        try:
            message = parse_strict(raw)
        except ActionError:
            return None, _error(None, -32700, "The message is not unambiguous JSON.")
        if isinstance(message, list):
            if not any(_is_call(item) for item in message):
                return raw, None
            refused = [
                _error_body(item.get("id"), -32600, "Send each tools/call on its own.")
                for item in message
                if isinstance(item, dict) and "id" in item
            ]
            return None, json.dumps(refused).encode()
        if not isinstance(message, dict):
            return None, _error(None, -32600, "A JSON-RPC message is an object.")
        method = message.get("method")
        if method == "notifications/cancelled":
            return (None, None) if self.cancel((message.get("params") or {}).get("requestId")) else (raw, None)
        if method == "tools/list" and "id" in message:
            self._lists[_key(message["id"])] = None
            while len(self._lists) > 1000:
                self._lists.popitem(last=False)
        return await self._judge(message, raw) if _is_call(message) else (raw, None)

    def cancel(self, identity: Any) -> bool:
        """Take a call that is still being judged or held away; False if there is none (the server then has it)."""
        task = self._judging.get(_key(identity))
        return task.cancel() if task is not None else False

    async def _judge(self, message: Mapping[str, Any], raw: bytes) -> tuple[bytes | None, bytes | None]:
        identity = message.get("id")
        if identity is None or isinstance(identity, (dict, list, bool)):
            return None, _error(None, -32600, "A tools/call needs an id.")
        key = _key(identity)
        if key in self._judging or key in self._open:
            return None, _error(identity, -32600, "A call with this id is under way.")
        task = asyncio.ensure_future(self._release(message, raw, key))
        self._judging[key] = task
        try:
            forwarded = await task
        except asyncio.CancelledError:
            if task.cancelled():
                return None, None  # the client withdrew the call: no reply, and the server never saw it
            task.cancel()
            raise
        finally:
            self._judging.pop(key, None)
        return (forwarded, None) if forwarded is not None else (None, self._refuse(message))

    async def _release(self, message: Mapping[str, Any], raw: bytes, key: str) -> bytes | None:
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        arguments = params.get("arguments", {})
        extras = {name: value for name, value in params.items() if name not in ("name", "arguments", "_meta")}
        if extras and isinstance(arguments, dict):
            arguments = {**arguments, EXTRAS: extras}  # answers to an input request are part of what is judged
        action = Action(str(params.get("name") or ""), json.dumps(arguments, ensure_ascii=False), call_id=key)
        step = Step(self.run, self.count, self.task, action, tuple(self.history))
        self.count += 1
        if action.tool in self._poisoned:
            return None
        release = await self.gate.submit(step)
        if not self._take(release, action):
            return None
        self._open[key] = step
        self.history.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": key, "type": "function", "function": {"name": action.tool, "arguments": action.arguments}}
                ],
            }
        )
        return raw

    @staticmethod
    def _take(release: Release, action: Action) -> bool:
        try:
            release.take(action)
        except Refused:
            return False
        return True

    def _refuse(self, message: Mapping[str, Any]) -> bytes:
        identity = message.get("id")
        if self.refusal == "error":
            return _error(identity, -32001, REFUSED)
        result: dict[str, Any] = {"content": [{"type": "text", "text": REFUSED}], "isError": True}
        if _VERSION_KEY in ((message.get("params") or {}).get("_meta") or {}):
            result["resultType"] = "complete"
        return json.dumps({"jsonrpc": "2.0", "id": identity, "result": result}).encode()

    async def from_server(self, raw: bytes) -> bytes:
        """Learn from a server's message and return the bytes for the client: unchanged, but without poisoned tools."""
        try:
            message = parse_strict(raw)
        except ActionError:
            return raw
        if not isinstance(message, dict) or "id" not in message or "method" in message:
            return raw
        key = _key(message["id"])
        result = message.get("result")
        if key in self._lists:
            self._lists.pop(key)
            if isinstance(result, dict) and isinstance(result.get("tools"), list):
                return await self._listed(message, result, raw)
        step = self._open.pop(key, None)
        if step is not None:
            text = text_of(result.get("content")) if isinstance(result, dict) else json.dumps(message.get("error"))
            self.history.append({"role": "tool", "tool_call_id": key, "content": in_view(text)})
            await self.gate.outcome(
                step, is_error=not isinstance(result, dict) or bool(result.get("isError")), size=len(raw)
            )
        return raw

    async def _listed(self, message: Mapping[str, Any], result: Mapping[str, Any], raw: bytes) -> bytes:
        """Drop tools whose descriptions give orders or hide text, or whose definitions changed since they were first
        shown."""
        if not self.gate.policy.rules:
            return raw
        kept, dropped = [], []
        for tool in result["tools"]:
            name = str(tool.get("name")) if isinstance(tool, dict) else ""
            body = json.dumps(tool, ensure_ascii=False)
            digest = sha256(canonical_json(tool))
            changed = self._tools.setdefault(name, digest) != digest
            if changed or hidden_characters(body) or injects(body):
                dropped.append(name)
            else:
                kept.append(tool)
        if not dropped:
            return raw
        self._poisoned |= set(dropped)
        await self.gate.record({"kind": "poisoned tools", "run": self.run, "tools": dropped})
        return json.dumps({**message, "result": {**result, "tools": kept}}, ensure_ascii=False).encode()


def _is_call(message: Any) -> bool:
    return isinstance(message, dict) and message.get("method") == "tools/call"


def _key(identity: Any) -> str:
    return json.dumps(identity, sort_keys=True)


def _error_body(identity: Any, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": text}}


def _error(identity: Any, code: int, text: str) -> bytes:
    return json.dumps(_error_body(identity, code, text)).encode()
