"""A mode: the schedule of one pass with what the network predicts on it, kept together so that neither strays.

The image pass and the video pass of one network have a mode each (in the paper eps on the stock schedule, and v with
zero terminal SNR).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diorama.diffusion import parametrisations, schedules
from diorama.diffusion.parametrisations import Denoised, Target, check_target
from diorama.diffusion.schedules import Index, Schedule
from diorama.systems.emu_video.config import ModeConfig


@dataclass(frozen=True)
class Mode:
    """A schedule and a target that go together; InputError for zero SNR with eps, or a flow's target on a bent one."""

    schedule: Schedule
    target: Target

    def __post_init__(self) -> None:
        check_target(self.schedule, self.target)

    @classmethod
    def of(cls, config: ModeConfig) -> Mode:
        """The mode that a config describes."""
        if config.schedule == "flow":
            return cls(schedules.flow(config.times, config.shift), config.target)
        family = schedules.scaled_linear if config.schedule == "scaled_linear" else schedules.linear
        schedule = family(config.times, config.first, config.last)
        return cls(schedules.zero_terminal_snr(schedule) if config.zero_snr else schedule, config.target)

    def times(self, index: Tensor) -> Tensor:
        """What the network is told at these indices; (B,), the device of `index`, integers for discrete schedules."""
        told = self.schedule.times[index.cpu()]
        return (told if self.schedule.is_flow else told.long()).to(index.device)

    def noised(self, clean: Tensor, eps: Tensor, index: Index) -> Tensor:
        """`clean` (B, ...) with the noise of the time."""
        return parametrisations.add_noise(clean, eps, *self.schedule.at(index, clean))

    def wanted(self, clean: Tensor, eps: Tensor, index: Index) -> Tensor:
        """What the network should answer for `noised(clean, eps, index)`."""
        return parametrisations.training_target(clean, eps, *self.schedule.at(index, clean), self.target)

    def denoised(self, answer: Tensor, x: Tensor, index: Index) -> Denoised:
        """What an answer says of x."""
        return parametrisations.denoised(answer, x, *self.schedule.at(index, x), self.target)
