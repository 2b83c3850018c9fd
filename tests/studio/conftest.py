"""A vision model that answers from the truth written beside the files, and the files to ask it about."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from diorama.media.images import load_image, save_image
from diorama.media.videos import FrameSampler, kind_of, read_video, write_video
from diorama.systems.video_llava.pipeline import Answer, Choice, Looked
from diorama.world.facts import TRANSLATIONS, events
from diorama.world.questions import KINDS, pairs_of
from diorama.world.rendering import render
from diorama.world.requests import count_of
from diorama.world.scene import COLORS, SHAPES, SIZES, Scene
from diorama.world.statements import Description, Exists, fits, holds
from diorama.world.vocabulary import BARE_VERBS, PLURALS, VERBS, number_word

SINGULAR = {plural: shape for shape, plural in PLURALS.items()}


def described(words: str) -> Description:
    found = words.split()
    return Description(
        shape=next((SINGULAR.get(w, w) for w in found if SINGULAR.get(w, w) in SHAPES), None),
        color=next((w for w in found if w in COLORS), None),
        size=next((w for w in found if w in SIZES), None),
    )


class TruthfulShown:
    def __init__(self, looked: Looked, scene: Scene, visible: list[bool] | None, start: float, end: float):
        self.looked = (looked,)
        self.scene, self.visible, self.start, self.end = scene, visible, start, end

    def ask(self, questions: str | Sequence[str]) -> list[Answer]:
        asked = [questions] if isinstance(questions, str) else questions
        return [Answer(question, self._answer(question), 1, 0.001) for question in asked]

    def choose(self, question: str, choices: Sequence[str]) -> Choice:
        said = self._answer(question)
        rest = 0.1 / (len(choices) - 1)
        return Choice(question, said, {choice: 0.9 if choice == said else rest for choice in choices})

    def _answer(self, question: str) -> str:
        if match := re.fullmatch(r"how many ([\w ]+) are there\?", question):
            number = count_of(self.scene, described(match[1]), self.visible)
            return "unsure" if number is None else number_word(number)
        if match := re.fullmatch(r"is there an object that (.+)\?", question):
            return "yes" if any(VERBS[e.motion.kind] == match[1] for e in events(self.scene)) else "no"
        if match := re.fullmatch(r"is there an? (.+)\?", question):
            return "yes" if holds(Exists(described(match[1])), self.scene, self.visible) else "no"
        verbs = "|".join(BARE_VERBS.values())
        if match := re.fullmatch(rf"does (the .+?) ({verbs}|move)\?", question):
            return self._does(described(match[1]), match[2])
        for kind in KINDS:
            for pair in pairs_of(self.scene, kind, self.visible):
                if pair.question == question:
                    return pair.answer
        return "i cannot tell"

    def _does(self, what: Description, verb: str) -> str:
        """Yes when a fifth of a second of the motion, or its moment, lies in what is shown."""
        for event in events(self.scene):
            kind, motion = event.motion.kind, event.motion
            if fits(self.scene, event.index, what) and (
                BARE_VERBS[kind] == verb or (verb == "move" and kind in TRANSLATIONS)
            ):
                shared = min(self.end, motion.end) - max(self.start, motion.start)
                if shared >= min(0.2, motion.end - motion.start):
                    return "yes"
        return "no"


class TruthfulVision:
    """As VideoLlava, for files with NAME.truth.json beside them; other files show nothing it knows."""

    name, device = "truthful", "cpu"

    def __init__(self, strangeness: float | None = None):
        self.strangeness = strangeness

    def sampler(
        self, *, frames: int | None = None, start: float | None = None, end: float | None = None
    ) -> FrameSampler:
        return FrameSampler(frames=frames or 8, start=start, end=end)

    def show(self, sources: Sequence[Path], sampler: FrameSampler | None = None) -> TruthfulShown:
        (path,) = map(Path, sources)
        if kind_of(path) == "image":
            looked = Looked(path.name, "image", np.asarray(load_image(path))[None], strangeness=self.strangeness)
            start, end = 0.0, 0.0
        else:
            sampler = sampler or self.sampler()
            video = read_video(path, sampler)
            looked = Looked(
                path.name,
                "video",
                video.frames,
                tuple(video.indices),
                tuple(video.timestamps),
                video.fps,
                video.total_frames,
                video.duration,
                self.strangeness,
            )
            start, end = sampler.start or 0.0, sampler.end or video.duration
        beside = path.with_name(f"{path.stem}.truth.json")
        truth = json.loads(beside.read_text()) if beside.is_file() else {"scene": Scene(()).to_dict(), "visible": []}
        return TruthfulShown(looked, Scene.from_dict(truth["scene"]), truth["visible"], start, end)


@pytest.fixture
def truthful(monkeypatch: pytest.MonkeyPatch) -> TruthfulVision:
    """The commands' model is the truthful one."""
    from diorama.studio import demo, report

    vision = TruthfulVision()
    for module in (report, demo):
        monkeypatch.setattr(module, "load_vision", lambda weights, device: vision)
    return vision


@pytest.fixture
def save_scene(tmp_path: Path) -> Callable[..., Path]:
    """A function that renders a scene to a file with its truth beside it: (scene, name, visible=None) -> path."""

    def save(scene: Scene, name: str, visible: list[bool] | None = None) -> Path:
        path = tmp_path / name
        if scene.duration:
            times = [i / 24 for i in range(round(scene.duration * 24) + 1)]
            rgb = render([scene], size=64, times=times).rgb[0].permute(0, 2, 3, 1).numpy()
            write_video(path, rgb, 24)
        else:
            save_image(path, render([scene], size=64).rgb[0, 0].permute(1, 2, 0).numpy())
        path.with_name(f"{path.stem}.truth.json").write_text(json.dumps({"scene": scene.to_dict(), "visible": visible}))
        return path

    return save
