"""The monitor around Python functions, sync or async: what was judged is what runs."""

import asyncio
import copy
import functools
import inspect
import threading
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, cast

from diorama.agents.actions import Action, ActionError, parse_strict
from diorama.agents.transcript import Message, Step
from diorama.errors import InputError
from diorama.systems.agent_monitor.pipeline import Gate, Refused

P = ParamSpec("P")
R = TypeVar("R")


class Session:
    """One run of an agent whose tools are guarded functions: its task and what it has done so far."""

    def __init__(self, gate: Gate, task: str, run: str | None = None):
        self.gate, self.task, self.run = gate, task, run or f"run-{uuid.uuid4().hex[:12]}"
        self.history: list[Message] = [{"role": "user", "content": task}]
        self.count = 0

    def next_step(self, action: Action) -> Step:
        step = Step(self.run, self.count, self.task, action, tuple(self.history))
        self.count += 1
        return step

    def saw(self, action: Action, result: str) -> None:
        """Add an executed action and its result to the history."""
        identity = f"call_{len(self.history)}"
        self.history.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": identity,
                        "type": "function",
                        "function": {"name": action.tool, "arguments": action.arguments},
                    }
                ],
            }
        )
        self.history.append({"role": "tool", "tool_call_id": identity, "content": result[:50_000]})


def guarded(
    session: Session, *, name: str | None = None, refusal: Literal["raise", "return"] = "raise", value: object = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: every call is judged before it runs.

    Arguments are bound to the signature, defaults filled in, and copied deeply; the function gets the copy that was
    judged. A refused call raises Refused or returns `value`. Raises InputError for arguments that are no JSON values.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        tool = name or function.__name__
        signature = inspect.signature(function)

        def prepare(*args: P.args, **kwargs: P.kwargs) -> tuple[inspect.BoundArguments, Action]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            bound.arguments.update(copy.deepcopy(dict(bound.arguments)))
            return bound, _action(tool, bound.arguments)

        async def released(action: Action) -> Step | None:
            step = session.next_step(action)
            release = await session.gate.submit(step)
            try:
                release.take(action)
            except Refused:
                if refusal == "raise":
                    raise
                return None
            return step

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                bound, action = prepare(*args, **kwargs)
                step = await released(action)
                if step is None:
                    return value
                _unchanged(bound, action, tool)
                try:
                    result = await function(*bound.args, **bound.kwargs)
                except Exception as error:
                    await session.gate.outcome(step, is_error=True, size=0)
                    session.saw(action, f"error: {error}")
                    raise
                await session.gate.outcome(step, is_error=False, size=len(str(result)))
                session.saw(action, str(result))
                return result

            return cast(Callable[P, R], call_async)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            bound, action = prepare(*args, **kwargs)
            step = _wait(released(action))
            if step is None:
                return value
            _unchanged(bound, action, tool)
            try:
                result = function(*bound.args, **bound.kwargs)
            except Exception as error:
                _wait(session.gate.outcome(step, is_error=True, size=0))
                session.saw(action, f"error: {error}")
                raise
            _wait(session.gate.outcome(step, is_error=False, size=len(str(result))))
            session.saw(action, str(result))
            return result

        return cast(Callable[P, R], call)

    return wrap


def _action(tool: str, arguments: dict[str, Any]) -> Action:
    try:
        action = Action.of(
            tool, {key: list(item) if isinstance(item, tuple) else item for key, item in arguments.items()}
        )
        parse_strict(action.arguments)
        return action
    except ActionError as error:
        raise InputError(
            f"The call of {tool!r} cannot be judged: {error} Guarded functions take JSON values."
        ) from None


def _unchanged(bound: inspect.BoundArguments, action: Action, tool: str) -> None:
    """The copy belongs to us alone; that it still spells the judged bytes is our own invariant."""
    assert _action(tool, dict(bound.arguments)).digest == action.digest


class _Loop:
    """One event loop in a thread of its own, for sync callers (who may be inside another loop)."""

    lock = threading.Lock()
    loop: asyncio.AbstractEventLoop | None = None


def _wait(work: Coroutine[Any, Any, R]) -> R:
    with _Loop.lock:
        if _Loop.loop is None:
            _Loop.loop = asyncio.new_event_loop()
            threading.Thread(target=_Loop.loop.run_forever, name="agent-monitor", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, _Loop.loop).result()
