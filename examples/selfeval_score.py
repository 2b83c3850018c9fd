"""Ask a text-to-image model which caption fits a picture, by its own likelihood; no CLIP, no question answering.

    python examples/selfeval_score.py [MODEL]

MODEL is a miniature's name, a folder, or a hub id in diffusers' layout. Without one a tiny generator is trained for a
few steps first, which shows the way and not a good answer.
"""

import sys
import tempfile
from pathlib import Path

from diorama.diffusion.image_data import WorldConfig, draw_world
from diorama.diffusion.image_training import Recipe, train_text_to_image
from diorama.diffusion.text_to_image import MiniatureConfig
from diorama.systems.selfeval.pipeline import SelfEval
from diorama.systems.selfeval.world_items import world_items
from diorama.training import RunConfig

with tempfile.TemporaryDirectory() as folder:
    if len(sys.argv) > 1:
        exam = SelfEval.from_pretrained(sys.argv[1])
        size = exam.model.image_size
    else:
        size = 16
        recipe = Recipe(miniature=MiniatureConfig(image_size=size, latent=False, width=64, layers=2, text_width=64),
                        network=RunConfig(steps=30, learning_rate=1e-3, ema=0.9, log_every=10), batch=16)
        pictures = draw_world(WorldConfig(scenes=200, size=size, samples=1))
        exam = SelfEval(train_text_to_image(pictures, recipe, Path(folder) / "run", device="cpu"))

    for item in world_items(1, tasks=("attribute", "color"), size=size):
        verdict = exam.score(item.image, item.options)
        print(f"\n{item.task}: the right caption is {item.options[item.answer]!r}")
        for caption, probability, calls in zip(verdict.captions, verdict.probabilities, verdict.calls, strict=True):
            print(f"  {probability:6.1%} after {calls:3d} calls  {caption}")
        print(f"  best: {' = '.join(verdict.best)}")
