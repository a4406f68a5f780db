"""What is added to the positions that a twin predicts of particles: a causal function of the predicted motion so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .particle_frame import ParticleFrame, mirrored, turned_in, turned_out
from .particle_memory import CausalMap

INPUTS, OUTPUTS = 96, 64  # principal components of inputs and of corrections at most


class ParticleCorrection(nn.Module):
    """Corrections of particles in a frame that turns with two of them, so that they turn with the scene.

    Inputs are positions and velocities in that frame, and by how much the velocities of the driven particles have changed, standardised and projected on their
    principal components; outputs are components of the corrections. Where mirrored scenes have mirrored corrections, each map is asked about the scene and
    its mirror image; all answers are averaged. Far from the inputs of the training the correction fades: `trust` falls at once where the distance
    (Mahalanobis, with what the components leave out as one more) is above `near` and is zero at `far`; it comes back over `recovery` steps, for the memories
    need as long to forget.

    Args:
        frame: of inputs and corrections.
        free: the particles that are corrected.
        pushed: the particles of which changes of velocity are seen: the driven ones.
        maps: that are averaged.
        mean, scale: (F,) of the inputs, F = 6 V + 3 of each pushed.
        axes: (F, I) principal components of the standardised inputs.
        spread: (I + 1,) root mean squares of these and of the rest.
        basis: (O, 3 P) components of the corrections of the P free particles [m].
        near, far: distances from the training inputs, in units of their root mean square.
        recovery: steps.
        mirror: whether mirrored scenes have mirrored corrections, as those of bodies that are alike on both sides.
    """

    def __init__(
        self,
        frame: ParticleFrame,
        free: Sequence[int],
        pushed: Sequence[int],
        maps: Sequence[CausalMap],
        *,
        mean: Tensor,
        scale: Tensor,
        axes: Tensor,
        spread: Tensor,
        basis: Tensor,
        near: float,
        far: float,
        recovery: float = 100.0,
        mirror: bool = True,
    ) -> None:
        super().__init__()
        self.frame, self.free, self.pushed, self.near, self.far, self.recovery = frame, tuple(free), tuple(pushed), near, far, recovery
        self.mirror = mirror
        self.maps = nn.ModuleList(maps).requires_grad_(False)  # training asks for gradients of its own; rollouts are fast where nothing does
        self._sides = 2 if mirror else 1  # the scene and its mirror image
        self._sizes = [part.memory for part in maps for _ in range(self._sides)]  # of each map's memories, of each side
        for name, value in (("mean", mean), ("scale", scale), ("axes", axes), ("spread", spread), ("basis", basis)):
            self.register_buffer(name, value.clone())

    mean: Tensor
    scale: Tensor
    axes: Tensor
    spread: Tensor
    basis: Tensor

    @property
    def memory(self) -> int:
        """How many numbers are carried from step to step."""
        return sum(self._sizes)

    def forward(self, positions: Tensor, velocities: Tensor, memory: Tensor, trust: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Corrections [m] (N, T, V, 3), memories (N, T, M) and trust (N, T, 1).

        Args:
            positions: predicted by the twin, (N, T, V, 3) [m].
            velocities: likewise, and before the first of them, (N, T+1, V, 3) [m/s].
            memory: (N, M) before the first of them.
            trust: (N, 1) likewise.
        """
        kind = self.mean.dtype
        direction = self.frame.direction(positions)
        inputs = self.inputs(positions, velocities, direction)
        trusted = self.trusted(self.distance(inputs), trust[..., 0].to(kind))
        parts = memory.to(kind).split(self._sizes, -1)
        sides = (inputs, self.mirrored_inputs(inputs))[: self._sides]
        total: Tensor = torch.zeros((), dtype=kind, device=positions.device)
        memories = []
        for k, part in enumerate(self.maps):
            for side, seen in enumerate(map(self.project, sides)):
                found, kept = part(seen, parts[self._sides * k + side])
                change = self.expand(found)
                total = total + (mirrored(change) if side else change)
                memories.append(kept)
        change = turned_out((total / (self._sides * len(self.maps)) * trusted[..., None, None]).to(positions), direction)
        whole = positions.new_zeros(positions.shape).index_copy(-2, torch.tensor(self.free, device=positions.device), change)
        return whole, torch.cat(memories, -1).to(positions), trusted.unsqueeze(-1).to(positions)

    def inputs(self, positions: Tensor, velocities: Tensor, direction: Tensor) -> Tensor:
        """(N, T, F) in the frame [m, m/s]."""
        return seen_by(self.frame, self.pushed, positions, velocities, direction).flatten(-2).to(self.mean.dtype)

    def mirrored_inputs(self, inputs: Tensor) -> Tensor:
        """Inputs of the mirrored scene."""
        return mirrored(inputs.unflatten(-1, (-1, 3))).flatten(-2)

    def project(self, inputs: Tensor) -> Tensor:
        """(..., I) what the maps see."""
        return ((inputs - self.mean) / self.scale) @ self.axes

    def expand(self, outputs: Tensor) -> Tensor:
        """Corrections of the free particles (..., P, 3) [m] in the frame from what the maps say (..., O)."""
        return (outputs @ self.basis).unflatten(-1, (-1, 3))

    def distance(self, inputs: Tensor) -> Tensor:
        """(...) root mean square of the standardised components and of the rest; about 1 for inputs like those of the training."""
        standard = (inputs - self.mean) / self.scale
        seen = standard @ self.axes
        rest = (standard.square().sum(-1) - seen.square().sum(-1)).clamp_min(0.0)
        squares = (seen / self.spread[:-1]).square().sum(-1) + rest / self.spread[-1].square()
        return (squares / self.spread.shape[-1] + 1e-12).sqrt()

    def trusted(self, distance: Tensor, before: Tensor) -> Tensor:
        """(N, T) in [0, 1], from distances (N, T) and the trust (N,) before: the least of what each instant so far allows, and of what has come back since."""
        share = ((self.far - distance) / (self.far - self.near)).clamp(0.0, 1.0)
        allowed = share * share * (3 - 2 * share)
        back = torch.arange(distance.shape[-1] + 1, device=distance.device, dtype=distance.dtype) / self.recovery
        series = torch.cat((before.unsqueeze(-1), allowed), -1) - back
        return (series.cummin(-1).values + back)[..., 1:].clamp(0.0, 1.0)


def seen_by(frame: ParticleFrame, pushed: Sequence[int], positions: Tensor, velocities: Tensor, direction: Tensor) -> Tensor:
    """Vectors (N, T, 2 V + pushed, 3) in a frame of yaw `direction` (N, T, 2): positions, velocities and changes of velocity."""
    around = positions - frame.origin(positions).unsqueeze(-2)
    change = velocities[:, :, list(pushed)].diff(dim=1)
    return turned_in(torch.cat((around, velocities[:, 1:], change), -2), direction)
