"""Frames a second of the world's renderer against trimesh ray casting of the same scenes.

    python benchmarks/world.py [--quick] [--json]

Both sides start from scenes of five objects and end with depth and object masks at 64 x 64; ours also shades and
makes normals, the peer does not. The peer casts with Embree where `embreex` is installed, else with trimesh's own
ray-triangle search (which needs `rtree`). Medians over repeats taken in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import trimesh

import diorama
from diorama.world.meshes import object_mesh
from diorama.world.rendering import render
from diorama.world.sampling import sample_scene
from diorama.world.scene import Scene

SIZE = 64
GOAL = 400.0


def rays_of(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Starts and directions (4096, 3) of one ray a pixel."""
    camera = scene.camera
    tilt, turn = math.radians(camera.elevation), math.radians(camera.azimuth)
    right = np.array([math.cos(turn), math.sin(turn), 0.0])
    ahead = np.array([-math.sin(turn) * math.cos(tilt), math.cos(turn) * math.cos(tilt), -math.sin(tilt)])
    grid = ((np.arange(SIZE) + 0.5) * 2 / SIZE - 1) * math.tan(math.radians(camera.field_of_view / 2))
    x, y = np.meshgrid(grid, -grid)
    rays = ahead + x.reshape(-1, 1) * right + y.reshape(-1, 1) * np.cross(right, ahead)
    return np.broadcast_to(np.array([0.0, 0.0, 0.4]) - camera.distance * ahead, rays.shape), rays


def cast_with_trimesh(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Depth (64, 64) and object mask (64, 64) of one scene by trimesh."""
    parts = [mesh for i in range(len(scene.objects)) if (mesh := object_mesh(scene, i)) is not None]
    whole = trimesh.util.concatenate(parts)
    owner = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
    starts, rays = rays_of(scene)
    faces, hit, places = whole.ray.intersects_id(starts, rays, multiple_hits=False, return_locations=True)
    depth, mask = np.full(SIZE * SIZE, np.inf), np.full(SIZE * SIZE, -1)
    depth[hit] = np.linalg.norm(places - starts[hit], axis=1) / np.linalg.norm(rays[hit], axis=1)
    mask[hit] = owner[faces]
    return depth.reshape(SIZE, SIZE), mask.reshape(SIZE, SIZE)


def peer_name() -> str | None:
    """What trimesh casts with here, or None where it can cast nothing."""
    try:
        import embreex  # noqa: F401
    except ImportError:
        try:
            import rtree  # noqa: F401
        except ImportError:
            return None
        return f"trimesh {trimesh.__version__}, its own ray casting"
    return f"trimesh {trimesh.__version__} with embreex"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    torch.set_num_threads(2)
    peer = peer_name()
    scenes = [sample_scene(seed, objects=(5, 5)) for seed in range(32 if flags.quick else 256)]
    theirs_scenes = scenes[: 4 if flags.quick else 32]
    repeats = 3 if flags.quick else 7
    render(scenes, size=SIZE)
    if peer:
        mask = cast_with_trimesh(scenes[0])[1]
        agree = float((mask == render(scenes[:1], size=SIZE).mask[0, 0].numpy()).mean())
        if agree < 0.98:
            sys.exit(f"the two sides see different things: only {agree:.1%} of the pixels agree")
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(len(scenes) / seconds(lambda: render(scenes, size=SIZE)))
        if peer:
            theirs.append(len(theirs_scenes) / seconds(lambda: [cast_with_trimesh(s) for s in theirs_scenes]))
    mine, other = statistics.median(ours), statistics.median(theirs) if theirs else None
    row = {
        "what": "render 64 x 64, five objects", "ours": mine, "theirs": other, "unit": "frames/s",
        "ratio": mine / other if other else None, "goal": GOAL, "peer": peer or "not installed: embreex or rtree",
    }
    result = {
        "system": "world", "rows": [row], "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"diorama": diorama.__version__, "torch": torch.__version__, "trimesh": trimesh.__version__},
    }
    if flags.json:
        print(json.dumps(result))
    else:
        against = f"{other:.1f} ({row['ratio']:.1f} times)" if other else "not measured"
        print(f"{row['what']}: {mine:.0f} frames/s (goal {GOAL:.0f}); {row['peer']}: {against}")


if __name__ == "__main__":
    main()
