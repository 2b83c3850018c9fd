"""Train the small vision transformers that the claim is re-run on: transformers' class, cross-entropy, AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from diorama.systems.is_vit.config import SmallVitConfig
from diorama.systems.is_vit.data import Labelled, Preprocessing
from diorama.training import Run, RunConfig


def small_vit(config: SmallVitConfig, classes: tuple[str, ...]) -> ViTForImageClassification:
    """An untrained ViT of transformers."""
    return ViTForImageClassification(ViTConfig(
        hidden_size=config.hidden_size, num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size, image_size=config.image_size, patch_size=config.patch_size,
        id2label=dict(enumerate(classes)), label2id={name: index for index, name in enumerate(classes)},
        layer_norm_eps=1e-6, hidden_dropout_prob=config.dropout))


class _Classifier(nn.Module):
    """The model as `Run` calls it: summed loss and count of right answers."""

    def __init__(self, model: ViTForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.model(pixels).logits
        return F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(-1) == labels).float().mean()


def train(out: Path, data: Labelled, config: SmallVitConfig, *, seed: int = 0, device: str = "auto",
          progress: Literal["auto", "plain", "silent"] = "auto",
          ) -> tuple[ViTForImageClassification, Preprocessing, Run]:
    """Train on labelled images for `config.steps`; resumes from `out`, exactly.

    Every image is shifted by up to a sixteenth of its side, and half of them are mirrored if `config.flip`.
    """
    torch.manual_seed(seed)
    model = small_vit(config, data.classes)
    preprocessing = Preprocessing(size=config.image_size)
    run = Run(out, _Classifier(model), RunConfig(
        steps=config.steps, learning_rate=config.learning_rate, weight_decay=config.weight_decay, seed=seed,
        save_every=max(config.steps // 4, 1), log_every=50), device=device, settings=config, progress=progress)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(data), (config.batch,), generator=generator)
        return preprocessing.normalise(augmented(data.images[rows], generator, flip=config.flip)), data.labels[rows]

    for pixels, labels in run.batches(batch):
        loss, right = run.model(pixels, labels)
        run.step(loss, len(labels), {"accuracy": right})
    return model.eval().cpu(), preprocessing, run


def augmented(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """uint8 images (N, 3, S, S), each shifted by up to S / 16 with its edge repeated, and mirrored by chance if so."""
    reach = max(images.shape[-1] // 16, 1)
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    side = images.shape[-1]
    places = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=generator).tolist()
    cut = torch.stack([one[:, top:top + side, left:left + side]
                       for one, (top, left) in zip(padded, places, strict=True)])
    if not flip:
        return cut
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), cut.flip(-1), cut)
