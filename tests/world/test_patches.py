import numpy as np
import pytest

from diorama.world.patches import GROUND, OUTLINE, patch_owners


def test_a_patch_belongs_to_the_object_that_covers_most_of_it():
    mask = np.full((32, 32), -1, np.int8)
    mask[:8, :8] = 2                                            # all of patch 0
    mask[:8, 8:13] = 1                                          # five eighths of patch 1 ...
    mask[:8, 13:16] = 3                                         # ... against three
    mask[0, 16:20] = 4                                          # a sixteenth of patch 2: neither object nor ground
    mask[0, 24] = 0                                             # one pixel of patch 3: still ground
    owners = patch_owners(mask, 4)
    assert owners.shape == (4, 4)
    assert owners.ravel().tolist() == [2, 1, OUTLINE, *[GROUND] * 13]


@pytest.mark.parametrize("leading", [(3,), (2, 3)])
def test_leading_axes_are_kept(leading):
    masks = np.random.default_rng(0).integers(-1, 5, (*leading, 16, 16)).astype(np.int8)
    owners = patch_owners(masks, 2)
    assert owners.shape == (*leading, 2, 2)
    index = tuple(n - 1 for n in leading)
    assert (owners[index] == patch_owners(masks[index], 2)).all()
