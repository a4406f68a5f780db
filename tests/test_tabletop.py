"""Tables with several objects: physics in both engines and against each other, images against true surfaces, and recordings."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from structwm.data.errors import BadData, DataUnavailable
from structwm.worlds.tabletop import Tabletop, make_tabletop
from structwm.worlds.tabletop_config import Box, Chain, CylinderPusher, PlatePusher, SpherePusher, TabletopConfig
from structwm.worlds.tabletop_episodes import TabletopEpisodes
from structwm.worlds.tabletop_layout import distances, footprints_at, overlaps, random_layout, rectangles
from structwm.worlds.tabletop_points import cloud_recording, table_observation
from structwm.worlds.tabletop_policy import way_around
from structwm.worlds.tabletop_recording import record_tabletop, sample_config
from structwm.worlds.tabletop_views import TableViews, place_pusher, pusher_points

CUBE = TabletopConfig(objects=(Box(),))
CHAIN = TabletopConfig(objects=(Chain(6),))
MIXED = TabletopConfig(objects=(Box(), Box((0.045, 0.03, 0.02), 0.6, 0.3), Chain(5, (0.025, 0.01, 0.01), 0.06, 0.4, "capsule", "ball")))
GRAVITY = 9.81


@pytest.fixture(params=["bullet", "mujoco"])
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip({"bullet": "pybullet", "mujoco": "mujoco"}[request.param])
    return str(request.param)


@cache
def recorded(engine: str, **kind: Any) -> TabletopEpisodes:
    return record_tabletop(engine, 3, 40, 5, **kind)


def run(world: Tabletop, actions: Any, **start: Any) -> np.ndarray:
    """Poses (T + 1, K, 7) under actions (T, 2 or 3)."""
    world.reset(seed=0, options=start)
    poses = [world.truth().poses]
    for action in actions:
        world.step(action)
        poses.append(world.truth().poses)
    return np.array(poses)


def yaw(poses: np.ndarray) -> np.ndarray:
    return 2 * np.arctan2(poses[..., 6], poses[..., 3])


# physics


def test_a_pushed_box_moves_with_the_pusher_and_stops(engine: str) -> None:
    world = make_tabletop(engine, config=CUBE)
    push = [(0.1, 0.0)] * 10
    poses = run(world, push + [(0.0, 0.0)] * 5, layout=[(0.0, 0.0, 0.0)], pusher=(-0.06, 0.0))
    assert np.allclose(world.pusher, (0.04, 0.0, CUBE.pusher_height), atol=1e-12)  # exactly as commanded
    assert poses[-1, 0, 0] == pytest.approx(0.04 + 0.01 + 0.03, abs=2e-3)  # its face is where the pusher's side is
    assert np.abs(poses[-1] - poses[-3]).max() < 1e-4
    assert np.abs(poses[:2] - poses[0]).max() < 1e-4  # the first two centimetres are free


def test_a_box_that_slides_stops_where_friction_says(engine: str) -> None:
    """Pushed at 0.25 m/s and left behind, it slides v^2 / (2 mu g) more; within what it gains from a pusher that stops within no time."""
    config = replace(CUBE, table_friction=0.2, objects=(Box(friction=0.2),))
    world = make_tabletop(engine, config=config)
    poses = run(world, [(0.25, 0.0)] * 6 + [(0.0, 0.0)] * 4, layout=[(-0.1, 0.0, 0.0)], pusher=(-0.15, 0.0))
    slid = poses[-1, 0, 0] - (-0.15 + 0.15 + 0.01 + 0.03)
    assert slid == pytest.approx(0.25**2 / (2 * 0.2 * GRAVITY), rel=0.15)


def test_what_rests_stays(engine: str) -> None:
    world = make_tabletop(engine, config=MIXED)
    world.reset(seed=1)
    first = world.truth().poses
    for _ in range(15):
        world.step(np.zeros(2))
    assert np.abs(world.truth().poses[:2] - first[:2]).max() < 1e-4
    assert np.abs(world.truth().poses[:, :3] - first[:, :3]).max() < 1e-3  # a capsule may roll a little


def test_a_chain_stays_joined_and_bends(engine: str) -> None:
    for thing in (Chain(6), Chain(5, (0.025, 0.01, 0.01), shape="capsule", joint="ball")):
        world = make_tabletop(engine, objects=(thing,))
        place = np.zeros(2 + thing.links)
        place[:2] = -thing.spacing * (thing.links - 1) / 2, 0.0
        poses = run(world, [(0.0, 0.1)] * 12, layout=[place], pusher=(0.0, -0.04))
        along = world.surface_points(thing.links)  # only for the frames of the bodies
        ends = [replace(along, local=np.tile([[side * thing.spacing / 2, 0.0, 0.0]], (thing.links, 1)), body_ids=np.arange(thing.links)) for side in (1, -1)]
        gap = ends[0].at(poses)[:, :-1] - ends[1].at(poses)[:, 1:]
        assert np.abs(gap).max() < 1e-4
        assert np.ptp(yaw(poses[-1])) > 0.3 or thing.joint == "ball"
        ahead = poses[-1, thing.links // 2, 1]
        assert ahead > 0.085 and ahead - poses[-1, 0, 1] > (0.05 if thing.joint == "hinge" else 0.005)  # the middle went ahead


@pytest.mark.parametrize("kind", ["boxes", "mixed"])
def test_recorded_bodies_neither_sink_nor_overlap(engine: str, kind: Any) -> None:
    episodes = recorded(engine, kind=kind)
    heights = episodes.positions[..., 2][episodes.mask[:, None].expand(episodes.positions.shape[:3])]
    assert float(heights.min()) > -1e-3
    for positions, poses, ids, config in zip(episodes.positions.numpy(), episodes.poses.numpy(), episodes.object_ids.numpy(), episodes.configs, strict=True):
        assert isinstance(config, TabletopConfig)
        boxes = [(index, body) for index, body in enumerate(config.bodies) if body.shape == "box"]
        deepest = 0.0
        for cloud, places in zip(positions, poses.astype(np.float64), strict=True):
            for index, body in boxes:
                others = (ids >= 0) & (ids != body.object_id)
                deepest = max(deepest, depth_in_box(cloud[others], places[index], body.half_extents))
        assert deepest < 1.5e-3


def in_body(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (N, 3) in the frame of a body at a pose (7,)."""
    w, axis, away = pose[3], -pose[4:], points - pose[:3]
    local: np.ndarray = away + 2 * w * np.cross(axis, away) + 2 * np.cross(axis, np.cross(axis, away))
    return local


def depth_in_box(points: np.ndarray, pose: np.ndarray, half: tuple[float, float, float]) -> float:
    """By how much the deepest point (N, 3) is inside a box [m]."""
    return float((np.array(half) - np.abs(in_body(points, pose))).min(-1).max(initial=0.0))


def test_energy_does_not_appear_from_nowhere(engine: str) -> None:
    """Free of the pusher, what moves only slows down: kinetic and potential energy of boxes that were pushed into each other and left never grow."""
    objects = (Box((0.03, 0.03, 0.03), 0.3, 0.2), Box((0.02, 0.02, 0.05), 0.2, 0.2))
    world = make_tabletop(engine, objects=objects, table_friction=0.2, dt=0.02)
    push = [(0.3, 0.0)] * 30 + [(-0.3, 0.0)] * 15
    poses = run(world, push, layout=[(0.0, 0.0, 0.2), (0.07, 0.01, 0.5)], pusher=(-0.06, 0.0))
    mass = np.array([thing.mass for thing in objects])
    speed = np.linalg.norm(np.diff(poses[..., :3], axis=0), axis=-1) / 0.02
    turn = 2 * np.arccos(np.abs((poses[1:, :, 3:] * poses[:-1, :, 3:]).sum(-1)).clip(max=1.0)) / 0.02
    inertia = np.array([body.inertia.max() for body in world.config.bodies])
    energy = (0.5 * mass * speed**2 + 0.5 * inertia * turn**2 + mass * GRAVITY * poses[1:, :, 2]).sum(-1)
    assert np.ptp(energy) > 0.005  # it was there
    assert np.diff(energy[31:]).max() < 2e-5 and speed[-1].max() < 0.01


def test_engines_agree_on_a_push() -> None:
    """A straight push of 7 cm, 3 mm off the middle: within 4 mm and 6 degrees. They share neither contact model nor the order in which they solve."""
    pytest.importorskip("pybullet"), pytest.importorskip("mujoco")
    config = replace(CUBE, pusher=SpherePusher(0.025))
    ends = [run(make_tabletop(e, config=config), [(0.1, 0.0)] * 9, layout=[(0.0, 0.003, 0.0)], pusher=(-0.075, 0.0))[-1, 0] for e in ("bullet", "mujoco")]
    assert np.abs(ends[0][:3] - ends[1][:3]).max() < 4e-3
    assert abs(yaw(ends[0]) - yaw(ends[1])) < np.radians(6)
    assert ends[0][0] > 0.06


def test_a_plate_turns_as_commanded(engine: str) -> None:
    world = make_tabletop(engine, config=replace(CUBE, pusher=PlatePusher()))
    poses = run(world, [(0.1, 0.0, 0.0)] * 10 + [(0.0, 0.0, 1.0)] * 5, layout=[(0.0, 0.0, 0.0)], pusher=(-0.06, 0.0, np.pi / 2))
    assert np.allclose(world.pusher, (0.04, 0.0, world.config.pusher_height, np.pi / 2 + 0.5), atol=1e-12)
    assert abs(yaw(poses[10, 0])) < 0.02 and yaw(poses[-1, 0]) > 0.1  # pushed flat, then turned off


# repeating


def test_equal_seeds_and_actions_give_equal_motion(engine: str) -> None:
    actions = np.random.default_rng(0).uniform(-0.2, 0.2, (12, 2))
    first, second = make_tabletop(engine, config=MIXED), make_tabletop(engine, config=MIXED)
    start = run(first, actions)
    run(first, -actions)  # leaves no trace
    assert np.array_equal(start, run(first, actions)) and np.array_equal(start, run(second, actions))


def test_a_snapshot_brings_the_world_back(engine: str) -> None:
    world = make_tabletop(engine, config=CUBE)
    push = [(0.1, 0.01)] * 6
    run(world, push, layout=[(0.0, 0.0, 0.4)], pusher=(-0.06, 0.0))
    state, futures = world.snapshot(), []
    for _ in range(2):
        world.restore(state)
        seen = [world.step(action)[0]["time"] for action in push]
        futures.append(world.truth().poses)
    assert np.array_equal(*futures) and seen[-1] == pytest.approx(1.2)


# layouts, configurations


def test_random_layouts_have_no_overlaps() -> None:
    for seed in range(20):
        config = sample_config(np.random.default_rng(seed), (7, 7) if seed % 2 else (2, 5), "boxes" if seed % 2 else "mixed")
        prints = [footprints_at(thing, place) for thing, place in zip(config.objects, random_layout(config, np.random.default_rng(seed)), strict=True)]
        assert not any(overlaps(a, b).any() for i, a in enumerate(prints) for b in prints[:i])


def test_bodies_are_where_the_layout_says(engine: str) -> None:
    world = make_tabletop(engine, config=MIXED)
    layout = [np.array([0.15, 0.1, 0.3]), np.array([0.15, -0.1, 1.0]), np.array([-0.1, -0.1, 1.2, 0.3, -0.2, 0.1, 0.2])]
    world.reset(seed=0, options={"layout": layout, "pusher": (0.0, 0.2)})
    expected = np.concatenate([footprints_at(thing, place) for thing, place in zip(MIXED.objects, layout, strict=True)])
    found = rectangles(MIXED.bodies, world.truth().poses)
    assert np.allclose(found, expected, atol=5e-4)
    assert world.truth().object_ids.tolist() == [0, 1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TabletopConfig(objects=()), "1 to 8 objects, got 0"),
        (lambda: TabletopConfig(objects=(Box(),) * 9), "1 to 8 objects, got 9"),
        (lambda: Box((0.1, -0.1, 0.1)), "half_extents > 0"),
        (lambda: Box(mass=float("nan")), "mass > 0"),
        (lambda: Box(friction=3.0), r"friction in \[0, 2\]"),
        (lambda: Chain(1), "2 to 20 links"),
        (lambda: Chain(shape="capsule", half_extents=(0.02, 0.01, 0.02)), "half length, radius, radius"),
        (lambda: CylinderPusher(radius=0.0), "radius > 0"),
        (lambda: TabletopConfig(dt=0.0), "dt > 0"),
        (lambda: TabletopConfig(cameras=0), "cameras as a whole number"),
        (lambda: TabletopConfig(workspace=0.05), "four times the greatest half extent"),
        (lambda: TabletopConfig(pusher=None), "needs a CylinderPusher"),  # type: ignore[arg-type]
        (lambda: make_tabletop("ode"), "'bullet' or 'mujoco', got 'ode'"),
        (lambda: sample_config(np.random.default_rng(0), (5, 2)), "range of objects"),
        (lambda: random_layout(TabletopConfig(objects=(Box((0.07, 0.07, 0.02)),) * 8, workspace=0.28), np.random.default_rng(0)), "take a larger workspace"),
    ],
)
def test_bad_worlds_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_bad_starts_and_actions_are_refused(engine: str) -> None:
    world = make_tabletop(engine, config=MIXED)
    with pytest.raises(RuntimeError, match="call reset"):
        world.step(np.zeros(2))
    with pytest.raises(ValueError, match="objects 0 and 1 overlap"):
        world.reset(options={"layout": [(0, 0, 0), (0.05, 0, 0), np.zeros(7)]})
    with pytest.raises(ValueError, match="pusher and objects overlap"):
        world.reset(options={"layout": [(0.1, 0.1, 0), (-0.1, 0.1, 0), (-0.1, -0.1, 0, 0, 0, 0, 0)], "pusher": (0.1, 0.1)})
    world.reset(seed=0)
    for action in ([0.1], [np.nan, 0.0], [0.4, 0.0]):
        with pytest.raises(ValueError, match="an action is a"):
            world.step(action)


def test_configurations_survive_json() -> None:
    for pusher in (CylinderPusher(), SpherePusher(), PlatePusher()):
        config = replace(MIXED, pusher=pusher)
        assert TabletopConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="to_json wrote"):
        TabletopConfig.from_json('{"objects": [{"type": "Ball"}]}')


# points and images


def test_points_stay_rigid_with_their_bodies(engine: str) -> None:
    episodes = recorded(engine, kind="mixed")
    for r in range(len(episodes)):
        for body in episodes.body_ids[r].unique().tolist():
            if body >= 0:
                mine = episodes.positions[r, :, episodes.body_ids[r] == body].double()
                far = torch.cdist(mine, mine)
                assert float((far - far[0]).abs().max()) < 1e-5


def test_surface_points_are_on_the_surface(engine: str) -> None:
    world = make_tabletop(engine, config=MIXED)
    world.reset(seed=0)
    points = world.surface_points(40, 3)
    assert world.truth_points(points).shape == (120, 3) and np.bincount(points.object_ids).tolist() == [40, 40, 40]
    boxes = [(points.local[points.body_ids == k], np.array(MIXED.bodies[k].half_extents)) for k in range(2)]
    assert all(np.allclose((np.abs(local) / half).max(-1), 1.0) for local, half in boxes)
    assert np.array_equal(points.local, world.surface_points(40, 3).local) and not np.array_equal(points.local, world.surface_points(40, 4).local)


@pytest.mark.parametrize("pusher", [CylinderPusher(), SpherePusher(), PlatePusher()])
def test_images_show_the_true_surfaces(engine: str, pusher: Any) -> None:
    """Depth lifted through the cameras lies on bodies, pusher or table; colours tell objects apart; nothing else is observed."""
    world = make_tabletop(engine, config=replace(MIXED, pusher=pusher), images=True)
    seen, _ = world.reset(seed=2)
    assert set(seen) == {"pusher", "time", "rgb", "depth"} and world.observation_space.contains({**seen, "depth": np.nan_to_num(seen["depth"])})
    origins, directions = world.cameras.rays()
    depth = torch.from_numpy(seen["depth"])
    forward = (directions * world.cameras.world_from_camera[:, None, None, :3, 2]).sum(-1)
    cloud = (origins[:, None, None] + directions * (depth / forward).unsqueeze(-1)).reshape(-1, 3)
    rgb = torch.from_numpy(seen["rgb"]).reshape(-1, 3).float()
    hue = rgb / rgb.amax(-1, keepdim=True)
    poses = world.truth().poses
    for index, color in enumerate(((0.84, 0.15, 0.16), (0.12, 0.47, 0.71), (0.17, 0.63, 0.17))):
        wanted = torch.tensor(color) / max(color)
        mine = cloud[((hue - wanted).abs().amax(-1) < 0.06) & cloud.isfinite().all(-1)].double()
        assert len(mine) > 60
        parts = [k for k, body in enumerate(MIXED.bodies) if body.object_id == index]
        away = np.min([np.abs(distance_to(mine.numpy(), poses[k], MIXED.bodies[k].shape, MIXED.bodies[k].half_extents)) for k in parts], 0)
        assert np.median(away) < 1e-3 and np.quantile(away, 0.9) < 2e-3  # TinyRenderer draws a capsule of 1 cm with few faces, 0.8 mm inside
    tabled = cloud[(rgb.amax(-1) - rgb.amin(-1) < 30) & (rgb.amin(-1) > 150)]
    assert float(tabled[tabled.isfinite().all(-1)][:, 2].abs().median()) < 1e-3
    black = cloud[(rgb.amax(-1) < 70) & cloud.isfinite().all(-1)].double().numpy()
    place, x, y, z, half = seen["pusher"], *(black - seen["pusher"][:3]).T, world.config.pusher_height - 0.002
    turn = np.array([*place[:3], np.cos(place[-1] / 2), 0.0, 0.0, np.sin(place[-1] / 2)])
    match pusher:
        case PlatePusher():
            away = distance_to(black, turn, "box", (pusher.half_width, pusher.half_thickness, half))
        case SpherePusher():
            away = np.hypot(np.hypot(x, y), z) - pusher.radius
        case _:
            away = np.maximum(np.hypot(x, y) - pusher.radius, np.abs(z) - half)
    assert len(black) > 10 and np.median(np.abs(away)) < 1e-3


def distance_to(points: np.ndarray, pose: np.ndarray, shape: str, half: tuple[float, float, float]) -> np.ndarray:
    """Signed distances of points (N, 3) to a box (outside up to its corners) or a capsule along x [m]."""
    local = in_body(points, pose)
    if shape == "capsule":
        core = half[0] - half[1]
        distance: np.ndarray = np.linalg.norm(local - np.stack((local[:, 0].clip(-core, core), *np.zeros((2, len(local)))), -1), axis=-1) - half[1]
        return distance
    over = np.abs(local) - np.array(half)
    found: np.ndarray = np.linalg.norm(over.clip(0), axis=-1) + over.max(-1).clip(max=0)
    return found


def test_pusher_points_move_with_the_pusher() -> None:
    for pusher, place in ((PlatePusher(), [0.1, 0.0, 0.06, 0.7]), (SpherePusher(), [0.1, 0.0, 0.02])):
        points = pusher_points(replace(CUBE, pusher=pusher), 50)
        moved = place_pusher(points, np.array([place, place]))
        turned = place_pusher(points, np.array(place))
        assert moved.shape == (2, 50, 3) and np.array_equal(moved[1], turned)
        size = points - points[0], turned - turned[0]
        assert np.allclose(np.linalg.norm(size[0], axis=-1), np.linalg.norm(size[1], axis=-1))
    at = place_pusher(np.array([[1.0, 0.0, 0.0]]), np.array([0.0, 0.0, 0.0, np.pi / 2]))
    assert np.allclose(at, [[0.0, 1.0, 0.0]])


def test_both_engines_render_alike() -> None:
    """TinyRenderer's depth is the exact one but at silhouettes."""
    pytest.importorskip("pybullet")
    world = make_tabletop("bullet", config=MIXED, images=True)
    seen, _ = world.reset(seed=4)
    rgb, depth = TableViews(world.config, world.cameras).render(world.truth().poses, seen["pusher"])
    away = np.abs(seen["depth"] - depth)
    assert np.nanmedian(away) < 1e-4 and np.nanmean(away < 1e-3) > 0.99 * np.isfinite(away).mean()
    assert np.abs(rgb.astype(int) - seen["rgb"]).mean() < 6


def test_antialiased_images_are_means_of_larger_ones(engine: str) -> None:
    fine = make_tabletop(engine, config=MIXED, images=True, width=3 * MIXED.width, height=3 * MIXED.height)
    smooth = make_tabletop(engine, config=MIXED, images=True, antialias=3)
    (large, _), (small, _) = fine.reset(seed=4), smooth.reset(seed=4)
    means = large["rgb"].reshape(-1, MIXED.height, 3, MIXED.width, 3, 3).mean((2, 4))
    assert np.abs(means - small["rgb"]).max() <= 1.0
    assert np.isclose(large["depth"][:, 1::3, 1::3], small["depth"], atol=1e-4, equal_nan=True).mean() > 0.999
    assert smooth.observation_space["rgb"].contains(small["rgb"])


def test_planners_can_do_without_the_truth(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the engine was asked")

    for name in ("truth", "truth_points", "surface_points", "snapshot", "restore"):
        monkeypatch.setattr(Tabletop, name, refuse)
    world = make_tabletop(engine, config=CUBE, images=True)
    world.reset(seed=0)
    assert not world.step(np.zeros(2))[2]


# policy and recordings


def test_ways_go_around_what_is_in_between() -> None:
    config = replace(CUBE, objects=(Box((0.05, 0.05, 0.02)),))
    prints = np.array([[0.0, 0.0, 0.3, 0.05, 0.05]])
    way = [np.array([-0.12, 0.0]), *way_around(config, prints, np.array([-0.12, 0.0]), np.array([0.12, 0.01]))]
    line = np.concatenate([a + np.linspace(0, 1, 50)[:, None] * (b - a) for a, b in zip(way, way[1:], strict=False)])
    assert np.allclose(way[-1], (0.12, 0.01)) and distances(prints, line).min() >= config.pusher_reach
    assert sum(float(np.linalg.norm(b - a)) for a, b in zip(way, way[1:], strict=False)) < 0.34


@pytest.mark.parametrize("kind", [{"kind": "boxes"}, {"kind": "mixed"}, {"kind": "boxes", "pusher": "plate"}])
def test_half_of_all_steps_move_something(engine: str, kind: dict[str, Any]) -> None:
    episodes = recorded(engine, **kind)
    assert float(episodes.moving.float().mean()) >= 0.5
    moves = episodes.pusher.diff(dim=1)[..., [0, 1, *range(3, episodes.pusher.shape[-1])]]
    assert torch.allclose(moves / episodes.dt, episodes.actions, atol=1e-4)  # what is recorded is what was done


def test_recordings_repeat_and_do_not_depend_on_workers() -> None:
    pytest.importorskip("mujoco")
    one, two = (record_tabletop("mujoco", 2, 5, 9, workers=workers) for workers in (1, 2))
    assert torch.equal(one.positions, two.positions) and torch.equal(one.actions, two.actions) and one.configs == two.configs
    assert one.configs[0] != one.configs[1] and not torch.equal(one.actions[0], one.actions[1])


def test_recordings_survive_a_file(engine: str, tmp_path: Path) -> None:
    episodes = TabletopEpisodes.join([recorded(engine, kind="mixed"), recorded(engine, kind="boxes", pusher="plate")])
    assert len(episodes) == 6 and episodes.pusher.shape[-1] == 4 and episodes.actions.shape[-1] == 3
    assert bool((episodes.object_ids[~episodes.mask] == -1).all()) and bool((episodes.positions.transpose(1, 2)[~episodes.mask] == 0).all())
    episodes.save(tmp_path / "new" / "table.npz")
    found = TabletopEpisodes.load(tmp_path / "new" / "table.npz")
    for name in ("positions", "mask", "object_ids", "body_ids", "poses", "body_objects", "pusher", "actions"):
        assert torch.equal(getattr(found, name), getattr(episodes, name))
    assert found.configs == episodes.configs and found.dt == episodes.dt
    with pytest.raises(DataUnavailable, match="record it again"):
        TabletopEpisodes.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(BadData, match="record it again"):
        TabletopEpisodes.load(tmp_path / "bad.npz")


def test_soft_blocks_are_recorded_alike(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    from structwm.worlds.tabletop_soft import record_soft_pushes

    episodes = record_soft_pushes(1, 20, 1, points=40)
    assert episodes.positions.shape == (1, 21, 40, 3) and episodes.poses.shape == (1, 21, 0, 7) and not episodes.object_ids.any()
    assert float(episodes.moving.float().mean()) >= 0.5 and float(episodes.positions[..., 2].min()) > -1e-3
    both = TabletopEpisodes.join([episodes, episodes])
    both.save(tmp_path / "soft.npz")
    assert TabletopEpisodes.load(tmp_path / "soft.npz").configs == both.configs


def test_recordings_become_motion_of_points(engine: str) -> None:
    episodes = TabletopEpisodes.join([recorded(engine, kind="boxes"), recorded(engine, kind="mixed")])
    whole, few = cloud_recording(episodes, robot_points=10), cloud_recording(episodes, points=7, robot_points=10)
    assert whole.mask is not None and torch.equal(whole.mask, episodes.mask) and torch.equal(whole.positions, episodes.positions)
    assert few.mask is not None and few.object_ids is not None and few.positions.shape[2] == 7 * (int(episodes.object_ids.max()) + 1)
    for run in range(len(episodes)):
        for number in range(int(episodes.object_ids[run].max()) + 1):
            mine = few.mask[run] & (few.object_ids[run] == number)
            chosen, all_own = few.positions[run, :, mine], episodes.positions[run, :, episodes.object_ids[run] == number]
            assert int(mine.sum()) == 7
            same = torch.cdist(chosen[0], all_own[0]).argmin(-1)
            assert len(same.unique()) == 7 and torch.equal(all_own[:, same], chosen)  # the same material points throughout
    step = (episodes.pusher[:, 1:, :2] - episodes.pusher[:, :-1, :2]).unsqueeze(2)
    assert torch.allclose(few.robot.diff(dim=1)[..., :2], step.expand(-1, -1, 10, -1), atol=1e-6)
    with pytest.raises(ValueError, match="at least one point"):
        cloud_recording(episodes, points=0)
    world = make_tabletop(engine)
    with pytest.raises(ValueError, match="needs images"):
        table_observation(world, world.reset(seed=0)[0])
    world.close()
