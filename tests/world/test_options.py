import re
from collections import Counter
from random import Random

import pytest

from diorama.errors import InputError
from diorama.world.options import OPTIONS, TASKS, option_sets, read_relation
from diorama.world.sampling import sample_scene
from diorama.world.scene import Scene
from diorama.world.statements import Relation, holds

PLURALS = {"tori": "torus", "objects": "object"}


def fitting(scene: Scene, phrase: str) -> list[int]:
    *attributes, noun = re.sub(r"^(an?|one|two|three|four|five) ", "", phrase).split()
    noun = PLURALS.get(noun, noun.removesuffix("s") if noun not in ("torus",) else noun)
    return [
        i
        for i, o in enumerate(scene.objects)
        if noun in (o.shape, "object") and all(w in (o.color, o.size) for w in attributes)
    ]


def is_true(scene: Scene, task: str, text: str) -> bool:
    """Whether an option is true, read from its words."""
    if task == "attribute":
        return all(fitting(scene, part) for part in text.split(" and "))
    if task in ("color", "shape"):
        return bool(fitting(scene, text))
    return len(fitting(scene, text)) == ("zero", "one", "two", "three", "four", "five").index(text.split()[0])


@pytest.mark.parametrize("task", ["attribute", "color", "shape", "count"])
def test_exactly_one_option_is_true(task: str) -> None:
    answers = Counter()
    for seed in range(150):
        scene = sample_scene(seed, objects=(2, 5))
        for item in option_sets(scene, Random(seed), tasks=(task,)):
            assert [is_true(scene, task, o) for o in item.options].index(True) == item.answer
            assert sum(is_true(scene, task, o) for o in item.options) == 1
            answers[item.answer] += 1
    assert answers.total() > 80
    assert set(answers) == set(range(OPTIONS[task]))


def test_corrupted_sentences_keep_the_words_and_are_wrong() -> None:
    met = 0
    for seed in range(100):
        scene = sample_scene(seed, objects=(2, 4))
        for item in option_sets(scene, Random(seed), tasks=("corruption",)):
            met += 1
            bags = {tuple(sorted(o.split())) for o in item.options}
            assert len(bags) == 1 and len(set(item.options)) == 5
            for i, option in enumerate(item.options):
                read = read_relation(option.split())
                if i == item.answer:
                    assert isinstance(read, Relation) and holds(read, scene)
                else:
                    assert read is None or holds(read, scene) is False
    assert met > 50


def test_spatial_options_speak_of_the_same_objects() -> None:
    split = re.compile(r" (?:left of|right of|in front of|behind|on top of|under) ")
    met = 0
    for seed in range(100):
        scene = sample_scene(seed, objects=(2, 4))
        for item in option_sets(scene, Random(seed), tasks=("spatial",)):
            met += 1
            assert len({frozenset(split.split(o)) for o in item.options}) == 1
            assert len(set(item.options)) == 4
    assert met > 50


def test_chance_and_order() -> None:
    sets = [s for seed in range(20) for s in option_sets(sample_scene(seed, objects=(3, 5)), Random(seed))]
    assert {s.task for s in sets} == set(TASKS)
    assert all(s.chance == 1 / OPTIONS[s.task] for s in sets)
    scene = sample_scene(0)
    assert option_sets(scene, Random(4)) == option_sets(scene, Random(4))
    with pytest.raises(InputError, match="'texture'"):
        option_sets(scene, Random(0), tasks=("texture",))
