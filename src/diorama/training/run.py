"""One training run: the loop stays with the paper, the chores are here, over accelerate.

    run = Run(out, model, RunConfig(steps=2000), settings=config)
    for batch in run.batches(data):
        loss_sum, tokens = loss_of(run.model, batch)
        run.step(loss_sum, tokens, {"accuracy": accuracy})
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, gather_object
from torch import Tensor, nn

from diorama.checkpoints import load_into, write_text
from diorama.errors import CheckpointError, InputError
from diorama.training.batches import Dataset, StepParts, move, read_steps
from diorama.training.config import RunConfig, learning_rate_factor
from diorama.training.ema import MovingAverage
from diorama.training.log import MetricsLog, ProgressLine
from diorama.training.optimizers import build_optimizer, parameter_groups
from diorama.training.states import (
    checkpoint_folders,
    random_states,
    read_state,
    remove_leftovers,
    seed_everything,
    set_random_states,
    trainable_tensors,
    write_state,
)

MAY_CHANGE_ON_RESUME = {"steps", "save_every", "log_every", "keep", "accumulation"}


class Run:
    """Device, precision, accumulation, clipping, AdamW, schedule, average, log and checkpoints of one training.

    model: the module to train; its parameters with `requires_grad=False` are left out of the optimizer.
    parameters: optimizer groups (dicts with "params", and "lr" or "weight_decay" where they differ), such as
        `optimizers.parameter_groups` makes; None takes every trainable parameter for AdamW and spares norms and biases
        from weight decay. Each group's rate follows the schedule.
    resume: continue from the newest checkpoint in `out`, exactly; False refuses a folder that has one.
    device: "auto" (the accelerator if there is one), "cpu", "cuda" or "cuda:1".
    settings: a dataclass saved beside the run's own settings in config.yaml.
    unused_parameters: under several processes, allow steps that leave some parameters without a gradient.

    Use `run.model` for the forward pass: under several processes it is the wrapped model. `run.step_number` counts
    finished steps. Raises InputError for settings that cannot work and CheckpointError when resuming fails.
    """

    def __init__(
        self,
        out: str | Path,
        model: nn.Module,
        config: RunConfig,
        *,
        parameters: Sequence[dict[str, Any]] | None = None,
        resume: bool = True,
        device: str = "auto",
        settings: Any = None,
        progress: Literal["auto", "plain", "silent"] = "auto",
        unused_parameters: bool = False,
    ):
        self.out = Path(out)
        self.config = config
        self.step_number = 0
        self._style = progress
        self._accelerator = _accelerator(device, config.precision, unused_parameters)
        self.device = self._accelerator.device
        self.processes = self._accelerator.num_processes
        self.is_main = self._accelerator.is_main_process
        self._bare = model.to(self.device)
        groups = parameter_groups(model, config) if parameters is None else [dict(group) for group in parameters]
        self._check_groups(groups)
        optimizer = build_optimizer(groups, config, fused=self.device.type in ("cpu", "cuda"))
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        forward = vars(model).get("forward")
        self.model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._training_forward = self._withdraw_forward(forward)
        self._average = MovingAverage(model, config.ema) if config.ema is not None else None
        self._random: Mapping[str, Any] | None = None
        self._seconds_before = 0.0
        self._restore(resume)
        self._write_config(settings)
        self._log = MetricsLog(self.out, last_step=self.step_number) if self.is_main else None
        self._went_through_wrapper = False
        self._calls = 0
        if self.processes > 1:
            self.model.register_forward_pre_hook(self._note_forward)
        self._start_step()

    # ---- the loop ----

    def batches(
        self,
        data: Callable[[int], Any] | Dataset,
        *,
        batch_size: int | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        workers: int = 0,
    ) -> Iterator[Any]:
        """Yield the batches still to be trained on, on the run's device; each must be followed by one `step`.

        data: a function from the step (from 0) to that step's whole batch, the same each time it is asked; or a
            map-style dataset with `batch_size` rows a step, shuffled by (seed, epoch).
        batch_size: rows of one optimizer step over all processes and accumulation parts, for a dataset.
        collate: makes a batch of a list of examples; given it, the function may return a list of examples.
        workers: processes that make batches ahead of time; 0 makes them in the loop.

        With P processes and accumulation A a step's batch is cut into P x A nearly equal parts: each process gets its
        A parts, so neither changes what a step learns. A checkpoint is written when the loop comes back for more.
        """
        self._check_data(data, batch_size)
        accumulation = self.config.accumulation
        source = StepParts(
            data, batch_size, collate, first=self._accelerator.process_index * accumulation, count=accumulation,
            parts=self.processes * accumulation, seed=self.config.seed,
        )  # fmt: skip
        _set_modes(self._bare)
        own_forward = vars(self._bare).get("forward")
        if self._training_forward is not None:
            self._bare.forward = self._training_forward
        self._resume_randomness()
        self._started = time.monotonic()
        self._progress = ProgressLine(
            self.config.steps, self.step_number, self._style if self.is_main else "silent"
        )
        if self.step_number and self.step_number < self.config.steps:
            self._progress.say(f"resuming {self.out} at step {self.step_number}")
        try:
            for pieces in read_steps(source, range(self.step_number, self.config.steps), workers):
                for index, piece in enumerate(pieces):
                    expected = self._calls + 1
                    with self._gradient_sync(index == accumulation - 1):
                        yield move(piece, self.device)
                    if self._calls != expected:
                        raise RuntimeError("Call run.step once for every batch that run.batches yields.")
                if self.step_number % self.config.save_every == 0 or self.step_number == self.config.steps:
                    self.save()
        finally:
            self._progress.close()
            self._withdraw_forward(own_forward)

    def step(
        self, loss_sum: Tensor, tokens: int | float | Tensor, numbers: Mapping[str, float | Tensor] | None = None
    ) -> None:
        """Take the loss of the last batch; the last part of a step updates the weights.

        loss_sum: the loss summed, not averaged, over whatever `tokens` counts (tokens, pixels, rows). The gradient of
            a step is that of all its parts and processes together, divided by their whole count, so parts with more
            tokens weigh more, as they should.
        tokens: how many items `loss_sum` is over in this part.
        numbers: means over this part to log; they are averaged over the step weighted by `tokens`.

        Raises InputError if the loss or its gradient is no finite number; the weights are then as before the step.
        """
        if self.processes > 1 and not self._went_through_wrapper:
            raise RuntimeError("The loss did not come from run.model(...), so processes would drift apart.")
        self._accelerator.backward(loss_sum)
        count = torch.as_tensor(tokens, dtype=torch.float64, device=self.device)
        self._sums += torch.stack([loss_sum.detach().to(self._sums.dtype), count])
        for name, value in (numbers or {}).items():
            total, weight = self._numbers.get(name, (0.0, 0.0))
            detached = value.detach() if isinstance(value, Tensor) else value
            self._numbers[name] = (total + detached * count, weight + count)
        self._parts_done += 1
        self._calls += 1
        self._went_through_wrapper = False
        if self._parts_done == self.config.accumulation:
            self._update()

    def save(self) -> None:
        """Write a checkpoint of the present step now."""
        states = gather_object([random_states()]) if self.processes > 1 else [random_states()]
        if self.is_main:
            tensors = trainable_tensors(self._bare) if self.config.trainable_only else self._bare.state_dict()
            write_state(
                self.out,
                self.step_number,
                model=tensors,
                ema=self._average.average if self._average else None,
                optimizer=self._optimizer.state_dict(),
                state={
                    "seconds": self.seconds,
                    "random": states,
                    "ema_updates": self._average.updates if self._average else 0,
                },
                keep=self.config.keep,
            )
        self._accelerator.wait_for_everyone()

    def wait(self) -> None:
        """Return once every process of the run is here, so that what the first one wrote is there for the others."""
        self._accelerator.wait_for_everyone()

    def log(self, numbers: Mapping[str, float]) -> None:
        """Append a row of one's own, such as an evaluation, to the log at the present step."""
        if self._log is not None:
            self._log.append({"step": self.step_number, **{name: float(value) for name, value in numbers.items()}})

    def ema_weights(self) -> AbstractContextManager[None]:
        """Inside the block the model has its averaged weights; InputError if the run keeps no average."""
        if self._average is None:
            raise InputError("This run keeps no average of its weights, so there is none to use. Set ema, e.g. 0.999.")
        return self._average.applied()

    def autocast(self) -> AbstractContextManager[None]:
        """The run's precision, for computations outside the forward pass of `run.model`."""
        return self._accelerator.autocast()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self._seconds_before + (time.monotonic() - self._started)

    # ---- inside a step ----

    def _start_step(self) -> None:
        self._parts_done = 0
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, tokens
        self._numbers: dict[str, tuple[Any, Any]] = {}

    def _update(self) -> None:
        loss_sum, tokens = self._accelerator.reduce(self._sums, "sum").tolist()
        step = self.step_number + 1
        if not tokens > 0:
            raise InputError(
                f"Step {step} counted {tokens:g} tokens, so its loss has no mean. "
                "Leave out batches with nothing to learn."
            )
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        # Gradients are sums over this process's parts, averaged over processes by DDP.
        torch._foreach_mul_(gradients, self.processes / tokens)
        norm = self._accelerator.clip_grad_norm_(self._parameters, self.config.clip or math.inf)
        loss, gradient_norm = loss_sum / tokens, float(norm)
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise InputError(
                f"At step {step} the loss is {loss:g} and its gradient's norm {gradient_norm:g}, so the weights were "
                "not updated. Check the data, lower learning_rate, or clip harder, and resume from the last checkpoint."
            )
        factor = learning_rate_factor(self.config, self.step_number)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update()
        self.step_number = step
        if step == 1 or step % self.config.log_every == 0 or step == self.config.steps:
            self._write_row(loss, tokens, gradient_norm, self.config.learning_rate * factor)
        self._start_step()

    def _write_row(self, loss: float, tokens: float, gradient_norm: float, rate: float) -> None:
        sums = {name: (float(total), float(weight)) for name, (total, weight) in self._numbers.items()}
        gathered = gather_object([sums]) if self.processes > 1 else [sums]
        if self._log is None:
            return
        row: dict[str, float | int] = {
            "step": self.step_number,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "tokens": tokens,
        }
        for name in dict.fromkeys(name for part in gathered for name in part):
            pairs = [part[name] for part in gathered if name in part]
            weight = sum(pair[1] for pair in pairs)
            row[name] = sum(pair[0] for pair in pairs) / weight if weight else math.nan
        row["seconds"] = round(self.seconds, 3)
        self._log.append(row)
        self._progress.update(row)

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext() if is_last or self.processes == 1 else self._accelerator.no_sync(self.model)

    def _note_forward(self, module: nn.Module, arguments: Any) -> None:
        self._went_through_wrapper = True

    def _withdraw_forward(self, own: Any) -> Any:
        """Give the model back the forward it came with; accelerate's, which runs in bf16, is for the loop only."""
        for mark in ("_original_forward", "_is_accelerate_prepared"):
            vars(self._bare).pop(mark, None)
        patched = vars(self._bare).pop("forward", None)
        if own is not None:
            self._bare.forward = own
        return patched if patched is not own else None

    # ---- starting and resuming ----

    def _check_groups(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
        groups[:] = [group for group in groups if group["params"]]
        if not groups:
            raise InputError("Every parameter of the model is frozen, so nothing can be trained. Unfreeze a part.")

    def _check_data(self, data: Any, batch_size: int | None) -> None:
        if batch_size is not None and not (hasattr(data, "__getitem__") and len(data) and batch_size >= 1):
            raise InputError(
                "`batch_size` goes with a dataset that has items and a length. "
                "Pass such a dataset and at least 1, or leave it out for a function of the step."
            )
        if batch_size is None and not callable(data):
            raise InputError(f"A {type(data).__name__} needs a `batch_size` to be cut into batches. Pass batch_size=.")

    def _resume_randomness(self) -> None:
        index = self._accelerator.process_index
        states = self._random["random"] if self._random else []
        if index < len(states):
            set_random_states(states[index])
        else:
            seed_everything(self.config.seed + index + 1_000_003 * self.step_number)
        self._random = None

    def _restore(self, resume: bool) -> None:
        self._started = time.monotonic()
        folders = checkpoint_folders(self.out)
        if self.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.out)
        if not folders:
            return
        if not resume:
            raise InputError(
                f"{self.out} already holds a run at {folders[-1].name}, which would be overwritten. "
                "Resume it, or pass another folder."
            )
        self._check_same_config()
        tensors, average, optimizer, state = read_state(folders[-1])
        report = load_into(self._bare, tensors, strict=False)
        needed = trainable_tensors(self._bare)
        if report.unexpected or report.mismatched or any(name in needed for name in report.missing):
            raise CheckpointError(
                f"{folders[-1]} is of another model: {report}. "
                "Build the model it was started with, or use another folder."
            )
        try:
            self._optimizer.load_state_dict(optimizer)
        except ValueError as error:
            raise CheckpointError(
                f"{folders[-1]} was trained with other parameter groups ({error}). Freeze and group as before."
            ) from error
        if self._average is not None:
            self._average.load(average or {}, state["ema_updates"])
        self.step_number = state["step"]
        self._seconds_before = state["seconds"]
        self._random = state

    def _check_same_config(self) -> None:
        path = self.out / "config.yaml"
        if not path.exists():
            return
        before = yaml.safe_load(path.read_text(encoding="utf-8"))["run"]
        now = _plain(self.config)
        changed = [
            f"{name} {before[name]!r}, now {now[name]!r}"
            for name in now
            if name not in MAY_CHANGE_ON_RESUME and name in before and before[name] != now[name]
        ]
        if changed:
            raise InputError(
                f"{self.out} was started with {'; '.join(changed)}, so going on would be another run. "
                "Use the former values, or another folder."
            )

    def _write_config(self, settings: Any) -> None:
        if not self.is_main:
            return
        content = {
            "run": _plain(self.config),
            "settings": _plain(settings) if settings is not None else {},
            "device": str(self.device),
            "processes": self.processes,
        }
        write_text(self.out / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def _accelerator(device: str, precision: str, unused_parameters: bool) -> Accelerator:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()):
        raise InputError(f"The device {device!r} is unknown. Pass auto, cpu, cuda or cuda:1.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("The device 'cuda' was asked for, and torch sees none here. Pass cpu, or auto.")
    if index:
        if int(index) >= torch.cuda.device_count():
            raise InputError(f"There is no {device}, only {torch.cuda.device_count()} devices. Pass a lower number.")
        torch.cuda.set_device(int(index))
    # Accelerate keeps its settings per process; a second run may want another precision or device.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        cpu=kind == "cpu" or not torch.cuda.is_available(),
        mixed_precision=precision,
        # Given here so that no environment variable makes accelerate divide the loss a second time.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)],
    )
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in supported:
        raise InputError(
            f"The launcher asks for {accelerator.distributed_type.value}, which a run cannot save and resume. "
            "Launch it with torchrun, or with accelerate's MULTI_GPU or MULTI_CPU."
        )
    return accelerator


def _set_modes(model: nn.Module) -> None:
    """Training mode for the model, evaluation mode for the parts of it that are frozen as a whole."""
    model.train()
    for part in model.modules():
        own = list(part.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            part.eval()


def _plain(value: Any) -> Any:
    """A dataclass as plain values that YAML holds."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(member) for member in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
