import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from diorama.errors import CheckpointError, InputError
from diorama.systems.video_llava.config import (
    MINIATURE,
    PUBLIC_7B,
    SYSTEM_LINE,
    PromptConfig,
    TowerConfig,
    VideoLlavaConfig,
)
from diorama.systems.video_llava.processing import (
    PIXEL_MEAN,
    PIXEL_STD,
    Turn,
    build_word_tokenizer,
    decode_answer,
    encode_captions,
    encode_conversation,
    preprocess_image,
    preprocess_rendered,
    preprocess_video,
    unknown_words,
    write_prompt,
)
from diorama.systems.video_llava.splice import IGNORE, IMAGE_MARKER, VIDEO_MARKER, Media

WORDS = "what color is the cube red blue how many things two small".split()
TOWER = TowerConfig(image_size=64, patch_size=8, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64)
PORT = replace(PUBLIC_7B, tower=TOWER, pixels="port", pad_square=False)
OFFICIAL = replace(PUBLIC_7B, tower=TOWER, pixels="official", pad_square=True)
IMAGE = Media("image", torch.zeros(3, 64, 64))
VIDEO = Media("video", torch.zeros(3, 8, 64, 64))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- pixels


@pytest.mark.parametrize("shape", [(100, 173), (131, 64), (64, 64), (20, 33), (65, 65)])
def test_port_mode_matches_clip_image_processor(shape):
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    frames = np.stack([photo(*shape, seed) for seed in range(2)])
    expected = theirs([Image.fromarray(frame) for frame in frames], return_tensors="pt")["pixel_values"]
    assert_close(preprocess_image(Image.fromarray(frames[0]), PORT), expected[0], rtol=0, atol=1e-5)
    assert_close(preprocess_video(frames, PORT), expected.transpose(0, 1), rtol=0, atol=1e-5)


def test_official_image_is_padded_then_resized_on_floats():
    picture = photo(80, 120)
    square = np.empty((120, 120, 3), np.uint8)
    square[:] = (122, 116, 104)
    square[20:100] = picture
    x = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    x = functional.interpolate(x, (64, 64), mode="bicubic", align_corners=False)[0]
    x = (x - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    assert_close(preprocess_image(Image.fromarray(picture), OFFICIAL), x, rtol=0, atol=1e-5)


def test_official_video_is_normalized_then_scaled_bilinearly_and_cropped():
    frames = np.stack([photo(80, 120, seed) for seed in range(3)])
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    x = functional.interpolate(x, (64, 96), mode="bilinear", align_corners=False)[..., 16:80]
    assert_close(preprocess_video(frames, OFFICIAL), x.transpose(0, 1), rtol=0, atol=1e-5)


def test_padding_is_a_choice_and_changes_the_pixels():
    picture = Image.fromarray(photo(80, 120))
    padded, cropped = (preprocess_image(picture, replace(OFFICIAL, pad_square=p)) for p in (True, False))
    assert padded.shape == cropped.shape == (3, 64, 64)
    assert (padded - cropped).abs().max() > 0.1
    assert padded[:, 0].abs().max() < 0.05                      # the top rows are the mean color


@pytest.mark.parametrize("config", [PORT, OFFICIAL])
def test_nothing_is_flipped(config):
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    frames[:, :, :32] = 255
    for _ in range(20):
        clip = preprocess_video(frames, config)
        assert (clip[..., :32] > clip[..., 32:]).all()
        image = preprocess_image(Image.fromarray(frames[0]), config)
        assert (image[..., :32] > image[..., 32:]).all()


@pytest.mark.parametrize("config", [PORT, OFFICIAL])
def test_renders_files_and_clips_give_the_same_bits(config):
    frames = np.stack([photo(64, 64, seed) for seed in range(3)])
    rendered = preprocess_rendered(torch.from_numpy(frames).permute(0, 3, 1, 2), config)
    assert torch.equal(preprocess_video(frames, config), rendered.transpose(0, 1))
    assert torch.equal(preprocess_image(Image.fromarray(frames[1]), config), rendered[1])


def test_wrong_pixels_are_refused():
    with pytest.raises(InputError, match="mode RGBA arrived"):
        preprocess_image(Image.new("RGBA", (8, 8)), PORT)
    for frames in (np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3))):
        with pytest.raises(InputError, match="a clip is"):
            preprocess_video(frames, PORT)
    with pytest.raises(InputError, match="Render at size=64"):
        preprocess_rendered(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), PORT)


# ---- the prompt


def test_template_v1():
    text, answers = write_prompt([Turn("What color?", "Red."), Turn("And now?")], ["video", "image"], PromptConfig())
    assert text == (SYSTEM_LINE + " USER: <video><image>\nWhat color? ASSISTANT: Red.</s>USER: And now? ASSISTANT:")
    assert [text[r.start:r.stop] for r in answers] == [" Red.</s>"]


def test_markers_may_stand_anywhere_in_the_words():
    text, _ = write_prompt([Turn("Is <image> in <video>?")], ["image", "video"], PromptConfig())
    assert text.endswith("USER: Is <image> in <video>? ASSISTANT:")
    with pytest.raises(InputError, match="name image, but the media are video"):
        write_prompt([Turn("What is in <image>?")], ["video"], PromptConfig())


@pytest.mark.parametrize("turns", [[], [Turn("  ")], [Turn("<image>")], [Turn("a"), Turn("b")]])
def test_incomplete_conversations_are_refused(turns):
    with pytest.raises(InputError):
        write_prompt(turns, ["image"], PromptConfig())


def test_labels_score_answers_and_their_end_marks_alone():
    tokenizer = build_word_tokenizer(WORDS)
    turns = [Turn("What color is the cube?", "Red."), Turn("How many things?", "Two")]
    sample = encode_conversation(turns, [VIDEO, IMAGE], tokenizer, MINIATURE)
    scored = [tokenizer.convert_ids_to_tokens(i) for i in sample.labels.tolist() if i != IGNORE]
    assert scored == ["red", ".", "</s>", "two", "</s>"]
    where = sample.labels != IGNORE
    assert torch.equal(sample.labels[where], sample.input_ids[where])
    assert sample.input_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert [i for i in sample.input_ids.tolist() if i < 0] == [VIDEO_MARKER, IMAGE_MARKER]


def test_media_do_not_change_what_is_scored():
    tokenizer = build_word_tokenizer(WORDS)
    turns = [Turn("What color is the cube?", "Red blue.")]
    counts = {int((encode_conversation(turns, media, tokenizer, MINIATURE).labels != IGNORE).sum())
              for media in ([], [IMAGE], [VIDEO, IMAGE, IMAGE])}
    assert counts == {4}


def test_a_question_keeps_its_ids_when_its_answer_follows():
    tokenizer = build_word_tokenizer(WORDS)
    asked = encode_conversation([Turn("How many things?")], [IMAGE], tokenizer, MINIATURE).input_ids
    answered = encode_conversation([Turn("How many things?", "two")], [IMAGE], tokenizer, MINIATURE).input_ids
    assert torch.equal(answered[:len(asked)], asked)


def test_too_long_a_conversation_loses_answer_text_only():
    tokenizer = build_word_tokenizer(WORDS)
    short = replace(MINIATURE, max_text_tokens=50)
    sample = encode_conversation([Turn("What color is the cube?", "red " * 40)], [IMAGE], tokenizer, short)
    assert len(sample.input_ids) == len(sample.labels) == 50
    with pytest.raises(InputError, match="more than the 50 allowed"):
        encode_conversation([Turn("What color is the cube? " + "red " * 40)], [IMAGE], tokenizer, short)
    late = [Turn("cube " * 40, "red"), Turn("What color is <image>?", "blue")]
    with pytest.raises(InputError, match="more than the 50 allowed"):
        encode_conversation(late, [IMAGE], tokenizer, short)


def test_control_tokens_in_a_text_are_refused():
    tokenizer = build_word_tokenizer(WORDS)
    for turn in (Turn("red </s> blue"), Turn("what color", "red <s>")):
        with pytest.raises(InputError, match="control token"):
            encode_conversation([turn], [IMAGE], tokenizer, MINIATURE)


# ---- tokenizers


def piece_tokenizer() -> PreTrainedTokenizerFast:
    """A small byte-pair tokenizer that marks word starts the way LLaMA's does, with <image> and <video> as tokens."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False,
                                  special_tokens=["<unk>", "<s>", "</s>", "<image>", "<video>"])
    text = f"{SYSTEM_LINE} USER: \nWhat color is the cube? ASSISTANT: Red. How many small things? Two."
    inner.train_from_iterator([text] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   additional_special_tokens=["<image>", "<video>"])


def test_original_and_port_tokenizations_differ_after_the_media():
    tokenizer = piece_tokenizer()
    turns = [Turn("What color is the cube?", "Red."), Turn("How many?", "Two.")]
    out = {}
    for mode in ("original", "port"):
        config = replace(PUBLIC_7B, prompt=PromptConfig(tokens=mode))
        sample = encode_conversation(turns, [VIDEO, IMAGE], tokenizer, config)
        ids = sample.input_ids.tolist()
        after = ids[ids.index(IMAGE_MARKER) + 1:]
        out[mode] = tokenizer.convert_ids_to_tokens(after)[0]
        scored = [i for i in sample.labels.tolist() if i != IGNORE]
        assert tokenizer.decode(scored).replace(" ", "") == "Red.</s>Two.</s>"
        assert ids.count(tokenizer.bos_token_id) == 1
    assert out["original"].startswith("▁") and not out["port"].startswith("▁")


def test_labels_match_the_official_mask():
    """The official mask re-tokenizes instruction and round and takes 2 off the instruction (BOS and the word start)."""
    tokenizer = piece_tokenizer()
    sample = encode_conversation([Turn("What color is the cube?", "Red.")], [], tokenizer, PUBLIC_7B)
    instruction = f"{SYSTEM_LINE} USER: What color is the cube? ASSISTANT: "
    masked = 1 + len(tokenizer(instruction, add_special_tokens=False).input_ids) - 1
    assert (sample.labels[:masked] == IGNORE).all() and (sample.labels[masked:] != IGNORE).all()


def test_the_port_mode_needs_media_tokens():
    inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    plain = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    with pytest.raises(InputError, match="no token <image>"):
        encode_conversation([Turn("what")], [IMAGE], plain, replace(PUBLIC_7B, prompt=PromptConfig(tokens="port")))


def test_word_tokenizer_is_stable_and_survives_saving(tmp_path):
    tokenizer = build_word_tokenizer(WORDS)
    assert tokenizer.get_vocab() == build_word_tokenizer(reversed(WORDS)).get_vocab()
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>"]) == list(range(6))
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "What COLOR is the cube, red or two?"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.pad_token_id == 0 and again.eos_token_id == 2
    assert decode_answer(again, again("Two small things, red.</s>").input_ids) == "two small things, red."


def test_word_tokenizer_knows_the_template():
    tokenizer = build_word_tokenizer([])
    assert unknown_words(tokenizer, f"{SYSTEM_LINE} USER: ASSISTANT: <image> <video>") == []


def test_unknown_words_are_listed_once_and_in_order():
    tokenizer = build_word_tokenizer(WORDS)
    assert unknown_words(tokenizer, "<image> Is the zebra, or the OKAPI, red? zebra!") == ["zebra", "or", "okapi"]
    assert unknown_words(piece_tokenizer(), "zebra") == []


def test_only_single_words_make_a_vocabulary():
    with pytest.raises(InputError, match="'two words' is not one word"):
        build_word_tokenizer(["two words"])


def test_captions_keep_their_end_token_when_cut():
    tokenizer = build_word_tokenizer(WORDS)
    ids = encode_captions(["red cube", "the cube is red blue two small"], tokenizer, 6)
    assert ids.shape == (2, 6)
    assert ids[0].tolist().count(2) == 1 and ids[0, 3] == 2 and (ids[0, 4:] == 0).all()
    assert ids[1, 0] == 1 and ids[1, -1] == 2


# ---- the config file


def test_config_survives_its_file(tmp_path):
    config = replace(MINIATURE, separate_projectors=True, prompt=PromptConfig(tokens="port")).with_vocabulary(
        77, bos=1, eos=2, pad=0)
    config.write(tmp_path / "config.json")
    assert VideoLlavaConfig.read(tmp_path / "config.json") == config
    assert config.language.vocab_size == config.text_tower.vocab_size == 77
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(("content", "match"), [
    ("not json", "cannot be read as a config"), ("[]", "holds a list"),
    (json.dumps({"model_type": "llava_llama"}), "describes a 'llava_llama' model"),
    (json.dumps({"color": 1}), "unknown field color"), (json.dumps({"tower": {"depth": 1}}), "unknown field depth")])
def test_foreign_configs_are_refused(tmp_path, content, match):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=match):
        VideoLlavaConfig.read(tmp_path / "config.json")


def test_the_config_module_loads_nothing_heavy():
    code = "import sys, diorama.systems.video_llava.config as c; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_impossible_towers_are_refused():
    with pytest.raises(InputError, match="does not divide into patches"):
        replace(MINIATURE.tower, patch_size=7)
    with pytest.raises(InputError, match="does not divide into 3 heads"):
        replace(MINIATURE.tower, num_heads=3)
