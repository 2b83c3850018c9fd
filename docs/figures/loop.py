"""Draw the loop as an SVG; systems that the command line does not have yet are dashed.

Type: .venv/bin/python docs/figures/loop.py        (writes docs/figures/loop.svg)
"""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from diorama.cli import SYSTEMS

WIDTH, HEIGHT = 920, 430
BUILT = {system.name for system in SYSTEMS if system.commands}
HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"
  font-family="system-ui, sans-serif" font-size="14" role="img" aria-label="A request becomes a plan over vision tools;
  every action passes a monitor; what is made is judged; corrections are remembered">
<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 10 5 0 10z" fill="#475569"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>
"""


@dataclass(frozen=True)
class Box:
    """A rounded box: its corner and size, a title, a line below it, and the system it stands for (None: plain)."""

    x: int
    y: int
    width: int
    height: int
    title: str
    below: str = ""
    system: str | None = None
    fill: str = "#f1f5f9"

    def svg(self) -> str:
        """The box and its text."""
        waiting = self.system is not None and self.system not in BUILT
        dash = ' stroke-dasharray="5 4"' if waiting else ""
        middle = self.x + self.width / 2
        top = self.y + self.height / 2 + (-3 if self.below else 5)
        lines = [
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="7" fill="{self.fill}"'
            f' stroke="#475569"{dash}/>',
            f'<text x="{middle:g}" y="{top:g}" text-anchor="middle" font-weight="600"'
            f' fill="{"#64748b" if waiting else "#0f172a"}">{escape(self.title)}</text>',
        ]
        if self.below:
            lines.append(f'<text x="{middle:g}" y="{top + 18:g}" text-anchor="middle" font-size="12" fill="#475569">'
                         f"{escape(self.below)}</text>")
        return "\n".join(lines)


BOXES = (
    Box(20, 130, 120, 56, "request", "words and files"),
    Box(180, 130, 150, 56, "unified-vision", "request to typed plan", "unified-vision", "#e0f2fe"),
    Box(370, 40, 46, 236, "", system="agent-monitor", fill="#fee2e2"),
    Box(456, 40, 150, 56, "video-llava", "understands", "video-llava", "#dcfce7"),
    Box(456, 130, 150, 56, "emu-video", "makes images, clips", "emu-video", "#fef9c3"),
    Box(456, 220, 150, 56, "metadreamer", "makes meshes", "metadreamer", "#fef9c3"),
    Box(646, 85, 120, 56, "videocon", "judges clips", "videocon", "#ede9fe"),
    Box(646, 175, 120, 56, "selfeval", "judges images", "selfeval", "#ede9fe"),
    Box(800, 130, 100, 56, "answer", "files, trace"),
    Box(180, 220, 150, 56, "droc", "keeps corrections", "droc", "#e0f2fe"),
    Box(180, 316, 180, 42, "tulu", system="tulu"),
    Box(370, 316, 180, 42, "is-vit", system="is-vit"),
    Box(560, 316, 206, 42, "shallow-attention", system="shallow-attention"),
    Box(20, 376, 880, 38, "a miniature world with exact truth: training data, questions, and the oracle that checks",
        fill="#f8fafc"),
)
ARROWS = (
    "M140 158 H178", "M330 158 H368", "M416 68 H454", "M416 158 H454", "M416 248 H454",
    "M606 68 H850 V128", "M606 158 C626 158 626 113 644 113", "M606 163 C626 163 626 203 644 203",
    "M606 248 C626 248 626 208 644 208", "M766 113 C784 113 782 153 798 153", "M766 203 C784 203 782 163 798 163",
    "M255 220 V188", "M850 186 V292 H255 V278",
)
LABELS = ((645, 306, "a person's correction"), (94, 342, "models are raised here:"))


def draw() -> str:
    """The whole figure as SVG text."""
    parts = [HEAD]
    parts += [f'<path d="{path}" fill="none" stroke="#475569" stroke-width="1.5" marker-end="url(#tip)"/>'
              for path in ARROWS]
    parts += [box.svg() for box in BOXES]
    ink = "#0f172a" if "agent-monitor" in BUILT else "#64748b"
    parts.append(f'<text transform="translate(398 158) rotate(-90)" text-anchor="middle" font-weight="600"'
                 f' fill="{ink}">agent-monitor: every action</text>')
    parts += [f'<text x="{x}" y="{y}" text-anchor="middle" font-size="12" fill="#475569">{escape(text)}</text>'
              for x, y, text in LABELS]
    parts.append('<text x="20" y="26" font-size="12" fill="#475569">solid: built; dashed: not yet</text>\n</svg>\n')
    return "\n".join(parts)


if __name__ == "__main__":
    target = Path(__file__).with_suffix(".svg")
    target.write_text(draw(), encoding="utf-8")
    print(target)
