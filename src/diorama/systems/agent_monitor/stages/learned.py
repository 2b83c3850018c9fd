"""Stage 4: the small learned ranker, shipped with the package or from a folder."""

from pathlib import Path

from diorama.agents.transcript import Step
from diorama.systems.agent_monitor.ranker import Ranker
from diorama.systems.agent_monitor.records import Finding, Stage


def ranker_stage(ranker: Ranker | str | Path | None = None) -> Stage:
    """Score a step with a ranker; None loads the shipped one. Loading fails here, not at the first action."""
    model = ranker if isinstance(ranker, Ranker) else Ranker.from_pretrained(ranker or "agent_monitor")

    async def judge(step: Step) -> Finding:
        if not step.task and not any(message.get("role") == "user" for message in step.history):
            return Finding("ranker")  # whether an action fits cannot be said without knowing what was asked
        vector = model.vector(step)
        score = model.score_of(float(model.weights @ vector) + model.bias)
        reasons = (f"looks unsafe ({model.explain(vector)})",) if score <= 75 else ()
        return Finding("ranker", score, severity="unsure" if score <= 75 else "none", reasons=reasons)

    return judge
