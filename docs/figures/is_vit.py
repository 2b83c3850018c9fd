"""Draw what the claim of I&S-ViT gave, and put its table, its verdicts and the benchmark into the system's page.

Type: .venv/bin/diorama is-vit reproduce --json > docs/figures/is_vit_claim.json
      .venv/bin/python benchmarks/is_vit.py --json > docs/figures/is_vit_speed.json
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
SPEED = Path(__file__).with_name("is_vit_speed.json")
FIGURE = Path(__file__).with_name("is_vit_accuracy.svg")
LEFT, BAR, STEP, ROW, TOP, GAP = 170, 150, 215, 19, 52, 46
BITS = ("w2a2", "w3a3")
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
    """Bars of accuracy, arm by arm: a panel for every image set and number of bits, the float network's as a line."""
    sets = measured(claim)
    width, height = LEFT + STEP * len(sets) + 10, TOP + (ROW * len(ARMS) + GAP) * len(BITS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="Accuracy by arm at 2 and 3 bits">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="10" y="20" font-weight="600">Accuracy at 2 and 3 bits, 95 % intervals over images; dashed: '
        'float32</text>',
    ]
    for column, (name, arms) in enumerate(sets.items()):
        for row, bits in enumerate(BITS):
            top = TOP + row * (ROW * len(ARMS) + GAP)
            parts += _panel(LEFT + STEP * column, top, f"{name}, {bits}", FILL[name], arms, bits)
            if not column:
                parts += [f'<text x="{LEFT - 10}" y="{top + ROW * place + 11}" text-anchor="end">{arm}</text>'
                          for place, arm in enumerate(ARMS)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, top: int, title: str, fill: str, arms: Mapping[str, Any], bits: str) -> list[str]:
    """One panel; an arm that was not run has no bar."""
    bottom = top + ROW * len(ARMS)
    parts = [f'<text x="{left}" y="{top - 8}" font-weight="600">{title}</text>']
    for share in (0, 0.5, 1):
        x = left + BAR * share
        parts += [f'<line x1="{x}" y1="{top - 3}" x2="{x}" y2="{bottom}" stroke="#e2e8f0"/>',
                  f'<text x="{x}" y="{bottom + 12}" text-anchor="middle" fill="#475569">{share:.0%}</text>']
    for place, arm in enumerate(ARMS):
        if f"{bits} {arm}" not in arms:
            continue
        value, y = arms[f"{bits} {arm}"]["accuracy"], top + ROW * place
        low, high = left + BAR * value["low"], left + BAR * value["high"]
        parts += [
            f'<rect x="{left}" y="{y}" width="{BAR * value["mean"]:.1f}" height="13" fill="{fill}" '
            'fill-opacity="0.75"/>',
            f'<path d="M{low:.1f} {y + 6}H{high:.1f}M{low:.1f} {y + 3}v7M{high:.1f} {y + 3}v7" stroke="#0f172a" '
            'fill="none"/>',
            f'<text x="{left + BAR + 6}" y="{y + 11}">{value["mean"]:.0%}</text>',
        ]
    line = left + BAR * arms["fp32"]["accuracy"]["mean"]
    return [*parts, f'<path d="M{line:.1f} {top - 3}V{bottom}" stroke="#64748b" stroke-dasharray="3 2"/>']


def table(claim: Mapping[str, Any]) -> str:
    """Accuracy of every arm on every image set, size and time; then the checks with their verdicts."""
    sets = measured(claim)
    seeds = max(metrics["accuracy"]["seeds"] for arms in sets.values() for metrics in arms.values())
    command = "diorama is-vit reproduce" + (" --quick" if claim["mode"] == "quick" else "")
    first = next(iter(sets))
    arms = dict.fromkeys(arm for found in sets.values() for arm in found)
    lines = [f"`{command}`: {seeds} calibration seeds, {claim['seconds']:.0f} s on {claim['device']}. "
             "Accuracy in percent with 95 % intervals over images, all seeds pooled; bytes of the packed file, time of "
             f"one image in a batch of 64 (float32, or on bytes) and seconds to make the arm, of {first}. Networks of "
             "this size are mostly overhead: the next table times a large one.",
             "", f"| arm | {' | '.join(sets)} | kB | ms | s |", "|---|" + "---|" * (len(sets) + 3)]
    for arm in arms:
        shown = next(found[arm] for found in sets.values() if arm in found)
        cells = [_percent(found[arm]["accuracy"]) if arm in found else "-" for found in sets.values()]
        lines.append(f"| {arm} | {' | '.join(cells)} | {1000 * shown['MB']['mean']:.0f} | {_milliseconds(shown)} | "
                     f"{shown['seconds to make']['mean']:.1f} |")
    spreads = [f"{arm['name'].partition(':')[0]} {arm['metrics']['ratio']['mean']:.1f}" for arm in claim["arms"]
               if "ratio" in arm["metrics"]]
    lines += ["", "Range of the widest channel of a LayerNorm's output over the median channel's, mean over the norms, "
              f"as trained: {', '.join(spreads)}; where outliers are \"injected\", up to 16 times wider.", "",
              f"| what the claim says (difference in points, interval, holds) | {' | '.join(sets)} |",
              "|---|" + "---|" * len(sets)]
    checks: dict[str, dict[str, str]] = {}
    for check in claim["checks"]:
        name, _, says = check["says"].partition(", ")
        checks.setdefault(says, {})[name] = (
            f"{100 * check['difference']:+.1f} ({100 * check['low']:+.1f} to {100 * check['high']:+.1f}) "
            f"{'yes' if check['holds'] else '**no**'}")
    lines += [f"| {says} | {' | '.join(found.get(name, '-') for name in sets)} |" for says, found in checks.items()]
    return "\n".join(lines)


def _percent(value: Mapping[str, float]) -> str:
    return f"{100 * value['mean']:.1f} ({100 * value['low']:.1f} - {100 * value['high']:.1f})"


def _milliseconds(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['ms an image']['mean']:.3f}" if "ms an image" in metrics else "-"


def speed(benchmark: Mapping[str, Any]) -> str:
    """The rows of the benchmark: ours, theirs, the ratio and its goal."""
    machine = benchmark["machine"]
    lines = [f"`python benchmarks/is_vit.py`: {machine['processor']}, {machine['threads']} thread, "
             f"{machine['clock']}, torch {benchmark['versions']['torch']}; a ratio above 1 means that ours is better.",
             "", "| what | ours | beside | theirs | ratio | goal |", "|---|---|---|---|---|---|"]
    for row in benchmark["rows"]:
        missed = "" if row["goal"] is None or row["ratio"] >= row["goal"] else ", **missed**"
        goal = "-" if row["goal"] is None else f"{row['goal']:.3g}{missed}"
        ours, theirs = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in (row["ours"], row["theirs"]))
        lines.append(f"| {row['what']} | {ours} {row['unit']} | {row['peer']} | {theirs} {row['unit']} | "
                     f"{row['ratio']:.2f} | {goal} |")
    beside = [f"{row['ratio']:.2f} ({row['what']})" for row in benchmark["rows"] if row["peer"] == "bf16"]
    slower = any(row["ratio"] < 1 for row in benchmark["rows"] if row["peer"] == "bf16")
    verdict = "bf16 is faster than int8 in some of these" if slower else "int8 is faster than bf16 on this machine"
    return "\n".join([*lines, "", f"Against bf16: {verdict}: {', '.join(beside)}."])


def page_with(text: str, name: str, block: str) -> str:
    """The page with what stands between the markers of that name replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{block}\n{end}{after}"


def main() -> None:
    claim = json.loads(CLAIM.read_text())
    FIGURE.write_text(draw(claim))
    page = page_with(PAGE.read_text(), "measured", table(claim))
    PAGE.write_text(page_with(page, "speed", speed(json.loads(SPEED.read_text()))))


if __name__ == "__main__":
    main()
