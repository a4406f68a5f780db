"""What a learned model has to beat: models of point clouds that learn nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.noise import Noise

from .cloud_model import CloudModel
from .graph import Material
from .parts import as_rigid


class Still(CloudModel):
    """Points stay where they are; what is held goes with the robot."""

    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        return torch.zeros_like(flat["positions"])


class ConstantVelocity(CloudModel):
    """Each point goes on as it went in the last step."""

    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        return flat["positions"] - flat["history"][..., 0, :]


class RigidMotion(CloudModel):
    """Each object goes on, and turns on, as it did in the last step."""

    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        before = flat["history"][..., 0, :]
        return as_rigid(flat["positions"], flat["positions"] - before, graph.member)


class BlendOfHeld(CloudModel):
    """Each point moves as the held points of its object do, in proportion to how near it is to each at rest; an object of which none is held stays.

    Of a rope held at both ends this is the blend of its ends: weights fall linearly from one end to the other.
    """

    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        held, ids, rest = flat["held"], flat["object_ids"], flat["rest"]
        points = motion.shape[1]
        if not points:
            return torch.zeros_like(flat["positions"])
        carries = (held.unsqueeze(1) == torch.arange(points, device=held.device)[:, None]).to(rest)  # (P, M, N)
        count = carries.sum(-1, keepdim=True)
        anchor, owner = (carries @ rest) / count.clamp_min(1), ((carries @ ids.unsqueeze(-1).to(rest)) / count.clamp_min(1)).round()
        same = (owner.squeeze(-1).unsqueeze(1) == ids.unsqueeze(-1)) & (count.squeeze(-1) > 0).unsqueeze(1)  # (P, N, M)
        away = torch.cdist(rest, anchor).masked_fill(~same, torch.inf)
        near = away.topk(min(2, points), -1, largest=False)
        # of the nearest anchor and the nearest one beyond the point: weights that fall linearly from one to the other
        side = ((rest.unsqueeze(2) - anchor.unsqueeze(1)) * (rest - anchor.gather(1, near.indices[..., :1].expand(-1, -1, 3))).unsqueeze(2)).sum(-1)
        beyond = away.masked_fill(side > 0, torch.inf)
        other = beyond.min(-1)
        first, second = near.values[..., 0], other.values
        share = torch.where(second.isfinite(), first / (first + second).clamp_min(1e-12), 0.0)
        moved = [motion.gather(1, place.unsqueeze(-1).expand(-1, -1, 3)) for place in (near.indices[..., 0], other.indices)]
        blend = (1 - share).unsqueeze(-1) * moved[0] + share.unsqueeze(-1) * moved[1]
        return torch.where(first.isfinite().unsqueeze(-1), blend, 0.0)
