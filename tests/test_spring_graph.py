"""Springs: symmetric, each once, within the radius but for joints, all hanging together; graph distances; points in meshes."""

import math

import pytest
import torch

from structwm.geometry import Mesh, graph_distances, graph_pieces, interior_points, mesh_volume, sample_surface, spring_edges, thin_points
from structwm.perception.convex_decomposition import hull_mesh


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))


def test_edges_are_those_of_a_slow_search():
    points, radius, most = cloud(60), 0.3, 5
    distance = torch.cdist(points, points).fill_diagonal_(math.inf)
    expected = set()
    for i in range(60):
        for j in distance[i].argsort()[:most].tolist():
            if distance[i, j] <= radius:
                expected.add((min(i, j), max(i, j)))
    edges = spring_edges(points, radius, most, join=False)
    assert {tuple(edge) for edge in edges.tolist()} == expected and len(edges) == len(expected)


def test_pieces_are_told_and_joined():
    points = torch.cat((cloud(40), cloud(30, 1) + torch.tensor([5.0, 0, 0]), cloud(1, 2) - 4))
    apart = spring_edges(points, 0.6, 10, join=False)
    assert int(graph_pieces(len(points), apart).max()) == 2
    joined = spring_edges(points, 0.6, 10)
    assert int(graph_pieces(len(points), joined).max()) == 0
    added = {tuple(e) for e in joined.tolist()} - {tuple(e) for e in apart.tolist()}
    assert 4 <= len(added) <= 6 and sum(70 in edge for edge in added) == 1  # the single point hangs by one, the piece by three


def test_bad_points_are_refused():
    with pytest.raises(ValueError, match="at least two points"):
        spring_edges(torch.zeros(1, 3), 1.0, 2)
    with pytest.raises(ValueError, match="different places"):
        spring_edges(torch.zeros(3, 3), 1.0, 2)


def test_distances_go_along_edges():
    edges, lengths = torch.tensor([[0, 1], [1, 2], [3, 4]]), torch.tensor([1.0, 2.0, 5.0])
    found = graph_distances(5, edges, lengths, torch.tensor([0]))
    assert found.tolist() == [[0.0, 1.0, 3.0, math.inf, math.inf]]


@pytest.fixture(scope="module")
def cube() -> Mesh:
    return hull_mesh(torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double().numpy())


def test_interior_points_fill_a_cube(cube):
    points = interior_points(cube, 0.1, margin=0.05)
    assert float(points.min()) > 0.05 and float(points.max()) < 0.95
    expected = 0.9**3 * 3 * math.sqrt(3) / 4 / 0.1**3  # of a body-centred grid
    assert len(points) == pytest.approx(expected, rel=0.15)
    halves = (points > 0.5).float().mean(0)
    assert (halves - 0.5).abs().max() < 0.05
    assert torch.equal(points, interior_points(cube, 0.1, margin=0.05))


def test_surface_samples_are_even_and_thinned(cube):
    points, faces = sample_surface(cube, 6000)
    on = ((points.abs() < 1e-6) | ((points - 1).abs() < 1e-6)).any(-1)
    assert bool(on.all()) and int(faces.max()) < len(cube.faces)
    sides = torch.stack([((points[:, axis] - side).abs() < 1e-6).float().mean() for axis in range(3) for side in (0, 1)])
    assert (sides - 1 / 6).abs().max() < 0.01
    kept = thin_points(points, 0.1)
    assert float(torch.pdist(points[kept]).min()) >= 0.1
    assert float(torch.cdist(points, points[kept]).amin(-1).max()) <= 0.1
    assert float(mesh_volume(cube)) == pytest.approx(1.0)
