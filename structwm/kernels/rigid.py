"""Rollouts of rigid worlds as a torch operator: one launch for all steps of all worlds, forward and backward, on CPU and CUDA, in float32 and float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from .launching import as_array, launch_beside, scalar_of
from .rigid_layout import Columns
from .rigid_rollout import rollout_kernel
from .rigid_structs import types

THREAD_SHARE = 16  # worlds a CPU thread must have to be worth starting


@dataclass(frozen=True, eq=False)
class RigidProgram:
    """A world compiled into arrays, for one time step. `arrays` and `numbers` are the fields of the kernels' `Model`."""

    columns: Columns
    arrays: Mapping[str, NDArray[Any]]
    numbers: Mapping[str, int]
    seconds: float  # of a substep
    substeps: int  # in a step
    fade: float
    limit_width: float
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def model(self, scalar: Any, device: Any) -> Any:
        """The struct that kernels take, on a device."""
        key = (scalar, str(device))
        if key not in self._kept:
            self._kept[key] = self._make(scalar, device)
        return self._kept[key]

    def _make(self, scalar: Any, device: Any) -> Any:
        kinds = types(scalar)
        model = kinds.Model()
        for name, value in self.numbers.items():
            setattr(model, name, value)
        model.substeps, model.seconds, model.fade, model.limit_width = self.substeps, scalar(self.seconds), scalar(self.fade), scalar(self.limit_width)
        columns = self.columns
        model.body_column, model.joint_column, model.geometry_column = columns.body, columns.joint, columns.geometry
        model.pair_column, model.actuator_column = columns.pair, columns.actuator
        for name, values in self.arrays.items():
            if values.dtype.kind == "i":
                dtype: Any = wp.int32
            elif values.ndim == 1:
                dtype = scalar
            else:
                dtype = kinds.vec3 if values.ndim == 2 else kinds.mat33
            setattr(model, name, wp.array(values, dtype=dtype, device=device))
        return model


def scratch_of(program: RigidProgram, count: int, scalar: Any, device: Any) -> Any:
    """Working memory for `count` worlds; on CUDA worlds lie side by side."""
    kinds = types(scalar)
    bodies, velocity = max(program.numbers["bodies"], 1), max(program.numbers["velocity"], 1)
    scratch = kinds.Scratch()
    sizes = dict.fromkeys(("turn", "inertia"), (bodies, kinds.mat33))
    sizes |= dict.fromkeys(("place", "linear", "angular", "linear_rate", "angular_rate", "force", "torque", "moment"), (bodies, kinds.vec3))
    sizes |= {"mass": (bodies, scalar), "matrix": (velocity * velocity, scalar), "rate": (velocity, scalar)}
    for name, (width, dtype) in sizes.items():
        if device.is_cpu:
            setattr(scratch, name, wp.empty((count, width), dtype=dtype, device=device))
        else:
            setattr(scratch, name, wp.empty((width, count), dtype=dtype, device=device).transpose((1, 0)))
    return scratch


def rollout(program: RigidProgram, q: Tensor, v: Tensor, actions: Tensor, table: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Roll N worlds out.

    Args:
        program: the world.
        q: configurations (N, Q).
        v: velocities (N, V).
        actions: (N, H, A), held over each step.
        table: parameters (P, C), `program.columns`.
        row: int32 (N,), which row of the table each world has.

    Returns:
        Configurations (N, H+1, Q) and velocities (N, H+1, V), the start included.
    """
    count, horizon = actions.shape[:2]
    qs, vs = q.new_empty(count, horizon + 1, q.shape[1]), v.new_empty(count, horizon + 1, v.shape[1])
    qs[:, 0], vs[:, 0] = q, v
    if count == 0 or horizon == 0:
        return qs, vs
    scalar, device = scalar_of(q), wp.device_from_torch(q.device)
    scratch = scratch_of(program, count, scalar, device)
    arguments = [
        program.model(scalar, device),
        as_array(table, *table.shape),
        as_array(row),
        as_array(actions, *actions.shape),
        scratch,
        as_array(qs, *qs.shape),
        as_array(vs, *vs.shape),
    ]
    launch_beside(q, rollout_kernel(scalar), count, arguments, share=THREAD_SHARE)
    return qs, vs
