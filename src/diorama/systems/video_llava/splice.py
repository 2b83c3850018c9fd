"""Where text and media meet: each media marker of a prompt is replaced by the feature block of its image or clip.

Legend: B = samples, L = positions after the splice, D = width of the language model.
A sample may hold several (question, answer) suffixes behind one media prefix (`pack_questions`): the prefix is then
computed once for all of them, and a mask keeps the suffixes from seeing each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diorama.errors import InputError

IMAGE_MARKER = -200
"""Id of an image in `input_ids` (the official code's IMAGE_TOKEN_INDEX)."""
VIDEO_MARKER = -201
"""Id of a clip. The official code writes a clip as `frames` image markers in a row, which splices the same tokens."""
IGNORE = -100
"""Label of a position that is not scored."""

Padding = Literal["right", "left"]
Kind = Literal["image", "video"]
MARKERS: dict[Kind, int] = {"image": IMAGE_MARKER, "video": VIDEO_MARKER}


@dataclass(frozen=True, eq=False)
class Media:
    """One image or clip of a sample: its pixels, or the tower features computed from them earlier.

    pixels: (3, H, W) for an image, (3, T, H, W) for a clip. features: (N, D_tower) for an image,
    (T, N, D_tower) for a clip, as `VideoLlavaModel.tower_features` returns them.
    """

    kind: Kind
    pixels: Tensor | None = None
    features: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.features is None):
            raise InputError("Media holds pixels or features, one of the two; it got "
                             f"{'neither' if self.pixels is None else 'both'}. Pass exactly one.")
        dims = {"image": (3, 2), "video": (4, 3)}[self.kind]
        value, expected = (self.features, dims[1]) if self.pixels is None else (self.pixels, dims[0])
        assert value is not None
        if value.ndim != expected:
            raise InputError(f"An item of kind {self.kind!r} arrived with shape {tuple(value.shape)}; it needs "
                             f"{expected} dimensions. Images are (3, H, W), clips are (3, T, H, W).")

    def same_as(self, other: "Media") -> bool:
        """True if both hold the same values."""
        mine, theirs = (self.pixels, other.pixels) if self.features is None else (self.features, other.features)
        if self is other:
            return True
        return self.kind == other.kind and mine is not None and theirs is not None and torch.equal(mine, theirs)


@dataclass(frozen=True, eq=False)
class Sample:
    """A tokenized conversation and its media, in the order of their markers.

    input_ids: (n,) with IMAGE_MARKER / VIDEO_MARKER where media go. labels: (n,), IGNORE where not scored.
    segments: (n,) 0 for the shared prefix and 1..Q for the packed suffixes; None when there is one sequence.
    """

    input_ids: Tensor
    labels: Tensor
    media: tuple[Media, ...] = ()
    segments: Tensor | None = None

    def to(self, device: torch.device) -> "Sample":
        """The same sample with its ids on `device`; media stay where they are until they are encoded."""
        segments = None if self.segments is None else self.segments.to(device)
        return Sample(self.input_ids.to(device), self.labels.to(device), self.media, segments)


@dataclass(frozen=True)
class Spliced:
    """A batch ready for the language model.

    embeddings: (B, L, D). labels: (B, L), IGNORE on media, system, user and padding. valid: (B, L) true where there
    is a token. position_ids: (B, L). previous: (B, L) index of the position that predicts this one, -1 for none.
    attention_mask: None (plain causal, right padding), (B, L) (left padding) or (B, 1, L, L) additive (packed).
    """

    embeddings: Tensor
    labels: Tensor
    valid: Tensor
    position_ids: Tensor
    previous: Tensor
    attention_mask: Tensor | None


def splice(samples: Sequence[Sample], blocks: Sequence[Sequence[Tensor]], embed: Callable[[Tensor], Tensor], *,
           padding: Padding = "right", max_length: int | None = None) -> Spliced:
    """Replace every marker by its block and pad the samples to one batch.

    blocks: for each sample, one (n_i, D) tensor a media item in the order of the markers; images and clips may come
    in any order. embed: token ids (n,) to embeddings (n, D). A sample longer than `max_length` loses text from its
    end; InputError is raised if that would cut a media block or a packed sample. InputError is also raised when the
    number or the kinds of markers and media differ.
    """
    if len(samples) != len(blocks):
        raise InputError(f"{len(samples)} samples arrived with media for {len(blocks)}. Pass one list of blocks, "
                         "possibly empty, for each sample.")
    rows = [_splice_one(sample, own, embed, max_length) for sample, own in zip(samples, blocks, strict=True)]
    lengths = [len(row.labels) for row in rows]
    longest = max(lengths)
    left = padding == "left"
    packed = any(row.is_packed for row in rows)

    def stack(values: Sequence[Tensor], fill: int) -> Tensor:
        return torch.stack([_pad(value, longest, left, fill) for value in values])

    shift = [longest - n if left else 0 for n in lengths]
    segments = stack([row.segments for row in rows], -1)
    valid = segments >= 0
    mask: Tensor | None = None
    if packed:
        mask = packed_mask(segments, dtype=rows[0].embeddings.dtype)
    elif left and not valid.all():
        mask = valid
    return Spliced(
        embeddings=stack([row.embeddings for row in rows], 0),
        labels=stack([row.labels for row in rows], IGNORE),
        valid=valid,
        position_ids=stack([row.position_ids for row in rows], 0),
        previous=stack([torch.where(row.previous >= 0, row.previous + by, row.previous)
                        for row, by in zip(rows, shift, strict=True)], -1),
        attention_mask=mask,
    )


def pack_questions(questions: Sequence[Sample]) -> Sample:
    """One sample that holds Q samples with the same media prefix, e.g. Q questions on one clip.

    Each of the Q samples must start with the same ids up to its last media marker and carry the same media. The
    result is prefix + suffix 1 + ... + suffix Q; `splice` gives it positions that restart after the prefix and a mask
    under which every suffix attends to the prefix and to itself, so that its logits and loss equal those of the Q
    samples run alone. InputError is raised when the prefixes or the media differ, or when there is no prefix.
    """
    if not questions:
        raise InputError("No questions arrived, so there is nothing to pack. Pass at least one sample.")
    first = questions[0]
    cut = prefix_length(first.input_ids)
    if cut == 0:
        raise InputError("The samples hold no media, so they share no prefix worth packing. Batch them instead.")
    prefix = first.input_ids[:cut]
    for sample in questions:
        same_media = len(sample.media) == len(first.media) and all(
            ours.same_as(theirs) for ours, theirs in zip(sample.media, first.media, strict=True))
        ends_alike = prefix_length(sample.input_ids) == cut
        if not ends_alike or not torch.equal(sample.input_ids[:cut], prefix) or not same_media:
            raise InputError("The samples differ before their last image or clip, so they share no prefix. "
                             "Pack only questions on the same media.")
    suffixes = [sample.input_ids[cut:] for sample in questions]
    segments = [torch.zeros(cut, dtype=torch.long)]
    segments += [torch.full((len(ids),), i, dtype=torch.long) for i, ids in enumerate(suffixes, start=1)]
    return Sample(
        input_ids=torch.cat([prefix, *suffixes]),
        labels=torch.cat([first.labels[:cut], *(sample.labels[cut:] for sample in questions)]),
        media=first.media,
        segments=torch.cat(segments).to(prefix.device),
    )


def prefix_length(input_ids: Tensor) -> int:
    """Number of ids up to and with the last media marker; 0 if there is none."""
    marks = ((input_ids == IMAGE_MARKER) | (input_ids == VIDEO_MARKER)).nonzero()
    return int(marks[-1]) + 1 if len(marks) else 0


def packed_mask(segments: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The additive mask (B, 1, L, L) of packed samples: 0 where position i may attend to j, else the dtype's minimum.

    segments: (B, L), 0 for the shared prefix, 1..Q for the suffixes, -1 for padding. Position i sees j <= i in the
    prefix or in its own segment. A padding row sees itself, so that its softmax is defined.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = causal & (((key == 0) & (query >= 0)) | ((key == query) & (query >= 0)))
    allowed = allowed | torch.eye(length, dtype=torch.bool, device=segments.device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


@dataclass(frozen=True)
class _Row:
    embeddings: Tensor
    labels: Tensor
    segments: Tensor
    position_ids: Tensor
    previous: Tensor
    is_packed: bool


def _splice_one(sample: Sample, blocks: Sequence[Tensor], embed: Callable[[Tensor], Tensor],
                max_length: int | None) -> _Row:
    ids = sample.input_ids
    is_marker = (ids == IMAGE_MARKER) | (ids == VIDEO_MARKER)
    _check_media(sample, ids[is_marker], blocks)
    widths = torch.ones_like(ids)
    widths[is_marker] = torch.tensor([len(block) for block in blocks], dtype=ids.dtype, device=ids.device)
    total = int(widths.sum())
    kept = total if max_length is None else min(total, max_length)
    last_media = int(widths[:prefix_length(ids)].sum())
    if kept < last_media:
        raise InputError(f"The media of this sample end at position {last_media}, but the sequence must stop at "
                         f"{kept}. Use fewer images, clips or frames; media are never cut.")
    if kept < total and sample.segments is not None:
        raise InputError(f"The packed questions take {total} positions, more than the {kept} allowed. "
                         "Pack fewer questions into one sample.")

    text = embed(ids[~is_marker])
    pieces: list[Tensor] = []
    taken = 0
    runs = [*is_marker.nonzero().flatten().tolist(), len(ids)]
    for number, (start, end) in enumerate(zip([-1, *runs[:-1]], runs, strict=True)):
        count = end - start - 1
        pieces.append(text[taken:taken + count])
        taken += count
        if number < len(blocks):
            pieces.append(blocks[number].to(text.dtype))
    labels = sample.labels.masked_fill(is_marker, IGNORE).repeat_interleave(widths)[:kept]
    segments = torch.zeros_like(ids) if sample.segments is None else sample.segments
    segments = segments.repeat_interleave(widths)[:kept]
    positions, previous = _positions(segments)
    return _Row(torch.cat(pieces)[:kept], labels, segments, positions, previous, sample.segments is not None)


def _check_media(sample: Sample, markers: Tensor, blocks: Sequence[Tensor]) -> None:
    wanted = ["image" if marker == IMAGE_MARKER else "video" for marker in markers.tolist()]
    given = [item.kind for item in sample.media] or wanted[:len(blocks)]
    if len(wanted) != len(blocks):
        raise InputError(f"The prompt has {len(wanted)} media marker{'s' * (len(wanted) != 1)}, but {len(blocks)} "
                         "images and clips came with it. Write one <image> or <video> for each file.")
    if wanted != given:
        raise InputError(f"The prompt's markers ask for {', '.join(wanted)}, but the media are {', '.join(given)}. "
                         "Put the media in the order of their markers.")


def _positions(segments: Tensor) -> tuple[Tensor, Tensor]:
    """Position ids that restart after the prefix for every suffix, and the index that predicts each position."""
    index = torch.arange(len(segments), device=segments.device)
    prefix = int((segments == 0).sum())
    starts = torch.ones_like(index, dtype=torch.bool)
    starts[1:] = segments[1:] != segments[:-1]
    begin = torch.cummax(torch.where(starts, index, torch.zeros_like(index)), dim=0).values
    in_suffix = segments > 0
    positions = torch.where(in_suffix, prefix + index - begin, index)
    previous = torch.where(starts & in_suffix, torch.full_like(index, prefix - 1), index - 1)
    return positions, previous


def _pad(value: Tensor, length: int, left: bool, fill: int) -> Tensor:
    gap = length - len(value)
    return torch.nn.functional.pad(value, (0, 0) * (value.ndim - 1) + ((gap, 0) if left else (0, gap)), value=fill)
