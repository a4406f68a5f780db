"""Rollouts of rigid worlds as a torch operator: one launch for all steps of all worlds, forward and backward, on CPU and CUDA, in float32 and float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from .launching import as_array, backward_only, launch_beside, scalar_of
from .program import Program
from .rigid_layout import Columns
from .rigid_rollout import backward_kernel, rollout_kernel
from .rigid_structs import types
from .scratch import filled, kept

THREAD_SHARE = 16  # worlds a CPU thread must have to be worth starting


@dataclass(frozen=True, eq=False)
class RigidProgram(Program):
    """A world compiled into arrays, for one time step. `arrays` and `numbers` are the fields of the kernels' `Model`."""

    columns: Columns
    arrays: Mapping[str, NDArray[Any]]
    numbers: Mapping[str, int]
    seconds: float  # of a substep
    substeps: int  # in a step
    fade: float
    limit_width: float

    def _make(self, scalar: Any, device: Any) -> Any:
        kinds = types(scalar)
        model = kinds.Model()
        for name, value in self.numbers.items():
            setattr(model, name, value)
        model.substeps, model.seconds, model.fade, model.limit_width = self.substeps, scalar(self.seconds), scalar(self.fade), scalar(self.limit_width)
        columns = self.columns
        model.body_column, model.joint_column, model.geometry_column = columns.body, columns.joint, columns.geometry
        model.pair_column, model.actuator_column = columns.pair, columns.actuator
        ints: list[NDArray[Any]] = []
        for name, values in self.arrays.items():
            if values.dtype.kind == "i":
                setattr(model, name, sum(part.size for part in ints))
                ints.append(values.ravel())
            else:
                dtype: Any = scalar if values.ndim == 1 else kinds.vec3 if values.ndim == 2 else kinds.mat33
                setattr(model, name, wp.array(values, dtype=dtype, device=device))
        model.ints = wp.array(np.concatenate(ints), dtype=wp.int32, device=device)
        return model


def scratch_of(program: RigidProgram, count: int, scalar: Any, device: Any) -> Any:
    """Working memory for `count` worlds."""
    kinds = types(scalar)
    bodies, velocity = program.numbers["bodies"], max(program.numbers["velocity"], 1)
    sizes = dict.fromkeys(("turn", "inertia"), (bodies, kinds.mat33))
    vectors = ("place", "linear", "angular", "linear_rate", "angular_rate", "force", "torque", "asked", "asked_torque", "moment")
    sizes |= dict.fromkeys(vectors, (bodies, kinds.vec3))
    sizes |= {"mass": (bodies, scalar), "matrix": (velocity * velocity, scalar)} | dict.fromkeys(("rate", "first", "middle"), (velocity, scalar))
    return filled(kinds.Scratch(), sizes, count, device)


def adjoint_of(program: RigidProgram, count: int, scalar: Any, device: Any) -> Any:
    """What the backward pass needs beside."""
    kinds = types(scalar)
    bodies, velocity = program.numbers["bodies"], max(program.numbers["velocity"], 1)
    vectors = ("place", "linear", "angular", "linear_rate", "angular_rate", "linear_test", "angular_test", "linear_virtual", "angular_virtual")
    sizes = {"turn": (bodies, kinds.mat33)} | dict.fromkeys(vectors, (bodies, kinds.vec3))
    sizes |= dict.fromkeys(("rate", "speed", "d_speed", "kept"), (velocity, scalar))
    return filled(kinds.Adjoint(), sizes, count, device)


def rollout(program: RigidProgram, q: Tensor, v: Tensor, actions: Tensor, table: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Roll N worlds out. Gradients flow to start, actions and table.

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
    backward_only("rigid rollout", q, v, actions, table)
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in (q, v, actions, table)):
        return forward(program, q, v, actions, table, row)
    configurations, velocities = _Rollout.apply(program, q, v, actions, table, row)
    return configurations, velocities


def forward(program: RigidProgram, q: Tensor, v: Tensor, actions: Tensor, table: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """`rollout` without gradients."""
    count, horizon = actions.shape[:2]
    qs, vs = q.new_empty(count, horizon + 1, q.shape[1]), v.new_empty(count, horizon + 1, v.shape[1])
    qs[:, 0], vs[:, 0] = q, v
    if count and horizon:
        device = wp.device_from_torch(q.device)
        scratch = kept(scratch_of, program, count, scalar_of(q), device)
        launch_beside(q, rollout_kernel(scalar_of(q)), count, forward_arguments(program, qs, vs, actions, table, row, scratch), share=THREAD_SHARE)
    return qs, vs


def forward_arguments(program: RigidProgram, qs: Tensor, vs: Tensor, actions: Tensor, table: Tensor, row: Tensor, scratch: Any) -> list[Any]:
    """What the forward kernel takes, of the states (N, H+1, ...) whose first are the starts."""
    model = program.model(scalar_of(qs), wp.device_from_torch(qs.device))
    return [model, as_array(table, *table.shape), as_array(row), as_array(actions, *actions.shape), scratch, as_array(qs, *qs.shape), as_array(vs, *vs.shape)]


class _Rollout(torch.autograd.Function):
    """The forward kernel; its backward starts from the states at the steps."""

    @staticmethod
    def forward(ctx: Any, program: RigidProgram, q: Tensor, v: Tensor, actions: Tensor, table: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        qs, vs = forward(program, q, v, actions, table, row)
        ctx.program = program
        ctx.save_for_backward(qs, vs, actions, table, row)
        return qs, vs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        program, (qs, vs, actions, table, row) = ctx.program, ctx.saved_tensors
        count, horizon = actions.shape[:2]
        dq, dv, du = qs.new_zeros(count, qs.shape[-1]), vs.new_zeros(count, vs.shape[-1]), torch.zeros_like(actions)
        dp = table.new_zeros(count, table.shape[-1])
        if not count or not horizon:
            return None, grads[0].sum(1), grads[1].sum(1), du, torch.zeros_like(table), None
        scalar, device = scalar_of(qs), wp.device_from_torch(qs.device)
        between = [t.new_empty(count, program.substeps + 1, t.shape[-1]) for t in (qs, vs)]
        arguments = [
            program.model(scalar, device),
            as_array(table, *table.shape),
            as_array(row),
            as_array(actions, *actions.shape),
            kept(scratch_of, program, count, scalar, device),
            kept(adjoint_of, program, count, scalar, device),
            *(as_array(t, *t.shape) for t in (qs, vs, *between)),
            *(as_array(grad, *grad.shape) for grad in grads),
            *(as_array(t, *t.shape) for t in (dq, dv, dp, du)),
        ]
        launch_beside(qs, backward_kernel(scalar, cuda=device.is_cuda), count, arguments, share=THREAD_SHARE)
        return None, dq, dv, du, torch.zeros_like(table).index_add_(0, row.long(), dp), None
