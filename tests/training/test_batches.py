from dataclasses import dataclass

import numpy as np
import pytest
import torch

from diorama.errors import InputError
from diorama.training.batches import StepParts, count_rows, move, part, read_steps, row_indices, take


@dataclass(frozen=True)
class Batch:
    image: torch.Tensor
    captions: list
    size: int = 64


def parts_of(data, parts, **options):
    defaults = {"first": 0, "count": parts, "batch_size": None, "collate": None, "seed": 0}
    return StepParts(data, parts=parts, **{**defaults, **options})[0]


def test_every_item_is_seen_once_an_epoch_even_when_batches_cross_its_end():
    rows = [row for step in range(7) for row in row_indices(7, 3, step, seed=5)]
    for epoch in range(3):
        assert sorted(rows[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert row_indices(7, 3, 4, seed=5) == rows[12:15]
    assert row_indices(7, 3, 4, seed=6) != rows[12:15]


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(row_indices(2, 5, 0, seed=0)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_parts_cover_the_rows_once_and_are_nearly_equal():
    slices = [part(11, index, 4) for index in range(4)]
    assert [row for rows in slices for row in range(11)[rows]] == list(range(11))
    assert {rows.stop - rows.start for rows in slices} == {2, 3}


def test_an_empty_part_is_refused():
    with pytest.raises(InputError, match="3 rows cannot be cut into 4 parts"):
        part(3, 0, 4)


def test_a_batch_is_cut_along_its_rows_whatever_holds_them():
    batch = Batch(torch.arange(4.0), list("abcd"))
    first, second = parts_of(lambda step: batch, 2)
    assert first.image.tolist() == [0, 1] and second.captions == ["c", "d"] and second.size == 64
    nested = {"pair": (np.arange(4), torch.zeros(4, 2)), "name": "x", "scale": torch.tensor(2.0)}
    second = take(nested, slice(2, 4))
    assert second["pair"][0].tolist() == [2, 3] and second["name"] == "x" and second["scale"] == 2.0


def test_one_part_is_the_batch_itself():
    batch = object()
    assert parts_of(lambda step: batch, 1) == [batch]


def test_members_with_other_row_counts_need_examples_and_collate():
    ragged = {"ids": torch.zeros(4, 2), "images": torch.zeros(6, 3)}
    with pytest.raises(InputError, match=r"4 and 6 rows.*collate"):
        count_rows(ragged)
    examples = [torch.full((n,), n) for n in (1, 2, 3, 4)]
    assert [p.tolist() for p in parts_of(lambda step: examples, 2, collate=torch.cat)] == [
        [1, 2, 2],
        [3, 3, 3, 4, 4, 4, 4],
    ]


def test_a_process_reads_only_its_own_rows():
    read = []

    class Rows:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            read.append(index)
            return torch.tensor(index)

    (piece,) = parts_of(Rows(), 4, first=1, count=1, batch_size=8)
    assert piece.tolist() == read == row_indices(8, 8, 0, seed=0)[2:4]


def test_moving_keeps_the_kind():
    moved = move(Batch(torch.zeros(2), ["a", "b"]), torch.device("meta"))
    assert isinstance(moved, Batch) and moved.image.is_meta and moved.captions == ["a", "b"]


def test_worker_processes_give_the_same_batches_in_the_same_order():
    source = StepParts(torch.arange(12).reshape(6, 2), 4, None, first=0, count=2, parts=2, seed=3)
    alone = [[piece.tolist() for piece in pieces] for pieces in read_steps(source, range(2, 7), workers=0)]
    helped = [[piece.tolist() for piece in pieces] for pieces in read_steps(source, range(2, 7), workers=1)]
    assert helped == alone and len(alone) == 5 and len(alone[0]) == 2


def test_examples_are_asked_for_when_collate_is_given():
    with pytest.raises(InputError, match="Return a list of examples"):
        parts_of(lambda step: {"x": 1}, 1, collate=list)
