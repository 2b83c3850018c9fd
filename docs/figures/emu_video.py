"""Draw how much contrast each schedule keeps, and put the measured tables into the system's page.

Type: .venv/bin/diorama emu-video reproduce --json > docs/figures/emu_video_claim.json
      .venv/bin/python docs/figures/emu_video.py
(writes docs/figures/emu_video_contrast.svg, which needs no claim, and what stands between the markers of
src/diorama/systems/emu_video/README.md)
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diorama.diffusion import schedules
from diorama.diffusion.schedules import Schedule
from diorama.systems.emu_video.contrast import contrast_kept, limit_kept, table

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(__file__).with_name("emu_video_contrast.svg")
CLAIM = Path(__file__).with_name("emu_video_claim.json")
PAGE = ROOT / "src/diorama/systems/emu_video/README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
REDUNDANCIES = [2**k for k in range(6, 17)]
LEFT, TOP, WIDE, HIGH = 70, 60, 560, 300
Line = tuple[str, str, str, Callable[[int], float]]


def lines() -> list[Line]:
    """Label, color, dash and value of each curve."""
    stock = schedules.scaled_linear()
    zero = schedules.zero_terminal_snr(stock)

    def kept(schedule: Schedule, steps: list[int]) -> Callable[[int], float]:
        return lambda redundancy: contrast_kept(schedule, steps, redundancy)

    return [
        ("zero terminal SNR, 250 even steps", "#2563eb", "", kept(zero, schedules.trailing(1000, 250))),
        ("zero terminal SNR, 25 dense steps", "#16a34a", "", kept(zero, schedules.dense_near_noise(1000, 25))),
        ("zero terminal SNR, 25 even steps", "#16a34a", "5 4", kept(zero, schedules.trailing(1000, 25))),
        ("stock schedule, 250 even steps", "#ea580c", "", kept(stock, schedules.trailing(1000, 250))),
        ("stock schedule, any number of steps", "#475569", "2 4", lambda n: limit_kept(stock, n)),
    ]


def draw() -> str:
    """The picture as SVG text."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 420" width="900" height="420" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="Contrast kept by schedule">',
        '<rect width="900" height="420" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="26" font-weight="600">Share of the true deviation of the mean brightness that sampling '
        'keeps</text>',
        f'<text x="{LEFT}" y="44" fill="#475569">an exact denoiser through the sampler; 1 is right</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = TOP + HIGH * (1 - share)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + WIDE}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#475569">{share:g}</text>')
    for redundancy, told in ((64, "64"), (1024, "32 x 32"), (8192, "32 x 32 x 8"), (32768, "64 x 64 x 8")):
        x = LEFT + WIDE * place(redundancy)
        parts.append(f'<path d="M{x:.1f} {TOP}V{TOP + HIGH}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + HIGH + 18}" text-anchor="middle" fill="#475569">{told}</text>')
    parts.append(f'<text x="{LEFT + WIDE / 2}" y="{TOP + HIGH + 40}" text-anchor="middle" fill="#475569">values that '
                 'are averaged (pixels of a frame x frames)</text>')
    for number, (label, color, dash, value) in enumerate(lines()):
        points = " ".join(f"{LEFT + WIDE * place(n):.1f},{TOP + HIGH * (1 - value(n)):.1f}" for n in REDUNDANCIES)
        style = f'stroke="{color}" stroke-width="2" fill="none"' + (f' stroke-dasharray="{dash}"' if dash else "")
        y = TOP + 12 + 22 * number
        parts += [f'<polyline points="{points}" {style}/>',
                  f'<path d="M{LEFT + WIDE + 18} {y}h24" {style}/>',
                  f'<text x="{LEFT + WIDE + 48}" y="{y + 4}">{label}</text>']
    return "\n".join([*parts, "</svg>"]) + "\n"


def place(redundancy: int) -> float:
    """Where a number of values is on the axis, 0 to 1."""
    first, last = math.log(REDUNDANCIES[0]), math.log(REDUNDANCIES[-1])
    return (math.log(redundancy) - first) / (last - first)


def contrast_rows() -> list[str]:
    """The closed form as a table."""
    rows = ["| values averaged | stock, any steps | zero SNR, 25 even steps | 50 | 250 | 25 dense near noise |",
            "|---|---|---|---|---|---|"]
    return rows + [f"| {row.redundancy} | {row.limit:.3f} | {row.zero[25]:.3f} | {row.zero[50]:.3f} | "
                   f"{row.zero[250]:.3f} | {row.dense:.3f} |" for row in table()]


def claim_rows(claim: Mapping[str, Any]) -> list[str]:
    """The trained arms and every check with its verdict."""
    rows = [f"`diorama emu-video reproduce` ({claim['mode']}), {claim['seconds']:.0f} s on {claim['device']}; 95 % "
            "intervals.", "", "| arm | metric | mean | interval | n | seeds |", "|---|---|---|---|---|---|"]
    for arm in claim["arms"]:
        if "values" not in arm["name"]:
            rows += [f"| {arm['name']} | {name} | {m['mean']:.3g} | {m['low']:.3g} - {m['high']:.3g} | {m['n']} | "
                     f"{m['seeds']} |" for name, m in arm["metrics"].items()]
    rows += ["", "| check | difference | interval | holds |", "|---|---|---|---|"]
    return rows + [f"| {c['says']} | {c['difference']:.3g} | {c['low']:.3g} - {c['high']:.3g} | "
                   f"{'yes' if c['holds'] else '**no**'} |" for c in claim["checks"]]


def measured(page: str) -> str:
    """The page with its tables made anew."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    rows = contrast_rows()
    if CLAIM.is_file():
        rows += ["", *claim_rows(json.loads(CLAIM.read_text(encoding="utf-8")))]
    return f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{after}"


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
    PAGE.write_text(measured(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(TARGET)
    print(PAGE)
