"""Limit surfaces of a flat support: which planar wrench resists which planar twist.

Under Coulomb friction the wrenches that a sliding support can resist form a convex *limit surface*, and the twist is normal to it (Goyal, Ruina and
Papadopoulos, Wear 1991). It is represented by a homogeneous polynomial of degree four, H(w) = 1 (Zhou, Paolini, Bagnell and Mason, ICRA 2016), with
w = (fx, fy, m / rho) in the slider's frame, m about the centroid of the outline and rho its radius of gyration. Two physical models give the 15 coefficients:

- `EllipsoidSupport`: the square of an ellipsoid with a characteristic length and a centre of friction (Lynch, Maekawa and Tanie, IROS 1992);
- `PressureSupport`: the pressure under the slider as a log-polynomial with five numbers; the polynomial is fitted to its exact limit surface by linear
  least squares on the normals, as Zhou et al. fit theirs to measurements.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.geometry.planar import Shape

from .parameters import Parameter

EXPONENTS = (
    *((4, 0, 0), (3, 1, 0), (2, 2, 0), (1, 3, 0), (0, 4, 0)),
    *((3, 0, 1), (2, 1, 1), (1, 2, 1), (0, 3, 1)),
    *((2, 0, 2), (1, 1, 2), (0, 2, 2)),
    *((1, 0, 3), (0, 1, 3)),
    (0, 0, 4),
)
"""Exponents of fx, fy and m / rho in the 15 monomials, in the order of the coefficients."""

SUPPORT_POINTS = 96
DIRECTIONS = 96


class Support(ABC):
    """How a slider rests on its plane: named parameters that determine the coefficients of H."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        centroid, gyration = shape.moments
        self.centroid, self.gyration = np.asarray(centroid, dtype=np.float64), float(gyration)

    def config(self) -> dict[str, Any]:
        """The arguments that make this support again."""
        return {"shape": self.shape}

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """What can be calibrated."""

    @abstractmethod
    def coefficients(self, values: Mapping[str, Tensor]) -> Tensor:
        """Coefficients (*P, 15) of H for parameter values () or (*P)."""


class EllipsoidSupport(Support):
    """H = (fx^2 + fy^2 + (m_c / l)^2)^2 with m_c the moment about the centre of friction and l the characteristic length."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        size = self.gyration
        return (
            Parameter("characteristic_length", "m", 0.95 * size, 0.3 * size, 2.5 * size, "log", 0.2, help="largest moment over largest force"),
            Parameter("friction_centre_x", "m", 0.0, -size, size, "linear", 0.1 * size, help="centre of friction from the centroid, slider frame"),
            Parameter("friction_centre_y", "m", 0.0, -size, size, "linear", 0.1 * size, help="as above"),
        )

    def coefficients(self, values: Mapping[str, Tensor]) -> Tensor:
        length, cx, cy = torch.broadcast_tensors(*(values[p.name] for p in self.parameters))
        # m_c / l as a linear form of the wrench; the quadratic form is f'f + (m_c / l)^2
        form = torch.stack((cy / length, -cx / length, self.gyration / length), -1)
        plane = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=length.dtype, device=length.device))
        return _squared(plane + form.unsqueeze(-1) * form.unsqueeze(-2))


class PressureSupport(Support):
    """Pressure exp(sum_k p_k phi_k(r)) over the outline, phi the orthonormalised monomials x, y, x^2 + y^2, x^2 - y^2, 2 x y.

    Uniform at zero. `pressure_x` and `pressure_y` move the centre of friction, `pressure_radial` presses the rim (positive) or the middle, the others
    the ends of an axis or a diagonal, as under a bowed plate that rocks.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        points = (_inside(shape, SUPPORT_POINTS) - self.centroid) / self.gyration
        points -= points.mean(axis=0)
        x, y = points.T
        basis, triangle = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x + y * y, x * x - y * y, 2 * x * y], axis=1))
        self._basis = torch.from_numpy(basis[:, 1:] * np.sign(np.diag(triangle))[1:] * math.sqrt(len(x)))  # (K, 5)
        turn = np.pi * (3 - math.sqrt(5)) * np.arange(DIRECTIONS)
        height = (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS  # a half sphere: H is even
        ring = np.sqrt(1 - height**2)
        twists = np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)  # (J, 3): v, omega rho
        velocity = twists[:, None, :2] + twists[:, None, 2:] * np.stack([-y, x], axis=1)  # (J, K, 2)
        direction = velocity / np.sqrt((velocity**2).sum(-1, keepdims=True) + 1e-4)
        moment = x * direction[..., 1] - y * direction[..., 0]
        self._wrenches = torch.from_numpy(np.concatenate([direction, moment[..., None]], axis=-1))  # (J, K, 3) per unit pressure
        self._twists = torch.from_numpy(twists)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        names = {
            "x": "towards +x",
            "y": "towards +y",
            "radial": "towards the rim",
            "stretch": "towards the ends of x, off those of y",
            "diagonal": "along x = y",
        }
        return tuple(Parameter(f"pressure_{name}", "-", 0.0, -2.5, 2.5, "linear", 0.5, help=f"log pressure {text}") for name, text in names.items())

    def coefficients(self, values: Mapping[str, Tensor]) -> Tensor:
        weights = torch.stack(torch.broadcast_tensors(*(values[p.name] for p in self.parameters)), -1)  # (*P, 5)
        pressure = (weights.double().cpu() @ self._basis.T).softmax(-1)  # (*P, K); small, so it is always done on the CPU and in float64
        wrenches = torch.einsum("...k,jkc->...jc", pressure, self._wrenches)  # (*P, J, 3) on the limit surface
        power = (wrenches * self._twists).sum(-1, keepdim=True)
        # on H = 1 the gradient is 4 xi / (w . xi): parallel to the twist, and Euler's theorem fixes its length
        target = (4 * self._twists / power).flatten(-2)
        rows = _gradient_rows(wrenches).flatten(-3, -2)  # (*P, 3 J, 15)
        normal = rows.transpose(-1, -2) @ rows + 1e-9 * torch.eye(15, dtype=rows.dtype)
        fitted = torch.linalg.solve(normal, (rows.transpose(-1, -2) @ target.unsqueeze(-1)).squeeze(-1))
        return self._convex(fitted, wrenches).to(weights)

    def _convex(self, h: Tensor, wrenches: Tensor) -> Tensor:
        """Coefficients (*P, 15) with as much of an ellipsoid's added as makes H convex: the fit is not quite where nearly all pressure lies in few places.

        The ellipsoid is that of the wrenches' second moments, in whose coordinates u the limit surface is about a sphere.
        """
        second = torch.einsum("...ja,...jb->...ab", wrenches, wrenches) * (3.0 / DIRECTIONS)
        root = torch.linalg.cholesky(second + 1e-12 * torch.eye(3, dtype=h.dtype))  # w = root u
        at = torch.einsum("...ab,jb->...ja", root, self._twists)
        hessians = _hessians(h, at)
        lowest = torch.linalg.eigvalsh(root.mT.unsqueeze(-3) @ hessians @ root.unsqueeze(-3))[..., 0].amin(-1)
        lack = (CURVATURE - lowest).clamp_min(0.0) / 4.0  # the Hessian of |u|^4 has eigenvalues of at least 4 on the unit sphere
        return h + lack.unsqueeze(-1) * _squared(torch.linalg.inv(second + 1e-12 * torch.eye(3, dtype=h.dtype)))


CURVATURE = 0.1  # smallest curvature of H on the limit surface, where the ellipsoid's is 4


def _squared(form: Tensor) -> Tensor:
    """Coefficients (*P, 15) of (w' form w)^2 for symmetric forms (*P, 3, 3)."""
    pairs = form.flatten(-2).unsqueeze(-1) * form.flatten(-2).unsqueeze(-2)  # (*P, 9, 9)
    return pairs.flatten(-2) @ _square_table().to(form)


@cache
def _square_table() -> Tensor:
    """Which monomial w_a w_b w_c w_d is, one-hot (81, 15)."""
    table = torch.zeros(81, 15, dtype=torch.float64)
    for row, axes in enumerate(product(range(3), repeat=4)):
        table[row, EXPONENTS.index(tuple(axes.count(axis) for axis in range(3)))] = 1.0
    return table


def gradient(h: Tensor, fx: Tensor, fy: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dH / d(fx, fy, m) for coefficients h (*P, 15) that broadcast against the wrench's axes."""
    c = h.unbind(-1)
    xx, xy, yy, mm = fx * fx, fx * fy, fy * fy, m * m
    gx = 4 * c[0] * xx * fx + 3 * c[1] * xx * fy + 2 * c[2] * fx * yy + c[3] * yy * fy
    gx = gx + m * (3 * c[5] * xx + 2 * c[6] * xy + c[7] * yy) + mm * (2 * c[9] * fx + c[10] * fy + c[12] * m)
    gy = c[1] * xx * fx + 2 * c[2] * xx * fy + 3 * c[3] * fx * yy + 4 * c[4] * yy * fy
    gy = gy + m * (c[6] * xx + 2 * c[7] * xy + 3 * c[8] * yy) + mm * (c[10] * fx + 2 * c[11] * fy + c[13] * m)
    gm = xx * (c[5] * fx + c[6] * fy) + yy * (c[7] * fx + c[8] * fy)
    gm = gm + 2 * m * (c[9] * xx + c[10] * xy + c[11] * yy) + mm * (3 * (c[12] * fx + c[13] * fy) + 4 * c[14] * m)
    return gx, gy, gm


def _gradient_rows(wrenches: Tensor) -> Tensor:
    """d(dH / dw) / d coefficients, (*B, 3, 15) at wrenches (*B, 3)."""
    return (_monomials(wrenches, 3) @ _derivative_table(1).flatten(1)).unflatten(-1, (3, 15))


def _hessians(h: Tensor, wrenches: Tensor) -> Tensor:
    """d2H / dw dw (*P, J, 3, 3) for coefficients h (*P, 15) at wrenches (*P, J, 3)."""
    forms = torch.einsum("mac,...c->...ma", _derivative_table(2), h)  # (*P, 6, 9): of each product of two components
    return (_monomials(wrenches, 2) @ forms).unflatten(-1, (3, 3))


def _exponents(degree: int) -> list[tuple[int, int, int]]:
    """Of all monomials of a degree in three variables."""
    return [(a, b, degree - a - b) for a in range(degree, -1, -1) for b in range(degree - a, -1, -1)]


def _monomials(wrenches: Tensor, degree: int) -> Tensor:
    """All monomials of degree 2 or 3, (*B, 6) or (*B, 10), in the order of `_exponents`."""
    x, y, m = wrenches.unbind(-1)
    powers = [[torch.ones_like(value), value, value * value, value * value * value] for value in (x, y, m)]
    return torch.stack([powers[0][a] * powers[1][b] * powers[2][c] for a, b, c in _exponents(degree)], -1)


@cache
def _derivative_table(order: int) -> Tensor:
    """Partial derivatives of the 15 monomials along `order` axes: their factors on the monomials of degree 4 - order, (monomials, 3^order, 15)."""
    lower = _exponents(4 - order)
    table = torch.zeros(len(lower), 3**order, 15, dtype=torch.float64)
    for row, axes in enumerate(product(range(3), repeat=order)):
        times = [axes.count(axis) for axis in range(3)]
        for column, exponents in enumerate(EXPONENTS):
            if all(e >= t for e, t in zip(exponents, times, strict=True)):
                left = tuple(e - t for e, t in zip(exponents, times, strict=True))
                table[lower.index(left), row, column] = math.prod(math.perm(e, t) for e, t in zip(exponents, times, strict=True))  # type: ignore[arg-type]
    return table


def _inside(shape: Shape, count: int) -> np.ndarray:
    """`count` points (count, 2) spread evenly inside the outline: the R2 low-discrepancy sequence (Roberts, 2018), rejected outside."""
    rim = shape.boundary(400)
    low, span = rim.min(axis=0), np.ptp(rim, axis=0)
    golden = 1.32471795724474602596
    index = np.arange(1, 40 * count)[:, None]
    candidates = low + span * ((0.5 + index / np.array([golden, golden**2])) % 1.0)
    distance = shape.nearest(torch.from_numpy(candidates)).distance.numpy()
    return candidates[distance < 0][:count]
