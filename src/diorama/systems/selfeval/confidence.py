"""A temperature that makes stated probabilities true: fitted on labelled items, stored beside the results.

Sums of nats over thousands of values give probabilities of nearly 0 and 1 whatever the truth; one number divides them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from diorama.checkpoints import write_text
from diorama.errors import InputError
from diorama.systems.selfeval.choice import Choice

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """A temperature for one way of estimating, how many items it was fitted on, and how well it does on others."""

    how: str
    temperature: float
    items: int
    negative_log_likelihood: float
    """Nats an item at this temperature, on the items it was fitted on."""
    calibration_error: float
    """Mean gap between confidence and accuracy over ten bins of confidence (Guo et al. 2017), on other items."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote; InputError for anything else."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} is no calibration ({type(error).__name__}). "
                             "Pass the calibration.json that `diorama selfeval evaluate` leaves in --out.") from error


def calibrate(choices: Sequence[Choice], answers: Sequence[int], how: str) -> Calibration:
    """A temperature fitted on every other item and judged on the rest; with fewer than two, on the one there is."""
    temperature, loss = fit_temperature(choices[::2], answers[::2])
    others = slice(1, None, 2) if len(choices) > 1 else slice(None)
    error = calibration_error(choices[others], answers[others], temperature)
    return Calibration(how, temperature, len(choices[::2]), loss, error)


def fit_temperature(choices: Sequence[Choice], answers: Sequence[int]) -> tuple[float, float]:
    """The temperature with the least negative log likelihood of the answers, and that (Guo et al. 2017, section 4.2).

    Golden-section search over its logarithm. Raises InputError for no items.
    """
    if not choices or len(choices) != len(answers):
        raise InputError(f"{len(choices)} verdicts with {len(answers)} answers fit no temperature. "
                         "Pass one answer a verdict.")

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return -float(np.mean([_log_probability(c, a, temperature) for c, a in zip(choices, answers, strict=True)]))

    low, high = math.log(1e-4), math.log(1e6)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(60):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(right)
    best = (low + high) / 2
    return math.exp(best), loss(best)


def _log_probability(choice: Choice, answer: int, temperature: float) -> float:
    scaled = np.asarray(choice.margins) / temperature
    return float(scaled[answer] - np.logaddexp.reduce(scaled))


def calibration_error(choices: Sequence[Choice], answers: Sequence[int], temperature: float, bins: int = 10) -> float:
    """Mean gap between the confidence in the best caption and its accuracy, over bins of confidence."""
    sure = np.array([max(c.probabilities(temperature)) * len(c.best) for c in choices]).clip(0, 1)
    right = np.array([c.credit(a) * len(c.best) for c, a in zip(choices, answers, strict=True)])
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(sure[place == b].mean() - right[place == b].mean()) * (place == b).sum() for b in range(bins)
            if (place == b).any()]
    return float(sum(gaps) / len(choices))
