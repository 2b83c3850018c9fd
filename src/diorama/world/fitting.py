"""Damped least squares over pictures: numbers are moved until what is rendered from them looks like what is seen.

After Levenberg (1944) and Marquardt (1963), with differences in place of derivatives, weights that forgive pixels which
nothing explains (Geman & McClure 1987), and blurred pictures first, in which an edge that is far off still pulls. Many
fits are done side by side, since pictures are cheapest in batches.

Shapes: N fits, P numbers a fit, M pictures of (3, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

FORGIVEN = 0.6
"""A difference, of 1, from which on a pixel counts less and less."""
LEASH = 4.0
"""Steps that a number may go in one round."""
PULL = 1e-2
"""Weight of staying at the start, in squared differences a squared step: decides only where the pixels say nothing."""
PictureOf = Callable[[Tensor, list[int]], Tensor]


def fitted(
    start: Tensor, steps: Tensor, picture_of: PictureOf, goals: Tensor, *, rounds: Sequence[tuple[int, int]]
) -> Tensor:
    """The numbers (N, P) near `start` whose pictures come nearest to the goals (N, 3, h, w).

    `steps` (P,) are changes of each number that move an edge by about half a pixel. `picture_of` makes pictures
    (M, 3, h, w) of numbers (M, P), given the number of the fit that each is for. `rounds` are how often the pictures
    are blurred and how many rounds that goes on, for example ((3, 4), (1, 3)).
    """
    values = start
    for blur, count in rounds:
        values = _fitted(values, steps * (1 + blur) / 2, picture_of, goals, blur=blur, rounds=count)
    return values


def _fitted(start: Tensor, steps: Tensor, picture_of: PictureOf, goals: Tensor, *, blur: int, rounds: int) -> Tensor:
    count, size = start.shape
    values, damping = start.clone(), start.new_full((count, 1), 1e-2)
    aim = blurred(goals, blur).flatten(1)

    def gap(numbers: Tensor, rows: list[int]) -> Tensor:
        return blurred(picture_of(numbers, rows), blur).flatten(1) - aim[rows]

    everyone = list(range(count))
    off = gap(values, everyone)  # (N, D)
    cost = _cost(off)
    for _ in range(rounds):
        several = [row for row in everyone for _ in range(size)]
        slopes = gap((values[:, None] + torch.diag(steps)).flatten(0, 1), several).view(count, size, -1) - off[:, None]
        weighted = slopes / (1 + (off / FORGIVEN) ** 2)[:, None] ** 2
        bend = weighted @ slopes.transpose(1, 2)  # (N, P, P)
        push = -(weighted @ off.unsqueeze(-1)).squeeze(-1) - PULL * ((values - start) / steps).to(bend.dtype)
        own = bend.diagonal(dim1=1, dim2=2)
        bend = bend + torch.diag_embed(own * damping.to(bend.dtype) + PULL)
        move = torch.linalg.solve(bend, push).clamp(-LEASH, LEASH).to(values.dtype) * steps
        trial = gap(values + move, everyone)
        trial_cost = _cost(trial)
        better = trial_cost < cost
        values = torch.where(better[:, None], values + move, values)
        off = torch.where(better[:, None], trial, off)
        damping = torch.where(better[:, None], damping / 5, damping * 10)
        cost = torch.minimum(cost, trial_cost)
    return values


def blurred(images: Tensor, times: int = 1) -> Tensor:
    """Each pixel (N, 3, h, w) as the mean of those around it: an edge that is a little off is a little wrong."""
    for _ in range(times):
        images = nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return images


def _cost(off: Tensor) -> Tensor:
    """Costs (N,) of differences (N, D), in wholly wrong values."""
    squared = (off / FORGIVEN) ** 2
    return (squared / (1 + squared)).sum(1)
