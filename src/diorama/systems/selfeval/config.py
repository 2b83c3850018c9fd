"""What is estimated and with how many network calls (SelfEval, arXiv 2311.10708); each value names its source."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from diorama.errors import InputError

Method = Literal["chain", "path", "line", "mse"]
"""chain: algorithm 1, a reverse chain from the forward latent, scored against forward latents. path: equations 7 to 9,
an ancestral forward path, each step scored on its own. line: the same with one noise for all times. mse: the noise's
squared error at independent times (Diffusion Classifier, arXiv 2303.16203)."""
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """One of the four ways to estimate log p(picture | caption), up to what no caption changes."""

    method: Method = "path"
    times: int = 25
    """T, of the schedule's times. The paper takes 100, and 50 for Winoground (section 4)."""
    draws: int = 1
    """N, noise draws whose estimates are averaged. The paper takes 10."""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """How the chain goes on from time to time (unconfirmed in the paper); ddim adds no noise. Only for chain."""
    variance: Literal["large", "small"] = "large"
    """Of the reverse steps (unconfirmed in the paper). "small" is 0 at the last step, which is then left out."""
    weights: Literal["uniform", "vlb", "exponential"] = "uniform"
    """Of mse over the times (arXiv 2303.16203: uniform; 2303.15233, section 3: exponential)."""
    loss: Literal["l2", "l1", "huber", "log"] = "l2"
    """Of mse; Diffusion Classifier takes l1 on some data sets. log: the log of the squared error (not from a paper)."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"There is no estimator {self.method!r}. Pass one of {', '.join(METHODS)}.")
        if self.times < 1 or self.draws < 1:
            raise InputError(f"{self.times} times and {self.draws} draws estimate nothing. Pass at least 1 of each.")
        if self.loss == "log" and self.weights != "uniform":
            raise InputError(f"The loss log weighs the times itself, and {self.weights} weights were asked for too. "
                             "Pass one of them.")

    @property
    def calls(self) -> int:
        """Network calls a caption."""
        return self.times * self.draws


PAPER = Estimator(method="chain", times=100, draws=10)
"""Section 4: N = 10, T = 100; a thousand calls a caption."""
DIFFUSION_CLASSIFIER = Estimator(method="mse", times=100)


@dataclass(frozen=True, kw_only=True)
class Elimination:
    """Successive elimination on mse: a caption is dropped once a paired test holds it worse than the best one.

    Clark & Jaini (arXiv 2303.15233, algorithm 1) take p < 2e-3 after at least 20 and at most 2000 scores. The defaults
    are chosen on the mixtures of seeds 100 to 111 (`python benchmarks/selfeval.py --choose`), and no figure is reported
    of these.
    """

    threshold: float = 0.02
    """p of the paired test below which a caption is dropped."""
    least: int = 4
    """Calls a caption before the first test."""
    most: int = 50
    """Calls a caption after which the best mean wins; what is still open then is decided little better by more."""
    test: Literal["z", "t"] = "z"
    """Of the mean difference: normal and one-sided, or Student's and two-sided as in the paper."""
    loss: Literal["l2", "l1", "huber", "log"] = "log"
    """The log makes errors at all times count alike; of squared errors those near the clean picture drown the rest."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or not 2 <= self.least <= self.most:
            raise InputError(f"Elimination at p < {self.threshold} after {self.least} to {self.most} calls cannot "
                             "work. Pass 0 < threshold < 1 and 2 <= least <= most.")


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Diffusion Classifier's fixed schedule (arXiv 2303.16203, `eval_prob_adaptive.py`): after so many calls a caption
    the best few are kept; no statistics."""

    calls: tuple[int, ...] = (20, 50, 100, 500)
    keep: tuple[int, ...] = (20, 10, 5, 1)
    """For 37 classes of pets; the last stage keeps one."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.calls)) and all(a >= b for a, b in pairwise(self.keep))
        if not self.calls or len(self.calls) != len(self.keep) or not rising or min(*self.calls, *self.keep) < 1:
            raise InputError(f"Stages of {self.calls} calls that keep {self.keep} captions cannot work. Pass as many "
                             "of each, calls that rise and captions that fall.")


CLARK_JAINI = Elimination(threshold=2e-3, least=20, most=2000, test="t", loss="l2")
