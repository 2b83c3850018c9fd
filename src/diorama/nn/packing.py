"""Codes of 1 to 8 bits, packed without gaps into bytes: code i is the bits [i b, (i + 1) b) of a little-endian stream.

Eight codes fill b whole bytes, so a tensor of n codes takes ceil(n b / 8) bytes; unused bits of the last byte are 0.
"""

import torch
from torch import Tensor

from diorama.errors import InputError

GROUP = 8
"""Codes that fill a whole number of bytes at every number of bits."""


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 (ceil(n bits / 8),) of integer codes of any shape with n elements, read in row-major order.

    Raises InputError if a code lies outside [0, 2^bits).
    """
    _check_bits(bits)
    flat = codes.reshape(-1)
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= 2**bits):
        raise InputError(f"Codes from {int(flat.min())} to {int(flat.max())} do not fit {bits} bits. "
                         f"Pass codes in [0, {2**bits - 1}], or more bits.")
    groups = torch.zeros(-(flat.numel() // -GROUP) * GROUP, dtype=torch.int64, device=flat.device)
    groups[: flat.numel()] = flat
    words = (groups.view(-1, GROUP) << _steps(GROUP, bits, flat)).sum(1, keepdim=True)
    stream = (words >> _steps(bits, 8, flat)) & 255
    return stream.to(torch.uint8).reshape(-1)[: packed_bytes(flat.numel(), bits)].clone()


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """uint8 (count,) of what `pack` made. Raises InputError if the number of bytes is another."""
    _check_bits(bits)
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.numel() != packed_bytes(count, bits):
        raise InputError(f"{count} codes of {bits} bits are {packed_bytes(count, bits)} bytes, and a {packed.dtype} "
                         f"tensor of the shape {list(packed.shape)} arrived. Pass what `pack` made.")
    stream = torch.zeros(-(count // -GROUP), bits, dtype=torch.int64, device=packed.device)
    stream.view(-1)[: packed.numel()] = packed
    words = (stream << _steps(bits, 8, packed)).sum(1, keepdim=True)
    codes = (words >> _steps(GROUP, bits, packed)) & (2**bits - 1)
    return codes.to(torch.uint8).reshape(-1)[:count].clone()


def _steps(count: int, step: int, like: Tensor) -> Tensor:
    return torch.arange(0, count * step, step, device=like.device)


def _check_bits(bits: int) -> None:
    if bits not in range(1, 9):
        raise InputError(f"{bits} bits were asked for; codes of 1 to 8 bits can be packed. Pass one of these.")
