"""Files appear whole or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diorama.errors import MediaError


@contextmanager
def written_whole(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, that takes its place when the block succeeds.

    Missing folders are made. When the block fails the temporary file goes and an older `path` stays as it was.
    Raises MediaError where the place cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder, so no file can be written there. Add a file name.")
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise MediaError(f"{path} cannot be written ({error.strerror or error}). "
                         "Choose another place or free some space.") from error
    finally:
        temporary.unlink(missing_ok=True)
