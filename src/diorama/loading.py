"""`load`: a checkpoint by name, folder or hub id becomes the object of the system it belongs to."""

from importlib import import_module
from pathlib import Path
from typing import Any

from diorama.errors import CheckpointError

SYSTEMS = {
    "is_vit": "diorama.systems.is_vit.pipeline:VisionTransformer",
    "video_llava": "diorama.systems.video_llava.pipeline:VideoLlava",
    "emu_video": "diorama.systems.emu_video.pipeline:EmuVideo",
    "diorama_video_llava": "diorama.systems.video_llava.pipeline:VideoLlava",
    "text_to_image": "diorama.diffusion.text_to_image:TextToImage",
}
"""The `system` (or transformers' `model_type`) field of config.json -> its class, imported when asked for."""


def load(
    name_or_path: str | Path,
    *,
    device: str = "auto",
    dtype: str | None = None,
    strict: bool = True,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """The system that a checkpoint belongs to, loaded and ready to call.

    name_or_path: a shipped miniature, a local folder, or a hub id (`owner/name`, `owner/name@revision`).
    device, dtype, strict: handed to the class's `from_pretrained`; `dtype=None` keeps the file's.
    revision, token, local_files_only, cache_dir: as for `diorama.checkpoints.resolve`.

    Raises CheckpointError if nothing is found, or config.json names no system known here.
    """
    from diorama.checkpoints import read_config, resolve

    folder = resolve(
        name_or_path, revision=revision, token=token, local_files_only=local_files_only, cache_dir=cache_dir
    )
    return system_class(folder, read_config(folder)).from_pretrained(
        folder, device=device, dtype=dtype, strict=strict
    )


def system_class(folder: Path, config: dict[str, Any]) -> Any:
    """The class that reads this folder, by the `system` field of its config, else by `model_type`."""
    found = config.get("system", config.get("model_type"))
    if found not in SYSTEMS:
        raise CheckpointError(
            f"{folder} says it is {found!r}, which is no system here ({', '.join(sorted(SYSTEMS))}). "
            "Pass a checkpoint of one of these, or load it with the library that wrote it."
        )
    module, _, name = SYSTEMS[found].partition(":")
    return getattr(import_module(module), name)
