"""Draw what the shipped generators make of a few captions.

Type: .venv/bin/python docs/figures/made.py
(writes docs/images/text-to-image.png and text-to-clip.png; captions and seed stand below, nothing is picked)
"""

from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw
from torch import Tensor

from diorama.diffusion.text_to_image import TextToImage
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling

IMAGES = Path(__file__).resolve().parents[1] / "images"
PICTURES = ("a red cube", "a blue sphere", "a yellow cone", "a green torus", "a small purple pyramid",
            "a large grey cylinder", "a cyan cube", "an orange sphere", "a red cube and a blue sphere",
            "a green cone left of a yellow cube", "a purple torus behind a grey pyramid", "two cyan cylinders")
CLIPS = ("a red cube moves left", "a blue sphere rises", "a yellow cone vanishes", "a large green cube spins",
         "a purple cylinder comes nearer", "a cyan pyramid grows")
SEED, SIDE, CAPTION, GAP = 0, 128, 28, 6


def tile(picture: Tensor) -> Image.Image:
    """A picture uint8 (3, S, S), enlarged without smoothing."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def sheet(rows: list[list[Tensor]], captions: list[list[str]]) -> Image.Image:
    """Rows of pictures, each with a caption below it where there is one."""
    high = SIDE + CAPTION + GAP
    page = Image.new("RGB", (max(map(len, rows)) * (SIDE + GAP) - GAP, len(rows) * high), "white")
    write = ImageDraw.Draw(page)
    for y, (row, told) in enumerate(zip(rows, captions, strict=True)):
        for x, picture in enumerate(row):
            page.paste(tile(picture), (x * (SIDE + GAP), y * high))
        for x, caption in enumerate(told):
            lines = "\n".join(wrap(caption, 26))
            write.multiline_text((x * (SIDE + GAP) + 2, y * high + SIDE + 2), lines, fill="black", font_size=10)
    return page


def main() -> None:
    model = TextToImage.from_pretrained(device="cpu")
    drawn = list(model.generate(PICTURES, seed=SEED))
    rows, told = [drawn[:6], drawn[6:]], [list(PICTURES[:6]), list(PICTURES[6:])]
    sheet(rows, told).save(IMAGES / "text-to-image.png", optimize=True)
    clips = EmuVideo.from_pretrained(device="cpu").generate(CLIPS, Sampling(seed=SEED))
    sheet([list(clip) for clip in clips], [[caption] for caption in CLIPS]).save(IMAGES / "text-to-clip.png",
                                                                                 optimize=True)


if __name__ == "__main__":
    main()
