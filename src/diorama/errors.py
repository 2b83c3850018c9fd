"""What a caller may want to catch. Every message has three beats: what arrived, why it cannot work, what to do.

InputError (ValueError)
├── MediaError         a picture, clip or mesh that cannot be read or written
├── CheckpointError    a weights folder or file that cannot be loaded as asked
├── MissingExtra       an optional dependency; the message holds the line to type
└── ReplyError         a language model's reply that does not parse into what was asked

The command line prints these as one sentence on stderr and exits with 2; every other exception is a defect of ours.
"""


class InputError(ValueError):
    """The caller passed something that cannot work; the message says what to do instead."""


class MediaError(InputError):
    """A media file is unreadable, empty, of another kind than its name says, or too large."""


class CheckpointError(InputError):
    """A checkpoint is absent, incomplete, of another layout, or holds unexpected tensors."""


class ReplyError(InputError):
    """A language model's reply cannot be parsed into the type that was asked for."""


class MissingExtra(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed. "
                         f"Type: pip install 'diorama[{extra}]'")
