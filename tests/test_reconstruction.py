"""Solids of known shape come back from posed images: with depth, with noise, from masks alone, on a floor; and what cannot be is refused."""

from dataclasses import replace

import pytest
import torch

from structwm.data import PosedImages
from structwm.geometry import graph_pieces, mesh_parts, mesh_volume, sample_surface
from structwm.geometry.mesh import Mesh
from structwm.geometry.signed_distance import MeshQuery, Sphere
from structwm.perception import ReconstructionSettings, clean_depth, convex_pieces, depth_noise, reconstruct
from structwm.perception.convex_decomposition import hull_mesh
from tests.traced_solids import at, cameras, club, photograph

SETTINGS = ReconstructionSettings(voxel=0.002, points=1000, splats=1500)


@pytest.fixture(scope="module")
def seen() -> PosedImages:
    return photograph(club(), cameras())


def error_mm(mesh: Mesh) -> float:
    return 1000 * float(club().signed_distance(sample_surface(mesh, 5000)[0]).abs().mean())


def noisy(seen: PosedImages, std: float = 0.002) -> PosedImages:
    noise = std * torch.randn(seen.depth.shape, generator=torch.Generator().manual_seed(0))
    return replace(seen, depth=torch.where(seen.depth > 0, seen.depth + noise, 0.0))


def test_depth_gives_the_surface_to_a_fraction_of_a_cell(seen):
    found = reconstruct(seen, SETTINGS)
    assert error_mm(found.mesh) < 0.4 and MeshQuery(found.mesh).closed and len(mesh_parts(found.mesh)) == 1
    assert float(found.seen.float().mean()) > 0.95
    assert (found.points.colors - torch.tensor([0.8, 0.3, 0.2])).abs().mean() < 0.02  # none of the blue behind it
    outward = club().signed_distance(found.points.positions + 0.002 * found.points.normals) - club().signed_distance(found.points.positions)
    assert float((outward > 0).float().mean()) > 0.98


def test_noise_is_measured_and_averaged(seen):
    found = reconstruct(noisy(seen), SETTINGS)
    assert found.noise == pytest.approx(0.002, rel=0.15)
    assert error_mm(found.mesh) < 0.6
    assert depth_noise(seen.depth, seen.masks) < 0.0006  # of a curved surface without noise


def test_without_masks_what_was_measured_is_the_object(seen):
    assert error_mm(reconstruct(replace(noisy(seen), masks=None), SETTINGS).mesh) < 0.7


def test_masks_alone_give_a_hull_that_holds_the_object(seen):
    found = reconstruct(replace(seen, depth=None), SETTINGS)
    assert error_mm(found.mesh) < 2.5
    truth = mesh_volume(reconstruct(seen, SETTINGS).mesh)
    assert 1.0 < float(mesh_volume(found.mesh) / truth) < 1.25
    assert not bool(found.seen.any())


def test_holes_and_bleeding_masks_do_no_harm(seen):
    generator = torch.Generator().manual_seed(1)
    holes = torch.rand(seen.depth.shape, generator=generator) < 0.1
    depth = torch.where(holes, torch.where(torch.rand(seen.depth.shape, generator=generator) < 0.5, torch.nan, 0.0), seen.depth)
    wide = torch.nn.functional.max_pool2d(seen.masks.float().unsqueeze(1), 3, 1, 1).squeeze(1) > 0  # one pixel too wide all around, onto a wall
    spoilt = replace(seen, depth=torch.where(wide & ~seen.masks, 1.2, depth), masks=wide)
    assert error_mm(reconstruct(spoilt, SETTINGS).mesh) < 0.7


def test_flying_pixels_are_taken_away(seen):
    edge = (torch.nn.functional.avg_pool2d(seen.masks.float().unsqueeze(1), 3, 1, 1).squeeze(1) < 0.99) & seen.masks
    flying = edge & (torch.rand(edge.shape, generator=torch.Generator().manual_seed(0)) < 0.3)
    depth = torch.where(flying, seen.depth + 0.05 + 0.1 * torch.rand(edge.shape, generator=torch.Generator().manual_seed(2)), seen.depth)
    kept = clean_depth(depth, seen.camera, masks=seen.masks) > 0
    assert float((kept & flying).sum() / flying.sum()) < 0.1
    assert float((kept & seen.masks & ~flying).sum() / (seen.masks & ~flying).sum()) > 0.93


def test_what_stands_before_the_object_cuts_nothing_off(seen):
    """A board hides half of the object from one camera; the others see what is behind it."""
    masks, depth = seen.masks.clone(), seen.depth.clone()
    masks[0, :, 48:] = False
    depth[0, :, 48:] = 0.2
    assert error_mm(reconstruct(replace(seen, masks=masks, depth=depth), SETTINGS).mesh) < 0.6


def test_a_floor_is_found_and_ends_the_object():
    ball = Sphere(at(0, 0, 0.0), 0.04)
    views = photograph(ball, cameras(above=True), floor=-0.04)
    found = reconstruct(views, SETTINGS)
    assert found.support is not None
    assert torch.allclose(found.support, torch.tensor([0.0, 0.0, 1.0, 0.04]), atol=2e-3)
    assert float(found.mesh.vertices[:, 2].min()) > -0.042
    without = reconstruct(views, replace(SETTINGS, support=False))
    assert without.support is None


def test_springs_hang_together_and_interior_points_lie_inside(seen):
    found = reconstruct(seen, SETTINGS)
    graph = found.springs
    assert float(club().signed_distance(found.interior).max()) < 0
    assert graph.surface == len(found.points) and len(graph.points) == graph.surface + len(found.interior)
    assert int(graph_pieces(len(graph.points), graph.edges).max()) == 0
    assert torch.allclose(graph.rest_lengths, (graph.points[graph.edges[:, 0]] - graph.points[graph.edges[:, 1]]).norm(dim=-1))
    spacing = torch.pdist(found.points.positions[:500]).min()
    assert float(spacing) >= 0.999 * found.spacing
    assert 0.7 < len(found.points) / SETTINGS.points < 1.3


def test_splats_cover_the_silhouettes(seen):
    from structwm.perception import mask_overlap
    from structwm.render import render

    drawn = render(reconstruct(seen, SETTINGS).splats, seen.camera)
    assert float(mask_overlap(drawn.alpha, seen.masks).min()) > 0.85
    assert (drawn.image[seen.masks] - torch.tensor([0.8, 0.3, 0.2])).abs().mean() < 0.05


def test_splats_are_fitted_to_the_images(seen):
    """A club with stripes, which coarse splats blur: fitting makes the images more alike."""
    from structwm.perception import depth_points, psnr
    from structwm.render import render

    points, place = depth_points(torch.where(seen.masks, seen.depth, 0.0), seen.camera)
    colors = torch.zeros_like(seen.colors)
    colors[tuple(place.T)] = 0.5 + 0.5 * torch.sign(torch.sin(250 * points[:, 2:])).expand(-1, 3)
    striped = replace(seen, colors=colors)
    before, after = (reconstruct(striped, replace(SETTINGS, splats=600, splat_iterations=count)).splats for count in (0, 150))
    likeness = [float(psnr(render(splats, seen.camera).image, colors, mask=seen.masks).mean()) for splats in (before, after)]
    assert likeness[1] > likeness[0] + 0.5  # [dB]; about 1 is gained


def test_one_hull_without_coacd(seen):
    mesh = reconstruct(seen, SETTINGS).mesh
    (hull,) = convex_pieces(mesh, decompose=False)
    assert MeshQuery(hull).closed and len(hull.vertices) <= 64
    assert float(mesh_volume(hull)) > float(mesh_volume(mesh))
    cube = hull_mesh(torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double().numpy())
    assert float(mesh_volume(cube)) == pytest.approx(1.0)


def test_coacd_tells_hollows(seen):
    pytest.importorskip("coacd")
    found = reconstruct(seen, replace(SETTINGS, concavity=0.1))
    volume = sum(float(mesh_volume(piece)) for piece in found.pieces)
    assert len(found.pieces) > 1
    assert volume < 0.9 * float(mesh_volume(convex_pieces(found.mesh, decompose=False)[0]))


def test_refusals_are_sentences(seen):
    with pytest.raises(ValueError, match="expected depth or masks, got colours alone"):
        reconstruct(replace(seen, depth=None, masks=None))
    with pytest.raises(ValueError, match="masks with the object in them"):
        reconstruct(replace(seen, masks=torch.zeros_like(seen.masks)))
    with pytest.raises(ValueError, match="no place within all masks"):
        masks = torch.zeros_like(seen.masks)
        masks[:4, :10, :10], masks[4:, -10:, -10:] = True, True
        reconstruct(replace(seen, depth=None, masks=masks))
    with pytest.raises(ValueError, match="bool masks"):
        replace(seen, masks=seen.masks.float())
    with pytest.raises(ValueError, match="above 0"):
        ReconstructionSettings(voxel=-1.0)
