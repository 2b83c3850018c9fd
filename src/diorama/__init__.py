"""diorama: eleven vision, video, 3D, language and agent systems that work as one.

The names here are loaded when they are first used, so `import diorama` imports no torch. Start with `load`, for a
checkpoint, or `sample_scene` and `render`, for the world; everything else is imported from its own module.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diorama.errors import InputError
    from diorama.loading import load
    from diorama.media.images import load_image, save_image
    from diorama.media.videos import FrameSampler, read_video, write_video
    from diorama.world.rendering import frame_times, render
    from diorama.world.sampling import sample_scene
    from diorama.world.scene import Scene

__version__ = "0.1.0"

__all__ = [
    "FrameSampler",
    "InputError",
    "Scene",
    "frame_times",
    "load",
    "load_image",
    "read_video",
    "render",
    "sample_scene",
    "save_image",
    "write_video",
]

_HOME = {
    "FrameSampler": "diorama.media.videos",
    "InputError": "diorama.errors",
    "Scene": "diorama.world.scene",
    "frame_times": "diorama.world.rendering",
    "load": "diorama.loading",
    "load_image": "diorama.media.images",
    "read_video": "diorama.media.videos",
    "render": "diorama.world.rendering",
    "sample_scene": "diorama.world.sampling",
    "save_image": "diorama.media.images",
    "write_video": "diorama.media.videos",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
