"""The stages after alignment. Towers are frozen in all of them; the loss is the answers' likelihood (sec. 2.7).

    read      the language model alone, on the world told in words   (what Vicuna's own training is to the 7B model)
    project   the shared projector alone, on descriptions            (stage 1, "understanding")
    instruct  projector and language model, on questions             (stage 2, "instruction tuning")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from diorama.systems.video_llava.data import Interviewer, Seen, with_media
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.splice import Kind, Sample
from diorama.training import Run

Stage = Literal["read", "project", "instruct"]


class Learner(nn.Module):
    """The model as `Run` calls it: one loss for a step that mixes images, clips and text."""

    def __init__(self, model: VideoLlavaModel, stage: Stage):
        super().__init__()
        self.model = model
        model.set_stage("project" if stage == "project" else "instruct")
        model.projector.requires_grad_(stage != "read")

    def forward(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Summed loss and count of answer tokens. Media of one kind are run together, which only saves padding."""
        groups: dict[tuple[str, ...], list[Sample]] = {}
        for sample in samples:
            groups.setdefault(tuple(item.kind for item in sample.media), []).append(sample)
        outputs = [self.model(group) for group in groups.values()]
        loss, tokens = outputs[0].loss, outputs[0].tokens
        for output in outputs[1:]:
            loss, tokens = loss + output.loss, tokens + output.tokens
        return loss, tokens


def learn(run: Run, interviewer: Interviewer, seen: Mapping[Kind, Seen]) -> None:
    """Train `run.model`, a Learner, on step i's samples until the run's steps are done."""
    for drafts in run.batches(interviewer, workers=1):
        loss, tokens = run.model(with_media(drafts, seen))
        run.step(loss, tokens)
