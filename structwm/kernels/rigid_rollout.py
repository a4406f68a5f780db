"""Rollouts of rigid worlds: one thread a world, all steps in one launch."""

from functools import cache

import warp as wp

from . import rigid_layout as layout
from .rigid_dynamics import dynamics
from .rigid_structs import types

VELOCITY = int(layout.ActuatorKind.VELOCITY)


@cache
def rollout_kernel(scalar: type) -> wp.Kernel:
    """The forward kernel for one type of number."""
    S = scalar
    T = types(S)
    Model, Scratch = T.Model, T.Scratch
    D = dynamics(S)
    accelerate, move = D.accelerate, D.move

    @wp.kernel(enable_backward=False, module="unique")
    def rigid_rollout(
        first: int,
        model: Model,
        table: wp.array2d(dtype=S),
        row: wp.array(dtype=wp.int32),
        actions: wp.array3d(dtype=S),
        scratch: Scratch,
        q: wp.array3d(dtype=S),
        v: wp.array3d(dtype=S),
    ):
        """`q` and `v` (N, H+1, ...) hold the start at 0 and are filled."""
        i = first + wp.tid()
        p = table[row[i]]
        for step in range(actions.shape[1]):
            u = actions[i, step]
            q_now = q[i, step + 1]
            v_now = v[i, step + 1]
            for k in range(model.configuration):
                q_now[k] = q[i, step, k]
            for k in range(model.velocity):
                v_now[k] = v[i, step, k]
            for k in range(model.actuators):
                if model.actuator_kind[k] == VELOCITY:
                    v_now[model.v_at[model.actuator_body[k]] + model.actuator_axis[k]] = u[k]
            for _ in range(model.substeps):
                accelerate(model, p, q_now, v_now, u, scratch, i)
                move(model, p, q_now, v_now, scratch, i, q_now, v_now)

    return rigid_rollout


def made_kernels() -> list[wp.Kernel]:
    """What `structwm.kernels.build` compiles."""
    return [rollout_kernel(scalar) for scalar in (wp.float32, wp.float64)]
