"""A tokenizer with one token a word, for miniatures whose language is small and closed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from diorama.errors import InputError

WORD_PATTERN = r"\w+(?:['-]\w+)*|[^\w\s]"
PUNCTUATION = ".,:;?!'\"-()"
BEGIN, END, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"


def build_word_tokenizer(words: Iterable[str], *, markers: Sequence[str] = (), max_length: int = 2048,
                         enclosed: bool = False) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer with one token a word.

    Ids: <pad> 0, <s> 1, </s> 2, <unk> 3, the markers, punctuation, then the words, sorted, so equal vocabularies give
    equal ids. Apostrophes and hyphens inside a word stay in it. `enclosed` puts <s> and </s> around every text, as
    CLIP's tokenizer does. Raises InputError for an entry that is not one word.
    """
    asked = {word.lower() for word in words}
    odd = sorted(word for word in asked if re.fullmatch(WORD_PATTERN, word) is None)
    if odd:
        raise InputError(f"{odd[0]!r} is not one word, so the tokenizer could never produce it. "
                         "Pass single words without spaces.")
    special = (PAD, BEGIN, END, UNKNOWN, *markers)
    listed = [*special, *PUNCTUATION]
    listed += sorted(asked - set(listed))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    inner.decoder = decoders.WordPiece(cleanup=True)
    inner.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    if enclosed:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, listed.index(BEGIN)), (END, listed.index(END))])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN,
        additional_special_tokens=list(markers), model_max_length=max_length, clean_up_tokenization_spaces=False)


def unknown_words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The words of `text` that a word tokenizer does not know, in order, each once; empty for other tokenizers."""
    inner = tokenizer.backend_tokenizer
    if not isinstance(inner.model, models.WordLevel):
        return []
    words = re.findall(WORD_PATTERN, text.lower())
    return list(dict.fromkeys(word for word in words if inner.token_to_id(word) is None))
