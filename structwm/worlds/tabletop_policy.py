"""Random but purposeful pushes on a table with objects, for recordings: it reads the true poses, as no planner may."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np

from .tabletop_config import Array, PlatePusher, TabletopConfig
from .tabletop_layout import distances, rectangles

CELL = 0.01  # of the grid on which ways around objects are found [m]
MARGIN = 0.006  # between pusher and objects on the way, where there is room [m]
NEAR = 0.004  # from the object where a push begins [m]
CANDIDATES = 24  # pushes that are drawn, of which one is taken
SOON = 0.15  # by which a push that begins later is e times less likely to be taken [s]
IN_A_ROW = 0.3  # share of pushes that aim through one object at another
CROSSING = 40.0  # cost of a cell in which something would be touched


@dataclass(frozen=True)
class _Leg:
    place: Array  # (2,) where to [m]
    speed: float  # [m/s]
    yaw: float | None = None  # to which a plate turns, modulo a half turn [rad]
    turned: bool = True  # whether the leg ends only when it has


class PushPolicy:
    """Aims at a random object, pushes it for 5 to 15 cm at 4 to 12 cm/s, sometimes into another, and goes around to the next push without touching anything
    where there is a way. A plate is turned across the push first.

    Args:
        rng: where all draws come from.
        length: of the pushes, from contact on [m].
        speed: of the pushes [m/s].
    """

    def __init__(self, rng: np.random.Generator, *, length: tuple[float, float] = (0.05, 0.15), speed: tuple[float, float] = (0.04, 0.12)) -> None:
        self._rng, self._length, self._speed = rng, length, speed
        self._legs: list[_Leg] = []

    def act(self, config: TabletopConfig, poses: Array, pusher: Array) -> Array:
        """The velocity (2,) or (3,) [m/s(, rad/s)] for one control period.

        Args:
            config: the world's.
            poses: (K, 7) of all bodies [m, wxyz].
            pusher: its configuration as observed, (3,) or (4,) [m(, rad)].
        """
        while self._legs and np.linalg.norm(self._legs[0].place - pusher[:2]) < 1e-6 and _turn_left(self._legs[0], pusher) < 1e-3:
            self._legs.pop(0)
        if not self._legs:
            self._legs = self._plan(config, poses, pusher)
        leg = self._legs[0]
        away = leg.place - pusher[:2]
        velocity = away / config.dt
        velocity *= min(1.0, leg.speed / max(1e-9, float(np.linalg.norm(velocity))))
        if not config.turns:
            return velocity
        turn = 0.0 if leg.yaw is None else np.clip(_wrapped(leg.yaw - pusher[3]) / config.dt, -config.max_turn, config.max_turn)
        return np.append(velocity, turn)

    def _plan(self, config: TabletopConfig, poses: Array, pusher: Array) -> list[_Leg]:
        prints = rectangles(config.bodies, poses)
        drawn = [push for _ in range(CANDIDATES) if (push := self._draw(config, prints)) is not None]
        if not drawn:  # everything is walled in: through the middle
            return [_Leg(self._rng.uniform(-0.5, 0.5, 2) * config.workspace, self._speed[1])]
        fast = min(config.max_speed, 0.3)
        yaws = [math.atan2(end[1] - contact[1], end[0] - contact[0]) + math.pi / 2 if config.turns else None for _, contact, end in drawn]
        away = [float(np.linalg.norm(start - pusher[:2])) / fast for start, _, _ in drawn]
        turn = [0.0 if yaw is None else abs(_wrapped(yaw - pusher[3])) / config.max_turn for yaw in yaws]
        wait = np.maximum(away, turn)
        chance = np.exp(-(wait - wait.min()) / SOON)
        chosen = int(self._rng.choice(len(drawn), p=chance / chance.sum()))
        (start, contact, end), yaw = drawn[chosen], yaws[chosen]
        way = way_around(config, prints, pusher[:2], start)
        legs = [_Leg(place, fast, yaw, place is way[-1]) for place in way]
        return [*legs, _Leg(contact, fast, yaw), _Leg(end, min(config.max_speed, self._rng.uniform(*self._speed)), yaw)]

    def _draw(self, config: TabletopConfig, prints: Array) -> tuple[Array, Array, Array] | None:
        """Where a push starts, free of everything, where it is about to touch, and where it ends, (2,) each; None if that is not possible."""
        rng, ids = self._rng, np.array([body.object_id for body in config.bodies])
        target = rng.integers(len(config.objects))
        body = rng.choice(np.flatnonzero(ids == target))
        others = np.flatnonzero(ids != target)
        angle = rng.uniform(-np.pi, np.pi)
        if len(others) and rng.uniform() < IN_A_ROW:
            angle = np.arctan2(*(prints[rng.choice(others), :2] - prints[body, :2])[::-1])
        ahead = np.array([math.cos(angle), math.sin(angle)])
        aside = np.array([-ahead[1], ahead[0]])
        aim = prints[body, :2] + 0.6 * rng.uniform(-1, 1) * prints[body, 3:].min() * aside
        front = config.pusher.half_thickness if isinstance(config.pusher, PlatePusher) else config.pusher.radius
        back = aim - np.arange(0.0, 0.15, 0.002)[:, None] * ahead
        gaps = distances(prints[ids == target], back).min(-1)
        free = np.flatnonzero(gaps >= front + NEAR)
        clear = np.flatnonzero(distances(prints, back).min(-1) >= config.pusher_reach + NEAR)
        if not len(free) or not len(clear[clear >= free[0]]):
            return None
        contact, start = back[free[0]], back[clear[clear >= free[0]][0]]
        end = contact + (NEAR + rng.uniform(*self._length)) * ahead
        inside = np.abs(start).max() <= config.workspace and np.abs(end).max() <= 0.8 * config.workspace
        return (start, contact, end) if inside else None


def push_policy(rng: np.random.Generator) -> PushPolicy:
    """The policy of `record_tabletop`: `PushPolicy` with lengths and speeds as they are."""
    return PushPolicy(rng)


def _wrapped(angle: float) -> float:
    """Modulo a half turn, nearest to 0 [rad]: a plate looks the same from behind."""
    return (angle + math.pi / 2) % math.pi - math.pi / 2


def _turn_left(leg: _Leg, pusher: Array) -> float:
    return abs(_wrapped(leg.yaw - pusher[3])) if leg.turned and leg.yaw is not None else 0.0


def way_around(config: TabletopConfig, prints: Array, start: Array, goal: Array) -> list[Array]:
    """Places (2,) [m] after `start`, the last of them `goal`, between which the pusher goes straight without touching footprints (K, 5) where that is possible.

    A* on a grid whose cells too near to something cost `CROSSING` times as much, then straightened.
    """
    need = config.pusher_reach + MARGIN

    def blocked(first: Array, second: Array) -> bool:
        between = first + np.linspace(0, 1, 2 + int(np.linalg.norm(second - first) / (CELL / 2)))[:, None] * (second - first)
        gap = distances(prints, between).min(-1)
        return bool((gap < min(need, gap[0], gap[-1]) - 1e-9).any())

    if not blocked(start, goal):
        return [goal]
    side = math.ceil(config.workspace / CELL)
    axis = np.clip(np.arange(-side, side + 1) * CELL, -config.workspace, config.workspace)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    cost = np.where(distances(prints, grid).min(-1) >= need, 1.0, CROSSING)
    cells = _cheapest(cost, _cell(start, side), _cell(goal, side))
    places = [start, *(grid[cell] for cell in cells[1:-1]), goal]
    way, here = [], 0
    while here < len(places) - 1:
        ahead = next((k for k in range(len(places) - 1, here + 1, -1) if not blocked(places[here], places[k])), here + 1)
        way.append(places[ahead])
        here = ahead
    return way


def _cell(place: Array, side: int) -> tuple[int, int]:
    x, y = np.clip(np.round(place / CELL).astype(int) + side, 0, 2 * side).tolist()
    return x, y


def _cheapest(cost: Array, start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]]:
    """A* over the eight neighbours; the cells from start to goal."""
    price = cost.tolist()
    moves = [(i, j, math.hypot(i, j)) for i, j in itertools.product((-1, 0, 1), repeat=2) if (i, j) != (0, 0)]
    best, before = {start: 0.0}, {start: start}
    queue, done, size = [(0.0, start)], set(), len(price)
    while queue:
        _, cell = heapq.heappop(queue)
        if cell == goal:
            break
        if cell in done:
            continue
        done.add(cell)
        for i, j, far in moves:
            x, y = cell[0] + i, cell[1] + j
            if 0 <= x < size and 0 <= y < size:
                total = best[cell] + far * price[x][y]
                if total < best.get((x, y), math.inf):
                    best[x, y], before[x, y] = total, cell
                    heapq.heappush(queue, (total + math.hypot(goal[0] - x, goal[1] - y), (x, y)))
    cells = [goal]
    while cells[-1] != start:
        cells.append(before[cells[-1]])
    return cells[::-1]
