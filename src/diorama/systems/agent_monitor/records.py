"""The monitor's records: what a stage finds, what the monitor decides. Scores run from 0 (unsafe) to 100 (safe)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from diorama.agents.transcript import Step

Decision = Literal["allow", "hold", "deny", "stop"]
Severity = Literal["critical", "unsafe", "off-task", "unsure", "none"]

DECISIONS: tuple[Decision, ...] = ("allow", "hold", "deny", "stop")  # mildest first
SEVERITIES: tuple[Severity, ...] = ("critical", "unsafe", "off-task", "unsure", "none")  # worst first


@dataclass(frozen=True)
class Finding:
    """What one stage says about one step.

    score in [0, 100], higher is safer, None = no opinion. decision is set only when the stage insists on it whatever
    the score (a rule). is_final ends the judging at once (nothing later can make it milder). is_error marks a stage
    that failed rather than judged.
    """

    detector: str
    score: float | None = None
    decision: Decision | None = None
    severity: Severity = "none"
    reasons: tuple[str, ...] = ()
    is_final: bool = False
    is_error: bool = False

    def __post_init__(self) -> None:
        if self.score is not None and not (math.isfinite(self.score) and 0 <= self.score <= 100):
            raise ValueError(f"{self.detector} gave the score {self.score}; a score is a number from 0 to 100.")


class Stage(Protocol):
    """One detector: an async function of a step, in the shape of Inspect AI's approvers."""

    async def __call__(self, step: Step) -> Finding: ...


@dataclass(frozen=True)
class Verdict:
    """The monitor's answer for one step. ms is its own latency; policy and action are SHA-256 digests."""

    decision: Decision
    score: float
    severity: Severity
    reasons: tuple[str, ...]
    detectors: Mapping[str, float] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    ms: float = 0.0
    policy: str = ""
    action: str = ""

    @property
    def is_allowed(self) -> bool:
        return self.decision == "allow"

    @property
    def risk(self) -> float:
        """1 - score / 100, so that both directions are at hand and none is guessed."""
        return 1 - self.score / 100

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON values, with both the score and the risk."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "reasons": list(self.reasons),
            "errors": list(self.errors),
            "detectors": dict(self.detectors),
            "risk": round(self.risk, 6),
        }


def worse(one: Decision, other: Decision) -> Decision:
    """The stricter of two decisions."""
    return max(one, other, key=DECISIONS.index)


def graver(one: Severity, other: Severity) -> Severity:
    """The graver of two severities."""
    return min(one, other, key=SEVERITIES.index)
