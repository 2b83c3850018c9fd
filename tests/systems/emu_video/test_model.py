"""The network: identity at the start, the image model untouched for ever, what mixes over time and what does not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import nn

from diorama.diffusion.networks import predict
from diorama.diffusion.text import Condition
from diorama.diffusion.text_once import text_once
from diorama.errors import InputError
from diorama.systems.emu_video.conditioning import first_frame
from diorama.systems.emu_video.config import TemporalConfig
from diorama.systems.emu_video.model import (
    TemporalAttention,
    TemporalConv,
    VideoModel,
    emu_sites,
    inflate,
    is_spatial_convolution,
    positions,
)

PAPER = TemporalConfig(frames=5, head_dim=16)
READING = TemporalConfig(frames=5, head_dim=16, text_width=16)


@pytest.fixture(params=[PAPER, READING], ids=["paper", "reading"])
def config(request: pytest.FixtureRequest) -> TemporalConfig:
    """The paper's layers, and those that also read the caption."""
    return request.param


def disturb(video: VideoModel, scale: float = 0.1) -> None:
    """Move every added parameter away from where it starts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in video.added():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def per_frame(inputs) -> tuple:
    """The rows of the network's own: each time and text once a frame, channels last in memory."""
    rows = torch.arange(2).repeat_interleave(5)
    frames = inputs.sample.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return frames, inputs.times[rows], inputs.text.rows(rows)


@torch.no_grad()
def test_at_the_start_a_clip_is_its_frames_drawn_alone(backbone: nn.Module, config, inputs) -> None:
    """video(X, I, p) frame k == image(X_k, p) for every k and any I, to the bit."""
    base = copy.deepcopy(backbone)
    video = inflate(backbone, config)
    answer = video(*inputs.of_model, first_frame(inputs.image, 5))
    alone = predict(base, *per_frame(inputs))
    assert (answer.flatten(0, 1) - alone).abs().max() == 0.0


def test_the_image_model_is_the_same_to_the_bit_after_training(backbone: nn.Module, config, inputs) -> None:
    base = copy.deepcopy(backbone)
    video = inflate(backbone, config)
    learned = [parameter for parameter in video.parameters() if parameter.requires_grad]
    assert {id(p) for p in learned} == {id(p) for _, p in video.added()}, "only what was added learns"
    optimizer = torch.optim.AdamW(learned, lr=1e-2)
    before = video(*inputs.of_model, first_frame(inputs.image, 5)).detach()
    for _ in range(3):
        video(*inputs.of_model, first_frame(inputs.image, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = video(*inputs.of_model, first_frame(inputs.image, 5)).detach()
    assert not torch.equal(before, after), "the video network has learned"
    with torch.no_grad():
        assert torch.equal(video.images(*inputs.of_image), predict(base, *inputs.of_image))
    assert all(torch.equal(a, b) for a, b in zip(video.image.parameters(), base.parameters(), strict=True))


def test_every_added_layer_learns_from_the_first_or_second_step(backbone: nn.Module, config, inputs) -> None:
    """Pitfall 5: a residual whose input side is zero as well would never train."""
    video = inflate(backbone, config)
    optimizer = torch.optim.SGD([p for _, p in video.added()], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        video(*inputs.of_model, first_frame(inputs.image, 5)).square().mean().backward()
        optimizer.step()
    still = [name for name, p in video.added() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@torch.no_grad()
def test_nothing_given_is_the_same_as_zeros_to_the_bit(backbone: nn.Module, config, inputs) -> None:
    """A bias-free convolution of zeros adds nothing, ever: the path without an image stays the base's."""
    video = inflate(backbone, config)
    disturb(video)
    zeros = torch.zeros(2, 5, 5, 8, 8)
    assert torch.equal(video(*inputs.of_model), video(*inputs.of_model, zeros))
    assert not torch.equal(video(*inputs.of_model), video(*inputs.of_model, first_frame(inputs.image, 5)))


@torch.no_grad()
def test_spatial_layers_do_not_know_the_order_of_frames(backbone: nn.Module, config, inputs) -> None:
    """Before any training the network sees frames alone: permuted frames give permuted answers."""
    video, order = inflate(backbone, config), torch.tensor([3, 0, 4, 1, 2])
    shuffled = video(inputs.sample[:, order], inputs.times, inputs.text)
    torch.testing.assert_close(shuffled, video(*inputs.of_model)[:, order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_frames_and_clips_keep_their_order(backbone: nn.Module, config, inputs) -> None:
    """Pitfall 3: rows are batch-major. A change in one clip never shows in another, whichever frame it is in."""
    video = inflate(backbone, config)
    disturb(video)
    changed = copy.deepcopy(inputs)
    changed.sample[1, 2] += 1.0
    difference = (video(*inputs.of_model) - video(*changed.of_model)).abs().flatten(2).amax(-1)
    assert difference[0].max() < 1e-5
    assert (difference[1] > 1e-3).all(), "and reaches every frame of its own clip"
    alone = video(inputs.sample[1:], inputs.times[1:], inputs.text.rows([1]))
    torch.testing.assert_close(video(*inputs.of_model)[1:], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layers_are_silent_for_the_image_and_for_another_video_model(backbone: nn.Module, config, inputs) -> None:
    """Two video models share one image model, as F and the interpolator do."""
    first, second = inflate(backbone, config), inflate(backbone, config)
    before = second(*inputs.of_model)
    disturb(first)
    assert torch.equal(second(*inputs.of_model), before)
    assert not torch.equal(first(*inputs.of_model), before)


@torch.no_grad()
def test_a_copy_is_independent(backbone: nn.Module, config, inputs) -> None:
    video = inflate(backbone, config)
    before = video(*inputs.of_model)
    other = copy.deepcopy(video)
    disturb(other)
    assert torch.equal(video(*inputs.of_model), before)
    assert not torch.equal(other(*inputs.of_model), before)


def test_an_error_inside_leaves_the_layers_silent(backbone: nn.Module, config, inputs) -> None:
    video = inflate(backbone, config)
    with torch.no_grad():
        before = video.images(*inputs.of_image)
        disturb(video)
        with pytest.raises(RuntimeError):
            video(inputs.sample, inputs.times, Condition(inputs.text.tokens[..., :3]))
        assert torch.equal(video.images(*inputs.of_image), before)


def test_where_the_layers_go(backbone: nn.Module) -> None:
    """Behind every spatial convolution and attention layer; behind every block of a transformer."""
    sites = {name: kinds for name, kinds, _ in emu_sites(backbone)}
    convolutions = {name for name, module in backbone.named_modules() if is_spatial_convolution(module)}
    if convolutions:
        assert {name for name, kinds in sites.items() if "convolution" in kinds} == convolutions
        resizing = {"down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv"}
        assert {"conv_in", "conv_out", *resizing} <= set(sites)
        assert not any("conv_shortcut" in name or "proj_in" in name for name in sites), "one pixel is not spatial"
        attended = [name for name, kinds in sites.items() if "attention" in kinds]
        assert attended == [n for n, m in backbone.named_modules() if type(m).__name__ == "BasicTransformerBlock"]
    else:
        assert sites == {f"transformer_blocks.{k}": ("convolution", "attention") for k in range(2)}


# ---- the layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10, 6, 4, 3), (10, 12, 6)], ids=["pixels", "tokens"])
def test_temporal_convolution_is_conv1d_over_the_frames_of_each_position(shape: tuple[int, ...]) -> None:
    layer = TemporalConv(6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    hidden = torch.randn(shape)
    tokens = hidden.flatten(2).transpose(1, 2) if len(shape) == 4 else hidden          # (N, P, C)
    clips = tokens.reshape(2, 5, 12, 6).permute(0, 2, 3, 1).reshape(24, 6, 5)
    wanted = F.conv1d(clips, layer.weight, layer.bias, padding=1).reshape(2, 12, 6, 5).permute(0, 3, 1, 2)
    found = layer(hidden, num_frames=5)
    assert found.shape == hidden.shape
    found = found.flatten(2).transpose(1, 2) if len(shape) == 4 else found
    torch.testing.assert_close(found.reshape(2, 5, 12, 6), wanted, rtol=0, atol=1e-5)


def test_temporal_convolution_starts_as_the_identity_and_an_even_kernel_is_refused() -> None:
    hidden = torch.randn(10, 6, 4, 3)
    assert torch.equal(TemporalConv(6, kernel=5)(hidden, num_frames=5), hidden)
    with pytest.raises(InputError, match="no middle"):
        TemporalConfig(kernel=4)


def test_temporal_attention_is_plain_attention_over_the_frames_of_each_position() -> None:
    layer = TemporalAttention(32, head_dim=16)
    nn.init.normal_(layer.narrow.weight)
    hidden = torch.randn(10, 6, 32)
    wanted = torch.empty_like(hidden)
    for clip in range(2):
        for place in range(6):
            rows = [clip * 5 + t for t in range(5)]
            x = hidden[rows, place]
            q, k, v = layer.qkv(layer.attention_norm(x) + positions(5, 32)).chunk(3, -1)
            heads = [torch.softmax(q[:, h] @ k[:, h].T / 4, -1) @ v[:, h] for h in (slice(0, 16), slice(16, 32))]
            attended = x + layer.out(torch.cat(heads, -1))
            wanted[rows, place] = x + layer.narrow(F.gelu(layer.widen(layer.mlp_norm(attended))))
    torch.testing.assert_close(layer(hidden, num_frames=5), wanted, rtol=0, atol=1e-5)


def test_without_positions_temporal_attention_does_not_know_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = TemporalAttention(32, head_dim=16)
    nn.init.normal_(layer.narrow.weight)
    hidden, order = torch.randn(10, 6, 32), torch.tensor([3, 0, 4, 1, 2])
    shuffled = hidden.unflatten(0, (2, 5))[:, order].flatten(0, 1)

    def frames_of(x: torch.Tensor) -> torch.Tensor:
        return layer(x, num_frames=5).unflatten(0, (2, 5))

    assert (frames_of(shuffled) - frames_of(hidden)[:, order]).abs().max() > 1e-2
    monkeypatch.setattr("diorama.systems.emu_video.model.positions", lambda frames, channels: torch.zeros(frames, 32))
    torch.testing.assert_close(frames_of(shuffled), frames_of(hidden)[:, order], rtol=0, atol=1e-5)


def test_with_one_frame_temporal_attention_is_its_value_path() -> None:
    layer = TemporalAttention(32, head_dim=16)
    x = torch.randn(3, 1, 6, 32)
    torch.testing.assert_close(layer.attend(x), layer.out(layer.qkv(x).chunk(3, -1)[2]), rtol=0, atol=1e-6)


def test_results_do_not_depend_on_other_positions_or_on_the_length_of_the_batch() -> None:
    """Pitfall 2: norms that run over T x H x W jointly would make both untrue."""
    layer = TemporalAttention(32, head_dim=16)
    nn.init.normal_(layer.narrow.weight)
    hidden = torch.randn(10, 6, 32)
    other = hidden.clone()
    other[:, 3:] = 7.0
    torch.testing.assert_close(layer(hidden, num_frames=5)[:, :3], layer(other, num_frames=5)[:, :3])
    torch.testing.assert_close(layer(hidden, num_frames=5)[:5], layer(hidden[:5], num_frames=5))


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_refused(backbone: nn.Module, config, inputs) -> None:
    video = inflate(backbone, config)
    with pytest.raises(InputError, match=r"noisy clip of shape \(2, 4, 8, 8\)"):
        video(*inputs.of_image)
    with pytest.raises(InputError, match="given frames have the shape"):
        video(*inputs.of_model, first_frame(inputs.image, 4))
    with pytest.raises(InputError, match="2 clips came with times"):
        video(inputs.sample, inputs.times[:1], inputs.text)


def test_networks_that_cannot_be_inflated_are_named() -> None:
    plain = UNet2DModel(sample_size=8, block_out_channels=(32,), layers_per_block=1, norm_num_groups=8,
                        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False)
    with pytest.raises(InputError, match="no attention layer"):
        inflate(plain, PAPER)
    with pytest.raises(InputError, match="no input convolution"):
        inflate(nn.Sequential(nn.Linear(3, 3)), PAPER)
    with pytest.raises(InputError, match="does not divide into temporal heads"):
        TemporalAttention(48, head_dim=32)


@torch.no_grad()
def test_text_is_looked_at_once_a_clip(backbone: nn.Module, config, inputs) -> None:
    """Keys and values of the captions are computed for one row a clip at the first step, and the answers are the same;
    afterwards the image model is as it was."""
    video = inflate(backbone, config)
    disturb(video)
    names = [name for name, _ in video.image.named_modules()]
    plain = [video(*inputs.of_model), video(inputs.sample * 0.5, inputs.times, inputs.text)]
    rows = []
    layer = next(m.to_k for m in video.image.modules() if getattr(m, "is_cross_attention", False))
    layer.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    with text_once(video.image) as memory:
        told = memory.of(inputs.text)
        kept = [video(inputs.sample, inputs.times, told), video(inputs.sample * 0.5, inputs.times, told)]
    assert rows == [2], "once, two captions"
    for a, b in zip(plain, kept, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in video.image.named_modules()] == names
    other = Condition(inputs.text.tokens.flip(0), inputs.text.mask)
    assert not torch.equal(video(inputs.sample, inputs.times, other), plain[0])


@torch.no_grad()
def test_half_precision_takes_float_inputs(backbone: nn.Module, config, inputs) -> None:
    video = inflate(backbone.bfloat16(), config)
    disturb(video)
    answer = video(*inputs.of_model, first_frame(inputs.image, 5))
    assert answer.dtype == torch.float32 and torch.isfinite(answer).all()


def test_only_layers_that_read_hear_of_a_word_that_the_frozen_ones_ignore(backbone: nn.Module, inputs) -> None:
    """The image model is deaf to the caption; the video pass still answers to it where its own layers read."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "attn2.to_v" in name:
                parameter.zero_()
        other = Condition(inputs.text.tokens.flip(-1), inputs.text.mask)
        for config, hears in ((PAPER, False), (READING, True)):
            video = inflate(backbone, config)
            disturb(video)
            first, second = video(*inputs.of_model), video(inputs.sample, inputs.times, other)
            assert torch.equal(first, second) is not hears
            assert torch.equal(video.images(*inputs.of_image), video.images(inputs.image, inputs.times, other))


@torch.no_grad()
def test_padding_is_not_read(backbone: nn.Module, inputs) -> None:
    video = inflate(backbone, READING)
    disturb(video)
    noisy = inputs.text.tokens + 5 * (~inputs.text.mask).unsqueeze(-1) * torch.randn(2, 7, 16)
    answer = video(inputs.sample, inputs.times, Condition(noisy, inputs.text.mask))
    torch.testing.assert_close(answer, video(*inputs.of_model), rtol=1e-4, atol=1e-5)
