"""A headline claim re-measured: what was published, the arms that were run, the checks, and whether it holds.

`Claim.to_json()` is the object that `diorama reproduce --json` prints. Whether a check or a claim holds is computed
from the intervals and cannot be passed in.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diorama.console import Common, emit
from diorama.errors import InputError
from diorama.metrics.intervals import Interval

PACKAGES = ("diorama", "torch", "transformers", "diffusers", "accelerate", "numpy")


@dataclass(frozen=True)
class Published:
    """One number of the paper and where it stands."""

    what: str
    value: float | str
    source: str

    def to_json(self) -> dict[str, Any]:
        """what, value, source."""
        return {"what": self.what, "value": _finite(self.value), "source": self.source}


@dataclass(frozen=True)
class Arm:
    """One of the variants compared, with its metrics over `seeds` trainings."""

    name: str
    metrics: Mapping[str, Interval]
    seeds: int = 1

    def to_json(self) -> dict[str, Any]:
        """name and, a metric, mean, low, high, n, seeds."""
        return {
            "name": self.name,
            "metrics": {
                name: {**_interval(interval), "n": interval.n, "seeds": self.seeds}
                for name, interval in self.metrics.items()
            },
        }


@dataclass(frozen=True)
class Check:
    """A sentence about a measured difference that the difference's interval supports or does not.

    "above": the whole interval lies above `bound`; "below": below it; "within": inside [-bound, bound].
    An interval with NaN supports nothing.
    """

    says: str
    difference: Interval
    bound: float = 0.0
    relation: Literal["above", "below", "within"] = "above"

    def __post_init__(self) -> None:
        if self.relation not in ("above", "below", "within"):
            raise InputError(f"The relation {self.relation!r} is unknown. Pass above, below or within.")

    @property
    def holds(self) -> bool:
        """True if the interval supports the sentence."""
        low, high = self.difference.low, self.difference.high
        if self.relation == "above":
            return low > self.bound
        if self.relation == "below":
            return high < self.bound
        return -self.bound <= low and high <= self.bound

    def to_json(self) -> dict[str, Any]:
        """says, holds, difference, low, high."""
        interval = _interval(self.difference)
        return {
            "says": self.says,
            "holds": self.holds,
            "difference": interval["mean"],
            "low": interval["low"],
            "high": interval["high"],
        }


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The whole result for one system; versions and the device's name are filled in."""

    system: str
    claim: str
    published: Sequence[Published]
    arms: Sequence[Arm]
    checks: Sequence[Check]
    mode: Literal["quick", "full"]
    seconds: float
    device: str = "cpu"
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())

    def __post_init__(self) -> None:
        if not self.checks:
            raise InputError(f"The claim of {self.system} has no checks, so nothing could show it wrong. Add one.")
        if self.mode not in ("quick", "full"):
            raise InputError(f"The mode {self.mode!r} is unknown. Pass quick or full.")
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise InputError(f"Two arms of {self.system} have the same name among {names}. Give each its own.")

    @property
    def holds(self) -> bool:
        """True if every check holds."""
        return all(check.holds for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 if the claim holds, else 1."""
        return 0 if self.holds else 1

    def to_json(self) -> dict[str, Any]:
        """The object of `reproduce --json`; numbers that are not finite become null."""
        return {
            "system": self.system,
            "claim": self.claim,
            "published": [entry.to_json() for entry in self.published],
            "arms": [arm.to_json() for arm in self.arms],
            "checks": [check.to_json() for check in self.checks],
            "holds": self.holds,
            "mode": self.mode,
            "seconds": round(self.seconds, 3),
            "device": device_name(self.device),
            "versions": dict(self.versions),
        }


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages a result depends on, without importing them."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def device_name(device: str) -> str:
    """A device in words: "cuda" becomes the accelerator's name, "cpu" the processor's architecture."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else device
    return f"{device} ({platform.machine()})"


def seeds_from(first: int, count: int) -> range:
    """The seeds of `--seeds COUNT`; InputError for none."""
    if count < 1:
        raise InputError(f"--seeds is {count}, and a claim needs at least one. Pass 1 or more.")
    return range(first, first + count)


def report(claim: Claim, common: Common) -> int:
    """Print one claim, for people or with --json as one object, and return the exit code it stands for."""
    if common.json:
        emit(claim.to_json(), "", common)
    else:
        print_claims([claim])
    return claim.exit_code


def print_claims(claims: Sequence[Claim], console: Console | None = None) -> None:
    """Print what was published, the arms with their intervals, and the checks with their verdicts.

    Colors and frames appear on a terminal only; a pipe gets plain text.
    """
    console = console or Console()
    for claim in claims:
        verdict = "holds" if claim.holds else "does not hold"
        console.print(f"{claim.system}: {claim.claim}", style="bold", markup=False, highlight=False)
        for entry in claim.published:
            console.print(f"  published: {entry.what} {entry.value} ({entry.source})", markup=False, highlight=False)
        arms = Table("arm", "metric", "mean", "low", "high", "n", "seeds", box=None, pad_edge=False)
        for arm in claim.arms:
            for name, interval in arm.metrics.items():
                numbers = (f"{value:.4g}" for value in (interval.mean, interval.low, interval.high))
                arms.add_row(escape(arm.name), escape(name), *numbers, str(interval.n), str(arm.seeds))
        console.print(arms)
        checks = Table("check", "difference", "low", "high", "holds", box=None, pad_edge=False)
        for check in claim.checks:
            difference = check.difference
            numbers = (f"{value:+.4g}" for value in (difference.mean, difference.low, difference.high))
            checks.add_row(escape(check.says), *numbers, "yes" if check.holds else "NO")
        console.print(checks)
        console.print(
            f"  the claim {verdict} ({claim.mode}, {claim.seconds:.1f} s, {device_name(claim.device)})",
            style="green" if claim.holds else "red",
            markup=False,
            highlight=False,
        )


def _interval(interval: Interval) -> dict[str, float | None]:
    return {"mean": _finite(interval.mean), "low": _finite(interval.low), "high": _finite(interval.high)}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
