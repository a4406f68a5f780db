"""Nearest points and signed distances of polygons and ellipses against brute force."""

import numpy as np
import pytest
import torch

from structwm.geometry.planar import Ellipse, Polygon

T_SHAPE = Polygon.of([(-0.015, -0.06), (0.015, -0.06), (0.015, 0.0), (0.06, 0.0), (0.06, 0.03), (-0.06, 0.03), (-0.06, 0.0), (-0.015, 0.0)])
ACUTE = Polygon.of([(0.0, 0.0), (0.2, 0.0), (0.2, 0.02)])
SHAPES = {"ellipse": Ellipse(0.05, 0.08), "circle": Ellipse(0.05, 0.05), "flat ellipse": Ellipse(0.1, 0.02), "t": T_SHAPE, "acute": ACUTE}


@pytest.mark.parametrize("name", SHAPES)
def test_distance_and_sign_agree_with_brute_force(name):
    shape = SHAPES[name]
    points = 0.4 * (torch.rand(1500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5)
    rim = torch.from_numpy(shape.boundary(20_000))
    near = shape.nearest(points)
    spacing = float((rim[1] - rim[0]).norm())
    assert torch.allclose(near.distance.abs(), torch.cdist(points, rim).min(1).values, atol=spacing)
    # winding number of the fine boundary tells inside from outside
    angles = torch.atan2(rim[None, :, 1] - points[:, None, 1], rim[None, :, 0] - points[:, None, 0])
    turns = (torch.diff(torch.cat((angles, angles[:, :1]), 1), dim=1) + np.pi).remainder(2 * np.pi) - np.pi
    inside = (turns.sum(1) / (2 * np.pi)).round() == 1
    clear = near.distance.abs() > 2 * spacing
    assert torch.equal((near.distance < 0)[clear], inside[clear])
    assert torch.allclose(near.normal.norm(dim=-1), torch.ones(1500, dtype=torch.float64))
    assert torch.allclose(near.point + near.distance[:, None] * near.normal, points, atol=1e-6)


def test_points_beyond_an_acute_corner_are_outside():
    """The nearest edge's half-plane alone calls this point inside."""
    assert float(ACUTE.nearest(torch.tensor([[-0.02, -0.0005]])).distance) > 0.019


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_against_finite_differences(name):
    points = 0.3 * (torch.rand(12, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 0.5)

    def everything(q):
        near = SHAPES[name].nearest(q)
        return near.distance, near.point

    assert torch.autograd.gradcheck(everything, points.requires_grad_(), atol=1e-5)


def test_moments():
    centroid, gyration = T_SHAPE.moments
    rim = torch.from_numpy(T_SHAPE.boundary(4000))
    grid = torch.cartesian_prod(torch.linspace(-0.08, 0.08, 400), torch.linspace(-0.08, 0.08, 400)).double()
    inside = grid[T_SHAPE.nearest(grid).distance < 0]
    assert np.allclose(centroid, inside.mean(0), atol=3e-4) and rim.shape == (4000, 2)
    assert gyration == pytest.approx(float((inside - inside.mean(0)).square().sum(1).mean().sqrt()), rel=0.01)
    assert Ellipse(0.04, 0.06).moments[1] == pytest.approx(np.sqrt((0.04**2 + 0.06**2) / 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Polygon(((0, 0), (1, 0))), "at least three"),
        (lambda: Polygon(((0, 0), (0, 1), (1, 0))), "counter-clockwise"),
        (lambda: Polygon(((0, 0), (1, 0), (float("nan"), 1))), "finite"),
        (lambda: Ellipse(0.0, 1.0), "positive semi-axes"),
    ],
)
def test_bad_shapes_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
