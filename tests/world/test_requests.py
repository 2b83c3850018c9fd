from collections import Counter
from random import Random

import pytest

from diorama.errors import InputError
from diorama.world.requests import Answer, Choice, Number, Span, comparison, requests
from diorama.world.sampling import sample_scene
from diorama.world.vocabulary import PLURALS, split_words

SHAPES = {plural: shape for shape, plural in PLURALS.items()}


def counted(scene, text: str) -> int:
    words = split_words(text)
    shapes = [SHAPES[w] for w in words if w in SHAPES]
    colors = [w for w in words if w in {o.color for o in scene.objects}]
    if not shapes and not colors and words[words.index("objects") - 1] not in ("the", "many", "more"):
        return 0
    return sum(o.shape in (shapes or [o.shape]) and o.color in (colors or [o.color]) for o in scene.objects)


def test_counts_are_right() -> None:
    numbers = Counter()
    for seed in range(200):
        scene = sample_scene(seed)
        (request,) = requests(scene, Random(seed), kinds=("count",))
        assert request.truth == Number(counted(scene, request.text)), (request, scene)
        numbers[request.truth.value] += 1
    assert max(numbers.values()) < 0.5 * numbers.total()


def test_spans_are_those_of_a_motion_of_the_named_object() -> None:
    met = 0
    for seed in range(150):
        scene = sample_scene(seed, moving=True)
        for request in requests(scene, Random(seed), kinds=("locate",)):
            met += 1
            assert isinstance(request.truth, Span)
            words = set(split_words(request.text))
            span = (request.truth.start, request.truth.end)
            owners = [o for o in scene.objects for m in o.motions if (m.start, m.end) == span]
            assert any(words & {*o.name.split()} for o in owners), request
            assert 0 <= request.truth.start <= request.truth.end <= scene.duration
    assert met > 100


def test_answers_are_among_their_choices() -> None:
    for seed in range(40):
        for request in requests(sample_scene(seed, moving=True), Random(seed), kinds=("answer",)):
            assert isinstance(request.truth, Answer) and request.truth.text in request.truth.choices
            assert request.files == 1


def test_comparisons_of_counts_are_right_and_balanced() -> None:
    found = Counter()
    for seed in range(200):
        first, second = sample_scene(seed), sample_scene(seed + 5000)
        request = comparison(first, second, Random(seed))
        assert request is not None and request.files == 2 and isinstance(request.truth, Choice)
        found[request.truth.which] += 1
        if "more" in request.text:
            text = request.text.split(",")[0]
            a, b = counted(first, text), counted(second, text)
            assert request.truth.which == ("both" if a == b else "first" if a > b else "second"), request
    assert set(found) == {"first", "second", "both", "neither"}
    assert max(found.values()) < 0.45 * found.total()


def test_a_comparison_needs_two_scenes() -> None:
    with pytest.raises(InputError, match="comparison"):
        requests(sample_scene(0), Random(0), kinds=("compare",))
