"""The stages beside alignment. Towers are frozen in all of them; the loss is the answers' likelihood (sec. 2.7).

    read      the language model alone, on the world told in words   (what Vicuna's own training is to the 7B model)
    project   the shared projector alone, on descriptions            (stage 1, "understanding")
    instruct  projector and language model, on questions             (stage 2, "instruction tuning")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from diorama.systems.video_llava.data import Draft, Interviewer
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.splice import Kind, Sample
from diorama.systems.video_llava.told import Teller
from diorama.training import Run

Stage = Literal["read", "project", "instruct"]


class Features(Protocol):
    """What stands for the medium of a pool's row: a tower's features, or words."""

    def of(self, row: int) -> Tensor: ...


class Answering(nn.Module):
    """The model with what learns in a stage; the subclasses are what `Run` calls."""

    def __init__(self, model: VideoLlavaModel, stage: Stage):
        super().__init__()
        self.model = model
        model.set_stage("project" if stage == "project" else "instruct")
        model.projector.requires_grad_(stage != "read")

    def answers(self, samples: Sequence[Sample],
                tokens_of: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Summed loss and count of answer tokens of samples that mix images, clips and text.

        Media of one kind are run together, which only saves padding. tokens_of: makes their tokens of their features,
        instead of the projector.
        """
        groups: dict[tuple[str, ...], list[Sample]] = {}
        for sample in samples:
            groups.setdefault(tuple(item.kind for item in sample.media), []).append(sample)
        outputs = []
        for group in groups.values():
            media = [item for sample in group for item in sample.media]
            tokens = None if tokens_of is None else [tokens_of(_features(item.features)) for item in media]
            outputs.append(self.model(group, media_tokens=tokens))
        loss, count = outputs[0].loss, outputs[0].tokens
        for output in outputs[1:]:
            loss, count = loss + output.loss, count + output.tokens
        return loss, count


class Learner(Answering):
    """The stage `instruct`, and learning from one's own data: one loss for a step."""

    def forward(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        return self.answers(samples)


class Reader(Answering):
    """The stage `read`: media are told in words; what learns are the language model and the teller's places."""

    def __init__(self, model: VideoLlavaModel, teller: Teller):
        super().__init__(model, "read")
        self.teller = teller

    def forward(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        embeddings = self.model.language_model.get_input_embeddings().weight
        return self.answers(samples, lambda words: self.teller(words, embeddings).flatten(0, -2))


class Projecting(Answering):
    """The stage `project`: descriptions through the frozen language model, and each patch against its own words.

    The second loss is the squared distance of a projected patch token from the teller's token, as a share of the
    latter's mean square; it needs a world whose patches are known.
    """

    def __init__(self, model: VideoLlavaModel, teller: Teller):
        super().__init__(model, "project")
        self.teller = teller.requires_grad_(False)

    def forward(self, samples: Sequence[Sample], words: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """words: of each sample's medium, as `Told.of` gives them. Returns loss, count and the patches' mean loss."""
        loss, count = self.answers(samples)
        features = [_features(item.features) for sample in samples for item in sample.media]
        # CLS has no words, so clips count from their second token on
        seen = torch.cat([f if f.ndim == 2 else f[:, 1:].flatten(0, 1) for f in features])
        told = torch.cat([w if w.ndim == 2 else w[:, 1:].flatten(0, 1) for w in words])
        with torch.no_grad():
            target = self.teller(told, self.model.language_model.get_input_embeddings().weight).float()
        projector = self.model.projector
        apart = projector(seen.to(next(projector.parameters()).dtype)).float() - target
        regions = apart.square().mean() / target.square().mean()
        return loss + regions * count, count, regions


def learn(run: Run, interviewer: Interviewer, media: Mapping[Kind, Features]) -> None:
    """Train `run.model`, a Learner or a Reader, on step i's samples until the run's steps are done."""
    for drafts in run.batches(interviewer, workers=1):
        loss, tokens = run.model(with_media(drafts, media))
        run.step(loss, tokens)


def project(run: Run, interviewer: Interviewer, seen: Mapping[Kind, Features], told: Mapping[Kind, Features]) -> None:
    """Train `run.model`, a Projecting, on step i's descriptions and patches."""
    for drafts in run.batches(interviewer, workers=1):
        words = [told[draft.kind].of(draft.row).to(run.device) for draft in drafts]
        loss, tokens, regions = run.model(with_media(drafts, seen), words)
        run.step(loss, tokens, {"regions": regions})


def with_media(drafts: Sequence[Draft], media: Mapping[Kind, Features]) -> list[Sample]:
    """Drafts with what stands for their media, on the drafts' device."""
    return [draft.with_features(media[draft.kind].of(draft.row)) for draft in drafts]


def _features(features: Tensor | None) -> Tensor:
    assert features is not None
    return features
