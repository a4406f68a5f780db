"""A table with several objects and a pusher as a gymnasium environment, independent of the engine that moves the bodies.

World frame right-handed, z up, the table at z = 0, origin in the middle of the workspace. Whoever plans here sees observations only; what an engine knows
beyond them comes from `truth`, `truth_points`, `surface_points`, `snapshot` and `restore`, for recordings and judges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from structwm.geometry.camera import Camera

from .tabletop_config import Array, PlatePusher, TabletopConfig
from .tabletop_layout import check_layout, distances, footprints_at, overlaps, random_layout, random_pusher
from .tabletop_views import MaterialPoints, draw_points, look_around, pooled

Observation = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TableTruth:
    """The K rigid bodies of an instant, links counted, object by object."""

    poses: Array  # (K, 7) of their middles, world frame [m, wxyz]
    object_ids: NDArray[np.int64]  # (K,)


@dataclass(frozen=True)
class TableSnapshot:
    """All that a world's future depends on; only the world that made it can restore it."""

    engine: Any
    pusher: Array
    steps: int


class Tabletop(gymnasium.Env[Observation, Array], ABC):
    """Objects on a table and a pusher that moves exactly as commanded and is never dragged by the load.

    Observation: `pusher` (3,) [m] the middle of the pusher, or (4,) [m, rad] with a plate's yaw, which has no jumps; `time` () [s]; and where images are asked
    for `rgb` (V, height, width, 3) uint8 and `depth` (V, height, width) float32 [m] along the optical axis of `cameras`, NaN where there is nothing or beyond
    `far` (no gymnasium space contains NaN). Each object has a colour of its own, table and pusher have others.
    Action: velocity (2,) [m/s] of the pusher in the world frame, for a plate (3,) with its yaw rate [rad/s], held for one control period `dt`; refused when not
    finite or out of bounds. The pusher is clipped to the workspace. The reward is 0. An episode terminates when an object has left the workspace
    (`info["reason"]`; its motion stays right up to the edge of the table, which is twice as wide) and is never truncated.

    `reset(options={"layout": [...], "pusher": (2,) or (3,)})` places objects and pusher: for each object (x, y, yaw) [m, m, rad], for a chain those of its
    first link and then its joint angles. What is not given is drawn at random, without overlaps. Objects settle on the table first.

    Args:
        config: the world; the default world when omitted.
        images: whether observations have `rgb` and `depth`.
        fields: fields of `TabletopConfig` that differ from `config`.

    Raises:
        ValueError: in one sentence, for a bad field, a start where bodies overlap, or a bad action.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, as gymnasium declares it

    def __init__(self, *, config: TabletopConfig | None = None, images: bool = False, **fields: Any) -> None:
        self.config = replace(config or TabletopConfig(), **fields)
        self.images = images
        self.cameras: Camera = look_around(self.config)
        self._eyes = self.cameras.scaled(self.config.antialias)  # what the engine draws
        size, height, axes = self.config.workspace, self.config.pusher_height, 3 if self.config.turns else 2
        reach = np.array([size, size, height, np.inf][: axes + 1])
        seen = (self.config.cameras, self.config.height, self.config.width)
        entries: dict[str, spaces.Space[Any]] = {"pusher": spaces.Box(-reach, reach, dtype=np.float64), "time": spaces.Box(0.0, np.inf, (), np.float64)}
        if images:
            entries |= {"rgb": spaces.Box(0, 255, (*seen, 3), np.uint8), "depth": spaces.Box(0.0, np.inf, seen, np.float32)}
        self.observation_space: spaces.Dict = spaces.Dict(entries)  # type: ignore[assignment]
        bound = np.array([self.config.max_speed, self.config.max_speed, self.config.max_turn][:axes])
        self.action_space = spaces.Box(-bound, bound, dtype=np.float64)
        self._pusher = np.zeros(axes)  # x, y(, yaw)
        self._steps = -1  # control steps since reset, -1 before the first

    # What an engine provides.

    @abstractmethod
    def _place(self, layout: list[Array], pusher: Array) -> None:
        """Puts objects (`check_layout`) and the pusher (2,) or (3,) at rest, settled, with no trace of what was before."""

    @abstractmethod
    def _advance(self, velocity: Array) -> None:
        """One control period with the pusher at a constant velocity (2,) or (3,) from `self._pusher`."""

    @abstractmethod
    def _poses(self) -> Array:
        """Poses (K, 7) [m, wxyz] of the middles of all bodies."""

    @abstractmethod
    def _look(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """RGB and depth as in the observation, of `self._eyes`."""

    @abstractmethod
    def _save(self) -> Any:
        """The engine's whole state."""

    @abstractmethod
    def _load(self, state: Any) -> None:
        """Back to what `_save` gave."""

    # gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        layout, pusher = self._start(options or {})
        self._pusher, self._steps = pusher, 0
        self._place(layout, pusher)
        return self._observe(), self._info()

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._steps < 0:
            raise RuntimeError("step needs an episode; call reset() first.")
        target = self._pusher + self._checked(action) * self.config.dt
        target[:2] = np.clip(target[:2], -self.config.workspace, self.config.workspace)
        self._advance((target - self._pusher) / self.config.dt)
        self._pusher = target
        self._steps += 1
        info = self._info()
        return self._observe(), 0.0, "reason" in info, False, info

    # The truth: never for planners.

    def truth(self) -> TableTruth:
        """Where all bodies are."""
        return TableTruth(self._poses(), np.array([body.object_id for body in self.config.bodies], np.int64))

    def surface_points(self, count_per_object: int, seed: int = 0) -> MaterialPoints:
        """Material points drawn evenly over the surfaces of the objects; the same for the same seed, whatever the motion.

        Raises:
            ValueError: on less than one point for each link.
        """
        return draw_points(self.config, count_per_object, seed)

    def truth_points(self, points: MaterialPoints) -> Array:
        """Where material points of `surface_points` are now, (N, 3) [m]."""
        return points.at(self._poses())

    def snapshot(self) -> TableSnapshot:
        """The state of this world, for planners that use the simulator as their model."""
        if self._steps < 0:
            raise RuntimeError("snapshot needs an episode; call reset() first.")
        return TableSnapshot(self._save(), self._pusher.copy(), self._steps)

    def restore(self, state: TableSnapshot) -> None:
        """Back to a snapshot of this world in this episode; what follows is as it was, bit for bit."""
        self._load(state.engine)
        self._pusher, self._steps = state.pusher.copy(), state.steps

    # What both engines share.

    @property
    def pusher(self) -> Array:
        """The pusher's configuration as observed."""
        return np.concatenate((self._pusher[:2], [self.config.pusher_height], self._pusher[2:]))

    def _observe(self) -> Observation:
        seen: Observation = {"pusher": self.pusher, "time": np.array(self._steps * self.config.dt)}
        if self.images:
            seen["rgb"], seen["depth"] = pooled(*self._look(), self.config.antialias)
        return seen

    def _info(self) -> dict[str, Any]:
        places = self._poses()[:, :3]
        if np.abs(places[:, :2]).max() > self.config.workspace or places[:, 2].min() < 0:
            return {"reason": "an object left the workspace"}
        return {}

    def _checked(self, action: ArrayLike) -> Array:
        velocity = np.array(action, dtype=np.float64)
        limit = self.action_space.high  # type: ignore[attr-defined]
        if velocity.shape != limit.shape:
            raise ValueError(f"an action is a velocity of shape {limit.shape} [m/s(, rad/s)], got shape {velocity.shape}.")
        if not (np.abs(velocity) <= limit * (1 + 1e-6)).all():  # also refuses NaN; the margin lets float32 bounds pass
            raise ValueError(f"an action is a finite velocity within +-{limit.tolist()}, got {velocity.tolist()}.")
        return np.clip(velocity, -limit, limit)

    def _start(self, options: dict[str, Any]) -> tuple[list[Array], Array]:
        unknown = sorted(set(options) - {"layout", "pusher"})
        if unknown:
            raise ValueError(f"reset options are layout and pusher, got {', '.join(unknown)}.")
        if "layout" in options:
            layout = [np.array(place, dtype=np.float64) for place in options["layout"]]
            check_layout(self.config, layout)
        else:
            layout = random_layout(self.config, self.np_random)
        if "pusher" not in options:
            return layout, random_pusher(self.config, layout, self.np_random)
        pusher = np.array(options["pusher"], dtype=np.float64)
        if pusher.shape != self._pusher.shape or not np.isfinite(pusher).all() or np.abs(pusher[:2]).max() > self.config.workspace:
            raise ValueError(f"reset option pusher has shape {self._pusher.shape}, finite and within the workspace, got {pusher.tolist()}.")
        self._check_pusher(layout, pusher)
        return layout, pusher

    def _check_pusher(self, layout: list[Array], pusher: Array) -> None:
        prints = np.concatenate([footprints_at(thing, place) for thing, place in zip(self.config.objects, layout, strict=True)])
        shape = self.config.pusher
        if isinstance(shape, PlatePusher):
            touching = bool(overlaps(np.array([[*pusher, shape.half_width, shape.half_thickness]]), prints).any())
        else:
            touching = float(distances(prints, pusher).min()) < shape.radius
        if touching:
            raise ValueError(f"pusher and objects overlap at the start; move the pusher away from {pusher.tolist()}.")


_ENGINES = {"bullet": ("pybullet", "bullet_tabletop", "BulletTabletop"), "mujoco": ("mujoco", "mujoco_tabletop", "MujocoTabletop")}


def make_tabletop(engine: str, *, config: TabletopConfig | None = None, images: bool = False, **fields: Any) -> Tabletop:
    """A table in an engine, `"bullet"` or `"mujoco"`; arguments as those of `Tabletop`.

    Raises:
        ValueError: for an unknown engine, or as `TabletopConfig`.
        ImportError: if the engine is not installed.
    """
    if engine not in _ENGINES:
        raise ValueError(f"tables are made in {' or '.join(map(repr, _ENGINES))}, got {engine!r}.")
    package, module, name = _ENGINES[engine]
    try:
        world: type[Tabletop] = getattr(import_module(f".{module}", __package__), name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"the {engine} table needs {package}, which is not installed; run `pip install {package}`.", name=package) from error
    return world(config=config, images=images, **fields)
