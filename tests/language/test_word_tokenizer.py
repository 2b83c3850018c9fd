"""The word tokenizer: closed vocabulary, stable ids, named strangers."""

import pytest

from diorama.errors import InputError
from diorama.language.word_tokenizer import build_word_tokenizer, unknown_words


def test_words_have_one_token_each_and_equal_vocabularies_equal_ids() -> None:
    one, other = build_word_tokenizer(["red", "cube"]), build_word_tokenizer(["cube", "Red", "red"])
    assert one.get_vocab() == other.get_vocab()
    assert one("Red cube.")["input_ids"] == other("red cube.")["input_ids"]
    assert len(one("red cube")["input_ids"]) == 2


def test_enclosed_texts_begin_and_end_as_clip_texts_do() -> None:
    tokenizer = build_word_tokenizer(["red", "cube"], enclosed=True, max_length=8)
    ids = tokenizer("red cube")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id and len(ids) == 4
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    cut = tokenizer("red " * 20, truncation=True)["input_ids"]
    assert len(cut) == 8 and cut[-1] == tokenizer.eos_token_id


def test_unknown_words_are_named_once_and_in_order() -> None:
    tokenizer = build_word_tokenizer(["red", "cube"])
    assert unknown_words(tokenizer, "a Red dog, a cube") == ["a", "dog"]


def test_an_entry_of_two_words_is_refused() -> None:
    with pytest.raises(InputError, match="'red cube' is not one word"):
        build_word_tokenizer(["red cube"])
