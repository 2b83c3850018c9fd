"""`Monitor` judges one step; `Gate` puts it in front of real actions: budgets, log, review queue, stopping a run.

Everything that goes wrong in here ends in a refusal. Start reading at `Gate.submit`.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from diorama.agents.actions import Action
from diorama.agents.transcript import Step
from diorama.errors import InputError
from diorama.language.llm import Endpoint, LanguageModel, LocalModel
from diorama.systems.agent_monitor.aggregation import aggregate
from diorama.systems.agent_monitor.audit import AuditError, AuditLog
from diorama.systems.agent_monitor.budgets import RunState
from diorama.systems.agent_monitor.facts import facts_of
from diorama.systems.agent_monitor.policy import Policy
from diorama.systems.agent_monitor.records import Finding, Stage, Verdict
from diorama.systems.agent_monitor.review import ReviewError, ReviewQueue
from diorama.systems.agent_monitor.stages.judge import failed, judge_stage
from diorama.systems.agent_monitor.stages.provenance import provenance_stage
from diorama.systems.agent_monitor.stages.rules import rules_stage
from diorama.systems.agent_monitor.stages.schema import schema_stage

_log = logging.getLogger(__name__)
MAX_RUNS = 10_000
REFUSED = "This action was not permitted."
STOPPED = "This run has been stopped by the monitor."


class Refused(InputError):
    """An action may not be executed; the message is all that an agent should be told."""


class Monitor:
    """The stages in order. `judge` never raises for what a step holds: a stage that fails counts as a denial."""

    def __init__(self, policy: Policy, stages: Sequence[tuple[str, Stage]]):
        self.policy, self.stages = policy, (("schema", schema_stage(policy)), *stages)
        self.policy_hash = policy.hash
        self.errors: Counter[str] = Counter()

    @classmethod
    def from_policy(
        cls, policy: Policy, *, model: LanguageModel | None = None, extra: Sequence[tuple[str, Stage]] = ()
    ) -> "Monitor":
        """The stages a policy asks for. model stands in for the one its `judge` section names."""
        stages: list[tuple[str, Stage]] = [("rules", rules_stage(policy)), ("provenance", provenance_stage(policy))]
        if policy.ranker:
            from diorama.systems.agent_monitor.stages.learned import ranker_stage

            stages.append(("ranker", ranker_stage()))
        judge = policy.judge
        if model is None and judge.base_url:
            model = Endpoint(judge.base_url, judge.model, timeout=judge.timeout_seconds)
        elif model is None and judge.local:
            model = LocalModel(judge.local)
        if model is not None:
            stages.append(("judge", judge_stage(model, policy)))
        return cls(policy, [*stages, *extra])

    async def judge(self, step: Step, also: Sequence[Finding] = ()) -> Verdict:
        """The verdict on one step. Stops early only when a stage says that nothing can make it better."""
        start = time.perf_counter()
        findings = list(also)
        for name, stage in self.stages:
            try:
                finding = await stage(step)
                if not isinstance(finding, Finding):
                    raise TypeError(f"the stage returned a {type(finding).__name__}")
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # A detector is third-party code as far as the gate is concerned; its failure must never read as consent.  # noqa: E501
                finding = failed(name, error, "deny")
            self.errors.update([name] if finding.is_error else [])
            findings.append(finding)
            if finding.is_final or (finding.decision == "deny" and not finding.is_error):
                break
        return aggregate(
            findings,
            self.policy.thresholds,
            ms=(time.perf_counter() - start) * 1000,
            policy=self.policy_hash,
            action=_digest(step.action),
        )


def _digest(action: Action) -> str:
    try:
        return action.digest
    except InputError:
        return "unspellable"


@dataclass
class Release:
    """The gate's answer. `take` hands out the judged action exactly once, and only if it is still the same bytes."""

    step: Step
    verdict: Verdict
    is_allowed: bool
    ticket: str = ""
    _is_used: bool = field(default=False, repr=False)

    @property
    def message(self) -> str:
        """What the agent may be told: never the reasons, or it would search for a way around them."""
        return "" if self.is_allowed else STOPPED if self.verdict.decision == "stop" else REFUSED

    def take(self, action: Action) -> Action:
        """Raises Refused unless this action was released, has the judged bytes, and was not taken before."""
        if not self.is_allowed:
            raise Refused(self.message)
        if self._is_used or _digest(action) != self.verdict.action:
            raise Refused(REFUSED)
        self._is_used = True
        return action


class Gate:
    """A monitor in front of real actions. One gate per process; runs are told apart by `step.run`."""

    def __init__(
        self,
        monitor: Monitor,
        log: AuditLog,
        queue: ReviewQueue | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        poll_seconds: float = 0.05,
    ):
        self.monitor, self.policy, self.log, self.queue = monitor, monitor.policy, log, queue
        self.policy_hash = monitor.policy_hash
        self.clock, self.poll_seconds = clock, poll_seconds
        self._runs: OrderedDict[str, RunState] = OrderedDict()

    def run_state(self, run: str) -> RunState:
        """The budgets of a run. At MAX_RUNS runs the one longest unused makes room, unless it was stopped."""
        state = self._runs.get(run)
        if state is None:
            if len(self._runs) >= MAX_RUNS:
                oldest = next((name for name, other in self._runs.items() if not other.is_stopped), None)
                if oldest is None:
                    raise Refused(STOPPED)
                del self._runs[oldest]
            state = self._runs[run] = RunState(self.policy.budgets, self.clock)
        self._runs.move_to_end(run)
        return state

    async def submit(self, step: Step) -> Release:
        """Judge a step, log the verdict durably, wait for a person where one is needed, and answer."""
        try:
            return await self._submit(step)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # The last line of defence: a defect anywhere in the gate is a refusal, recorded if the log still works.
            _log.error("the gate failed on %s step %d: %r", step.run, step.number, error)
            verdict = Verdict(
                "deny",
                0.0,
                "unsure",
                (f"gate: {type(error).__name__}",),
                errors=("gate",),
                policy=self.policy_hash,
                action=_digest(step.action),
            )
            return Release(step, verdict, False)

    async def _submit(self, step: Step) -> Release:
        state = self.run_state(step.run)
        async with state.lock:  # judged and booked as one, or two calls at once could share the last of a budget
            verdict = await self._decide(step, state)
        if verdict.decision == "hold":
            return await self._ask_person(step, verdict, state)
        return Release(step, verdict, verdict.is_allowed)

    async def _decide(self, step: Step, state: RunState) -> Verdict:
        if state.is_stopped:
            verdict = Verdict(
                "stop",
                0.0,
                "unsafe",
                ("gate: the run was stopped",),
                policy=self.policy_hash,
                action=_digest(step.action),
            )
            await self._write(step, verdict)
            return verdict
        facts = facts_of(step.action)
        limits = [reason for reason in (state.too_fast(step.action.tool), *state.over(facts)) if reason]
        also = [Finding("budgets", 70.0, "hold", "unsure", (reason,)) for reason in limits]
        verdict = await self.monitor.judge(step, also)
        if verdict.decision == "allow" and state.drifts(verdict.score, self.policy.thresholds.review):
            verdict = replace(
                verdict,
                decision="hold",
                score=self.policy.thresholds.review,
                reasons=(*verdict.reasons, "budgets: many doubtful steps in a row"),
            )
        verdict = self._count_denial(state, verdict)
        await self._write(step, verdict)
        if verdict.is_allowed:
            state.denials = 0
            state.spend(facts, verdict.score)
        return verdict

    def _count_denial(self, state: RunState, verdict: Verdict) -> Verdict:
        if verdict.decision not in ("deny", "stop"):
            return verdict
        state.denials += 1
        if state.denials >= self.policy.max_consecutive_denials:
            state.is_stopped = True
            return replace(
                verdict, decision="stop", reasons=(*verdict.reasons, f"gate: {state.denials} denials in a row")
            )
        return verdict

    async def _write(self, step: Step, verdict: Verdict) -> None:
        shown = self.log.redact(step.action.arguments[:4000]).encode("utf-8", "replace").decode()
        entry = {
            "kind": "verdict",
            "run": step.run,
            "step": step.number,
            "tool": step.action.tool.encode("utf-8", "replace").decode(),
            "arguments": shown,
            "verdict": verdict.as_dict(),
        }
        await self.record(entry)

    async def record(self, entry: Mapping[str, Any]) -> None:
        """Append to the log: in a thread where it waits for the disk, at once where handing over would cost more."""
        if self.log.is_synced:
            await asyncio.to_thread(self.log.append, entry)
        else:
            self.log.append(entry)

    async def _ask_person(self, step: Step, verdict: Verdict, state: RunState) -> Release:
        refused = Release(step, replace(verdict, decision="deny"), False)
        if self.queue is None:
            return refused
        review = self.policy.review
        text = step.action.arguments if review.clear_text else self.log.redact(step.action.arguments)
        placing = asyncio.ensure_future(
            asyncio.to_thread(
                self.queue.hold,
                digest=verdict.action,
                run=step.run,
                step=step.number,
                tool=step.action.tool,
                shown=text,
                task=step.task,
                score=verdict.score,
                severity=verdict.severity,
                reasons="; ".join(verdict.reasons),
                expires_seconds=review.expires_seconds,
            )
        )
        try:
            ticket = await asyncio.shield(placing)
        except asyncio.CancelledError:
            # Withdrawn while it was being queued: the row may be there already, and nobody would take it out.
            with suppress(ReviewError):
                self.queue.cancel(await placing)
            raise
        except ReviewError as error:
            await self.record(
                {"kind": "review", "run": step.run, "step": step.number, "state": "not queued", "why": str(error)}
            )
            return refused
        outcome = "expired"
        try:
            deadline = time.monotonic() + review.expires_seconds
            while time.monotonic() < deadline:
                outcome = await asyncio.to_thread(self.queue.state, ticket)
                if outcome != "pending":
                    break
                await asyncio.sleep(self.poll_seconds)
            approved = (
                outcome == "approved"
                and not state.is_stopped
                and await asyncio.to_thread(self.queue.consume, ticket, _digest(step.action))
            )
        except BaseException:
            # Cancelled, or the queue broke: nobody will use this approval, so it must not stay usable.
            try:
                self.queue.cancel(ticket)
            except ReviewError:
                _log.error("the ticket %s could not be cancelled", ticket)
            raise
        if not approved:
            self.queue.cancel(ticket)
        await self.record(
            {
                "kind": "review",
                "run": step.run,
                "step": step.number,
                "ticket": ticket,
                "action": verdict.action,
                "state": "approved" if approved else outcome,
            }
        )
        if not approved:
            return replace(refused, ticket=ticket, verdict=self._count_denial(state, refused.verdict))
        state.denials = 0
        state.spend(facts_of(step.action), verdict.score)
        return Release(step, replace(verdict, decision="allow"), True, ticket)

    async def outcome(self, step: Step, *, is_error: bool, size: int) -> None:
        """Record what came of a released action. A log that fails here makes the next `submit` deny."""
        try:
            await self.record(
                {
                    "kind": "outcome",
                    "run": step.run,
                    "step": step.number,
                    "action": _digest(step.action),
                    "is_error": is_error,
                    "bytes": size,
                }
            )
        except AuditError as error:
            _log.error("the outcome of step %d was not logged: %s", step.number, error)
