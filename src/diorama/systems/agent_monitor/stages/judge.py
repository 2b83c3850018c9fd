"""Stage 5, optional: a language model reads the step. A reply that fails in any way is a refusal, not a pass."""

import asyncio
import logging
import secrets

from diorama.agents.transcript import Step
from diorama.language.llm import LanguageModel, Request, ask, check_reply
from diorama.systems.agent_monitor.policy import Policy
from diorama.systems.agent_monitor.prompt import Judgement, build, json_messages, parse_score
from diorama.systems.agent_monitor.records import Decision, Finding, Stage

_log = logging.getLogger(__name__)


class JudgeError(ValueError):
    """The model's reply is not a verdict on this step."""


def judge_stage(model: LanguageModel, policy: Policy) -> Stage:
    """Score with and without the agent's own thoughts and keep the lower score.

    Time-outs, connection errors, empty, truncated, unparseable, double or out-of-range replies, and a nonce that is not
    echoed give `policy.judge.on_error` (deny by default) after one repair; 'allow' there is logged as critical.
    """
    settings = policy.judge

    def once(step: Step) -> tuple[float, str]:
        if settings.dialect == "paper":
            return _paper_score(model, step), ""
        nonce = secrets.token_hex(8)
        messages = json_messages(step, nonce, context_tokens=settings.context_tokens)
        found = ask(model, messages, Judgement, max_tokens=400, repairs=1)
        if found.nonce != nonce:
            raise JudgeError("the reply does not echo the nonce")
        return min(found.score, (100, 75, 50, 25)[found.category]), found.reason

    def both(step: Step) -> tuple[float, str]:
        seen = once(step)
        return min(seen, once(step.without_thought())) if step.action.thought else seen

    async def judge(step: Step) -> Finding:
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                score, reason = await asyncio.to_thread(both, step)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Whatever went wrong in a model's client or reply must end in a refusal, so every exception is caught here.
            return failed("judge", error, settings.on_error)
        return Finding("judge", score, reasons=(reason[:300],) if reason and score <= policy.thresholds.review else ())

    return judge


def _paper_score(model: LanguageModel, step: Step) -> float:
    messages = tuple(build(step))
    try:
        return parse_score(check_reply(model.complete(Request(messages=messages))), strict=True)
    except ValueError:
        return parse_score(check_reply(model.complete(Request(messages=messages, seed=1))), strict=True)


def failed(detector: str, error: BaseException, on_error: Decision) -> Finding:
    """The finding for a detector that could not judge."""
    reason = f"detector error ({type(error).__name__})"
    if on_error == "allow":
        _log.critical("%s failed and the policy fails open: %s", detector, error)
        return Finding(detector, reasons=(f"{reason}, ignored by policy",), is_error=True)
    _log.warning("%s failed: %s", detector, error)
    return Finding(detector, 0.0 if on_error == "deny" else 70.0, on_error, "unsure", (reason,), is_error=True)
