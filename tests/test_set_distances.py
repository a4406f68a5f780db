"""Distances between sets: cases counted by hand, plain torch and SciPy, gradients, and what is refused."""

import itertools
import math

import pytest
import torch
from scipy.spatial.distance import directed_hausdorff
from torch import Tensor

from structwm.geometry.set_distances import chamfer, emd, hausdorff, match

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def plain_chamfer(a: Tensor, b: Tensor, norm: str) -> Tensor:
    """Of sets without masks."""
    gaps = a.unsqueeze(-2) - b.unsqueeze(-3)
    measure = gaps.abs().sum(-1) if norm == "l1" else gaps.square().sum(-1)
    there, back = measure.amin(-1), measure.amin(-2)
    return there.sqrt().mean(-1) + back.sqrt().mean(-1) if norm == "l2" else there.mean(-1) + back.mean(-1)


def test_chamfer_by_hand():
    a, b = torch.tensor([[0.0, 0, 0], [1, 0, 0]]), torch.tensor([[0.0, 3, 4]])
    far = math.sqrt(26)
    assert float(chamfer(a, b)) == pytest.approx((5 + far) / 2 + 5)
    assert float(chamfer(a, b, direction="a_to_b")) == pytest.approx((5 + far) / 2)
    assert float(chamfer(a, b, direction="b_to_a")) == pytest.approx(5)
    assert float(chamfer(a, b, norm="squared")) == pytest.approx((25 + 26) / 2 + 25)
    assert float(chamfer(a, b, norm="l1")) == pytest.approx((7 + 8) / 2 + 7)
    # by L1 another point is nearest than by L2
    corner, axis = torch.tensor([[2.0, 2, 2]]), torch.tensor([[3.9, 0, 0]])
    assert float(chamfer(torch.zeros(1, 3), torch.cat((corner, axis)), norm="l1", direction="a_to_b")) == pytest.approx(3.9)
    assert float(chamfer(torch.zeros(1, 3), torch.cat((corner, axis)), direction="a_to_b")) == pytest.approx(math.sqrt(12))


@pytest.mark.parametrize("norm", ["l2", "squared", "l1"])
def test_chamfer_and_its_gradients_are_those_of_plain_torch(norm):
    a, b = draw(2, 3, 40, 3).requires_grad_(), draw(2, 3, 50, 3, seed=1).requires_grad_()
    ours, plain = chamfer(a, b, norm=norm), plain_chamfer(a, b, norm)
    assert ours.shape == (2, 3) and torch.allclose(ours, plain, rtol=1e-14)
    weights = draw(2, 3, seed=2)
    for mine, theirs in zip(*(torch.autograd.grad((value * weights).sum(), (a, b)) for value in (ours, plain)), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    assert torch.allclose(chamfer(b, a, norm=norm), plain)
    assert not chamfer(a, a, norm=norm).any()
    sum_of_sides = chamfer(a, b, norm=norm, direction="a_to_b") + chamfer(a, b, norm=norm, direction="b_to_a")
    assert torch.allclose(sum_of_sides, plain)


@pytest.mark.parametrize("distance", [chamfer, hausdorff, emd])
def test_masked_points_do_not_count(distance):
    a, b = draw(2, 9, 3), draw(2, 8, 3, seed=1)
    mask_a, mask_b = torch.zeros(2, 9, dtype=torch.bool), torch.zeros(2, 8, dtype=torch.bool)
    mask_a[0, [1, 3, 8]], mask_a[1, [0, 2, 4, 5]], mask_b[0, [0, 6, 7]], mask_b[1, [1, 2, 3, 4]] = True, True, True, True
    a[~mask_a], b[~mask_b] = math.nan, math.inf
    a, b = a.requires_grad_(), b.requires_grad_()
    distances = distance(a, b, mask_a=mask_a, mask_b=mask_b)
    for item in range(2):
        assert float(distances[item].detach()) == pytest.approx(float(distance(a[item][mask_a[item]], b[item][mask_b[item]]).detach()), rel=1e-14)
    for gradient, mask in zip(torch.autograd.grad(distances.sum(), (a, b)), (mask_a, mask_b), strict=True):
        assert bool(gradient.isfinite().all()) and not gradient[~mask].any() and gradient[mask].any()


def test_hausdorff_is_that_of_scipy():
    a, b = draw(60, 3), draw(40, 3, seed=1)
    there, back = directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0]
    assert float(hausdorff(a, b)) == pytest.approx(max(there, back))
    assert float(hausdorff(a, b, direction="a_to_b")) == pytest.approx(there)
    assert float(hausdorff(a, b, direction="b_to_a")) == pytest.approx(back)
    line, dot = torch.tensor([[0.0, 0], [1, 0], [5, 0]]), torch.tensor([[0.0, 0]])
    assert float(hausdorff(line, dot)) == 5 and float(hausdorff(line, dot, direction="b_to_a")) == 0


def test_emd_is_the_best_of_all_matchings():
    a, b = draw(2, 5, 3), draw(2, 5, 3, seed=1)
    for item in range(2):
        best = min(float((a[item] - b[item][list(order)]).norm(dim=-1).mean()) for order in itertools.permutations(range(5)))
        assert float(emd(a, b)[item]) == pytest.approx(best)
    assert float(emd(a, a[:, [3, 1, 0, 4, 2]]).abs().max()) == 0
    assert bool((chamfer(a, b, direction="a_to_b") <= emd(a, b)).all())
    moved = a + torch.tensor([0.3, 0.0, 0.4])
    assert torch.allclose(emd(a, moved), torch.full((2,), 0.5, dtype=F64))


@pytest.mark.parametrize("distance", [chamfer, hausdorff, emd, lambda a, b: chamfer(a, b, norm="squared"), lambda a, b: chamfer(a, b, norm="l1")])
def test_gradients_are_those_of_finite_differences(distance):
    a, b = draw(2, 4, 3).requires_grad_(), draw(2, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(distance, (a, b), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("distance", [chamfer, hausdorff, emd])
def test_equal_sets_have_no_gradient(distance):
    a = draw(6, 3).requires_grad_()
    gradient = torch.autograd.grad(distance(a, a.detach().clone()), a)[0]
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_distances_compile_to_one_graph():
    a, b = draw(2, 6, 2).requires_grad_(), draw(2, 6, 2, seed=1).requires_grad_()
    mask = torch.ones(2, 6, dtype=torch.bool)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return sum((distance(a, b, mask_a=mask, mask_b=mask) + distance(a, b)).sum() for distance in (chamfer, hausdorff, emd))

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    eager, traced = (torch.autograd.grad(function(a, b), (a, b)) for function in (loss, compiled))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(eager, traced, strict=True))
    torch.library.opcheck(match, (draw(2, 4, 3), draw(2, 4, 3, seed=1), None, mask[:, :4]), test_utils=("test_schema", "test_faketensor"))


A, NONE = torch.rand(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: chamfer(A, A[:, :0]), "at least one valid point"),
        (lambda: chamfer(A, A, mask_a=NONE), "none in one of a"),
        (lambda: hausdorff(A, A, mask_b=NONE, direction="b_to_a"), "none in one of b"),
        (lambda: chamfer(A, A * math.nan), "finite coordinates of b"),
        (lambda: chamfer(A, A, norm="l3"), "norm l2, squared or l1"),
        (lambda: chamfer(A, A, direction="there"), "direction both"),
        (lambda: chamfer(A, A[0]), "equal batch axes"),
        (lambda: hausdorff(A, A[..., :1]), "b \\(\\*B, N, 3\\)"),
        (lambda: emd(A, A[:, :3]), "as many valid points in a as in b and at least one, got 4 and 3 in set 0"),
        (lambda: emd(A, A, mask_a=NONE, mask_b=NONE), "at least one"),
        (lambda: emd(A / 0, A), "finite coordinates"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
