"""Where objects start on a table: random layouts without overlaps, and the footprints of bodies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .tabletop_config import Array, Body, Box, Chain, TabletopConfig, Thing

GAP = 0.004  # between footprints at the start, at least [m]
BEND = 0.4  # of a joint at the start, at most [rad]
TRIES = 300  # to place an object before the layout is begun anew in a larger square


def layout_size(thing: Thing) -> int:
    """Numbers that place an object: (x, y, yaw), and a chain's joint angles after those of its first link."""
    return 3 if isinstance(thing, Box) else 2 + thing.links


def placed_bodies(thing: Thing, place: Array) -> Array:
    """Planar poses (links, 3) [m, m, rad] of an object's bodies at `place` (layout_size,)."""
    if isinstance(thing, Box):
        return place[None].copy()
    yaw = place[2] + np.concatenate(([0.0], np.cumsum(place[3:])))
    arm = thing.spacing / 2 * np.stack((np.cos(yaw), np.sin(yaw)), -1)
    middle = place[:2] + np.concatenate((np.zeros((1, 2)), np.cumsum(arm[:-1] + arm[1:], 0)))
    return np.concatenate((middle, yaw[:, None]), 1)


def rectangles(bodies: Sequence[Body], poses: Array) -> Array:
    """Footprints (K, 5): middle x, y [m], yaw [rad], half sizes [m] of upright prisms around bodies at poses (K, 7) [m, wxyz]."""
    w, x, y, z = poses[:, 3:].T
    yaw = np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
    c, s, zero, one = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    upright = np.stack((np.stack((c, s, zero), -1), np.stack((-s, c, zero), -1), np.stack((zero, zero, one), -1)), 1)
    half = np.abs(upright @ rotation_matrices(poses[:, 3:])) @ np.array([body.half_extents for body in bodies])[:, :, None]
    return np.concatenate((poses[:, :2], yaw[:, None], half[:, :2, 0]), 1)


def rotation_matrices(quaternions: Array) -> Array:
    """Rotation matrices (*B, 3, 3) of unit quaternions (*B, 4) wxyz."""
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def distances(footprints: Array, points: Array) -> Array:
    """Signed distances (..., K) [m] of points (..., 2) to rectangles (K, 5); negative inside."""
    away = points[..., None, :] - footprints[:, :2]
    c, s = np.cos(footprints[:, 2]), np.sin(footprints[:, 2])
    local = np.stack((c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]), -1)
    over = np.abs(local) - footprints[:, 3:]
    found: Array = np.linalg.norm(np.maximum(over, 0), axis=-1) + np.minimum(over.max(-1), 0)
    return found


def overlaps(first: Array, second: Array, gap: float = 0.0) -> NDArray[np.bool_]:
    """Which rectangles (n, 5) and (m, 5) come closer than about `gap` [m]: (n, m), by separating axes."""
    a, b = first[:, None], second[None]
    away = b[..., :2] - a[..., :2]
    free = np.zeros(away.shape[:-1], bool)
    for axis_of in (a, b):
        for quarter in (0.0, np.pi / 2):
            angle = axis_of[..., 2] + quarter
            reach = sum(box[..., 3] * np.abs(np.cos(angle - box[..., 2])) + box[..., 4] * np.abs(np.sin(angle - box[..., 2])) for box in (a, b))
            free |= np.abs(away[..., 0] * np.cos(angle) + away[..., 1] * np.sin(angle)) > reach + gap
    return ~free


def footprints_at(thing: Thing, place: Array) -> Array:
    """Rectangles (links, 5) of an object that lies flat at `place`."""
    poses = placed_bodies(thing, place)
    return np.concatenate((poses, np.broadcast_to(thing.half_extents[:2], (len(poses), 2))), 1)


def _own_overlap(prints: Array) -> bool:
    touching = overlaps(prints, prints, GAP)
    far = np.abs(np.subtract.outer(np.arange(len(prints)), np.arange(len(prints)))) > 1
    return bool((touching & far).any())


def _draw(thing: Thing, half: float, rng: np.random.Generator) -> Array:
    place = np.concatenate((rng.uniform(-half, half, 2), [rng.uniform(-np.pi, np.pi)]))
    if isinstance(thing, Chain):
        place = np.concatenate((place, rng.uniform(-BEND, BEND, thing.links - 1)))
        place[:2] += place[:2] - placed_bodies(thing, place)[:, :2].mean(0)  # its middle is what was drawn
    return place


def check_layout(config: TabletopConfig, layout: Sequence[Array]) -> None:
    """Refuse a layout that does not fit the objects.

    Raises:
        ValueError: on wrong shapes, places outside the workspace, or objects that overlap.
    """
    sizes = [layout_size(thing) for thing in config.objects]
    if [np.shape(place) for place in layout] != [(size,) for size in sizes] or not all(np.isfinite(place).all() for place in layout):
        raise ValueError(f"a layout has finite arrays of {sizes} numbers for the {len(sizes)} objects, got shapes {[np.shape(p) for p in layout]}.")
    prints = [footprints_at(thing, place) for thing, place in zip(config.objects, layout, strict=True)]
    for i, mine in enumerate(prints):
        if np.abs(mine[:, :2]).max() > config.workspace:
            raise ValueError(f"object {i} starts outside the workspace of +-{config.workspace} m; move it inwards.")
        for j in range(i):
            if overlaps(mine, prints[j]).any():
                raise ValueError(f"objects {j} and {i} overlap in this layout; move them apart.")


def random_layout(config: TabletopConfig, rng: np.random.Generator) -> list[Array]:
    """A place for each object in the middle half of the workspace, or more of it where they do not fit: none nearer than 4 mm to another.

    Raises:
        ValueError: if the objects do not fit in the workspace.
    """
    for share in (0.5, 0.6, 0.7, 0.8, 0.9):
        layout: list[Array] = []
        taken = np.zeros((0, 5))
        for thing in config.objects:
            place = _place_beside(thing, taken, share * config.workspace, config.workspace, rng)
            if place is None:
                break
            layout.append(place)
            taken = np.concatenate((taken, footprints_at(thing, place)))
        else:
            return layout
    raise ValueError(f"no layout of the {len(config.objects)} objects without overlaps was found; take a larger workspace or smaller objects.")


def _place_beside(thing: Thing, taken: Array, half: float, limit: float, rng: np.random.Generator) -> Array | None:
    for _ in range(TRIES):
        place = _draw(thing, half, rng)
        prints = footprints_at(thing, place)
        if np.abs(prints[:, :2]).max() <= 0.95 * limit and not overlaps(prints, taken, GAP).any() and not _own_overlap(prints):
            return place
    return None


def random_pusher(config: TabletopConfig, layout: Sequence[Array], rng: np.random.Generator) -> Array:
    """A pusher (2,) or (3,) [m, m(, rad)] 1 to 6 cm off the objects.

    Raises:
        ValueError: if there is no room for it.
    """
    prints = np.concatenate([footprints_at(thing, place) for thing, place in zip(config.objects, layout, strict=True)])
    for _ in range(20 * TRIES):
        place = rng.uniform(-config.workspace, config.workspace, 2)
        if 0.01 <= float(distances(prints, place).min()) - config.pusher_reach <= 0.06:
            return np.append(place, rng.uniform(-np.pi, np.pi)) if config.turns else place
    raise ValueError("no free place for the pusher near the objects was found; take a larger workspace or smaller objects.")
