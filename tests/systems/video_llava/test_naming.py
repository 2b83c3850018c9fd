import numpy as np

from diorama.systems.video_llava.naming import DOINGS, MOST_OBJECTS, STILL, UNSAID, WHENS, WORDS_OF, event_at, words_of
from diorama.world.facts import DEPTHS, SIDES, events, events_of, places
from diorama.world.happenings import clear_end
from diorama.world.sampling import sample_scene
from diorama.world.scene import MOTIONS, Motion, Scene, SceneObject

PLACE = {name: place for place, name in enumerate(WORDS_OF)}


def said(names: np.ndarray, attribute: str) -> list[str | None]:
    """The words of one attribute, None where nothing is said."""
    words = WORDS_OF[attribute]
    return [None if name == UNSAID else words[name] for name in names[..., PLACE[attribute]].ravel()]


def test_every_object_is_named_an_attribute_at_a_time():
    for seed in range(20):
        scene = sample_scene(seed)
        names = words_of(scene, 1)
        assert names.shape == (1, MOST_OBJECTS, len(WORDS_OF))
        for k, thing in enumerate(scene.objects):
            assert " ".join(said(names[0, k], a)[0] or "" for a in ("size", "color", "shape")) == thing.name
        assert (names[0, len(scene.objects) :] == UNSAID).all()
        assert (names[..., [PLACE["doing"], PLACE["when"]]] == UNSAID).all()


def test_where_an_object_is_agrees_with_the_questions():
    """What is asked of places is what is said of the object in every frame."""
    asked = 0
    for seed in range(40):
        scene = sample_scene(seed, moving=seed % 2 == 0)
        names = words_of(scene, 8 if scene.duration else 1)
        for k in range(len(scene.objects)):
            held = places(scene, k)
            for attribute, kinds in (("side", SIDES), ("depth", DEPTHS)):
                for kind in kinds:
                    if held[kind]:
                        there = [word for word in said(names[:, k], attribute) if word is not None]
                        assert there and set(there) == {kind}
                        asked += 1
    assert asked > 40


def test_what_an_object_does_depends_on_the_moment():
    motions = (Motion("left", 0.5, 1.0), Motion("spin", 2.0, 3.0))
    scene = Scene((SceneObject("cube", "red", "small", motions=motions), SceneObject("cone", "blue", "small")),
                  duration=3.0)
    names = words_of(scene, 7)
    assert said(names[:, 0], "doing") == ["stays still", "moves left", "moves left", "stays still", *["spins"] * 3]
    assert said(names[:, 1], "doing") == ["stays still"] * 7
    own = events_of(scene, 0)
    assert event_at(own, 1.5, 0.5) is None and event_at(own, 1.25, 0.5) is not None
    assert DOINGS[STILL] == "stays still" and len(DOINGS) == len(MOTIONS) + 1


def test_a_spin_that_nobody_sees_is_not_said():
    ball = SceneObject("sphere", "red", "small", motions=(Motion("spin", 0.0, 1.0),))
    assert said(words_of(Scene((ball,), duration=1.0), 3)[:, 0], "doing") == ["stays still"] * 3


def test_first_and_last_are_said_of_what_clearly_comes_first_and_last():
    found = set()
    for seed in range(60):
        scene = sample_scene(seed, moving=True)
        happening, names = events(scene), words_of(scene, 8)
        for word, last in zip(WHENS, (False, True), strict=True):
            event = clear_end(happening, last=last)
            owners = {k for k in range(MOST_OBJECTS) if word in said(names[:, k], "when")}
            assert owners == (set() if event is None else {event.index})
            if event is not None:
                frames = [t for t, there in enumerate(said(names[:, event.index], "when")) if there == word]
                assert said(names[frames[0], event.index], "doing") == [DOINGS[MOTIONS.index(event.motion.kind)]]
                found.add(word)
    assert found == set(WHENS)
