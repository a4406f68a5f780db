"""`SpringForces`: forces that a network of springs lacks, each particle's from what it and its neighbours do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structwm.spec import Action

from .particle_scene import ParticleState
from .spring_body import SpringBody

NEAR, FAR = 1.5, 3.0  # times the largest of a feature in training: where its force begins to fade, and where it is gone
LAWS = ("drag", "vertical_drag", "square_drag", "vertical_square_drag", "lift", "stiffening", "hardening", "damping", "smoothing")
WIND = ("wind_x", "wind_y")


class SpringForces(nn.Module):
    """Accelerations of the free particles, added to what a `SpringTwin` predicts of a step: `Residual(twin, SpringForces(...))` is the corrected model.

    They are a sum over laws with one weight each, the same for all particles: of the velocity and its square, each level and upright; a constant one upright;
    and, by one pass of messages over the springs, forces along each spring by its strain, by the square of its strain, by the rate of its strain, and across it
    by the difference of velocities. The latter act on both ends alike, so that they keep momentum. All turn with the scene about the vertical and mirror with
    it, but for a constant wind, which is asked for. So a few runs tell the weights, and they hold for other motions and grips. Sparse sums of such laws:
    Brunton, Proctor and Kutz, PNAS 2016.

    Where a particle or its neighbours do what training never saw, its force fades: physics decides.

    Args:
        body: whose springs carry messages.
        dt: of the twin's step [s].
        scales: (K,) root mean square of each law in training.
        reach: (K,) the largest of each in training, over its scale.
        weights: (K,), or (E, K) of several members [m/s^2] for a law of size one.
        wind: whether there are the two laws of a constant wind.
    """

    def __init__(self, body: SpringBody, dt: float, scales: Tensor, reach: Tensor, weights: Tensor, wind: bool = False) -> None:
        super().__init__()
        names = (*LAWS, *(WIND if wind else ()))
        for name, value in (("scales", scales), ("reach", reach), ("weights", weights)):
            if value.shape[-1:] != (len(names),):
                raise ValueError(f"SpringForces needs {name} (..., {len(names)}), got {tuple(value.shape)}.")
        self.body, self.dt, self.wind, self.names = body, dt, wind, names
        for name, value in (("scales", scales), ("reach", reach), ("weights", weights)):
            self.register_buffer(name, value.detach().double().clone())

    scales: Tensor
    reach: Tensor
    weights: Tensor

    def config(self) -> dict[str, Any]:
        return {"body": self.body, "dt": self.dt, "scales": self.scales, "reach": self.reach, "weights": self.weights, "wind": self.wind}

    def with_weights(self, weights: Tensor) -> SpringForces:
        """The same laws with other weights."""
        return SpringForces(self.body, self.dt, self.scales, self.reach, weights, self.wind)

    def forward(self, state: ParticleState, action: Action, following: ParticleState) -> dict[str, Tensor]:
        found = laws(self.body, following, self.wind) / self.scales.to(following.positions).unsqueeze(-1)  # (*B, P, K, 3)
        beyond = (found.square().sum(-1) + 1e-12).sqrt() / self.reach.to(found)
        share = ((FAR - beyond.amax(-1)) / (FAR - NEAR)).clamp(0.0, 1.0)
        free = self.body.free.to(found.device)
        trust = (share * share * (3 - 2 * share) * free).unsqueeze(-1)
        push = trust * (self.weights.to(found)[..., None, :, None] * found).sum(-2)
        return {"positions": 0.5 * self.dt**2 * push, "velocities": self.dt * push}


def laws(body: SpringBody, state: ParticleState, wind: bool) -> Tensor:
    """What the forces are sums of, (*B, P, K, 3)."""
    x, v = state.positions, state.velocities
    level, upright = v.new_tensor([1.0, 1.0, 0.0]), v.new_tensor([0.0, 0.0, 1.0])
    speed = (v.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    own = [v * level, v * upright, speed * v * level, speed * v * upright, upright.expand_as(v)]
    a, b = body.springs.to(x.device).unbind(-1)
    way, pace = x[..., b, :] - x[..., a, :], v[..., b, :] - v[..., a, :]
    length = (way.square().sum(-1, keepdim=True) + 1e-18).sqrt()
    along = way / length
    rest = body.lengths.to(x).unsqueeze(-1)
    strain, rate = length / rest - 1, (pace * along).sum(-1, keepdim=True) / rest
    pulls = torch.stack((strain * along, strain * strain.abs() * along, rate * along, pace), -2)  # (*B, M, 4, 3)
    sums = torch.zeros(*x.shape[:-1], 4, 3, dtype=x.dtype, device=x.device).index_add(-3, a, pulls).index_add(-3, b, -pulls)
    blown = [v.new_tensor(way).expand_as(v) for way in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))] if wind else []
    return torch.cat((torch.stack(own, -2), sums, *(part.unsqueeze(-2) for part in blown)), -2)
