"""Ends of shapes in clouds, and motions that carry grippers there."""

from __future__ import annotations

import math

import pytest
import torch

from structwm.demos.rope_control import blurring_mean_shift
from structwm.demos.rope_proposals import carry_proposals, shape_ends


@pytest.mark.parametrize("bend", [0.0, 1.2, 5.0])
def test_ends_are_those_farthest_apart_along_the_shape(bend: float) -> None:
    """Also of a ring that is almost closed, whose ends are near each other."""
    generator = torch.Generator().manual_seed(0)
    s = torch.linspace(0, 1, 300)
    line = 0.4 * (torch.stack((torch.sin(bend * s), 1 - torch.cos(bend * s), 0 * s), -1) / bend if bend else torch.stack((s, 0 * s, 0 * s), -1))
    cloud = line + 0.002 * torch.randn(line.shape, generator=generator)
    ends = shape_ends(cloud[torch.randperm(300, generator=generator)])
    distances = torch.cdist(ends, line[[0, -1]])
    assert float(torch.minimum(distances.diagonal().max(), distances.flip(1).diagonal().max())) < 0.015


def test_ends_are_those_of_the_largest_piece() -> None:
    line = torch.linspace(0, 0.4, 100)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    ends = shape_ends(torch.cat((torch.tensor([0.0, 2.0, 0.0]) + 0.1 * line[:30], line)))
    assert sorted(ends[:, 0].tolist()) == pytest.approx([0.0, 0.4]) and not bool(ends[:, 1:].any())


def test_points_of_a_surface_come_to_its_middle() -> None:
    angle, along = torch.meshgrid(torch.arange(12) * (math.pi / 6), torch.linspace(0, 0.2, 60), indexing="ij")
    tube = torch.stack((along, 0.008 * angle.cos(), 0.008 * angle.sin()), -1).flatten(0, 1)
    pulled = blurring_mean_shift(torch.stack((tube, tube + 1.0)), 0.008)
    assert float(pulled[0, :, 1:].norm(dim=-1).max()) < 0.5 * 0.008
    assert float((pulled[0, :, 0] - tube[:, 0]).abs().max()) < 0.008  # along the tube they hardly move
    assert torch.allclose(pulled[1], pulled[0] + 1.0, atol=1e-5)


def test_grippers_are_carried_to_the_ends_within_their_speed() -> None:
    places = torch.tensor([[[0.0, 0.0, 0.1], [0.3, 0.0, 0.1]]])
    ends = torch.tensor([[[0.1, 0.2, 0.01], [0.4, 0.1, 0.01]]])
    found = carry_proposals(places, ends, horizon=40, dt=0.2, speed=0.2, lifts=(0.0, 0.05))
    assert found.shape == (1, 5, 40, 6) and float(found.abs().max()) <= 0.2
    reached = places + 0.2 * found[0].sum(1).reshape(5, 2, 3)
    assert torch.allclose(reached[0], ends[0], atol=1e-5) and torch.allclose(reached[2], ends[0].flip(0), atol=1e-5)
    assert torch.equal(found[:, -1], torch.zeros(1, 40, 6))
    heights = 0.1 + 0.2 * found[0, 1, :, 2].cumsum(0)
    assert float(heights.max()) > 0.1 + 0.02 and float(heights[-1]) == pytest.approx(0.01, abs=1e-5)
    one = carry_proposals(places[:, :1], ends, horizon=5, dt=0.2, speed=0.2, lifts=(0.0,))
    assert one.shape == (1, 3, 5, 3) and float(one.abs().max()) <= 0.2
    assert math.isclose(float(one[0, 0, 0, 1] / one[0, 0, 0, 0]), 2.0, rel_tol=1e-4)
