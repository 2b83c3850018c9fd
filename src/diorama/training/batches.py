"""Which rows a process sees at a step: order from (seed, epoch), cutting a batch into equal parts, moving it.

A batch is a tensor, an array, a list with one entry a row, or a dict, tuple or dataclass of these; anything else in
it (a number, a word, None) belongs to all rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from diorama.errors import InputError


class Dataset(Protocol):
    """Map-style data: a length and an item a number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def row_indices(length: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The dataset indices of step `step` (from 0): epochs are permutations drawn from (seed, epoch), end to end.

    A batch that crosses the end of an epoch takes its other rows from the next one, so every batch has
    `batch_size` rows and every item is seen once an epoch.
    """
    rows: list[int] = []
    position = step * batch_size
    while len(rows) < batch_size:
        epoch, offset = divmod(position + len(rows), length)
        rows.extend(epoch_order(length, epoch, seed)[offset : offset + batch_size - len(rows)].tolist())
    return rows


@lru_cache(maxsize=2)
def epoch_order(length: int, epoch: int, seed: int) -> np.ndarray:
    """The permutation of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(length)


def part(rows: int, index: int, parts: int) -> slice:
    """The `index`-th of `parts` slices of `rows` rows whose sizes differ by one at most; InputError if one is empty."""
    if rows < parts:
        raise InputError(
            f"A batch of {rows} rows cannot be cut into {parts} parts (accumulation times processes). "
            f"Use batches of at least {parts} rows, or less accumulation."
        )
    return slice(rows * index // parts, rows * (index + 1) // parts)


def count_rows(batch: Any) -> int:
    """How many rows a batch has; InputError if its members disagree or none has rows."""
    sizes = set(_sizes(batch))
    if len(sizes) != 1:
        found = " and ".join(map(str, sorted(sizes))) or "no"
        raise InputError(
            f"A batch has members with {found} rows, so it cannot be cut into equal parts. "
            "Let the data return a list of examples, and pass `collate` to make a batch of each part."
        )
    return sizes.pop()


def take(batch: Any, rows: slice) -> Any:
    """The same kind of batch with only these rows."""
    if isinstance(batch, Tensor | np.ndarray):
        return batch[rows] if batch.ndim else batch
    if isinstance(batch, list):
        return batch[rows]
    return _rebuild(batch, lambda member: take(member, rows))


def move(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, list):
        return [move(member, device) for member in batch]
    return _rebuild(batch, lambda member: move(member, device))


@dataclass(frozen=True)
class StepParts:
    """The parts of each step's batch that one process trains on: item `step` is a list of `count` batches.

    A step's batch is cut into `parts` nearly equal parts, of which `first` .. `first + count - 1` are this process's.
    Being map-style itself, it can be read by the worker processes of a DataLoader.
    """

    data: Callable[[int], Any] | Dataset
    batch_size: int | None
    collate: Callable[[list[Any]], Any] | None
    first: int
    count: int
    parts: int
    seed: int

    def __getitem__(self, step: int) -> list[Any]:
        if self.batch_size is not None:
            return self._of_rows(step, self.batch_size)
        assert callable(self.data)
        batch = self.data(step)
        if self.collate is None:
            return [batch] if self.parts == 1 else [take(batch, rows) for rows in self._slices(count_rows(batch))]
        if not isinstance(batch, Sequence):
            raise InputError(
                f"The data returned a {type(batch).__name__} for step {step}, which `collate` cannot be applied to "
                "in parts. Return a list of examples, or leave `collate` out."
            )
        return [self.collate(list(batch[rows])) for rows in self._slices(len(batch))]

    def _of_rows(self, step: int, batch_size: int) -> list[Any]:
        dataset = cast(Dataset, self.data)
        rows = row_indices(len(dataset), batch_size, step, self.seed)
        make = self.collate or torch.utils.data.default_collate
        return [make([dataset[row] for row in rows[some]]) for some in self._slices(batch_size)]

    def _slices(self, rows: int) -> list[slice]:
        return [part(rows, index, self.parts) for index in range(self.first, self.first + self.count)]


def read_steps(source: StepParts, steps: range, workers: int) -> Iterator[list[Any]]:
    """The items of `source` in order; with `workers`, made ahead of time by that many processes."""
    if not workers:
        for step in steps:
            yield source[step]
        return
    # A generator of its own, or the loader would draw from the global one and change the model's dropout.
    generator = torch.Generator().manual_seed(source.seed)
    yield from torch.utils.data.DataLoader(
        cast(Any, source),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=generator,
    )


def _as_it_is(item: Any) -> Any:
    return item


def _sizes(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor | np.ndarray):
        if batch.ndim:
            yield batch.shape[0]
    elif isinstance(batch, list):
        yield len(batch)
    elif isinstance(batch, dict):
        for member in batch.values():
            yield from _sizes(member)
    elif isinstance(batch, tuple):
        for member in batch:
            yield from _sizes(member)
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            yield from _sizes(getattr(batch, field.name))


def _rebuild(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The same dict, tuple, named tuple or dataclass with each member changed; anything else as it is."""
    if isinstance(batch, dict):
        return {key: change(member) for key, member in batch.items()}
    if isinstance(batch, tuple):
        members = [change(member) for member in batch]
        return type(batch)(*members) if hasattr(batch, "_fields") else type(batch)(members)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: change(getattr(batch, f.name)) for f in fields(batch) if f.init})
    return batch
