"""The chores of training: device, precision, accumulation, schedule, log, checkpoints, exact resume.

`RunConfig` is importable without torch; `Run` is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

from diorama.training.config import RunConfig

if TYPE_CHECKING:
    from diorama.training.run import Run

__all__ = ["Run", "RunConfig"]


def __getattr__(name: str) -> object:
    if name == "Run":
        from diorama.training.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
