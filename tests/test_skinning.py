"""Skinning of splats: the kernels against plain torch, motions whose result is known, gradients, and what is refused."""

import pytest
import torch
from torch import Tensor

from structwm.geometry.harmonics import harmonic_basis
from structwm.geometry.rotations import matrix_to_quaternion, normalize_quaternion, quaternion_multiply, quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.skinning import Skin, node_rotations, skin_points, skin_splats, skinning_weights
from structwm.kernels import skinning as kernels
from structwm.kernels import skinning_reference as reference
from structwm.state import Splats

from .splats import random_splats

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def some_splats(count: int, degree: int = 0) -> Splats:
    return random_splats(count, degree=degree, dtype=F64)


def covariance(splats: Splats) -> Tensor:
    return reference.covariances(torch.eye(3, dtype=splats.means.dtype), splats.rotations, splats.scales)


def blend_inputs(points: int, skins: int, rest: int, moving: int) -> tuple[Tensor, ...]:
    """Inputs of `blend_maps` for 11 points, 5 nodes and 3 slots, each with so many worlds."""
    indices = torch.randint(5, (skins, 11, 3), generator=torch.Generator().manual_seed(9)).to(torch.int32)
    weights = draw(skins, 11, 3, seed=1).softmax(-1)
    tensors = (draw(points, 11, 3, seed=2), indices, weights, draw(rest, 5, 3, seed=3), draw(moving, 5, 3, seed=4), draw(moving, 5, 3, 3, seed=5))
    return (*tensors, *kernels.followers(indices, 5))


# the operators


@pytest.mark.parametrize("worlds", [(1, 1, 1, 1), (3, 1, 1, 3), (1, 1, 1, 3), (1, 3, 1, 1), (3, 3, 3, 3), (1, 3, 3, 3)])
def test_blend_is_that_of_plain_torch(worlds):
    inputs = blend_inputs(*worlds)
    leaves = [value.requires_grad_() for value in inputs if value.is_floating_point()]
    ours, theirs = kernels.blend_maps(*inputs), reference.blend_maps(*inputs[:6])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(ours, theirs, strict=True))
    losses = [(pair[0] * draw(*pair[0].shape, seed=6)).sum() + (pair[1] * draw(*pair[1].shape, seed=7)).sum() for pair in (ours, theirs)]
    for a, b in zip(*(torch.autograd.grad(loss, leaves) for loss in losses), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_followers_are_the_skin_read_backwards():
    indices = torch.randint(6, (2, 40, 3), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    starts, entries = kernels.followers(indices, 7)
    for world in range(2):
        for node in range(7):
            mine = entries[world, starts[world, node] : starts[world, node + 1]]
            assert torch.equal(mine, (indices[world].flatten() == node).nonzero()[:, 0].int())


def test_axes_stand_for_the_mapped_covariance():
    maps, rotations, scales = draw(1, 400, 3, 3), draw(1, 400, 4, seed=1), draw(1, 400, 3, seed=2).exp()
    eye = torch.eye(3, dtype=F64)
    for kind, tolerance in ((F64, 1e-13), (torch.float32, 1e-5)):
        new_rotations, new_scales = (value.double() for value in kernels.deform_axes(maps.to(kind), rotations.to(kind), scales.to(kind)))
        expected = reference.covariances(maps, rotations, scales)
        assert torch.allclose(reference.covariances(eye, new_rotations, new_scales), expected, rtol=0, atol=tolerance * float(expected.abs().max()))
        lengths = reference.deform_axes(maps, rotations, scales)[1]
        assert torch.allclose(new_scales.sort(-1, descending=True).values, lengths, atol=10 * tolerance, rtol=tolerance)
        assert torch.allclose(new_rotations.norm(dim=-1), torch.ones(1, 400, dtype=F64), atol=1e-6)


def test_short_axes_keep_their_digits_in_float32():
    """A covariance in float32 would lose a scale below 3e-4 of the largest."""
    rotations, scales = draw(1, 200, 4), torch.tensor([1.0, 1e-3, 1e-6], dtype=F64).expand(1, 200, 3)
    maps = quaternion_to_matrix(draw(200, 4, seed=1))[None] * torch.tensor([1.5], dtype=F64)
    _, found = kernels.deform_axes(maps.float(), rotations.float(), scales.float())
    assert torch.allclose(found.double(), 1.5 * scales, rtol=2e-2)  # F R diag(s) itself has rounding of 1e-7 of the largest
    assert torch.allclose(found[..., :2].double(), 1.5 * scales[..., :2], rtol=1e-4)


def test_gradients_of_functions_of_the_covariance():
    """Through axes and back equals straight through the covariance; splats that were balls, discs and ellipsoids, under maps that leave no two scales equal."""
    scales = torch.tensor([[1.0, 1, 1], [0.3, 0.3, 1], [1, 1e-3, 1], [0.2, 0.5, 0.9]], dtype=F64).expand(1, 4, 3).clone().requires_grad_()
    maps, rotations = draw(1, 4, 3, 3).requires_grad_(), draw(1, 4, 4, seed=1).requires_grad_()
    weights = draw(4, 3, 3, seed=2)

    def through_axes(f: Tensor, q: Tensor, s: Tensor) -> Tensor:
        new = reference.covariances(torch.eye(3, dtype=F64), *kernels.deform_axes(f, q, s))
        return (weights * new).sum() + (new + 0.1 * torch.eye(3, dtype=F64)).logdet().sum()

    assert torch.autograd.gradcheck(through_axes, (maps, rotations, scales))
    straight = reference.covariances(maps, rotations, scales)
    straight = (weights * straight).sum() + (straight + 0.1 * torch.eye(3, dtype=F64)).logdet().sum()
    leaves = (maps, rotations, scales)
    for ours, theirs in zip(torch.autograd.grad(through_axes(*leaves), leaves), torch.autograd.grad(straight, leaves), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradients_where_scales_are_equal():
    """Balls that are turned: what depends on the lengths alone is exact, what would tell the axes apart is 0, nothing is infinite."""
    maps = quaternion_to_matrix(draw(6, 4))[None].requires_grad_()
    rotations, scales = draw(1, 6, 4, seed=1), torch.full((1, 6, 3), 0.1, dtype=F64, requires_grad=True)
    for kind in (F64, torch.float32):
        new = reference.covariances(torch.eye(3, dtype=kind), *kernels.deform_axes(maps.to(kind), rotations.to(kind), scales.to(kind)))
        volume, straight = new.double().logdet().sum(), reference.covariances(maps, rotations, scales)
        for ours, theirs in zip(
            torch.autograd.grad(volume, (maps, scales), retain_graph=True), torch.autograd.grad(straight.logdet().sum(), (maps, scales)), strict=True
        ):
            assert torch.allclose(ours, theirs, rtol=1e-6 if kind == F64 else 1e-4)
        for row in range(3):
            for column in range(3):
                (by_maps,) = torch.autograd.grad(new[0, :, row, column].sum(), maps, retain_graph=True)
                assert bool(by_maps.isfinite().all()) and float(by_maps.abs().max()) < 0.1


def test_gradients_near_equal_scales_hold_in_float32():
    """One hundredth apart, the gradient by the covariance between two axes is right to a few hundredths."""
    scales = torch.tensor([0.1, 0.101, 0.05], dtype=F64).expand(1, 50, 3)
    maps, rotations, weights = quaternion_to_matrix(draw(50, 4))[None], draw(1, 50, 4, seed=1), draw(50, 3, 3, seed=2)
    found = []
    for kind in (F64, torch.float32):
        f = maps.to(kind).requires_grad_()
        new = reference.covariances(torch.eye(3, dtype=kind), *kernels.deform_axes(f, rotations.to(kind), scales.to(kind)))
        found.append(torch.autograd.grad((weights.to(kind) * new).sum(), f)[0].double())
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.02


def test_degenerate_splats_and_maps_have_finite_results():
    line, mirror = torch.diag(torch.tensor([1.0, 0, 0])), torch.diag(torch.tensor([1.0, 1, -1]))
    maps = torch.stack((torch.zeros(3, 3), line, mirror, torch.ones(3, 3), torch.eye(3) * 1e-30))
    for kind in (F64, torch.float32):
        for scales in ((1.0, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)):
            f, q = maps.to(kind)[None].clone().requires_grad_(), torch.eye(4, dtype=kind)[[1, 0, 2, 3, 0]][None].clone()
            q[0, 4] = 0  # the zero quaternion
            q.requires_grad_()
            s = torch.tensor(scales, dtype=kind).expand(1, 5, 3).clone().requires_grad_()
            out = kernels.deform_axes(f, q, s)
            gradients = torch.autograd.grad(sum(value.sum() for value in out), (f, q, s))
            assert all(bool(value.isfinite().all()) for value in (*out, *gradients))
            expected = reference.covariances(f, q, s)
            assert torch.allclose(reference.covariances(torch.eye(3, dtype=kind), *out), expected, atol=1e-5)


def test_nearest_rotation_is_that_of_plain_torch():
    matrices = draw(300, 3, 3)
    ours = kernels.nearest_rotation(matrices)
    assert torch.allclose(ours, reference.nearest_rotation(matrices), rtol=0, atol=1e-10)
    assert torch.allclose(kernels.nearest_rotation(matrices.float()).double(), ours, atol=1e-3)  # a few of them nearly mirror
    assert torch.autograd.gradcheck(kernels.nearest_rotation, (matrices[:20].clone().requires_grad_(),))
    again = quaternion_to_matrix(ours[:6]).requires_grad_()  # all singular values equal
    assert torch.autograd.gradcheck(kernels.nearest_rotation, (again,))


def test_nearest_rotation_of_degenerate_matrices_is_one():
    line, mirror = torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 1, -1]))
    line[0, 1] = 2.0
    matrices = torch.stack((torch.zeros(3, 3), line, mirror, -torch.eye(3), torch.ones(3, 3))).requires_grad_()
    found = kernels.nearest_rotation(matrices)
    (gradient,) = torch.autograd.grad(found.sum(), matrices)
    assert bool(gradient.isfinite().all())
    turned = quaternion_to_matrix(found.detach())
    assert torch.allclose(turned @ turned.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6)
    assert torch.allclose((turned * matrices.detach()).sum((-1, -2)), torch.tensor([0.0, 2, 1, 1, 3]), atol=1e-5)


@pytest.mark.parametrize("name", ["blend_maps", "decompose_maps", "polar_rotation"])
def test_operators_are_registered_as_torch_wants(name):
    splats = (draw(2, 4, 3, 3), draw(1, 4, 4), draw(1, 4, 3).exp())
    inputs = {"blend_maps": blend_inputs(1, 1, 1, 2), "decompose_maps": splats, "polar_rotation": (draw(4, 3, 3),)}
    arguments = tuple(value.clone().requires_grad_(value.is_floating_point()) for value in inputs[name])
    torch.library.opcheck(getattr(kernels, name), arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(kernels, "POINT_SHARE", 1)
    monkeypatch.setattr(kernels, "SUM_SHARE", 1)
    splats, nodes = some_splats(300).float(), draw(7, 3).float()
    skin = skinning_weights(splats.means, nodes)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        moved, maps = (nodes + 1).requires_grad_(), draw(7, 3, 3, seed=1).float().requires_grad_()
        out = skin_splats(splats, skin, nodes, moved, maps=maps)
        values = (out.means, out.rotations, out.scales)
        found.append((*values, *torch.autograd.grad(sum(value.square().sum() for value in values), (moved, maps))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# motions whose result is known


def test_rigid_motion_moves_every_splat_rigidly():
    for kind, tolerance in ((F64, 1e-14), (torch.float32, 2e-6)):
        splats, nodes, q, shift = some_splats(300).to(kind), draw(20, 3, seed=5).to(kind), draw(4, seed=6).to(kind), draw(3, seed=7).to(kind)
        turn = quaternion_to_matrix(q)
        moved = skin_splats(splats, skinning_weights(splats.means, nodes), nodes, nodes @ turn.T + shift, rotations=q.expand(20, 4))
        assert torch.allclose(moved.means, splats.means @ turn.T + shift, rtol=0, atol=10 * tolerance)
        assert torch.allclose(covariance(moved), turn @ covariance(splats) @ turn.T, rtol=0, atol=tolerance * float(covariance(splats).abs().max()))
        assert torch.allclose(moved.scales, splats.scales, rtol=10 * tolerance)  # each axis keeps its place
        expected = quaternion_to_matrix(quaternion_multiply(q, splats.rotations))
        assert torch.allclose(quaternion_to_matrix(moved.rotations), expected, atol=100 * tolerance)
        assert moved.opacities is splats.opacities or torch.equal(moved.opacities, splats.opacities)


def test_affine_motion_is_exact():
    splats, nodes, linear, shift = some_splats(200), draw(20, 3, seed=5), draw(3, 3, seed=6), draw(3, seed=7)
    moved = skin_splats(splats, skinning_weights(splats.means, nodes, k=4), nodes, nodes @ linear.T + shift, maps=linear.expand(20, 3, 3))
    assert torch.allclose(moved.means, splats.means @ linear.T + shift, rtol=0, atol=1e-12)
    assert torch.allclose(covariance(moved), linear @ covariance(splats) @ linear.T, rtol=0, atol=1e-12)


def test_by_hand():
    """A splat midway between a node that rests and one that goes up by 2 m goes up by 1 m; without maps its shape is as before."""
    nodes, up = torch.tensor([[-1.0, 0, 0], [1, 0, 0]]), torch.tensor([[-1.0, 0, 0], [1, 0, 2]])
    splats = Splats(
        means=torch.zeros(1, 3),
        rotations=torch.tensor([[2.0, 0, 0, 0]]),
        scales=torch.tensor([[1.0, 2, 3]]),
        opacities=torch.ones(1),
        colors=torch.ones(1, 3),
        batch_size=[],
    )
    skin = skinning_weights(splats.means, nodes)
    assert torch.allclose(skin.weights, torch.tensor([[0.5, 0.5]]))
    moved = skin_splats(splats, skin, nodes, up)
    assert torch.allclose(moved.means, torch.tensor([[0.0, 0, 1]]))
    assert torch.allclose(moved.scales, splats.scales) and torch.allclose(moved.rotations, torch.tensor([[1.0, 0, 0, 0]]))
    # one node turns a quarter about x: the mean of the identity and that turn shears the y-z plane to [[1, -1], [1, 1]] / 2
    turned = skin_splats(splats, skin, nodes, nodes, rotations=torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]]))
    half = torch.tensor([[1.0, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]])
    assert torch.allclose(covariance(turned)[0], half @ torch.diag(torch.tensor([1.0, 4, 9])) @ half.T, atol=1e-6)


def test_signs_of_quaternions_do_not_matter():
    splats, nodes, q = some_splats(100, degree=2), draw(20, 3, seed=5), draw(20, 4, seed=6)
    skin = skinning_weights(splats.means, nodes)
    flipped = q * (draw(20, 1, seed=8) > 0).double().mul(2).sub(1)
    assert not torch.equal(flipped, q)
    first, second = (skin_splats(splats, skin, nodes, nodes, rotations=value) for value in (q, flipped))
    assert all(torch.equal(first.get(name), second.get(name)) for name in ("means", "rotations", "scales", "harmonics"))


def test_harmonics_turn_with_the_splats():
    splats, nodes, q = some_splats(50, degree=3), draw(20, 3, seed=5), draw(4, seed=6)
    turn = quaternion_to_matrix(q)
    moved = skin_splats(splats, skinning_weights(splats.means, nodes), nodes, nodes @ turn.T, rotations=q.expand(20, 4))
    directions = torch.nn.functional.normalize(draw(12, 3, seed=7), dim=-1)
    before, after = harmonic_basis(directions, 3) @ splats.harmonics, harmonic_basis(directions @ turn.T, 3) @ moved.harmonics
    assert torch.allclose(after, before, atol=1e-10)


def test_one_skin_serves_a_rollout():
    splats, nodes = some_splats(30), draw(6, 3, seed=5)
    moved, q = nodes + 0.3 * draw(2, 4, 6, 3, seed=6), draw(2, 4, 6, 4, seed=7)
    skin = skinning_weights(splats.means, nodes, k=3)
    whole = skin_splats(splats, skin, nodes, moved, rotations=q)
    assert whole.batch_size == (2, 4) and whole.colors.shape == (2, 4, 30, 3)
    for s in range(2):
        for h in range(4):
            one = skin_splats(splats, skin, nodes, moved[s, h], rotations=q[s, h])
            assert all(torch.equal(whole.get(name)[s, h], one.get(name)) for name in ("means", "rotations", "scales"))
    leaf = splats.means.clone().requires_grad_()  # shared by all: the gradient is the sum
    (shared,) = torch.autograd.grad(skin_points(leaf, skin, nodes, moved, rotations=q)[0].square().sum(), leaf)
    parts = [torch.autograd.grad(skin_points(leaf, skin, nodes, moved[s, h], rotations=q[s, h])[0].square().sum(), leaf)[0] for s in range(2) for h in range(4)]
    assert torch.allclose(shared, sum(parts), atol=1e-10)


def test_gradients_to_everything():
    """From splats after skinning to points, nodes, bandwidth and quaternions, the weights' own gradients included."""
    splats, nodes = some_splats(4), draw(5, 3, seed=5)
    eye = torch.eye(3, dtype=F64)

    def run(means: Tensor, rest: Tensor, width: Tensor, moved: Tensor, q: Tensor) -> Tensor:
        places, maps = skin_points(means, skinning_weights(means, rest, k=3, bandwidth=width), rest, moved, rotations=q)
        axes = kernels.deform_axes(maps[None], splats.rotations[None], splats.scales[None])
        return torch.cat((places.flatten(), 100 * reference.covariances(eye, *axes).flatten()))

    leaves = (splats.means, nodes, 1 + draw(5, seed=8).abs(), nodes + 0.3 * draw(5, 3, seed=6), draw(5, 4, seed=7))
    assert torch.autograd.gradcheck(run, tuple(value.clone().requires_grad_() for value in leaves))


def test_compiles_without_a_break():
    splats, nodes = some_splats(20), draw(6, 3, seed=5)
    skin = skinning_weights(splats.means, nodes, k=3)

    def loss(moved: Tensor, q: Tensor) -> Tensor:
        places, maps = skin_points(splats.means, skin, nodes, moved, rotations=q)
        axes = kernels.deform_axes(maps[None], splats.rotations[None], splats.scales[None])
        return places.square().sum() + axes[1].sum()

    leaves = (nodes.clone().requires_grad_(), draw(6, 4).requires_grad_())
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(*leaves), leaves), strict=True):
        assert torch.allclose(ours, theirs)


# rotations from the motion of neighbors


def test_node_rotations_of_rigid_motion():
    nodes, q = draw(40, 3), normalize_quaternion(draw(5, 1, 4, seed=1))
    neighbors = skinning_weights(nodes, nodes, k=8)
    found = node_rotations(nodes, nodes @ quaternion_to_matrix(q[:, 0]).mT + 3.0, neighbors)
    assert found.shape == (5, 40, 4)
    assert torch.allclose(quaternion_to_matrix(found), quaternion_to_matrix(q).expand(5, 40, 3, 3), atol=1e-6)


def test_node_rotations_of_a_bent_sheet():
    """A sheet rolled on a cylinder: each node has turned by its own angle."""
    u, v = torch.meshgrid(torch.linspace(-1, 1, 15, dtype=F64), torch.linspace(-1, 1, 15, dtype=F64), indexing="ij")
    flat = torch.stack((u.flatten(), v.flatten(), torch.zeros(225, dtype=F64)), -1)
    rolled = torch.stack((flat[:, 0].sin(), flat[:, 1], 1 - flat[:, 0].cos()), -1)
    found = node_rotations(flat, rolled, skinning_weights(flat, flat, k=9))
    expected = rotation_vector_to_quaternion(torch.stack((torch.zeros(225), -flat[:, 0], torch.zeros(225)), -1))
    inner = (flat[:, 0].abs() < 0.9) & (flat[:, 1].abs() < 0.9)
    assert torch.allclose(quaternion_to_matrix(found)[inner], quaternion_to_matrix(expected)[inner], atol=0.01)


def test_a_straight_rope_turns_without_twist():
    along = torch.linspace(0, 1, 12, dtype=F64)[:, None]
    rope, target = along * torch.tensor([1.0, 0, 0], dtype=F64), along * torch.tensor([0.0, 0.6, 0.8], dtype=F64)
    moved = target.clone().requires_grad_()
    found = node_rotations(rope, moved, skinning_weights(rope, rope, k=4))
    least = torch.tensor([1.0, 0, -0.8, 0.6], dtype=F64)  # a quarter turn about the normal of both directions
    assert torch.allclose(found.detach(), normalize_quaternion(least).expand(12, 4), atol=1e-9)
    (gradient,) = torch.autograd.grad(found[..., 1].sum(), moved)
    assert bool(gradient.isfinite().all())


def test_gradients_of_node_rotations():
    nodes = draw(6, 3)
    neighbors = skinning_weights(nodes, nodes, k=5)
    moved = (nodes @ quaternion_to_matrix(draw(4, seed=1)).T + 0.1 * draw(6, 3, seed=2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: node_rotations(a, b, neighbors), (nodes.clone().requires_grad_(), moved))
    together = torch.zeros(6, 3, dtype=F64, requires_grad=True)  # all nodes in one place
    found = node_rotations(nodes, together, neighbors)
    assert torch.equal(found[:, 0], torch.ones(6, dtype=F64))
    assert bool(torch.autograd.grad(found.sum(), together)[0].isfinite().all())


# weights


def test_weights_by_hand():
    nodes = torch.tensor([[0.0, 0, 0], [3, 0, 0], [100, 0, 0]], dtype=F64)
    points = torch.tensor([[1.0, 0, 0], [0, 0, 0]], dtype=F64)
    skin = skinning_weights(points, nodes, k=2)
    assert torch.equal(skin.indices, torch.tensor([[0, 1], [0, 1]], dtype=torch.int32))
    assert torch.allclose(skin.weights, torch.tensor([[0.8, 0.2], [1, 0]], dtype=F64), atol=1e-5)
    ratio = torch.tensor((4 - 1) / (2 * 0.5**2), dtype=F64).exp()  # exp(-1 / 2b^2) to exp(-4 / 2b^2)
    assert torch.allclose(skinning_weights(points[:1], nodes, k=2, bandwidth=0.5).weights, torch.stack((ratio, torch.tensor(1.0))) / (1 + ratio))
    assert torch.allclose(skinning_weights(points[:1], nodes, bandwidth=1e-3).weights[0, 0], torch.tensor(1.0, dtype=F64))  # exp(-500000) alone would be 0


def test_weights_sum_to_one_and_leave_masked_nodes_out():
    points, nodes = draw(3, 50, 3), draw(3, 9, 3, seed=1)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :7] = False
    for bandwidth in (None, 0.3):
        skin = skinning_weights(points, nodes, k=4, bandwidth=bandwidth, node_mask=mask)
        assert torch.allclose(skin.weights.sum(-1), torch.ones(3, 50, dtype=F64))
        assert bool((skin.indices[0] >= 7).all()) and bool((skin.weights[0, :, 2:] == 0).all())
        lost = nodes.clone()
        lost[0, :7] = torch.nan  # where a masked node goes is of no matter
        assert bool(skin_points(points, skin, nodes, lost)[0].isfinite().all())


def test_masked_nodes_may_hold_anything():
    nodes = torch.cat((draw(4, 3), torch.full((1, 3), torch.nan, dtype=F64)))
    skin = skinning_weights(draw(6, 3, seed=1), nodes, node_mask=torch.tensor([True] * 4 + [False]))
    assert bool(skin.weights.isfinite().all()) and int(skin.indices.max()) < 4


def test_gradients_of_weights_at_a_node_are_finite():
    nodes = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0]], requires_grad=True)  # two in one place
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1e-5, 0, 0]], requires_grad=True)
    for bandwidth in (None, 0.2):
        weights = skinning_weights(points, nodes, k=3, bandwidth=bandwidth).weights
        gradients = torch.autograd.grad((weights * torch.tensor([1.0, 2, 3])).sum(), (points, nodes))
        assert all(bool(value.isfinite().all()) for value in (weights, *gradients))
    same = skinning_weights(torch.ones(1, 3), torch.ones(4, 3)).weights
    assert torch.equal(same, torch.full((1, 4), 0.25))


# what is refused, and nothing at all


def test_no_points_and_no_worlds_are_fine():
    splats, nodes = some_splats(4), draw(3, 3)
    none = skin_splats(splats, skinning_weights(splats.means, nodes), nodes, torch.zeros(0, 3, 3, dtype=F64))
    assert none.means.shape == (0, 4, 3) and none.rotations.shape == (0, 4, 4) and none.colors.shape == (0, 4, 3)
    skin = skinning_weights(torch.zeros(0, 3), torch.zeros(4, 3))
    places, maps = skin_points(torch.zeros(0, 3), skin, torch.zeros(4, 3), torch.zeros(4, 3))
    assert places.shape == (0, 3) and maps.shape == (0, 3, 3)


NODES = torch.zeros(4, 3)
SKIN = Skin(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1), 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: skinning_weights(torch.full((2, 3), torch.nan), NODES), "finite"),
        (lambda: skinning_weights(torch.zeros(2, 3), torch.full((4, 3), torch.inf)), "finite"),
        (lambda: skinning_weights(torch.zeros(2, 2), NODES), r"points: expected float32 or float64 \(\*B, N, 3\)"),
        (lambda: skinning_weights(torch.zeros(2, 3), torch.zeros(0, 3)), "at least one node"),
        (lambda: skinning_weights(torch.zeros(2, 3), NODES, k=0), "at least one node"),
        (lambda: skinning_weights(torch.zeros(2, 3), NODES, bandwidth=0.0), "above 0"),
        (lambda: skinning_weights(torch.zeros(2, 3), NODES, node_mask=torch.zeros(4, dtype=torch.bool)), "a node left"),
        (lambda: skinning_weights(torch.zeros(2, 3), NODES, node_mask=torch.ones(3, dtype=torch.bool)), r"\(\*B, 4\)"),
        (lambda: Skin(torch.full((2, 1), 4), torch.ones(2, 1), 4), "those of 4 nodes, got 4 to 4"),
        (lambda: Skin(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 2), 4), "integer indices and float weights"),
        (lambda: skin_points(torch.zeros(3, 3), SKIN, NODES, NODES), r"points: expected torch.float32 \(\*B, 2, 3\)"),
        (lambda: skin_points(torch.zeros(2, 3), SKIN, NODES, NODES[:3]), "moved_nodes: expected"),
        (lambda: skin_points(torch.zeros(2, 3, dtype=F64), SKIN, NODES, NODES), "float64"),
        (lambda: skin_points(torch.zeros(2, 3), SKIN, NODES, NODES, rotations=torch.zeros(4, 3)), r"rotations: expected torch.float32 \(\*B, 4, 4\)"),
        (lambda: skin_points(torch.zeros(2, 3), SKIN, NODES, NODES, maps=torch.zeros(4, 3)), r"maps: expected torch.float32 \(\*B, 4, 3, 3\)"),
        (lambda: skin_points(torch.zeros(2, 3), SKIN, NODES, NODES, maps=torch.zeros(4, 3, 3, dtype=F64)), "maps: expected torch.float32"),
        (
            lambda: skin_splats(some_splats(2).replace(means=torch.zeros(5, 2, 3)), SKIN, NODES, NODES),
            r"means: expected .* got \(5, 2, 3\)",
        ),
        (lambda: skin_points(torch.zeros(2, 3), SKIN, NODES, NODES, maps=torch.zeros(4, 3, 3), rotations=torch.zeros(4, 4)), "got both"),
        (lambda: node_rotations(NODES, NODES, SKIN), "skin of the nodes on themselves"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_half_precision_is_refused():
    with pytest.raises(TypeError, match="float32 or float64"):
        kernels.nearest_rotation(torch.ones(1, 3, 3, dtype=torch.float16))


def test_rotations_agree_with_matrices():
    """`matrix_to_quaternion` in the kernels and in torch is one function."""
    q = draw(100, 4)
    assert torch.allclose(kernels.nearest_rotation(quaternion_to_matrix(q)), matrix_to_quaternion(quaternion_to_matrix(q)), atol=1e-12)
