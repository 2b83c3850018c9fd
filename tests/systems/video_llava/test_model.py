from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, CLIPVisionModel
from transformers.models.video_llava.modeling_video_llava import VideoLlavaMultiModalProjector

from diorama.errors import InputError
from diorama.systems.video_llava.config import MINIATURE, PUBLIC_7B, TextTowerConfig, TowerConfig
from diorama.systems.video_llava.model import (
    ImageTower,
    LanguageBindAligner,
    SharedProjector,
    TemporalBlock,
    VideoLlavaModel,
    VideoTower,
    clip_vision_config,
    contrastive_loss,
    depth_of,
    drop_patches,
)
from diorama.systems.video_llava.splice import IGNORE, IMAGE_MARKER, VIDEO_MARKER, Media, Sample

TOWER = TowerConfig(image_size=28, patch_size=14, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=64)
EXACT = {"rtol": 0, "atol": 1e-5}


def clips(count: int, frames: int) -> torch.Tensor:
    return torch.randn(count, 3, frames, 28, 28)


def lively_tower(config: TowerConfig = TOWER) -> VideoTower:
    """A video tower whose temporal part matters, also in its biases."""
    tower = VideoTower(config).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower


# ---- parity with the transformers port


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_media_tokens_match_the_port(port_pair, hidden_act):
    port, ours = port_pair(hidden_act)
    images, videos = torch.randn(2, 3, 28, 28), clips(2, 8)
    with torch.no_grad():
        theirs = port.get_image_features(pixel_values=images).pooler_output
        assert_close(ours.encode_images(images), theirs, **EXACT)
        frames = rearrange(videos, "b c t h w -> b t c h w")
        theirs = port.model.get_video_features(pixel_values_videos=frames).pooler_output
        assert_close(ours.encode_videos(videos), rearrange(theirs, "(b t) n d -> b t n d", b=2), **EXACT)


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_logits_and_loss_match_the_port(port_pair, hidden_act):
    port, ours = port_pair(hidden_act)
    image, video = torch.randn(3, 28, 28), torch.randn(3, 8, 28, 28)
    ids = [1, 5, VIDEO_MARKER, 9, IMAGE_MARKER, 11, 12, 2]
    labels = torch.tensor([IGNORE] * 5 + [11, 12, 2])
    ours_out = ours([Sample(torch.tensor(ids), labels, (Media("video", video), Media("image", image)))],
                    with_logits=True)
    expanded = [1, 5, *[101] * 40, 9, *[100] * 4, 11, 12, 2]
    theirs = port(input_ids=torch.tensor([expanded]), pixel_values=image[None],
                  pixel_values_videos=video.transpose(0, 1)[None],
                  labels=torch.tensor([[IGNORE] * (len(expanded) - 3) + [11, 12, 2]]))
    assert_close(ours_out.logits, theirs.logits, **EXACT)
    assert ours_out.tokens == 3
    assert_close(ours_out.loss / ours_out.tokens, theirs.loss, **EXACT)


def test_quick_gelu_and_gelu_differ(port_pair):
    image = torch.randn(1, 3, 28, 28)
    _, exact = port_pair("gelu")
    _, quick = port_pair("quick_gelu")
    assert (exact.encode_images(image) - quick.encode_images(image)).abs().max() > 1e-4


def test_projector_matches_transformers(port_pair):
    port, _ = port_pair("gelu")
    theirs = VideoLlavaMultiModalProjector(port.config)
    ours = SharedProjector(32, 32)
    ours.load_state_dict({name.replace("linear_1", "0").replace("linear_2", "2"): value
                          for name, value in theirs.state_dict().items()})
    x = torch.randn(2, 7, 32)
    assert_close(ours(x), theirs(x), rtol=0, atol=0)


# ---- the towers


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_silent_temporal_attention_is_clip_frame_by_frame(hidden_act):
    config = replace(TOWER, hidden_act=hidden_act)
    tower = VideoTower(config).eval()
    for block in tower.encoder.layers:
        block.silence_temporal()
    clip = CLIPVisionModel(clip_vision_config(config)).eval()
    clip.load_state_dict({k: v for k, v in tower.state_dict().items() if "temporal_" not in k})
    pixels = clips(2, 5)
    frames = rearrange(pixels, "b c t h w -> (b t) c h w")
    theirs = clip(frames, output_hidden_states=True)
    for layer in range(-4, 4):
        assert torch.equal(tower.hidden_state(pixels, layer).flatten(0, 1), theirs.hidden_states[layer])
    assert_close(tower.pooled(pixels), theirs.pooler_output.view(2, 5, -1).mean(1), rtol=0, atol=1e-6)


def test_image_tower_is_clip():
    tower = ImageTower(TOWER).eval()
    clip = CLIPVisionModel(clip_vision_config(TOWER)).eval()
    clip.load_state_dict(tower.state_dict())
    pixels = torch.randn(2, 3, 28, 28)
    theirs = clip(pixels, output_hidden_states=True)
    assert torch.equal(tower.hidden_state(pixels), theirs.hidden_states[-2])
    assert torch.equal(tower.pooled(pixels), theirs.pooler_output)


def test_temporal_block_is_attention_over_time_then_the_clip_layer():
    block = lively_tower().encoder.layers[1]
    batch, frames, tokens, width = 2, 4, 5, 32
    x = torch.randn(batch, frames, tokens, width)
    with torch.no_grad():
        ours = block(rearrange(x, "b t n d -> (b t) n d"), frames)
        places = []
        for place in range(tokens):
            track = x[:, :, place] + block.temporal_embedding[:, :frames]
            places.append(track + block.temporal_attn(block.temporal_layer_norm1(track))[0])
        mixed = rearrange(torch.stack(places, dim=2), "b t n d -> (b t) n d")
        mixed = mixed + block.self_attn(block.layer_norm1(mixed))[0]
        mixed = mixed + block.mlp(block.layer_norm2(mixed))
    assert_close(ours, mixed, **EXACT)


def test_one_frame_takes_the_value_path_without_embedding():
    block = lively_tower().encoder.layers[0]
    x = torch.randn(3, 5, 32)
    with torch.no_grad():
        attention = block.temporal_attn
        after_time = x + attention.out_proj(attention.v_proj(block.temporal_layer_norm1(x)))
        expected = after_time + block.self_attn(block.layer_norm1(after_time))[0]
        expected = expected + block.mlp(block.layer_norm2(expected))
        assert_close(block(x, 1), expected, **EXACT)
        assert (block(x, 1) - super(TemporalBlock, block).forward(x, None)).abs().max() > 1e-2


@pytest.mark.parametrize(("count", "frames"), [(2, 4), (4, 2), (3, 8), (1, 8), (5, 1)])
def test_clips_do_not_mix_and_follow_their_order(count, frames):
    tower, pixels = lively_tower(), clips(count, frames)
    together = tower.hidden_state(pixels)
    assert together.shape == (count, frames, 5, 32)
    for i in range(count):
        assert_close(together[i:i + 1], tower.hidden_state(pixels[i:i + 1]), **EXACT)
    order = torch.randperm(count)
    assert_close(tower.hidden_state(pixels[order]), together[order], **EXACT)


def test_frame_order_matters_only_with_temporal_weights():
    tower, pixels = lively_tower(), clips(1, 6)
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    moved = tower.hidden_state(pixels[:, :, order]) - tower.hidden_state(pixels)[:, order]
    assert moved.abs().max() > 1e-2
    for block in tower.encoder.layers:
        block.silence_temporal()
    assert_close(tower.hidden_state(pixels[:, :, order]), tower.hidden_state(pixels)[:, order], **EXACT)


def test_more_frames_than_embeddings_are_refused():
    with pytest.raises(InputError, match="temporal embeddings for 8"):
        VideoTower(TOWER).hidden_state(clips(1, 9))
    assert VideoTower(TOWER, temporal_attention=False).hidden_state(clips(1, 9)).shape[1] == 9


def test_time_before_channels_is_refused():
    with pytest.raises(InputError, match=r"reads \(B, 3, T, H, W\)"):
        VideoTower(TOWER).hidden_state(clips(1, 8).transpose(1, 2))


def test_last_layer_is_never_run_but_its_weights_are_kept(tiny_model):
    image, video = torch.randn(1, 3, 28, 28), clips(1, 8)
    before = tiny_model.encode_images(image), tiny_model.encode_videos(video)
    for tower in (tiny_model.image_tower, tiny_model.video_tower):
        for parameter in (*tower.encoder.layers[-1].parameters(), *tower.post_layernorm.parameters()):
            parameter.data.fill_(torch.nan)
    assert torch.equal(tiny_model.encode_images(image), before[0])
    assert torch.equal(tiny_model.encode_videos(video), before[1])
    assert "video_tower.encoder.layers.2.temporal_attn.out_proj.bias" in tiny_model.state_dict()
    assert "image_tower.post_layernorm.weight" in tiny_model.state_dict()


@pytest.mark.parametrize("tower", [ImageTower(TOWER), lively_tower()])
def test_pooling_can_go_on_from_the_stored_features(tower):
    tower.eval()
    pixels = torch.randn(2, 3, 28, 28) if isinstance(tower, ImageTower) else clips(2, 4)
    assert_close(tower.pool(tower.hidden_state(pixels)), tower.pooled(pixels), **EXACT)


def test_depth_of():
    assert [depth_of(layer, 24) for layer in (-1, -2, 0, 24)] == [24, 23, 0, 24]
    with pytest.raises(InputError, match=r"hidden_states\[25\]"):
        depth_of(25, 24)


def test_temporal_part_starts_from_the_spatial_one():
    image_tower, video_tower = ImageTower(TOWER), VideoTower(TOWER)
    video_tower.copy_spatial(image_tower)
    state, spatial = video_tower.state_dict(), image_tower.state_dict()
    assert all(torch.equal(state[name], value) for name, value in spatial.items())
    for i in range(3):
        for part in ("q_proj.weight", "out_proj.bias"):
            assert torch.equal(state[f"encoder.layers.{i}.temporal_attn.{part}"],
                               spatial[f"encoder.layers.{i}.self_attn.{part}"])
        assert torch.equal(state[f"encoder.layers.{i}.temporal_layer_norm1.weight"],
                           spatial[f"encoder.layers.{i}.layer_norm1.weight"])
    wide = VideoTower(replace(TOWER, hidden_size=256, frames=64, num_layers=1))
    assert wide.encoder.layers[0].temporal_embedding.std().item() == pytest.approx(256 ** -0.5, rel=0.05)
    assert len(video_tower.temporal_parameters()) == 3 * 11


def test_patches_are_dropped_alike_in_all_frames():
    x = torch.arange(2 * 4 * 17.0).view(8, 17, 1)              # value tells row and place
    kept = drop_patches(x, 0.5, frames=4)
    places = (kept - x[:, :1]).view(2, 4, -1)
    assert places.shape[-1] == 9 and (places[:, :, 0] == 0).all()
    assert (places == places[:, :1]).all()
    assert not torch.equal(places[0, 0], places[1, 0])
    assert drop_patches(x, 0.0, frames=4) is x


# ---- the aligner


TEXT = TextTowerConfig(vocab_size=40, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
                       max_positions=12, bos_token_id=1, eos_token_id=2, pad_token_id=0, projection_dim=16)
CAPTIONS = torch.tensor([[1, 9, 8, 2, 0], [1, 30, 2, 0, 0], [1, 39, 7, 6, 2]])


def test_aligner_matches_clip_model():
    aligner = LanguageBindAligner(ImageTower(TOWER), TEXT).eval()
    clip = CLIPModel(CLIPConfig(
        text_config=CLIPTextConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                   intermediate_size=64, max_position_embeddings=12, hidden_act="gelu",
                                   eos_token_id=3).to_dict(),
        vision_config=CLIPVisionConfig(image_size=28, patch_size=14, hidden_size=32, intermediate_size=64,
                                       num_hidden_layers=3, num_attention_heads=4, hidden_act="gelu").to_dict(),
        projection_dim=16)).eval()
    clip.load_state_dict(aligner.state_dict())
    pixels, ids = torch.randn(3, 3, 28, 28), CAPTIONS.clone()
    theirs = clip(input_ids=torch.where(ids == 2, 3, ids), pixel_values=pixels)
    with torch.no_grad():
        aligner.text_model.embeddings.token_embedding.weight[2] = clip.text_model.embeddings.token_embedding.weight[3]
        assert_close(aligner.embed_vision(pixels), theirs.image_embeds, **EXACT)
        assert_close(aligner.embed_text(ids), theirs.text_embeds, **EXACT)
        target = torch.arange(3)
        logits = theirs.logits_per_text
        expected = (torch.nn.functional.cross_entropy(logits, target)
                    + torch.nn.functional.cross_entropy(logits.T, target)) / 2
        assert_close(aligner(pixels, ids), expected, **EXACT)
    assert aligner.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_text_feature_is_read_at_the_end_token_whatever_its_id_and_padding():
    aligner = LanguageBindAligner(ImageTower(TOWER), TEXT).eval()
    alone = aligner.embed_text(CAPTIONS[1:2, :3])
    assert_close(aligner.embed_text(CAPTIONS)[1:2], alone, **EXACT)
    with pytest.raises(InputError, match="without an end token"):
        aligner.embed_text(torch.tensor([[1, 9, 8]]))


def test_equal_captions_share_the_target():
    vision = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)[[0, 0, 1]]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    logits = 5 * vision @ text.T
    by_image, by_text = logits.log_softmax(1), logits.T.log_softmax(1)
    expected = -sum((t[0, :2].mean() + t[1, :2].mean() + t[2, 2]) / 3 for t in (by_image, by_text)) / 2
    assert_close(contrastive_loss(vision, text, 5.0, same), expected)
    assert_close(contrastive_loss(vision[[1, 0, 2]], text, 5.0, same), expected)


def test_video_aligner_trains_its_temporal_part():
    aligner = LanguageBindAligner(VideoTower(TOWER), TEXT)
    aligner(clips(3, 4), CAPTIONS, patch_dropout=0.3).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in aligner.vision_model.named_parameters()
               if "temporal_" in n and "k_proj.bias" not in n)


# ---- the whole model


def question(media: tuple[Media, ...], length: int = 6) -> Sample:
    ids = torch.cat([torch.tensor([1, *(IMAGE_MARKER if m.kind == "image" else VIDEO_MARKER for m in media)]),
                     torch.randint(3, 90, (length,))])
    labels = ids.clone()
    labels[:-3] = IGNORE
    return Sample(ids, labels, media)


def mixed_media() -> tuple[Media, ...]:
    return Media("image", torch.randn(3, 28, 28)), Media("video", torch.randn(3, 8, 28, 28)), \
        Media("image", torch.randn(3, 28, 28)), Media("video", torch.randn(3, 3, 28, 28))


def test_token_counts(tiny_model, tiny):
    tokens = tiny_model.media_tokens(mixed_media())
    assert [len(t) for t in tokens] == [4, 40, 4, 15]
    assert tiny.image_tokens == 4 and tiny.video_tokens(8) == 40
    assert PUBLIC_7B.image_tokens == 256 and PUBLIC_7B.video_tokens(8) == 2056


def test_features_can_stand_in_for_pixels(tiny_model):
    media = mixed_media()
    cached = tuple(Media(item.kind, features=f)
                   for item, f in zip(media, tiny_model.tower_features(media), strict=True))
    sample = question(media)
    again = Sample(sample.input_ids, sample.labels, cached)
    assert torch.equal(tiny_model([sample]).loss, tiny_model([again]).loss)


def test_media_are_returned_in_their_order(tiny_model):
    media = mixed_media()
    together = tiny_model.media_tokens(media)
    for item, tokens in zip(media, together, strict=True):
        assert_close(tokens, tiny_model.media_tokens([item])[0], **EXACT)


@pytest.mark.parametrize("stage", ["project", "instruct"])
def test_only_what_a_stage_trains_gets_gradients(tiny_model, stage):
    tiny_model.train()
    tiny_model.set_stage(stage)
    assert not tiny_model.image_tower.training and not tiny_model.video_tower.training
    tiny_model([question(mixed_media())]).loss.backward()
    assert not any(p.requires_grad for t in (tiny_model.image_tower, tiny_model.video_tower) for p in t.parameters())
    learned = {name.split(".")[0] for name, p in tiny_model.named_parameters() if p.grad is not None}
    assert learned == ({"projector"} if stage == "project" else {"projector", "language_model"})


def test_separate_projectors_serve_one_modality_each(tiny):
    model = VideoLlavaModel.from_config(replace(tiny, separate_projectors=True))
    image, video = torch.randn(1, 3, 28, 28), clips(1, 8)
    before = model.encode_images(image), model.encode_videos(video)
    with torch.no_grad():
        model.video_projector[2].bias.add_(1)
    assert torch.equal(model.encode_images(image), before[0])
    assert_close(model.encode_videos(video), before[1] + 1, **EXACT)
    shared = VideoLlavaModel.from_config(tiny)
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in shared.parameters()) \
        == sum(p.numel() for p in shared.projector.parameters())


def test_bfloat16_towers_feed_a_float32_language_model(tiny_model):
    tiny_model.image_tower.bfloat16()
    output = tiny_model([question((Media("image", torch.randn(3, 28, 28)),))])
    assert output.loss.dtype == torch.float32 and output.loss.isfinite()


def test_sizes_of_the_presets():
    model = VideoLlavaModel.from_config(MINIATURE)
    assert 4e6 < sum(p.numel() for p in model.parameters()) < 6e6
    image, video = model.media_tokens([Media("image", torch.zeros(3, *[MINIATURE.tower.image_size] * 2)),
                                       Media("video", torch.zeros(3, 8, *[MINIATURE.tower.image_size] * 2))])
    assert (len(image), len(video)) == (MINIATURE.image_tokens, MINIATURE.video_tokens(8))
    with torch.device("meta"):
        public = VideoLlavaModel.from_config(PUBLIC_7B)
    count = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in public.named_children()}
    assert count["image_tower"] == pytest.approx(303.2, abs=0.1)
    assert count["video_tower"] == pytest.approx(404.2, abs=0.1)
    assert count["projector"] == pytest.approx(20.98, abs=0.01)
    assert sum(count.values()) == pytest.approx(7466, abs=1)
