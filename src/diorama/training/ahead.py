"""Make the next batch while the present one is learned from."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Ahead(Generic[Batch]):
    """`data(step)` computed one step ahead in a thread; what it returns for a step does not change."""

    def __init__(self, data: Callable[[int], Batch]):
        self._data = data
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")
        self._coming: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        coming = self._coming.pop(step, None)
        batch = coming.result() if coming is not None else self._data(step)
        self._coming = {step + 1: self._thread.submit(self._data, step + 1)}
        return batch
