"""Quantise a vision transformer to 4 bits, save it packed, load it again and classify.

Type: python examples/quantize_vit.py
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from diorama.systems.is_vit.config import preset
from diorama.systems.is_vit.data import world
from diorama.systems.is_vit.evaluate import accuracy, file_bytes
from diorama.systems.is_vit.pipeline import VisionTransformer

vit = VisionTransformer.from_pretrained("is-vit-world", device="cpu")
test = world("test", 200, seed=2_000_000)
config = replace(preset("is-vit", "w4a4"), images=128, batch=32, iterations=20, learning_rate=2e-3)
small = vit.quantise(vit.calibration("world", config), config, source="world")

with tempfile.TemporaryDirectory() as folder:
    written = small.save_pretrained(Path(folder) / "world-w4a4")
    loaded = VisionTransformer.from_pretrained(written, device="cpu")
    print(f"{file_bytes(vit.model) / 1e3:.0f} kB in float32, {file_bytes(small.model) / 1e3:.0f} kB packed")
    image = vit.preprocessing.normalise(test.images[:1])
    label = loaded.labels[int(loaded.logits(image).argmax())]
    print(f"the first image is a {test.classes[int(test.labels[0])]}; the loaded model says {label}")

with torch.no_grad():
    for name, model in (("float", vit.model), ("w4a4", small.model)):
        found = accuracy(model, vit.preprocessing, test)
        print(f"{name}: {found.mean:.1%} of {found.n} unseen images ({found.low:.1%} - {found.high:.1%})")
