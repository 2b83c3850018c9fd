from collections import Counter
from functools import cache
from random import Random

import pytest

from diorama.errors import InputError
from diorama.world.captions import mentioned
from diorama.world.contrasts import CONTRAST_KINDS, contrasts
from diorama.world.sampling import NOVEL_LOOKS, NOVEL_MOTIONS, sample_scene
from diorama.world.statements import Before, Count, Does, holds
from diorama.world.vocabulary import split_words


@cache
def drawn(count: int = 150):
    scenes = [sample_scene(seed, moving=seed % 3 != 0) for seed in range(count)]
    return [(scene, c) for scene in scenes for c in contrasts(scene, Random(scene.seed))]


def changed_slots(true, false) -> list[str]:
    """The names of the parts in which two statements differ, down to the attributes of descriptions."""
    assert type(true) is type(false)
    slots = []
    for name in true.__dataclass_fields__:
        a, b = getattr(true, name), getattr(false, name)
        if a != b:
            slots += [name] if not hasattr(a, "__dataclass_fields__") else changed_slots(a, b)
    return slots


def test_captions_hold_and_contrast_captions_do_not() -> None:
    met = Counter()
    for scene, c in drawn():
        assert all(holds(s, scene) is True for s in c.statements), c
        assert holds(c.false, scene) is False, c
        assert [s for s in c.contrast_statements if holds(s, scene) is not True] == [c.false]
        assert c.caption != c.contrast_caption
        met[c.kind] += 1
    assert set(met) == set(CONTRAST_KINDS)


def test_exactly_one_slot_of_the_kind_changes() -> None:
    slots = {
        "object": {"shape"},
        "action": {"motion"},
        "attribute": {"color", "size"},
        "relation": {"relation", "place"},
        "count": {"number"},
    }
    for _, c in drawn():
        if c.kind == "hallucination":
            rest = list(c.contrast_statements)
            rest.remove(c.false)
            assert tuple(rest) == c.statements
            continue
        differing = [(a, b) for a, b in zip(c.statements, c.contrast_statements, strict=True) if a != b]
        assert len(differing) == 1
        true, false = differing[0]
        if c.kind == "event":
            assert isinstance(true, Before) and false == Before(true.second, true.first)
            assert sorted(split_words(c.caption)) == sorted(split_words(c.contrast_caption))
        else:
            (slot,) = changed_slots(true, false)
            assert slot in slots[c.kind]


def test_explanations_name_the_true_and_the_false_value() -> None:
    for _, c in drawn():
        words = c.explanation
        if c.kind in ("object", "attribute"):
            true = next(a for a, b in zip(c.statements, c.contrast_statements, strict=True) if a != b)
            was, now = next((x, y) for x, y in zip(mentioned(true), mentioned(c.false), strict=True) if x != y)
            for slot in ("shape", "color", "size"):
                if getattr(was, slot) != getattr(now, slot):
                    assert getattr(was, slot) in words
                    assert f"not {getattr(now, slot)}" in words.replace("not a ", "not ")
        elif c.kind == "hallucination":
            assert words.startswith("there is no ")
        else:
            assert ", not " in words or ", it does not " in words


def test_count_words_do_not_give_the_contrast_away() -> None:
    """A number is about as often right as wrong."""
    right, wrong = Counter(), Counter()
    for seed in range(600):
        scene = sample_scene(seed)
        for c in contrasts(scene, Random(seed), kinds=("count",)):
            true = next(s for s in c.statements if isinstance(s, Count))
            right[true.number] += 1
            wrong[c.false.number] += 1
    for number in range(1, 6):
        share = right[number] / (right[number] + wrong[number])
        assert 0.35 < share < 0.65, (number, right, wrong)


def test_nothing_novel_is_mentioned_in_training_scenes() -> None:
    for _, c in drawn():
        for what in mentioned(c.false):
            assert (what.color, what.shape) not in NOVEL_LOOKS
        if isinstance(c.false, Does):
            assert (c.false.what.shape, c.false.motion) not in NOVEL_MOTIONS


def test_contrasts_are_determined_and_limited_to_the_kinds() -> None:
    scene = sample_scene(5, moving=True)
    assert contrasts(scene, Random(1)) == contrasts(scene, Random(1))
    assert [c.kind for c in contrasts(scene, Random(1), kinds=("object",))] == ["object"]
    assert {c.kind for c in contrasts(sample_scene(5), Random(1))}.isdisjoint({"action", "event"})
    with pytest.raises(InputError, match="'mood'"):
        contrasts(scene, Random(0), kinds=("mood",))
