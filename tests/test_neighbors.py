"""Nearest neighbors: both kernels against brute force on clouds of every kind, masks, gradients, and what is refused."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from structwm.geometry.neighbors import knn, mean_neighbor_distance, radius_search
from structwm.kernels import neighbors as operators

F64 = torch.float64


def uniform(count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3))


def clusters(count: int) -> np.ndarray:
    """Some as small as a millionth of the whole."""
    rng = np.random.default_rng(0)
    which = rng.integers(20, size=count)
    return rng.random((20, 3))[which] + rng.normal(size=(count, 3)) * 10.0 ** -np.linspace(0, 6, 20)[which, None]


def plane_and_outliers(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    points = rng.random((count, 3)) * [1, 1, 0]
    points[::50] = 1e6 * rng.normal(size=points[::50].shape)
    return points


def lattice(count: int) -> np.ndarray:
    """Many copies, and many at equal distances."""
    return np.random.default_rng(2).integers(5, size=(count, 3)).astype(float)


def line(count: int) -> np.ndarray:
    return np.random.default_rng(3).permutation(np.linspace(0, 1, count))[:, None] * [1.0, 2.0, -3.0]


def copies(count: int) -> np.ndarray:
    return np.full((count, 3), 0.3)


def half_copies(count: int) -> np.ndarray:
    """As of a cloud that was padded with zeros, in the middle of what is there."""
    points = uniform(count) - 0.5
    points[count // 2 :] = 0
    return points


CLOUDS = (uniform, clusters, plane_and_outliers, lattice, line, copies, half_copies)


def brute(queries: Tensor, points: Tensor, k: int, norm: str = "l2", exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """Sorted by distance, then by index, in the numbers' own precision: one set (Q, 3) in one set (N, 3)."""
    gaps = queries.numpy()[:, None] - points.numpy()
    x, y, z = np.abs(gaps).transpose(2, 0, 1) if norm == "l1" else (gaps * gaps).transpose(2, 0, 1)
    measure = (x + y) + z
    if exclude_self:
        np.fill_diagonal(measure, np.inf)
    order = np.argsort(measure, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(measure, order, 1)
    return torch.from_numpy(values if norm == "l1" else np.sqrt(values)), torch.from_numpy(np.where(np.isinf(values), -1, order))


def by_tiles(queries: Tensor, points: Tensor, k: int, norm: str = "l2", exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """What CUDA runs, on the CPU."""
    distances, indices, _ = operators.scan_tiles((queries[None], None, "queries"), (points[None], None, "points"), k, math.inf, norm == "l1", exclude_self)
    return distances[0], indices[0]


def by_tree(queries: Tensor, points: Tensor, k: int, norm: str = "l2", exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    return knn(queries, points, k, norm=norm, exclude_self=exclude_self)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_both_kernels_give_exactly_what_brute_force_gives(cloud, dtype):
    points = torch.tensor(cloud(500), dtype=dtype)
    others = torch.tensor(cloud(201) + 1e-3 * uniform(201), dtype=dtype)
    for k, norm in ((1, "l2"), (5, "l1"), (17, "l2")):
        for queries, exclude_self in ((others, False), (points, k == 5)):
            true, order = brute(queries, points, k, norm, exclude_self)
            for search in (by_tree, by_tiles):
                distances, indices = search(queries, points, k, norm, exclude_self)
                assert torch.equal(indices, order), (search, k, norm)
                assert torch.equal(distances, true), (search, k, norm)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_distances_are_those_of_plain_torch_in_float64(cloud):
    points, queries = (torch.tensor(cloud(count)) for count in (900, 400))
    true = torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist").topk(8, largest=False).values
    assert torch.allclose(knn(queries, points, 8).distances, true, rtol=1e-14, atol=0)
    single = knn(queries.float(), points.float(), 8).distances.double()
    assert bool(((single - true).abs() <= 4e-7 * (points.abs().max() + queries.abs().max())).all())


@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=60),
    st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=20),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_ties_go_to_the_lower_index(points, queries, k):
    points, queries = (torch.tensor(value, dtype=torch.float32) for value in (points, queries))
    true, order = brute(queries, points, k)
    for search in (by_tree, by_tiles):
        distances, indices = search(queries, points, k)
        assert torch.equal(indices[:, : len(points)], order) and torch.equal(distances[:, : len(points)], true)
        assert bool((indices[:, len(points) :] == -1).all()) and bool(distances[:, len(points) :].isinf().all())


@pytest.mark.parametrize("cloud", [uniform, half_copies, lattice])
def test_large_clouds_do_not_depend_on_the_number_of_threads(cloud):
    points, queries = (torch.tensor(cloud(count), dtype=torch.float32) for count in (40_000, 5_001))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            results.append((knn(points, points, 3), knn(queries, points, 3)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            assert torch.equal(ours.indices, first.indices) and torch.equal(ours.distances, first.distances)
    sample = torch.arange(0, 5_001, 200)
    assert torch.equal(results[0][1].indices[sample], brute(queries[sample], points, 3)[1])


@pytest.mark.parametrize("cloud", [clusters, plane_and_outliers, line, copies, half_copies])
def test_no_cloud_takes_quadratic_time(cloud):
    """50,000 points by brute force would take over ten times as long as uniform ones by tree."""

    def seconds(points: np.ndarray) -> float:
        tensor, times = torch.tensor(points, dtype=torch.float32), []
        for _ in range(3):
            start = time.process_time()  # what others do meanwhile does not count
            knn(tensor, tensor + 0.01, 2)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(cloud(50_000)) < 8 * seconds(uniform(50_000))


def test_masks_leave_out_what_is_not_there():
    generator = torch.Generator().manual_seed(0)
    queries, points = torch.rand(2, 3, 40, 3, generator=generator), torch.rand(2, 3, 50, 3, generator=generator)
    query_mask, point_mask = torch.rand(2, 3, 40, generator=generator) < 0.7, torch.rand(2, 3, 50, generator=generator) < 0.5
    point_mask[1, 2] = False
    queries[~query_mask], points[~point_mask] = math.nan, math.inf
    near = knn(queries, points, 4, query_mask=query_mask, point_mask=point_mask)
    flat = [value.flatten(0, 1) for value in (queries, points, query_mask, point_mask)]
    tiles = operators.scan_tiles((flat[0], flat[2], "queries"), (flat[1], flat[3], "points"), 4, math.inf, False, False)
    assert torch.equal(tiles[0].view_as(near.distances), near.distances) and torch.equal(tiles[1].view_as(near.indices), near.indices)
    assert near.distances.shape == (2, 3, 40, 4) and near.indices.dtype == torch.int64
    assert bool((near.indices[~query_mask] == -1).all()) and bool(near.distances[~query_mask].isinf().all())
    assert not near.valid[1, 2].any()
    for item in np.ndindex(2, 3):
        if item == (1, 2):
            continue
        there, places = query_mask[item], point_mask[item].nonzero()[:, 0]
        true, order = brute(queries[item][there], points[item][places], 4)
        assert torch.equal(near.indices[item][there], places[order]) and torch.equal(near.distances[item][there], true)


def test_too_few_points_are_padded_and_nothing_is_found_in_nothing():
    points = torch.tensor([[0.0, 0, 0], [3, 4, 0]], requires_grad=True)
    near = knn(points, points, 3)
    assert near.indices.tolist() == [[0, 1, -1], [1, 0, -1]]
    assert near.distances.tolist() == [[0, 5, math.inf], [0, 5, math.inf]]
    gradient = torch.autograd.grad(torch.where(near.valid, near.distances, 0.0).sum(), points)[0]
    assert torch.allclose(gradient, 2 * torch.tensor([[-0.6, -0.8, 0], [0.6, 0.8, 0]]))
    empty = knn(points.detach(), torch.empty(0, 3), 2)
    assert empty.indices.tolist() == [[-1, -1], [-1, -1]] and bool(empty.distances.isinf().all())
    assert knn(torch.empty(0, 3), points.detach(), 2).indices.shape == (0, 2)
    assert knn(torch.empty(0, 5, 3), torch.empty(0, 4, 3), 2).indices.shape == (0, 5, 2)


def test_the_plane_is_space_without_height():
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    flat, space = (knn(value, value, 4) for value in (points, torch.nn.functional.pad(points, (0, 1))))
    assert torch.equal(flat.indices, space.indices) and torch.equal(flat.distances, space.distances)


def test_neighbors_within_a_radius_by_hand():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2.5, 0, 0], [9, 0, 0]])
    near, counts = radius_search(points, points, 1.0, limit=2)
    assert counts.tolist() == [2, 3, 3, 2, 1]
    assert near.indices.tolist() == [[0, 1], [1, 0], [2, 3], [3, 2], [4, -1]]
    assert near.distances.tolist() == [[0, 1], [0, 1], [0, 0.5], [0, 0.5], [0, math.inf]]
    _, counts = radius_search(points, points, 1.0, limit=2, exclude_self=True)
    assert counts.tolist() == [1, 2, 2, 1, 0]


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_radius_search_is_brute_force(cloud, norm):
    points, queries = torch.tensor(cloud(500)), torch.tensor(cloud(500)[:77] + 1e-3)
    valid = torch.rand(77, generator=torch.Generator().manual_seed(0)) < 0.8
    true, order = brute(queries, points, 500, norm)
    radius = float(true[:, 20].median())
    near, counts = radius_search(queries, points, radius, limit=12, norm=norm, query_mask=valid)
    tiles = operators.scan_tiles(
        (queries[None], valid[None], "queries"), (points[None], None, "points"), 12, radius ** (1 + (norm == "l2")), norm == "l1", False
    )
    within = (true <= radius) & valid[:, None]
    assert torch.equal(counts, within.sum(-1).int()) and int(counts.max()) > 12
    assert torch.equal(near.indices, torch.where(within, order, -1)[:, :12])
    assert torch.equal(near.distances, torch.where(within, true, math.inf)[:, :12])
    assert all(torch.equal(ours[0], theirs) for ours, theirs in zip(tiles, (*near, counts), strict=True))


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_gradients_are_those_of_finite_differences(norm):
    generator = torch.Generator().manual_seed(3)
    queries, points = (torch.rand(2, count, 3, generator=generator, dtype=F64, requires_grad=True) for count in (6, 7))
    mask = torch.tensor([[True] * 7, [True] * 2 + [False] * 5])

    def found(queries: Tensor, points: Tensor) -> Tensor:
        near = knn(queries, points, 3, point_mask=mask, norm=norm)
        return torch.where(near.valid, near.distances, 0.0)

    assert torch.autograd.gradcheck(found, (queries, points), eps=1e-7, atol=1e-6)
    assert torch.autograd.gradcheck(lambda x: knn(x, x, 3, norm=norm, exclude_self=True).distances, queries, eps=1e-7, atol=1e-6)


def test_no_gradient_at_distance_zero_or_from_padding():
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0]], requires_grad=True)
    near = knn(points, points, 4)
    assert near.indices.tolist() == [[0, 1, 2, -1], [0, 1, 2, -1], [2, 0, 1, -1]]
    gradient = torch.autograd.grad(near.distances, points, torch.ones_like(near.distances))[0]
    assert torch.equal(gradient, torch.tensor([[-2.0, 0, 0], [-2, 0, 0], [4, 0, 0]]))


def test_operators_can_be_traced_and_compiled():
    queries, points = (torch.rand(2, count, 3, dtype=F64, generator=torch.Generator().manual_seed(count), requires_grad=True) for count in (5, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    rules = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operators.neighbors, (queries, points, None, mask, 2, 0.5, False, False), test_utils=rules)
    torch.library.opcheck(operators.neighbors, (queries, points, None, None, 2, math.inf, True, False), test_utils=rules)
    torch.library.opcheck(operators.nearest_both, (queries, points, None, mask, True, False, False), test_utils=rules)

    def loss(queries: Tensor, points: Tensor) -> Tensor:
        near, counts = radius_search(queries, points, 0.7, limit=3, point_mask=mask)
        return torch.where(near.valid, near.distances, 0.0).sum() * counts.sum() + knn(queries, points, 2).distances.sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    eager, traced = (torch.autograd.grad(function(queries, points), (queries, points)) for function in (loss, compiled))
    assert all(torch.equal(a, b) for a, b in zip(eager, traced, strict=True))


def test_mean_distance_to_the_nearest_others():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [99, 99, 99]])
    mask = torch.tensor([True, True, True, True, False])
    expected = [2.0, (1 + math.sqrt(5) + math.sqrt(10)) / 3, (2 + math.sqrt(5) + math.sqrt(13)) / 3, (3 + math.sqrt(10) + math.sqrt(13)) / 3, 0.0]
    assert torch.allclose(mean_neighbor_distance(points, mask=mask), torch.tensor(expected))
    assert mean_neighbor_distance(torch.zeros(1, 3)).tolist() == [0.0]


POINTS = torch.rand(4, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: knn(POINTS, POINTS, 0), "k of at least 1"),
        (lambda: knn(torch.rand(4, 4), POINTS, 1), "queries \\(\\*B, N, 3\\)"),
        (lambda: knn(torch.rand(3), POINTS, 1), "queries \\(\\*B, N, 3\\)"),
        (lambda: knn(POINTS.expand(2, 4, 3), POINTS, 1), "equal batch axes"),
        (lambda: knn(torch.rand(4, 2), POINTS, 1), "equal batch axes and dimensions"),
        (lambda: knn(POINTS.int(), POINTS, 1), "float32 or float64"),
        (lambda: knn(POINTS.double(), POINTS, 1), "one type"),
        (lambda: knn(POINTS, POINTS, 1, query_mask=torch.ones(3, dtype=torch.bool)), "mask of queries"),
        (lambda: knn(POINTS, POINTS, 1, point_mask=torch.ones(4)), "mask of points"),
        (lambda: knn(POINTS, torch.rand(5, 3), 1, exclude_self=True), "a query for every point"),
        (lambda: knn(POINTS, POINTS, 1, norm="l3"), "norm l2 or l1"),
        (lambda: knn(POINTS * math.nan, POINTS, 1), "finite coordinates of queries"),
        (lambda: knn(POINTS, POINTS / 0, 1), "finite coordinates of points"),
        (lambda: knn(POINTS, POINTS * 1e20, 1), "below 1e18 m"),
        (lambda: by_tiles(POINTS, POINTS * math.nan, 1), "finite coordinates of points"),
        (lambda: radius_search(POINTS, POINTS, 0.0, limit=3), "radius above 0"),
        (lambda: radius_search(POINTS, POINTS, math.inf, limit=3), "radius above 0"),
        (lambda: radius_search(POINTS, POINTS, 1.0, limit=0), "limit of at least 1"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
