"""Poses of known objects from partial noisy clouds: exact where they are determined, all of them with honest weights where they are not."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from structwm.geometry import Mesh
from structwm.geometry.rotations import matrix_to_quaternion, motion_matrix, quaternion_to_matrix, quaternion_to_rotation_vector, rotation_vector_to_quaternion
from structwm.perception import DepthEvidence, ObjectRegistration, register_object, rgbd_cloud, thin_by_voxels
from structwm.perception.known_object import super_fibonacci
from structwm.perception.rigid_fit import normal_equations
from tests.seen_solids import NOISE, angle_bracket, any_pose, box, cameras, cylinder, look, placed, pose_errors, surface, together, turns_of_box


def found_in_view(mesh: Mesh, pose: torch.Tensor, *, count: int = 1200, seed: int = 0, space: bool = True, **options: object) -> ObjectRegistration:
    camera = cameras(1)
    depth = look(placed(mesh, pose), camera, seed=seed)
    cloud = rgbd_cloud(depth, camera, normals=True, noise=NOISE)
    points, normals = surface(mesh, count)
    return register_object(
        points, cloud.positions, noise=NOISE, normals=normals, cloud_normals=cloud.normals, depth=depth if space else None, camera=camera, **options
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_an_object_without_symmetry_has_one_pose(seed: int):
    pose = any_pose(seed)
    found = found_in_view(angle_bracket(), pose, seed=seed)
    far, turned = pose_errors(found.world_from_object[None], pose)
    assert far < 0.002 and turned < math.radians(2)
    assert not found.ambiguous and found.confidence > 0.95 and found.fitness > 0.95 and found.contradicted < 0.02
    assert abs(found.rms - NOISE) < 0.8 * NOISE and int(found.undetermined[0]) == 0


@pytest.mark.parametrize(("size", "modes"), [((0.08, 0.08, 0.08), 24), ((0.12, 0.06, 0.06), 8), ((0.12, 0.08, 0.05), 4)])
def test_a_box_has_as_many_poses_as_symmetries_of_about_one_weight(size: tuple[float, float, float], modes: int):
    pose, alike = any_pose(2), turns_of_box(*size)
    assert len(alike) == modes
    found = found_in_view(box(*size), pose)
    weights = found.belief.weights[0]
    far, turned = pose_errors(found.belief.states.pose[0], pose, alike)
    right = (far < 0.003) & (turned.amin(-1) < math.radians(4))
    names = turned.argmin(-1)[right]
    assert len(names) == len(set(names.tolist())) >= 0.9 * modes  # each pose once
    assert int(names[0]) in range(modes) and 0 in names.tolist()  # the true one is among them
    assert float(weights[right].sum()) > 0.9 and found.ambiguous == (modes > 1)
    true = float(weights[right][names == 0])
    assert 1 / (3 * modes) < true < 3 / modes


def test_a_cylinder_turns_freely_about_its_axis():
    pose = any_pose(1)
    found = found_in_view(cylinder(), pose)
    turns = quaternion_to_matrix(found.belief.states.pose[0, :, 3:])
    axis = quaternion_to_matrix(pose[3:])[:, 2]
    weights = found.belief.weights[0]
    upright = (turns[:, :, 2] @ axis).abs() > math.cos(math.radians(3))
    assert float(weights[upright].sum()) > 0.95 and int(found.undetermined[0]) == 1 and found.confidence < 0.2
    sideways = turns[upright, :, 0] @ quaternion_to_matrix(pose[3:])[:, :2]
    about = torch.atan2(sideways[:, 1], sideways[:, 0])
    assert float(about.sort().values.diff().max()) < math.radians(60)  # all around


def test_free_space_tells_poses_apart_that_the_points_do_not():
    """One side of a box seen alone: points of it also fit the larger sides, but the camera saw past their edges."""
    mesh, camera = box(0.12, 0.08, 0.05), cameras(1)
    toward = torch.nn.functional.normalize(camera.positions[0], dim=-1)
    other = torch.nn.functional.normalize(torch.linalg.cross(toward, torch.tensor([0.0, 0.0, 1.0])), dim=-1)
    turn = torch.stack((toward, other, torch.linalg.cross(toward, other)), -1)  # the smallest side, 8 x 5 cm, faces the camera
    pose = torch.cat((torch.zeros(3), matrix_to_quaternion(turn)))
    blind, seeing = (found_in_view(mesh, pose, space=space) for space in (False, True))
    alike = turns_of_box(0.12, 0.08, 0.05)

    def mass(found: ObjectRegistration) -> float:
        _, turned = pose_errors(found.belief.states.pose[0], pose, alike)
        return float(found.belief.weights[0][turned.amin(-1) < math.radians(6)].sum())

    assert mass(seeing) > 0.95 and mass(blind) < 0.7


def test_a_standing_object_turns_about_the_vertical_only():
    pose = torch.tensor([0.01, -0.02, 0.0, math.cos(1.1), 0.0, 0.0, math.sin(1.1)])
    found = found_in_view(angle_bracket(), pose, up=torch.tensor([0.0, 0.0, 2.0]), starts=48)
    far, turned = pose_errors(found.world_from_object[None], pose)
    assert far < 0.002 and turned < math.radians(1.5)
    turns = quaternion_to_matrix(found.belief.states.pose[0, :, 3:])
    assert float(turns[:, 2, 2].min()) > 1 - 1e-5


def test_what_hides_an_object_does_not_speak_against_it():
    pose, camera = any_pose(5), cameras(1)
    mesh, _ = together(placed(angle_bracket(), pose), box(0.012, 0.05, 0.2, at=(0.2, 0.03, 0.16)))
    depth = look(mesh, camera)
    cloud = rgbd_cloud(depth, camera, normals=True, noise=NOISE, box=torch.tensor([[-0.12] * 3, [0.12] * 3]))
    points, normals = surface(angle_bracket())
    found = register_object(points, cloud.positions, noise=NOISE, normals=normals, cloud_normals=cloud.normals, depth=depth, camera=camera)
    whole = rgbd_cloud(look(placed(angle_bracket(), pose), camera), camera)
    assert len(cloud) < 0.85 * len(whole)
    far, turned = pose_errors(found.world_from_object[None], pose)
    assert far < 0.004 and turned < math.radians(3) and found.contradicted < 0.02


def test_points_alone_are_enough_and_copies_change_nothing():
    pose, camera = any_pose(7), cameras(2)
    cloud = rgbd_cloud(look(placed(angle_bracket(), pose), camera), camera, noise=NOISE).positions
    points, _ = surface(angle_bracket())
    plain, doubled = (register_object(part, cloud, noise=NOISE) for part in (points, torch.cat((points, points))))
    far, turned = pose_errors(plain.world_from_object[None], pose)
    assert far < 0.003 and turned < math.radians(3)
    assert torch.allclose(plain.world_from_object, doubled.world_from_object, atol=1e-4)


def test_a_feature_match_is_one_more_proposal():
    pytest.importorskip("open3d")

    def right(features: bool) -> int:
        poses = [any_pose(seed) for seed in range(8)]
        found = [found_in_view(angle_bracket(), pose, features=features, starts=1, seed=seed) for seed, pose in enumerate(poses)]
        errors = [pose_errors(one.world_from_object[None], pose) for one, pose in zip(found, poses, strict=True)]
        return sum(bool(far < 0.003) and bool(turned < math.radians(3)) for far, turned in errors)

    assert right(True) >= 2 + right(False)  # proposals are often wrong on flat sides


def test_a_guess_is_tried():
    pose = any_pose(4)
    found = found_in_view(angle_bracket(), pose, starts=1, guesses=pose[None] + 0.01)
    far, turned = pose_errors(found.world_from_object[None], pose)
    assert far < 0.002 and turned < math.radians(2)


def test_lidar_scans_are_brought_together_from_any_rotation(data_dir: Callable[[str], Path]):
    pytest.importorskip("open3d")
    import numpy as np

    from structwm.data import read_cloud

    folder = data_dir("small_gicp_pair")
    source, target = (thin_by_voxels(read_cloud(folder / f"{name}.ply"), 0.25).positions for name in ("source", "target"))
    truth = torch.from_numpy(np.loadtxt(folder / "T_target_source.txt"))
    moved = motion_matrix(quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.1, 0.2, 2.5]))), torch.tensor([5.0, -3.0, 1.0])).double()
    found = register_object(source @ moved[:3, :3].mT + moved[:3, 3], target, noise=0.05, outliers=0.2)
    pose = found.world_from_object.double()
    error = motion_matrix(quaternion_to_matrix(pose[3:]), pose[:3]) @ moved @ torch.linalg.inv(truth)
    angle = float(quaternion_to_rotation_vector(matrix_to_quaternion(error[:3, :3])).norm())
    assert math.degrees(angle) < 0.3 and float(error[:3, 3].norm()) < 0.05  # scans 65 m across
    assert found.confidence > 0.9


def test_normal_equations_are_gradient_and_hessian():
    g = torch.Generator().manual_seed(0)
    at, away, normals = torch.randn(3, 2, 40, 3, generator=g, dtype=torch.float64)
    weights = torch.rand(2, 40, generator=g, dtype=torch.float64)

    def cost(motion: torch.Tensor) -> torch.Tensor:
        left = away + torch.linalg.cross(motion[:, None, :3].expand_as(at), at) + motion[:, None, 3:]
        return (weights * ((left * normals).sum(-1) ** 2 + 0.3 * left.square().sum(-1))).sum() / 2

    still = torch.zeros(2, 6, dtype=torch.float64)
    matrix, vector = normal_equations(at, away, normals, weights, 0.3)
    hessian = torch.autograd.functional.hessian(cost, still)
    assert torch.allclose(vector, -torch.autograd.functional.jacobian(cost, still), atol=1e-10)
    assert all(torch.allclose(matrix[k], hessian[k, :, k], atol=1e-10) for k in range(2))


def test_rotations_to_start_from_are_everywhere():
    turns = super_fibonacci(384)
    g = torch.Generator().manual_seed(0)
    wanted = quaternion_to_matrix(torch.randn(500, 4, generator=g, dtype=torch.float64))
    nearest = (torch.einsum("aij,bij->ab", wanted, turns).amax(-1) - 1) / 2
    assert float(nearest.clamp(-1, 1).acos().max()) < math.radians(36)


def test_refusals():
    points, normals = surface(angle_bracket(), 100)
    for cloud in (torch.zeros(0, 3), torch.zeros(1, 3), torch.ones(50, 3)):
        with pytest.raises(ValueError, match="cloud: expected at least four distinct points, got"):
            register_object(points, cloud, noise=NOISE)
    with pytest.raises(ValueError, match="points: expected at least four distinct"):
        register_object(points[:1], points, noise=NOISE)
    with pytest.raises(ValueError, match="cloud: expected finite points"):
        register_object(points, torch.full((9, 3), torch.nan), noise=NOISE)
    with pytest.raises(ValueError, match="normals: expected finite"):
        register_object(points, points, noise=NOISE, normals=normals[1:])
    with pytest.raises(ValueError, match="noise above 0"):
        register_object(points, points, noise=0.0)
    with pytest.raises(ValueError, match="as many cameras"):
        DepthEvidence(torch.ones(3, 96, 128), cameras(2))
