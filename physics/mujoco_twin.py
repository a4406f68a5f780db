"""`MujocoTwin`: rigid worlds in MuJoCo."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from threading import RLock
from typing import Any

import numpy as np
import torch

from structwm.kernels.rigid_layout import JointKind

from .engine_twin import DRAGS, Array, EngineTwin, Layout, grounded, rotated
from .rigid_world import RigidWorld

MODELS = 64  # held at once
NUMBERS = 4_000_000  # of states held at once, between the steps included


class MujocoTwin(EngineTwin):
    """A twin that MuJoCo steps, all worlds in one call over as many threads as torch has.

    What MuJoCo would get wrong, and what is done about it:

    - It takes the larger coefficient of two geometries: all contacts are explicit pairs that carry the material of the pair, with elliptic cones.
    - Its contacts are constraints whose strength follows the mass. With an impedance near 0 they are springs and dampers of the stiffness asked for, one at
      each point of contact; the damper is that of the damping ratio for the mass that the surfaces usually offer, and friction is made stiff on its own.
    - Driven bodies weigh a million times the others, and their velocity is set at every step.

    Not expressed: `slip_speed` and `smoothing`, and drag on bodies whose joint hangs on what moves. Drag on a free body acts at the origin of its frame.
    Rounded boxes and meshes touch by their margins.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: tuple[Any, ...] | None = None
        self._templates: dict[Any, Any] = {}

    @staticmethod
    def require() -> None:
        if find_spec("mujoco") is None:
            raise ImportError("MujocoTwin needs MuJoCo: pip install 'structwm[worlds]' or mujoco.")

    @staticmethod
    def inexpressible(world: RigidWorld) -> frozenset[str]:
        hanging = [body.name for body in world.bodies if body.joint.kind is not JointKind.FREE and not grounded(world, body)]
        return frozenset(f"{name}.{drag}" for name in hanging for drag in DRAGS)

    def simulate(self, q: Array, v: Array, actions: Array, row: Array) -> tuple[Array, Array]:
        models = self._prepared()
        horizon = actions.shape[1]
        qs, vs = np.empty((len(q), horizon, q.shape[1])), np.empty((len(q), horizon, v.shape[1]))
        with models.lock:
            room = max(1, NUMBERS // (horizon * self.substeps * models.maps.width))
            for worlds in _parts(np.argsort(row, kind="stable"), row, room, len(models.models)):
                qs[worlds], vs[worlds] = self._roll(models, models.of(row[worlds]), q[worlds], v[worlds], actions[worlds])
        for action, at in self.layout.commands:
            vs[:, :, at] = actions[:, :, action]
        return qs, vs

    def _roll(self, models: Models, each: list[Any], q: Array, v: Array, actions: Array) -> tuple[Array, Array]:
        """What follows the starts of worlds of which each has a model."""
        count, horizon = actions.shape[:2]
        maps, steps = models.maps, self.substeps
        data = models.data_for(min(torch.get_num_threads(), count))
        pool = _pool(len(data) if len(data) > 1 else 0)
        start = maps.inward(q, v)
        control = np.ascontiguousarray(np.repeat(actions[:, :, maps.controls], steps, axis=1)) if maps.controls else None
        if not self.driven():
            states, _ = pool.rollout(each, data, start, control, nstep=horizon * steps)
            return maps.outward(states[:, steps - 1 :: steps])
        out = np.empty((count, horizon, start.shape[1]))
        for step in range(horizon):
            start = maps.commanded(start, actions[:, step], self.layout)
            part = None if control is None else control[:, step * steps : (step + 1) * steps]
            states, _ = pool.rollout(each, data, start, part, nstep=steps)
            out[:, step] = start = states[:, -1].copy()
        return maps.outward(out)

    def _prepared(self) -> Models:
        """The models of the draws, kept until a value changes."""
        stamp = self.stamp()
        if self._kept is None or self._kept[0] != stamp:
            assert self.spec.dt is not None
            models = Models(self.layout, self.table(), self.spec.dt / self.substeps, self._templates)
            self._kept = (stamp, models, dict(self.values))  # the values are held so that the stamp stays theirs
        kept: Models = self._kept[1]
        return kept

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None, "_templates": {}}


class Models:
    """Copies of a world's model, each with the numbers of a draw, and MuJoCo's working memory.

    Args:
        where: the layout of the world's numbers.
        table: those of all draws (P, C).
        timestep: [s].
        templates: as `MujocoScene`.
    """

    def __init__(self, where: Layout, table: Array, timestep: float, templates: dict[Any, Any]) -> None:
        from .mujoco_scene import MujocoScene

        self.scene = MujocoScene(where, table, timestep, templates)
        self.maps = Maps(self.scene)
        self.models = [copy.copy(self.scene.template) for _ in range(min(len(table), MODELS))]
        self.draws = [-1] * len(self.models)  # which each model has the numbers of
        self.lock = RLock()
        self._data: list[Any] = []

    def of(self, row: Array) -> list[Any]:
        """The model of each world, written if need be; of a kind for at most as many draws as there are models."""
        distinct = np.unique(row)
        slots = distinct if len(self.scene.table) <= len(self.models) else np.arange(len(distinct))
        for slot, draw in zip(slots.tolist(), distinct.tolist(), strict=True):
            if self.draws[slot] != draw:
                self.scene.write(self.models[slot], draw)
                self.draws[slot] = draw
        return [self.models[slot] for slot in slots[np.searchsorted(distinct, row)].tolist()]

    def data_for(self, threads: int) -> list[Any]:
        """Working memory of as many threads."""
        from mujoco import MjData

        while len(self._data) < threads:
            self._data.append(MjData(self.scene.template))
        return self._data[:threads]


class Maps:
    """Between the numbers of a `RigidState` and MuJoCo's state: time, qpos, qvel.

    qvel of a free joint is the velocity of the origin in the world frame and the angular velocity in the BODY frame.
    """

    def __init__(self, scene: Any) -> None:
        model, where = scene.template, scene.where
        self.width, self.controls = 1 + model.nq + model.nv, scene.controls
        self.q_from: list[int] = []  # where the numbers of configuration and velocity stand
        self.v_from: list[int] = []
        self.spins: list[tuple[int, int]] = []  # quaternions in the configuration and angular velocities in the velocity
        for k, body in enumerate(scene.bodies):
            configured, moving = body.joint.kind.sizes
            self.q_from += range(1 + scene.qpos[k], 1 + scene.qpos[k] + configured)
            self.v_from += range(1 + model.nq + scene.dof[k], 1 + model.nq + scene.dof[k] + moving)
            if configured == 7:
                self.spins.append((where.q_at[k] + 3, where.v_at[k] + 3))

    def inward(self, q: Array, v: Array) -> Array:
        """MuJoCo's states (n, nstate) of configurations (n, Q) and velocities (n, V)."""
        state = np.zeros((len(q), self.width))
        v = v.copy()
        for at, to in self.spins:
            v[:, to : to + 3] = rotated(q[:, at : at + 4] * (1, -1, -1, -1), v[:, to : to + 3])
        state[:, self.q_from] = q
        state[:, self.v_from] = v
        return state

    def outward(self, states: Array) -> tuple[Array, Array]:
        """Configurations (..., Q) and velocities (..., V) of MuJoCo's states (..., nstate)."""
        q, v = states[..., self.q_from], states[..., self.v_from]
        for at, to in self.spins:
            v[..., to : to + 3] = rotated(q[..., at : at + 4], v[..., to : to + 3])
        return q, v

    def commanded(self, states: Array, action: Array, where: Layout) -> Array:
        """MuJoCo's states with the velocities of driven bodies that an action (n, A) commands."""
        q, v = self.outward(states)
        for k, at in where.commands:
            v[:, at] = action[:, k]
        return self.inward(q, v)


def _parts(order: Array, row: Array, room: int, models: int) -> Iterator[Array]:
    """The worlds, in order of their draws, in parts of at most `room` worlds and as many draws as there are models."""
    at = 0
    while at < len(order):
        end = min(at + room, len(order))
        draws = np.cumsum(np.r_[True, np.diff(row[order[at:end]]) != 0])
        end = at + int(np.searchsorted(draws, models, side="right"))
        yield order[at:end]
        at = end


@cache
def _pool(threads: int) -> Any:
    """Threads that stay; 0 is the caller's own."""
    from mujoco.rollout import Rollout

    return Rollout(nthread=threads)
