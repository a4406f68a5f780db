"""Moving splats: what they are and what they show moves with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structwm.geometry.harmonics import harmonic_basis
from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.splat_motion import harmonic_rotation, place_splats
from structwm.kernels.skinning_reference import covariances
from structwm.state import Splats

from .splats import random_splats


def made(*batch: int, count: int = 7, degree: int = 3, dtype: torch.dtype = torch.float64) -> Splats:
    """With every field."""
    splats = random_splats(count, batch=batch, degree=degree, features=2, dtype=dtype)
    splats.mask = splats.opacities > 0.5
    return splats


def turns(*batch: int, seed: int = 1) -> Tensor:
    return quaternion_to_matrix(torch.randn(*batch, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def covariance(splats: Splats) -> Tensor:
    return covariances(torch.eye(3, dtype=splats.means.dtype), splats.rotations, splats.scales)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_what_is_shown_turns_with_the_splats(degree: int) -> None:
    """The new splats seen from a turned direction show what the old ones did from the direction."""
    splats, turn = made(degree=degree), turns()
    moved = place_splats(splats, turn, torch.zeros(3), 2.0)
    d = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), dim=-1)
    before = torch.einsum("dk,nkc->dnc", harmonic_basis(d, degree), splats.harmonics)
    after = torch.einsum("dk,nkc->dnc", harmonic_basis(d @ turn.mT, degree), moved.harmonics)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-13)
    matrix = harmonic_rotation(turn, degree)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(len(matrix), dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_quarter_turn_by_hand() -> None:
    """About z by 90 degrees: x goes to y, and with it the coefficient of -x, which becomes that of -y."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    splats = made(count=1, degree=1, dtype=torch.float32)
    splats.means, splats.harmonics = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[[0.0] * 3, [0.0] * 3, [1.0, 2.0, 3.0]]])
    moved = place_splats(splats, turn, torch.tensor([10.0, 0.0, 0.0]), 3.0)
    torch.testing.assert_close(moved.means, torch.tensor([[4.0, 3.0, 9.0]]))
    torch.testing.assert_close(moved.scales, 3 * splats.scales)
    torch.testing.assert_close(moved.harmonics, torch.tensor([[[1.0, 2.0, 3.0], [0.0] * 3, [0.0] * 3]]))
    assert moved.means.dtype == torch.float32


def test_shape_and_the_rest() -> None:
    splats, turn, place = made(), turns(), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    moved = place_splats(splats, turn, place, 0.5)
    torch.testing.assert_close(covariance(moved), 0.25 * turn @ covariance(splats) @ turn.mT)
    torch.testing.assert_close(moved.rotations.norm(dim=-1), splats.rotations.norm(dim=-1))
    for name in ("opacities", "colors", "features", "mask"):
        assert getattr(moved, name) is getattr(splats, name) or torch.equal(getattr(moved, name), getattr(splats, name))
    back = place_splats(moved, turn.mT, -2.0 * turn.mT @ place, 2.0)
    for name in ("means", "scales", "harmonics"):
        torch.testing.assert_close(getattr(back, name), getattr(splats, name))
    torch.testing.assert_close(covariance(back), covariance(splats))
    still = place_splats(splats, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    for name in ("means", "rotations", "scales"):
        assert torch.equal(getattr(still, name), getattr(splats, name))


def test_float32_is_as_good_as_its_rounding() -> None:
    exact, single = place_splats(made(), turns(), torch.ones(3), 1.5), place_splats(made(dtype=torch.float32), turns(), torch.ones(3), 1.5)
    for name in ("means", "scales", "harmonics"):
        torch.testing.assert_close(getattr(single, name).double(), getattr(exact, name), rtol=1e-5, atol=3e-6)


def test_batches_are_the_same_one_by_one() -> None:
    splats, turn, place, scale = made(2), turns(3, 1), torch.randn(2, 3, dtype=torch.float64), torch.tensor([[1.0], [2.0], [0.5]])
    moved = place_splats(splats, turn, place, scale)
    assert moved.batch_size == (3, 2)
    for i in range(3):
        for j in range(2):
            alone = place_splats(splats[j], turn[i, 0], place[j], float(scale[i]))
            for name in ("means", "rotations", "scales", "harmonics"):
                torch.testing.assert_close(getattr(moved, name)[i, j], getattr(alone, name), rtol=1e-13, atol=1e-13)
    bare = place_splats(made(degree=0), turns(), torch.zeros(3))
    assert bare.harmonics is None and bare.batch_size == ()


def test_gradients() -> None:
    splats, vector = made(count=1, degree=2), torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)

    def moved(vector: Tensor, place: Tensor, scale: Tensor, means: Tensor, harmonics: Tensor) -> tuple[Tensor, ...]:
        given = splats.clone()
        given.means, given.harmonics = means, harmonics
        found = place_splats(given, quaternion_to_matrix(rotation_vector_to_quaternion(vector)), place, scale)
        return found.means, found.rotations, found.scales, found.harmonics

    inputs = (vector, torch.ones(3, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64), splats.means, splats.harmonics)
    assert torch.autograd.gradcheck(moved, tuple(value.clone().requires_grad_() for value in inputs))


def test_bad_motions_are_refused() -> None:
    splats, turn, zero = made(), turns(), torch.zeros(3)
    with pytest.raises(ValueError, match="expected rotations, got a matrix that is off by 3 .*give the size as `scale`"):
        place_splats(splats, 2 * turn, zero)
    for wrong in (torch.diag(torch.tensor([1.0, 1.0, -1.0])), torch.full((3, 3), math.nan)):
        with pytest.raises(ValueError, match="splat motion rotation: expected rotations"):
            place_splats(splats, wrong, zero)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="splat motion scale: expected finite numbers above 0"):
            place_splats(splats, turn, zero, scale)
    with pytest.raises(ValueError, match=r"splat motion rotation: expected \(\*B, 3, 3\), got \(4, 4\)"):
        place_splats(splats, torch.eye(4), zero)
    with pytest.raises(ValueError, match=r"splat motion translation: expected \(\*B, 3\), got \(2,\)"):
        place_splats(splats, turn, torch.zeros(2))
    with pytest.raises(ValueError, match="splat motion translation: expected finite"):
        place_splats(splats, turn, torch.full((3,), math.inf))
