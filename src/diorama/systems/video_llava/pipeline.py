"""Load it, show it files, ask.

    llava = VideoLlava.from_pretrained("video-llava-mini")
    shown = llava.show(["clip.mp4"])
    shown.ask(["what color is the cube?", "which way does the cube move?"])

A `Shown` keeps the key-value states of its media, so further questions pay neither the towers nor the media again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from diorama.checkpoints import read_config, read_tensors, resolve
from diorama.errors import CheckpointError, InputError
from diorama.media.images import load_image
from diorama.media.videos import FrameSampler, SampledVideo, kind_of, read_video
from diorama.systems.video_llava import weights
from diorama.systems.video_llava.config import VideoLlavaConfig
from diorama.systems.video_llava.familiarity import FAMILIARITY, Familiarity
from diorama.systems.video_llava.generation import GREEDY, Decoding, Prefix, generate, score, stream
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.processing import (
    MARKER_PATTERN,
    Turn,
    decode_answer,
    encode_conversation,
    preprocess_image,
    preprocess_video,
    unknown_words,
)
from diorama.systems.video_llava.splice import Kind, Media, Sample

DEFAULT = "video-llava-mini"
PUBLIC = "LanguageBind/Video-LLaVA-7B"
Source = str | Path | Image.Image | SampledVideo


@dataclass(frozen=True)
class Looked:
    """One file as the model saw it: which frames were taken, at which seconds, and how unfamiliar they are.

    strangeness: 1 is the edge of what the checkpoint was trained on, above it the answers deserve no trust; None where
    the checkpoint carries no measure of it.
    """

    name: str
    kind: Kind
    frames: np.ndarray = field(repr=False)
    indices: tuple[int, ...] = ()
    timestamps: tuple[float, ...] = ()
    fps: float | None = None
    total_frames: int | None = None
    duration: float | None = None
    strangeness: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the pixels, ready for JSON."""
        height, width = self.frames.shape[1:3]
        return {
            "file": self.name, "kind": self.kind, "width": width, "height": height, "indices": list(self.indices),
            "timestamps": list(self.timestamps), "fps": self.fps, "total_frames": self.total_frames,
            "duration": self.duration, "strangeness": self.strangeness,
        }


@dataclass(frozen=True)
class Answer:
    """What was asked and answered; `unknown_words` are words of the question that a word tokenizer does not have."""

    question: str
    text: str
    tokens: int
    seconds: float
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The likeliest of some answers, and the probability of each among them (mean log likelihood a token)."""

    question: str
    text: str
    probabilities: dict[str, float]


class VideoLlava:
    """A model with its tokenizer, its preprocessing and its sense of what it knows."""

    def __init__(self, model: VideoLlavaModel, tokenizer: PreTrainedTokenizerFast, *, name: str,
                 familiarity: Familiarity | None = None, device: str = "auto"):
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.device = torch.device(kind)
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.familiarity = familiarity
        self.name = name

    @property
    def config(self) -> VideoLlavaConfig:
        return self.model.config

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = DEFAULT, *, device: str = "auto", dtype: str | None = None,
        strict: bool = True, revision: str | None = None, token: str | None = None,
        local_files_only: bool | None = None, cache_dir: str | Path | None = None,
        temporal_from: str | Path | None = None,
    ) -> VideoLlava:
        """A shipped miniature, a local folder or a hub id, in our layout, the official one or the transformers port's.

        dtype: a torch dtype's name; None is float32 on the CPU and the file's own elsewhere. temporal_from: the
        LanguageBind checkpoint whose temporal attention completes the port. strict=False accepts absent tensors.
        Raises CheckpointError.
        """
        folder = resolve(name_or_path, revision=revision, token=token, local_files_only=local_files_only,
                         cache_dir=cache_dir)
        kind = read_config(folder).get("model_type")
        wanted = _dtype(dtype)
        if kind == "diorama_video_llava":
            if temporal_from is not None:
                raise CheckpointError(f"{name_or_path} has its temporal attention already. Leave temporal_from out.")
            model = weights.load(folder, dtype=wanted or torch.float32)
        else:
            model, _ = weights.load_public(folder, temporal_from=temporal_from, strict=strict, dtype=wanted,
                                           onto_fine_tune=str(name_or_path).partition("@")[0] == weights.PORT_ID)
        try:
            known_kind = PretrainedConfig() if kind == "diorama_video_llava" else None  # or transformers warns of it
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, config=known_kind)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} has no tokenizer that can be read ({str(error).splitlines()[0]}). "
                                  "Add its tokenizer.json and tokenizer_config.json.") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise CheckpointError(f"{folder} has a {type(tokenizer).__name__}, and prompts need a fast tokenizer. "
                                  "Add its tokenizer.json.")
        known = folder / FAMILIARITY
        familiarity = Familiarity.from_tensors(read_tensors(known)) if known.is_file() else None
        return cls(model, tokenizer, name=str(name_or_path), familiarity=familiarity, device=device)

    def save_pretrained(self, folder: str | Path, *, card: str, dtype: torch.dtype | None = None) -> Path:
        """Write config, weights, tokenizer, familiarity and card as one folder that `from_pretrained` reads."""
        folder = weights.save(self.model, folder, card, dtype=dtype)
        self.tokenizer.save_pretrained(folder)
        if self.familiarity is not None:
            self.familiarity.write(folder / FAMILIARITY)
        return folder

    def show(self, sources: Sequence[Source], sampler: FrameSampler | None = None) -> Shown:
        """Images and clips, in the order in which questions speak of them.

        sources: paths, Pillow images or sampled clips. sampler: which frames of a clip are taken; None takes as many
        as the model was trained on. Raises MediaError for unreadable files and InputError for too many frames.
        """
        looked, media = [], []
        for number, source in enumerate(sources):
            seen, medium = self._look(source, sampler or self.sampler(), f"file {number + 1}")
            looked.append(seen)
            media.append(medium)
        return Shown(self, tuple(looked), tuple(media))

    def sampler(self, *, frames: int | None = None, start: float | None = None,
                end: float | None = None) -> FrameSampler:
        """The frame sampler that this checkpoint was trained with, over a range in seconds if one is given."""
        return FrameSampler(
            frames=self.config.tower.frames if frames is None else frames, start=start, end=end,
            mode=self.config.frame_sampling)

    def _look(self, source: Source, sampler: FrameSampler, name: str) -> tuple[Looked, Media]:
        if isinstance(source, str | Path):
            path = Path(source)
            name = path.name
            source = load_image(path) if kind_of(path) == "image" else read_video(path, sampler)
        if isinstance(source, Image.Image):
            image = source.convert("RGB")
            medium = Media("image", pixels=preprocess_image(image, self.config).to(self.device))
            looked = Looked(name, "image", np.asarray(image)[None])
        else:
            medium = Media("video", pixels=preprocess_video(source.frames, self.config).to(self.device))
            looked = Looked(name, "video", source.frames, tuple(source.indices), tuple(source.timestamps),
                            source.fps, source.total_frames, source.duration)
        features = self.model.tower_features([medium])[0]
        if self.familiarity is not None:
            looked = replace(looked, strangeness=self._strangeness(medium))
        return looked, Media(medium.kind, features=features)

    def _strangeness(self, medium: Media) -> float:
        assert self.familiarity is not None and medium.pixels is not None
        frames = medium.pixels.unsqueeze(0) if medium.kind == "image" else medium.pixels.transpose(0, 1)
        return self.familiarity.strangeness(self.model.image_tower, frames)


@dataclass(frozen=True)
class Shown:
    """Media in front of the model, encoded once for all questions."""

    llava: VideoLlava
    looked: tuple[Looked, ...]
    media: tuple[Media, ...]
    _kept: list[Prefix] = field(default_factory=list, init=False, repr=False, compare=False)

    def ask(self, questions: str | Sequence[str], decoding: Decoding = GREEDY) -> list[Answer]:
        """An answer to each question, all in one batch behind the same media."""
        asked = [questions] if isinstance(questions, str) else list(questions)
        if not asked:
            raise InputError("No question was asked. Pass at least one.")
        began = time.perf_counter()
        samples = [self._sample(question) for question in asked]
        if self._keeps_prefix(asked):
            one = len(samples) == 1
            replies = [list(self._answer(samples[0], decoding))] if one else self._prefix().answer(samples, decoding)
        else:
            replies = generate(self.llava.model, samples, decoding)
        seconds = (time.perf_counter() - began) / len(asked)
        return [
            Answer(question, decode_answer(self.llava.tokenizer, ids), len(ids), seconds,
                   tuple(unknown_words(self.llava.tokenizer, question)))
            for question, ids in zip(asked, replies, strict=True)
        ]

    def stream(self, question: str, decoding: Decoding = GREEDY) -> Iterator[str]:
        """The answer in pieces as it is made; the pieces joined are the answer."""
        sample = self._sample(question)
        ids: list[int] = []
        said = text = ""
        kept = self._keeps_prefix([question])
        source = self._answer(sample, decoding) if kept else stream(self.llava.model, sample, decoding)
        for token in source:
            ids.append(token)
            text = decode_answer(self.llava.tokenizer, ids)
            if len(text) > len(said) and not text.endswith("\ufffd"):
                yield text[len(said):]
                said = text
        if len(text) > len(said):
            yield text[len(said):]

    def choose(self, question: str, choices: Sequence[str]) -> Choice:
        """The likeliest of the given answers; InputError for fewer than two different ones."""
        options = list(dict.fromkeys(choices))
        if len(options) < 2:
            raise InputError(f"{len(options)} different choices were given, and a choice needs two. Pass more.")
        samples = [self._sample(question, option) for option in options]
        kept = self._keeps_prefix([question])
        scores = self._prefix().score(samples) if kept else score(self.llava.model, samples)
        shares = scores.softmax(0).tolist()
        best = options[int(np.argmax(shares))]
        return Choice(question, best, dict(zip(options, shares, strict=True)))

    def _prefix(self) -> Prefix:
        if not self._kept:
            self._kept.append(Prefix.encode(self.llava.model, self._sample("?")))
        return self._kept[0]

    def _answer(self, sample: Sample, decoding: Decoding) -> Iterator[int]:
        """The answer ids of one question; the first question asked leaves the prefix to the later ones."""
        if self._kept:
            return self._kept[0].stream(sample, decoding)
        prefix, answer = Prefix.begin(self.llava.model, sample, decoding)
        self._kept.append(prefix)
        return answer

    def _keeps_prefix(self, questions: Sequence[str]) -> bool:
        """Questions that place <image> or <video> themselves have other words before the media than the prefix."""
        return bool(self.media) and not any(MARKER_PATTERN.search(question) for question in questions)

    def _sample(self, question: str, answer: str | None = None) -> Sample:
        if not question.strip():
            raise InputError("The question is empty. Ask something about the files.")
        sample = encode_conversation([Turn(question, answer)], self.media, self.llava.tokenizer, self.llava.config)
        return replace(sample, input_ids=sample.input_ids.to(self.llava.device),
                       labels=sample.labels.to(self.llava.device))


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise InputError(f"The dtype {name!r} is not one of {', '.join(known)}. Pass one of these.")
    return known[name]
