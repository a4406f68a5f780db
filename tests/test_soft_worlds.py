"""Deformable bodies in PyBullet, and recordings of them: what cameras see, errors against it, and scenes that repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from structwm.data.errors import BadData, DataUnavailable
from structwm.geometry import Camera, Mesh, SoftMesh, track_error, visible_chamfer
from structwm.render import MeshViews
from structwm.worlds.soft_recording import Sensing, SoftRecording, observe
from structwm.worlds.soft_scenarios import controller_motion, record_soft

pytest.importorskip("pybullet")
from structwm.worlds.bullet_soft import BulletSoft, Elastic, Pusher, SoftConfig, Springs

STILL = np.zeros((1, 3))
ROPE = SoftMesh.rope(12, 0.4, 0.008).placed((0, 0, 0.009))
PUSHED = SoftConfig(ROPE, 0.04, Springs(100.0, 0.2), pushers=(Pusher((0.0, -0.05, 0.02), 0.02),), rate=480)


def edges(mesh: SoftMesh, nodes: torch.Tensor) -> torch.Tensor:
    """Lengths of the sides of all triangles."""
    corners = nodes[..., mesh.triangles, :]
    return (corners - corners.roll(1, -2)).norm(dim=-1).flatten(-2)


# meshes


@pytest.mark.parametrize(
    ("mesh", "volume", "area"),
    [
        (SoftMesh.beam((4, 2, 3), (0.4, 0.1, 0.2)), 0.008, 0.28),
        (SoftMesh.rope(10, 0.5, 0.01), 0.5 * 3**1.5 / 4 * 1e-4, 0.5 * 3**1.5 * 0.01 + 3**1.5 / 2 * 1e-4),
        (SoftMesh.ball(8, (2.0, 2.0, 2.0)), None, None),
        (SoftMesh.cloth((4, 5), (0.4, 0.3)), 0.0, 0.12),
    ],
)
def test_meshes_have_the_volume_and_area_of_their_shape(mesh: SoftMesh, volume: float | None, area: float | None) -> None:
    if volume is None:  # a ball of few flat faces is a little smaller
        assert 0.93 < mesh.volume / (4 / 3 * np.pi) < 1.0 and 0.95 < mesh.area / (4 * np.pi) < 1.0
    else:
        assert mesh.volume == pytest.approx(volume) and mesh.area == pytest.approx(area, rel=1e-9)
    if mesh.tetrahedra is not None:  # Gauss: the surface winds outward around all of the volume
        a, b, c = mesh.nodes[mesh.triangles].unbind(1)
        assert float((torch.linalg.cross(a, b) * c).sum() / 6) == pytest.approx(mesh.volume)


def test_meshes_that_cannot_be_are_refused() -> None:
    mesh = SoftMesh.beam((1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="6 tetrahedra that are flat or turned inside out"):
        SoftMesh(mesh.nodes, mesh.triangles, mesh._tetrahedra[:, [1, 0, 2, 3]])
    with pytest.raises(ValueError, match="name nodes 0 to 8, but there are 8"):
        SoftMesh(mesh.nodes, torch.tensor([[0, 1, 8]]))
    with pytest.raises(ValueError, match="no node within 0.1 m"):
        mesh.within((5, 5, 5), 0.1)


# PyBullet


def test_a_free_body_falls_and_a_beam_sags_as_theory_says() -> None:
    mesh = SoftMesh.beam((8, 2, 2), (0.4, 0.05, 0.05)).placed((0, 0, 1.0))
    free = SoftConfig(mesh, 0.3, Elastic(1e5), ground=False)
    with BulletSoft(free) as world:
        world.reset()
        nodes = [world.step(np.zeros((0, 3))) for _ in range(9)][-1]
    assert nodes[:, 2].mean() == pytest.approx(1.0 - 9.81 * 0.3 * (0.3 + 1 / 240) / 2, abs=1e-4)  # as symplectic Euler falls
    end = tuple((mesh.nodes[:, 0] < -0.199).nonzero().flatten().tolist())
    with BulletSoft(SoftConfig(mesh, 0.1, Elastic(1e5, damping=5e-3), grippers=(end,), ground=False, rate=480)) as world:
        world.reset()
        settled, *_, nodes = [world.step(STILL) for _ in range(60)][-10:]
    assert np.abs(nodes - settled).max() < 1e-3
    sag = 0.1 / 0.4 * 9.81 * 0.4**4 / (8 * 1e5 * 0.05**4 / 12)  # of a cantilever
    tip = 1.0 - nodes[mesh.nodes[:, 0] > 0.199, 2].mean()
    assert 0.3 * sag < tip < 1.1 * sag  # tetrahedra of constant strain are too stiff in bending, the more the coarser


def test_a_pusher_moves_a_rope_on_the_ground_and_leaves_it_there() -> None:
    with BulletSoft(PUSHED) as world:
        start = world.reset()
        for _ in range(45):
            world.step([[0, 0.1, 0]])
        pushed = world.nodes
        for _ in range(15):
            nodes = world.step(STILL)
    middle, end = nodes[18:21].mean(0), nodes[:3].mean(0)
    assert world.controllers[0] == pytest.approx([0, 0.1, 0.02])
    assert middle[1] == pytest.approx(0.1 + 0.02 + 0.008, abs=0.012) and end[1] < 0.06
    assert np.abs(nodes - pushed).max() < 5e-3  # friction holds it
    assert nodes[:, 2].min() > 0 and np.linalg.norm(np.diff(nodes[::3], axis=0), axis=1).sum() == pytest.approx(0.4, rel=0.03)
    assert np.abs(start[:, 1]).max() < 0.01


def test_equal_seeds_repeat_bit_for_bit_and_grippers_hold() -> None:
    config = SoftConfig(ROPE, 0.04, Springs(100.0, 0.2), grippers=((0, 1, 2), (36, 37, 38)), rate=480, start_spread=(0.05, 0.5))
    runs = []
    for seed in (3, 3, 4):
        with BulletSoft(config) as world:
            nodes = [world.reset(seed)]
            for k in range(12):
                nodes.append(world.step([[0.1, 0, 0.3], [-0.1, 0.2 * np.sin(k), 0.3]]))
                assert np.abs(nodes[-1][:3].mean(0) - world.controllers[0]).max() < 1e-6
        runs.append(np.array(nodes))
    assert np.array_equal(runs[0], runs[1]) and np.abs(runs[0] - runs[2]).max() > 0.01


def test_a_body_that_has_long_hung_still_follows_its_gripper() -> None:
    """PyBullet lets it sleep after two seconds, and a kinematic gripper does not wake it."""
    bar = SoftMesh.beam((4, 1, 1), (0.2, 0.05, 0.05)).placed((0, 0, 0.3))
    config = SoftConfig(bar, 0.1, Elastic(young=2e4, damping=1e-2), grippers=(bar.within((-0.1, 0, 0.3), 0.04),), ground=False)
    with BulletSoft(config) as world:
        world.reset()
        hung = [world.step(STILL) for _ in range(120)][-1]
        moved = [world.step(np.array([[0.0, 0.0, 0.2]])) for _ in range(30)][-1]
    assert float((moved - hung)[:, 2].min()) > 0.15


def test_a_body_starts_deformed_where_it_is_told() -> None:
    bent = ROPE.nodes.numpy().copy()
    bent[:, 1] += 0.05 * np.sin(10 * bent[:, 0])
    with BulletSoft(PUSHED) as world:
        assert world.reset(nodes=bent) == pytest.approx(bent)
        with pytest.raises(ValueError, match=r"finite nodes \(39, 3\), got \(2, 3\)"):
            world.reset(nodes=bent[:2])
        with pytest.raises(ValueError, match=r"finite velocities \(1, 3\)"):
            world.step([0.0, 0.0])


def test_springs_of_a_body_that_starts_deformed_pull_it_back() -> None:
    config = SoftConfig(ROPE, 0.04, Springs(100.0, 2.0), grippers=((0, 1, 2),), ground=False, gravity=1e-6, rate=480)
    longer = ROPE.nodes.numpy() * (1.1, 1.0, 1.0)
    with BulletSoft(config) as world:
        world.reset(nodes=longer)
        nodes = [world.step(STILL) for _ in range(90)][-1]
    assert np.ptp(nodes[:, 0]) == pytest.approx(0.4, rel=0.02)  # not 0.44, which it keeps if the engine takes the start for its shape at rest


def test_what_cannot_be_held_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a mesh of tetrahedra for an Elastic material"):
        SoftConfig(SoftMesh.cloth((2, 2), (1, 1)), material=Elastic())
    with pytest.raises(ValueError, match="grippers needs groups of the 39 nodes"):
        SoftConfig(ROPE, grippers=((0, 1), (1, 2)))


# what cameras see


def test_what_is_behind_is_not_seen() -> None:
    """Two squares, one behind the other: a camera above sees the points of the upper one and those of the lower that stick out."""
    upper, lower = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]), torch.tensor([[-2.0, -2, 0], [2, -2, 0], [2, 2, 0], [-2, 2, 0]])
    square = torch.tensor([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(torch.cat((upper, lower)), torch.cat((square, square + 4)))
    above = Camera.look_at(torch.tensor([[0.0, -0.1, 5.0]]), torch.tensor([[0.0, 0.0, 0.0]]), width=40, height=40, field_of_view=1.0)
    views = MeshViews(mesh, above)
    points = torch.tensor([[0.0, 0, 1], [0.5, 0.3, 1], [0, 0, 0], [0.5, 0.3, 0], [1.8, 1.8, 0], [0, 0, 6]])
    assert views.visible(mesh.vertices, points).tolist() == [[True, True, False, False, True, False]]
    moved = mesh.vertices.clone()
    moved[:4, 0] += 10
    assert views.visible(moved, points[2:5]).all()
    image = views.render(mesh.vertices)
    assert float(image.depth[0, 20, 20]) == pytest.approx(4.0, abs=0.05) and int(image.faces[0, 20, 20]) in (0, 1)
    assert not image.depth[0, 0, 0].isfinite() or int(image.faces[0, 0, 0]) >= 2


def falling(mesh: SoftMesh, frames: int) -> torch.Tensor:
    return mesh.nodes - torch.tensor([0.0, 0, 0.01]) * torch.arange(frames)[:, None, None]


def test_clouds_and_tracks_lie_on_the_body_but_for_noise() -> None:
    mesh = SoftMesh.ball(4, (0.2, 0.2, 0.2)).placed((0, 0, 0.5))
    nodes = falling(mesh, 4)
    exact = observe(nodes, torch.zeros(4, 1, 3), mesh, dt=0.1, sensing=Sensing(depth_noise=0.0, width=60, height=45, cloud_points=300, tracks=60))
    noisy = observe(nodes, torch.zeros(4, 1, 3), mesh, dt=0.1, sensing=Sensing(depth_noise=2e-3, width=60, height=45, cloud_points=300, tracks=60))
    from structwm.geometry import mesh_signed_distance

    for t in range(4):
        cloud = exact.clouds[t][exact.clouds[t].isfinite().all(-1)]
        assert len(cloud) > 200 and float(mesh_signed_distance(mesh.surface(nodes[t].float()), cloud).abs().max()) < 1e-5
    seen = exact.tracks.isfinite().all(-1)
    torch.testing.assert_close(exact.tracks[seen], exact.material_points(exact.nodes)[seen], atol=1e-6, rtol=0)
    below = exact.material_points(exact.nodes)[..., 2] < exact.nodes[..., 2].mean(-1, keepdim=True) - 0.08
    assert not seen[below].any() and seen[~below].float().mean() > 0.6  # cameras look from above
    assert float(track_error(noisy.tracks, noisy.material_points(noisy.nodes))) == pytest.approx(2e-3 * (2 / np.pi) ** 0.5, rel=0.2)


def test_errors_by_hand() -> None:
    nan = float("nan")
    seen = torch.tensor([[[0.0, 0, 0], [1, 1, 0]], [[0, 0, 0], [nan, nan, nan]], [[nan] * 3, [nan] * 3]])
    predicted = torch.tensor([[[0.0, 0.3, 0.4], [5, 5, 5]], [[0, 0, 1], [9, 9, 9]], [[0, 0, 0], [0, 0, 0]]])
    # first frame: 0.3 + 0.4 and 1 + 0.7 + 0.4 to (0, 0.3, 0.4); second: 1; nothing seen in the third
    assert float(visible_chamfer(seen, predicted)) == pytest.approx(((0.7 + 2.1) / 2 + 1.0) / 2)
    assert float(track_error(seen, predicted)) == pytest.approx((0.5 + (16 + 16 + 25) ** 0.5 + 1.0) / 3)
    both = visible_chamfer(torch.stack((seen, torch.full_like(seen, nan))), torch.stack((predicted, predicted)))
    assert both.isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match="finite predictions"):
        track_error(seen, seen)


# scenes


@pytest.mark.parametrize("thing", ["beam", "blob", "cloth", "rope"])
def test_a_scene_repeats_and_comes_back_from_its_file(thing: str, tmp_path: Path) -> None:
    small = Sensing(width=40, height=30, cloud_points=100, tracks=20)
    one = record_soft("bullet", thing, 1, frames=30, sensing=small, folder=tmp_path)
    two = record_soft("bullet", thing, 1, frames=30, sensing=small)
    back = record_soft("bullet", thing, 1, frames=30, sensing=small, folder=tmp_path)
    for name in ("nodes", "clouds", "tracks", "controllers", "times", "velocities", "colors"):
        for other in (two, back):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)
    assert back.held == one.held and back.split == 21 and torch.equal(back.mesh.triangles, one.mesh.triangles)
    assert one.clouds.shape == (30, 100, 3) and one.tracks.shape == (30, 20, 3) and one.actions.shape == (29, len(one.held), 3)
    held = torch.stack([one.nodes[:, list(nodes)].mean(1) for nodes in one.held], 1)
    torch.testing.assert_close(held, one.controllers, atol=1e-5, rtol=0)
    assert one.nodes[-1, :, 2].mean() > one.nodes[0, :, 2].mean() + 0.1  # it is lifted
    floor, off = (float(visible_chamfer(one.clouds, one.surface_points(one.nodes + shift))) for shift in (0.0, torch.tensor([0.0, 0.0, 0.05])))
    assert floor < 0.006 and off > 2 * floor  # the floor is noise and what lies between points
    strain = edges(one.mesh, one.nodes) / edges(one.mesh, one.mesh.nodes.float())
    assert strain.min() > 0.5 and strain.max() < 2.0 and strain.quantile(0.95) < 1.3


def test_the_last_part_moves_in_another_way() -> None:
    places = controller_motion(np.array([[-0.2, 0, 0], [0.2, 0, 0]]), 100, 70, seed=5)
    assert np.ptp(places[:70, :, 1]) == 0 and np.ptp(places[70:, :, 1]) > 0.06
    assert np.ptp(places[20:70, :, 0].mean(1)) > 0.08 and np.ptp(places[71:, :, 0]) < 0.401
    speed = np.diff(places, axis=0) * 30
    assert np.abs(speed).max() < 2.0 and np.abs(np.diff(speed, axis=0)).max() * 30 < 40.0


def test_files_and_names_that_are_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable):
        SoftRecording.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(BadData, match=r"bad\.npz"):
        SoftRecording.load(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match="knows the engines bullet, newton"):
        record_soft("havok", "beam")
