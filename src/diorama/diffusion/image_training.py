"""How a text-to-image miniature is trained: the autoencoder first, then text and network together on its latents.

Every stage resumes exactly from its own checkpoints. `train_autoencoder` and `train_text_to_image` are the loops.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from diorama.diffusion.image_data import Pictures
from diorama.diffusion.networks import Network, predict
from diorama.diffusion.parametrisations import Target, add_noise, training_target
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import TextEncoder
from diorama.diffusion.text_to_image import (
    Autoencoder,
    MiniatureConfig,
    TextToImage,
    build_autoencoder,
    build_miniature,
)
from diorama.errors import InputError
from diorama.training import Run, RunConfig
from diorama.training.batches import row_indices
from diorama.training.optimizers import modules_of, parameter_groups
from diorama.world.scene import COLORS, SHAPES
from diorama.world.vocabulary import WORDS, split_words

ENCODED_AT_ONCE = 256
BLOCKS = (BasicTransformerBlock, CLIPEncoderLayer)
"""The transformer blocks of network and text encoder, whose matrices Muon trains; a U-Net's attention has them too."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a miniature is trained with; the defaults are the shipped one's.

    The matrices of the transformer blocks learn with Muon. The weights are averaged.
    """

    miniature: MiniatureConfig = field(default_factory=MiniatureConfig)
    autoencoder: RunConfig = field(default_factory=lambda: RunConfig(
        steps=4000, learning_rate=1e-3, weight_decay=0.0, precision="bf16", save_every=500, log_every=50))
    network: RunConfig = field(default_factory=lambda: RunConfig(
        steps=9200, learning_rate=2e-3, weight_decay=0.01, betas=(0.9, 0.99), warmup=200,
        precision="bf16", ema=0.999, save_every=500, log_every=50))
    autoencoder_batch: int = 32
    batch: int = 128
    divergence: float = 1e-4
    """Weight of the autoencoder's KL divergence a latent value: keeps latents small and smooth."""
    text_dropout: float = 0.1
    """Share of captions that become empty, for guidance and for the unconditional likelihood (unconfirmed in the
    paper)."""
    short: int = 20
    """Words that a caption has at most in a step of short captions: every caption is padded to the longest of its
    step, and the few long ones would double a step's cost."""
    long_steps: float = 0.15
    """Share of the steps in which captions may be of any length."""
    uniform_times: float = 0.25
    """Share of the times drawn evenly; the others are logit-normal in noise / (signal + noise) (Esser et al. 2024)."""


# ---- the autoencoder ---------------------------------------------------------------------------------------------


class AutoencoderLoss(nn.Module):
    """Reconstruction (absolute and squared error, weighted) and divergence of an autoencoder, a number a picture."""

    def __init__(self, autoencoder: Autoencoder, divergence: float):
        super().__init__()
        self.autoencoder = autoencoder
        self.divergence = divergence

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, S, S) in -1 .. 1, noise (B, C, H, W) -> loss (B,), squared error (B,)."""
        posterior = self.autoencoder.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * noise
        error = self.autoencoder.decode(latents).sample.float() - pixels
        weights = pixel_weights(pixels)
        absolute, squared = ((weights * some).flatten(1).mean(1) for some in (error.abs(), error.pow(2)))
        kl = posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()
        divergence = 0.5 * kl.flatten(1).mean(1)
        return absolute + squared + self.divergence * divergence, error.detach().pow(2).flatten(1).mean(1)


def pixel_weights(pixels: Tensor) -> Tensor:
    """How much each pixel of (B, 3, S, S) counts, (B, 1, S, S) with mean 1 in every picture.

    Half is spread evenly and half goes with the squared distance from the picture's median color: small objects on a
    wide ground are what a caption speaks of, and the mean over all pixels hardly sees them.
    """
    median = pixels.flatten(2).median(2).values[..., None, None]
    distance = (pixels - median).pow(2).mean(1, keepdim=True)
    return 0.5 + 0.5 * distance / distance.mean((2, 3), keepdim=True).clamp(min=1e-6)


def train_autoencoder(pictures: Pictures, recipe: Recipe, out: Path, *, seed: int = 0,
                      device: str = "auto") -> Autoencoder:
    """Train the miniature's autoencoder into `out`; its latents have mean 0 and variance 1 in every channel."""
    torch.manual_seed(seed)
    model: Autoencoder = build_autoencoder(recipe.miniature)
    learner = AutoencoderLoss(model, recipe.divergence)
    run = Run(out, learner, replace(recipe.autoencoder, seed=seed), device=device, settings=recipe.miniature)
    side = recipe.miniature.latent_size

    def batch(step: int) -> dict[str, Tensor]:
        rows = np.sort(row_indices(len(pictures), recipe.autoencoder_batch, step, seed))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        noise = torch.randn(len(rows), recipe.miniature.latent_channels, side, side, generator=generator)
        return {"pixels": torch.from_numpy(pictures.pixels[rows]).float() / 127.5 - 1, "noise": noise}

    for some in run.batches(batch):
        losses, squared = run.model(**some)
        run.step(losses.sum(), len(losses), {"squared_error": squared.mean()})
    standardise(model, torch.from_numpy(np.array(pictures.pixels[:2048])))
    if run.is_main:
        model.eval().save_pretrained(out / "model")
    run.wait()
    return model.eval()


@torch.no_grad()
def standardise(autoencoder: Autoencoder, pixels: Tensor) -> None:
    """Fold mean and deviation of each latent channel over some pictures into the 1 x 1 convolutions around it."""
    device = next(autoencoder.parameters()).device
    parts = [autoencoder.encode(some.to(device).float() / 127.5 - 1).latent_dist.mode()
             for some in pixels.split(ENCODED_AT_ONCE)]
    latents = torch.cat(parts)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    inward, outward = autoencoder.quant_conv, autoencoder.post_quant_conv
    outward.bias += (outward.weight[:, :, 0, 0] * mean).sum(1)
    outward.weight *= deviation.view(1, -1, 1, 1)
    inward.bias[:channels] = (inward.bias[:channels] - mean) / deviation
    inward.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    inward.bias[channels:] -= 2 * deviation.log()


# ---- text and network --------------------------------------------------------------------------------------------


class DenoisingLoss(nn.Module):
    """Mean squared error of a network's answer to noisy latents, a number a picture."""

    def __init__(self, network: Network, text: TextEncoder, schedule: Schedule, target: Target):
        super().__init__()
        self.network = network
        self.tower = text.tower
        self.text = text
        self.schedule = schedule
        self.target: Target = target

    def forward(self, latents: Tensor, eps: Tensor, index: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """latents and eps (B, C, H, W), index (B,), ids and mask (B, L) -> (B,)."""
        signal, noise = self.schedule.at(index, latents)
        times = self.schedule.times[index.cpu()].to(latents.device, torch.float32)
        condition = self.text.of_ids(ids, mask)
        answer = predict(self.network, add_noise(latents, eps, signal, noise), times, condition)
        return (answer - training_target(latents, eps, signal, noise, self.target)).pow(2).flatten(1).mean(1)


def time_weights(schedule: Schedule, uniform: float) -> Tensor:
    """Chances of the schedule's times in training, (N,): logit-normal in noise / (signal + noise), a share even."""
    ratio = (schedule.noise / (schedule.signal + schedule.noise)).clamp(max=1 - 1e-6)
    position = torch.logit(ratio)
    width = torch.gradient(position)[0] if len(position) > 1 else torch.ones(1, dtype=torch.float64)
    normal = torch.exp(-(position**2) / 2) * width
    return (1 - uniform) * normal / normal.sum() + uniform / len(schedule)


@torch.no_grad()
def encode_pictures(model: TextToImage, pictures: Pictures) -> Tensor:
    """The latents of all pictures, (N, C, H, W) on the CPU in half precision."""
    parts = [model.to_latents(torch.from_numpy(np.array(pictures.pixels[i : i + ENCODED_AT_ONCE]))).half().cpu()
             for i in range(0, len(pictures), ENCODED_AT_ONCE)]
    return torch.cat(parts)


def train_text_to_image(
    pictures: Pictures, recipe: Recipe, out: Path, *, autoencoder: Autoencoder | None = None,
    init: TextToImage | None = None, seed: int = 0, device: str = "auto", snapshots: Sequence[int] = (),
    progress: Callable[[str], None] | None = None,
) -> TextToImage:
    """Train text encoder and network on pictures and captions into `out`, and leave the averaged model in `out`/model.

    autoencoder: a trained one, for a latent miniature. init: the model to go on from, instead of a new one.
    snapshots: steps at which the averaged model is also left in `out`/model-STEP. Raises InputError for a latent
    miniature without an autoencoder.
    """
    torch.manual_seed(seed)
    if init is None and recipe.miniature.latent and autoencoder is None:
        raise InputError("A latent miniature needs a trained autoencoder. Pass one, or train one first.")
    model = init or _fresh(pictures, recipe, copy.deepcopy(autoencoder), device)
    learner = DenoisingLoss(model.network, model.text, model.schedule, model.target)
    groups = parameter_groups(learner, recipe.network, muon=modules_of(learner, BLOCKS))
    run = Run(out, learner, replace(recipe.network, seed=seed), parameters=groups, device=device,
              settings=recipe.miniature)
    latents = encode_pictures(model, pictures)
    weights = time_weights(model.schedule, recipe.uniform_times)

    def batch(step: int) -> dict[str, Any]:
        rows = row_indices(len(pictures), recipe.batch, step, seed)
        rng = np.random.default_rng((seed, step))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        longest = model.text.limits.length if rng.random() < recipe.long_steps else recipe.short
        told = [choose(pictures.captions[row], longest, rng) if rng.random() >= recipe.text_dropout else ""
                for row in rows]
        ids, mask = model.text.ids(told)
        clean = latents[rows].float()
        return {"latents": clean, "eps": torch.randn(clean.shape, generator=generator), "ids": ids, "mask": mask,
                "index": torch.multinomial(weights, len(rows), replacement=True, generator=generator)}

    for some in run.batches(batch):
        losses = run.model(**some)
        run.step(losses.sum(), len(losses))
        if run.step_number in snapshots:
            leave(run, model, out / f"model-{run.step_number}")
            if progress:
                progress(f"step {run.step_number}: {out / f'model-{run.step_number}'}")
    leave(run, model, out / "model")
    return TextToImage.from_pretrained(out / "model", device=device)


def choose(captions: Sequence[str], longest: int, rng: np.random.Generator) -> str:
    """One of a picture's captions with at most `longest` words, or the shortest where all are longer.

    Its chance grows with the colors and shapes that it names: the more is told, the less is left to average over.
    """
    words = [split_words(one) for one in captions]
    fitting = [i for i, some in enumerate(words) if len(some) <= longest]
    fitting = fitting or [min(range(len(words)), key=lambda i: len(words[i]))]
    named = np.array([1 + sum(word in COLORS or word in SHAPES for word in words[i]) for i in fitting])
    return captions[fitting[rng.choice(len(fitting), p=named / named.sum())]]


def leave(run: Run, model: TextToImage, folder: Path) -> None:
    """Write the averaged model of a run with a card that says how it was made."""
    if run.is_main:
        with run.ema_weights():
            model.save_pretrained(folder, card=card(run, model), dtype=torch.float16)
    run.wait()


def card(run: Run, model: TextToImage) -> str:
    """How a model was trained: steps, seconds, seed, device and the line that starts such a run."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.modules().items()}
    return "\n".join([
        "# A text-to-image miniature", "",
        f"Parameters: {', '.join(f'{name} {count:,}' for name, count in counts.items())}.",
        f"Trained for {run.step_number} steps in {run.seconds:.0f} seconds, seed {run.config.seed}, device "
        f"{run.device} ({platform.machine()}), averaged weights.",
        "", "`diorama selfeval train` trains such a model on the world, or on a folder of pictures and captions.",
    ])


def _fresh(pictures: Pictures, recipe: Recipe, autoencoder: Autoencoder | None, device: str) -> TextToImage:
    """A new miniature whose vocabulary has the world's words and the captions', and whose first answer is zero."""
    model = build_miniature(recipe.miniature, words=sorted({*WORDS, *pictures.words()}), device=device,
                            autoencoder=autoencoder)
    nn.init.zeros_(model.network.proj_out.weight)
    nn.init.zeros_(model.network.proj_out.bias)
    return model


def load_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder that `train_autoencoder` left in `folder`."""
    return AutoencoderKL.from_pretrained(folder, local_files_only=True).eval()
