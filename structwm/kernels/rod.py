"""Rollouts of discrete elastic rods as a torch operator: one launch for all steps of all rods, forward and backward, on CPU and CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from .launching import as_array, as_vectors, backward_only, launch_beside, scalar_of
from .program import Program
from .rod_rollout import backward_kernel, rollout_kernel
from .rod_structs import types
from .scratch import filled, kept

THREAD_SHARE = 4  # rods a CPU thread must have to be worth starting


@dataclass(frozen=True, eq=False)
class RodProgram(Program):
    """A rod for one time step, as arrays."""

    rest: NDArray[np.float64]  # (E,) [m]
    drive: NDArray[np.int32]  # (V,) column of the action with the velocity of a driven vertex, -1: free
    roll: NDArray[np.int32]  # (E,) column with the spin of an edge, -1: free, -2: held
    twisting: bool  # whether directors and spins are there
    kind: NDArray[np.int32]  # (O,) of obstacles
    size: NDArray[np.float64]  # (O, 3)
    turn: NDArray[np.float64]  # (O, 3, 3) world_from_obstacle
    place: NDArray[np.float64]  # (O, 3)
    seconds: float  # of a substep
    substeps: int  # in a step

    @property
    def vertices(self) -> int:
        """V."""
        return len(self.rest) + 1

    @property
    def directors(self) -> int:
        """How many directors a state has: E, or 0."""
        return len(self.rest) if self.twisting else 0

    def _make(self, scalar: Any, device: Any) -> Any:
        kinds = types(scalar)
        model = kinds.Model()
        model.vertices, model.directors, model.substeps, model.obstacles = self.vertices, self.directors, self.substeps, len(self.kind)
        model.seconds = scalar(self.seconds)
        for name, dtype in (("rest", scalar), ("drive", wp.int32), ("roll", wp.int32), ("kind", wp.int32)):
            setattr(model, name, wp.array(getattr(self, name), dtype=dtype, device=device))
        model.size, model.place = (wp.array(part, dtype=kinds.vec3, device=device) for part in (self.size, self.place))
        model.turn = wp.array(self.turn, dtype=kinds.mat33, device=device)
        return model


class RodNumbers(NamedTuple):
    """A state of N rods: positions and velocities (N, ..., V, 3), directors (N, ..., E, 3), spins (N, ..., E); E is 0 for rods that do not twist."""

    positions: Tensor
    velocities: Tensor
    directors: Tensor
    spins: Tensor


def scratch_of(program: RodProgram, count: int, scalar: Any, device: Any) -> Any:
    """Working memory for `count` rods."""
    kinds = types(scalar)
    sizes = dict.fromkeys(("diagonal", "next", "second"), (program.vertices, kinds.mat33)) | {"delta": (program.vertices, kinds.vec3)}
    sizes |= dict.fromkeys(("roll_diagonal", "roll_next", "roll_delta"), (max(program.directors, 1), scalar))
    return filled(kinds.Scratch(), sizes, count, device)


def adjoint_of(program: RodProgram, count: int, scalar: Any, device: Any) -> Any:
    """What the backward pass needs beside."""
    kinds = types(scalar)
    edges = max(program.directors, 1)
    sizes = {"delta": (program.vertices, kinds.vec3), "roll_delta": (edges, scalar), "edge": (edges, kinds.vec3)}
    return filled(kinds.Adjoint(), sizes, count, device)


def rollout(program: RodProgram, start: RodNumbers, actions: Tensor, table: Tensor, row: Tensor) -> RodNumbers:
    """Roll N rods out. Gradients flow to start, actions and table.

    Args:
        program: the rod.
        start: of N rods.
        actions: (N, H, A), held over each step.
        table: parameters (P, C), in the order of `rod_layout.COLUMNS`, then natural curvature of rods that twist.
        row: int32 (N,), which row of the table each rod has.

    Returns:
        The states (N, H+1, ...), the start included.
    """
    backward_only("rod rollout", *start, actions, table)
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in (*start, actions, table)):
        return forward(program, start, actions, table, row)
    return RodNumbers(*_Rollout.apply(program, *start, actions, table, row))


def forward(program: RodProgram, start: RodNumbers, actions: Tensor, table: Tensor, row: Tensor) -> RodNumbers:
    """`rollout` without gradients."""
    count, horizon = actions.shape[:2]
    states = RodNumbers(*(part.new_empty(count, horizon + 1, *part.shape[1:]) for part in start))
    for whole, part in zip(states, start, strict=True):
        whole[:, 0] = part
    if count and horizon:
        scalar, device = scalar_of(actions), wp.device_from_torch(actions.device)
        scratch = kept(scratch_of, program, count, scalar, device)
        arguments = [*_inputs(program, actions, table, row), scratch, *_arrays(states)]
        launch_beside(actions, rollout_kernel(scalar), count, arguments, share=THREAD_SHARE)
    return states


def _inputs(program: RodProgram, actions: Tensor, table: Tensor, row: Tensor) -> list[Any]:
    model = program.model(scalar_of(actions), wp.device_from_torch(actions.device))
    return [model, as_array(table, *table.shape), as_array(row), as_array(actions, *actions.shape)]


def _arrays(states: RodNumbers) -> list[Any]:
    """States (N, ..., V or E, 3 or nothing) as arrays of vectors and numbers."""
    vectors = [as_vectors(part).reshape(part.shape[:-1]) for part in states[:3]]
    return [*vectors, as_array(states.spins, *states.spins.shape)]


class _Rollout(torch.autograd.Function):
    """The forward kernel; its backward starts from the states at the steps."""

    @staticmethod
    def forward(ctx: Any, program: RodProgram, x: Tensor, v: Tensor, m: Tensor, s: Tensor, actions: Tensor, table: Tensor, row: Tensor) -> tuple[Tensor, ...]:
        states = forward(program, RodNumbers(x, v, m, s), actions, table, row)
        ctx.program = program
        ctx.save_for_backward(*states, actions, table, row)
        return tuple(states)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        program, (*parts, actions, table, row) = ctx.program, ctx.saved_tensors
        states = RodNumbers(*parts)
        count, horizon = actions.shape[:2]
        du = torch.zeros_like(actions)
        if not count or not horizon:
            return None, *(grad.sum(1) for grad in grads), du, torch.zeros_like(table), None
        gradients = RodNumbers(*(part.new_zeros(count, *part.shape[2:]) for part in states))
        between = RodNumbers(*(part.new_empty(count, program.substeps + 1, *part.shape[2:]) for part in states))
        dp = table.new_zeros(count, table.shape[-1])
        scalar, device = scalar_of(actions), wp.device_from_torch(actions.device)
        arguments = [
            *_inputs(program, actions, table, row),
            kept(scratch_of, program, count, scalar, device),
            kept(adjoint_of, program, count, scalar, device),
            *_arrays(states),
            *_arrays(between),
            *_arrays(RodNumbers(*grads)),
            *_arrays(gradients),
            as_array(dp, *dp.shape),
            as_array(du, *du.shape),
        ]
        launch_beside(actions, backward_kernel(scalar, cuda=device.is_cuda), count, arguments, share=THREAD_SHARE)
        return None, *gradients, du, torch.zeros_like(table).index_add_(0, row.long(), dp), None
