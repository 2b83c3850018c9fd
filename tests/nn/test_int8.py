"""Layers of bytes against the same sums in integers and float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diorama.nn import int8
from diorama.nn.int8 import Codes, Int8LayerNorm, Int8Linear, has_int8_kernels, int8_products, to_bytes
from diorama.nn.quantisers import UniformQuantiser

pytestmark = pytest.mark.skipif(not has_int8_kernels(), reason="this CPU has no VNNI instructions")

GIVEN = Codes(0.05, 3, 8)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def layer_case(weight_bits: int, given: Codes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes (6, 37), weights (29, 37) as whole numbers of a range that holds 0, their scales and a bias."""
    codes = torch.randint(0, given.levels, (6, 37), dtype=torch.uint8)
    zero = torch.randint(0, 2**weight_bits, (29, 1))
    weight = torch.randint(0, 2**weight_bits, (29, 37)) - zero
    return codes, weight, torch.rand(29) * 0.02 + 0.01, torch.randn(29)


def reference(codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, given: Codes) -> Tensor:
    """float64 (6, 29)."""
    sums = (codes.long() - given.zero) @ weight.t()
    return sums.double() * (given.scale * scale.double()) + bias.double()


@pytest.mark.parametrize("weight_bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("given", [GIVEN, Codes(0.02, 131, 256), Codes(0.02, -9, 16), Codes(0.02, 400, 256)])
def test_linear_gives_the_exact_sums(weight_bits: int, given: Codes) -> None:
    codes, weight, scale, bias = layer_case(weight_bits, given)
    layer = Int8Linear(weight, scale, bias, given)
    assert layer.fused == (weight_bits < 8)
    wanted = reference(codes, weight, scale, bias, given)
    torch.testing.assert_close(layer(codes).double(), wanted, rtol=1e-5, atol=1e-4)
    assert torch.equal(layer(codes.view(2, 3, 37)), layer(codes).view(2, 3, 29))
    without = Int8Linear(weight, scale, None, given)
    torch.testing.assert_close(without(codes).double(), wanted - bias.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("weight_bits", [3, 8])
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("out", [Codes(0.4, 3, 8), Codes(0.02, 120, 256), Codes(0.4, -2, 8)])
def test_linear_gives_codes(weight_bits: int, activation: str, out: Codes) -> None:
    codes, weight, scale, bias = layer_case(weight_bits, GIVEN)
    wanted = reference(codes, weight, scale, bias, GIVEN)
    wanted = F.gelu(wanted) if activation == "gelu" else wanted
    places = ((wanted / out.scale).round() + out.zero).clamp(0, out.levels - 1)
    found = Int8Linear(weight, scale, bias, GIVEN, activation=activation, out=out)(codes)  # type: ignore[arg-type]
    assert found.dtype == torch.uint8
    assert (found.double() - places).abs().max() <= 1
    assert (found.double() != places).double().mean() <= 0.01
    if activation == "none":
        signed = Int8Linear(weight, scale, bias, GIVEN, out=out, signed=True)(codes)
        assert signed.dtype == torch.int8
        assert (signed.double() + out.offset - places).abs().max() <= 1
        assert (signed.double() + out.offset != places).double().mean() <= 0.01


def test_floats_become_codes_first() -> None:
    codes, weight, scale, bias = layer_case(4, GIVEN)
    layer = Int8Linear(weight, scale, bias, GIVEN)
    floats = (codes.float() - GIVEN.zero) * GIVEN.scale
    assert torch.equal(layer(floats), layer(codes))


@pytest.mark.parametrize("bits, shift", [(3, 0.0), (8, 0.0), (8, 4.0), (4, 3.0)])
def test_codes_are_those_of_the_quantiser(bits: int, shift: float) -> None:
    x = torch.randn(50, 40) + shift
    quantiser = UniformQuantiser(bits)
    quantiser.fit(x)
    codes = Codes(float(quantiser.scale), int(quantiser.zero_point), quantiser.levels)
    away = (codes.of(x).int() - quantiser.codes(x)).abs()
    assert int(away.max()) <= 1 and (away > 0).float().mean() <= 0.001
    signed = quantiser.codes(x) - codes.offset
    assert int(signed.min()) >= -128 and int(signed.max()) <= 127
    assert codes.offset + codes.rest == codes.zero


def test_layer_norm_gives_the_codes_of_its_output() -> None:
    x, weight, bias = torch.randn(7, 5, 48) * 3, torch.rand(48) + 0.5, torch.randn(48)
    for out in (Codes(0.3, 4, 8), Codes(0.02, 128, 256)):
        wanted = ((F.layer_norm(x, (48,), weight, bias, 1e-6) / out.scale).round() + out.zero).clamp(0, out.levels - 1)
        found = Int8LayerNorm(weight, bias, 1e-6, out)(x)
        assert found.dtype == torch.uint8
        assert ((found.float() - wanted).abs() > 0).float().mean() <= 0.01
        assert (found.float() - wanted).abs().max() <= 1


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8])
@pytest.mark.parametrize("small", [0, 2**19])
def test_products_are_exact_at_the_largest_bytes(
    kind: torch.dtype, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "SMALL", small)  # either way of taking them
    most = torch.iinfo(kind)
    a = torch.randint(most.min, most.max + 1, (3, 17, 70), dtype=torch.int32)
    a[0], a[1] = most.max, most.min
    b = torch.randint(-128, 128, (3, 70, 9), dtype=torch.int32)
    b[:2, :, :4], b[:2, :, 4:] = -128, 127
    found = int8_products(a.to(kind), b.to(torch.int8))
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.matmul(a, b).float())
    assert torch.equal(int8_products(a.to(kind), b.to(torch.int8).mT.contiguous().mT), found)


def test_bytes_of_whole_floats() -> None:
    for most in (7, 127, 128, 255):
        whole = torch.arange(most + 1)
        assert torch.equal(to_bytes(whole.float(), most), whole.to(torch.uint8))


def test_long_sums_of_large_bytes_are_exact() -> None:
    a = torch.full((1, 2, 700), 255, dtype=torch.uint8)
    b = torch.full((1, 700, 2), -128, dtype=torch.int8)
    b[:, 0] = -127
    assert int8_products(a, b)[0, 0, 0] == -255 * (128 * 699 + 127)
