"""Point sets of one object brought together: exactly where it only moved, closely where it bent, also what was not registered itself."""

import pytest
import torch

from structwm.geometry import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.perception import register_points

TURN = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.4, -0.3, 1.9])))
SHIFT = torch.tensor([0.3, -0.2, 0.5])


def body(count: int, seed: int) -> torch.Tensor:
    """Points of an L that no rotation maps onto itself."""
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([0.3, 0.05, 0.04])
    foot = torch.arange(count) % 3 == 0
    return torch.where(foot.unsqueeze(-1), points[:, [1, 0, 2]] * torch.tensor([1.0, 0.5, 2.0]), points)


def bent(points: torch.Tensor) -> torch.Tensor:
    return points + torch.stack((torch.zeros(len(points)), 0.6 * points[:, 0] ** 2, 0.4 * points[:, 0] ** 2), -1)


def test_a_rigid_motion_is_found_whatever_the_turn():
    source, target = body(700, 0), body(600, 1) @ TURN.mT + SHIFT  # other points of the same body
    found = register_points(source, target, deformable=False)
    assert torch.allclose(found.world_from_source[:3, :3].float(), TURN, atol=0.06)
    assert (found.move(source) - (source @ TURN.mT + SHIFT)).norm(dim=-1).mean() < 0.006


def test_a_bent_body_is_followed_further_than_rigidly():
    source, others = body(500, 0), body(200, 3)
    target = bent(body(500, 1)) @ TURN.mT + SHIFT + 0.001 * torch.randn(500, 3, generator=torch.Generator().manual_seed(4))
    rigid, smooth = (register_points(source, target, deformable=flag) for flag in (False, True))
    truth = bent(others) @ TURN.mT + SHIFT
    errors = [float((found.move(others) - truth).norm(dim=-1).mean()) for found in (rigid, smooth)]
    assert errors[1] < 0.008 and errors[1] < 0.75 * errors[0]  # other points of a body are 8 mm apart
    assert smooth.distance < rigid.distance


def test_refusals():
    with pytest.raises(ValueError, match="target: expected at least four"):
        register_points(body(10, 0), torch.rand(3, 3))
    with pytest.raises(ValueError, match="outliers in"):
        register_points(body(10, 0), body(10, 1), outliers=1.0)
