"""The policy: a YAML file a person can read and version. What is allowed, what needs a person, and how much of it.

Every key has a default, so a policy names only what differs. A wrong key is answered with the nearest right one.
"""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diorama.agents.actions import canonical_json, sha256
from diorama.errors import InputError


class PolicyError(InputError):
    """A policy file cannot be read or means nothing."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tools(_Part):
    """Tool names as glob patterns; the strictest matching list wins, `default` is for names in none of them."""

    default: Literal["allow", "hold", "deny"] = "allow"
    allow: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    schemas: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Hosts(_Part):
    """Host names an action may name. allow = null means any host; '*.example.org' covers sub-domains."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    private: Literal["allow", "hold", "deny"] = "hold"


class Folders(_Part):
    """Folders an action may read or write. null means anywhere not denied; `root` is what relative paths are taken
    from."""

    root: str = ""
    read: tuple[str, ...] | None = None
    write: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


class Code(_Part):
    """Top-level Python modules that executed code may import (null = any) and shell programs that may not run."""

    imports: tuple[str, ...] | None = None
    programs_deny: tuple[str, ...] = ()


class Budgets(_Part):
    """Limits of one run. Over a limit the action is held, never dropped; an action over max_action_bytes is denied."""

    actions_per_minute: float = Field(default=120, gt=0)
    burst: int = Field(default=60, ge=1)
    tool_actions_per_minute: float = Field(default=60, gt=0)
    max_action_bytes: int = Field(default=65_536, ge=64)
    bytes_out: int = Field(default=5_000_000, ge=0)
    deletions: int = Field(default=20, ge=0)
    new_hosts: int = Field(default=30, ge=0)
    money: float = Field(default=10_000, ge=0)
    queue: int = Field(default=200, ge=1)


class Thresholds(_Part):
    """score <= stop is refused; stop < score <= review waits for a person; above is allowed (paper: 68 and 75)."""

    stop: float = Field(default=68, ge=0, le=100)
    review: float = Field(default=75, ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> "Thresholds":
        if self.review < self.stop:
            raise ValueError("review must not be below stop")
        return self


class Review(_Part):
    """People: how long a held action waits before it counts as denied, and whether they may see secrets in clear
    text."""

    expires_seconds: float = Field(default=300, gt=0)
    clear_text: bool = False


class Judge(_Part):
    """The optional language model. on_error says what a failed reply means; 'allow' fails open and is logged as
    critical."""

    base_url: str = ""
    local: str = ""
    model: str = ""
    dialect: Literal["json", "paper"] = "json"
    timeout_seconds: float = Field(default=20, gt=0)
    context_tokens: int = Field(default=8000, ge=256)
    on_error: Literal["deny", "hold", "allow"] = "deny"


class Policy(_Part):
    """One policy. Its hash over the canonical form goes into every verdict and log."""

    version: Literal[1] = 1
    name: str = "default"
    tools: Tools = Tools()
    hosts: Hosts = Hosts()
    folders: Folders = Folders()
    code: Code = Code()
    budgets: Budgets = Budgets()
    thresholds: Thresholds = Thresholds()
    review: Review = Review()
    judge: Judge = Judge()
    rules: bool = True
    provenance: bool = True
    ranker: bool = True
    max_consecutive_denials: int = Field(default=3, ge=1)

    @property
    def hash(self) -> str:
        return sha256(canonical_json(self.model_dump(mode="json")))


ALLOW_ALL = Policy(
    name="allow-all",
    rules=False,
    provenance=False,
    ranker=False,
    hosts=Hosts(private="allow"),
    thresholds=Thresholds(stop=0, review=0),
    max_consecutive_denials=1_000_000,
    budgets=Budgets(
        actions_per_minute=1e9,
        burst=10**9,
        tool_actions_per_minute=1e9,
        max_action_bytes=10**9,
        bytes_out=10**15,
        deletions=10**9,
        new_hosts=10**9,
        money=1e18,
    ),
)
"""Judges only the form of an action; for tests of the plumbing."""


def parse_policy(data: Any, *, origin: str = "the policy") -> Policy:
    """A policy from parsed YAML. Raises PolicyError naming the wrong key, the nearest right one, or the wrong value."""
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise PolicyError(
            f"{origin} holds a {type(data).__name__}, but a policy is a mapping of sections. Start from `init`."
        )
    try:
        return Policy.model_validate(_tuples(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}?" if near else f"The keys there are {', '.join(known)}."
            raise PolicyError(f"{origin} has the key {where!r}, which no policy has. {hint}") from None
        raise PolicyError(
            f"{origin} gives {where or 'the policy'} = {str(first.get('input'))[:60]!r}, which does not fit: "
            f"{first['msg']}. Correct that value."
        ) from None


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _tuples(item) if key != "schemas" else item for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Policy
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


class _UniqueLoader(yaml.SafeLoader):
    """YAML without objects, and without two values for one key."""


def _unique_mapping(loader: _UniqueLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise PolicyError(f"The policy names the key {key!r} twice (line {node.start_mark.line + 1}). Keep one.")
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_UniqueLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_policy(path: str | Path) -> Policy:
    """Read a policy file. Raises PolicyError for an absent, unreadable or wrong one."""
    try:
        text = Path(path).read_text("utf-8")
    except FileNotFoundError:
        raise PolicyError(f"There is no policy at {path}. Write one with `diorama agent-monitor init`.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} cannot be read ({error}). Give a UTF-8 YAML file.") from None
    try:
        data = yaml.load(text, Loader=_UniqueLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise PolicyError(f"{path} is not YAML{line}. Check the indentation and quotes there.") from None
    return parse_policy(data, origin=str(path))
