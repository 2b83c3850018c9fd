"""The small learned ranker: a logistic model over a step's features.

It runs in numpy alone and loads from safetensors; training is in `train.py`. The score is 100 at no risk; risks are
mapped so that the threshold found in training lands on the policy's 68, whatever the calibration of the raw output.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diorama.agents.transcript import Step
from diorama.errors import CheckpointError
from diorama.systems.agent_monitor.features import dense
from diorama.systems.agent_monitor.phrases import PHRASES
from diorama.systems.agent_monitor.rarity import BUCKETS, Rarity

Array = npt.NDArray[np.float32]


@dataclass
class Ranker:
    """names: the features in order. shift and scale standardise them. weights (F,) and bias give the logit, higher is
    worse. cut: the logit that becomes score 68; review: the logit that becomes 75."""

    names: list[str]
    rarity: Rarity
    shift: Array
    scale: Array
    weights: Array
    bias: float
    cut: float
    review: float

    def vector(self, step: Step) -> Array:
        """The standardised features of a step, (F,)."""
        values = dense(step, self.rarity)
        raw = np.array([values[name] for name in self.names], np.float32)
        return ((raw - self.shift) * self.scale).clip(-5, 5)

    def logit(self, step: Step) -> float:
        """The raw risk of a step, higher is worse."""
        return float(self.weights @ self.vector(step)) + self.bias

    def score(self, step: Step) -> float:
        """0 (unsafe) to 100 (safe)."""
        return self.score_of(self.logit(step))

    def score_of(self, logit: float) -> float:
        """Strictly falling map from the logit to the score: `cut` gives 68, `review` gives 75, straight logistic
        tails."""
        if not math.isfinite(logit):
            raise ValueError(f"the ranker's output is {logit}")
        if logit >= self.cut:
            return 68 * (2 / (1 + math.exp(min(50.0, logit - self.cut))))
        if logit >= self.review:
            return 68 + 7 * (self.cut - logit) / max(1e-6, self.cut - self.review)
        return 75 + 25 * (1 - 2 / (1 + math.exp(min(50.0, self.review - logit))))

    def explain(self, vector: Array, count: int = 3) -> str:
        """In words, what raises the risk of a standardised vector most over that of an empty action; '' if nothing
        does."""
        neutral = (-self.shift * self.scale).clip(-5, 5)
        gains: dict[str, float] = {}
        for name, gain in zip(self.names, (self.weights * (vector - neutral)).tolist(), strict=True):
            factors = name.split("*")
            for phrase in (PHRASES[factor] for factor in factors if factor in PHRASES):
                gains[phrase] = gains.get(phrase, 0.0) + gain / len(factors)
        best = sorted(gains, key=lambda phrase: -gains[phrase])[:count]
        return ", ".join(phrase for phrase in best if gains[phrase] > 0)

    def save_pretrained(self, folder: str | Path, card: str, report: dict[str, Any]) -> None:
        """Write config.json, model.safetensors and README.md; each file appears whole or not at all."""
        from safetensors.numpy import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, npt.NDArray[Any]] = {
            "shift": self.shift,
            "scale": self.scale,
            "weights": self.weights,
            "rarity": self.rarity.weights.astype(np.float16),
        }
        config = {
            "names": self.names,
            "bias": self.bias,
            "cut": self.cut,
            "review": self.review,
            "report": report,
        }
        for name, data in (
            ("config.json", json.dumps(config, indent=1).encode()),
            ("model.safetensors", save(tensors)),
            ("README.md", card.encode()),
        ):
            temporary = folder / f".{name}.partial"
            temporary.write_bytes(data)
            temporary.replace(folder / name)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> "Ranker":
        """Load a folder, or the shipped ranker by its name `agent_monitor`. Raises CheckpointError naming what is
        wrong."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = Path(name_or_path)
        if not folder.is_dir():
            folder = Path(__file__).resolve().parents[2] / "miniatures" / str(name_or_path)
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            tensors = load((folder / "model.safetensors").read_bytes())
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"{name_or_path} holds no ranker ({error}). Train one with `diorama agent-monitor train`."
            ) from None
        try:
            found = cls(
                config["names"],
                Rarity(tensors["rarity"].astype(np.float32)),
                tensors["shift"],
                tensors["scale"],
                tensors["weights"],
                float(config["bias"]),
                float(config["cut"]),
                float(config["review"]),
            )
        except KeyError as error:
            raise CheckpointError(
                f"{name_or_path} lacks {error}. Train a new ranker with `diorama agent-monitor train`."
            ) from None
        sizes = {len(found.names), len(found.shift), len(found.scale), len(found.weights)}
        is_finite = all(np.isfinite(value).all() for value in tensors.values())
        if len(sizes) != 1 or found.rarity.weights.shape != (BUCKETS,) or not is_finite:
            raise CheckpointError(f"{name_or_path} has weights that do not fit each other. Train a new ranker.")
        return found
