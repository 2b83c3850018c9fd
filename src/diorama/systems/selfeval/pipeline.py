"""Load a generator, show it a picture and captions, ask which it holds likeliest.

    exam = SelfEval.from_pretrained("text-to-image-mini")
    verdict = exam.score("picture.png", ["a red cube and a blue sphere", "a blue cube and a red sphere"])
    verdict.best, verdict.probabilities, verdict.calls

Anything with the members of `Generator` can be examined, clips of a video model included.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from diorama.checkpoints import resolve
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import Condition, Memory
from diorama.diffusion.text_to_image import DEFAULT, TextToImage
from diorama.errors import InputError
from diorama.media.images import load_image
from diorama.systems.selfeval.choice import Choice, choose
from diorama.systems.selfeval.confidence import Calibration
from diorama.systems.selfeval.config import Elimination, Estimator
from diorama.systems.selfeval.estimators import ROWS, Denoise, score
from diorama.systems.selfeval.items import Item, Pair, Picture, pixels_of

PAIRS = 16
"""Pairs whose noisy states are held at once."""
CALIBRATION = "selfeval.json"
"""Beside a checkpoint's weights: the temperature fitted for it."""


class Generator(Protocol):
    """What an examination needs of a text-conditioned diffusion model.

    `text_once()` is a context in which the network looks once at each caption (`diffusion.text_once`).
    `denoiser(x, index, condition)` may be over pictures (B, C, H, W) or clips (B, T, C, H, W); `to_latents` takes uint8
    pixels (B, 3, S, S), or (B, T, 3, S, S) for clips, to what is diffused.
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def denoiser(self) -> Denoise: ...

    def encode_text(self, captions: Sequence[str]) -> Condition: ...

    def text_once(self) -> AbstractContextManager[Memory]: ...

    def to_latents(self, pixels: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Verdict:
    """Which caption a generator holds likeliest for a picture, and what that took."""

    captions: tuple[str, ...]
    choice: Choice
    probabilities: tuple[float, ...]
    """At the calibration's temperature; without one at 1, which overstates confidence (`calibrated` says which)."""
    calibrated: bool
    notes: tuple[str, ...] = ()
    """What a user should know: resized pictures, unknown words, captions cut or equal to the model."""

    @property
    def best(self) -> tuple[str, ...]:
        """The likeliest caption; several where the model cannot tell them apart."""
        return tuple(self.captions[k] for k in self.choice.best)

    @property
    def confidence(self) -> float:
        """The probability of the best, of all of them together where they tie."""
        return sum(self.probabilities[k] for k in self.choice.best)

    @property
    def calls(self) -> tuple[int, ...]:
        """Network calls spent on each caption."""
        return self.choice.calls

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"captions": list(self.captions), "probabilities": list(self.probabilities),
                "margins": list(self.choice.margins), "calls": list(self.calls), "best": list(self.best),
                "confidence": self.confidence, "decided": self.choice.decided, "calibrated": self.calibrated,
                "ties": [[self.captions[k] for k in group] for group in self.choice.ties], "notes": list(self.notes)}


class SelfEval:
    """A generator under examination.

    how: elimination on `mse` (the default), or an estimator with a fixed number of calls. Guidance plays no part: the
    likelihood is that of the model as it was trained.
    """

    def __init__(self, model: Generator, how: Estimator | Elimination | None = None, *,
                 calibration: Calibration | None = None, seed: int = 0, rows: int = ROWS):
        self.model = model
        self.how = how or Elimination()
        self.calibration = calibration
        self.seed = seed
        self.rows = rows

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = DEFAULT, how: Estimator | Elimination | None = None, *,
                        calibration: Calibration | None = None, device: str = "auto", dtype: str | None = None,
                        seed: int = 0) -> SelfEval:
        """Any checkpoint that `TextToImage.from_pretrained` reads; its own calibration is used where it fits `how`."""
        how = how or Elimination()
        model = TextToImage.from_pretrained(name_or_path, device=device, dtype=dtype)
        kept = resolve(name_or_path) / CALIBRATION
        if calibration is None and kept.is_file() and Calibration.load(kept).how == described(how):
            calibration = Calibration.load(kept)
        return cls(model, how, calibration=calibration, seed=seed)

    # ---- captions of one picture -----------------------------------------------------------------------------------

    def score(self, picture: str | Path | Picture, captions: Sequence[str]) -> Verdict:
        """Which of some captions the generator holds likeliest for a picture.

        Raises MediaError for a file that cannot be read, InputError for fewer than two captions.
        """
        picture = Path(picture) if isinstance(picture, str) else picture
        size = self._image_size()
        latents = self.model.to_latents(pixels_of(picture, size).unsqueeze(0))
        return self.judge(latents, [captions], notes=[*_resized(picture, size), *self.remarks(captions)])[0]

    def judge(self, clean: Tensor, captions: Sequence[Sequence[str]], *, denoiser: Denoise | None = None,
              numbers: Sequence[int] | None = None, notes: Sequence[str] = ()) -> list[Verdict]:
        """Verdicts on what is diffused (I, ...), latents of pictures or of clips; captions[i] are those of item i.

        denoiser: stands in for the model's own, for instance one that is given a clip's first frame.
        """
        condition = self.model.encode_text([caption for several in captions for caption in several])
        choices = choose(denoiser or self.model.denoiser, clean, self.model.schedule, condition,
                         [len(several) for several in captions], self.how, numbers=numbers, seed=self.seed,
                         rows=self.rows, remember=self.model.text_once)
        temperature = self.calibration.temperature if self.calibration else 1.0
        return [Verdict(tuple(told), choice, choice.probabilities(temperature), self.calibration is not None,
                        (*notes, *_tied(told, choice)))
                for told, choice in zip(captions, choices, strict=True)]

    def examine(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts on many items, batched over all of them; item i's noise hangs on the seed and i alone."""
        if not items:
            raise InputError("There are no items to examine. Pass at least one.")
        size = self._image_size()
        clean = torch.cat([self.model.to_latents(pixels_of(item.image, size, item.box).unsqueeze(0)) for item in items])
        return self.judge(clean, [item.options for item in items])

    def remarks(self, captions: Sequence[str]) -> list[str]:
        """What is odd about captions: words that the tokenizer lacks, captions longer than the encoder reads."""
        text = getattr(self.model, "text", None)
        if text is None:
            return []
        unknown = dict.fromkeys(word for caption in captions for word in text.unknown_words(caption))
        cut = [number + 1 for number, caption in enumerate(captions) if text.cut(caption)]
        said = [f"the model does not know {', '.join(unknown)}; it read each as unknown"] if unknown else []
        return said + [f"caption {number} is longer than the {text.limits.length} tokens that the model reads"
                       for number in cut]

    # ---- pictures against captions ---------------------------------------------------------------------------------

    def pair_scores(self, pairs: Sequence[Pair], estimator: Estimator | None = None) -> tuple[Tensor, Tensor]:
        """log p(image | caption) of two images by two captions, (P, 2, 2), raw and less log p(image | nothing).

        The second is pointwise mutual information (arXiv 2305.16397, section 3): raw likelihoods of two pictures differ
        mostly by how simple the pictures are. Both terms meet the same times and noise.
        """
        how = estimator or (self.how if isinstance(self.how, Estimator) else Estimator())
        if not pairs:
            raise InputError("There are no pairs to score. Pass at least one.")
        totals = torch.cat([self._totals(pairs[first : first + PAIRS], how, first)
                            for first in range(0, len(pairs), PAIRS)])
        return totals[:, :, :2], totals[:, :, :2] - totals[:, :, 2:]

    def _totals(self, pairs: Sequence[Pair], how: Estimator, first: int) -> Tensor:
        """log p of both images of some pairs by both captions and by none, (P, 2, 3); `first` is the first's number.

        Both images of a pair meet the same noise.
        """
        pixels = torch.stack([pixels_of(image, self._image_size()) for pair in pairs for image in pair.images])
        clean = self.model.to_latents(pixels)
        texts = [text for pair in pairs for _ in pair.images for text in (*pair.captions, "")]
        items = [2 * p + i for p in range(len(pairs)) for i in range(2) for _ in range(3)]
        with self.model.text_once() as memory:
            scores = score(self.model.denoiser, clean, self.model.schedule, memory.of(self.model.encode_text(texts)),
                           items, how, numbers=[first + number // 2 for number in range(len(clean))], seed=self.seed,
                           rows=self.rows)
        return (scores.totals.view(len(clean), 3) + scores.prior.unsqueeze(1)).view(len(pairs), 2, 3)

    def choose_picture(self, pictures: Sequence[str | Path | Picture], caption: str,
                       estimator: Estimator | None = None) -> list[float]:
        """Pointwise mutual information of each picture with the caption, nats; the greatest fits it best."""
        how = estimator or (self.how if isinstance(self.how, Estimator) else Estimator())
        size = self._image_size()
        files = [Path(picture) if isinstance(picture, str) else picture for picture in pictures]
        clean = torch.cat([self.model.to_latents(pixels_of(file, size).unsqueeze(0)) for file in files])
        items = [number // 2 for number in range(2 * len(files))]
        with self.model.text_once() as memory:
            told = memory.of(self.model.encode_text([caption, ""])).rows([0, 1] * len(files))
            totals = score(self.model.denoiser, clean, self.model.schedule, told, items, how,
                           numbers=[0] * len(files), seed=self.seed, rows=self.rows).totals.view(-1, 2)
        return (totals[:, 0] - totals[:, 1]).tolist()

    def _image_size(self) -> int:
        size = getattr(self.model, "image_size", None)
        if not isinstance(size, int):
            raise InputError("This generator has no image_size, so files cannot be prepared for it. "
                             "Pass what it diffuses to judge instead.")
        return size


def described(how: Estimator | Elimination) -> str:
    """A way of estimating in words, by which calibrations are told apart."""
    if isinstance(how, Elimination):
        return f"mse ({how.loss}), elimination at p < {how.threshold:g} after {how.least} to {how.most} calls"
    what = f"{how.method} ({how.loss}, {how.weights} weights)" if how.method == "mse" else \
        f"{how.method} ({how.variance} variance)"
    return f"{what}, {how.times} times, {how.draws} draws"


def _resized(picture: Path | Picture, size: int) -> list[str]:
    if isinstance(picture, Path):
        width, height = load_image(picture).size
    else:
        height, width = picture.shape[1:]
    if (width, height) == (size, size):
        return []
    stretched = "" if width == height else ", its sides scaled apart"
    return [f"the picture of {width} x {height} pixels was resized to {size} x {size}{stretched}"]


def _tied(captions: Sequence[str], choice: Choice) -> list[str]:
    return [f"the model cannot tell apart: {'; '.join(captions[k] for k in group)}" for group in choice.ties]
