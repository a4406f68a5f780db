"""Rollouts of particles joined by springs as a torch operator, on CPU and CUDA: forces gathered over each particle's own springs, gradients by hand.

Memory with gradients is that of the states at the steps, which are the result, and of the substeps of one step: for T substeps least with about sqrt(T) steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from .launching import as_array, as_vectors, backward_only, scalar_of
from .neighbors import neighbors
from .program import Program
from .spring_adjoint import backward_kernels
from .spring_kernels import forward_kernels, spring_tick
from .spring_layout import COLUMNS
from .spring_structs import types
from .stages import Stage, cut, run

THREAD_SHARE = 20_000  # ends of springs in a substep that make a thread worth starting where threads wait for each other after it
CANDIDATES = 24  # particles that one may touch at most


class SpringTable(NamedTuple):
    """Parameters of R draws."""

    common: Tensor  # (R, C), columns in the order of `spring_layout.COLUMNS`
    stiffness: Tensor  # (R, M) [N/m], 0 for springs that are not there
    damping: Tensor  # (R, M) [N s/m]


@dataclass(frozen=True, eq=False)
class SpringProgram(Program):
    """A network of springs for one time step, as arrays."""

    springs: NDArray[np.int64]  # (M, 2)
    rest: NDArray[np.float64]  # (M,) [m]
    home: NDArray[np.float64]  # (P, 3) [m]
    weight: NDArray[np.float64]  # (P,) share of the mass
    drive: NDArray[np.int32]  # (P,) column of the action with the velocity of a driven particle, -1: free
    pusher: NDArray[np.int32]  # (C,) driven particles that push others
    reach: NDArray[np.float64]  # (C,) their radius [m]
    kind: NDArray[np.int32]  # (O,) of obstacles
    size: NDArray[np.float64]  # (O, 3)
    turn: NDArray[np.float64]  # (O, 3, 3) world_from_obstacle
    place: NDArray[np.float64]  # (O, 3)
    touching: float  # distance up to which particles are looked for that one may touch [m]; 0: particles do not touch each other
    seconds: float  # of a substep
    substeps: int  # in a step
    stages: int = 1  # of the dashpots in a substep

    @property
    def particles(self) -> int:
        """P."""
        return len(self.weight)

    def _make(self, scalar: Any, device: Any) -> Any:
        kinds = types(scalar)
        model = kinds.Model()
        model.particles, model.pushers, model.obstacles = self.particles, len(self.pusher), len(self.kind)
        model.partners = CANDIDATES if self.touching else 0
        model.seconds, model.stages = scalar(self.seconds), self.stages
        stages = chebyshev(self.stages)
        for name, numbers in (("carry", stages.carry), ("carry_second", stages.carry_second), ("share", self.seconds * stages.share)):
            setattr(model, name, wp.array(numbers, dtype=scalar, device=device))
        ends = self.springs.reshape(-1)
        order = np.argsort(ends, kind="stable")
        own = {
            "first": np.searchsorted(ends[order], np.arange(self.particles + 1)),
            "spring": order // 2,
            "other": self.springs[:, ::-1].reshape(-1)[order],
        }
        for name in ("first", "other", "spring"):
            setattr(model, name, wp.array(own[name], dtype=wp.int32, device=device))
        for name, dtype in (("rest", scalar), ("weight", scalar), ("reach", scalar), ("drive", wp.int32), ("pusher", wp.int32), ("kind", wp.int32)):
            setattr(model, name, wp.array(getattr(self, name), dtype=dtype, device=device))
        for name in ("size", "place", "home"):
            setattr(model, name, wp.array(getattr(self, name), dtype=kinds.vec3, device=device))
        model.turn = wp.array(self.turn, dtype=kinds.mat33, device=device)
        return model

    def partners(self, positions: Tensor) -> Tensor:
        """Particles that each may touch within a step, int32 (N, P, K), -1 where there are no more; positions (N, P, 3)."""
        finite = positions.isfinite().all(-1)
        _, found, _ = neighbors(positions, positions, finite, finite, CANDIDATES, self.touching, False, True)
        return found.to(torch.int32)


def rollout(program: SpringProgram, x: Tensor, v: Tensor, actions: Tensor, table: SpringTable, row: Tensor) -> tuple[Tensor, Tensor]:
    """Roll N worlds out. Gradients flow to start, actions and table.

    Args:
        program: the network.
        x: places at the start (N, P, 3) [m].
        v: velocities (N, P, 3) [m/s].
        actions: (N, H, A), held over each step.
        table: parameters.
        row: int32 (N,), which row of the table each world has.

    Returns:
        Places and velocities (N, H+1, P, 3), the start included.
    """
    backward_only("spring rollout", x, v, actions, *table)
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in (x, v, actions, *table)):
        return forward(program, x, v, actions, table, row)
    xs, vs = _Rollout.apply(program, x, v, actions, *table, row)
    return xs, vs


class Chebyshev(NamedTuple):
    """Coefficients of the stages of damping, (s,): v_j = carry v_(j-1) + carry_second v_(j-2) + share h a(v_(j-1))."""

    carry: NDArray[np.float64]
    carry_second: NDArray[np.float64]
    share: NDArray[np.float64]
    reach: float  # rate of damping times the substep that stays stable


@cache
def chebyshev(stages: int) -> Chebyshev:
    """First-order Runge-Kutta-Chebyshev (van der Houwen and Sommeijer, 1980, equation 2.9), damped a little."""
    w0 = 1 + 0.05 / stages**2
    value, slope = [1.0, w0], [0.0, 1.0]
    for _ in range(2, stages + 1):
        slope.append(2 * value[-1] + 2 * w0 * slope[-1] - slope[-2])
        value.append(2 * w0 * value[-1] - value[-2])
    w1 = value[stages] / slope[stages]
    carry, second, share = np.ones(stages), np.zeros(stages), np.full(stages, w1 / w0)
    for j in range(2, stages + 1):
        carry[j - 1] = 2 * w0 * value[j - 1] / value[j]
        second[j - 1] = -value[j - 2] / value[j]
        share[j - 1] = 2 * w1 * value[j - 1] / value[j]
    return Chebyshev(carry, second, share, (1 + w0) / w1)


class _Work:
    """The arrays of a rollout, and its stages."""

    def __init__(self, program: SpringProgram, xs: Tensor, vs: Tensor, actions: Tensor, table: SpringTable, row: Tensor, *, depth: int) -> None:
        scalar, device = scalar_of(xs), wp.device_from_torch(xs.device)
        self.program, self.scalar, self.xs = program, scalar, xs
        self.kinds = types(scalar)
        self.count, self.horizon = actions.shape[:2]
        self.model = program.model(scalar, device)
        self.cut = cut(self.count, program.particles, 2 * len(program.springs) + program.particles, share=THREAD_SHARE, device=xs.device)
        self.table = self.kinds.Table()
        self.table.row = as_array(row)
        for name, part in table._asdict().items():
            setattr(self.table, name, as_array(part, *part.shape))
        within = xs.new_empty(3 + program.stages, depth, self.count, program.particles, 3)
        self.partner = torch.full((self.count, program.particles, self.model.partners), -1, dtype=torch.int32, device=xs.device)
        self.steps = torch.zeros(self.cut.threads, dtype=torch.int32, device=xs.device)
        self.paths = [self._path(xs, vs, actions, within, self.steps[part : part + 1]) for part in range(self.cut.threads)]
        self.depth = depth

    def _path(self, xs: Tensor, vs: Tensor, actions: Tensor, within: Tensor, step: Tensor) -> Any:
        path = self.kinds.Path()
        path.step = as_array(step)
        path.actions = as_array(actions, *actions.shape)
        path.x, path.v = (as_vectors(part).reshape(part.shape[:-1]) for part in (xs, vs))
        for name, part in (("middle", within[0]), ("speed", within[1]), ("push", within[2]), ("stage", within[3:].flatten(0, 1))):
            setattr(path, name, as_vectors(part).reshape(part.shape[:-1]))
        path.partner = as_array(self.partner, *self.partner.shape)
        return path

    def ahead(self) -> list[Stage]:
        """The stages of a step forward."""
        kernels, substeps = forward_kernels(self.scalar), self.program.substeps
        found = [Stage(kernels.begin, lambda part: (self.model, self.table, self.paths[part]))]
        for sub in range(substeps):
            slots = (sub % self.depth, -1 if sub == substeps - 1 else (sub + 1) % self.depth)
            found.append(Stage(kernels.push, self._with(*slots)))
            found += [Stage(kernels.relax, self._with(*slots, j)) for j in range(self.program.stages - 1)]
        return found

    def back(self, adjoints: Sequence[Any]) -> list[Stage]:
        """The stages of a step backward, after those forward."""
        kernels = backward_kernels(self.scalar)
        found = [Stage(kernels.seed, lambda part: (self.model, self.paths[part], adjoints[part]))]
        for sub in range(self.program.substeps - 1, -1, -1):
            found.append(Stage(kernels.unfinish, self._with(sub, adjoints=adjoints)))
            found += [Stage(kernels.unrelax, self._with(sub, j, adjoints=adjoints)) for j in range(self.program.stages, 1, -1)]
            found.append(Stage(kernels.unpush, self._with(sub, adjoints=adjoints)))
        return [*found, Stage(kernels.unbegin, lambda part: (self.model, self.paths[part], adjoints[part]))]

    def _with(self, *numbers: int, adjoints: Sequence[Any] = ()) -> Callable[[int], tuple[Any, ...]]:
        """The arguments of a kernel, by part."""
        return lambda part: (self.model, self.table, self.paths[part], *adjoints[part : part + 1], *numbers)

    def tick(self, by: int) -> Stage:
        """To another step."""
        return Stage(spring_tick, lambda part: (self.paths[part].step, by), once=True)

    def looking(self, walk: int) -> Any:
        """What is called before each step where particles touch each other: who may touch whom. `walk`: 1 forward, -1 backward."""
        if not self.model.partners:
            return None
        order = iter(range(self.horizon) if walk > 0 else range(self.horizon - 1, -1, -1))

        def look() -> None:
            self.partner.copy_(self.program.partners(self.xs[:, next(order)]))

        return look


def forward(
    program: SpringProgram, x: Tensor, v: Tensor, actions: Tensor, table: SpringTable, row: Tensor, *, graph: bool | None = None
) -> tuple[Tensor, Tensor]:
    """`rollout` without gradients; `graph` as for `stages.run`."""
    count, horizon = actions.shape[:2]
    xs, vs = (part.new_empty(count, horizon + 1, *part.shape[1:]) for part in (x, v))
    xs[:, 0], vs[:, 0] = x, v
    if count and horizon:
        with torch.no_grad():
            work = _Work(program, xs, vs, actions, table, row, depth=2)
            run([*work.ahead(), work.tick(1)], horizon, work.cut, x.device, before=work.looking(1), graph=graph)
    return xs, vs


def backward(
    program: SpringProgram,
    xs: Tensor,
    vs: Tensor,
    actions: Tensor,
    table: SpringTable,
    row: Tensor,
    by_x: Tensor,
    by_v: Tensor,
    *,
    graph: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor, SpringTable]:
    """From gradients by the states at the steps (N, H+1, P, 3) to those by start, actions and table. The states within a step are computed again."""
    count, horizon = actions.shape[:2]
    work = _Work(program, xs, vs, actions, table, row, depth=program.substeps)  # writes the same numbers into xs and vs again
    kinds, threads = work.kinds, work.cut.threads
    dx, dv, push = (torch.zeros_like(xs[:, 0]) for _ in range(3))
    stage = xs.new_zeros(3, *dx.shape)
    common = table.common.new_zeros(threads, count, len(COLUMNS))
    du = actions.new_zeros(threads, *actions.shape)
    stiffness, damping = (part.new_zeros(count, part.shape[1]) for part in (table.stiffness, table.damping))
    adjoints = []
    for part in range(threads):
        adj = kinds.Adjoint()
        for name, tensor in (("by_x", by_x), ("by_v", by_v), ("x", dx), ("v", dv), ("stage", stage), ("push", push)):
            setattr(adj, name, as_vectors(tensor).reshape(tensor.shape[:-1]))
        for name, tensor in (("common", common[part]), ("stiffness", stiffness), ("damping", damping), ("actions", du[part])):
            setattr(adj, name, as_array(tensor, *tensor.shape))
        adjoints.append(adj)
    work.steps.fill_(horizon - 1)
    run([*work.ahead(), *work.back(adjoints), work.tick(-1)], horizon, work.cut, xs.device, before=work.looking(-1), graph=graph)
    gradients = (torch.zeros_like(whole).index_add_(0, row.long(), part) for whole, part in zip(table, (common.sum(0), stiffness, damping), strict=True))
    return dx + by_x[:, 0], dv + by_v[:, 0], du.sum(0), SpringTable(*gradients)


class _Rollout(torch.autograd.Function):
    """The forward kernels; the backward pass starts from the states at the steps."""

    @staticmethod
    def forward(ctx: Any, program: SpringProgram, x: Tensor, v: Tensor, actions: Tensor, common: Tensor, k: Tensor, c: Tensor, row: Tensor) -> Any:
        xs, vs = forward(program, x, v, actions, SpringTable(common, k, c), row)
        ctx.program = program
        ctx.save_for_backward(xs, vs, actions, common, k, c, row)
        return xs, vs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_x: Tensor, by_v: Tensor) -> tuple[Tensor | None, ...]:
        xs, vs, actions, common, k, c, row = ctx.saved_tensors
        table = SpringTable(common, k, c)
        if not actions.shape[0] or not actions.shape[1]:
            return None, by_x.sum(1), by_v.sum(1), torch.zeros_like(actions), *(torch.zeros_like(part) for part in table), None
        dx, dv, du, by_table = backward(ctx.program, xs, vs, actions, table, row, by_x.contiguous(), by_v.contiguous())
        return None, dx, dv, du, *by_table, None
