from random import Random

import pytest

from diorama.world.captions import caption, paraphrases, plan
from diorama.world.contrasts import contrasts
from diorama.world.options import option_sets
from diorama.world.questions import questions
from diorama.world.requests import comparison, requests
from diorama.world.sampling import sample_scene
from diorama.world.scene import Camera, Motion, Scene, SceneObject
from diorama.world.statements import Before, Count, Description, Does, Exists, Place, Relation, holds
from diorama.world.vocabulary import WORDS, split_words

RED_CUBE, BLUE_CONE = Description("cube", "red"), Description("cone", "blue")


def two(*, duration: float = 0.0, first: tuple[Motion, ...] = (), second: tuple[Motion, ...] = ()) -> Scene:
    """A large red cube on the left and a small blue cone on the right, seen along +y."""
    return Scene(
        (
            SceneObject("cube", "red", "large", (-1.2, 0.0, 0.0), motions=first),
            SceneObject("cone", "blue", "small", (1.2, 0.0, 0.0), motions=second),
        ),
        Camera(azimuth=0.0),
        duration=duration,
    )


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("detail", ["full", "brief", "relations"])
def test_every_statement_of_a_caption_holds(moving: bool, detail: str) -> None:
    for seed in range(150):
        scene = sample_scene(seed, moving=moving)
        statements = plan(scene, Random(seed), detail=detail)
        assert statements
        assert all(holds(s, scene) for s in statements)


def test_a_full_caption_names_every_object() -> None:
    for seed in range(100):
        scene = sample_scene(seed, objects=(2, 5))
        words = split_words(caption(scene, Random(seed)))
        for thing in scene.objects:
            assert {thing.size, thing.color} <= set(words)


def test_a_golden_scene_in_words() -> None:
    spin, rise = Motion("spin", 0.0, 0.9, "slowly"), Motion("up", 1.0, 2.0)
    scene = two(duration=2.0, first=(spin,), second=(rise,))
    texts = {caption(scene, Random(s)) for s in range(40)}
    assert len(texts) > 30
    assert any("left of" in t for t in texts) and any(" then " in t for t in texts)
    assert any("slowly" in t for t in texts)


@pytest.mark.parametrize(
    ("statement", "truth"),
    [
        (Exists(RED_CUBE), True),
        (Exists(Description("cube", "blue")), False),
        (Count(Description(), 2), True),
        (Count(Description(shape="cube"), 2), False),
        (Relation(RED_CUBE, "left of", BLUE_CONE), True),
        (Relation(RED_CUBE, "right of", BLUE_CONE), False),
        (Relation(RED_CUBE, "behind", BLUE_CONE), None),
        (Relation(RED_CUBE, "on top of", BLUE_CONE), False),
        (Place(RED_CUBE, "left"), True),
        (Place(RED_CUBE, "middle"), False),
        (Does(RED_CUBE, "spin"), True),
        (Does(RED_CUBE, "spin", "quickly"), False),
        (Does(BLUE_CONE, "spin"), False),
        (Before(Does(RED_CUBE, "spin"), Does(BLUE_CONE, "up")), True),
        (Before(Does(BLUE_CONE, "up"), Does(RED_CUBE, "spin")), False),
    ],
)
def test_truth_of_statements(statement, truth) -> None:
    scene = two(duration=2.0, first=(Motion("spin", 0.0, 0.9, "slowly"),), second=(Motion("up", 1.0, 2.0),))
    assert holds(statement, scene) is truth


def test_a_hidden_object_makes_nothing_true_and_nothing_false() -> None:
    scene = two()
    visible = [True, False]
    assert holds(Exists(BLUE_CONE), scene, visible) is None
    assert holds(Exists(RED_CUBE), scene, visible) is True
    assert holds(Count(Description(), 2), scene, visible) is None
    assert holds(Count(Description(color="red"), 1), scene, visible) is True
    for seed in range(30):
        assert not {"blue", "cone", "two"} & set(split_words(caption(scene, Random(seed), visible=visible)))


def test_overlapping_events_have_no_order() -> None:
    scene = two(duration=2.0, first=(Motion("spin", 0.0, 1.2),), second=(Motion("up", 1.0, 2.0),))
    assert holds(Before(Does(RED_CUBE, "spin"), Does(BLUE_CONE, "up")), scene) is None
    assert not any(isinstance(s, Before) for s in plan(scene, Random(0)))


def test_the_is_only_said_of_what_there_is_once() -> None:
    twins = tuple(SceneObject("cube", "red", "large", (x, 0.0, 0.0)) for x in (-1.2, 1.2))
    for seed in range(40):
        assert "the large" not in caption(Scene(twins), Random(seed))


def test_paraphrases_differ_and_come_back_the_same() -> None:
    scene = sample_scene(7, objects=(3, 3))
    texts = paraphrases(scene, 5, Random(1))
    assert len(set(texts)) == 5
    assert texts == paraphrases(scene, 5, Random(1))


def test_every_word_is_in_the_vocabulary() -> None:
    texts: list[str] = []
    for seed in range(60):
        moving = seed % 2 == 1
        scene, rng = sample_scene(seed, moving=moving), Random(seed)
        texts += [caption(scene, rng, detail=d) for d in ("full", "brief", "relations")]
        texts += paraphrases(scene, 2, rng)
        for q in questions(scene, rng, n=16):
            texts += [q.question, q.answer, *q.choices]
        for c in contrasts(scene, rng):
            texts += [c.caption, c.contrast_caption, c.explanation]
        texts += [text for s in option_sets(scene, rng) for text in s.options]
        texts += [r.text for r in requests(scene, rng)]
        compared = comparison(scene, sample_scene(seed + 1000, moving=moving), rng)
        texts += [compared.text] if compared else []
    assert {w for t in texts for w in split_words(t)} <= WORDS
    assert all(t == t.lower() for t in texts)
    assert len(WORDS) < 200
