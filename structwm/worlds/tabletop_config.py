"""What a table with several objects and a pusher is made of, independent of the engine that moves them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sizes = tuple[float, float, float]

CLEARANCE = 0.002  # between pusher and table [m]


def _positive(what: str, **values: float) -> None:
    for name, value in values.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ValueError(f"{what} needs a finite {name} > 0, got {value}.")


def _check_thing(what: str, half_extents: Sizes, mass: float, friction: float) -> None:
    if len(half_extents) != 3:
        raise ValueError(f"{what} needs three half_extents [m], got {len(half_extents)}.")
    for value in half_extents:
        _positive(what, half_extents=value)
    _positive(what, mass=mass)
    if not 0 <= friction <= 2:
        raise ValueError(f"{what} needs friction in [0, 2], got {friction}.")


@dataclass(frozen=True)
class Box:
    """A box; it stands on the face across its z axis, so the order of the half extents says whether it lies or stands."""

    half_extents: Sizes = (0.03, 0.03, 0.03)  # [m]
    mass: float = 0.3  # [kg]
    friction: float = 0.5  # that of a pair is the geometric mean of both

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_extents", tuple(self.half_extents))
        _check_thing("Box", self.half_extents, self.mass, self.friction)


@dataclass(frozen=True)
class Chain:
    """Links in a row along x, joined halfway between their ends. Neighbours touch each other, which limits how far the chain bends.

    Capsules roll without resistance: with hinges, whose axes turn along, a chain of them rolls as one rod and does not stop.
    """

    links: int = 6
    half_extents: Sizes = (0.02, 0.01, 0.01)  # of a link [m]; a capsule's first is half of its whole length, the others its radius
    mass: float = 0.05  # of a link [kg]
    friction: float = 0.5
    shape: Literal["box", "capsule"] = "box"
    joint: Literal["hinge", "ball"] = "hinge"  # a hinge turns about the vertical axis of the links

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_extents", tuple(self.half_extents))
        _check_thing("Chain", self.half_extents, self.mass, self.friction)
        if self.links != int(self.links) or not 2 <= self.links <= 20:
            raise ValueError(f"Chain needs 2 to 20 links, got {self.links}.")
        if self.shape not in ("box", "capsule") or self.joint not in ("hinge", "ball"):
            raise ValueError(f"Chain needs a shape 'box' or 'capsule' and a joint 'hinge' or 'ball', got {self.shape!r} and {self.joint!r}.")
        length, radius, other = self.half_extents
        if self.shape == "capsule" and not (radius == other and length > radius):
            raise ValueError(f"Chain of capsules needs half_extents (half length, radius, radius) with the length greater, got {self.half_extents}.")

    @property
    def spacing(self) -> float:
        """From the middle of a link to that of the next [m]: neighbours are half a link's width apart."""
        return 2 * self.half_extents[0] + self.half_extents[1]


@dataclass(frozen=True)
class CylinderPusher:
    """An upright cylinder. In the engines balls along its axis touch: a line of contact would be taken for one point of it that jumps up and down."""

    radius: float = 0.01  # [m]
    half_height: float = 0.06  # [m]

    def __post_init__(self) -> None:
        _positive("CylinderPusher", radius=self.radius, half_height=self.half_height)

    @property
    def balls(self) -> Array:
        """Heights of the balls' middles over its own [m], no farther apart than 12 mm; at most 16, all that an engine's compound of shapes may have."""
        return np.linspace(-self.half_height, self.half_height, min(16, math.ceil(self.half_height / 0.006) + 1))


@dataclass(frozen=True)
class SpherePusher:
    """A ball just above the table."""

    radius: float = 0.015  # [m]

    def __post_init__(self) -> None:
        _positive("SpherePusher", radius=self.radius)


@dataclass(frozen=True)
class PlatePusher:
    """A thin upright box; its width is along its x axis, which the yaw turns."""

    half_width: float = 0.04  # [m]
    half_thickness: float = 0.005  # [m]
    half_height: float = 0.06  # [m]

    def __post_init__(self) -> None:
        _positive("PlatePusher", half_width=self.half_width, half_thickness=self.half_thickness, half_height=self.half_height)


Thing = Box | Chain
AnyPusher = CylinderPusher | SpherePusher | PlatePusher


@dataclass(frozen=True)
class Body:
    """One rigid body of an object, in the frame of its middle."""

    shape: Literal["box", "capsule"]
    half_extents: Sizes  # [m]
    mass: float  # [kg]
    friction: float
    object_id: int

    @property
    def inertia(self) -> Array:
        """Moments of inertia (3,) [kg m^2] of the uniform body about its axes."""
        x, y, z = self.half_extents
        if self.shape == "box":
            return self.mass / 3 * np.array([y * y + z * z, x * x + z * z, x * x + y * y])
        core, r = 2 * (x - y), y  # a cylinder between two half balls
        tube, ball = core, 4 / 3 * r  # volumes over pi r^2
        m_tube, m_ball = self.mass * tube / (tube + ball), self.mass * ball / (tube + ball)
        along = m_tube * r * r / 2 + m_ball * 0.4 * r * r
        across = m_tube * (core * core / 12 + r * r / 4) + m_ball * (0.4 * r * r + core * core / 4 + 3 / 8 * core * r)
        return np.array([along, across, across])


@dataclass(frozen=True)
class TabletopConfig:
    """Objects on a table at z = 0, a pusher, and cameras. Everything in SI units.

    Raises:
        ValueError: in one sentence, for no objects or more than eight, or a value out of its range.
    """

    objects: tuple[Thing, ...] = (Box(), Box((0.04, 0.03, 0.025)), Box((0.025, 0.025, 0.04)))
    pusher: AnyPusher = CylinderPusher()
    table_friction: float = 0.5  # that of a pair is the geometric mean of both
    pusher_friction: float = 0.3  # as above; larger makes objects stick to the pusher over a wider range of directions
    dt: float = 0.1  # control period [s]
    max_speed: float = 0.3  # bound of each component of the velocity [m/s]
    max_turn: float = 2.0  # bound of a plate's yaw rate [rad/s]
    workspace: float = 0.3  # half-size of the square to which the pusher is clipped [m]; objects start in its middle half; the table is twice as wide
    cameras: int = 3  # evenly around the table
    width: int = 128  # of the images [px]
    height: int = 96
    antialias: int = 1  # rays a pixel, along each axis, whose mean colour it has; its depth is that of the middle one, so an odd number
    far: float = 3.0  # depths beyond it are NaN [m]

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", tuple(self.objects))
        if not 1 <= len(self.objects) <= 8:
            raise ValueError(f"TabletopConfig needs 1 to 8 objects, got {len(self.objects)}.")
        for thing in self.objects:
            if not isinstance(thing, Box | Chain):
                raise ValueError(f"TabletopConfig needs objects that are a Box or a Chain, got {type(thing).__name__}.")
        if not isinstance(self.pusher, CylinderPusher | SpherePusher | PlatePusher):
            raise ValueError(f"TabletopConfig needs a CylinderPusher, SpherePusher or PlatePusher, got {type(self.pusher).__name__}.")
        _positive("TabletopConfig", dt=self.dt, max_speed=self.max_speed, max_turn=self.max_turn, workspace=self.workspace, far=self.far)
        for name in ("table_friction", "pusher_friction"):
            if not 0 <= getattr(self, name) <= 2:
                raise ValueError(f"TabletopConfig needs {name} in [0, 2], got {getattr(self, name)}.")
        for name, low, high in (("cameras", 1, 8), ("width", 8, 2048), ("height", 8, 2048)):
            value = getattr(self, name)
            if value != int(value) or not low <= value <= high:
                raise ValueError(f"TabletopConfig needs {name} as a whole number from {low} to {high}, got {value}.")
        if self.antialias not in (1, 3, 5):
            raise ValueError(f"TabletopConfig needs antialias of 1, 3 or 5, got {self.antialias}.")
        largest = max(max(thing.half_extents) for thing in self.objects)
        if 4 * largest > self.workspace:
            raise ValueError(f"TabletopConfig needs a workspace of at least four times the greatest half extent of {largest} m, got {self.workspace} m.")

    @cached_property
    def bodies(self) -> tuple[Body, ...]:
        """The K rigid bodies, object by object and link by link."""
        return tuple(
            Body(thing.shape if isinstance(thing, Chain) else "box", thing.half_extents, thing.mass, thing.friction, index)
            for index, thing in enumerate(self.objects)
            for _ in range(thing.links if isinstance(thing, Chain) else 1)
        )

    @property
    def turns(self) -> bool:
        """Whether the pusher has a yaw."""
        return isinstance(self.pusher, PlatePusher)

    @property
    def pusher_reach(self) -> float:
        """Radius of the upright cylinder around the pusher [m]."""
        if isinstance(self.pusher, PlatePusher):
            return math.hypot(self.pusher.half_width, self.pusher.half_thickness)
        return self.pusher.radius

    @property
    def pusher_height(self) -> float:
        """Height of the pusher's middle over the table [m]."""
        half = self.pusher.radius if isinstance(self.pusher, SpherePusher) else self.pusher.half_height
        return half + CLEARANCE

    def to_json(self) -> str:
        """The configuration as one line of JSON; `from_json` reads it."""
        content = asdict(self)
        content["objects"] = [{"type": type(thing).__name__, **asdict(thing)} for thing in self.objects]
        content["pusher"] = {"type": type(self.pusher).__name__, **asdict(self.pusher)}
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> TabletopConfig:
        """What `to_json` wrote.

        Raises:
            ValueError: if it is not such a text, or its values are out of their ranges.
        """
        try:
            content = json.loads(text)
            content["objects"] = tuple(_made(entry) for entry in content["objects"])
            content["pusher"] = _made(content["pusher"])
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected a configuration that TabletopConfig.to_json wrote, got {text[:60]!r}.") from error


_PARTS: dict[str, Any] = {kind.__name__: kind for kind in (Box, Chain, CylinderPusher, SpherePusher, PlatePusher)}


def _made(entry: dict[str, Any]) -> Any:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items() if name != "type"}
    return _PARTS[entry["type"]](**values)
