"""Rollouts of discrete elastic rods: one thread a rod, all steps in one launch, forward and backward.

Backward, states within a step are computed again from the state before it.
"""

from functools import cache

import warp as wp

from .rod_adjoint import adjoint
from .rod_dynamics import dynamics
from .rod_structs import types


@cache
def rollout_kernel(scalar: type) -> wp.Kernel:
    """The forward kernel for one type of number."""
    S = scalar
    T = types(S)
    vec3, Model, Scratch = T.vec3, T.Model, T.Scratch
    D = dynamics(S)
    begin, drift, kick, change = D.begin, D.drift, D.kick, D.change

    @wp.kernel(enable_backward=False, module="unique")
    def rod_rollout(
        first: int,
        model: Model,
        table: wp.array2d(dtype=S),
        row: wp.array(dtype=wp.int32),
        actions: wp.array3d(dtype=S),
        scratch: Scratch,
        x: wp.array3d(dtype=vec3),
        v: wp.array3d(dtype=vec3),
        m: wp.array3d(dtype=vec3),
        s: wp.array3d(dtype=S),
    ):
        """Positions, velocities, directors and spins (N, H+1, ...) hold the start at 0 and are filled."""
        i = first + wp.tid()
        p = table[row[i]]
        h = model.seconds
        for step in range(actions.shape[1]):
            x_now = x[i, step + 1]
            v_now = v[i, step + 1]
            m_now = m[i, step + 1]
            s_now = s[i, step + 1]
            begin(model, x[i, step], v[i, step], m[i, step], s[i, step], actions[i, step], x_now, v_now, m_now, s_now)
            drift(model, x_now, v_now, m_now, s_now, S(0.5) * h, x_now, m_now)
            for sub in range(model.substeps):
                kick(model, p, x_now, v_now, m_now, s_now, scratch, i)
                change(model, p, x_now, v_now, s_now, scratch, i, v_now, s_now)
                ahead = h
                if sub == model.substeps - 1:
                    ahead = S(0.5) * h
                drift(model, x_now, v_now, m_now, s_now, ahead, x_now, m_now)

    return rod_rollout


@cache
def backward_kernel(scalar: type, *, cuda: bool) -> wp.Kernel:
    """The backward kernel for one type of number. For CUDA its largest functions stay functions: in one piece it compiles for minutes."""
    whole = False if cuda else None
    S = scalar
    T = types(S)
    vec3, Model, Scratch, Adjoint = T.vec3, T.Model, T.Scratch, T.Adjoint
    D, A = dynamics(S, whole=whole), adjoint(S, whole=whole)
    begin, drift, kick, change, solve, solve_roll = D.begin, D.drift, D.kick, D.change, D.solve, D.solve_roll
    undrift, unrub, unvertex, unstretch, unjoint, unroll = A.undrift, A.unrub, A.unvertex, A.unstretch, A.unjoint, A.unroll

    @wp.kernel(enable_backward=False, module="unique")
    def rod_backward(
        first: int,
        model: Model,
        table: wp.array2d(dtype=S),
        row: wp.array(dtype=wp.int32),
        actions: wp.array3d(dtype=S),
        scratch: Scratch,
        adj: Adjoint,
        x: wp.array3d(dtype=vec3),
        v: wp.array3d(dtype=vec3),
        m: wp.array3d(dtype=vec3),
        s: wp.array3d(dtype=S),
        between_x: wp.array3d(dtype=vec3),
        between_v: wp.array3d(dtype=vec3),
        between_m: wp.array3d(dtype=vec3),
        between_s: wp.array3d(dtype=S),
        grad_x: wp.array3d(dtype=vec3),
        grad_v: wp.array3d(dtype=vec3),
        grad_m: wp.array3d(dtype=vec3),
        grad_s: wp.array3d(dtype=S),
        d_x: wp.array2d(dtype=vec3),
        d_v: wp.array2d(dtype=vec3),
        d_m: wp.array2d(dtype=vec3),
        d_s: wp.array2d(dtype=S),
        d_table: wp.array2d(dtype=S),
        d_actions: wp.array3d(dtype=S),
    ):
        """From gradients by all states (N, H+1, ...) to those by start, parameters and actions. `between_` (N, substeps + 1, ...) hold the states within a
        step; the last after it."""
        i = first + wp.tid()
        p = table[row[i]]
        h = model.seconds
        dx = d_x[i]
        dv = d_v[i]
        dm = d_m[i]
        ds = d_s[i]
        dp = d_table[i]
        horizon = actions.shape[1]
        for back in range(horizon):
            step = horizon - 1 - back
            u = actions[i, step]
            du = d_actions[i, step]
            for k in range(model.vertices):
                dx[k] = dx[k] + grad_x[i, step + 1, k]
                dv[k] = dv[k] + grad_v[i, step + 1, k]
            for k in range(model.directors):
                dm[k] = dm[k] + grad_m[i, step + 1, k]
                ds[k] = ds[k] + grad_s[i, step + 1, k]
            v_start = between_v[i, 0]
            s_start = between_s[i, 0]
            x_start = between_x[i, 0]
            m_start = between_m[i, 0]
            begin(model, x[i, step], v[i, step], m[i, step], s[i, step], u, x_start, v_start, m_start, s_start)
            drift(model, x_start, v_start, m_start, s_start, S(0.5) * h, x_start, m_start)
            for sub in range(model.substeps):
                x_now = between_x[i, sub]
                v_now = between_v[i, sub]
                m_now = between_m[i, sub]
                s_now = between_s[i, sub]
                v_next = between_v[i, sub + 1]
                s_next = between_s[i, sub + 1]
                kick(model, p, x_now, v_now, m_now, s_now, scratch, i)
                change(model, p, x_now, v_now, s_now, scratch, i, v_next, s_next)
                drift(model, x_now, v_next, m_now, s_next, h, between_x[i, sub + 1], between_m[i, sub + 1])
            for back_sub in range(model.substeps):
                sub = model.substeps - 1 - back_sub
                x_now = between_x[i, sub]
                v_now = between_v[i, sub]
                m_now = between_m[i, sub]
                s_now = between_s[i, sub]
                kick(model, p, x_now, v_now, m_now, s_now, scratch, i)
                for k in range(model.vertices):
                    adj.delta[i, k] = scratch.delta[i, k]
                for k in range(model.directors):
                    adj.roll_delta[i, k] = scratch.roll_delta[i, k]
                ahead = h
                if back_sub == 0:
                    ahead = S(0.5) * h
                undrift(model, x_now, between_v[i, sub + 1], m_now, between_s[i, sub + 1], ahead, adj, dx, dv, dm, ds, i)
                unrub(model, p, x_now, v_now, adj, dx, dv, dp, i)
                for k in range(model.vertices):
                    scratch.delta[i, k] = dv[k]
                    if model.drive[k] >= 0:
                        scratch.delta[i, k] = vec3()
                for k in range(model.directors):
                    scratch.roll_delta[i, k] = ds[k]
                solve(model, scratch, i)
                unvertex(model, p, x_now, v_now, scratch, adj, dx, dv, dp, i)
                unstretch(model, p, x_now, v_now, scratch, adj, dx, dv, dp, i)
                unjoint(model, p, x_now, v_now, m_now, s_now, scratch, adj, dx, dv, dm, ds, dp, i)
                for k in range(model.directors):
                    if model.roll[k] != -1:
                        scratch.roll_delta[i, k] = S(0.0)
                solve_roll(model, scratch, i)
                unroll(model, p, x_now, m_now, s_now, scratch, adj, dx, dm, ds, dp, i)
            begin(model, x[i, step], v[i, step], m[i, step], s[i, step], u, x_start, v_start, m_start, s_start)
            undrift(model, x_start, v_start, m_start, s_start, S(0.5) * h, adj, dx, dv, dm, ds, i)
            for k in range(model.vertices):
                at = model.drive[k]
                if at >= 0:
                    du[at] = du[at] + dv[k][0]
                    du[at + 1] = du[at + 1] + dv[k][1]
                    du[at + 2] = du[at + 2] + dv[k][2]
                    dv[k] = vec3()
            for k in range(model.directors):
                at = model.roll[k]
                if at >= 0:
                    du[at] = du[at] + ds[k]
                if at != -1:
                    ds[k] = S(0.0)
        for k in range(model.vertices):
            dx[k] = dx[k] + grad_x[i, 0, k]
            dv[k] = dv[k] + grad_v[i, 0, k]
        for k in range(model.directors):
            dm[k] = dm[k] + grad_m[i, 0, k]
            ds[k] = ds[k] + grad_s[i, 0, k]

    return rod_backward


def made_kernels() -> list[wp.Kernel]:
    """What `structwm.kernels.build` compiles."""
    return [kernel for scalar in (wp.float32, wp.float64) for kernel in (rollout_kernel(scalar), backward_kernel(scalar, cuda=False))]


def kernels_ahead() -> list[wp.Kernel]:
    """Of these what is compiled ahead of time for CUDA: float32 alone; float64 is compiled where it is first used."""
    return [rollout_kernel(wp.float32), backward_kernel(wp.float32, cuda=True)]
