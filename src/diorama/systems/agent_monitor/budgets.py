"""Run-level limits: how fast, how much and how far a run may go, so that many harmless steps cannot add up unseen."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from diorama.systems.agent_monitor.facts import ActionFacts
from diorama.systems.agent_monitor.policy import Budgets

WINDOW = 6
"""How many recent scores the second look reads."""


@dataclass
class Bucket:
    """A token bucket: `rate` tokens a second, never more than `burst`. A clock that goes backwards adds nothing."""

    rate: float
    burst: float
    tokens: float = field(init=False)
    last: float | None = None

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, now: float) -> bool:
        if self.last is not None and now > self.last:
            self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
        self.last = now if self.last is None else max(self.last, now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class RunState:
    """What a run has used up. `over` asks, `spend` books; only released actions are booked."""

    budgets: Budgets
    clock: Callable[[], float] = time.monotonic
    bytes_out: int = 0
    deletions: int = 0
    money: float = 0.0
    hosts: set[str] = field(default_factory=set)
    denials: int = 0
    is_stopped: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def __post_init__(self) -> None:
        limits = self.budgets
        self._run = Bucket(limits.actions_per_minute / 60, limits.burst)
        self._tools: dict[str, Bucket] = defaultdict(lambda: Bucket(limits.tool_actions_per_minute / 60, limits.burst))

    def too_fast(self, tool: str) -> str:
        """Take a token for an action; the reason if there is none left."""
        now = self.clock()
        if len(self._tools) > 2000 and tool not in self._tools:
            return "the run has used more than 2000 different tools"
        by_tool = self._tools[tool].take(now)
        by_run = self._run.take(now)
        if not by_run:
            return f"more than {self.budgets.actions_per_minute:g} actions a minute in this run"
        return "" if by_tool else f"more than {self.budgets.tool_actions_per_minute:g} calls a minute of {tool!r}"

    def over(self, facts: ActionFacts) -> list[str]:
        """The run-level budgets that this action would exceed."""
        limits, found = self.budgets, []
        sent, deleted, paid, new = _costs(facts)
        if self.bytes_out + sent > limits.bytes_out:
            found.append(f"the run would send more than {limits.bytes_out} bytes")
        if deleted and self.deletions + deleted > limits.deletions:
            found.append(f"the run would delete more than {limits.deletions} times")
        if paid and self.money + paid > limits.money:
            found.append(f"the run would move more than {limits.money:g} in money")
        if len(self.hosts | new) > limits.new_hosts:
            found.append(f"the run would contact more than {limits.new_hosts} hosts")
        return found

    def drifts(self, score: float, review: float) -> bool:
        """The second look: a window of steps that each barely pass is as doubtful as one step that does not."""
        recent = [*self.scores, score]
        return len(recent) > WINDOW - 1 and sum(recent) / len(recent) <= review + 3

    def spend(self, facts: ActionFacts, score: float) -> None:
        """Book a released action."""
        sent, deleted, paid, new = _costs(facts)
        self.bytes_out += sent
        self.deletions += deleted
        self.money += paid
        self.hosts |= new
        self.scores.append(score)


def _costs(facts: ActionFacts) -> tuple[int, int, float, set[str]]:
    effects = facts.effects
    sent = len(facts.text.encode("utf-8", "replace")) if effects & {"send", "network"} else 0
    deleted = (
        max(1, sum(len(command.arguments) for command in facts.commands if command.program == "rm"))
        if "delete" in effects
        else 0
    )
    return (
        sent,
        deleted,
        facts.money if effects & {"pay", "send"} else 0.0,
        set(facts.entities.hosts) if effects & {"send", "network", "execute", "read"} else set(),
    )
