"""Draw what the claim of I&S-ViT gave, and put its table and its verdicts into the system's page.

Type: .venv/bin/diorama is-vit reproduce --json > docs/figures/is_vit_claim.json
      .venv/bin/python docs/figures/is_vit.py
(writes docs/figures/is_vit_accuracy.svg and what stands between the markers of src/diorama/systems/is_vit/README.md)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLAIM = Path(__file__).with_name("is_vit_claim.json")
PAGE = ROOT / "src/diorama/systems/is_vit/README.md"
FIGURE = Path(__file__).with_name("is_vit_accuracy.svg")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LEFT, BAR, ROW, TOP = 250, 460, 20, 52
ARMS = ("uniform", "log2 clamped", "log2 masked", "sulq", "reparameterisation only", "SOS 1", "SOS 1+2", "SOS 1+2+3",
        "QDrop")
FILL = {"world": "#2563eb", "digits": "#ea580c", "natural": "#16a34a"}


def measured(claim: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Metrics by image set and arm; arms that have an accuracy."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for arm in claim["arms"]:
        if "accuracy" in arm["metrics"]:
            name, _, rest = arm["name"].partition(" ")
            found.setdefault(name, {})[rest] = arm["metrics"]
    return found


def draw(claim: Mapping[str, Any]) -> str:
    """Bars of accuracy at the fewest bits, arm by arm, for every image set, with the float network's as a line."""
    sets = measured(claim)
    rows = [(f"{name}, {bits}", name, arm, sets[name][f"{bits} {arm}"]["accuracy"])
            for name in sets for bits in ("w2a2", "w3a3") for arm in ARMS if f"{bits} {arm}" in sets[name]]
    groups = len({row[0] for row in rows})
    height = TOP + ROW * (len(rows) + groups - 1) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {height}" width="820" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="Accuracy by arm at 2 and 3 bits">',
        f'<rect width="820" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-weight="600">Accuracy at 2 and 3 bits, 95 % intervals over images; dashed: '
        'float32</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + BAR * share
        parts.append(f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 26}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{x}" y="{height - 10}" text-anchor="middle" fill="#475569">{share:.0%}</text>')
    y, before = TOP, rows[0][0]
    for group, name, arm, value in rows:
        y += ROW * (group != before)
        before = group
        low, high = LEFT + BAR * value["low"], LEFT + BAR * value["high"]
        line = LEFT + BAR * sets[name]["fp32"]["accuracy"]["mean"]
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 11}" text-anchor="end">{group}: {arm}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{BAR * value["mean"]:.1f}" height="13" fill="{FILL[name]}" '
            'fill-opacity="0.75"/>',
            f'<path d="M{low:.1f} {y + 6}H{high:.1f}M{low:.1f} {y + 3}v7M{high:.1f} {y + 3}v7" stroke="#0f172a" '
            'fill="none"/>',
            f'<path d="M{line:.1f} {y - 3}v{ROW}" stroke="#64748b" stroke-dasharray="3 2"/>',
            f'<text x="{LEFT + BAR + 12}" y="{y + 11}">{value["mean"]:.1%}</text>',
        ]
        y += ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(claim: Mapping[str, Any]) -> str:
    """Accuracy, size and time of every arm, then the checks with their verdicts."""
    seeds = max(metrics["accuracy"]["seeds"] for arms in measured(claim).values() for metrics in arms.values())
    command = "diorama is-vit reproduce" + (" --quick" if claim["mode"] == "quick" else "")
    lines = [f"`{command}`: {seeds} calibration seeds, {claim['seconds']:.0f} s on {claim['device']}. "
             "Accuracy with 95 % intervals over images, all seeds pooled; bytes of the packed file; time of one image "
             "in a batch of 64, float32 or on bytes (networks of this size are mostly overhead: "
             "`benchmarks/is_vit.py` times a large one).",
             "", "| images | arm | accuracy | kB | ms | seconds to make |", "|---|---|---|---|---|---|"]
    for name, arms in measured(claim).items():
        for arm, metrics in arms.items():
            right = metrics["accuracy"]
            lines.append(f"| {name} | {arm} | {right['mean']:.1%} ({right['low']:.1%} - {right['high']:.1%}) | "
                         f"{1000 * metrics['MB']['mean']:.0f} | "
                         f"{_milliseconds(metrics)} | "
                         f"{metrics['seconds to make']['mean']:.1f} |")
    spreads = [f"{arm['name'].partition(':')[0]} {arm['metrics']['ratio']['mean']:.1f}" for arm in claim["arms"]
               if "ratio" in arm["metrics"]]
    lines += ["", "Range of the widest channel of a LayerNorm's output over the median channel's, mean over the norms, "
              f"as trained: {', '.join(spreads)}.", "", "| what the claim says | difference | holds |", "|---|---|---|"]
    for check in claim["checks"]:
        lines.append(f"| {check['says']} | {100 * check['difference']:+.1f} points ({100 * check['low']:+.1f} to "
                     f"{100 * check['high']:+.1f}) | {'yes' if check['holds'] else '**no**'} |")
    return "\n".join(lines)


def _milliseconds(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['ms an image']['mean']:.3f}" if "ms an image" in metrics else "-"


def page_with(text: str, block: str) -> str:
    """The page with what stands between its markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> None:
    claim = json.loads(CLAIM.read_text())
    FIGURE.write_text(draw(claim))
    PAGE.write_text(page_with(PAGE.read_text(), table(claim)))


if __name__ == "__main__":
    main()
