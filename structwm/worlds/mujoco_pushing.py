"""Planar pushing in MuJoCo."""

from __future__ import annotations

import os
import sys
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from structwm.geometry.outline import support_points

from .pushing import Array, PlanarPushing, PushingConfig

RATE = 1000  # physics steps per second, at least
SETTLE = 0.1  # [s] of rest before an episode
SUPPORT_TIME = 0.004  # time constant of the springs under the slider [s]; softer sinks deeper
PUSH_TIME = 0.004  # time constant of the contact with the pusher [s]
STICK_RATE = 500.0  # rate at which friction takes away what slip there is [1/s]; at most RATE
IMPEDANCE = 0.001  # of the support: small makes the contacts springs that share a load, as they would not if they were constraints
IMPRATIO = 1000.0  # stiffness of friction over that of the normal; larger creeps less


class MujocoPushing(PlanarPushing):
    """Planar pushing in MuJoCo, one model and one data each.

    What MuJoCo would get wrong, and what is done about it:

    - It takes the larger coefficient of two geoms: all contacts are explicit pairs that carry the configured one, with elliptic cones, so that friction is the
      same in every direction.
    - A mesh on a plane gets few contacts whose load jumps about: the slider stands on `support_points` (feet) that share the load like the whole base.
    - Its convex contacts lift off as they slide, the more the faster: with usual parameters feet far from the centre of rotation lose load to the others, and
      centimetre pushes turn by degrees too much. The feet have an impedance so small that they act as springs and dampers, and a friction of its own rate.
    - A mocap body has no velocity that friction sees: the pusher slides on two joints, a million times the slider's mass, and its position and velocity are set
      before every physics step. It touches as a sphere at half the slider's height: one point, no jitter.
    """

    def __init__(self, *, config: PushingConfig | None = None, render_mode: str | None = None, **fields: Any) -> None:
        super().__init__(config=config, render_mode=render_mode, **fields)
        self._substeps = max(1, int(np.ceil(self.config.dt * RATE - 1e-9)))
        self._model = mujoco.MjModel.from_xml_string(_scene_xml(self.config, self.config.dt / self._substeps))
        self._data = mujoco.MjData(self._model)
        self._renderer: mujoco.Renderer | None = None

    def _place(self, object_pose: Array, pusher: Array) -> None:
        mujoco.mj_resetData(self._model, self._data)
        half = object_pose[2] / 2
        self._data.qpos[:] = [*pusher, *object_pose[:2], 0.0, np.cos(half), 0.0, 0.0, np.sin(half)]
        for _ in range(round(SETTLE * self._substeps / self.config.dt)):
            mujoco.mj_step(self._model, self._data)
        mujoco.mj_forward(self._model, self._data)

    def _advance(self, velocity: Array) -> None:
        step = self.config.dt / self._substeps
        for k in range(self._substeps):
            self._move_pusher(self._pusher + k * step * velocity, velocity)
            mujoco.mj_step(self._model, self._data)
        self._move_pusher(self._pusher + self.config.dt * velocity, np.zeros(2))
        mujoco.mj_kinematics(self._model, self._data)

    def _move_pusher(self, position: Array, velocity: Array) -> None:
        self._data.qpos[:2] = position
        self._data.qvel[:2] = velocity

    def _slider(self) -> tuple[Array, Array]:
        body = self._model.body("slider").id
        return self._data.xpos[body].copy(), self._data.xmat[body].reshape(3, 3).copy()

    def _image(self) -> NDArray[np.uint8]:
        if self._renderer is None:
            self._renderer = self._new_renderer()
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera="top")
        image: NDArray[np.uint8] = self._renderer.render()
        return image

    def _new_renderer(self) -> mujoco.Renderer:
        advice = "set MUJOCO_GL=egl or MUJOCO_GL=osmesa (with libosmesa6 installed) before mujoco is imported."
        if sys.platform == "linux" and not any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
            raise RuntimeError(f"MuJoCo renders through a display and there is none; {advice}")
        try:
            return mujoco.Renderer(self._model, self.image_size, self.image_size)
        except Exception as error:  # every OpenGL platform fails with an exception of its own
            raise RuntimeError(f"MuJoCo found no OpenGL to render with ({error}); {advice}") from error

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None


def _scene_xml(config: PushingConfig, timestep: float) -> str:
    """The MJCF of the world. The slider's frame is the body frame, its origin in the base."""
    outline, height = config.vertices, config.height
    radius = min(0.002, height / 4)
    feet = support_points(outline)
    corners = " ".join(f"{x!r} {y!r} {z!r}" for z in (0.0, height) for x, y in outline.tolist())
    places = enumerate(feet.tolist())
    stands = "\n".join(f'<geom name="foot{k}" type="sphere" size="{radius!r}" pos="{x!r} {y!r} {radius!r}" group="3"/>' for k, (x, y) in places)
    # Negative solref are stiffness and damping; the solver divides them by (1 - impedance), and n feet carry together.
    share = (1 - IMPEDANCE) / len(feet)
    spring = f"{-share / SUPPORT_TIME**2!r} {-2 * share / SUPPORT_TIME!r}"
    support = f'condim="3" solref="{spring}" solreffriction="-1 {-STICK_RATE * IMPEDANCE!r}" solimp="{IMPEDANCE} {IMPEDANCE} 0.001 0.5 2"'
    pairs = "\n".join(f'<pair geom1="foot{k}" geom2="plane" {support} friction="{config.friction!r} {config.friction!r} 0 0 0"/>' for k in range(len(feet)))
    push = f'condim="3" solref="{PUSH_TIME} 1" solimp="0.95 0.95 0.001 0.5 2" friction="{config.pusher_friction!r} {config.pusher_friction!r} 0 0 0"'
    x, y = config.center_of_mass
    ix, iy, iz = config.inertia.tolist()
    return f"""
<mujoco>
  <option timestep="{timestep!r}" gravity="0 0 -9.81" cone="elliptic" impratio="{IMPRATIO}" solver="Newton" iterations="100" tolerance="1e-10"/>
  <visual><headlight ambient="0.6 0.6 0.6" diffuse="0.4 0.4 0.4" specular="0 0 0"/></visual>
  <default><geom contype="0" conaffinity="0"/></default>
  <asset><mesh name="prism" vertex="{corners}"/></asset>
  <worldbody>
    <camera name="top" pos="0 0 {20 * config.workspace!r}" fovy="{float(2 * np.degrees(np.arctan(0.05)))}"/>
    <geom name="plane" type="plane" size="0 0 1" rgba="0.9 0.9 0.88 1"/>
    <body name="pusher" pos="0 0 {height / 2!r}">
      <joint type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 1 0"/>
      <geom name="pusher" type="sphere" size="{config.pusher_radius!r}" mass="{1e6 * config.mass!r}" group="3"/>
      <geom type="cylinder" size="{config.pusher_radius!r} {height!r}" mass="0" rgba="0.8 0.2 0.15 1"/>
    </body>
    <body name="slider">
      <freejoint/>
      <inertial pos="{x!r} {y!r} {height / 2!r}" mass="{config.mass!r}" diaginertia="{ix!r} {iy!r} {iz!r}"/>
      <geom name="slider" type="mesh" mesh="prism" rgba="0.2 0.45 0.75 1"/>
      {stands}
    </body>
  </worldbody>
  <contact>
    <pair geom1="slider" geom2="pusher" {push}/>
    {pairs}
  </contact>
</mujoco>"""
