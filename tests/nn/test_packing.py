"""Codes of 1 to 8 bits and back, for any length; bytes as the definition of the stream says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diorama.errors import InputError
from diorama.nn.packing import pack, packed_bytes, unpack


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 8).flatmap(lambda bits: st.tuples(
    st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=70))))
def test_round_trip_and_size(case):
    bits, codes = case
    packed = pack(torch.tensor(codes, dtype=torch.int64), bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-len(codes) * bits // 8) == packed_bytes(len(codes), bits)
    assert unpack(packed, bits, len(codes)).tolist() == codes


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8).flatmap(lambda bits: st.tuples(
    st.just(bits), st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40))))
def test_stream_is_little_endian_without_gaps(case):
    bits, codes = case
    number = sum(code << (place * bits) for place, code in enumerate(codes))
    assert bytes(pack(torch.tensor(codes), bits).tolist()) == number.to_bytes(packed_bytes(len(codes), bits), "little")


def test_shape_does_not_matter_and_any_integer_type_packs():
    codes = torch.arange(24).remainder(8).view(2, 3, 4)
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.int64):
        assert torch.equal(pack(codes.to(dtype), 3), pack(codes.flatten(), 3))


def test_transposed_codes_are_read_row_by_row():
    codes = torch.arange(12).view(3, 4)
    assert torch.equal(unpack(pack(codes.t(), 4), 4, 12), codes.t().flatten().to(torch.uint8))


def test_three_bits_take_three_bytes_for_eight_codes():
    assert pack(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), 3).tolist() == [0b11010001, 0b01011000, 0b00011111]


@pytest.mark.parametrize("codes, bits", [([8], 3), ([-1], 3), ([256], 8)])
def test_codes_that_do_not_fit_are_refused(codes, bits):
    with pytest.raises(InputError, match="do not fit"):
        pack(torch.tensor(codes), bits)


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_outside_one_to_eight_are_refused(bits):
    with pytest.raises(InputError, match="1 to 8"):
        pack(torch.zeros(3, dtype=torch.int64), bits)
    with pytest.raises(InputError, match="1 to 8"):
        unpack(torch.zeros(3, dtype=torch.uint8), bits, 3)


def test_a_wrong_number_of_bytes_is_refused():
    packed = pack(torch.zeros(9, dtype=torch.int64), 3)
    with pytest.raises(InputError, match="9 codes of 3 bits are 4 bytes"):
        unpack(packed[:3], 3, 9)
