"""Pools: a pure function of their config, opened rather than rendered again, never half there."""

from dataclasses import replace

import numpy as np
import pytest

from diorama.errors import InputError
from diorama.world.pool import PoolConfig, open_pool, seen_objects
from diorama.world.rendering import render

STILLS = PoolConfig(families=4, members=2, size=32, samples=1)


def test_pixels_are_those_of_the_renderer(tmp_path):
    pool = open_pool(tmp_path / "pool", STILLS)
    assert len(pool) == len(pool.scenes) == len(pool.family) and set(pool.family) == {0, 1, 2, 3}
    direct = render(pool.scenes, size=32)
    np.testing.assert_array_equal(pool.pixels, direct.rgb.numpy())
    np.testing.assert_array_equal(pool.visible[:, : direct.visible.shape[-1]], seen_objects(direct.visible.numpy()))


def test_clips_have_their_frames(tmp_path):
    pool = open_pool(tmp_path / "pool", replace(STILLS, families=2, members=1, frames=3))
    assert pool.pixels.shape == (2, 3, 3, 32, 32) and all(scene.duration > 0 for scene in pool.scenes)


def test_opening_again_reads_and_hears_no_progress(tmp_path):
    heard = []
    first = open_pool(tmp_path / "pool", STILLS, progress=lambda done, total: heard.append((done, total)))
    assert heard[-1][0] == heard[-1][1] == len(first)
    again = open_pool(tmp_path / "pool", STILLS, progress=lambda *_: pytest.fail("rendered twice"))
    assert again.scenes == first.scenes
    assert not list(tmp_path.glob("*.part"))


def test_other_settings_and_other_folders_are_refused(tmp_path):
    open_pool(tmp_path / "pool", STILLS)
    with pytest.raises(InputError, match="families differ"):
        open_pool(tmp_path / "pool", replace(STILLS, families=5))
    (tmp_path / "letters").mkdir()
    with pytest.raises(InputError, match="holds no scenes of a pool"):
        open_pool(tmp_path / "letters", STILLS)


def test_a_stopped_rendering_leaves_no_pool(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pool(tmp_path / "pool", STILLS, progress=stop)
    assert not (tmp_path / "pool").exists()
    assert len(open_pool(tmp_path / "pool", STILLS)) > 0


def test_seen_is_clear_in_half_of_the_frames_in_which_it_is_there():
    shares = np.array([[[0.9, 0.0, 0.2], [0.8, 0.5, 0.2], [0.1, 0.0, 0.4], [0.9, 0.6, 0.1]]])
    assert seen_objects(shares).tolist() == [[True, True, False]]
