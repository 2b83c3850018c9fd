"""The text-to-image model: saving, public layouts, text with and without order, training that resumes exactly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtTransformer2DModel,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from diorama.diffusion import image_data, image_training
from diorama.diffusion.image_training import Recipe, choose, standardise, time_weights
from diorama.diffusion.networks import read_scheduler
from diorama.diffusion.schedules import scaled_linear, zero_terminal_snr
from diorama.diffusion.text import joined
from diorama.diffusion.text_to_image import MiniatureConfig, TextToImage, build_autoencoder, build_miniature
from diorama.errors import CheckpointError, InputError
from diorama.language.word_tokenizer import build_word_tokenizer
from diorama.media.images import save_image
from diorama.training import RunConfig

TINY = MiniatureConfig(image_size=16, latent_channels=4, autoencoder_widths=(8, 8), width=32, layers=2, tokens=4,
                       text_width=32, text_layers=1, words=16)
CAPTIONS = ["a red cube and a blue sphere", "a blue cube and a red sphere"]


def tiny(seed: int = 0, **changes) -> TextToImage:
    torch.manual_seed(seed)
    return build_miniature(replace(TINY, **changes), device="cpu")


@pytest.mark.parametrize("changes", [{}, {"latent": False}, {"text": "bag"}], ids=["latent", "pixel", "bag"])
def test_a_saved_model_draws_the_same_pictures(changes: dict, tmp_path: Path) -> None:
    model = tiny(**changes)
    drawn = model.generate(CAPTIONS, steps=3, seed=5)
    assert drawn.shape == (2, 3, 16, 16) and drawn.dtype == torch.uint8
    model.save_pretrained(tmp_path / "model", card="made in a test")
    again = TextToImage.from_pretrained(tmp_path / "model", device="cpu")
    assert torch.equal(again.generate(CAPTIONS, steps=3, seed=5), drawn)
    assert torch.equal(again.generate(CAPTIONS[1:], steps=3, seed=6)[0], drawn[1]) or \
        (again.generate(CAPTIONS[1:], steps=3, seed=6)[0].int() - drawn[1].int()).abs().max() <= 1


def test_guidance_of_one_needs_no_unconditional_call() -> None:
    model = tiny()
    calls = []
    model.denoiser.predict = lambda x, times, condition: calls.append(len(x)) or torch.zeros_like(x)
    model.draw_latents(CAPTIONS, steps=3, guidance=1.0)
    assert len(calls) == 3
    model.draw_latents(CAPTIONS, steps=3, guidance=2.0)
    assert len(calls) == 9


def test_a_bag_of_words_is_blind_to_order_to_the_last_bit_and_a_transformer_is_not() -> None:
    shuffled = ["cube a red a and blue sphere", *CAPTIONS]
    bag, ordered = tiny(text="bag").encode_text(shuffled), tiny().encode_text(shuffled)
    assert bag.same_as(0) == [0, 1, 2]
    assert ordered.same_as(0) == [0] and ordered.same_as(1) == [1]


def test_captions_cut_to_the_same_words_are_the_same_and_padding_changes_nothing() -> None:
    model = tiny()
    long = "a red cube " * 6
    assert model.text.cut(long) and not model.text.cut("a red cube")
    assert model.encode_text([long + "left", long + "right", "a cube"]).same_as(0) == [0, 1]
    alone, beside = model.encode_text(["a red cube"]), model.encode_text(["a red cube", long])
    assert torch.allclose(alone.tokens[0], beside.tokens[0, : alone.tokens.shape[1]], atol=1e-6)
    both = joined([alone, model.encode_text([long])])
    x, index = torch.randn(1, *model.latent_shape), torch.tensor([500])
    a, b = model.denoiser(x, index, alone), model.denoiser(x, index, both.rows([0]))
    assert torch.allclose(a.clean, b.clean, atol=1e-4)
    assert model.text.unknown_words("a red dog") == ["dog"]


def test_latents_refuse_other_pixels() -> None:
    model = tiny()
    with pytest.raises(InputError, match="reads uint8"):
        model.to_latents(torch.zeros(1, 3, 16, 16))
    with pytest.raises(InputError, match="16, 16"):
        model.to_latents(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


# ---- public layouts ----------------------------------------------------------------------------------------------


def write_index(folder: Path, pipeline: str, parts: dict[str, list[str]]) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **parts}))


def unet(channels: int, out: int, width: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=out, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=width, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))


def t5() -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def words_tokenizer(folder: Path) -> None:
    build_word_tokenizer(["a", "red", "cube", "blue", "sphere", "and"], enclosed=True, max_length=12).save_pretrained(
        folder / "tokenizer")


def stable_diffusion(folder: Path) -> Path:
    unet(4, 4, 16).save_pretrained(folder / "unet")
    CLIPTextModel(CLIPTextConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                 num_attention_heads=2, max_position_embeddings=12)).save_pretrained(
        folder / "text_encoder")
    AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                  up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8, sample_size=16,
                  scaling_factor=0.5).save_pretrained(folder / "vae")
    PNDMScheduler(beta_start=8.5e-4, beta_end=1.2e-2, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler")
    words_tokenizer(folder)
    write_index(folder, "StableDiffusionPipeline", {
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"]})
    return folder


def pixart(folder: Path) -> Path:
    PixArtTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
                             cross_attention_dim=16, sample_size=8, caption_channels=16).save_pretrained(
        folder / "transformer")
    t5().save_pretrained(folder / "text_encoder")
    DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").save_pretrained(
        folder / "scheduler")
    words_tokenizer(folder)
    write_index(folder, "PixArtAlphaPipeline", {
        "transformer": ["diffusers", "PixArtTransformer2DModel"], "text_encoder": ["transformers", "T5EncoderModel"]})
    return folder


def deep_floyd(folder: Path) -> Path:
    unet(3, 6, 16).save_pretrained(folder / "unet")
    t5().save_pretrained(folder / "text_encoder")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range").save_pretrained(
        folder / "scheduler")
    words_tokenizer(folder)
    write_index(folder, "IFPipeline", {"unet": ["diffusers", "UNet2DConditionModel"],
                                       "text_encoder": ["transformers", "T5EncoderModel"]})
    return folder


@pytest.mark.parametrize("write, size, length, masked", [
    (stable_diffusion, 16, 12, False), (pixart, 8, 120, True), (deep_floyd, 8, 77, False)])
def test_public_layouts_load_and_their_learned_variance_is_cut_off(write, size, length, masked, tmp_path) -> None:
    torch.manual_seed(0)
    model = TextToImage.from_pretrained(write(tmp_path), device="cpu")
    assert model.image_size == size and model.text.limits.length == length and model.target == "eps"
    condition = model.encode_text(["a red cube", "a blue sphere"])
    assert condition.tokens.shape[:2] == (2, length) and (condition.mask is not None) == masked
    x = torch.randn(2, *model.latent_shape)
    said = model.denoiser(x, torch.tensor([500, 20]), condition)
    assert said.eps.shape == x.shape
    times = torch.tensor([500.0, 20.0])
    extra = {"added_cond_kwargs": {}} if write is pixart else {}
    with torch.no_grad():
        answer = model.network(x, timestep=times, encoder_hidden_states=condition.tokens,
                               encoder_attention_mask=condition.mask, return_dict=False, **extra)[0]
    assert torch.allclose(said.eps, answer[:, : x.shape[1]], atol=1e-6)


def test_latents_have_the_vaes_scale(tmp_path: Path) -> None:
    model = TextToImage.from_pretrained(stable_diffusion(tmp_path), device="cpu")
    pixels = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    mean = model.autoencoder.encode(pixels.float() / 127.5 - 1).latent_dist.mode()
    assert torch.allclose(model.to_latents(pixels), 0.5 * mean, atol=1e-6)
    assert torch.equal(model.to_latents(pixels), model.to_latents(pixels)), "the mean, never a draw"


def test_layouts_that_are_not_read_are_refused(tmp_path: Path) -> None:
    folder = stable_diffusion(tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["diffusers", "UNet3DConditionModel"]}))
    with pytest.raises(CheckpointError, match="UNet3DConditionModel"):
        TextToImage.from_pretrained(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        TextToImage.from_pretrained(folder)


@pytest.mark.parametrize("scheduler, target", [
    (DDIMScheduler(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=1.2e-2, prediction_type="v_prediction",
                   rescale_betas_zero_snr=True), "v"),
    (DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"), "x0"),
    (DDPMScheduler(trained_betas=[0.01, 0.1, 0.2]), "eps"),
])
def test_schedules_are_read_from_any_samplers_config(scheduler, target: str) -> None:
    schedule, found = read_scheduler(dict(scheduler.config))
    assert found == target
    kept = slice(0, len(schedule) - 1)
    assert torch.allclose(schedule.alphas_cumprod.float()[kept], scheduler.alphas_cumprod[kept], atol=2e-6)


def test_flow_schedulers_are_read_and_strange_ones_refused() -> None:
    schedule, target = read_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler",
                                       **FlowMatchEulerDiscreteScheduler(shift=3.0).config})
    assert target == "flow" and schedule.noise[499].item() == pytest.approx(0.75)
    for config, words in (({"prediction_type": "score"}, "score"), ({"beta_schedule": "sigmoid"}, "sigmoid"),
                          ({"_class_name": "FlowMatchX", "use_dynamic_shifting": True}, "dynamic")):
        with pytest.raises(CheckpointError, match=words):
            read_scheduler(config)


# ---- pictures and training ---------------------------------------------------------------------------------------


def test_the_worlds_pictures_are_kept_and_other_settings_refused(tmp_path: Path) -> None:
    config = image_data.WorldConfig(scenes=12, size=16, samples=1)
    made = image_data.world_pictures(tmp_path / "pictures", config)
    again = image_data.world_pictures(tmp_path / "pictures", config)
    assert np.array_equal(made.pixels, again.pixels) and made.captions == again.captions
    assert made.pixels.shape == (12, 3, 16, 16) and all(1 <= len(told) <= config.captions for told in made.captions)
    assert any("moves" in c or "slides" in c or "rises" in c or "quickly" in c or "slowly" in c or "grows" in c
               or "spins" in c or "appears" in c for told in made.captions for c in told)
    with pytest.raises(InputError, match="scenes differ"):
        image_data.world_pictures(tmp_path / "pictures", replace(config, scenes=13))


def test_a_folder_of_pictures_and_captions_is_read(tmp_path: Path) -> None:
    for name, size in (("one", (20, 10)), ("two", (16, 16))):
        save_image(tmp_path / f"{name}.png", np.full((size[1], size[0], 3), 200, dtype=np.uint8))
        (tmp_path / f"{name}.txt").write_text("a red cube\n\na cube\n")
    (tmp_path / "three.txt").write_text("no picture")
    read = image_data.folder_pictures(tmp_path, 16)
    assert read.pixels.shape == (2, 3, 16, 16) and read.captions == [["a red cube", "a cube"]] * 2
    assert read.words() == ["a", "cube", "red"]
    (tmp_path / "two.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"two.txt is empty"):
        image_data.folder_pictures(tmp_path, 16)
    with pytest.raises(InputError, match="holds no picture"):
        image_data.folder_pictures(tmp_path / "nowhere", 16)


def short(steps: int) -> Recipe:
    run = RunConfig(steps=steps, learning_rate=1e-3, schedule="constant", warmup=0, save_every=2, ema=0.9)
    return Recipe(miniature=TINY, autoencoder=replace(run, ema=None), network=run, autoencoder_batch=4, batch=4)


@pytest.fixture(scope="module")
def pictures() -> image_data.Pictures:
    return image_data.draw_world(image_data.WorldConfig(scenes=16, size=16, samples=1))


def test_training_resumes_exactly_and_leaves_snapshots(pictures, tmp_path: Path) -> None:
    autoencoder = image_training.train_autoencoder(pictures, short(2), tmp_path / "autoencoder", device="cpu")
    kept = image_training.load_autoencoder(tmp_path / "autoencoder" / "model")
    whole = image_training.train_text_to_image(pictures, short(4), tmp_path / "whole", autoencoder=autoencoder,
                                               snapshots=(2,), device="cpu")
    image_training.train_text_to_image(pictures, short(2), tmp_path / "parts", autoencoder=kept, device="cpu")
    parts = image_training.train_text_to_image(pictures, short(4), tmp_path / "parts", autoencoder=kept, device="cpu")
    first, second = whole.modules().state_dict(), parts.modules().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    early = TextToImage.from_pretrained(tmp_path / "whole" / "model-2", device="cpu").modules().state_dict()
    assert any(not torch.equal(early[name], first[name]) for name in first if name.startswith("network"))
    assert "Trained for 4 steps" in (tmp_path / "whole" / "model" / "README.md").read_text()
    assert not torch.equal(first["network.proj_out.weight"], torch.zeros_like(first["network.proj_out.weight"]))


def test_going_on_from_a_model_and_a_latent_one_without_autoencoder(pictures, tmp_path: Path) -> None:
    start = tiny(latent=False)
    before = start.modules().state_dict()["network.proj_out.weight"].clone()
    after = image_training.train_text_to_image(pictures, short(1), tmp_path / "on", init=start, device="cpu")
    assert after.autoencoder is None and not torch.equal(after.network.proj_out.weight, before)
    with pytest.raises(InputError, match="needs a trained autoencoder"):
        image_training.train_text_to_image(pictures, short(1), tmp_path / "none", device="cpu")


def test_standardised_latents_have_unit_variance_and_decode_to_the_same_pictures(pictures) -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(TINY)
    pixels = torch.from_numpy(pictures.pixels)
    values = pixels.float() / 127.5 - 1
    with torch.no_grad():
        before = autoencoder.decode(autoencoder.encode(values).latent_dist.mode()).sample
        standardise(autoencoder, pixels)
        latents = autoencoder.encode(values).latent_dist.mode()
        after = autoencoder.decode(latents).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_training_times_favor_the_middle_and_leave_none_out() -> None:
    schedule = zero_terminal_snr(scaled_linear())
    weights = time_weights(schedule, 0.25)
    assert weights.sum().item() == pytest.approx(1.0) and weights.min().item() >= 0.25 / 1000
    middle = (schedule.noise / (schedule.signal + schedule.noise) - 0.5).abs().argmin()
    assert weights[middle] > 2 * weights[0]


def test_captions_are_short_but_in_some_steps_and_those_that_tell_more_are_likelier() -> None:
    rng = np.random.default_rng(0)
    captions = ["an object", "a red cube and a blue cone", "one object: a red cube. it is on the left side"]
    drawn = [choose(captions, 7, rng) for _ in range(600)]
    assert set(drawn) == set(captions[:2])
    assert 0.75 < np.mean([one == captions[1] for one in drawn]) < 0.9, "4 names against none: 5 to 1"
    assert {choose(captions, 64, rng) for _ in range(60)} == set(captions)
    assert choose(captions, 1, rng) == captions[0], "the shortest where all are too long"
