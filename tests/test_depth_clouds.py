"""Clouds from depth images: where points, colours and normals are, what thinning keeps, and how things that touch are told apart."""

import builtins
from typing import Any

import pytest
import torch

from structwm.data import PointCloud
from structwm.geometry import Camera
from structwm.interfaces import Observation
from structwm.perception import (
    above_plane,
    cloud_normals,
    color_groups,
    farthest_points,
    rgbd_cloud,
    same_objects,
    select_points,
    split_objects,
    stacked_views,
    table_plane,
    thin_by_voxels,
    without_outliers,
)
from tests.seen_solids import COLORS, NOISE, TABLE, any_pose, box, cameras, look, placed, pushed_boxes, together


def on_box(points: torch.Tensor, pose: torch.Tensor, *size: float) -> torch.Tensor:
    from structwm.geometry.signed_distance import Box

    return Box(pose, torch.tensor(size) / 2).signed_distance(points).abs()


def test_points_of_all_views_lie_on_the_surface_and_normals_face_the_cameras():
    pose, camera = any_pose(3), cameras(2)
    depth = look(placed(box(0.12, 0.08, 0.05), pose), camera, noise=0.0005)
    cloud = rgbd_cloud(depth, camera, images=torch.rand(*depth.shape, 3), normals=True)
    assert len(cloud) > 800 and cloud.colors is not None and cloud.normals is not None
    assert on_box(cloud.positions, pose, 0.12, 0.08, 0.05).quantile(0.99) < 0.002  # four standard deviations of the noise
    body = cloud.normals @ torch.eye(3)
    assert float(body.norm(dim=-1).sub(1).abs().max()) < 1e-5
    toward = (camera.positions.unsqueeze(1) - cloud.positions).mul(cloud.normals).sum(-1)
    assert bool((toward > 0).any(0).all())
    from structwm.geometry.rotations import quaternion_to_matrix

    along = (cloud.normals @ quaternion_to_matrix(pose[3:])).abs().amax(-1)  # 1 where the normal is that of a side
    assert along.median() > 0.99 and along.quantile(0.2) > 0.9


def test_box_masks_and_unknown_pixels_crop():
    camera = cameras(1)
    mesh, _ = together(box(0.08, 0.08, 0.08), TABLE)
    depth = look(mesh, camera, missing=0.3)
    whole = rgbd_cloud(depth, camera)
    part = rgbd_cloud(depth, camera, box=torch.tensor([[-0.05, -0.05, 0.01], [0.05, 0.05, 0.06]]))
    assert 100 < len(part) < 0.5 * len(whole) and float(part.positions[:, 2].min()) >= 0.01
    masks = torch.zeros(depth.shape, dtype=torch.int64)
    masks[:, :, :64] = 3
    left = rgbd_cloud(depth, camera, masks=masks)
    assert 0 < len(left) < len(whole)
    nothing = rgbd_cloud(torch.full_like(depth, torch.nan), camera, normals=True)
    assert len(nothing) == 0 and nothing.normals is not None
    for wrong in ({"masks": masks[:, 1:]}, {"images": depth}, {"box": torch.zeros(2, 3)}):
        with pytest.raises(ValueError, match="rgbd_cloud (masks|images|box): expected"):
            rgbd_cloud(depth, camera, **wrong)
    with pytest.raises(ValueError, match="camera: expected"):
        rgbd_cloud(depth, cameras(2))


def test_the_table_is_found_and_taken_away():
    mesh, _ = together(box(0.08, 0.08, 0.08, at=(0, 0, 0.04)), TABLE)
    camera = cameras(2)
    cloud = rgbd_cloud(look(mesh, camera), camera, noise=NOISE)
    plane = table_plane(cloud.positions, 3 * NOISE, above=camera.positions[0])
    assert plane is not None and float(plane[2]) > 0.9999 and abs(float(plane[3])) < 0.0005
    things = above_plane(cloud, plane, 3 * NOISE)
    assert 100 < len(things) < 0.3 * len(cloud)
    assert on_box(things.positions, torch.tensor([0, 0, 0.04, 1, 0, 0, 0]), 0.08, 0.08, 0.08).quantile(0.98) < 4 * NOISE
    assert table_plane(torch.rand(500, 3), 0.001) is None and table_plane(torch.zeros(2, 3), 0.1) is None and table_plane(torch.ones(50, 3), 0.1) is None


def test_thinning_keeps_means_and_spreads_points():
    g = torch.Generator().manual_seed(0)
    cloud = PointCloud(
        torch.rand(4000, 3, generator=g), torch.rand(4000, 3, generator=g), torch.nn.functional.normalize(torch.randn(4000, 3, generator=g), dim=-1)
    )
    thin = thin_by_voxels(cloud, 0.25)
    assert len(thin) == 64 and thin.normals is not None
    one = (cloud.positions < 0.25).all(-1)
    place = (thin.positions < 0.25).all(-1).nonzero()[0, 0]
    torch.testing.assert_close(thin.positions[place], cloud.positions[one].mean(0))
    torch.testing.assert_close(thin.normals.norm(dim=-1), torch.ones(64))
    copies = thin_by_voxels(PointCloud(torch.ones(7, 3)), 0.1)
    assert len(copies) == 1 and len(thin_by_voxels(PointCloud(torch.zeros(0, 3)), 0.1)) == 0
    with pytest.raises(ValueError, match="size above 0"):
        thin_by_voxels(cloud, 0.0)
    with pytest.raises(ValueError, match="finite"):
        thin_by_voxels(PointCloud(torch.full((3, 3), torch.nan)), 0.1)


def test_farthest_points_are_those_of_the_plain_method_also_in_batches_with_masks():
    g = torch.Generator().manual_seed(0)
    points = torch.rand(3, 60, 3, generator=g)
    mask = torch.ones(3, 60, dtype=torch.bool)
    mask[1, 20:] = False
    points[1, 20:] = torch.nan
    mask[2] = False
    found = farthest_points(points, 25, mask=mask)
    chosen = [int((points[0] - points[0].mean(0)).norm(dim=-1).argmax())]
    while len(chosen) < 25:
        chosen.append(int(torch.cdist(points[0], points[0][chosen]).amin(-1).argmax()))
    assert found[0].tolist() == chosen
    assert sorted(found[1, :20].tolist()) == list(range(20)) and bool((found[1, 20:] == -1).all()) and bool((found[2] == -1).all())
    assert found[1, :20].tolist() == farthest_points(points[1, :20], 20).tolist()
    assert sorted(farthest_points(torch.ones(5, 3), 5).tolist()) == [0, 1, 2, 3, 4]  # copies: each once
    assert farthest_points(torch.ones(1, 3), 3).tolist() == [0, -1, -1] and farthest_points(torch.zeros(0, 3), 2).tolist() == [-1, -1]
    with pytest.raises(ValueError, match="finite"):
        farthest_points(points, 3)


def test_strangers_are_removed_by_open3d():
    pytest.importorskip("open3d")
    g = torch.Generator().manual_seed(0)
    cloud = PointCloud(torch.cat((0.1 * torch.rand(800, 3, generator=g), torch.tensor([[0.5, 0.5, 0.5], [-0.3, 0, 0]]))))
    kept = without_outliers(cloud)
    assert 700 < len(kept) <= 800 and float(kept.positions.abs().max()) <= 0.1
    assert len(without_outliers(PointCloud(torch.zeros(0, 3)))) == 0


def test_without_open3d_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name == "open3d":
            raise ModuleNotFoundError("No module named 'open3d'", name="open3d")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'structwm\[clouds\]'"):
        without_outliers(PointCloud(torch.rand(30, 3)))


def test_boxes_that_touch_are_kept_apart_by_colour_whatever_the_light():
    red, blue = box(0.08, 0.08, 0.06, at=(-0.04, 0, 0)), box(0.08, 0.08, 0.06, at=(0.04, 0, 0))
    mesh, owners = together(red, blue)
    camera = cameras(2)
    depth = look(mesh, camera)
    from structwm.render.mesh_views import MeshViews

    faces = MeshViews(mesh, camera).render(mesh.vertices).faces
    light = 0.35 + 0.65 * torch.rand(*faces.shape, 1, generator=torch.Generator().manual_seed(1))
    ids = owners[faces.clamp_min(0)]
    image = (COLORS[ids] * light + 0.01 * torch.randn(*faces.shape, 3)).clamp(0, 1)
    cloud = rgbd_cloud(depth, camera, images=image, noise=NOISE)
    true = torch.where(cloud.positions[:, 0] < 0, 0, 1)
    inner = cloud.positions[:, 0].abs() > 3 * NOISE  # noise takes points at the seam to the other side
    labels = split_objects(cloud, 0.012)
    assert labels.max() == 1 and float((labels >= 0).float().mean()) > 0.98
    agree = (labels[inner] == true[inner]).float().mean()
    assert max(float(agree), 1 - float(agree)) > 0.99
    assert split_objects(cloud, 0.012, by_color=False).max() == 0  # one piece, as they touch
    few = split_objects(select_points(cloud, torch.arange(5)), 0.012)
    assert bool((few == -1).all())
    assert split_objects(PointCloud(torch.zeros(0, 3)), 0.01).shape == (0,)
    with pytest.raises(ValueError, match="with colours"):
        split_objects(PointCloud(torch.rand(30, 3)), 0.1, by_color=True)


def test_groups_of_colours():
    g = torch.Generator().manual_seed(0)
    light = 0.3 + 0.7 * torch.rand(900, 1, generator=g)
    groups = color_groups(torch.cat((COLORS[[0] * 500 + [1] * 300 + [2] * 100] * light, torch.full((50, 3), 0.01))))
    assert groups[:500].eq(0).all() and groups[500:800].eq(1).all() and groups[800:900].eq(2).all() and groups[900:].eq(-1).all()
    assert color_groups(torch.zeros(0, 3)).shape == (0,)


def test_objects_keep_their_numbers():
    before = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    after = torch.tensor([[0.21, 0, 0], [0.5, 0, 0], [0.06, 0, 0], [0.01, 0, 0]])
    assert same_objects(before, after, 0.05).tolist() == [2, 3, 1, 0]
    looks = torch.tensor([[0.6, 0.2], [0.2, 0.3]])
    crossed = same_objects(before[:2], torch.tensor([[0.06, 0, 0], [0.04, 0, 0]]), 0.08, previous_looks=looks, looks=looks)
    assert crossed.tolist() == [0, 1]  # by the middles alone it would be [1, 0]
    assert same_objects(torch.zeros(0, 3), after, 0.05).tolist() == [0, 1, 2, 3] and same_objects(before, torch.zeros(0, 3), 0.05).tolist() == []


def test_views_of_an_observation_are_stacked_or_refused():
    frame = pushed_boxes(1)[0][0]
    depth, camera, images, masks = stacked_views(frame)
    assert depth.shape == (2, 96, 128) and camera.batch_size == (2,) and images is not None and images.shape == (2, 96, 128, 3) and masks is None
    for wrong, text in (
        (Observation(0.0), "without depth"),
        (Observation(0.0, depth={"a": depth[0]}), "no intrinsics or no pose"),
        (Observation(0.0, depth={"a": depth}, intrinsics=frame.intrinsics, world_from_camera=frame.world_from_camera), "one observation"),
        (Observation(0.0, depth={"a": depth[0], "b": depth[0, 1:]}, intrinsics=frame.intrinsics, world_from_camera=frame.world_from_camera), "different sizes"),
    ):
        with pytest.raises(ValueError, match=text):
            stacked_views(wrong)


def test_normals_of_few_points():
    assert cloud_normals(torch.zeros(0, 3)).shape == (0, 3)
    assert torch.equal(cloud_normals(torch.zeros(1, 3), torch.tensor([0.0, 2.0, 0.0])), torch.tensor([[0.0, 1.0, 0.0]]))
    assert bool(cloud_normals(torch.ones(30, 3)).isfinite().all())


def test_a_camera_is_asked_in_its_own_type():
    camera = Camera.look_at(torch.tensor([[0.5, 0.1, 0.4]]).double(), torch.zeros(3).double(), width=32, height=24)
    depth = torch.full((1, 24, 32), 0.5)
    assert rgbd_cloud(depth, camera).positions.dtype == torch.float32
