"""diorama: eleven vision, video, 3D, language and agent systems that work as one."""

__version__ = "0.1.0"
