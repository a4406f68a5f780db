"""A Gaussian process of pushing corrections, observed only through final poses, over several objects and surfaces.

The rates g(x) of `push_correction` are a sum of parts, each linear in random features of the contact: g_k(x) = sum_b phi_b(x) W_bk for cell k. Across cells
the weights W_bk are correlated as common value + effect of the surface + of the shape + own effect. The final pose depends on them, to first order, by

    observed - predicted = sum over steps of S_t J_t g(x_t) + noise,

J_t what unit rates do to the pose in step t, S_t what a changed pose after step t does to the final one. Noise is Student-t around what was measured and what
differs between pushes of the same kind: its covariance is measure^2 I + process^2 (S J summed) (S J summed)' in units of `SCALE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from structwm.data.pushes import Pushes
from structwm.geometry.planar import wrap_angle
from structwm.transition import TransitionModel
from structwm.wrappers import Residual

from .push_correction import Block, FeatureMap, Fused, PushCorrection
from .push_features import Outline, PushGeometry, contact_step
from .pushing import PushState
from .recorded_pushes import SECONDS, push_windows

SCALE = (0.0014, 0.0014, 0.045)  # of unexplained errors in x, y [m] and yaw [rad]
LIMIT = 0.006  # [m] the most that unit rates in one step may do to the final pose; more is a bifurcation, where derivatives mean nothing
NUDGE = (1e-4, 1e-4, 2e-3)  # of the differences of the final pose [m, m, rad]


@dataclass(frozen=True)
class Part:
    """One term of the rates and its standard deviations over cells."""

    block: Block
    common: float = 0.0
    surface: float = 0.0
    shape: float = 0.0
    own: float = 0.0

    def covariance(self, first: Sequence[tuple[str, str]], second: Sequence[tuple[str, str]]) -> Tensor:
        """Between cells (surface, shape), (K, L)."""
        rows = [[self.common**2 + (a[0] == b[0]) * self.surface**2 + (a[1] == b[1]) * self.shape**2 + (a == b) * self.own**2 for b in second] for a in first]
        return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class Effect:
    """N pushes to first order in the rates."""

    columns: Tensor  # (N, H, len(COLUMNS)) features
    jacobian: Tensor  # (N, H, 3, 2) of the final pose in the rates of each step
    error: Tensor  # (N, 3) observed minus predicted final pose [m, m, rad]
    cell: Tensor  # int64 (N,)

    def __getitem__(self, index: Tensor) -> Effect:
        return Effect(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def cat(cls, parts: Sequence[Effect]) -> Effect:
        """All pushes of several."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def wrap_yaw(difference: Tensor) -> Tensor:
    """Pose differences (*B, 3) with the yaw in [-pi, pi)."""
    return torch.cat((difference[..., :2], wrap_angle(difference[..., 2:])), -1)


@torch.no_grad()
def linearise(
    base: TransitionModel[PushState], geometry: PushGeometry, pushes: Pushes, *, steps: int, cell: int = 0, correction: PushCorrection | None = None
) -> Effect:
    """The effect of rates on N pushes around the path of `base`, or of `base` and a correction."""
    model = base.model if isinstance(base, Fused) else base
    if correction is not None:
        model = Residual(base, correction)
    outline, n = Outline.of(geometry.shape), len(pushes)
    batch = push_windows(pushes, dt=SECONDS / steps)
    state, actions = batch.start, batch.actions
    states = model.roll(state, actions).states
    nudge = torch.tensor(NUDGE, dtype=torch.float64)
    offsets = torch.cat((nudge.diag(), -nudge.diag()))
    columns, jacobians = [], []
    for t in range(steps):
        before, after = states[:, t], states[:, t + 1].pose
        contact = contact_step(geometry, outline, before, base.step(before, actions[:, t]))
        lever, travel = after[:, :2] - contact.point, contact.travel.unsqueeze(-1)
        turn = torch.stack((-lever[:, 1], lever[:, 0], torch.ones(n, dtype=torch.float64)), -1) / outline.gyration
        jacobian = torch.stack((torch.nn.functional.pad(contact.tangent, (0, 1)), turn), -1) * travel.unsqueeze(-1)
        if t < steps - 1:
            moved = PushState(pose=(after[:, None] + offsets).flatten(0, 1), pusher=states.pusher[:, t + 1].repeat_interleave(6, 0), batch_size=[6 * n])
            final = model.roll(moved, actions[:, t + 1 :].repeat_interleave(6, 0)).states.pose[:, -1].unflatten(0, (n, 6))
            jacobian = ((final[:, :3] - final[:, 3:]) / (2 * nudge[:, None])).mT @ jacobian
        columns.append(contact.features)
        jacobians.append(jacobian)
    error = wrap_yaw(torch.tensor(pushes.final_pose) - states.pose[:, -1])
    return Effect(torch.stack(columns, 1), limited(torch.stack(jacobians, 1)), error, torch.full((n,), cell))


def limited(jacobian: Tensor) -> Tensor:
    """Jacobians (N, H, 3, 2) with no column above `LIMIT`, yaw counted with 30 mm."""
    size = (jacobian * jacobian.new_tensor([1.0, 1.0, 0.03])[:, None]).norm(dim=-2, keepdim=True)
    return jacobian * (LIMIT / size.clamp_min(1e-12)).clamp_max(1.0)


class RateProcess:
    """The posterior of the rates' weights.

    Args:
        parts: terms of the rates.
        cells: (surface, shape) of each cell that the data has.
        amplitude: factor of all standard deviations of the parts.
        measure: standard deviation of the noise in units of `SCALE`, whose overall size is estimated.
        process: the same of the push-to-push variation of the rates.
        dof: degrees of freedom of the Student-t distribution.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        cells: Sequence[tuple[str, str]],
        *,
        amplitude: float = 1.0,
        measure: float = 0.7,
        process: float = 0.1,
        dof: float = 6.0,
        iterations: int = 3,
    ) -> None:
        self.parts, self.cells, self.amplitude = tuple(parts), tuple(cells), amplitude
        self.measure, self.process, self.dof, self.iterations = measure, process, dof, iterations
        self.map = FeatureMap([part.block for part in parts])
        self.pull = torch.zeros(0)

    def design(self, effect: Effect) -> list[Tensor]:
        """By part, (3 N, 2 D): the final poses' derivatives in the weights (D, 2), in units of `SCALE`."""
        phi = self.map(effect.columns)
        whole = torch.einsum("nhd,nhco->ncdo", phi, effect.jacobian) / phi.new_tensor(SCALE)[:, None, None]
        return [part.flatten(2).flatten(0, 1) for part in whole.split(self.map.sizes, 2)]

    def fit(self, effect: Effect) -> RateProcess:
        """Condition on pushes; weights from `weights` follow."""
        self.rows, self.of = self.design(effect), effect.cell.repeat_interleave(3)
        n, scale = len(effect.error), effect.error.new_tensor(SCALE)
        target = (effect.error / scale).flatten()
        gram = target.new_zeros(3 * n, 3 * n)
        for part, rows in zip(self.parts, self.rows, strict=True):
            gram += self.amplitude**2 * part.covariance(self.cells, self.cells)[self.of][:, self.of] * (rows @ rows.T)
        spread = effect.jacobian.sum(1) / scale[:, None]
        noise = self.measure**2 * torch.eye(3, dtype=target.dtype) + self.process**2 * spread @ spread.mT
        precision, left, index = torch.linalg.inv(noise), target, torch.arange(n)
        size = target.new_tensor(0.0)
        for iteration in range(self.iterations):
            each = left.reshape(n, 3)
            squares = torch.einsum("ni,nij,nj->n", each, precision, each)
            size = self._size(squares) if iteration == 0 else size
            weight = (self.dof + 3) / (self.dof + squares / size)
            blocks = noise * (size / weight)[:, None, None]
            system = gram.clone().reshape(n, 3, n, 3)
            system[index, :, index, :] += blocks
            factor = torch.linalg.cholesky(system.reshape(3 * n, 3 * n))
            self.pull = torch.cholesky_solve(target[:, None], factor)[:, 0]
            left = torch.einsum("nij,nj->ni", blocks, self.pull.reshape(n, 3)).flatten()
        return self

    def _size(self, squares: Tensor) -> Tensor:
        """Fixed point of the noise's overall variance."""
        size = (squares.mean() / 3).clamp_min(1e-12)
        for _ in range(30):
            size = ((self.dof + 3) / (self.dof + squares / size) * squares).mean() / 3
        return size.clamp_min(1e-12)

    def weights(self, cell: tuple[str, str]) -> Tensor:
        """Mean weights (D, 2) of a cell (surface, shape), which the data need not have."""
        found = []
        for part, rows in zip(self.parts, self.rows, strict=True):
            share = self.amplitude**2 * part.covariance([cell], self.cells)[0][self.of]
            found.append((rows.T @ (share * self.pull)).reshape(-1, 2))
        return torch.cat(found)

    def predict(self, effect: Effect) -> Tensor:
        """Expected `error` (N, 3) of pushes in cells that the data has."""
        out = torch.zeros_like(effect.error)
        for k in effect.cell.unique().tolist():
            at = effect.cell == k
            rows = torch.cat(self.design(effect[at]), 1)
            out[at] = (rows @ self.weights(self.cells[k]).flatten()).reshape(-1, 3) * out.new_tensor(SCALE)
        return out
