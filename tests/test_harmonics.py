"""The real spherical harmonics, against SciPy's complex ones and as an orthonormal basis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from structwm.geometry.harmonics import HARMONIC_COUNTS, harmonic_basis, harmonic_degree


def directions(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_they_are_the_real_and_imaginary_parts_of_the_complex_ones(degree: int) -> None:
    d = directions(200)
    theta, phi = np.arccos(d[:, 2].numpy()), np.arctan2(d[:, 1].numpy(), d[:, 0].numpy())
    wanted = []
    for band in range(1, degree + 1):
        for m in range(-band, band + 1):
            y = sph_harm_y(band, abs(m), theta, phi)
            wanted.append(y.real if m == 0 else math.sqrt(2) * (y.imag if m < 0 else y.real))
    np.testing.assert_allclose(harmonic_basis(d, degree).numpy(), np.stack(wanted, -1), rtol=0, atol=2e-15)


def test_first_values_by_hand() -> None:
    """Along the axes, with the constants of the reference implementation of splats."""
    basis = harmonic_basis(torch.eye(3), 2)
    c = 0.4886025119029199
    torch.testing.assert_close(basis[:, :3], torch.tensor([[0, 0, -c], [-c, 0, 0], [0, c, 0]]))
    torch.testing.assert_close(basis[2, 3:], torch.tensor([0, 0, 0.6307831305050401, 0, 0]))


def test_they_are_orthonormal() -> None:
    """A Gauss-Legendre rule in z and equal angles integrate products of degree 6 exactly."""
    z, weight = np.polynomial.legendre.leggauss(8)
    angle = np.arange(16) * np.pi / 8
    across = np.sqrt(1 - z**2)
    grid = np.stack((across[:, None] * np.cos(angle), across[:, None] * np.sin(angle), np.broadcast_to(z[:, None], (8, 16))), -1)
    basis = harmonic_basis(torch.from_numpy(grid), 3).numpy()
    products = np.einsum("iak,ial,i->kl", basis, basis, weight) * np.pi / 8
    np.testing.assert_allclose(products, np.eye(15), atol=1e-14)


def test_shapes_types_and_gradients() -> None:
    d = directions(6).reshape(2, 3, 3)
    for degree, count in enumerate(HARMONIC_COUNTS[1:], start=1):
        assert harmonic_basis(d, degree).shape == (2, 3, count) and harmonic_degree(count) == degree
        assert harmonic_basis(d.float(), degree).dtype == torch.float32
        torch.testing.assert_close(harmonic_basis(d, 3)[..., :count], harmonic_basis(d, degree), rtol=0, atol=0)
    assert torch.autograd.gradcheck(lambda x: harmonic_basis(x, 3), d.clone().requires_grad_())
    compiled = torch.compile(harmonic_basis, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(d, 3), harmonic_basis(d, 3))


def test_bad_input_is_refused() -> None:
    for degree in (0, 4):
        with pytest.raises(ValueError, match=f"harmonic degree: expected 1, 2 or 3, got {degree}"):
            harmonic_basis(torch.eye(3), degree)
    with pytest.raises(ValueError, match=r"harmonic directions: expected \(\*B, 3\), got \(3, 2\)"):
        harmonic_basis(torch.zeros(3, 2), 1)
    with pytest.raises(ValueError, match="expected 3, 8 or 15 coefficients .*, got 9"):
        harmonic_degree(9)
