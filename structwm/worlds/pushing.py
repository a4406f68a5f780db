"""Planar pushing as a gymnasium environment, independent of the engine that moves the bodies, and the recorder of straight pushes.

A convex prism (the slider) stands on a plane; a round vertical pusher, driven at commanded velocities and never dragged by the load, pushes its side. World
frame right-handed, z up, origin in the middle of the workspace; body frame that of the outline. Whoever plans here sees observations only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from structwm.geometry.outline import boundary_point, convex_outline, moments, rectangle, signed_distance

Array = NDArray[np.float64]
Observation = dict[str, Array]


@dataclass(frozen=True)
class PushingConfig:
    """What a pushing world is made of. Everything in SI units.

    Raises:
        ValueError: in one sentence, for an outline that is not convex and counter-clockwise or a value out of its range.
    """

    outline: ArrayLike = tuple(map(tuple, rectangle(0.10, 0.06).tolist()))  # (V, 2) convex, counter-clockwise [m], body frame; kept as tuples
    height: float = 0.02  # of the prism [m]; the pusher touches at half of it, so a tall narrow slider tips over
    mass: float = 0.5  # [kg]; hardly changes slow motion, heavier loads the pusher more
    friction: float = 0.35  # Coulomb coefficient slider-plane; larger stops the slider sooner
    pusher_friction: float = 0.25  # Coulomb coefficient pusher-slider; larger makes the contact stick over a wider range of directions
    pusher_radius: float = 0.005  # [m]
    center_of_mass: tuple[float, float] = (0.0, 0.0)  # in the body frame [m]; pressure, and with it the centre of friction, follows it
    dt: float = 0.1  # control period [s]
    latency: int = 0  # control steps by which commands are delayed; the queue starts with zero velocity
    max_speed: float = 0.1  # bound of each component of the action [m/s]
    observation_noise: tuple[float, float] = (0.0, 0.0)  # std of the observed position [m] (per axis) and yaw [rad] of the object
    workspace: float = 0.5  # half-size of the square [m]; the pusher is clipped to it, the episode ends when the object leaves it

    def __post_init__(self) -> None:
        vertices = convex_outline(self.outline)
        object.__setattr__(self, "outline", tuple(map(tuple, vertices.tolist())))
        object.__setattr__(self, "center_of_mass", tuple(np.asarray(self.center_of_mass, dtype=np.float64).tolist()))
        object.__setattr__(self, "observation_noise", tuple(np.asarray(self.observation_noise, dtype=np.float64).tolist()))
        for name in ("height", "mass", "pusher_radius", "dt", "max_speed", "workspace"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"PushingConfig needs {name} > 0, got {value}.")
        for name in ("friction", "pusher_friction"):
            value = getattr(self, name)
            if not 0 <= value <= 2:
                raise ValueError(f"PushingConfig needs {name} in [0, 2], got {value}.")
        if self.latency != int(self.latency) or self.latency < 0:
            raise ValueError(f"PushingConfig needs latency as a whole number of control steps >= 0, got {self.latency}.")
        object.__setattr__(self, "latency", int(self.latency))
        if len(self.observation_noise) != 2 or not all(np.isfinite(s) and s >= 0 for s in self.observation_noise):
            raise ValueError(f"PushingConfig needs observation_noise as two stds >= 0 ([m], [rad]), got {self.observation_noise}.")
        if len(self.center_of_mass) != 2 or not signed_distance(vertices, self.center_of_mass) < 0:
            raise ValueError(f"PushingConfig needs center_of_mass (2,) [m] inside the outline, got {self.center_of_mass}.")
        if 2 * self.reach > self.workspace:
            raise ValueError(f"PushingConfig needs a workspace of at least twice the slider's reach of {self.reach:.3f} m, got {self.workspace} m.")

    @property
    def vertices(self) -> Array:
        """The outline as an array (V, 2) [m], body frame."""
        return np.array(self.outline, dtype=np.float64)

    @property
    def reach(self) -> float:
        """Distance of the farthest vertex from the body origin [m]."""
        return float(np.linalg.norm(self.vertices, axis=-1).max())

    @property
    def inertia(self) -> Array:
        """Moments of inertia (3,) [kg m^2] of the uniform prism about body axes through its centroid; the product, felt only in rocking, is left out."""
        _, _, covariance = moments(self.vertices)
        xx, yy, zz = covariance[0, 0], covariance[1, 1], self.height**2 / 12
        return self.mass * np.array([yy + zz, xx + zz, xx + yy])


class PlanarPushing(gymnasium.Env[Observation, Array], ABC):
    """A pusher and a slider on a plane.

    Observation: `object_pose` (3,) [x m, y m, yaw rad in (-pi, pi]] of the body frame, `pusher` (2,) [m], `time` () [s], all float64 in the world frame.
    Action: velocity of the pusher (2,) [m/s], world frame, held for one control period `dt`; refused when not finite or beyond `max_speed`. The pusher moves
    exactly as commanded, `latency` steps late, clipped to the workspace. The reward is 0. An episode terminates when the slider tips over or leaves the
    workspace (`info["reason"]`) and is never truncated: time limits are the caller's. `info["object_pose"]` is the pose without observation noise, for judges.

    `reset(options={"object_pose": (3,), "pusher": (2,)})` places both; what is not given is drawn at random, the pusher near the slider. The slider settles on
    the plane first.

    Args:
        config: the world; the default world when omitted.
        render_mode: `"rgb_array"` for `render()`, a top view (320, 320, 3) uint8 of the workspace.
        fields: fields of `PushingConfig` that differ from `config`.

    Raises:
        ValueError: in one sentence, for a bad field, a start where pusher and slider overlap, or a bad action.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012, as gymnasium declares it
    image_size: ClassVar[int] = 320  # [pixels]
    tilt_limit: ClassVar[float] = np.pi / 6  # a slider tilted further has tipped over [rad]

    def __init__(self, *, config: PushingConfig | None = None, render_mode: str | None = None, **fields: Any) -> None:
        self.config = replace(config or PushingConfig(), **fields)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is None or 'rgb_array', got {render_mode!r}.")
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": max(1, round(1 / self.config.dt))}
        size, speed = self.config.workspace, self.config.max_speed
        pose = np.array([np.inf, np.inf, np.pi])
        self.observation_space: spaces.Dict = spaces.Dict(  # type: ignore[assignment]
            object_pose=spaces.Box(-pose, pose, dtype=np.float64),
            pusher=spaces.Box(-size, size, (2,), np.float64),
            time=spaces.Box(0.0, np.inf, (), np.float64),
        )
        self.action_space = spaces.Box(-speed, speed, (2,), np.float64)
        self._pusher = np.zeros(2)
        self._queue: deque[Array] = deque()
        self._steps = -1  # control steps since reset, -1 before the first

    # What an engine provides.

    @abstractmethod
    def _place(self, object_pose: Array, pusher: Array) -> None:
        """Puts the slider at a pose (3,) and the pusher at (2,), at rest, settled on the plane, with no trace of what was before."""

    @abstractmethod
    def _advance(self, velocity: Array) -> None:
        """One control period with the pusher at a constant velocity (2,) [m/s] from `self._pusher`."""

    @abstractmethod
    def _slider(self) -> tuple[Array, Array]:
        """Position (3,) [m] of the body frame's origin, in the base of the slider, and its rotation matrix (3, 3), world from body."""

    @abstractmethod
    def _image(self) -> NDArray[np.uint8]:
        """A top view (image_size, image_size, 3) of the workspace, x right, y up."""

    # gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        object_pose, pusher = self._start(options or {})
        self._pusher = pusher.copy()
        self._queue = deque(np.zeros(2) for _ in range(self.config.latency))
        self._steps = 0
        self._place(object_pose, pusher)
        return self._observe(), self._info()

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._steps < 0:
            raise RuntimeError("step needs an episode; call reset() first.")
        self._queue.append(self._checked(action))
        target = self._pusher + self._queue.popleft() * self.config.dt
        target = np.clip(target, -self.config.workspace, self.config.workspace)
        self._advance((target - self._pusher) / self.config.dt)
        self._pusher = target
        self._steps += 1
        info = self._info()
        return self._observe(), 0.0, "reason" in info, False, info

    def render(self) -> NDArray[np.uint8] | None:
        if self.render_mode is None:
            return None
        if self._steps < 0:
            raise RuntimeError("render needs an episode; call reset() first.")
        return self._image()

    def _pose(self) -> Array:
        position, rotation = self._slider()
        return np.array([position[0], position[1], np.arctan2(rotation[1, 0], rotation[0, 0])])

    def _observe(self) -> Observation:
        noise = self.np_random.normal(size=3) * np.array(self.config.observation_noise)[[0, 0, 1]]
        pose = self._pose() + noise
        pose[2] = wrap_angle(pose[2])
        return {"object_pose": pose, "pusher": self._pusher.copy(), "time": np.array(self._steps * self.config.dt)}

    def _info(self) -> dict[str, Any]:
        position, rotation = self._slider()
        info: dict[str, Any] = {"object_pose": self._pose()}
        if rotation[2, 2] < np.cos(self.tilt_limit):
            info["reason"] = "the slider tipped over"
        elif np.abs(position[:2]).max() > self.config.workspace:
            info["reason"] = "the slider left the workspace"
        return info

    def _checked(self, action: ArrayLike) -> Array:
        velocity = np.array(action, dtype=np.float64)
        limit = self.config.max_speed
        if velocity.shape != (2,):
            raise ValueError(f"an action is a velocity of shape (2,) [m/s], got shape {velocity.shape}.")
        if not (np.abs(velocity) <= limit * (1 + 1e-6)).all():  # also refuses NaN; the margin lets float32 bounds pass
            raise ValueError(f"an action is a finite velocity within +-{limit} m/s per axis, got {velocity.tolist()}.")
        return np.clip(velocity, -limit, limit)

    def _start(self, options: dict[str, Any]) -> tuple[Array, Array]:
        unknown = sorted(set(options) - {"object_pose", "pusher"})
        if unknown:
            raise ValueError(f"reset options are object_pose and pusher, got {', '.join(unknown)}.")
        given = {name: np.array(value, dtype=np.float64) for name, value in options.items()}
        for name, size in (("object_pose", 3), ("pusher", 2)):
            value = given.get(name)
            if value is not None and (value.shape != (size,) or not (np.abs(value[:2]) <= self.config.workspace).all() or not np.isfinite(value).all()):
                raise ValueError(f"reset option {name} has shape ({size},), finite and within the workspace, got {value.tolist()}.")
        for _ in range(1000):
            object_pose = given["object_pose"] if "object_pose" in given else random_pose(self.config, self.np_random)
            pusher = given["pusher"] if "pusher" in given else random_start(self.config, object_pose, self.np_random, gap=(0.005, 0.05))[0]
            clear = pusher_clearance(self.config, object_pose, pusher)
            if clear >= 0 and np.abs(pusher).max() <= self.config.workspace:
                object_pose[2] = wrap_angle(object_pose[2])
                return object_pose, pusher
            if len(given) == 2:
                break
        raise ValueError(f"pusher and slider overlap at the start by {-1e3 * clear:.2f} mm; move the pusher away from object_pose {object_pose.tolist()}.")


def wrap_angle(angle: float) -> float:
    """The angle in (-pi, pi] [rad]."""
    return float(angle if -np.pi < angle <= np.pi else np.pi - (np.pi - angle) % (2 * np.pi))


def place_points(pose: Array, points: Array) -> Array:
    """Points (..., 2) of the body frame in the world frame, for a pose (3,)."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    placed: Array = pose[:2] + points @ np.array([[c, s], [-s, c]])
    return placed


def pusher_clearance(config: PushingConfig, object_pose: Array, pusher: Array) -> float:
    """Gap between the surfaces of pusher and slider [m], negative where they overlap."""
    return float(signed_distance(place_points(object_pose, config.vertices), pusher)) - config.pusher_radius


def random_pose(config: PushingConfig, rng: np.random.Generator) -> Array:
    """A pose (3,) in the middle quarter of the workspace, any yaw."""
    return np.append(rng.uniform(-config.workspace / 2, config.workspace / 2, 2), rng.uniform(-np.pi, np.pi))


def random_start(config: PushingConfig, object_pose: Array, rng: np.random.Generator, *, gap: tuple[float, float]) -> tuple[Array, Array]:
    """A pusher position (2,) off a uniform point of the outline by a gap from the range [m], and the inward normal (2,) there, world frame."""
    point, normal = boundary_point(config.vertices, rng.uniform())
    turned = place_points(np.append(np.zeros(2), object_pose[2]), normal)
    return place_points(object_pose, point) + (config.pusher_radius + rng.uniform(*gap)) * turned, -turned


@dataclass(frozen=True)
class Pushes:
    """n straight pushes of T control steps as plain arrays; poses [m, m, rad], world frame."""

    init_pose: Array  # (n, 3) of the object
    final_pose: Array  # (n, 3), at rest; yaw continues from init_pose and may leave (-pi, pi]
    init_tip: Array  # (n, 2) centre of the pusher [m]
    final_tip: Array  # (n, 2)
    object_pose: Array  # (n, T+1, 3); yaw without jumps
    pusher: Array  # (n, T+1, 2)
    actions: Array  # (n, T, 2) [m/s]

    def __len__(self) -> int:
        return len(self.actions)


def record_pushes(
    env: gymnasium.Env[Any, Any],
    n: int,
    *,
    seed: int,
    length: tuple[float, float] = (0.02, 0.06),
    gap: tuple[float, float] = (0.001, 0.004),
    steps: int = 12,
    max_angle: float = np.pi / 3,
) -> Pushes:
    """Pushes the slider of a pushing world n times, straight and at constant speed, each from a fresh random pose.

    A push starts with the pusher `gap` away from a uniform point of the outline and heads for a random point in the inner half of the slider, so it hardly ever
    misses. It moves for `steps` control steps; the world's latency and one step of rest follow, so T = steps + latency + 1. Poses are those observed.

    Args:
        seed: the same seed and world give the same pushes.
        length: range of the pusher's travel [m], the gap included.
        gap: range of the free way before contact [m].
        steps: control steps of motion; the speed is length / (steps dt).
        max_angle: between direction and inward normal [rad]; larger gives more glancing pushes.

    Raises:
        ValueError: if the longest push asks for more than the world's `max_speed`.
    """
    config: PushingConfig = env.unwrapped.config  # type: ignore[attr-defined]
    if length[1] > config.max_speed * steps * config.dt:
        speed = length[1] / (steps * config.dt)
        raise ValueError(f"the longest push asks for {speed:.3f} m/s and the world allows {config.max_speed} m/s; take more steps or shorter pushes.")
    rng = np.random.default_rng(seed)
    total = steps + config.latency + 1
    object_pose, pusher, actions = np.empty((n, total + 1, 3)), np.empty((n, total + 1, 2)), np.zeros((n, total, 2))
    for i in range(n):
        pose, start, direction = _aim(config, rng, gap=gap, max_angle=max_angle)
        actions[i, :steps] = direction * rng.uniform(*length) / (steps * config.dt)
        observation, _ = env.reset(seed=int(rng.integers(2**31)), options={"object_pose": pose, "pusher": start})
        for t in range(total + 1):
            object_pose[i, t], pusher[i, t] = observation["object_pose"], observation["pusher"]
            if t < total:
                observation, _, ended, _, info = env.step(actions[i, t])
                if ended:
                    raise ValueError(f"push {i} ended early because {info['reason']}; take a larger workspace or a lower slider.")
    object_pose[..., 2] = np.unwrap(object_pose[..., 2], axis=1)
    return Pushes(object_pose[:, 0].copy(), object_pose[:, -1].copy(), pusher[:, 0].copy(), pusher[:, -1].copy(), object_pose, pusher, actions)


def _aim(config: PushingConfig, rng: np.random.Generator, *, gap: tuple[float, float], max_angle: float) -> tuple[Array, Array, Array]:
    """Pose (3,), start (2,) and unit direction (2,) of a push: from off the outline towards the inner half, clear of the slider and within the angle."""
    center = np.array(config.center_of_mass)
    for _ in range(10_000):
        pose = random_pose(config, rng)
        start, inward = random_start(config, pose, rng, gap=gap)
        corners = rng.dirichlet(np.ones(len(config.vertices)))
        direction = place_points(pose, center + 0.5 * (corners @ config.vertices - center)) - start
        direction /= np.linalg.norm(direction)
        clear = pusher_clearance(config, pose, start) >= 0 and np.abs(start).max() <= config.workspace
        if clear and direction @ inward >= np.cos(max_angle):
            return pose, start, direction
    raise ValueError(f"no push starts inside the workspace within {max_angle:.2f} rad of the inward normal; allow a larger max_angle.")
