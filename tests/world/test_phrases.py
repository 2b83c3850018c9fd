"""Phrases: every option of every set reads back as something that is true of its scene exactly where it should be."""

from random import Random

import pytest

from diorama.world.options import TASKS, option_sets
from diorama.world.phrases import read_phrase
from diorama.world.sampling import sample_scene
from diorama.world.statements import Count, Description, Exists, Relation, holds


@pytest.mark.parametrize("text, statements", [
    ("a red cube", [Exists(Description("cube", "red"))]),
    ("a small object", [Exists(Description(None, None, "small"))]),
    ("an orange cube and a large cone",
     [Exists(Description("cube", "orange")), Exists(Description("cone", None, "large"))]),
    ("two red objects", [Count(Description(None, "red"), 2)]),
    ("one cube", [Count(Description("cube"), 1)]),
    ("three tori", [Count(Description("torus"), 3)]),
    ("a cube left of a red cone", [Relation(Description("cube"), "left of", Description("cone", "red"))]),
    ("a small red cube is to the left of a large grey torus",
     [Relation(Description("cube", "red", "small"), "left of", Description("torus", "grey", "large"))]),
    ("a cube in front of an object", [Relation(Description("cube"), "in front of", Description())]),
])
def test_phrases_are_read(text: str, statements: list) -> None:
    assert read_phrase(text) == statements


@pytest.mark.parametrize("text", ["", "red", "a cube moves left", "cube red a", "a dog", "a red blue cube",
                                  "and a cube"])
def test_other_texts_are_not(text: str) -> None:
    assert read_phrase(text) is None


def test_the_right_option_reads_back_true_and_the_others_do_not() -> None:
    read = 0
    for seed in range(40):
        scene = sample_scene(seed, objects=(1, 4))
        for found in option_sets(scene, Random(seed), tasks=[task for task in TASKS if task != "corruption"]):
            truths = []
            for option in found.options:
                statements = read_phrase(option)
                assert statements is not None, option
                truths.append(all(holds(statement, scene) for statement in statements))
            assert truths[found.answer], found
            if found.task != "attribute":
                assert sum(truths) == 1, found
            read += 1
    assert read > 60
