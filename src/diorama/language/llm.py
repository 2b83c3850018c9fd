"""The language-model seam: messages in, text or a validated object out.

One protocol, `LanguageModel`, and five fillers: `Endpoint` (any OpenAI-compatible server), `LocalModel` (a transformers
chat model), `Replay` (recorded exchanges), `Recorder` (wraps another and records it) and `Abstain` (no model at all).
A reply is text to be parsed; nothing in it is ever executed. Start reading at `ask`.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from diorama.agents.actions import ActionError, canonical_json, parse_strict, sha256
from diorama.errors import InputError, MissingExtra, ReplyError

Messages = Sequence[Mapping[str, str]]
Reply = TypeVar("Reply", bound=BaseModel)


class ModelUnavailable(ReplyError):
    """No usable reply came: the model is absent, refused, timed out or was cut off."""


class Abstained(ModelUnavailable):
    """There is no language model here, by choice; the caller goes on without one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that determines a reply. Its canonical SHA-256 is the key of a recorded exchange."""

    messages: tuple[Mapping[str, str], ...]
    max_tokens: int = 512
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    schema: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        return sha256(canonical_json(asdict(self)))


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A model's reply. finish_reason 'stop' is a whole reply, anything else is a part of one. latency_s in seconds."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    latency_s: float = 0.0


class LanguageModel(Protocol):
    """One method. Raises ModelUnavailable when no reply can be had; never returns a made-up one."""

    def complete(self, request: Request) -> Completion: ...


_requests_allowed = True


def requests_allowed() -> bool:
    """Whether a filler may open a connection: the switch below, and the environment variable DIORAMA_NO_REQUESTS."""
    return _requests_allowed and not os.environ.get("DIORAMA_NO_REQUESTS")


@contextmanager
def forbid_requests() -> Iterator[None]:
    """Inside this block no filler may reach a server beyond this machine; a test cannot do it even by mistake."""
    global _requests_allowed
    before, _requests_allowed = _requests_allowed, False
    try:
        yield
    finally:
        _requests_allowed = before


def check_reply(completion: Completion) -> str:
    """The text of a whole reply. Raises ModelUnavailable for an empty or truncated one."""
    if completion.finish_reason != "stop":
        raise ModelUnavailable(
            f"The reply ended with {completion.finish_reason!r}, so it is only a part. Raise max_tokens."
        )
    if not completion.text.strip():
        raise ModelUnavailable("The reply is empty. Ask again, or use another model.")
    return completion.text


def parse_reply(text: str, shape: type[Reply]) -> Reply:
    """The one JSON object of a reply, as a validated object. Raises ReplyError.

    A fence of three backquotes around the object is allowed; words beside it, a second object, NaN or unknown keys
    are not.
    """
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and len(body) > 6:
        body = body[3:-3].removeprefix("json").strip()
    try:
        return shape.model_validate(parse_strict(body), strict=False)
    except ActionError as error:
        raise ReplyError(f"The reply is not one JSON object: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "reply"
        raise ReplyError(f"The reply's {where} does not fit: {first['msg']}. Ask for the schema again.") from None


def ask(
    model: LanguageModel,
    messages: Messages,
    shape: type[Reply],
    *,
    max_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
    repairs: int = 1,
) -> Reply:
    """Ask for an object and return it validated, with `repairs` more tries that show the model its mistake.

    Raises ReplyError when the last try does not parse either, ModelUnavailable when no whole reply came.
    """
    talk = [dict(message) for message in messages]
    for attempt in range(repairs + 1):
        request = Request(
            messages=tuple(talk),
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed + attempt,
            schema=shape.model_json_schema(),
        )
        text = check_reply(model.complete(request))
        try:
            return parse_reply(text, shape)
        except ReplyError as error:
            if attempt == repairs:
                raise
            talk += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"{error} Reply with that one JSON object and nothing else."},
            ]
    raise AssertionError("unreachable: the loop returns or raises")


class Abstain:
    """The embedded default: no language model. Every request is declined, so the caller falls back to what it knows."""

    def complete(self, request: Request) -> Completion:
        raise Abstained(
            "No language model is configured, so this question is not answered. Name an endpoint or a local model."
        )


def _is_local(url: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Endpoint:
    """Any OpenAI-compatible server (vLLM, Ollama, llama.cpp, `transformers serve`, a hosted one); needs `openai`.

    base_url ends in /v1. The key is read from the environment variable that key_variable names. timeout in seconds.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 30.0

    def complete(self, request: Request) -> Completion:
        if not requests_allowed() and not _is_local(self.base_url):
            raise ModelUnavailable(
                f"Requests are switched off, so {self.base_url} was not asked. Use a Replay in tests."
            )
        try:
            from openai import OpenAI, OpenAIError
        except ImportError:
            raise MissingExtra("openai", "agents", "A language model behind an endpoint") from None
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(m) for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": dict(request.schema)},
            }
        start = time.monotonic()
        try:
            with OpenAI(
                base_url=self.base_url,
                api_key=os.environ.get(self.key_variable) or "none",
                timeout=self.timeout,
                max_retries=0,
            ) as client:
                answer = client.chat.completions.create(**body)
            choice = answer.choices[0]
            text, reason, usage = choice.message.content or "", choice.finish_reason or "unknown", answer.usage
        except (OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise ModelUnavailable(
                f"{self.base_url} gave no usable reply ({type(error).__name__}: {str(error)[:200]}). "
                "Check the server, the model's name and the key."
            ) from error
        return Completion(
            text=text,
            finish_reason=reason,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            model=str(answer.model or self.model),
            latency_s=time.monotonic() - start,
        )


class LocalModel:
    """A transformers chat model on this machine, prompted through its own chat template. Loads on first use."""

    def __init__(self, name_or_path: str, *, device: str = "auto", revision: str | None = None):
        self.name_or_path, self.device, self.revision = name_or_path, device, revision
        self._loaded: tuple[Any, Any] | None = None

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            offline = not requests_allowed()
            device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
            try:
                tokenizer = AutoTokenizer.from_pretrained(
                    self.name_or_path, revision=self.revision, local_files_only=offline
                )
                model = AutoModelForCausalLM.from_pretrained(
                    self.name_or_path, revision=self.revision, local_files_only=offline, use_safetensors=True
                )
            except (OSError, ValueError) as error:
                raise ModelUnavailable(
                    f"{self.name_or_path} cannot be loaded ({str(error)[:200]}). Name a folder or a hub "
                    "id with safetensors and a tokenizer."
                ) from error
            if tokenizer.chat_template is None:
                raise ModelUnavailable(
                    f"{self.name_or_path} has no chat template, so messages have no defined form. Use a chat model."
                )
            self._loaded = tokenizer, model.eval().to(device)
        return self._loaded

    def complete(self, request: Request) -> Completion:
        import torch

        start = time.monotonic()
        tokenizer, model = self._load()
        encoded = tokenizer.apply_chat_template(
            [dict(m) for m in request.messages], add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        sampling = (
            {"do_sample": True, "temperature": request.temperature} if request.temperature > 0 else {"do_sample": False}
        )
        torch.manual_seed(request.seed)
        with torch.inference_mode():
            out = model.generate(
                **encoded, max_new_tokens=request.max_tokens, pad_token_id=tokenizer.eos_token_id, **sampling
            )
        asked = encoded["input_ids"].shape[1]
        new = out[0, asked:].tolist()
        text = tokenizer.decode(new, skip_special_tokens=True)
        is_whole = len(new) < request.max_tokens or (bool(new) and new[-1] == tokenizer.eos_token_id)
        for mark in request.stop:
            if mark in text:
                text, is_whole = text.split(mark, 1)[0], True
        return Completion(
            text=text,
            finish_reason="stop" if is_whole else "length",
            prompt_tokens=asked,
            completion_tokens=len(new),
            model=self.name_or_path,
            latency_s=time.monotonic() - start,
        )


@dataclass
class Replay:
    """Recorded exchanges, looked up by the SHA-256 of the canonical request. An unknown request is an error, not a
    guess."""

    exchanges: Mapping[str, Completion]

    @classmethod
    def load(cls, path: str | Path) -> "Replay":
        """Read a JSONL file of {"key", "completion"} lines. Raises InputError for anything else."""
        found = {}
        for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
            try:
                row = parse_strict(line)
                completion = Completion(**row["completion"])
                if not math.isfinite(completion.latency_s) or not isinstance(completion.text, str):
                    raise TypeError("text or latency")
                found[str(row["key"])] = completion
            except (ActionError, KeyError, TypeError):
                raise InputError(
                    f"Line {number} of {path} is no recorded exchange. "
                    'Each line is {"key": ..., "completion": {"text": ...}}.'
                ) from None
        return cls(found)

    def complete(self, request: Request) -> Completion:
        if request.key not in self.exchanges:
            raise ModelUnavailable(
                f"No exchange is recorded for request {request.key[:12]}. Record it with a Recorder first."
            )
        return self.exchanges[request.key]


@dataclass
class Recorder:
    """Passes requests to another model and appends each exchange to a JSONL file that `Replay.load` reads."""

    model: LanguageModel
    path: Path
    count: int = field(default=0, init=False)

    def complete(self, request: Request) -> Completion:
        completion = self.model.complete(request)
        row = {"key": request.key, "request": asdict(request), "completion": asdict(completion)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.count += 1
        return completion
