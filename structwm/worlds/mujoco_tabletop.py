"""A table with several objects in MuJoCo."""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from .tabletop import Tabletop
from .tabletop_config import Array, Body, Chain, CylinderPusher, PlatePusher, SpherePusher, TabletopConfig
from .tabletop_layout import placed_bodies
from .tabletop_views import TableViews

RATE = 1000  # physics steps per second, at least; half as many turn pushed boxes by up to five degrees more
SETTLE = 0.1  # [s] of rest before an episode
CONTACT_TIME = 0.003  # time constant of contacts [s]; softer sinks deeper
IMPRATIO = 100.0  # stiffness of friction over that of the normal; larger creeps less
DAMPING = 1e-5  # of a chain's joints [N m s/rad]


class MujocoTabletop(Tabletop):
    """A table in MuJoCo, one model and one data each. Images are cast from the true poses (`TableViews`): no OpenGL is needed.

    - It takes the larger coefficient of two geoms: all contacts are explicit pairs that carry the geometric mean, with elliptic cones.
    - A mocap body has no velocity that friction sees: the pusher slides and turns on joints, a million times the objects' mass, and its position and velocity
      are set before every physics step. It does not touch the table.
    - Cylinders and capsules meet boxes in one point of a line, which jumps: the cylinder touches as a row of balls.
    """

    def __init__(self, *, config: TabletopConfig | None = None, images: bool = False, **fields: Any) -> None:
        super().__init__(config=config, images=images, **fields)
        self._substeps = max(1, math.ceil(self.config.dt * RATE - 1e-9))
        self._model = mujoco.MjModel.from_xml_string(_scene_xml(self.config, self.config.dt / self._substeps))
        self._data = mujoco.MjData(self._model)
        self._axes = len(self._pusher)
        self._bodies = np.array([self._model.body(f"body{k}").id for k in range(len(self.config.bodies))])
        self._views: TableViews | None = None

    def _place(self, layout: list[Array], pusher: Array) -> None:
        mujoco.mj_resetData(self._model, self._data)
        self._views = None
        places = [pusher]
        for thing, place in zip(self.config.objects, layout, strict=True):
            x, y, yaw = placed_bodies(thing, place)[0] if isinstance(thing, Chain) else place
            places.append(np.array([x, y, thing.half_extents[2], math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]))
            for angle in place[3:]:
                ball = isinstance(thing, Chain) and thing.joint == "ball"
                places.append(np.array([math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)] if ball else [angle]))
        self._data.qpos[:] = np.concatenate(places)
        for _ in range(round(SETTLE * self._substeps / self.config.dt)):
            self._move_pusher(pusher, np.zeros(self._axes))
            mujoco.mj_step(self._model, self._data)
        self._move_pusher(pusher, np.zeros(self._axes))
        mujoco.mj_forward(self._model, self._data)

    def _advance(self, velocity: Array) -> None:
        step = self.config.dt / self._substeps
        for k in range(self._substeps):
            self._move_pusher(self._pusher + k * step * velocity, velocity)
            mujoco.mj_step(self._model, self._data)
        self._move_pusher(self._pusher + self.config.dt * velocity, np.zeros(self._axes))
        mujoco.mj_kinematics(self._model, self._data)

    def _move_pusher(self, position: Array, velocity: Array) -> None:
        self._data.qpos[: self._axes] = position
        self._data.qvel[: self._axes] = velocity

    def _poses(self) -> Array:
        return np.concatenate((self._data.xpos[self._bodies], self._data.xquat[self._bodies]), 1)

    def _look(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if self._views is None:
            self._views = TableViews(self.config, self._eyes)
        return self._views.render(self._poses(), self.pusher)

    def _save(self) -> Array:
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._data, state, kind)
        return state

    def _load(self, state: Any) -> None:
        mujoco.mj_setState(self._model, self._data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_kinematics(self._model, self._data)


def _geom(body: Body, name: str) -> str:
    x, y, z = body.half_extents
    if body.shape == "box":
        return f'<geom name="{name}" type="box" size="{x!r} {y!r} {z!r}"/>'
    return f'<geom name="{name}" type="capsule" size="{y!r} {x - y!r}" zaxis="1 0 0"/>'


def _pusher_xml(config: TabletopConfig) -> str:
    match config.pusher:
        case CylinderPusher(radius) as pusher:
            geoms = [f'type="sphere" size="{radius!r}" pos="0 0 {height!r}"' for height in pusher.balls.tolist()]
        case SpherePusher(radius):
            geoms = [f'type="sphere" size="{radius!r}"']
        case PlatePusher(width, thickness, height):
            geoms = [f'type="box" size="{width!r} {thickness!r} {height!r}"']
    mass = 1e6 * sum(body.mass for body in config.bodies)
    parts = "".join(f'<geom name="pusher{k}" {geom} mass="{mass / len(geoms)!r}"/>' for k, geom in enumerate(geoms))
    turn = '<joint type="hinge" axis="0 0 1"/>' if config.turns else ""
    return f"""
    <body name="pusher" pos="0 0 {config.pusher_height!r}" gravcomp="1">
      <joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/>{turn}
      {parts}
    </body>"""


def _objects_xml(config: TabletopConfig) -> str:
    text, index = "", 0
    for thing in config.objects:
        links = thing.links if isinstance(thing, Chain) else 1
        for link in range(links):
            body = config.bodies[index]
            if link == 0:
                place, joint = "0 0 0", "<freejoint/>"
            else:
                assert isinstance(thing, Chain)
                place = f"{thing.spacing!r} 0 0"
                joint = f'<joint type="{thing.joint}" axis="0 0 1" pos="{-thing.spacing / 2!r} 0 0" damping="{DAMPING}"/>'
            inertia = " ".join(repr(value) for value in body.inertia.tolist())
            text += f'<body name="body{index}" pos="{place}">{joint}{_geom(body, f"geom{index}")}'
            text += f'<inertial pos="0 0 0" mass="{body.mass!r}" diaginertia="{inertia}"/>\n'
            index += 1
        text += "</body>" * links + "\n"
    return text


def _scene_xml(config: TabletopConfig, timestep: float) -> str:
    """The MJCF of the world; bodies in the order of `config.bodies`, the pusher first."""
    named = [("table", config.table_friction), *((f"geom{k}", body.friction) for k, body in enumerate(config.bodies))]
    parts = len(config.pusher.balls) if isinstance(config.pusher, CylinderPusher) else 1
    pushing = [(f"pusher{k}", config.pusher_friction) for k in range(parts)]
    touch = f'condim="3" solref="{CONTACT_TIME} 1" solimp="0.95 0.99 0.001 0.5 2"'
    pairs = ""
    for (first, one), (second, two) in (*combinations(named, 2), *product(named[1:], pushing)):
        mean = math.sqrt(one * two)
        pairs += f'<pair geom1="{first}" geom2="{second}" {touch} friction="{mean!r} {mean!r} 0 0 0"/>\n'
    side = 2 * config.workspace
    return f"""
<mujoco>
  <option timestep="{timestep!r}" gravity="0 0 -9.81" cone="elliptic" impratio="{IMPRATIO}" solver="Newton" iterations="50" tolerance="1e-10"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <geom name="table" type="box" size="{side!r} {side!r} 0.05" pos="0 0 -0.05"/>
    {_pusher_xml(config)}
    {_objects_xml(config)}
  </worldbody>
  <contact>
    {pairs}
  </contact>
</mujoco>"""
