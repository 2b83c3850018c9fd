"""What a file holds, judged by its bytes and never by its name."""

from pathlib import Path

from diorama.errors import MediaError

MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000

_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftyp", "an MP4 or QuickTime file"),
    (4, b"moov", "a QuickTime file"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska file"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "a sound file"),
    (0, b"ID3", "a sound file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"glTF", "a GLB mesh"),
    (0, b"ply\n", "a PLY mesh"),
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file itself"),
)


def existing_file(path: Path | str, purpose: str) -> Path:
    """`path` as a Path, once it is known to be a file with bytes in it; `purpose` ends the sentence otherwise.

    Raises MediaError for a path that is absent, a folder, unreadable or empty.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder, not {purpose}. Pass the path of one file.")
    if not path.exists():
        raise MediaError(f"{path} does not exist, so there is no {purpose.split()[-1]} to read. Check the path.")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise MediaError(f"{path} cannot be opened ({error.strerror}). Check its permissions.") from error
    if empty:
        raise MediaError(f"{path.name} is empty (0 bytes), so it holds no {purpose.split()[-1]}. "
                         "Download or export it again.")
    return path


def describe_content(path: Path) -> str:
    """A few words for what the first bytes of a file show, such as "text" or "a PNG picture"."""
    with path.open("rb") as file:
        head = file.read(512)
    for offset, signature, words in _SIGNATURES:
        if head[offset:offset + len(signature)] == signature:
            return words
    if not head.strip(b"\0"):
        return "nothing but zeros"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return "bytes of no known media format"
        text = head[:error.start].decode("utf-8")
    if not all(letter.isprintable() or letter in "\r\n\t\f\ufeff" for letter in text):
        return "bytes of no known media format"
    return "a web page" if text.lstrip().lower().startswith(("<!doctype html", "<html")) else "text"


def check_size(width: int, height: int, name: str) -> None:
    """Raise MediaError when a picture or frame is too large to be decoded safely, or has no pixels."""
    if width < 1 or height < 1:
        raise MediaError(f"{name} claims {width} x {height} pixels, so there is nothing to decode. "
                         "Export it again.")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise MediaError(f"{name} is {width} x {height} pixels; at most {MAX_SIDE} a side and "
                         f"{MAX_PIXELS // 1_000_000} million pixels are decoded. Scale or crop it first.")


def promised_bytes(path: Path) -> int | None:
    """The length that the outermost boxes of an MP4, Matroska or RIFF file claim; None where they claim nothing.

    A file shorter than its promise was cut off on the way.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little")
        if head[:4] == b"\x1aE\xdf\xa3":
            return _promised_by_matroska(head)
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return None
        position = 0
        while position + 8 <= size:
            file.seek(position)
            box = file.read(16)
            length = int.from_bytes(box[:4], "big")
            if length == 0:
                return size
            if length == 1:
                length = int.from_bytes(box[8:16], "big")
            if length < 8:
                return None
            position += length
    return position


def _promised_by_matroska(head: bytes) -> int | None:
    """End of the segment that follows the EBML header; None for a live recording, whose length is not stated."""
    header_length, position = _ebml_length(head, 4)
    position += header_length
    if head[position:position + 4] != b"\x18S\x80g":
        return None
    length, start = _ebml_length(head, position + 4)
    unknown = (1 << 7 * (start - position - 4)) - 1
    return None if length == unknown else start + length


def _ebml_length(data: bytes, position: int) -> tuple[int, int]:
    """An EBML variable-length number, and the position after it."""
    first = data[position] if position < len(data) else 0x80
    width = 9 - first.bit_length()
    value = int.from_bytes(data[position:position + width], "big") - (1 << 7 * width)
    return value, position + width
