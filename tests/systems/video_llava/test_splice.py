from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from diorama.errors import InputError
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.splice import (
    IGNORE,
    IMAGE_MARKER,
    MARKERS,
    VIDEO_MARKER,
    Media,
    Sample,
    pack_questions,
    packed_mask,
    prefix_length,
    splice,
)

EXACT = {"rtol": 0, "atol": 1e-5}


def image() -> Media:
    return Media("image", torch.randn(3, 28, 28))


def video(frames: int = 8) -> Media:
    return Media("video", torch.randn(3, frames, 28, 28))


def ask(*media: Media, words: int = 7, answer: int = 3) -> Sample:
    ids = torch.cat([torch.tensor([1, 5, *(MARKERS[item.kind] for item in media)]), torch.randint(3, 90, (words,))])
    labels = ids.clone()
    labels[:-answer] = IGNORE
    return Sample(ids, labels, media)


def embed(ids: torch.Tensor) -> torch.Tensor:
    return ids[:, None].float().expand(-1, 2)


def block(value: float, length: int) -> torch.Tensor:
    return torch.full((length, 2), value)


# ---- batches


@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_mixed_batch_equals_each_sample_alone(tiny_model, padding):
    samples = [ask(image(), words=9), ask(words=4), ask(video(), image(), words=6), ask(video(3), words=12),
               ask(image(), video(2), image(), words=5), ask(words=20)]
    together = tiny_model(samples, padding=padding, with_logits=True)
    alone = [tiny_model([sample], with_logits=True) for sample in samples]
    assert_close(together.loss, sum(one.loss for one in alone), rtol=0, atol=1e-4)
    assert together.tokens == sum(one.tokens for one in alone) == 18
    for row, one in enumerate(alone):
        assert_close(together.logits[row][together.spliced.valid[row]], one.logits[0], **EXACT)


def test_text_only_samples_do_not_shift_the_others(tiny_model):
    first, second = ask(image()), ask(video())
    together = tiny_model([ask(), first, ask(), second])
    apart = tiny_model([first, second])
    text = tiny_model([ask()])
    assert together.tokens == apart.tokens + 2 * text.tokens
    for row, sample in ((1, first), (3, second)):
        length = int(together.spliced.valid[row].sum())
        assert_close(together.spliced.embeddings[row, :length], tiny_model([sample]).spliced.embeddings[0], **EXACT)


def test_media_go_where_their_markers_are():
    ids = torch.tensor([1, VIDEO_MARKER, 7, IMAGE_MARKER, IMAGE_MARKER, 8, 9])
    spliced = splice([Sample(ids, ids.clone())], [[block(50, 3), block(60, 2), block(70, 1)]], embed)
    assert spliced.embeddings[0, :, 0].tolist() == [1, 50, 50, 50, 7, 60, 60, 70, 8, 9]
    assert spliced.labels[0].tolist() == [1, -100, -100, -100, 7, -100, -100, -100, 8, 9]
    assert spliced.position_ids[0].tolist() == list(range(10))


def test_eight_image_markers_are_the_official_spelling_of_a_clip():
    frames = [block(10 + i, 5) for i in range(8)]
    ours = torch.tensor([1, VIDEO_MARKER, 9])
    theirs = torch.tensor([1, *[IMAGE_MARKER] * 8, 9])
    one = splice([Sample(ours, ours)], [[torch.cat(frames)]], embed)
    eight = splice([Sample(theirs, theirs)], [frames], embed)
    assert torch.equal(one.embeddings, eight.embeddings) and torch.equal(one.labels, eight.labels)


def test_labels_are_never_on_media_and_their_number_does_not_change(tiny_model):
    text = ask()
    spread = torch.cat([text.input_ids[:2], torch.tensor([VIDEO_MARKER, IMAGE_MARKER]), text.input_ids[2:]])
    labels = torch.cat([text.labels[:2], torch.tensor([3, 3]), text.labels[2:]])
    with_media = Sample(spread, labels, (video(), image()))
    spliced = tiny_model([with_media]).spliced
    assert (spliced.labels[0, 2:46] == IGNORE).all()
    assert (spliced.labels != IGNORE).sum() == (text.labels != IGNORE).sum()


def test_left_padding_puts_the_last_tokens_together():
    samples = [Sample(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3])), Sample(torch.tensor([4]), torch.tensor([4]))]
    spliced = splice(samples, [[], []], embed, padding="left")
    assert spliced.embeddings[:, :, 0].tolist() == [[1, 2, 3], [0, 0, 4]]
    assert spliced.labels.tolist() == [[1, 2, 3], [-100, -100, 4]]
    assert spliced.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert spliced.previous.tolist() == [[-1, 0, 1], [-1, -1, -1]]


# ---- mistakes


def test_too_few_media_are_refused(tiny_model):
    sample = ask(image())
    with pytest.raises(InputError, match="1 media marker, but 0 images and clips"):
        tiny_model([Sample(sample.input_ids, sample.labels)])


def test_media_of_the_wrong_kind_are_refused(tiny_model):
    sample = ask(image(), video())
    with pytest.raises(InputError, match="ask for image, video, but the media are video, image"):
        tiny_model([replace(sample, media=sample.media[::-1])])


def test_blocks_for_another_number_of_samples_are_refused():
    sample = Sample(torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(InputError, match="1 samples arrived with media for 2"):
        splice([sample], [[], []], embed)


def test_truncation_cuts_text_but_never_media():
    ids = torch.tensor([1, IMAGE_MARKER, 7, 8, 9])
    sample = Sample(ids, ids.clone())
    spliced = splice([sample], [[block(50, 4)]], embed, max_length=6)
    assert spliced.embeddings[0, :, 0].tolist() == [1, 50, 50, 50, 50, 7]
    assert spliced.labels.shape == (1, 6)
    with pytest.raises(InputError, match="end at position 5, but the sequence must stop at 4"):
        splice([sample], [[block(50, 4)]], embed, max_length=4)


def test_the_language_model_is_never_given_more_than_its_positions(tiny):
    model = VideoLlavaModel.from_config(replace(tiny, language=replace(tiny.language, max_positions=30)))
    with pytest.raises(InputError, match="must stop at 30"):
        model([ask(video())])


@pytest.mark.parametrize(("kind", "shape"), [("image", (3, 8, 28, 28)), ("video", (3, 28, 28))])
def test_media_of_the_wrong_shape_are_refused(kind, shape):
    with pytest.raises(InputError, match=r"Images are \(3, H, W\)"):
        Media(kind, torch.zeros(shape))


def test_media_hold_pixels_or_features():
    with pytest.raises(InputError, match="it got neither"):
        Media("image")
    with pytest.raises(InputError, match="it got both"):
        Media("image", torch.zeros(3, 28, 28), torch.zeros(4, 32))


# ---- packed questions


def questions(prefix: tuple[Media, ...], suffixes: list[tuple[int, int]]) -> list[Sample]:
    lead = torch.tensor([1, 5, *(MARKERS[item.kind] for item in prefix)])
    out = []
    for length, answer in suffixes:
        ids = torch.cat([lead, torch.randint(3, 90, (length,))])
        labels = ids.clone()
        labels[:len(ids) - answer] = IGNORE
        out.append(Sample(ids, labels, prefix))
    return out


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kinds", ["image", "video", "both"])
def test_packed_questions_equal_separate_samples(tiny_model, attention, kinds):
    tiny_model.language_model.config._attn_implementation = attention
    prefix = {"image": (image(),), "video": (video(),), "both": (video(3), image())}[kinds]
    separate = questions(prefix, [(6, 2), (9, 4), (4, 4), (11, 1)])
    packed = tiny_model([pack_questions(separate)], with_logits=True)
    alone = [tiny_model([sample], with_logits=True) for sample in separate]
    assert_close(packed.loss, sum(one.loss for one in alone), rtol=0, atol=1e-4)
    assert packed.tokens == 11
    start = sum(len(tokens) for tokens in tiny_model.media_tokens(prefix)) + 2
    at = start
    for one in alone:
        length = one.logits.shape[1] - start
        assert_close(packed.logits[0, :start], one.logits[0, :start], **EXACT)
        assert_close(packed.logits[0, at:at + length], one.logits[0, start:], **EXACT)
        assert torch.equal(packed.spliced.position_ids[0, at:at + length], torch.arange(start, start + length))
        at += length


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_samples_mix_with_others_in_either_padding(tiny_model, attention):
    tiny_model.language_model.config._attn_implementation = attention
    first, second = questions((image(),), [(5, 2), (8, 3)]), questions((video(2),), [(6, 1), (6, 2), (7, 7)])
    text = ask(words=30)
    expected = sum(tiny_model([sample]).loss for sample in (*first, *second, text))
    for padding in ("right", "left"):
        together = tiny_model([pack_questions(first), text, pack_questions(second)], padding=padding)
        assert_close(together.loss, expected, rtol=0, atol=1e-4)
        assert together.tokens == 18


def test_packed_questions_give_the_same_gradients(tiny_model):
    separate = questions((image(), video(2)), [(6, 2), (9, 4), (4, 4)])
    tiny_model(separate).loss.backward()
    expected = {name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None}
    tiny_model.zero_grad()
    tiny_model([pack_questions(separate)]).loss.backward()
    for name, parameter in tiny_model.named_parameters():
        if name in expected:
            assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_packed_questions_run_under_bfloat16(tiny_model):
    separate = questions((image(),), [(6, 2), (9, 4)])
    with torch.autocast("cpu", torch.bfloat16):
        packed, apart = tiny_model([pack_questions(separate)]).loss, tiny_model(separate).loss
    assert_close(packed, apart, rtol=0.02, atol=0)


def test_every_suffix_starts_from_the_end_of_the_prefix():
    samples = [Sample(torch.tensor([1, IMAGE_MARKER, *ids]), torch.tensor([-100, -100, *ids]))
               for ids in ([7, 8], [9], [4, 5, 6])]
    spliced = splice([pack_questions(samples)], [[block(50, 2)]], embed)
    assert spliced.position_ids[0].tolist() == [0, 1, 2, 3, 4, 3, 3, 4, 5]
    assert spliced.previous[0].tolist() == [-1, 0, 1, 2, 3, 2, 2, 6, 7]


def test_packed_mask_by_hand():
    mask = packed_mask(torch.tensor([[0, 1, 1, 2, -1]]))
    assert (mask[0, 0] == 0).int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0],
                                               [0, 0, 0, 0, 1]]


def test_only_questions_on_the_same_media_pack():
    one, other = image(), image()
    same = questions((one,), [(4, 1), (5, 1)])
    copy = Media("image", one.pixels.clone())
    assert pack_questions([same[0], replace(same[1], media=(copy,))]).segments.max() == 2
    with pytest.raises(InputError, match="differ before their last image"):
        pack_questions([same[0], replace(same[1], media=(other,))])
    with pytest.raises(InputError, match="share no prefix worth packing"):
        pack_questions([ask(), ask()])
    with pytest.raises(InputError, match="nothing to pack"):
        pack_questions([])


def test_packed_questions_are_not_truncated():
    packed = pack_questions([Sample(torch.tensor([1, IMAGE_MARKER, 7, 8]), torch.tensor([-100, -100, 7, 8]))] * 2)
    with pytest.raises(InputError, match="Pack fewer questions"):
        splice([packed], [[block(50, 2)]], embed, max_length=5)


def test_prefix_length():
    assert prefix_length(torch.tensor([1, IMAGE_MARKER, 4, VIDEO_MARKER, 5, 6])) == 4
    assert prefix_length(torch.tensor([1, 2])) == 0
