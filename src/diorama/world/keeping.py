"""Sets that take minutes to render are kept in folders: made once, whole or not at all, and never mixed up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diorama.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SETTINGS = "config.json"
"""Holds the settings with which a kept set was made."""


def keep(folder: Path, settings: DataclassInstance, what: str, make: Callable[[Path], None]) -> None:
    """See to it that `folder` holds what `settings` ask for: `make` writes it into a new folder where there is none.

    what: the plural of what is kept, for messages. Raises InputError where the folder holds something else, or was made
    with other settings.
    """
    wanted = json.loads(json.dumps(asdict(settings)))
    if not folder.exists():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        make(part)
        (part / SETTINGS).write_text(json.dumps(wanted, indent=1))
        part.rename(folder)
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} exists and holds no {what}. Name another folder.")
    found = json.loads((folder / SETTINGS).read_text())
    if found != wanted:
        differs = ", ".join(sorted(k for k in {*wanted, *found} if found.get(k) != wanted.get(k)))
        raise InputError(f"{folder} holds {what} made with other settings ({differs} differ). "
                         "Name another folder, or remove this one.")
