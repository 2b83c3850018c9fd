"""NLVR (Suhr et al. 2017), people's true or false statements about colored shapes, as LLaVA-style training data.

The example of training on data of one's own: `convert_nlvr` writes the two files that training and evaluation read.
A picture of NLVR is a row of three square boxes, far wider than high; each box becomes an image of its own, since a
tower sees squares.
"""

import hashlib
import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diorama.errors import InputError, MediaError
from diorama.media.images import load_image
from diorama.media.writing import written_whole
from diorama.systems.video_llava.files import Conversation, MediaFile, media_folder, write_conversations
from diorama.systems.video_llava.json_files import Record, describe, read_each, read_records
from diorama.systems.video_llava.processing import Turn

QUESTION = "True or false: {statement}."
BOXES = 3
PERMUTATIONS = 6
"""Three boxes in a row can stand in six orders; a release holds some of them for each statement."""
MAX_IMAGE_BYTES = 1_000_000
IDENTIFIER = re.compile(r"\d+-\d+")


@dataclass(frozen=True)
class Statement:
    """A sentence, whether it is true of the image, and the image with its three boxes in one or more orders."""

    id: str
    sentence: str
    is_true: bool
    images: tuple[MediaFile, ...]

    @property
    def group(self) -> str:
        """The sentence without case and closing mark: the same words about other images stay in one split."""
        return " ".join(self.sentence.lower().rstrip(" .").split())


@dataclass(frozen=True)
class Balance:
    """How many items of a file are true and false, over how many different sentences."""

    items: int
    true: int
    sentences: int

    def __str__(self) -> str:
        share = max(self.true, self.items - self.true) / self.items if self.items else 0.0
        return (f"{self.items:,} items ({self.true:,} true, {self.items - self.true:,} false; always saying the more "
                f"frequent one is right in {share:.1%}), {self.sentences:,} sentences")


@dataclass(frozen=True)
class Converted:
    """What `convert_nlvr` wrote; held_out is None where nothing was held out."""

    train: Path
    held_out: Path | None
    media: Path
    train_balance: Balance
    held_out_balance: Balance | None
    left_out: tuple[str, ...]
    """Identifiers of statements without any image file."""


def read_nlvr(folder: Path | str, media: Path | str, *, split: str = "dev") -> list[Statement]:
    """The statements of <split>.json (or <split>/<split>.json), with the images that are in the folder `media`.

    Images are looked for as images/<directory>/<split>-<identifier>-<k>.png, or without the directory. A statement
    may have none. Raises InputError that names file, item and field for anything else than the published format.
    """
    folder, root = media_folder(folder), Path(media)

    def read(record: Record) -> Statement:
        identifier, label = record.text("identifier"), record.text("label").lower()
        if not IDENTIFIER.fullmatch(identifier):
            raise record.problem("identifier", f"it holds {describe(identifier)}", "It is two numbers, such as 12-0.")
        if label not in ("true", "false"):
            raise record.problem("label", f"it holds {describe(label)}", "A label is true or false.")
        directory = str(record.values.get("directory", ""))
        if directory and not directory.isalnum():
            raise record.problem("directory", f"it holds {describe(directory)}", "It is one folder's name.")
        names = [f"{split}-{identifier}-{k}.png" for k in range(PERMUTATIONS)]
        places = [root / "images" / directory, root / "images"]
        found = [next((place / name for place in places if (place / name).is_file()), None) for name in names]
        images = tuple(MediaFile("image", path) for path in found if path is not None)
        return Statement(identifier, record.text("sentence").strip(), label == "true", images)

    statements = read_each(read_records(_list_of(folder, split)), read)
    twice = [key for key, count in Counter(item.id for item in statements).items() if count > 1]
    if twice:
        raise InputError(f"The identifier {twice[0]} comes twice in {split}.json. Pass the file as it was published.")
    return statements


def convert_nlvr(folder: Path | str, out: Path | str, *, split: str = "dev", held_out: float = 0.2,
                 permutations: int = PERMUTATIONS) -> Converted:
    """Write nlvr_<split>_train.json and nlvr_<split>_held_out.json into `out`, both LLaVA-style.

    Images come from <split>_images.zip, unpacked into out/images, or from an unpacked images folder beside the list;
    their boxes are cut out into out/boxes. About a share `held_out` of the sentences goes to the held-out file,
    decided by the words alone (SHA-256), so the same sentence is never on both sides; 0 keeps all for training.
    Training items take up to `permutations` orders of the boxes, for the statements do not depend on it; held-out items
    take the first.

    Raises InputError for a share outside [0, 1), a file that is not NLVR's; MediaError when no image is found.
    """
    if not 0 <= held_out < 1 or permutations < 1:
        raise InputError(f"A held-out share of {held_out:g} with {permutations} orders of the boxes leaves nothing to "
                         "train on. Pass a share from 0 up to but without 1, and at least 1 order.")
    folder, out = media_folder(folder), Path(out)
    media = _images(folder, out, split)
    statements = read_nlvr(folder, media, split=split)
    complete = [item for item in statements if item.images]
    if not complete:
        raise MediaError(f"None of the {len(statements):,} statements of {split}.json has its images in {media}. "
                         f"Put {split}_images.zip or the folder images beside {split}.json.")
    test = [item for item in complete if _share(item.group) < held_out]
    train = [item for item in complete if _share(item.group) >= held_out]
    if not train or (held_out and not test):
        sentences = len({item.group for item in complete})
        raise InputError(f"{sentences} different sentences cannot be split with a share of {held_out:g} held out. "
                         "Pass another share, or 0 to train on all.")
    paths = [out / f"nlvr_{split}_{part}.json" for part in ("train", "held_out")]
    for path, part, orders in ((paths[0], train, permutations), (paths[1], test, 1)):
        if part:
            write_conversations(path, conversations_of(part, orders, out / "boxes"), out)
    return Converted(paths[0], paths[1] if test else None, out, _balance(train, permutations),
                     _balance(test, 1) if test else None, tuple(item.id for item in statements if not item.images))


def conversations_of(statements: Iterable[Statement], permutations: int, boxes: Path) -> list[Conversation]:
    """A true-or-false question for each statement and each of its first `permutations` images, whose boxes are cut out
    into the folder `boxes`."""
    found = []
    for item in statements:
        turn = Turn(f"{'<image>' * BOXES}\n{question_of(item)}", str(item.is_true).lower())
        paths = [image.path for image in item.images[:permutations]]
        found += [Conversation(path.stem, (turn,), cut(path, boxes)) for path in paths]
    return found


def cut(picture: Path, boxes: Path) -> tuple[MediaFile, ...]:
    """The boxes of a picture, from left to right, as files of their own; those that are there already stay.

    Raises MediaError for a picture that is not a row of three squares.
    """
    files = tuple(MediaFile("image", boxes / f"{picture.stem}-{place}.png") for place in ("left", "middle", "right"))
    if all(file.path.is_file() for file in files):
        return files
    row = load_image(picture)
    width, side = row.size
    if width < BOXES * side:
        raise MediaError(f"{picture.name} is {width} x {side} pixels, which does not hold {BOXES} square boxes in a "
                         "row. Pass NLVR's own images.")
    for place, file in enumerate(files):
        left = (width - side) * place // (BOXES - 1)
        with written_whole(file.path) as unfinished:
            row.crop((left, 0, left + side, side)).save(unfinished, format="PNG")
    return files


def question_of(statement: Statement) -> str:
    """The statement as a question whose answer is true or false."""
    return QUESTION.format(statement=statement.sentence.rstrip(" ."))


def _share(group: str) -> float:
    """A number in [0, 1) that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2 ** 64


def _balance(statements: Sequence[Statement], permutations: int) -> Balance:
    counts = [len(item.images[:permutations]) for item in statements]
    true = sum(count for item, count in zip(statements, counts, strict=True) if item.is_true)
    return Balance(sum(counts), true, len({item.group for item in statements}))


def _list_of(folder: Path, split: str) -> Path:
    if not split.isidentifier():
        raise InputError(f"The split {split!r} is not a name. Pass train, dev or test.")
    beside = folder / f"{split}.json"
    return beside if beside.exists() else folder / split / f"{split}.json" if (folder / split).is_dir() else beside


def _images(folder: Path, out: Path, split: str) -> Path:
    """The folder that holds `images`: the list's own, or `out` once the archive is unpacked there."""
    home = _list_of(folder, split).parent
    if (home / "images").is_dir():
        return home
    archive = home / f"{split}_images.zip"
    if not archive.is_file():
        raise MediaError(f"Neither images nor {archive.name} is in {home}, so the statements have no images. "
                         "Put one of them there.")
    try:
        with zipfile.ZipFile(archive) as packed:
            _unpack(packed, out, split)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise MediaError(f"{archive.name} cannot be unpacked ({error}). Download it again.") from error
    return out


def _unpack(packed: zipfile.ZipFile, out: Path, split: str) -> None:
    """Unpack the images that are not there yet; names of any other form are passed over, so nothing leaves `out`."""
    wanted = re.compile(rf"images/(?:\w+/)?{split}-\d+-\d+-\d\.png")
    for entry in packed.infolist():
        if not wanted.fullmatch(entry.filename):
            continue
        if entry.file_size > MAX_IMAGE_BYTES:
            raise MediaError(f"{entry.filename} would take {entry.file_size:,} bytes unpacked, which no image of NLVR "
                             "does. Download the archive again.")
        target = out / entry.filename
        if target.is_file() and target.stat().st_size == entry.file_size:
            continue
        with packed.open(entry) as source, written_whole(target) as unfinished, unfinished.open("wb") as file:
            shutil.copyfileobj(source, file)
