"""Training the generators that are examined: the world's pictures or a folder's, autoencoder and network in turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from diorama.console import note
from diorama.diffusion.image_data import WorldConfig, folder_pictures, world_pictures
from diorama.diffusion.image_training import Recipe, load_autoencoder, train_autoencoder, train_text_to_image
from diorama.diffusion.text_to_image import TextToImage


def train_miniature(out: Path, *, data: str = "world", init: str | None = None, steps: int | None = None,
                    batch: int | None = None, text: Literal["ordered", "bag"] = "ordered", latent: bool = True,
                    scenes: int = 40_000, pictures: Path | None = None, seed: int = 0, device: str = "auto",
                    recipe: Recipe | None = None) -> Path:
    """Train a miniature into `out` and return the folder of the model, `out`/network/model.

    data: "world" or a folder of pictures and captions. init: a model to go on from. The autoencoder is trained first
    where a new latent miniature needs one. Every part resumes where it stopped.
    """
    recipe = recipe or Recipe()
    recipe = replace(
        recipe, miniature=replace(recipe.miniature, text=text, latent=latent), batch=batch or recipe.batch,
        network=replace(recipe.network, steps=steps or recipe.network.steps))
    start = TextToImage.from_pretrained(init, device=device) if init else None
    size = start.image_size if start else recipe.miniature.image_size
    if data == "world":
        shown = world_pictures(
            pictures or out / "pictures", WorldConfig(scenes=scenes, size=size, seed=30_000_000 + 1_000_000 * seed),
            progress=lambda done, of: note(f"rendering {done}/{of}") if done == of or done % 5120 == 0 else None)
    else:
        shown = folder_pictures(Path(data), size)
    autoencoder = None
    if start is None and latent:
        if not (out / "autoencoder" / "model" / "config.json").is_file():
            train_autoencoder(shown, recipe, out / "autoencoder", seed=seed, device=device)
        autoencoder = load_autoencoder(out / "autoencoder" / "model")
    train_text_to_image(shown, recipe, out / "network", autoencoder=autoencoder, init=start, seed=seed, device=device)
    return out / "network" / "model"
