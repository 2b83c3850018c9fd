import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diorama.errors import CheckpointError, InputError, MediaError
from diorama.media.images import save_image
from diorama.media.videos import write_video
from diorama.systems.video_llava import pipeline
from diorama.systems.video_llava.generation import Decoding, generate
from diorama.systems.video_llava.pipeline import VideoLlava
from diorama.systems.video_llava.processing import Turn, encode_conversation

QUESTIONS = ["what color is the cube?", "which way does the small red sphere move?", "how many cones are there?"]
SHORT = Decoding(max_tokens=6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A picture and a clip of ten frames, 5 frames a second, that grows brighter."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    picture, clip = folder / "picture.png", folder / "clip.mp4"
    save_image(picture, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    write_video(clip, np.stack([np.full((48, 64, 3), 20 * number, np.uint8) for number in range(10)]), fps=5)
    return picture, clip


def likelihood(llava, shown, question, answer) -> float:
    sample = encode_conversation([Turn(question, answer)], shown.media, llava.tokenizer, llava.config)
    with torch.no_grad():
        out = llava.model([sample])
    return float(-out.loss / out.tokens)


def test_a_saved_model_answers_as_before(llava, files, tmp_path):
    folder = llava.save_pretrained(tmp_path / "model", card="# random")
    again = VideoLlava.from_pretrained(folder, device="cpu")
    before, after = llava.show(files), again.show(files)
    assert [a.text for a in after.ask(QUESTIONS, SHORT)] == [a.text for a in before.ask(QUESTIONS, SHORT)]
    assert [look.strangeness for look in after.looked] == pytest.approx([look.strangeness for look in before.looked])
    assert again.config == llava.config and (folder / "README.md").read_text() == "# random\n"


def test_a_batch_one_by_one_and_streaming_agree(llava, files):
    shown = llava.show(files)
    together = [answer.text for answer in shown.ask(QUESTIONS, SHORT)]
    assert len(set(together)) > 1
    for question, text in zip(QUESTIONS, together, strict=True):
        assert shown.ask(question, SHORT)[0].text == text
        assert "".join(shown.stream(question, SHORT)) == text


@pytest.mark.parametrize("seed", range(6))
def test_pieces_join_to_the_answer_whatever_is_said(llava, files, seed):
    shown, decoding = llava.show(files[:1]), Decoding(max_tokens=40, temperature=20.0, seed=seed)
    pieces = list(shown.stream(QUESTIONS[0], decoding))
    assert "".join(pieces) == shown.ask(QUESTIONS[0], decoding)[0].text
    assert len(pieces) > 1 and all(pieces)


def test_choosing_is_by_the_likelihood_of_whole_answers(llava, files):
    shown, options = llava.show(files), ["red", "the small blue cone", "moves left"]
    choice = shown.choose(QUESTIONS[0], [*options, "red"])
    wanted = torch.tensor([likelihood(llava, shown, QUESTIONS[0], option) for option in options]).softmax(0)
    assert list(choice.probabilities) == options
    assert list(choice.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-4)
    assert choice.text == options[int(wanted.argmax())]


def test_files_keep_their_order(llava, files):
    picture, clip = files
    shown = llava.show([clip, picture, picture, clip])
    assert [look.kind for look in shown.looked] == [item.kind for item in shown.media]
    assert [look.name for look in shown.looked] == ["clip.mp4", "picture.png", "picture.png", "clip.mp4"]
    answers = shown.ask(QUESTIONS, SHORT)
    media = [item for source in (clip, picture, picture, clip) for item in llava.show([source]).media]
    alone = generate(llava.model, [encode_conversation([Turn(question)], media, llava.tokenizer, llava.config)
                                   for question in QUESTIONS], SHORT)
    assert [a.text for a in answers] == [pipeline.decode_answer(llava.tokenizer, ids) for ids in alone]


def test_pillow_images_and_sampled_clips_are_the_files(llava, files):
    picture, clip = files
    opened = llava.show([Image.open(picture).convert("RGB"), pipeline.read_video(clip, llava.sampler())])
    for one, other in zip(opened.media, llava.show(files).media, strict=True):
        assert torch.equal(one.features, other.features)
    assert [look.name for look in opened.looked] == ["file 1", "file 2"]


def test_frames_are_taken_as_the_checkpoint_was_trained(llava, files):
    clip = files[1]
    (looked,) = llava.show([clip]).looked
    assert looked.indices == (0, 4, 9) and looked.timestamps == pytest.approx((0.0, 0.8, 1.8))
    assert (looked.total_frames, looked.fps, looked.duration) == (10, 5.0, pytest.approx(2.0))
    llava.model.config = replace(llava.config, frame_sampling="intervals")
    assert llava.show([clip]).looked[0].indices == (0, 3, 6)


def test_a_range_of_seconds_narrows_the_clip(llava, files):
    (looked,) = llava.show([files[1]], llava.sampler(frames=2, start=1.0, end=1.6)).looked
    assert len(looked.indices) == 2 and all(1.0 <= second <= 1.6 for second in looked.timestamps)
    content = json.loads(json.dumps(looked.to_dict()))
    assert content["file"] == "clip.mp4" and content["indices"] == list(looked.indices)
    assert (content["width"], content["height"]) == (64, 48)
    assert content["strangeness"] == pytest.approx(looked.strangeness)


@pytest.mark.parametrize("first", ["one", "several", "streamed"])
def test_towers_and_media_are_paid_once(llava, files, monkeypatch, first):
    pixels, lengths = [], []
    features, splice = llava.model.tower_features, llava.model.splice
    monkeypatch.setattr(llava.model, "tower_features", lambda items: pixels.append(
        sum(item.pixels is not None for item in items)) or features(items))
    monkeypatch.setattr(llava.model, "splice", lambda *given: lengths.append(1) or splice(*given))
    shown = llava.show(files)
    if first == "streamed":
        list(shown.stream(QUESTIONS[0], SHORT))
    else:
        shown.ask(QUESTIONS if first == "several" else QUESTIONS[0], SHORT)
    shown.ask(QUESTIONS, SHORT)
    shown.ask(QUESTIONS[1], SHORT)
    list(shown.stream(QUESTIONS[2], SHORT))
    assert sum(pixels) == 2 and len(lengths) == 1


def test_questions_may_place_the_media_themselves(llava, files):
    shown = llava.show(files)
    placed = "is <image> as bright as <video>?"
    sample = encode_conversation([Turn(placed)], shown.media, llava.tokenizer, llava.config)
    wanted = pipeline.decode_answer(llava.tokenizer, generate(llava.model, [sample], SHORT)[0])
    assert shown.ask([QUESTIONS[0], placed], SHORT)[1].text == wanted
    assert "".join(shown.stream(placed, SHORT)) == wanted
    with pytest.raises(InputError, match="video, image"):
        shown.ask("is <video> as bright as <image>?")


def test_words_that_the_tokenizer_lacks_are_reported(llava, files):
    first, second = llava.show(files[:1]).ask(["what color is the zebra?", "what color is the cube?"], SHORT)
    assert first.unknown_words == ("zebra",) and second.unknown_words == ()


def test_text_alone_is_answered(llava):
    shown = llava.show([])
    (answer,) = shown.ask("what color is the cube?", SHORT)
    assert "".join(shown.stream("what color is the cube?", SHORT)) == answer.text
    assert answer.tokens <= 6 and answer.seconds > 0


def test_impossible_requests_are_refused(llava, files, tmp_path):
    shown = llava.show(files)
    with pytest.raises(InputError, match="No question"):
        shown.ask([])
    with pytest.raises(InputError, match="question is empty"):
        shown.ask("  ")
    with pytest.raises(InputError, match="1 different choices"):
        shown.choose("what color is it?", ["red", "red"])
    with pytest.raises(InputError, match="0 frames"):
        llava.sampler(frames=0)
    with pytest.raises(InputError, match="clip of 9 frames"):
        llava.show([files[1]], llava.sampler(frames=9))
    with pytest.raises(MediaError):
        llava.show([tmp_path / "absent.png"])
    (tmp_path / "words.mp4").write_text("no clip at all")
    with pytest.raises(MediaError):
        llava.show([tmp_path / "words.mp4"])


def test_incomplete_folders_are_refused(llava, tmp_path):
    folder = llava.save_pretrained(tmp_path / "model", card="# random")
    with pytest.raises(InputError, match="float64"):
        VideoLlava.from_pretrained(folder, dtype="float64", device="cpu")
    with pytest.raises(CheckpointError, match="temporal attention already"):
        VideoLlava.from_pretrained(folder, temporal_from=folder, device="cpu")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        VideoLlava.from_pretrained(folder, device="cpu")
    with pytest.raises(CheckpointError):
        VideoLlava.from_pretrained(tmp_path / "absent", device="cpu")


def test_half_precision_loads_and_answers(llava, files, tmp_path):
    folder = llava.save_pretrained(tmp_path / "model", card="# random", dtype=torch.bfloat16)
    half = VideoLlava.from_pretrained(folder, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert len(half.show(files).ask(QUESTIONS, SHORT)) == 3
    assert {p.dtype for p in VideoLlava.from_pretrained(folder, device="cpu").model.parameters()} == {torch.float32}
