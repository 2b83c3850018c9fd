from collections import Counter
from dataclasses import replace

import pytest
import torch

from diorama.errors import InputError
from diorama.systems.video_llava.generation import Decoding, Prefix, generate, stream
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.splice import IGNORE, IMAGE_MARKER, MARKERS, VIDEO_MARKER, Media, Sample

END = 2


@pytest.fixture
def model(tiny_model):
    """Answers that vary: sharper output weights, and an end token that comes up now and then."""
    with torch.no_grad():
        for parameter in tiny_model.language_model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tiny_model


def image() -> Media:
    return Media("image", torch.randn(3, 28, 28))


def video(frames: int = 8) -> Media:
    return Media("video", torch.randn(3, frames, 28, 28))


def ask(*media: Media, words: int) -> Sample:
    ids = torch.cat([torch.tensor([1, 5, *(MARKERS[item.kind] for item in media)]), torch.randint(3, 90, (words,))])
    return Sample(ids, torch.full_like(ids, IGNORE), media)


def answer_without_cache(model: VideoLlavaModel, sample: Sample, max_tokens: int) -> list[int]:
    ids = sample.input_ids
    for _ in range(max_tokens):
        logits = model([Sample(ids, torch.full_like(ids, IGNORE), sample.media)], with_logits=True).logits
        token = logits[0, -1].argmax()
        if token == END:
            break
        ids = torch.cat([ids, token[None]])
    return ids[len(sample.input_ids):].tolist()


def some_ends(model: VideoLlavaModel, answers: list[list[int]]) -> VideoLlavaModel:
    """The same model with its end token set to the id the answers use most, so that rows stop at different steps."""
    common = Counter(token for answer in answers for token in answer[1:]).most_common(1)[0][0]
    model.config = replace(model.config, language=replace(model.config.language, eos_token_id=common))
    return model


def test_a_batch_of_any_media_equals_generation_without_cache(model):
    samples = [ask(image(), words=4), ask(words=9), ask(video(), image(), words=6), ask(video(2), words=3)]
    expected = [answer_without_cache(model, sample, 10) for sample in samples]
    assert generate(model, samples, Decoding(max_tokens=10)) == expected
    assert len({tuple(answer) for answer in expected}) > 1
    for sample, answer in zip(samples, expected, strict=True):
        assert list(stream(model, sample, Decoding(max_tokens=10))) == answer


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batched", [True, False])
def test_questions_on_a_kept_prefix_equal_generation_without_cache(model, batched, attention):
    model.language_model.config._attn_implementation = attention
    media = (video(), image())
    questions = [ask(*media, words=words) for words in (3, 8, 5, 8)]
    expected = [answer_without_cache(model, question, 12) for question in questions]
    prefix = Prefix.encode(model, questions[0])
    assert prefix.length == 2 + 40 + 4
    for _ in range(2):                                          # the kept states are not used up
        assert prefix.answer(questions, Decoding(max_tokens=12), batched=batched) == expected
    assert [list(prefix.stream(question, Decoding(max_tokens=12))) for question in questions] == expected


def test_a_first_question_leaves_the_prefix_to_the_others(model):
    media = (video(), image())
    questions = [ask(*media, words=words) for words in (3, 8, 5)]
    expected = [answer_without_cache(model, question, 10) for question in questions]
    prefix, answer = Prefix.begin(model, questions[0], Decoding(max_tokens=10))
    assert prefix.length == 2 + 40 + 4 and {keys.shape[2] for keys, _ in prefix.states} == {prefix.length}
    assert prefix.answer(questions[1:], Decoding(max_tokens=10)) == expected[1:]      # before the answer is read
    assert list(answer) == expected[0]
    assert prefix.answer(questions, Decoding(max_tokens=10)) == expected
    with pytest.raises(InputError, match="no prefix to keep"):
        Prefix.begin(model, ask(words=3))


def test_rows_stop_at_the_end_token_on_their_own(model):
    media = (video(2),)
    questions = [ask(*media, words=words) for words in (3, 8, 5, 6, 4)]
    prefix = Prefix.encode(model, questions[0])
    full = prefix.answer(questions, Decoding(max_tokens=12))
    some_ends(model, full)
    end = model.config.language.eos_token_id
    expected = [answer[:answer.index(end)] if end in answer else answer for answer in full]
    assert len({len(answer) for answer in expected}) > 1
    assert prefix.answer(questions, Decoding(max_tokens=12)) == expected
    assert prefix.answer(questions, Decoding(max_tokens=12), batched=False) == expected
    assert generate(model, questions, Decoding(max_tokens=12)) == expected


def test_the_towers_run_once_for_all_questions(model, monkeypatch):
    media = (video(), image())
    questions = [ask(*media, words=5) for _ in range(4)]
    calls = []
    inner = model.tower_features
    monkeypatch.setattr(model, "tower_features", lambda items: calls.append(len(items)) or inner(items))
    Prefix.encode(model, questions[0]).answer(questions, Decoding(max_tokens=3))
    assert calls == [2]


def test_greedy_generation_matches_the_port(port_pair):
    port, ours = port_pair("gelu")
    clip, picture = torch.randn(3, 8, 28, 28), torch.randn(3, 28, 28)
    ids = torch.tensor([1, VIDEO_MARKER, IMAGE_MARKER, 7, 8])
    sample = Sample(ids, torch.full_like(ids, IGNORE), (Media("video", clip), Media("image", picture)))
    theirs = port.generate(input_ids=torch.tensor([[1, *[101] * 40, *[100] * 4, 7, 8]]),
                           attention_mask=torch.ones(1, 47, dtype=torch.long), pixel_values=picture[None],
                           pixel_values_videos=clip.transpose(0, 1)[None], do_sample=False, max_new_tokens=16,
                           pad_token_id=0)
    theirs = [token for token in theirs[0, 47:].tolist() if token != END]
    assert generate(ours, [sample], Decoding(max_tokens=16)) == [theirs]
    assert Prefix.encode(ours, sample).answer([sample], Decoding(max_tokens=16)) == [theirs]


def test_sampling_repeats_with_its_seed_and_differs_without(model):
    sample = ask(image(), words=4)
    draws = [generate(model, [sample], Decoding(max_tokens=12, temperature=3.0, seed=seed))[0] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    cold = generate(model, [sample], Decoding(max_tokens=12, temperature=1e-4))
    assert cold == generate(model, [sample], Decoding(max_tokens=12))


def test_answers_stop_at_the_last_position(tiny):
    model = VideoLlavaModel.from_config(replace(tiny, language=replace(tiny.language, max_positions=12,
                                                                       eos_token_id=119))).eval()
    sample = ask(image(), words=3)                              # 2 + 4 + 3 = 9 positions
    assert len(generate(model, [sample], Decoding(max_tokens=50))[0]) == 4
    with pytest.raises(InputError, match="reaches position 14"):
        Prefix.encode(model, sample).answer([ask(*sample.media, words=9)])


def test_questions_on_other_media_are_refused(model):
    picture = image()
    prefix = Prefix.encode(model, ask(picture, words=3))
    with pytest.raises(InputError, match="does not start with the media"):
        prefix.answer([ask(image(), words=3)])
    with pytest.raises(InputError, match="no question to answer"):
        prefix.answer([ask(picture, words=0)])
    with pytest.raises(InputError, match="no prefix to keep"):
        Prefix.encode(model, ask(words=3))
    assert prefix.answer([]) == generate(model, []) == []


@pytest.mark.parametrize("settings", [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError):
        Decoding(**settings)
