"""Closed loops as animated inline SVG: sharp at any size, a few kilobytes each, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from .style import BLUE, GREEN, GREY, INK, SKY, VERMILLION

Array = NDArray[np.float64]
HOLD = 1.2  # seconds at rest before the animation starts again


@dataclass(frozen=True)
class ClosedLoop:
    """One run of a pusher that moves a slider to a goal."""

    outline: Array  # (V, 2) of the slider, body frame [m]
    pusher_radius: float  # [m]
    poses: Array  # (T+1, 3) of the slider [m, m, rad]
    pushers: Array  # (T+1, 2) [m]
    goal: Array  # (3,) [m, m, rad]
    dt: float  # between poses [s]
    reached: bool
    title: str = ""

    def __post_init__(self) -> None:
        steps = len(self.poses)
        if self.poses.shape != (steps, 3) or self.pushers.shape != (steps, 2) or np.shape(self.goal) != (3,):
            got = f"{self.poses.shape}, {self.pushers.shape} and {np.shape(self.goal)}"
            raise ValueError(f"ClosedLoop needs poses (T+1, 3), pushers (T+1, 2) and a goal (3,), got {got}.")

    def errors(self) -> tuple[Array, Array]:
        """Distance (T+1,) [m] and absolute wrapped yaw difference (T+1,) [rad] to the goal."""
        turn = (self.poses[:, 2] - self.goal[2] + np.pi) % (2 * np.pi) - np.pi
        return np.linalg.norm(self.poses[:, :2] - self.goal[:2], axis=-1), np.abs(turn)


def place(outline: Array, pose: Array) -> Array:
    """Outline points (V, 2) at a pose (3,), world frame."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    placed: Array = outline @ np.array([[c, s], [-s, c]]) + pose[:2]
    return placed


def window(loops: Sequence[ClosedLoop], *, margin: float = 0.012) -> list[tuple[float, float, float]]:
    """A square (x, y of its centre, side) [m] for each run, all with the same side, that holds slider, goal and pusher all the time."""
    boxes = []
    for loop in loops:
        corners = [place(loop.outline, pose) for pose in (*loop.poses[::3], loop.poses[-1], loop.goal)]
        points = np.concatenate([*corners, loop.pushers - loop.pusher_radius, loop.pushers + loop.pusher_radius])
        boxes.append((points.min(0) - margin, points.max(0) + margin))
    side = max(float((high - low).max()) for low, high in boxes)
    return [(float((low + high)[0] / 2), float((low + high)[1] / 2), side) for low, high in boxes]


def animate(loop: ClosedLoop, view: tuple[float, float, float]) -> str:
    """An inline SVG of a run in real time, again and again. World x right, y up; units of the drawing are millimetres.

    Args:
        loop: the run.
        view: square (x, y of its centre, side) [m] to show.
    """
    x, y, side = (1000 * value for value in view)
    hold = round(HOLD / loop.dt)
    poses, pushers = (np.concatenate([values, np.repeat(values[-1:], hold, 0)]) for values in (loop.poses, loop.pushers))
    timing = f'dur="{(len(poses) - 1) * loop.dt:.2f}s" repeatCount="indefinite"'
    yaw = np.degrees(np.unwrap(poses[:, 2]))
    arrived = (len(loop.poses) - 1) / (len(poses) - 1)
    end = GREEN if loop.reached else VERMILLION
    slider = _points(loop.outline)
    nose = 1000 * 0.9 * float(loop.outline[:, 0].max())
    front = f'<line x1="0" y1="0" x2="{nose:.1f}" y2="0" stroke="{INK}" stroke-width="1.6" stroke-linecap="round"/>'
    goal = f"translate({1000 * loop.goal[0]:.1f} {1000 * loop.goal[1]:.1f}) rotate({np.degrees(loop.goal[2]):.1f})"
    bar = f'x="{x - side / 2:.1f}" y="{side / 2 - y - 0.014 * side:.1f}" height="{0.014 * side:.1f}"'
    return (
        f'<svg viewBox="{x - side / 2:.1f} {-y - side / 2:.1f} {side:.1f} {side:.1f}" role="img" aria-label="{escape(loop.title, quote=True)}">'
        '<g transform="scale(1 -1)">'
        f'<polygon points="{_points(place(loop.outline, loop.poses[0]))}" fill="none" stroke="{GREY}" stroke-width="0.8"/>'
        f'<polyline points="{_points(loop.pushers)}" fill="none" stroke="{VERMILLION}" stroke-opacity="0.35" stroke-width="1.4"/>'
        f'<g><animateTransform attributeName="transform" type="translate" {timing} values="{_pairs(1000 * poses[:, :2])}"/>'
        f'<g><animateTransform attributeName="transform" type="rotate" {timing} values="{";".join(f"{angle:.1f}" for angle in yaw)}"/>'
        f'<polygon points="{slider}" fill="{SKY}" fill-opacity="0.75" stroke="{BLUE}" stroke-width="1.2">'
        f'<animate attributeName="fill" calcMode="discrete" {timing} keyTimes="0;{arrived:.4f}" values="{SKY};{end}"/></polygon>{front}</g></g>'
        f'<g transform="{goal}"><polygon points="{slider}" fill="none" stroke="{GREEN}" stroke-width="1.6" stroke-dasharray="4 3"/>'
        f'<line x1="0" y1="0" x2="{nose:.1f}" y2="0" stroke="{GREEN}" stroke-width="1.4" stroke-dasharray="4 3"/></g>'
        f'<circle r="{1000 * loop.pusher_radius:.1f}" fill="{VERMILLION}"><animateTransform attributeName="transform" type="translate" {timing} '
        f'values="{_pairs(1000 * pushers)}"/></circle></g>'
        f'<rect {bar} width="0" fill="{GREY}"><animate attributeName="width" {timing} keyTimes="0;{arrived:.4f};1" values="0;{side:.1f};{side:.1f}"/></rect>'
        "</svg>"
    )


def gallery(loops: Sequence[ClosedLoop]) -> str:
    """All runs beside each other at one scale, each with its title."""
    cells = (
        f'<figure class="loop">{animate(loop, view)}<figcaption>{escape(loop.title)}</figcaption></figure>'
        for loop, view in zip(loops, window(loops), strict=True)
    )
    return f'<div class="loops">{"".join(cells)}</div>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Colours (CSS) and what they mean, as one line."""
    keys = "".join(f'<span class="key" style="background:{escape(color, quote=True)}"></span>{escape(name)}' for color, name in entries)
    return f'<p class="small">{keys}</p>'


def _points(values: Array) -> str:
    """SVG points [mm] of (V, 2) [m]."""
    return " ".join(f"{1000 * px:.1f},{1000 * py:.1f}" for px, py in values)


def _pairs(values: Array) -> str:
    return ";".join(f"{px:.1f} {py:.1f}" for px, py in values)
