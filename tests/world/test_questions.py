"""Every answer is worked out a second time from the question's words by a slow oracle that shares no code."""

import math
import re
from collections import Counter, defaultdict
from random import Random

import pytest

from diorama.errors import InputError
from diorama.world.questions import CLIP_KINDS, IMAGE_KINDS, questions
from diorama.world.sampling import NOVEL_LOOKS, sample_scene
from diorama.world.scene import COLORS, SHAPES, SIZES, Motion, Scene, SceneObject, state_at

SEEDS = range(160)
VERBS = {
    "moves left": "left", "moves right": "right", "moves towards us": "towards", "moves away": "away",
    "moves up": "up", "moves down": "down", "spins": "spin", "grows": "grow", "shrinks": "shrink",
    "appears": "appear", "vanishes": "vanish",
}  # fmt: skip
BARE = {
    "move left": "left", "move right": "right", "move towards us": "towards", "move away": "away",
    "move up": "up", "move down": "down", "spin": "spin", "grow": "grow", "shrink": "shrink",
    "appear": "appear", "vanish": "vanish",
}  # fmt: skip
GOING = {"left", "right", "towards", "away", "up", "down"}
NUMBERS = ("zero", "one", "two", "three", "four", "five")
SINGULAR = {f"{s}s": s for s in SHAPES} | {"tori": "torus", "objects": "object"}


def scenes(moving: bool) -> list[Scene]:
    return [sample_scene(seed, moving=moving) for seed in SEEDS]


def named(scene: Scene, words: str) -> list[int]:
    """The objects that a phrase fits."""
    said = words.removeprefix("the ").split()
    noun = SINGULAR.get(said[-1], said[-1])
    return [
        i
        for i, o in enumerate(scene.objects)
        if noun in ("object", o.shape) and all(w in (o.color, o.size) for w in said[:-1])
    ]


def only(scene: Scene, words: str) -> int:
    found = named(scene, words)
    assert len(found) == 1, f"{words!r} fits {len(found)} objects of {[o.name for o in scene.objects]}"
    return found[0]


def kinds(scene: Scene, index: int) -> list[str]:
    return [m.kind for m in sorted(scene.objects[index].motions, key=lambda m: m.start)]


def seen_at(scene: Scene, index: int, time: float) -> tuple[float, float, float]:
    """(across the picture, metres away along the ground, metres to the camera) by plain vector arithmetic."""
    camera = scene.camera
    a, e = math.radians(camera.azimuth), math.radians(camera.elevation)
    eye = (
        camera.distance * math.cos(e) * math.sin(a),
        -camera.distance * math.cos(e) * math.cos(a),
        0.4 + camera.distance * math.sin(e),
    )
    x, y, z = state_at(scene, index, time).position
    ray = (x - eye[0], y - eye[1], z + 0.4 - eye[2])
    look = (-eye[0], -eye[1], 0.4 - eye[2])
    depth = sum(r * d for r, d in zip(ray, look, strict=True)) / camera.distance
    right = x * math.cos(a) + y * math.sin(a)
    across = right / (depth * math.tan(math.radians(camera.field_of_view / 2)))
    return across, -x * math.sin(a) + y * math.cos(a), math.hypot(*ray)


def always(scene: Scene, test) -> bool | None:
    """Whether a test gives one value at 25 moments, those at which it says None left out."""
    values = {test(scene.duration * k / 24) for k in range(25)} - {None}
    assert len(values) == 1
    return values.pop()


def stands(scene: Scene, a: int, relation: str, b: int, time: float) -> bool | None:
    if not (state_at(scene, a, time).present and state_at(scene, b, time).present):
        return None
    if relation == "on top of":
        return scene.objects[a].on == b
    stacked = scene.objects[a].on == b or scene.objects[b].on == a
    first, second = seen_at(scene, a, time), seen_at(scene, b, time)
    gap = second[0] - first[0] if relation in ("left of", "right of") else second[1] - first[1]
    return not stacked and (gap > 0) == (relation in ("left of", "in front of"))


def near(scene: Scene, a: int, b: int, time: float) -> bool | None:
    if not (state_at(scene, a, time).present and state_at(scene, b, time).present):
        return None
    return seen_at(scene, a, time)[2] < seen_at(scene, b, time)[2]


def yes(value: bool | None) -> str:
    assert value is not None
    return "yes" if value else "no"


def image_answer(scene: Scene, text: str) -> str | None:
    things, relations = scene.objects, "left of|right of|in front of|behind|on top of"
    if m := re.fullmatch(rf"what (color|shape) is the object ({relations}) (the .*)\?", text):
        b = only(scene, m[3])
        there = [i for i in range(len(things)) if i != b and always(scene, lambda t, i=i: stands(scene, i, m[2], b, t))]
        return getattr(things[there[0]], m[1]) if len(there) == 1 else "several"
    if m := re.fullmatch(rf"what is ({relations}) (the .*)\?", text):
        b = only(scene, m[2])
        there = [i for i in range(len(things)) if i != b and always(scene, lambda t, i=i: stands(scene, i, m[1], b, t))]
        return things[there[0]].name if len(there) == 1 else "several"
    if m := re.fullmatch(rf"is (the .*) ({relations}) (the .*)\?", text):
        a, b = only(scene, m[1]), only(scene, m[3])
        return yes(always(scene, lambda t: stands(scene, a, m[2], b, t)))
    if m := re.fullmatch(r"what (color|shape|size) is the object that (.*)\?", text):
        return getattr(things[doers(scene, m[2])], m[1])
    if m := re.fullmatch(r"what (color|shape|size) is (the .*)\?", text):
        return getattr(things[only(scene, m[2])], m[1])
    if m := re.fullmatch(r"how many (.*) are there\?", text):
        return NUMBERS[len(named(scene, m[1]))]
    if m := re.fullmatch(r"is there an? (.*)\?", text):
        return yes(bool(named(scene, m[1])))
    if m := re.fullmatch(r"where is (the .*)\?", text):
        across = seen_at(scene, only(scene, m[1]), 0.0)[0]
        return "left" if across < -0.2 else "right" if across > 0.2 else "middle"
    if m := re.fullmatch(r"is (the .*) at the front or at the back\?", text):
        return "front" if seen_at(scene, only(scene, m[1]), 0.0)[1] < 0 else "back"
    if m := re.fullmatch(r"which is (nearer|larger), (the .*) or (the .*)\?", text):
        a, b = only(scene, m[2]), only(scene, m[3])
        if m[1] == "larger":
            assert things[a].size != things[b].size
            first = things[a].size == "large"
        else:
            first = bool(always(scene, lambda t: near(scene, a, b, t)))
        return (m[2] if first else m[3]).removeprefix("the ")
    if m := re.fullmatch(r"are (the .*) and (the .*) the same (color|shape|size)\?", text):
        return yes(getattr(things[only(scene, m[1])], m[3]) == getattr(things[only(scene, m[2])], m[3]))
    return None


def doers(scene: Scene, verb: str) -> int:
    wanted = GOING if verb == "moves" else {VERBS[verb]}
    found = [i for i in range(len(scene.objects)) if wanted & set(kinds(scene, i))]
    assert len(found) == 1, f"{len(found)} objects {verb}"
    return found[0]


def clip_answer(scene: Scene, text: str) -> str | None:
    everything = sorted((m.start, m.end, i, m.kind) for i, o in enumerate(scene.objects) for m in o.motions)
    said = {v: k for k, v in VERBS.items()}
    verbs, bare = "|".join(VERBS), "|".join(BARE)
    if text == "which way does the moving object move?":
        return next(iter(GOING & {e[3] for e in everything}))
    if m := re.fullmatch(r"which way does (the .*) move\?", text):
        (way,) = GOING & set(kinds(scene, only(scene, m[1])))
        return way
    if m := re.fullmatch(r"which object (?:does something|moves) (first|last)\?", text):
        first = everything[0] if m[1] == "first" else max(everything, key=lambda e: e[1])
        return scene.objects[first[2]].name
    if m := re.fullmatch(r"which object (.*)\?", text):
        return scene.objects[doers(scene, m[1])].name
    if m := re.fullmatch(r"what happens (first|last)\?", text):
        return said[(everything[0] if m[1] == "first" else max(everything, key=lambda e: e[1]))[3]]
    if m := re.fullmatch(rf"does (the .*) ({bare}) (before|after) (the .*) ({verbs})\?", text):
        a = [e for e in everything if e[2] == only(scene, m[1]) and e[3] == BARE[m[2]]]
        b = [e for e in everything if e[2] == only(scene, m[4]) and e[3] == VERBS[m[5]]]
        return yes((a[0][0] < b[0][0]) == (m[3] == "before"))
    if m := re.fullmatch(rf"what happens (before|after) (the .*) ({verbs})\?", text):
        mine = next(e for e in everything if e[2] == only(scene, m[2]) and e[3] == VERBS[m[3]])
        after = [e for e in everything if (e[0] >= mine[1] if m[1] == "after" else e[1] <= mine[0]) and e != mine]
        assert len(after) == 1
        return said[after[0][3]]
    if m := re.fullmatch(r"what does (the .*) do( first)?\?", text):
        done = kinds(scene, only(scene, m[1]))
        assert len(done) < 2 or m[2]
        return said[done[0]] if done else "stays still"
    if m := re.fullmatch(r"does (the .*) (.*) slowly or quickly\?", text):
        (motion,) = scene.objects[only(scene, m[1])].motions
        return motion.pace
    if m := re.fullmatch(rf"does (the .*) ({bare})\?", text):
        return yes(BARE[m[2]] in kinds(scene, only(scene, m[1])))
    if m := re.fullmatch(r"how many objects (do something|move|stay still)\?", text):
        busy = [i for i in range(len(scene.objects)) if kinds(scene, i)]
        going = [i for i in busy if GOING & set(kinds(scene, i))]
        number = {"do something": len(busy), "move": len(going), "stay still": len(scene.objects) - len(busy)}
        return NUMBERS[number[m[1]]]
    return None


@pytest.mark.parametrize("moving", [False, True])
def test_answers_equal_the_oracles(moving: bool) -> None:
    asked = Counter()
    for scene in scenes(moving):
        for q in questions(scene, Random(scene.seed), n=24):
            truth = image_answer(scene, q.question) or clip_answer(scene, q.question)
            assert truth is not None, q.question
            assert q.answer == truth or (truth.endswith(q.answer) and len(q.answer.split()) == 2), (q, truth, scene)
            asked[q.kind] += 1
    assert set(asked) == set(IMAGE_KINDS) | (set(CLIP_KINDS) if moving else set())


@pytest.mark.parametrize("moving", [False, True])
def test_choices_hold_the_answer_once_and_answers_are_short(moving: bool) -> None:
    for scene in scenes(moving):
        for q in questions(scene, Random(1)):
            assert q.choices.count(q.answer) == 1
            assert 2 <= len(set(q.choices)) == len(q.choices) <= 4
            assert 1 <= len(q.answer.split()) <= 3


def test_answers_are_balanced() -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(500):
        scene = sample_scene(seed, moving=True)
        for q in questions(scene, Random(seed), kinds=("exists", "count", "direction", "pace", "same", "size")):
            answers[q.kind][q.answer] += 1
    for kind in ("exists", "same", "size", "pace"):
        low, high = min(answers[kind].values()), max(answers[kind].values())
        assert high - low < 4 * math.sqrt(low + high), (kind, answers[kind])
    for kind in ("count", "direction"):
        assert max(answers[kind].values()) < 0.45 * answers[kind].total(), (kind, answers[kind])


def test_same_generator_state_gives_the_same_questions() -> None:
    scene = sample_scene(3, moving=True)
    assert questions(scene, Random(5), n=10) == questions(scene, Random(5), n=10)
    assert questions(scene, Random(5), n=10) != questions(scene, Random(6), n=10)


def test_n_questions_differ_and_kinds_are_kept() -> None:
    scene = sample_scene(3, objects=(4, 4))
    drawn = questions(scene, Random(0), n=12, kinds=("color", "count"))
    assert len({q.question for q in drawn}) == len(drawn) == 12
    assert Counter(q.kind for q in drawn) == {"color": 6, "count": 6}


def test_no_answer_hangs_on_a_hidden_object() -> None:
    """Taking the hidden object away changes no answer, and nobody asks about it."""
    for scene in scenes(moving=False):
        hidden = len(scene.objects) - 1
        if hidden == 0 or any(o.on is not None for o in scene.objects):
            continue
        visible = [i != hidden for i in range(hidden + 1)]
        without = Scene(scene.objects[:-1], scene.camera, scene.light, scene.background)
        for q in questions(scene, Random(scene.seed), n=20, visible=visible):
            assert q.question != "how many objects are there?"
            truth = image_answer(without, q.question)
            assert truth is not None and truth.endswith(q.answer), (q, truth)


def test_a_picture_is_asked_nothing_about_motion() -> None:
    assert questions(sample_scene(0), Random(0), kinds=CLIP_KINDS) == []


def test_a_train_scene_never_denies_a_novel_look() -> None:
    novel = {f"{c} {s}?" for c, s in NOVEL_LOOKS}
    for scene in scenes(moving=False):
        for q in questions(scene, Random(0), n=20, kinds=("exists",)):
            assert " ".join(q.question.split()[-2:]) not in novel


def test_an_object_that_grows_has_no_size_to_ask_about() -> None:
    grows = Motion("grow", 0.0, 1.0)
    scene = Scene((SceneObject("cube", "red", "small", motions=(grows,)),), duration=2.0)
    assert questions(scene, Random(0), kinds=("size",)) == []
    assert not any("small" in q.question for q in questions(scene, Random(0), n=40))


def test_unknown_kinds_and_wrong_visibility_are_user_mistakes() -> None:
    scene = sample_scene(0, objects=(2, 2))
    with pytest.raises(InputError, match="'taste'"):
        questions(scene, Random(0), kinds=("taste",))
    with pytest.raises(InputError, match="1 values for 2 objects"):
        questions(scene, Random(0), visible=[True])


def test_words_of_attributes_are_known() -> None:
    assert set(BARE.values()) == set(VERBS.values()) and "vanish" in BARE and "spin" in BARE
    assert {w for scene in scenes(False) for o in scene.objects for w in o.name.split()} <= {*COLORS, *SHAPES, *SIZES}
