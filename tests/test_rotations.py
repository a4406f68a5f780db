"""Rotations against SciPy, and their gradients against finite differences, also where formulas divide by zero."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from structwm.geometry.rotations import (
    align_quaternions,
    check_rotations,
    invert_motion,
    matrix_to_quaternion,
    motion_matrix,
    nearest_rotation,
    normalize_quaternion,
    quaternion_conjugate,
    quaternion_multiply,
    quaternion_rotate,
    quaternion_to_matrix,
    quaternion_to_rotation_vector,
    rotation_vector_to_quaternion,
    slerp,
    to_body,
    to_world,
)

HALF_TURNS = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0.6, 0, -0.8]], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_quaternions() -> torch.Tensor:
    """Of every size, with the identity, half turns, and angles near both."""
    near = torch.tensor([[1.0, 1e-9, 0, 0], [1, 0, 3e-3, 0], [1e-9, 0, 0.6, 0.8], [1, 0, 0, 0], [-1, 0, 0, 0]], dtype=torch.float64)
    return torch.cat((draw(200, 4) * torch.logspace(-150, 150, 200, dtype=torch.float64)[:, None], HALF_TURNS, near))


def scipy_of(quaternion: torch.Tensor) -> Rotation:
    return Rotation.from_quat(normalize_quaternion(quaternion).numpy(), scalar_first=True)


def same(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-14) -> bool:
    return torch.allclose(align_quaternions(first, second), second, rtol=0, atol=tolerance)


def test_conversions_agree_with_scipy_and_return():
    q = some_quaternions()
    unit, reference = normalize_quaternion(q), scipy_of(q)
    matrix, vector = quaternion_to_matrix(q), quaternion_to_rotation_vector(q)
    assert torch.allclose(matrix, torch.from_numpy(reference.as_matrix()), rtol=0, atol=1e-14)
    assert torch.allclose(vector.norm(dim=-1), torch.from_numpy(reference.magnitude()), rtol=1e-14, atol=1e-14)
    assert same(matrix_to_quaternion(matrix), unit)
    assert bool((matrix_to_quaternion(matrix)[:, 0] >= 0).all())
    assert same(rotation_vector_to_quaternion(vector), unit)
    assert same(rotation_vector_to_quaternion(vector), torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_quat(scalar_first=True)))


def test_products_and_turned_vectors_agree_with_matrices():
    a, b, v = draw(50, 4, seed=1), 7 * draw(50, 4, seed=2), draw(50, 3, seed=3)
    assert torch.allclose(quaternion_to_matrix(quaternion_multiply(a, b)), quaternion_to_matrix(a) @ quaternion_to_matrix(b), atol=1e-13)
    assert torch.allclose(quaternion_rotate(a, v), (quaternion_to_matrix(a) @ v[..., None])[..., 0], atol=1e-13)
    assert same(normalize_quaternion(quaternion_multiply(a, quaternion_conjugate(a))), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(50, 4))


def test_hand_countable():
    quarter = torch.tensor([1.0, 0, 0, 1])  # a quarter turn about z, of length sqrt(2)
    assert torch.allclose(quaternion_rotate(quarter, torch.tensor([1.0, 0, 5])), torch.tensor([0.0, 1, 5]), atol=1e-6)
    assert torch.allclose(quaternion_to_rotation_vector(quarter), torch.tensor([0, 0, math.pi / 2]))
    pose = torch.tensor([10.0, 0, 0, 1, 0, 0, 1])
    assert torch.allclose(to_world(pose, torch.tensor([[1.0, 0, 0], [0, 2, 0]])), torch.tensor([[10.0, 1, 0], [8, 0, 0]]), atol=1e-6)


def test_poses_go_there_and_back():
    pose, points = draw(4, 7), draw(3, 4, 5, 3)
    assert torch.allclose(to_body(pose, to_world(pose, points)), points, atol=1e-13)


def test_motions_are_poses_as_matrices():
    pose, points = draw(2, 4, 7), draw(4, 5, 3)
    motion = motion_matrix(quaternion_to_matrix(pose[..., 3:]), pose[..., :3])
    homogeneous = torch.nn.functional.pad(points, (0, 1), value=1.0)
    assert torch.allclose((homogeneous @ motion.mT)[..., :3], to_world(pose, points), atol=1e-13)
    assert torch.allclose(invert_motion(motion) @ motion, torch.eye(4, dtype=torch.float64).expand(2, 4, 4, 4), atol=1e-13)
    assert motion_matrix(torch.eye(3), torch.zeros(6, 3)).shape == (6, 4, 4)


@pytest.mark.parametrize("wrong", [2 * torch.eye(3), torch.diag(torch.tensor([1.0, 1, -1])), torch.full((3, 3), math.nan)])
def test_matrices_that_are_no_rotations_are_refused(wrong):
    check_rotations("pose", torch.stack((torch.eye(3), quaternion_to_matrix(draw(4)).float())))
    check_rotations("pose", torch.zeros(0, 3, 3))
    with pytest.raises(ValueError, match=r"^pose: expected rotations, got a matrix that is off by .* from one \(or mirrors\); turn it\.$"):
        check_rotations("pose", torch.stack((torch.eye(3), wrong)), advice="; turn it")


def test_zero_quaternion_is_the_identity_without_gradient():
    zero = torch.zeros(2, 4, requires_grad=True)
    out = quaternion_to_matrix(zero)
    assert torch.equal(out, torch.eye(3).expand(2, 3, 3))
    assert torch.equal(quaternion_to_rotation_vector(zero), torch.zeros(2, 3))
    out.sum().backward()
    assert torch.equal(zero.grad, torch.zeros(2, 4))


def test_tiny_and_huge_float32_quaternions_keep_their_rotation():
    q = draw(20, 4).float()
    for size in (1e-30, 1e30):
        assert torch.allclose(quaternion_to_matrix(q * size), quaternion_to_matrix(q), atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 0.00999, 0.01001, 1.0, 3.1, math.pi, 4.0])
def test_gradients_of_exponential_and_logarithm(angle):
    vector = torch.tensor([[0.6, 0.0, -0.8]], dtype=torch.float64) * angle
    assert torch.autograd.gradcheck(rotation_vector_to_quaternion, vector.clone().requires_grad_())
    q = rotation_vector_to_quaternion(vector).detach().requires_grad_()
    if angle == math.pi:  # the logarithm jumps here; its gradient is that of one side
        side = rotation_vector_to_quaternion(vector * (1 - 1e-9)).detach().requires_grad_()
        ours, near = (torch.autograd.grad(quaternion_to_rotation_vector(value).square().sum(), value)[0] for value in (q, side))
        assert same(ours, near, 1e-6)
    else:
        assert torch.autograd.gradcheck(quaternion_to_rotation_vector, q)


@pytest.mark.parametrize("function", [normalize_quaternion, quaternion_to_matrix, lambda q: quaternion_rotate(q, draw(9, 3, seed=4))])
def test_gradients_of_quaternions(function):
    q = torch.cat((draw(5, 4), HALF_TURNS)).requires_grad_()
    assert torch.autograd.gradcheck(function, q)


def test_gradients_of_matrices_at_the_identity_and_at_half_turns():
    """Of what keeps the matrix a rotation: the gradient along a turn."""
    start = torch.cat((draw(4, 4), HALF_TURNS, torch.eye(4, dtype=torch.float64)[:1]))
    weights = draw(9, 4, seed=5)

    def turned(vector):
        q = matrix_to_quaternion(quaternion_to_matrix(start) @ quaternion_to_matrix(rotation_vector_to_quaternion(vector)))
        return (weights * align_quaternions(q, normalize_quaternion(start))).sum()

    assert torch.autograd.gradcheck(turned, torch.zeros(9, 3, dtype=torch.float64, requires_grad=True))


def test_slerp_takes_the_shorter_way_at_constant_speed():
    a, b = draw(30, 4, seed=6), draw(30, 4, seed=7)
    whole = quaternion_to_rotation_vector(quaternion_multiply(quaternion_conjugate(a), b)).norm(dim=-1)
    for fraction in (0.0, 0.25, 1.0):
        part = slerp(a, b, fraction)
        assert torch.allclose(quaternion_to_rotation_vector(quaternion_multiply(quaternion_conjugate(a), part)).norm(dim=-1), fraction * whole, atol=1e-13)
        assert same(slerp(a, -b, fraction), part)
    assert same(slerp(a, b, torch.ones(30, dtype=torch.float64)), normalize_quaternion(b))
    a, b = a[:8], b[:8]
    assert torch.autograd.gradcheck(lambda q: slerp(q, a, 0.3), (a + 0.5 * b).requires_grad_())
    assert torch.autograd.gradcheck(lambda q: slerp(q, a, 0.3), a.clone().requires_grad_())  # from a to itself


def test_nearest_rotation_of_a_rotation_is_itself_and_of_others_the_best_of_many():
    q = some_quaternions()
    assert same(nearest_rotation(3.0 * quaternion_to_matrix(q)), normalize_quaternion(q))
    matrices = draw(40, 3, 3, seed=8)  # half of them mirror
    ours = (quaternion_to_matrix(nearest_rotation(matrices)) * matrices).sum((-1, -2))
    others = torch.einsum("sij,nij->ns", torch.from_numpy(Rotation.random(4000, rng=0).as_matrix()), matrices)
    assert bool((others.max(1).values <= ours + 1e-12).all())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quaternion_to_matrix(torch.ones(3)), r"expected floats \(\*B, 4\), got torch.float32 \(3,\)"),
        (lambda: quaternion_rotate(torch.ones(4), torch.ones(2)), "vectors"),
        (lambda: matrix_to_quaternion(torch.ones(4, 4)), r"\(\*B, 3, 3\)"),
        (lambda: normalize_quaternion(torch.ones(4, dtype=torch.int64)), "floats"),
        (lambda: to_body(torch.ones(7), torch.ones(3)), r"\(\*B, N, 3\)"),
        (lambda: to_world(torch.ones(6), torch.ones(2, 3)), "pose"),
        (lambda: motion_matrix(torch.ones(4, 4), torch.ones(3)), "rotation"),
        (lambda: invert_motion(torch.ones(3, 4)), r"motion: expected floats \(\*B, 4, 4\)"),
    ],
)
def test_wrong_shapes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
