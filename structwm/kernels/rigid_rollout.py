"""Rollouts of rigid worlds: one thread a world, all steps in one launch."""

from functools import cache

import warp as wp

from .rigid_adjoint import adjoint
from .rigid_contacts_adjoint import contacts_adjoint
from .rigid_dynamics import VELOCITY, dynamics
from .rigid_structs import types


@cache
def rollout_kernel(scalar: type) -> wp.Kernel:
    """The forward kernel for one type of number."""
    S = scalar
    T = types(S)
    Model, Scratch = T.Model, T.Scratch
    D = dynamics(S, whole=True)  # structs are passed by value, and large: a third of the time where they are copied
    begin, accelerate, move, drift = D.begin, D.accelerate, D.move, D.drift

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
            begin(model, q[i, step], v[i, step], u, q_now, v_now)
            drift(model, p, q_now, v_now, S(0.5) * model.seconds)
            for _ in range(model.substeps):
                accelerate(model, p, q_now, v_now, u, scratch, i)
                move(model, p, q_now, v_now, scratch, i, q_now, v_now)
            drift(model, p, q_now, v_now, S(-0.5) * model.seconds)

    return rigid_rollout


@cache
def backward_kernel(scalar: type, *, cuda: bool) -> wp.Kernel:
    """The backward kernel for one type of number. For CUDA its largest functions stay functions: in one piece it compiles for ten minutes instead of half a
    one. On a CPU that would cost a sixth of its speed, as structs are passed by value."""
    whole = False if cuda else None
    S = scalar
    T = types(S)
    Model, Scratch, Adjoint = T.Model, T.Scratch, T.Adjoint
    D, A, C = dynamics(S, whole=whole), adjoint(S, whole=whole), contacts_adjoint(S, whole=whole)
    begin, commanded, accelerate, move, drift, solve, lead = D.begin, D.commanded, D.accelerate, D.move, D.drift, D.solve, D.lead
    clear, unmove, undrift, swing, look = A.clear, A.unmove, A.undrift, A.swing, A.look
    untouches, unpull, weigh, unjoint, unplace = C.untouches, A.unpull, A.weigh, A.unjoint, A.unplace

    @wp.kernel(enable_backward=False, module="unique")
    def rigid_backward(
        first: int,
        model: Model,
        table: wp.array2d(dtype=S),
        row: wp.array(dtype=wp.int32),
        actions: wp.array3d(dtype=S),
        scratch: Scratch,
        adj: Adjoint,
        q: wp.array3d(dtype=S),
        v: wp.array3d(dtype=S),
        between_q: wp.array3d(dtype=S),
        between_v: wp.array3d(dtype=S),
        grad_q: wp.array3d(dtype=S),
        grad_v: wp.array3d(dtype=S),
        d_q: wp.array2d(dtype=S),
        d_v: wp.array2d(dtype=S),
        d_table: wp.array2d(dtype=S),
        d_actions: wp.array3d(dtype=S),
    ):
        """From gradients by all states (N, H+1, ...) to those by start, parameters and actions. `between_` (N, substeps+1, ...) hold the states within a step,
        which are computed again from the state before it."""
        i = first + wp.tid()
        p = table[row[i]]
        dp = d_table[i]
        dq = d_q[i]
        dv = d_v[i]
        horizon = actions.shape[1]
        for back_step in range(horizon):
            step = horizon - 1 - back_step
            u = actions[i, step]
            du = d_actions[i, step]
            q_first = between_q[i, 0]
            v_first = between_v[i, 0]
            for k in range(model.configuration):
                dq[k] = dq[k] + grad_q[i, step + 1, k]
            for k in range(model.velocity):
                dv[k] = dv[k] + grad_v[i, step + 1, k]
            begin(model, q[i, step], v[i, step], u, q_first, v_first)
            drift(model, p, q_first, v_first, S(0.5) * model.seconds)
            for s in range(model.substeps):
                accelerate(model, p, between_q[i, s], between_v[i, s], u, scratch, i)
                move(model, p, between_q[i, s], between_v[i, s], scratch, i, between_q[i, s + 1], between_v[i, s + 1])
            q_last = between_q[i, model.substeps]
            v_last = between_v[i, model.substeps]
            undrift(model, p, q_last, v_last, S(-0.5) * model.seconds, dq, dv, dp)
            for back_s in range(model.substeps):
                s = model.substeps - 1 - back_s
                q_now = between_q[i, s]
                v_now = between_v[i, s]
                accelerate(model, p, q_now, v_now, u, scratch, i)
                for k in range(model.velocity):
                    adj.rate[i, k] = scratch.rate[i, k]
                unmove(model, p, q_now, v_now, scratch, adj, dq, dv, dp, i)
                if model.trees > 0:
                    solve(model, scratch, i)
                stages = wp.int32(1)
                if model.chained == 1:
                    stages = wp.int32(3)
                for stage in range(stages):
                    look(model, v_now, scratch, adj, stage, stages, i)
                    if stage == 1:
                        solve(model, scratch, i)
                        lead(model, v_now, scratch, i)
                    clear(model, adj, i)
                    if model.trees > 0:
                        swing(model, p, q_now, adj.speed[i], scratch, adj, i)
                    if stage == stages - 1:
                        untouches(model, p, scratch, adj, dp, i)
                        unpull(model, p, u, adj, dp, du, i)
                    if model.trees > 0 and stage < 2:
                        weigh(model, p, scratch, adj, dp, i)
                        unjoint(model, p, q_now, v_now, u, scratch, adj, dq, dv, dp, du, i)
                    unplace(model, p, q_now, adj.speed[i], scratch, adj, dq, adj.d_speed[i], dp, i)
                    for k in range(model.velocity):
                        dv[k] = dv[k] + adj.d_speed[i, k]
            begin(model, q[i, step], v[i, step], u, q_last, v_last)
            undrift(model, p, q_last, v_last, S(0.5) * model.seconds, dq, dv, dp)
            for k in range(model.actuators):
                if model.ints[model.actuator_kind + k] == VELOCITY:
                    at = commanded(model, k)
                    du[k] = du[k] + dv[at]
                    dv[at] = S(0.0)
        for k in range(model.configuration):
            dq[k] = dq[k] + grad_q[i, 0, k]
        for k in range(model.velocity):
            dv[k] = dv[k] + grad_v[i, 0, k]

    return rigid_backward


def made_kernels() -> list[wp.Kernel]:
    """What `structwm.kernels.build` compiles."""
    return [kernel for scalar in (wp.float32, wp.float64) for kernel in (rollout_kernel(scalar), backward_kernel(scalar, cuda=False))]


def kernels_ahead() -> list[wp.Kernel]:
    """Of these what is compiled ahead of time for CUDA: float32 alone, half a minute a kernel; float64 is compiled where it is first used."""
    return [rollout_kernel(wp.float32), backward_kernel(wp.float32, cuda=True)]
