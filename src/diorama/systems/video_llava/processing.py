"""Files and words to tensors, the same way in the demo, in training and in evaluation; nothing here is random.

Pixels: `preprocess_image`, `preprocess_video`, `preprocess_rendered`. Words: `encode_conversation` (template v1,
markers, labels), `build_word_tokenizer` for the miniature.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from diorama.errors import InputError
from diorama.language import word_tokenizer
from diorama.language.word_tokenizer import WORD_PATTERN
from diorama.media.resizing import center_crop, pad_square, resize_shortest, size_of
from diorama.systems.video_llava.config import PromptConfig, TokenMode, VideoLlavaConfig
from diorama.systems.video_llava.splice import IGNORE, MARKERS, Kind, Media, Sample

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

MARKER_WORDS: dict[str, Kind] = {"<image>": "image", "<video>": "video"}
MARKER_PATTERN = re.compile("|".join(MARKER_WORDS))


def preprocess_image(image: Image.Image, config: VideoLlavaConfig) -> Tensor:
    """An RGB picture of any size as (3, S, S) float32 for the image tower, S = `config.tower.image_size`.

    Mode "official": pad to square if `config.pad_square`, scale to [0, 1], shorter side to S (bicubic on floats, no
    antialiasing), center crop, normalize. Mode "port": shorter side to S (Pillow's bicubic), crop, normalize.
    """
    if image.mode != "RGB":
        raise InputError(f"A picture of mode {image.mode} arrived; the tower reads RGB. "
                         "Open it with diorama.media.images.load_image, which converts.")
    size = config.tower.image_size
    if config.pad_square:
        image = pad_square(image)
    if config.pixels == "official":
        pixels = _unit(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        return normalize(center_crop(_shortest(pixels, size, "bicubic"), size))
    small = image if min(image.size) == size else resize_shortest(image, size, interpolation="bicubic")
    return normalize(_unit(torch.from_numpy(np.array(center_crop(small, size))).permute(2, 0, 1)))


def preprocess_video(frames: NDArray[np.uint8], config: VideoLlavaConfig) -> Tensor:
    """RGB frames (T, H, W, 3) uint8 as (3, T, S, S) float32 for the video tower.

    Mode "official": scale to [0, 1], normalize, shorter side to S (bilinear on floats), center crop, and no flip (the
    official code flips half of its clips at random even when it is scored). Mode "port": each frame as an image of
    that mode. Clips are never padded.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise InputError(f"Frames of shape {frames.shape} and type {frames.dtype} arrived; a clip is "
                         "(T, H, W, 3) uint8 with at least one frame. Read it with diorama.media.videos.read_video.")
    size = config.tower.image_size
    if config.pixels == "official":
        pixels = normalize(_unit(torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)))
        return center_crop(_shortest(pixels, size, "bilinear"), size).transpose(0, 1).contiguous()
    small = []
    for frame in frames:
        image = Image.fromarray(frame)
        if min(image.size) != size:
            image = resize_shortest(image, size, interpolation="bicubic")
        small.append(np.array(center_crop(image, size)))
    return normalize(_unit(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2))).transpose(0, 1).contiguous()


def preprocess_rendered(rgb: Tensor, config: VideoLlavaConfig) -> Tensor:
    """World renders (..., 3, S, S) uint8, already at the tower's size, as float32 of the same shape.

    Bit for bit what `preprocess_image` and `preprocess_video` give for the same pixels. A clip rendered as
    (T, 3, S, S) still has time first: transpose it for the tower.
    """
    size = config.tower.image_size
    if rgb.dtype != torch.uint8 or rgb.shape[-3:] != (3, size, size):
        raise InputError(f"Renders of shape {tuple(rgb.shape)} and type {rgb.dtype} arrived; expected uint8 "
                         f"(..., 3, {size}, {size}). Render at size={size}.")
    return normalize(_unit(rgb))


def normalize(pixels: Tensor) -> Tensor:
    """(x - mean) / std with CLIP's statistics, for (..., 3, H, W) in [0, 1]."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(PIXEL_STD, device=pixels.device)[:, None, None]
    return (pixels - mean) / std


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def _shortest(pixels: Tensor, size: int, interpolation: str) -> Tensor:
    if min(size_of(pixels)) == size:
        return pixels
    if interpolation == "bicubic":
        return resize_shortest(pixels, size, interpolation="bicubic", antialias=False)
    return resize_shortest(pixels, size, interpolation="bilinear", antialias=False)


@dataclass(frozen=True)
class Turn:
    """What the user says and what the assistant answered; the last answer is None when it is asked for."""

    question: str
    answer: str | None = None


def write_prompt(turns: Sequence[Turn], kinds: Sequence[Kind], prompt: PromptConfig) -> tuple[str, list[range]]:
    """The conversation in template v1 and the character ranges of the answers (with their end mark).

    kinds: the media in order. If no question names <image> or <video>, their markers are put before the first
    question, followed by a newline, as in the official data; otherwise the markers written there must match. Any order
    of images and clips works; the official code needs clips before images, so give them in that order to repeat it.
    """
    if not turns:
        raise InputError("The conversation has no turns, so there is nothing to ask. Pass at least one question.")
    if any(turn.answer is None for turn in turns[:-1]):
        raise InputError("An answer before the last question is missing. Only the last answer may be left out.")
    named = [MARKER_WORDS[word] for turn in turns for word in MARKER_PATTERN.findall(turn.question)]
    if named and named != list(kinds):
        raise InputError(f"The questions name {', '.join(named)}, but the media are "
                         f"{', '.join(kinds) or 'none'}. Write one <image> or <video> for each file, in order.")
    lead = "" if named or not kinds else "".join(f"<{kind}>" for kind in kinds) + "\n"
    text, answers = prompt.system, []
    for number, turn in enumerate(turns):
        question = turn.question.strip()
        if not MARKER_PATTERN.sub("", question).strip():
            raise InputError(f"Question {number + 1} is empty. Ask something about the media.")
        text += (" " if number == 0 else "") + f"{prompt.user}: {lead}{question} {prompt.assistant}:"
        lead = ""
        if turn.answer is not None:
            begin = len(text)
            text += f" {turn.answer.strip()}{prompt.end}"
            answers.append(range(begin, len(text)))
    return text, answers


def encode_conversation(turns: Sequence[Turn], media: Sequence[Media], tokenizer: PreTrainedTokenizerFast,
                        config: VideoLlavaConfig) -> Sample:
    """A conversation as ids with media markers, and labels that score only the answers and their end marks.

    One begin token opens the whole sequence. More than `config.max_text_tokens` ids lose the end of the last answer;
    InputError if that would cut a marker or an open question, or if a text holds a control token such as </s>.
    """
    for turn in turns:
        _refuse_control_words(f"{turn.question} {turn.answer or ''}", tokenizer)
    text, answers = write_prompt(turns, [item.kind for item in media], config.prompt)
    ids, ends = tokenize(text, tokenizer, config.prompt.tokens)
    labels = [token if any(span.start < end <= span.stop for span in answers) else IGNORE
              for token, end in zip(ids, ends, strict=True)]
    if tokenizer.bos_token_id is not None:
        ids, labels = [tokenizer.bos_token_id, *ids], [IGNORE, *labels]
    limit = config.max_text_tokens
    if len(ids) > limit:
        if turns[-1].answer is None or any(token in MARKERS.values() for token in ids[limit:]):
            raise InputError(f"The conversation takes {len(ids)} tokens, more than the {limit} allowed, and its end "
                             "cannot be left out. Shorten the text or drop the oldest turns.")
        ids, labels = ids[:limit], labels[:limit]
    return Sample(torch.tensor(ids), torch.tensor(labels), tuple(media))


def tokenize(text: str, tokenizer: PreTrainedTokenizerFast, mode: TokenMode) -> tuple[list[int], list[int]]:
    """Ids of `text` with IMAGE_MARKER / VIDEO_MARKER in it, and the character where each token ends.

    "original" tokenizes the pieces between the markers separately, as the official code does (a LLaMA tokenizer then
    opens each piece with its word-start mark). "port" tokenizes the whole string with a tokenizer that has <image> and
    <video> as tokens. No begin token is added in either mode.
    """
    if mode == "port":
        ids, ends = _encode(text, tokenizer)
        markers = {}
        for word, kind in MARKER_WORDS.items():
            token = tokenizer.convert_tokens_to_ids(word)
            if token is None or token == tokenizer.unk_token_id:
                raise InputError(f"This tokenizer has no token {word}, which the port's tokenization needs. "
                                 'Use tokens="original" in the prompt config.')
            markers[token] = MARKERS[kind]
        return [markers.get(token, token) for token in ids], ends
    ids, ends, start = [], [], 0
    for match in [*MARKER_PATTERN.finditer(text), None]:
        stop = len(text) if match is None else match.start()
        if stop > start:
            piece, piece_ends = _encode(text[start:stop], tokenizer)
            ids += piece
            ends += [start + end for end in piece_ends]
        if match is not None:
            ids.append(MARKERS[MARKER_WORDS[match.group()]])
            ends.append(match.end())
            start = match.end()
    return ids, ends


def _encode(text: str, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoding["input_ids"]), [end for _, end in encoding["offset_mapping"]]


def _refuse_control_words(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    for word in tokenizer.all_special_tokens:
        if word in text and word not in MARKER_WORDS:
            raise InputError(f"The text holds {word}, which the model reads as a control token. Remove it.")


def build_word_tokenizer(words: Iterable[str], *, prompt: PromptConfig | None = None,
                         max_length: int = 2048) -> PreTrainedTokenizerFast:
    """A word tokenizer (`diorama.language.word_tokenizer`) with <image> and <video> and the words of the template."""
    prompt = prompt or PromptConfig()
    template = re.findall(WORD_PATTERN, f"{prompt.system} {prompt.user} {prompt.assistant}".lower())
    return word_tokenizer.build_word_tokenizer([*words, *template], markers=tuple(MARKER_WORDS),
                                               max_length=max_length)


def extended_tokenizer(tokenizer: PreTrainedTokenizerFast, words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word tokenizer with more words; the ids of those it had stay. InputError for other tokenizers."""
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    if inner["model"]["type"] != "WordLevel":
        raise InputError(f"Words cannot be added to a {inner['model']['type']} tokenizer, which splits unknown ones "
                         "into pieces. Train with it as it is.")
    vocabulary = inner["model"]["vocab"]
    for word in words:
        vocabulary.setdefault(word.lower(), len(vocabulary))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(inner)), pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", additional_special_tokens=list(MARKER_WORDS), model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False)


def unknown_words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The words of `text` that a word tokenizer does not know, in order, each once; empty for other tokenizers."""
    return word_tokenizer.unknown_words(tokenizer, MARKER_PATTERN.sub(" ", text))


def encode_captions(captions: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int) -> Tensor:
    """Captions as (B, L) ids <s> ... </s>, right padded, for the alignment stage; long ones keep their end token."""
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise InputError("This tokenizer lacks a begin, end or padding token, which captions need. "
                         "Use build_word_tokenizer or a CLIP tokenizer.")
    rows = [torch.tensor([tokenizer.bos_token_id, *_encode(caption, tokenizer)[0][:max_length - 2],
                          tokenizer.eos_token_id]) for caption in captions]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)


def decode_answer(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of generated ids, without control tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
