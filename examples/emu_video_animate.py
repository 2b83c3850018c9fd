"""Animate a picture of your own from Python: the picture becomes the first frame, a sentence says what happens.

    python examples/emu_video_animate.py picture.png "a red cube slides left" --weights runs/emu-video/video/model

Without --weights the smallest network is built with random weights, so that the calls can be seen at work on any
machine; what it draws is noise. Without a picture one is rendered.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from diorama.diffusion.text_to_image import MiniatureConfig, build_miniature
from diorama.media.images import load_image
from diorama.media.resizing import center_crop, resize_shortest
from diorama.media.videos import write_video
from diorama.systems.emu_video.config import EmuVideoConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.evaluate import as_frames
from diorama.systems.emu_video.motion import motion_score
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling
from diorama.world.rendering import render
from diorama.world.sampling import sample_scene


def untrained() -> EmuVideo:
    """The smallest video model, with random weights: an image base and the layers over time around it."""
    smallest = MiniatureConfig(image_size=16, latent=False, width=32, layers=1, text_layers=1)
    base = build_miniature(smallest, device="cpu")
    return EmuVideo.new(base, EmuVideoConfig(temporal=TemporalConfig(head_dim=32), sampling=SamplingConfig(steps=4)))


def first_frame(path: Path | None, size: int) -> torch.Tensor:
    """The picture at `path`, or a rendered one, as uint8 (1, 3, size, size)."""
    if path is None:
        return render([sample_scene(3)], size=size).rgb[:, 0]
    pixels = np.array(center_crop(resize_shortest(load_image(path), size), size))
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("prompt", nargs="?", default="a red cube slides left")
    parser.add_argument("--weights")
    parser.add_argument("--out", type=Path, default=Path("out") / "emu_video_animate.mp4")
    arguments = parser.parse_args()
    emu = EmuVideo.from_pretrained(arguments.weights) if arguments.weights else untrained()
    image = first_frame(arguments.picture, emu.base.image_size)
    scores = {}
    for scale in (1.0, 3.0):                         # the image scale is the knob of motion: larger stays nearer
        clip = emu.animate(image, [arguments.prompt], Sampling(guidance_image=scale))[0]
        scores[scale] = motion_score(as_frames(clip))
    write_video(arguments.out, as_frames(clip), emu.config.fps)
    print(f"motion score by image scale: {scores}")
    print(arguments.out)


if __name__ == "__main__":
    main()
