"""Answers from the model: greedy or sampled, streamed, and many questions on media that are encoded once.

`Prefix` keeps the key-value states of a prompt up to its last image or clip, so that Q questions pay the towers and
the media prefill once; `generate` answers a batch of samples without sharing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import DynamicCache

from diorama.errors import InputError
from diorama.systems.video_llava.model import VideoLlavaModel
from diorama.systems.video_llava.splice import IGNORE, Media, Sample, prefix_length


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen: temperature 0 is greedy, above 0 samples from a generator seeded with `seed`."""

    max_tokens: int = 128
    """Official benchmark scripts: 128 for short answers, 1024 for open-ended ones."""
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}, so nothing could be answered. Pass at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"A temperature of {self.temperature} cannot be sampled at. Pass 0 for greedy or a "
                             "positive number.")


GREEDY = Decoding()


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prompt up to its last medium, as ids, media and the key-value states of every layer, (1, heads, length, d).

    The states are never written to; every answer works on a cache made from them.
    """

    model: VideoLlavaModel
    input_ids: Tensor
    media: tuple[Media, ...]
    length: int
    states: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    @torch.no_grad()
    def encode(cls, model: VideoLlavaModel, question: Sample) -> "Prefix":
        """Encode the media and the words before and between them from any question on these media.

        Raises InputError when the sample has no media.
        """
        cut = prefix_length(question.input_ids)
        if cut == 0:
            raise InputError("The question comes with no media, so there is no prefix to keep. Use generate.")
        ids = question.input_ids[:cut]
        batch = model.splice([Sample(ids, torch.full_like(ids, -100), question.media)])
        output = model.language_model.model(inputs_embeds=batch.embeddings, use_cache=True,
                                            past_key_values=DynamicCache())
        states = tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)
        return cls(model, ids, question.media, batch.embeddings.shape[1], states)

    @classmethod
    def begin(cls, model: VideoLlavaModel, question: Sample,
              decoding: Decoding = GREEDY) -> tuple["Prefix", Iterator[int]]:
        """The prefix together with the answer ids to a first question, in one pass over its whole prompt.

        Raises InputError when the sample has no media.
        """
        cut = prefix_length(question.input_ids)
        if cut == 0:
            raise InputError("The question comes with no media, so there is no prefix to keep. Use generate.")
        with torch.no_grad():
            batch = model.splice([question])
        length = batch.embeddings.shape[1] - (len(question.input_ids) - cut)
        cache = DynamicCache()
        steps = decode(model, batch.embeddings, batch.valid, batch.position_ids, cache, decoding)
        first = next(steps, None)                       # the cache now holds the prompt and nothing else
        states = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in key_values(cache))
        prefix = cls(model, question.input_ids[:cut], question.media, length, states)
        said = () if first is None else chain([first], steps)
        return prefix, (token for (token,) in said if token is not None)

    def answer(self, questions: Sequence[Sample], decoding: Decoding = GREEDY, *,
               batched: bool = True) -> list[list[int]]:
        """The answer ids of every question on these media, without the end token.

        batched: all questions in one padded batch over copies of the states (Q times their memory), or one by one.
        Raises InputError for a question whose prompt does not start with this prefix.
        """
        suffixes = [self.suffix_of(question) for question in questions]
        if not suffixes:
            return []
        if batched:
            return _collect(self._steps(suffixes, decoding), len(suffixes))
        return [_collect(self._steps([suffix], decoding), 1)[0] for suffix in suffixes]

    def stream(self, question: Sample, decoding: Decoding = GREEDY) -> Iterator[int]:
        """The answer ids of one question, each as soon as it is known, without the end token."""
        for (token,) in self._steps([self.suffix_of(question)], decoding):
            if token is not None:
                yield token

    @torch.no_grad()
    def score(self, answered: Sequence[Sample]) -> Tensor:
        """Mean log likelihood (Q,) of the scored ids of each conversation on these media.

        Raises InputError for a conversation that does not start with this prefix.
        """
        suffixes = [self.suffix_of(sample) for sample in answered]
        device, pad = self.states[0][0].device, torch.nn.utils.rnn.pad_sequence
        ids = pad(suffixes, batch_first=True).to(device)
        labels = pad([sample.labels[len(self.input_ids):] for sample in answered], batch_first=True,
                     padding_value=IGNORE).to(device)
        hidden = self.model.language_model.model(
            inputs_embeds=self.model.language_model.model.embed_tokens(ids), past_key_values=self._cache(len(ids)),
            position_ids=(self.length + torch.arange(ids.shape[1], device=device)).expand_as(ids),
            use_cache=True).last_hidden_state
        return mean_log_likelihood(self.model.language_model.lm_head(hidden[:, :-1]), labels[:, 1:])

    def suffix_of(self, question: Sample) -> Tensor:
        """The ids of a question after this prefix; InputError if it starts differently or is on other media."""
        cut = len(self.input_ids)
        same = len(question.media) == len(self.media) and all(
            ours.same_as(theirs) for ours, theirs in zip(question.media, self.media, strict=True))
        if not same or prefix_length(question.input_ids) != cut or not torch.equal(question.input_ids[:cut],
                                                                                  self.input_ids):
            raise InputError("The question does not start with the media and words of this prefix. "
                             "Encode a prefix of its own with Prefix.encode.")
        if len(question.input_ids) == cut:
            raise InputError("The prompt ends with its media, so there is no question to answer. Ask something.")
        return question.input_ids[cut:]

    def _steps(self, suffixes: Sequence[Tensor], decoding: Decoding) -> Iterator[list[int | None]]:
        count, longest = len(suffixes), max(len(ids) for ids in suffixes)
        embed = self.model.language_model.model.embed_tokens
        device = self.states[0][0].device
        ids = torch.zeros(count, longest, dtype=torch.long, device=device)
        valid = torch.zeros(count, longest, dtype=torch.bool, device=device)
        for row, suffix in enumerate(suffixes):
            ids[row, longest - len(suffix):] = suffix
            valid[row, longest - len(suffix):] = True
        seen = torch.ones(count, self.length, dtype=torch.bool, device=device)
        positions = (self.length + valid.long().cumsum(1) - 1).clamp(min=0)
        return decode(self.model, embed(ids), torch.cat([seen, valid], dim=1), positions, self._cache(count), decoding)

    def _cache(self, count: int) -> DynamicCache:
        """The states for `count` rows, which share them until a row is longer."""
        return DynamicCache([(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1))
                             for keys, values in self.states])


def key_values(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer, (B, heads, length, d); a LLaMA decoder's layers all have both."""
    pairs = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        assert keys is not None and values is not None
        pairs.append((keys, values))
    return pairs


def generate(model: VideoLlavaModel, samples: Sequence[Sample], decoding: Decoding = GREEDY) -> list[list[int]]:
    """The answer ids of samples on any media, in one left-padded batch, without the end token.

    Each sample must end where the answer begins ("ASSISTANT:"), as `encode_conversation` leaves an open question.
    """
    if not samples:
        return []
    with torch.no_grad():
        batch = model.splice(samples, padding="left")
    steps = decode(model, batch.embeddings, batch.valid, batch.position_ids, DynamicCache(), decoding)
    return _collect(steps, len(samples))


@torch.no_grad()
def score(model: VideoLlavaModel, answered: Sequence[Sample]) -> Tensor:
    """Mean log likelihood (B,) of the scored ids of conversations on any media."""
    batch = model.splice(answered)
    hidden = model.language_model.model(
        inputs_embeds=batch.embeddings, attention_mask=batch.valid, use_cache=False).last_hidden_state
    return mean_log_likelihood(model.language_model.lm_head(hidden[:, :-1]), batch.labels[:, 1:])


def mean_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the scored positions of each row: logits (B, L, V), labels (B, L) with IGNORE where not scored."""
    scored = labels != IGNORE
    found = logits.float().log_softmax(-1).gather(2, labels.masked_fill(~scored, 0).unsqueeze(2)).squeeze(2)
    return found.masked_fill(~scored, 0.0).sum(1) / scored.sum(1)


def stream(model: VideoLlavaModel, sample: Sample, decoding: Decoding = GREEDY) -> Iterator[int]:
    """The answer ids of one sample, each as soon as it is known, without the end token."""
    with torch.no_grad():
        batch = model.splice([sample])
    for (token,) in decode(model, batch.embeddings, batch.valid, batch.position_ids, DynamicCache(), decoding):
        if token is not None:
            yield token


def decode(model: VideoLlavaModel, embeddings: Tensor, valid: Tensor, positions: Tensor, cache: DynamicCache,
           decoding: Decoding) -> Iterator[list[int | None]]:
    """One list a step: the next id of every row, None for a row that has ended; stops when all rows have.

    embeddings: (B, S, D) of the tokens not yet in the cache, right-aligned. valid: (B, cached + S) bool, false on
    padding. positions: (B, S). A row ends at the end token, at `max_tokens`, or at the model's last position.
    """
    language, limit = model.language_model, model.config.language.max_positions
    end = model.config.language.eos_token_id
    generator = torch.Generator(embeddings.device).manual_seed(decoding.seed)
    running = torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
    if int(positions.max()) >= limit:
        raise InputError(f"The prompt reaches position {int(positions.max())} and the model has {limit}. "
                         "Use fewer images, clips or words.")
    for _ in range(decoding.max_tokens):
        with torch.no_grad():
            hidden = language.model(
                inputs_embeds=embeddings, attention_mask=None if valid.all() else valid, position_ids=positions,
                past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            token = _choose(language.lm_head(hidden).float(), decoding.temperature, generator)
        running = running & (token != end)
        if not running.any():
            return
        yield [number if alive else None for number, alive in zip(token.tolist(), running.tolist(), strict=True)]
        positions = positions[:, -1:] + 1
        running = running & (positions[:, 0] < limit)
        if not running.any():
            return
        valid = torch.cat([valid, torch.ones_like(valid[:, :1])], dim=1)
        with torch.no_grad():
            embeddings = language.model.embed_tokens(token)[:, None]


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]


def _collect(steps: Iterator[list[int | None]], count: int) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in range(count)]
    for step in steps:
        for answer, token in zip(answers, step, strict=True):
            if token is not None:
                answer.append(token)
    return answers
