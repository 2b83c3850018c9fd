"""What a clip is given, and guidance by it with the fewest network calls."""

import pytest
import torch

from diorama.diffusion.text import Condition
from diorama.errors import InputError
from diorama.systems.emu_video.conditioning import Conditions, first_frame, given_frames, guided
from diorama.systems.emu_video.config import ModeConfig
from diorama.systems.emu_video.modes import Mode

MODE = Mode.of(ModeConfig())
INDEX = torch.tensor([700, 700])


class Counting:
    """A video network that answers each branch with a number of its own and counts the rows it is asked."""

    def __init__(self) -> None:
        self.rows = 0
        self.calls = 0

    def __call__(self, sample, times, condition, given=None):
        self.rows += len(sample)
        self.calls += 1
        assert times.tolist() == [700] * len(sample)
        text = condition.tokens[:, 0, 0]
        image = given[:, :, 0].amax((1, 2, 3)) if given is not None else torch.zeros(len(sample))
        return (sample.sum((1, 2, 3, 4)) * 0.01 + 2.0 * image + 5.0 * text).reshape(-1, 1, 1, 1, 1).expand_as(sample)


def conditions(given: bool = True) -> Conditions:
    image = torch.randn(2, 4, 3, 3)
    text, nothing = (Condition(torch.full((2, 3, 2), value), torch.ones(2, 3)) for value in (1.0, 0.0))
    return Conditions(text, nothing, first_frame(image, 5) if given else None)


def answer_of(scales: tuple[float, float], given: bool = True) -> tuple[torch.Tensor, Counting]:
    """What the guided network answers (as v, read back from the denoised pair) and how often it was asked."""
    torch.manual_seed(0)
    network, x = Counting(), torch.randn(2, 5, 4, 3, 3)
    clean, eps = guided(network, MODE, conditions(given), scales)(x, INDEX)
    signal, noise = MODE.schedule.at(INDEX, x)
    return signal * eps - noise * clean, network


def branches() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 3, 3)
    nothing = (x.sum((1, 2, 3, 4)) * 0.01).reshape(-1, 1, 1, 1, 1).expand_as(x)
    return nothing, nothing + 2, nothing + 7


@pytest.mark.parametrize("image, text, calls", [
    (2.0, 7.5, 3), (1.0, 7.5, 2), (3.0, 3.0, 2), (1.0, 1.0, 1), (0.0, 0.0, 1), (1.0, 0.0, 1), (2.0, 0.0, 2), (0, 2, 3),
])
def test_equation_1_with_the_fewest_branches(image: float, text: float, calls: int) -> None:
    """Against DynamiCrafter's form of it: e_u + cfg_img (e_ui - e_u) + cfg (e_c - e_ui)."""
    found, network = answer_of((image, text))
    nothing, with_image, with_both = branches()
    wanted = nothing + image * (with_image - nothing) + text * (with_both - with_image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    assert network.rows == 2 * calls and network.calls == 1, "one batch, only the branches that count"


def test_without_an_image_it_is_classifier_free_guidance_by_text() -> None:
    found, network = answer_of((2.0, 7.5), given=False)
    nothing, _, _ = branches()
    torch.testing.assert_close(found, nothing + 7.5 * 5.0, rtol=1e-4, atol=1e-3)
    assert network.rows == 4


def test_dropping_the_image_zeroes_mask_and_frames() -> None:
    """Pitfall 8: and dropping the text is the empty caption, not zeros of the embedding."""
    seen = []

    def network(sample, times, condition, given=None):
        seen.append((condition, given))
        return torch.zeros_like(sample)

    wanted = conditions()
    empty = Condition(torch.full((2, 3, 2), 0.25), torch.ones(2, 3))
    guided(network, MODE, Conditions(wanted.text, empty, wanted.given), (2.0, 7.5))(torch.randn(2, 5, 4, 3, 3), INDEX)
    condition, given = seen[0]
    assert (given[:2] == 0).all() and torch.equal(given[2:4], wanted.given) and torch.equal(given[4:], wanted.given)
    assert (condition.tokens[:4] == 0.25).all() and (condition.tokens[4:] == 1).all()


def test_given_frames_lie_in_their_places_under_a_binary_mask() -> None:
    known = torch.randn(2, 3, 4, 5, 6)
    given = given_frames(known, [4, 0, 2], 7)
    assert given.shape == (2, 7, 5, 5, 6)
    assert torch.equal(given[:, [4, 0, 2], 1:], known)
    assert given[:, :, 0].flatten(2).amax(-1).tolist() == [[1, 0, 1, 0, 1, 0, 0]] * 2
    assert (given[:, [1, 3, 5, 6]] == 0).all()


@pytest.mark.parametrize("places", [[0, 0, 1], [0, 1, 7], [-1, 0, 1], [0, 1]])
def test_places_that_are_none_are_refused(places: list[int]) -> None:
    with pytest.raises(InputError):
        given_frames(torch.zeros(2, 3, 4, 5, 6), places, 7)
