"""The small learned ranker: a two-layer network (or, with no hidden units, a logistic model) over a step's features.

It runs in numpy alone and loads from safetensors; training is in `train.py`. The score is 100 at no risk; risks are
mapped
so that the threshold found in training lands on the policy's 68, whatever the calibration of the raw output.
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
from diorama.systems.agent_monitor.features import BUCKETS, Rarity, dense, hashed

Array = npt.NDArray[np.float32]


@dataclass
class Ranker:
    """names: the dense features in order. shift and scale standardise them. members: one weight set per ensemble
    member,
    each {"w1" (H, F), "b1" (H,), "w2" (H,), "skip" (F,), "bias" ()}. words: (4096,) weights of the hashed words.
    cut: the logit that becomes score 68; review: the logit that becomes 75."""

    names: list[str]
    rarity: Rarity
    shift: Array
    scale: Array
    members: list[dict[str, Array]]
    words: Array
    cut: float
    review: float

    def vector(self, step: Step) -> Array:
        """The standardised dense features of a step, (F,)."""
        values = dense(step, self.rarity)
        return ((np.array([values[name] for name in self.names], np.float32) - self.shift) * self.scale).clip(-5, 5)

    def logit(self, step: Step) -> float:
        """The raw risk of a step, higher is worse."""
        words = self.words
        extra = sum(value * float(words[index]) for index, value in hashed(step).items()) if words.any() else 0.0
        return self.logit_of(self.vector(step)) + extra

    def logit_of(self, vector: Array) -> float:
        """The mean logit of the members for a standardised feature vector."""
        total = 0.0
        for member in self.members:
            hidden = np.maximum(member["w1"] @ vector + member["b1"], 0)
            total += float(member["w2"] @ hidden + member["skip"] @ vector + member["bias"])
        return total / len(self.members)

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

    def explain(self, step: Step, count: int = 3) -> str:
        """The features whose removal would lower the risk most, as words."""
        vector = self.vector(step)
        base = self.logit_of(vector)
        neutral = -self.shift * self.scale
        gains = []
        for index, name in enumerate(self.names):
            if vector[index] != neutral[index]:
                changed = vector.copy()
                changed[index] = neutral[index]
                gains.append((base - self.logit_of(changed), name))
        return ", ".join(
            name.replace("_", " ").replace("*", " and ")
            for gain, name in sorted(gains, reverse=True)[:count]
            if gain > 0
        )

    def save_pretrained(self, folder: str | Path, card: str, report: dict[str, Any]) -> None:
        """Write config.json, model.safetensors and README.md; each file appears whole or not at all."""
        from safetensors.numpy import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, npt.NDArray[Any]] = {
            "shift": self.shift,
            "scale": self.scale,
            "words": self.words.astype(np.float16),
            "rarity": self.rarity.weights.astype(np.float16),
        }
        for index, member in enumerate(self.members):
            tensors |= {
                f"{index}.{name}": np.atleast_1d(np.ascontiguousarray(value, np.float32))
                for name, value in member.items()
            }
        config = {
            "names": self.names,
            "cut": self.cut,
            "review": self.review,
            "members": len(self.members),
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
            members = [
                {name: tensors[f"{index}.{name}"] for name in ("w1", "b1", "w2", "skip", "bias")}
                for index in range(config["members"])
            ]
            for member in members:
                member["bias"] = member["bias"].reshape(())
            found = cls(
                config["names"],
                Rarity(tensors["rarity"].astype(np.float32)),
                tensors["shift"],
                tensors["scale"],
                members,
                tensors["words"].astype(np.float32),
                float(config["cut"]),
                float(config["review"]),
            )
        except KeyError as error:
            raise CheckpointError(
                f"{name_or_path} lacks {error}. Train a new ranker with `diorama agent-monitor train`."
            ) from None
        sizes = {len(found.names), len(found.shift), len(found.scale), *(member["skip"].shape[0] for member in members)}
        if (
            len(sizes) != 1
            or found.words.shape != (BUCKETS,)
            or not all(np.isfinite(value).all() for value in tensors.values())
        ):
            raise CheckpointError(f"{name_or_path} has weights that do not fit each other. Train a new ranker.")
        return found
