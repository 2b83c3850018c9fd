import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaForConditionalGeneration
from transformers import VideoLlavaConfig as PortConfig

from diorama.errors import CheckpointError
from diorama.systems.video_llava import weights
from diorama.systems.video_llava.config import PUBLIC_7B, TextTowerConfig, TowerConfig
from diorama.systems.video_llava.model import LanguageBindAligner, SharedProjector, VideoLlavaModel, VideoTower
from diorama.systems.video_llava.splice import VIDEO_MARKER, Media, Sample
from diorama.systems.video_llava.weights import (
    from_official,
    from_port,
    graft_temporal,
    is_temporal,
    layout_of,
    load,
    load_languagebind,
    load_projector,
    load_public,
    merge_lora,
    save,
    to_official,
    to_port,
)

TEXT = TextTowerConfig(vocab_size=40, hidden_size=32, num_layers=1, num_heads=4, intermediate_size=64,
                       max_positions=12, bos_token_id=1, eos_token_id=2, pad_token_id=0, projection_dim=16)
OFFICIAL_JSON = {"model_type": "llava_llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 64, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "vocab_size": 120,
                 "mm_hidden_size": 32, "mm_vision_select_layer": -2, "image_aspect_ratio": "pad"}


def write(folder, tensors, config):
    folder.mkdir()
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def port_json(tiny):
    return {"model_type": "video_llava", "vision_feature_layer": -2,
            "vision_config": {"image_size": 28, "patch_size": 14, "hidden_size": 32, "intermediate_size": 64,
                              "num_hidden_layers": 3, "num_attention_heads": 4},
            "text_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                            "intermediate_size": 64, "max_position_embeddings": 512, "rms_norm_eps": 1e-5}}


def languagebind(folder, tower):
    aligner = LanguageBindAligner(tower, TEXT)
    tensors = aligner.state_dict() | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    return write(folder, tensors, {"model_type": "LanguageBindVideo"}), aligner


@pytest.fixture
def model(tiny_model):
    """Our model with no weight at its initial value."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return tiny_model


@pytest.fixture
def official(model, tmp_path):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
             "model.image_tower.image_tower.embeddings.position_ids": torch.arange(5)[None]}
    return write(tmp_path / "official", to_official(model.state_dict()) | extra, OFFICIAL_JSON)


def loss(model, sample=None):
    clip = torch.linspace(-1, 1, 3 * 4 * 28 * 28).view(3, 4, 28, 28).sin()
    ids = torch.tensor([1, 4, VIDEO_MARKER, 7, 8, 9])
    return model([Sample(ids, ids.clone(), (Media("video", clip),))]).loss


# ---- names


def test_names_of_the_official_layout(model):
    names = to_official(model.state_dict())
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight",
                 "lm_head.weight", "model.mm_projector.0.weight", "model.mm_projector.2.bias",
                 "model.image_tower.image_tower.embeddings.class_embedding",
                 "model.image_tower.image_tower.pre_layrnorm.weight",
                 "model.video_tower.video_tower.encoder.layers.2.temporal_embedding",
                 "model.video_tower.video_tower.encoder.layers.0.temporal_attn.out_proj.bias",
                 "model.video_tower.video_tower.encoder.layers.0.temporal_layer_norm1.weight",
                 "model.video_tower.video_tower.encoder.layers.0.mlp.fc1.weight"):
        assert name in names


def test_names_of_the_port(model):
    old, new = to_port(model.state_dict(), "old"), to_port(model.state_dict(), "new")
    for ours, old_name, new_name in (
            ("language_model.model.norm.weight", "language_model.model.norm.weight",
             "model.language_model.norm.weight"),
            ("language_model.lm_head.weight", "language_model.lm_head.weight", "lm_head.weight"),
            ("projector.2.bias", "multi_modal_projector.linear_2.bias",
             "model.multi_modal_projector.linear_2.bias"),
            ("video_tower.post_layernorm.bias", "video_tower.vision_model.post_layernorm.bias",
             "model.video_tower.vision_model.post_layernorm.bias")):
        value = model.state_dict()[ours]
        assert torch.equal(old[old_name], value) and torch.equal(new[new_name], value)


def test_round_trips(model):
    ours = model.state_dict()
    back = from_official(to_official(ours))
    assert back.keys() == ours.keys() and all(torch.equal(back[name], ours[name]) for name in ours)
    spatial = {name for name in ours if not is_temporal(name)}
    assert len(ours) - len(spatial) == 3 * 11
    for names in ("old", "new", "memory"):
        port = to_port(ours, names)
        back = from_port(port)
        assert back.keys() == spatial and all(torch.equal(back[name], ours[name]) for name in spatial)
        assert to_port(back, names).keys() == port.keys()
        assert layout_of(port) == "port"
    assert layout_of(to_official(ours)) == "official"


def test_seven_billion_weights_map_name_by_name_and_shape_by_shape():
    config = PortConfig(text_config=LlamaConfig(vocab_size=32064, rms_norm_eps=1e-5, max_position_embeddings=4096),
                        vision_config=CLIPVisionConfig(
                            image_size=224, patch_size=14, hidden_size=1024, intermediate_size=4096,
                            num_hidden_layers=24, num_attention_heads=16))
    with torch.device("meta"):
        port = VideoLlavaForConditionalGeneration(config)
        ours = VideoLlavaModel.from_config(replace(PUBLIC_7B, language=replace(PUBLIC_7B.language, vocab_size=32064)))
    theirs = {name: tuple(value.shape) for name, value in port.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in to_port(ours.state_dict(), "memory").items()} == theirs
    mapped = {name: tuple(value.shape) for name, value in from_port(port.state_dict()).items()}
    whole = {name: tuple(value.shape) for name, value in ours.state_dict().items()}
    assert set(whole) - set(mapped) == {name for name in whole if is_temporal(name)}
    assert len(set(whole) - set(mapped)) == 24 * 11
    assert all(whole[name] == shape for name, shape in mapped.items())


# ---- loading


def test_official_layout_loads_whole(official, model, tiny):
    loaded, report = load_public(official, tower=tiny.tower)
    assert report.is_complete and report.layout == "official" and "NOT" not in str(report)
    assert len(report.skipped) == 2 and not report.unexpected
    assert loaded.config.pad_square and loaded.config.pixels == "official"
    assert loss(loaded) == loss(model)


@pytest.mark.parametrize("names", ["old", "new", "memory"])
def test_the_port_loads_but_is_never_called_complete(model, tiny, tmp_path, names):
    folder = write(tmp_path / "port", to_port(model.state_dict(), names), port_json(tiny))
    loaded, report = load_public(folder)
    assert not report.is_complete
    assert "NOT complete" in str(report) and "33 temporal tensors absent" in str(report)
    assert len(report.absent) == 33 and all(is_temporal(name) for name in report.absent)
    assert loaded.config.tower.hidden_act == "gelu" and not loaded.config.temporal_attention
    assert loaded.config.frame_sampling == "intervals" and not loaded.config.pad_square
    for block in model.video_tower.encoder.layers:
        block.silence_temporal()
    assert_close(loss(loaded), loss(model))


def test_the_port_as_transformers_saves_it(port_pair, tmp_path):
    port, ours = port_pair("quick_gelu")
    port.save_pretrained(tmp_path / "saved")
    loaded, report = load_public(tmp_path / "saved", hidden_act="quick_gelu")
    assert not report.is_complete
    assert loss(loaded) == loss(ours)


def test_port_and_temporal_tensors_rebuild_the_original(model, tiny, tmp_path, monkeypatch):
    port = write(tmp_path / "port", to_port(model.state_dict(), "old"), port_json(tiny))
    donor, _ = languagebind(tmp_path / "bind", model.video_tower)
    monkeypatch.setattr(weights, "resolve", lambda name: port if name == weights.PORT_ID else donor)
    loaded, report = load_public(weights.PORT_ID, temporal_from="LanguageBind/LanguageBind_Video_merge")
    assert report.is_complete and len(report.grafted) == 33
    assert loss(loaded) == loss(model)


def test_fine_tunes_of_the_port_are_not_grafted_unless_asked(model, tiny, tmp_path):
    port = write(tmp_path / "fine-tune", to_port(model.state_dict(), "new"), port_json(tiny))
    donor, _ = languagebind(tmp_path / "bind", model.video_tower)
    with pytest.raises(CheckpointError, match="trained without temporal attention"):
        load_public(port, temporal_from=donor)
    loaded, _ = load_public(port, temporal_from=donor, onto_fine_tune=True)
    assert loss(loaded) == loss(model)


def test_temporal_tensors_of_another_tower_are_refused(model, tiny, tmp_path):
    donor, _ = languagebind(tmp_path / "bind", VideoTower(tiny.tower))
    with pytest.raises(CheckpointError, match="do not belong to this tower"):
        graft_temporal(model.state_dict(), donor)
    plain, _ = languagebind(tmp_path / "plain", VideoTower(tiny.tower, temporal_attention=False))
    with pytest.raises(CheckpointError, match="has no temporal tensors"):
        graft_temporal(model.state_dict(), plain)


def test_grafting_bears_half_precision(model, tiny, tmp_path):
    donor, _ = languagebind(tmp_path / "bind", model.video_tower)
    halves = {name: value.half() for name, value in model.state_dict().items()}
    assert len(graft_temporal(halves, donor)) == 33


def test_a_checkpoint_with_holes_is_refused_by_name(official, model, tiny, tmp_path):
    tensors = to_official(model.state_dict())
    lost = "model.video_tower.video_tower.encoder.layers.1.temporal_embedding"
    del tensors[lost]
    folder = write(tmp_path / "holes", tensors, OFFICIAL_JSON)
    with pytest.raises(CheckpointError, match=r"layers\.1\.temporal_embedding"):
        load_public(folder, tower=tiny.tower)
    loaded, report = load_public(folder, tower=tiny.tower, strict=False)
    assert report.absent == ("video_tower.encoder.layers.1.temporal_embedding",) and not report.is_complete
    assert loss(loaded).isfinite() and loss(loaded) != loss(model)
    folder = write(tmp_path / "more", to_official(model.state_dict()) | {"model.extra": torch.ones(1)}, OFFICIAL_JSON)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load_public(folder, tower=tiny.tower)
    with pytest.raises(CheckpointError, match="no tensor of a Video-LLaVA projector"):
        layout_of({"model.norm.weight": torch.ones(1)})


def test_official_fine_tunes_without_towers_take_them_from_languagebind(model, tiny, tmp_path):
    slim = {name: value for name, value in to_official(model.state_dict()).items() if "_tower" not in name}
    folder = write(tmp_path / "slim", slim, OFFICIAL_JSON)
    with pytest.raises(CheckpointError, match="does not hold the whole model"):
        load_public(folder, tower=tiny.tower)
    image, _ = languagebind(tmp_path / "image", model.image_tower)
    video, _ = languagebind(tmp_path / "video", model.video_tower)
    loaded, report = load_public(folder, tower=tiny.tower, towers_from=(image, video))
    assert report.is_complete and loss(loaded) == loss(model)


def test_models_loaded_from_public_layouts_lie_on_no_meta_device(official, tiny):
    loaded, _ = load_public(official, tower=tiny.tower, dtype=torch.bfloat16)
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    assert all(value.dtype == torch.bfloat16 for value in loaded.parameters())
    assert not any(value.requires_grad for value in loaded.video_tower.parameters())


def test_languagebind_files_fill_an_aligner(tiny, tmp_path):
    folder, source = languagebind(tmp_path / "bind", VideoTower(tiny.tower))
    target = LanguageBindAligner(VideoTower(tiny.tower), TEXT)
    load_languagebind(target, folder)
    clips, captions = torch.randn(2, 3, 4, 28, 28), torch.tensor([[1, 5, 2], [1, 6, 2]])
    assert torch.equal(target(clips, captions), source(clips, captions))


# ---- parts


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "mm_projector.", "base_model.model.model.mm_projector."])
def test_projector_only_files(tmp_path, prefix):
    source, target = SharedProjector(32, 32), SharedProjector(32, 32)
    torch.save({prefix + name: value for name, value in source.state_dict().items()}, tmp_path / "mm_projector.bin")
    load_projector(target, tmp_path / "mm_projector.bin")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_file_without_a_projector_is_refused(tmp_path):
    torch.save({"model.norm.weight": torch.ones(2)}, tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="no tensor with mm_projector"):
        load_projector(SharedProjector(32, 32), tmp_path / "mm_projector.bin")


def lora_output(folder, *, settings=None, base="base_model.model.model.layers"):
    folder.mkdir()
    down, up = torch.randn(4, 32), torch.randn(32, 4)
    adapter = {f"{base}.1.self_attn.q_proj.lora_A.weight": down, f"{base}.1.self_attn.q_proj.lora_B.weight": up}
    torch.save(adapter, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps(settings or {"r": 4, "lora_alpha": 8}))
    return down, up


def test_lora_output_equals_the_unmerged_adapter(official, model, tiny, tmp_path):
    down, up = lora_output(tmp_path / "lora")
    fresh = SharedProjector(32, 32)
    torch.save({f"base_model.model.model.mm_projector.{name}": value for name, value in fresh.state_dict().items()},
               tmp_path / "lora" / "non_lora_trainables.bin")
    loaded, report = load_public(official, tower=tiny.tower, lora=tmp_path / "lora")
    assert report.is_complete
    model.projector.load_state_dict(fresh.state_dict())
    query = model.language_model.model.layers[1].self_attn.q_proj
    query.register_forward_hook(lambda module, args, out: out + 2 * args[0] @ down.T @ up.T)
    assert_close(loss(loaded), loss(model), rtol=0, atol=1e-4)
    query._forward_hooks.clear()
    assert (loss(loaded) - loss(model)).abs() > 1e-2


def test_loras_that_do_not_fit_are_refused(model, tmp_path):
    tensors = to_official(model.state_dict())
    with pytest.raises(CheckpointError, match="no readable adapter_config"):
        merge_lora(tensors, tmp_path)
    lora_output(tmp_path / "dora", settings={"r": 4, "lora_alpha": 8, "use_dora": True})
    with pytest.raises(CheckpointError, match="use_dora"):
        merge_lora(tensors, tmp_path / "dora")
    lora_output(tmp_path / "other", base="base_model.model.model.blocks")
    with pytest.raises(CheckpointError, match="does not fit the checkpoint"):
        merge_lora(tensors, tmp_path / "other")
    lora_output(tmp_path / "rank", settings={"r": 8, "lora_alpha": 8})
    with pytest.raises(CheckpointError, match="rank 8"):
        merge_lora(tensors, tmp_path / "rank")


# ---- our own layout


@pytest.mark.parametrize("changes", [{}, {"separate_projectors": True}, {"temporal_attention": False}])
def test_saving_and_loading_is_bit_exact(tiny, tmp_path, changes):
    source = VideoLlavaModel.from_config(replace(tiny, **changes)).eval()
    save(source, tmp_path / "saved", "# A test")
    again = load(tmp_path / "saved")
    assert again.config == source.config
    state = again.state_dict()
    assert state.keys() == source.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in source.state_dict().items())
    assert loss(again) == loss(source)


def test_loading_another_models_folder_is_refused(official):
    with pytest.raises(CheckpointError, match="llava_llama"):
        load(official)


def test_towers_of_other_sizes_fail_before_anything_is_loaded(official):
    with pytest.raises(CheckpointError):
        load_public(official, tower=TowerConfig(image_size=28, patch_size=14, hidden_size=64, num_layers=3,
                                                num_heads=4, intermediate_size=64))
