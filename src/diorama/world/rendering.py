"""A batched ray caster in torch: scenes in, pictures and exact truth out (depth, normals, masks, boxes).

Only rays inside an object's bounding rectangle are tried against it, as one flat list over all frames. Spheres, cubes,
cylinders, cones and pyramids are intersected in closed form; the torus's quartic is bracketed along the chord and
narrowed by bisection. Geometry is float64, so that no machine's rounding moves an outline; shading is float32.

Shapes below: F frames (all scenes x all times), K objects a frame at most, R rays in a flat list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.errors import InputError
from diorama.world.scene import PROPORTIONS, RADIUS, SHAPES, TORUS_TUBE, Scene, Shape, state_at

RGB: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.13, 0.13),
    "green": (0.13, 0.62, 0.20),
    "blue": (0.12, 0.25, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.52, 0.15, 0.68),
    "orange": (0.97, 0.50, 0.05),
    "cyan": (0.15, 0.80, 0.85),
    "grey": (0.42, 0.42, 0.42),
}
"""Surface colors, each channel in [0, 1]."""

LOOK_AT = (0.0, 0.0, 0.4)
SKY = (0.80, 0.88, 0.97)
Window = tuple[slice, slice]
"""Rows and columns of a picture, each with a start and a stop."""
FRAMES_AT_ONCE = 64
"""Frames rendered together at 64 x 64; fewer when they are larger, so that a chunk stays in the cache."""


@dataclass(frozen=True)
class Rendering:
    """What was rendered for B scenes at T times.

    rgb      uint8 (B, T, 3, H, W)
    depth    float32 (B, T, H, W), metres along the optical axis; infinity where there is only sky
    normals  float32 (B, T, 3, H, W), unit vectors in world axes; zero for the sky
    mask     int8 (B, T, H, W): index of the object seen, -1 for ground and sky
    visible  float32 (B, T, K): share of an object's own outline that is not hidden; 0 when it is absent
    """

    rgb: Tensor
    depth: Tensor
    normals: Tensor
    mask: Tensor
    visible: Tensor

    def boxes(self) -> Tensor:
        """Tight boxes around what is seen of each object: int64 (B, T, K, 4) as x0, y0, x1, y1 with the last pixel
        included; -1 everywhere for an object that is not seen."""
        count = self.visible.shape[-1]
        seen = self.mask.unsqueeze(2) == torch.arange(count, device=self.mask.device).view(1, 1, -1, 1, 1)
        ends = []
        for axis in (-2, -1):
            line = seen.any(dim=axis)
            length = line.shape[-1]
            ends.append((line.int().argmax(-1), length - 1 - line.flip(-1).int().argmax(-1)))
        (x0, x1), (y0, y1) = ends
        boxes = torch.stack([x0, y0, x1, y1], dim=-1)
        return torch.where(seen.flatten(3).any(-1, keepdim=True), boxes, -torch.ones_like(boxes))


def frame_times(scene: Scene, frames: int) -> list[float]:
    """`frames` moments from 0 to the scene's duration, both included; a single frame is the first moment."""
    if frames < 1:
        raise InputError(f"frames={frames} makes no clip; pass 1 or more.")
    return [scene.duration * i / max(frames - 1, 1) for i in range(frames)]


@torch.no_grad()
def render(
    scenes: Sequence[Scene],
    *,
    size: int = 64,
    frames: int = 1,
    times: Sequence[float] | None = None,
    samples: int = 1,
    window: Window | None = None,
    device: str | torch.device = "cpu",
) -> Rendering:
    """Render every scene at `frames` evenly spaced moments, or at the given `times` in seconds.

    `size` is the side of the square picture in pixels; with `samples` = n every pixel is the mean of n x n rays
    (depth, normals and masks are those of one of them). With a `window` only those rows and columns of the picture are
    computed, and `visible` is of what lies in them. Raises InputError for an empty list or impossible sizes.
    """
    if not scenes:
        raise InputError("there are no scenes to render; pass at least one.")
    if not 4 <= size <= 4096 or not 1 <= samples <= 8:
        raise InputError(f"size={size} with samples={samples} cannot be rendered; sizes are 4 to 4096 pixels "
                         "and samples 1 to 8.")
    moments = [list(times) if times is not None else frame_times(scene, frames) for scene in scenes]
    steps = len(moments[0])
    jobs = [(scene, time) for scene, line in zip(scenes, moments, strict=True) for time in line]
    most = max(max(len(scene.objects) for scene in scenes), 1)
    rows, columns = (range(size)[part] for part in window or (slice(None), slice(None)))
    if not rows or not columns:
        raise InputError(f"the window {window} holds nothing of a picture of {size} pixels; pass slices that do.")
    view = _View(size * samples, *(end * samples for end in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)))
    chunk = max(1, FRAMES_AT_ONCE * 64 * 64 // view.pixels)
    parts = [
        _render_chunk(_Frames.of(jobs[i : i + chunk], most, torch.device(device)), view, samples)
        for i in range(0, len(jobs), chunk)
    ]
    joined = [torch.cat(field).unflatten(0, (len(scenes), steps)) for field in zip(*parts, strict=True)]
    return Rendering(*joined)


@dataclass(frozen=True)
class _View:
    """A picture of side x side rays, of which the rows from top to bottom and the columns from left to right are shot
    (ends excluded)."""

    side: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class _Frames:
    """Cameras, lights and object states of F frames as tensors."""

    eye: Tensor  # (F, 3)
    axes: Tensor  # (F, 3, 3): rows are right, up, forward
    tangent: Tensor  # (F,) of half the field of view
    lamp: Tensor  # (F, 3) unit vector to the lamp
    ambient: Tensor  # (F,)
    shade: Tensor  # (F,)
    shape: Tensor  # (F, K) index into SHAPES, -1 where there is no object
    color: Tensor  # (F, K, 3)
    foot: Tensor  # (F, K, 3)
    yaw: Tensor  # (F, K) radians
    scale: Tensor  # (F, K) metres a unit

    @classmethod
    def of(cls, jobs: Sequence[tuple[Scene, float]], most: int, device: torch.device) -> _Frames:
        rows: dict[str, list] = {name: [] for name in cls.__dataclass_fields__}
        for scene, time in jobs:
            camera, light = scene.camera, scene.light
            (rx, ry), (fx, fy) = camera.right, camera.forward
            e = math.radians(camera.elevation)
            forward = (fx * math.cos(e), fy * math.cos(e), -math.sin(e))
            up = (fx * math.sin(e), fy * math.sin(e), math.cos(e))
            rows["eye"].append([a - camera.distance * b for a, b in zip(LOOK_AT, forward, strict=True)])
            rows["axes"].append([(rx, ry, 0.0), up, forward])
            rows["tangent"].append(math.tan(math.radians(camera.field_of_view / 2)))
            a, b = math.radians(light.azimuth + camera.azimuth), math.radians(light.elevation)
            rows["lamp"].append((math.cos(a) * math.cos(b), math.sin(a) * math.cos(b), math.sin(b)))
            rows["ambient"].append(light.ambient)
            rows["shade"].append(scene.background)
            states = [state_at(scene, i, time) for i in range(len(scene.objects))]
            pad = most - len(states)
            things = list(zip(scene.objects, states, strict=True))
            rows["shape"].append([SHAPES.index(o.shape) if s.present else -1 for o, s in things] + [-1] * pad)
            rows["color"].append([RGB[o.color] for o, _ in things] + [(0.0, 0.0, 0.0)] * pad)
            rows["foot"].append([s.position for _, s in things] + [(0.0, 0.0, 0.0)] * pad)
            rows["yaw"].append([math.radians(s.yaw) for _, s in things] + [0.0] * pad)
            rows["scale"].append([RADIUS[o.size] * s.scale for o, s in things] + [1.0] * pad)
        return cls(**{
            name: torch.tensor(row, dtype=torch.long if name == "shape" else torch.float64, device=device)
            for name, row in rows.items()
        })


def _render_chunk(frames: _Frames, view: _View, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    count, most = frames.shape.shape
    pixels = view.pixels
    rays = _rays(frames, view)
    depth, normals, image = _ground(frames, rays)
    who = torch.full((count * pixels,), -1, dtype=torch.long, device=depth.device)
    nearest = depth.clone()
    own = torch.zeros(count * most, dtype=torch.float32, device=depth.device)
    hits = []
    for index, shape in enumerate(SHAPES):
        found = _cast(frames, shape, index, rays, view)
        if found is not None:
            hits.append(found)
    if hits:
        where, owner, near, normal = (torch.cat(field) for field in zip(*hits, strict=True))
        own.scatter_add_(0, where // pixels * most + owner, torch.ones_like(near, dtype=torch.float32))
        nearest.scatter_reduce_(0, where, near, "amin")
        wins = near == nearest[where]
        where, owner, near, normal = where[wins], owner[wins], near[wins], normal[wins]
        frame = where // pixels
        depth[where] = near
        who[where] = owner
        normals[where] = normal.float()
        image[where] = _shade(frames, frame, owner, normal, rays[where])
    seen = torch.zeros_like(own)
    lit = who >= 0
    seats = (torch.arange(count, device=depth.device).repeat_interleave(pixels) * most + who)[lit]
    seen.scatter_add_(0, seats, torch.ones_like(seats, dtype=torch.float32))
    visible = (seen / own.clamp(min=1)).view(count, most)

    image = image.clamp(0, 1).view(count, *view.shape, 3).permute(0, 3, 1, 2)
    if samples > 1:
        image = torch.nn.functional.avg_pool2d(image, samples)
    middle = slice(samples // 2, None, samples)
    return (
        (image * 255).round().to(torch.uint8),
        depth.view(count, *view.shape)[:, middle, middle].float(),
        normals.view(count, *view.shape, 3)[:, middle, middle].permute(0, 3, 1, 2),
        who.view(count, *view.shape)[:, middle, middle].to(torch.int8),
        visible,
    )


def _rays(frames: _Frames, view: _View) -> Tensor:
    """Ray directions (F*P, 3), one unit long along the optical axis: a ray's parameter is its depth in metres."""
    grid = (torch.arange(view.side, dtype=torch.float64, device=frames.eye.device) + 0.5) * (2 / view.side) - 1
    right, up, forward = frames.axes.unbind(1)
    tangent = frames.tangent.view(-1, 1, 1)
    across, down = grid[view.left : view.right].view(1, 1, -1), grid[view.top : view.bottom].view(1, -1, 1)
    planes = [forward[:, i, None, None] + tangent * (across * right[:, i, None, None] - down * up[:, i, None, None])
              for i in range(3)]
    return torch.stack(planes, dim=-1).view(-1, 3)


def _ground(frames: _Frames, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth (F*P,), normals and colors (F*P, 3) of the empty scene with a soft round shadow under each object."""
    count, most = frames.shape.shape
    device = frames.eye.device
    planes = [plane.view(count, -1) for plane in rays.unbind(-1)]  # x, y and z of the rays, each (F, P)
    falls = planes[2] < -1e-9
    depth = torch.where(falls, -frames.eye[:, 2:] / planes[2].clamp(max=-1e-9), torch.inf)
    reach = depth.where(falls, 0.0)
    points = [(frames.eye[:, i : i + 1] + reach * planes[i]).float() for i in range(3)]

    light = torch.ones_like(points[0])
    lamps = frames.lamp.float()
    for k in range(most):
        there = (frames.shape[:, k] >= 0).nonzero().squeeze(1)
        if not len(there):
            continue
        radius, lift = (value[there] for value in _round_body(frames, k))
        middle = frames.foot[there, k].float()
        middle[:, 2] += lift
        to = [middle[:, i : i + 1] - points[i][there] for i in range(3)]
        lamp = lamps[there]
        along = sum(to[i] * lamp[:, i : i + 1] for i in range(3))
        off = (to[0] * to[0] + to[1] * to[1] + to[2] * to[2] - along * along).clamp(min=0).sqrt() / radius.unsqueeze(1)
        shadow = ((1.15 - off) / 0.4).clamp(0, 1)
        light[there] *= 1 - 0.75 * shadow * shadow * (3 - 2 * shadow) * (along > 0)
    ambient = frames.ambient.float().unsqueeze(1)
    lit = frames.shade.float().unsqueeze(1) * (ambient + (1 - ambient) * light)
    haze = torch.exp(-(depth.float() - 6).clamp(min=0) / 18)  # far ground fades into the sky
    image = torch.stack([(lit * haze + sky * (1 - haze)).where(falls, sky) for sky in SKY], dim=-1)
    normals = torch.zeros(count, falls.shape[1], 3, device=device)
    normals[..., 2] = falls.float()
    return depth.view(-1), normals.view(-1, 3), image.view(-1, 3)


def _round_body(frames: _Frames, k: int) -> tuple[Tensor, Tensor]:
    """Radius and height of middle (F,) of the ball that stands for object k where its shadow is cast."""
    device = frames.eye.device
    height = torch.tensor([PROPORTIONS[s].height for s in SHAPES], device=device)
    width = torch.tensor([PROPORTIONS[s].half_width for s in SHAPES], device=device)
    shape = frames.shape[:, k].clamp(min=0)
    scale = frames.scale[:, k].float()
    return ((width[shape] + height[shape] / 2) / 2 * scale, height[shape] / 2 * scale)


def _cast(
    frames: _Frames, shape: Shape, index: int, rays: Tensor, view: _View
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """All hits on objects of one shape: flat pixel (R,), object (R,), depth (R,) and world normal (R, 3)."""
    frame, owner = (frames.shape == index).nonzero(as_tuple=True)  # (N,) pairs
    if len(frame) == 0:
        return None
    box = _rectangles(frames, frame, owner, shape, view)
    width, height = (box[:, 2] - box[:, 0]).clamp(min=0), (box[:, 3] - box[:, 1]).clamp(min=0)
    areas = width * height
    pair = torch.repeat_interleave(torch.arange(len(frame), device=areas.device), areas)
    if len(pair) == 0:
        return None
    order = torch.arange(len(pair), device=areas.device) - (areas.cumsum(0) - areas)[pair]
    pixel = (box[pair, 1] + order // width[pair]) * view.shape[1] + box[pair, 0] + order % width[pair]

    where = frame[pair] * view.pixels + pixel
    scale, yaw = frames.scale[frame, owner].unsqueeze(1), frames.yaw[frame, owner]
    c, s = yaw.cos(), yaw.sin()
    start = _turn(frames.eye[frame] - frames.foot[frame, owner], c, -s) / scale
    c, s = c[pair], s[pair]
    ray = _turn(rays[where], c, -s) / scale[pair]
    near, normal = INTERSECT[shape](start[pair], ray)
    hit = torch.isfinite(near) & (near > 0)
    return where[hit], owner[pair][hit], near[hit], _turn(normal[hit], c[hit], s[hit])


def _rectangles(frames: _Frames, frame: Tensor, owner: Tensor, shape: Shape, view: _View) -> Tensor:
    """Pixel rectangles (N, 4) x0, y0, x1, y1 (end excluded) in the view that surely hold each object's outline."""
    body = PROPORTIONS[shape]
    scale = frames.scale[frame, owner]
    reach = scale * math.hypot(body.half_width * (math.sqrt(2) if shape in ("cube", "pyramid") else 1), body.height / 2)
    middle = frames.foot[frame, owner].clone()
    middle[:, 2] += scale * body.height / 2
    x, y, z = ((middle - frames.eye[frame]).unsqueeze(1) * frames.axes[frame]).sum(-1).unbind(-1)
    nearest = (z - reach).clamp(min=1e-3)
    zoom = 1 / frames.tangent[frame]
    around = torch.stack([x - reach, -y - reach, x + reach, -y + reach], dim=-1)
    # a box corner projects farthest out at the near end when it is outside the axis, at the far end otherwise
    sign = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=x.device, dtype=x.dtype)
    spread = torch.where(around * sign > 0, around / nearest.unsqueeze(-1), around / (z + reach).unsqueeze(-1))
    edges = (spread * zoom.unsqueeze(-1) + 1) * (view.side / 2)
    first, last = (edges.new_tensor(ends * 2) for ends in ([view.left, view.top], [view.right, view.bottom]))
    edges = torch.cat([edges[:, :2].floor(), edges[:, 2:].ceil() + 1], dim=-1).clamp(first, last).sub(first).long()
    return edges.where((z + reach > 1e-3).unsqueeze(-1), 0)


def _turn(vectors: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """Rotate (R, 3) about the vertical by angles of the cosine and sine (R,)."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y, z], dim=-1)


def _shade(frames: _Frames, frame: Tensor, owner: Tensor, normal: Tensor, ray: Tensor) -> Tensor:
    """Lambert plus a small highlight: colors (R, 3)."""
    lamp, ambient = frames.lamp[frame], frames.ambient[frame].unsqueeze(1)
    facing = (normal * lamp).sum(-1, keepdim=True).clamp(min=0)
    half = torch.nn.functional.normalize(lamp - torch.nn.functional.normalize(ray, dim=-1), dim=-1)
    shine = (normal * half).sum(-1, keepdim=True).clamp(min=0) ** 24
    color = frames.color[frame, owner] * (ambient + (1.1 - ambient) * facing) + 0.18 * shine
    return color.float()


# Intersections in an object's own axes: foot at the origin, one unit a radius. Each maps ray starts and directions
# (R, 3) to the first parameter (R,), infinite for a miss, and the outward unit normal there (R, 3).


def _sphere(start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    middle = start - start.new_tensor([0.0, 0.0, 1.0])
    a, b, c = (ray * ray).sum(-1), (middle * ray).sum(-1), (middle * middle).sum(-1) - 1
    near = _first_root(a, b, c)
    return near, middle + near.unsqueeze(-1) * ray


def _first_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The smaller root of a t^2 + 2 b t + c, infinite where there is none."""
    inside = b * b - a * c
    return torch.where(inside > 0, (-b - inside.clamp(min=0).sqrt()) / a, torch.inf)


def _convex(start: Tensor, ray: Tensor, planes: Sequence[tuple[float, float, float, float]]) -> tuple[Tensor, Tensor]:
    """A convex solid as half-spaces n . p <= d with unit n: the last plane entered is the one hit."""
    faces = start.new_tensor(planes)
    ahead, gap = ray @ faces[:, :3].T, faces[:, 3] - start @ faces[:, :3].T  # (R, P)
    parallel = ahead.abs() < 1e-12
    cross = gap / ahead.where(~parallel, 1.0)
    enter = cross.where((ahead < 0) & ~parallel, -torch.inf)
    leave = cross.where((ahead > 0) & ~parallel, torch.inf)
    near, face = enter.max(dim=-1)
    missed = (near >= leave.amin(-1)) | ((gap < 0) & parallel).any(-1)
    return near.masked_fill(missed, torch.inf), faces[face, :3]


def _cube(start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    body = PROPORTIONS["cube"]
    w = body.half_width
    sides = [(1.0, 0.0, 0.0, w), (-1.0, 0.0, 0.0, w), (0.0, 1.0, 0.0, w), (0.0, -1.0, 0.0, w)]
    return _convex(start, ray, [*sides, (0.0, 0.0, 1.0, body.height), (0.0, 0.0, -1.0, 0.0)])


def _pyramid(start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    body = PROPORTIONS["pyramid"]
    w, h = body.half_width, body.height
    slant = math.hypot(w, h)
    out, up, reach = h / slant, w / slant, h * w / slant
    sides = [(out, 0.0, up, reach), (-out, 0.0, up, reach), (0.0, out, up, reach), (0.0, -out, up, reach)]
    return _convex(start, ray, [*sides, (0.0, 0.0, -1.0, 0.0)])


def _cylinder(start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    body = PROPORTIONS["cylinder"]
    a = (ray[:, :2] ** 2).sum(-1).clamp(min=1e-18)
    b, c = (start[:, :2] * ray[:, :2]).sum(-1), (start[:, :2] ** 2).sum(-1) - body.half_width**2
    wall = _first_root(a, b, c)
    z = start[:, 2] + wall * ray[:, 2]
    wall = wall.masked_fill(~((z >= 0) & (z <= body.height)), torch.inf)
    top = (body.height - start[:, 2]) / ray[:, 2].where(ray[:, 2].abs() > 1e-12, 1e-12)
    at = start[:, :2] + top.unsqueeze(-1) * ray[:, :2]
    inside = ((at * at).sum(-1) <= body.half_width**2) & (ray[:, 2] < 0)
    top = top.masked_fill(~inside, torch.inf)
    near = torch.minimum(wall, top)
    around = torch.cat([start[:, :2] + near.nan_to_num(posinf=0.0).unsqueeze(-1) * ray[:, :2],
                        torch.zeros_like(ray[:, :1])], dim=-1) / body.half_width
    upward = torch.tensor([0.0, 0.0, 1.0], dtype=ray.dtype, device=ray.device).expand_as(ray)
    return near, torch.where((top < wall).unsqueeze(-1), upward, around)


def _cone(start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    body = PROPORTIONS["cone"]
    k = body.half_width / body.height
    x, y, w = start[:, 0], start[:, 1], (start[:, 2] - body.height) * k
    dx, dy, dw = ray[:, 0], ray[:, 1], ray[:, 2] * k
    a, b, c = dx * dx + dy * dy - dw * dw, x * dx + y * dy - w * dw, x * x + y * y - w * w
    inside = (b * b - a * c).clamp(min=0).sqrt()
    safe = a.where(a.abs() > 1e-12, 1e-12)
    roots = torch.stack([(-b - inside) / safe, (-b + inside) / safe])
    z = start[:, 2] + roots * ray[:, 2]
    roots = roots.masked_fill(~((z >= 0) & (z <= body.height)) | (b * b - a * c < 0), torch.inf)
    near = roots.amin(0)
    at = start + near.nan_to_num(posinf=0.0).unsqueeze(-1) * ray
    normal = torch.stack([at[:, 0], at[:, 1], k * k * (body.height - at[:, 2])], dim=-1)
    return near, torch.nn.functional.normalize(normal, dim=-1)


def _torus(start: Tensor, ray: Tensor, steps: int = 28) -> tuple[Tensor, Tensor]:
    """The first sign change of the implicit quartic along the chord of the bounding ball, then bisection."""
    middle = start - start.new_tensor([0.0, 0.0, TORUS_TUBE])
    major = PROPORTIONS["torus"].half_width - TORUS_TUBE
    a, b = (ray * ray).sum(-1), (middle * ray).sum(-1)
    c = (middle * middle).sum(-1)
    inside = b * b - a * (c - PROPORTIONS["torus"].half_width ** 2)
    reach = inside.clamp(min=0).sqrt()
    enter, leave = (-b - reach) / a, (-b + reach) / a
    flat_a, flat_b = (ray[:, :2] ** 2).sum(-1), (middle[:, :2] * ray[:, :2]).sum(-1)
    flat_c = (middle[:, :2] ** 2).sum(-1)
    shift = major**2 - TORUS_TUBE**2

    def quartic(t: Tensor) -> Tensor:  # (|p|^2 + R^2 - r^2)^2 - 4 R^2 (x^2 + y^2), negative inside
        return ((a * t + 2 * b) * t + c + shift) ** 2 - 4 * major**2 * ((flat_a * t + 2 * flat_b) * t + flat_c)

    share = torch.linspace(0, 1, steps, dtype=ray.dtype, device=ray.device).unsqueeze(1)
    line = enter + share * (leave - enter)  # (S, R)
    within = quartic(line) < 0
    first = within.int().argmax(0)
    low = line.gather(0, (first - 1).clamp(min=0).unsqueeze(0)).squeeze(0)
    high = line.gather(0, first.unsqueeze(0)).squeeze(0)
    for _ in range(30):
        half = (low + high) / 2
        out = quartic(half) >= 0
        low, high = torch.where(out, half, low), torch.where(out, high, half)
    near = high.masked_fill(~within.any(0) | (inside <= 0), torch.inf)
    at = middle + near.nan_to_num(posinf=0.0).unsqueeze(-1) * ray
    spine = torch.nn.functional.normalize(at[:, :2], dim=-1) * major
    return near, torch.nn.functional.normalize(at - torch.cat([spine, torch.zeros_like(at[:, :1])], -1), dim=-1)


INTERSECT = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
    "pyramid": _pyramid,
}
