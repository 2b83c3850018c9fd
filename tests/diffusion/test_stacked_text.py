"""Stable Diffusion 3: three text towers as diffusers' pipeline reads them, the transformer over both, a flow."""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError, InputError
from diorama.language.word_tokenizer import build_word_tokenizer
from diorama.systems.selfeval.config import Elimination, Estimator
from diorama.systems.selfeval.pipeline import SelfEval

CAPTIONS = ["a red cube and a blue sphere", "a blue cube and a red sphere", ""]


def clip_tower(width: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=40, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, projection_dim=8, bos_token_id=1, eos_token_id=2, pad_token_id=0)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sd3")
    clip_tower(16).save_pretrained(folder / "text_encoder")
    clip_tower(24).save_pretrained(folder / "text_encoder_2")
    T5EncoderModel(T5Config(vocab_size=40, d_model=48, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        folder / "text_encoder_3")
    words = build_word_tokenizer(["a", "red", "cube", "blue", "sphere", "and"], enclosed=True, max_length=12)
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        words.save_pretrained(folder / name)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=16,
        pos_embed_max_size=8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder / "transformer")
    AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
                  up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, sample_size=16, scaling_factor=1.5,
                  shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False).save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    write_index(folder, ["transformers", "T5EncoderModel"])
    return folder


def write_index(folder: Path, third: list) -> None:
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "text_encoder_3": third}))


@pytest.fixture(scope="module")
def model(folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(folder, device="cpu")


@torch.no_grad()
def test_text_is_encoded_and_denoised_as_diffusers_pipeline_does(model: TextToImage) -> None:
    towers, names = list(model.text.tower), model.text.tokenizers
    pipeline = StableDiffusion3Pipeline(
        model.network, FlowMatchEulerDiscreteScheduler(shift=3.0), model.autoencoder, towers[0], names[0], towers[1],
        names[1], towers[2], names[2])
    pipeline.tokenizer_max_length = 12
    tokens, _, pooled, _ = pipeline.encode_prompt(CAPTIONS, CAPTIONS, CAPTIONS, do_classifier_free_guidance=False,
                                                  device="cpu")
    told = model.encode_text(CAPTIONS)
    torch.testing.assert_close(told.tokens, tokens)
    torch.testing.assert_close(told.pooled, pooled)
    assert model.target == "flow" and model.schedule.noise[499].item() == pytest.approx(0.75)
    x, index = torch.randn(3, 4, 8, 8), torch.tensor([100, 500, 900])
    times = model.schedule.times[index].float()
    answer = model.network(x, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=times,
                           return_dict=False)[0]
    noise = model.schedule.noise[index].float().view(3, 1, 1, 1)
    said = model.denoiser(x, index, told)
    torch.testing.assert_close(said.eps, x + (1 - noise) * answer, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said.clean, x - noise * answer, rtol=1e-4, atol=1e-5)


def test_it_is_examined_and_draws(model: TextToImage) -> None:
    pixels = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    for how in (Elimination(most=6), Estimator(method="path", times=4), Estimator(method="chain", times=4)):
        verdict = SelfEval(model, how).score(pixels, CAPTIONS[:2])
        assert len(verdict.best) == 1 and sum(verdict.probabilities) == pytest.approx(1.0)
    tied = SelfEval(model, Elimination(most=6)).score(pixels, [CAPTIONS[0], CAPTIONS[0]])
    assert len(tied.best) == 2, "the pooled vector is part of what is compared"
    assert model.generate(CAPTIONS[:1], steps=2).shape == (1, 3, 16, 16)


def test_the_third_tower_may_be_absent(folder: Path, tmp_path: Path) -> None:
    for part in folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "model_index.json").unlink()
    write_index(tmp_path, [None, None])
    model = TextToImage.from_pretrained(tmp_path, device="cpu")
    told = model.encode_text(CAPTIONS)
    assert told.tokens.shape == (3, 12 + 256, 48) and (told.tokens[:, 12:] == 0).all()


def test_what_it_cannot_do_is_said(model: TextToImage, tmp_path: Path) -> None:
    assert model.text.cut("a cube " * 200) and not model.text.cut("a cube")
    with pytest.raises(InputError, match="several text towers"):
        model.save_pretrained(tmp_path / "saved", card="# none")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(InputError, match="not trained here"):
        model.text.of_ids(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3))


def test_a_shift_by_the_picture_s_size_is_refused(folder: Path, tmp_path: Path) -> None:
    for part in folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "scheduler").unlink()
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({**copy.copy(config),
                                                                               "use_dynamic_shifting": True}))
    with pytest.raises(CheckpointError, match="fixed `shift`"):
        TextToImage.from_pretrained(tmp_path, device="cpu")
