"""Limit surfaces against their definition: normals are twists, levels are 1, shapes are convex."""

import math

import pytest
import torch

from structwm.geometry.planar import Ellipse, Polygon
from structwm.physics.limit_surface import EllipsoidSupport, PressureSupport, gradient
from structwm.physics.pushing import rectangle

SHAPES = {
    "square": rectangle(0.09, 0.09),
    "bar": rectangle(0.12, 0.03),
    "ellipse": Ellipse(0.05, 0.065),
    "triangle": Polygon.of([(0, 0), (0.15, 0), (0, 0.12)]),
}


def draws(support, count, std, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {p.name: (std * torch.randn(count, generator=generator, dtype=torch.float64)).clamp(-2.4, 2.4) for p in support.parameters}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("std", "level", "degrees"), [(0.0, 0.006, 2.5), (0.5, 0.01, 3.2)])
def test_quartic_fits_the_exact_limit_surface(name, std, level, degrees):
    """The wrench of a twist under a pressure is the sum of the local friction forces; H is 1 there and its gradient is along the twist."""
    support = PressureSupport(SHAPES[name])
    values = draws(support, 50, std)
    h = support.coefficients(values)
    pressure = (torch.stack(list(values.values()), -1) @ support._basis.T).softmax(-1)
    wrench = torch.einsum("pk,jkc->pjc", pressure, support._wrenches)
    normal = torch.stack(gradient(h[:, None], *wrench.unbind(-1)), -1)
    height = ((normal * wrench).sum(-1) / 4).clamp_min(0) ** 0.25
    angle = torch.acos(((normal * support._twists).sum(-1) / normal.norm(dim=-1)).clamp(-1, 1))
    assert float((height - 1).abs().mean()) < level
    assert math.degrees(float(angle.mean())) < degrees


@pytest.mark.parametrize("name", SHAPES)
def test_convex_for_any_pressure(name):
    """Along any line H is convex: the middle of two wrenches is never above the mean of their H."""
    support = PressureSupport(SHAPES[name])
    h = support.coefficients(draws(support, 100, 2.0))[:, None]
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(100, 400, 3, generator=generator, dtype=torch.float64) for _ in range(2))

    def level(w):
        g = gradient(h, *w.unbind(-1))
        return sum(x * y for x, y in zip(g, w.unbind(-1), strict=True)) / 4

    ends = (level(a) + level(b)) / 2
    assert bool((level(a) > 0).all())
    assert float(((level((a + b) / 2) - ends) / ends).max()) < 2e-2


def test_ellipsoid_by_hand():
    support = EllipsoidSupport(rectangle(0.1, 0.1))
    values = {"characteristic_length": torch.tensor(0.03), "friction_centre_x": torch.tensor(0.01), "friction_centre_y": torch.tensor(-0.02)}
    h = support.coefficients(values).double()
    fx, fy, m = torch.tensor(0.3).double(), torch.tensor(-0.7).double(), torch.tensor(0.2).double()
    moment = m * support.gyration - (0.01 * fy + 0.02 * fx)  # about the centre of friction
    expected = (fx**2 + fy**2 + (moment / 0.03) ** 2) ** 2
    g = gradient(h, fx, fy, m)
    assert float((g[0] * fx + g[1] * fy + g[2] * m) / 4) == pytest.approx(float(expected), rel=1e-5)


def test_coefficients_are_differentiable():
    support = PressureSupport(rectangle(0.1, 0.06))
    names = [p.name for p in support.parameters]
    point = torch.tensor([0.2, -0.1, 0.5, 0.3, -0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: support.coefficients(dict(zip(names, v.unbind(), strict=True))), point, atol=1e-4)
