from pathlib import Path
from random import Random

import pytest

from diorama.errors import InputError
from diorama.studio.grammar import plan_request
from diorama.studio.plan import Answer, Compare, Count, GivenFile, Locate, Step
from diorama.world import requests as world
from diorama.world.sampling import sample_scene

A, B, C = (GivenFile(Path(f"{name}.png"), "image") for name in "abc")
V, W = (GivenFile(Path(f"{name}.mp4"), "video") for name in "vw")
SEEDS = 20


def steps(request: str, *files: GivenFile) -> tuple[Step, ...]:
    return plan_request(request, files).steps


@pytest.mark.parametrize(
    ("request_", "files", "expected"),
    [
        (
            "how many objects are in a.png and what color is the cube in b.png?",
            (A, B),
            (Count.of("objects", 0), Answer("what color is the cube?", 1)),
        ),
        (
            "which of the two clips has more objects?",
            (V, W),
            (Compare("most", "how many objects are there?", (0, 1), "objects"),),
        ),
        ("when does the red cube start to move?", (V,), (Locate("does the red cube move?", 0, "start"),)),
        ("when does the red cube stop spinning?", (V,), (Locate("does the red cube spin?", 0, "end"),)),
        ("find when the torus vanishes", (V,), (Locate("does the torus vanish?", 0),)),
        ("find when the dog jumps over the fence", (V,), (Locate("does the dog jump over the fence?", 0),)),
        ("when do the cubes touch?", (V,), (Locate("do the cubes touch?", 0),)),
        ("when is the door open?", (V,), (Locate("is the door open?", 0),)),
        ("does anything change between the two images?", (A, B), (Compare("changes", "", (0, 1)),)),
        ("What changed between a.png and b.png?", (A, B), (Compare("changes", "", (0, 1)),)),
        ("describe the clip", (A, V), (Answer("what is in the clip?", 1),)),
        ("Describe both files.", (A, V), (Answer("what is in the image?", 0), Answer("what is in the clip?", 1))),
        (
            "is the cube the same color in both images?",
            (A, B),
            (Compare("same answer", "what color is the cube?", (0, 1), "the cube"),),
        ),
        (
            "are the cube and the cylinder the same color?",
            (A,),
            (Answer("are the cube and the cylinder the same color?", 0),),
        ),
        (
            "what does the cube do when the sphere moves?",
            (V,),
            (Answer("what does the cube do when the sphere moves?", 0),),
        ),
        (
            "in a.png, what color is the sphere? And in b.png?",
            (A, B),
            (Answer("what color is the sphere?", 0), Answer("what color is the sphere?", 1)),
        ),
        ("how many cubes are in both images?", (A, B), (Count.of("cubes", 0), Count.of("cubes", 1))),
        (
            "are there more cubes in a.png than in b.png?",
            (A, B),
            (Compare("most", "how many cubes are there?", (0, 1), "cubes"),),
        ),
        (
            "do both images show the same number of cubes?",
            (A, B),
            (Compare("same count", "how many cubes are there?", (0, 1), "cubes"),),
        ),
        ("which image shows a dog?", (A, B, V), (Compare("exists", "is there a dog?", (0, 1, 2), "dog"),)),
        (
            "in which clip does the cube move left?",
            (V, W),
            (Compare("exists", "does the cube move left?", (0, 1), "the cube"),),
        ),
        ("what color is the cube in the last image?", (A, V, B), (Answer("what color is the cube?", 2),)),
        ("what color is the cube in image 2?", (A, V, B), (Answer("what color is the cube?", 2),)),
        ("what color is the cube in the second file?", (A, V, B), (Answer("what color is the cube?", 1),)),
        ("who took this photo?", (A,), (Answer("who took this photo?", 0),)),
        ("Why is the man laughing?", (V,), (Answer("Why is the man laughing?", 0),)),
        ("can you count the red cubes, please?", (A,), (Count.of("red cubes", 0),)),
        ("how many objects stay still?", (V,), (Count("objects", 0, "how many objects stay still?"),)),
        (
            "is the cube red and is the sphere blue?",
            (A,),
            (Answer("is the cube red?", 0), Answer("is the sphere blue?", 0)),
        ),
    ],
)
def test_requests_become_plans(request_: str, files: tuple[GivenFile, ...], expected: tuple[Step, ...]) -> None:
    assert steps(request_, *files) == expected


@pytest.mark.parametrize(
    ("request_", "files", "says"),
    [
        ("", (A,), "empty"),
        ("what is there?", (), "no file"),
        ("blue", (A,), "asks nothing"),
        ("look at a.png", (A,), "asks nothing"),
        ("what color is the cube?", (A, B), "does not say which"),
        ("what color is the cube in the image?", (A, B), "2 of the files fit"),
        ("what color is the cube in the third image?", (A, B), "third image"),
        ("is there a dog in zzz.png?", (A,), "zzz.png"),
        ("which clip has more cubes?", (V,), "Add the other"),
        ("which image is brighter?", (A, B), "not understood"),
        ("when does the cube move?", (A,), "image"),
        ("make a video of a cube", (A,), "makes none"),
        ("what moves in both clips?", (V,), "both clips"),
        ("is the cube red in a.png?", (A, GivenFile(Path("other/a.png"), "image")), "called"),
    ],
)
def test_what_is_not_understood_gets_one_sentence(request_: str, files: tuple[GivenFile, ...], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        steps(request_, *files)
    assert "\n" not in str(caught.value)


def test_names_inside_names_and_paths() -> None:
    files = (GivenFile(Path("a.png"), "image"), GivenFile(Path("data/extra a.png"), "image"))
    assert steps("what color is the cube in a.png?", *files) == (Answer("what color is the cube?", 0),)
    assert steps("what color is the cube in 'extra a.png'?", *files) == (Answer("what color is the cube?", 1),)
    assert steps("what color is the cube in data/extra a.png?", *files) == (Answer("what color is the cube?", 1),)


def right(step: Step, request: world.Request) -> bool:
    """Whether the step is of the request's kind and asks for exactly what the typed truth is about."""
    if request.kind == "answer":
        return isinstance(step, Answer | Count) and request.text.endswith(step.question)
    if request.kind == "count":
        return isinstance(step, Count) and step.what in request.text and step.question.startswith("how many")
    if request.kind == "locate":
        return isinstance(step, Locate) and step.part == "span" and step.question.startswith("does the ")
    return (
        isinstance(step, Compare)
        and step.files == (0, 1)
        and step.basis == ("most" if "more" in request.text else "exists")
    )


def test_requests_of_the_world_are_planned() -> None:
    """Accuracy over every kind of request of SEEDS still and moving scenes; each wording is one of the world's."""
    asked: list[tuple[world.Request, tuple[GivenFile, ...]]] = []
    for seed in range(SEEDS):
        for moving, pair in ((False, (A, B)), (True, (V, W))):
            scene, other = (sample_scene(s, moving=moving) for s in (seed, seed + 10_000))
            asked += [(r, pair[:1]) for r in world.requests(scene, Random(seed))]
            if compared := world.comparison(scene, other, Random(seed)):
                asked.append((compared, pair))
    wrong = []
    for request, files in asked:
        planned = steps(request.text, *files)
        if len(planned) != 1 or not right(planned[0], request):
            wrong.append((request.text, planned))
    assert {request.kind for request, _ in asked} == set(world.REQUEST_KINDS)
    assert len(wrong) <= 0.005 * len(asked), (len(wrong), len(asked), wrong[:5])
