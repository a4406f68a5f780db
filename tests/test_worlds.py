"""Foreign pushing worlds: what they promise as environments, and their physics against theory and against each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from structwm import worlds
from structwm.geometry import outline as shapes
from structwm.worlds.pushing import PlanarPushing, PushingConfig, place_points, pusher_clearance, record_pushes, wrap_angle

MISSING = {"bullet": "pybullet", "mujoco": "mujoco"}
GRAVITY = 9.81


@cache
def _world(engine: str, **config: Any) -> PlanarPushing:
    pytest.importorskip(MISSING[engine])
    return worlds.make(engine, **config)


@pytest.fixture(params=["bullet", "mujoco"])
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(MISSING[request.param])
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def _close() -> Iterator[None]:
    yield
    _world.cache_clear()


def _push(world: PlanarPushing, *, pose: Any = (0, 0, 0), pusher: Any, velocity: Any, steps: int, rest: int = 0) -> np.ndarray:
    """Observed object poses (steps + rest + 1, 3) of one push followed by rest."""
    observation, _ = world.reset(seed=0, options={"object_pose": pose, "pusher": pusher})
    poses = [observation["object_pose"]]
    for t in range(steps + rest):
        poses.append(world.step(velocity if t < steps else (0, 0))[0]["object_pose"])
    return np.array(poses)


class Frozen(PlanarPushing):
    """A world whose slider never moves: what the base class promises needs no engine."""

    def _place(self, object_pose: np.ndarray, pusher: np.ndarray) -> None:
        self.pose, self.tilt = object_pose, 0.0

    def _advance(self, velocity: np.ndarray) -> None:
        self.velocity = velocity

    def _slider(self) -> tuple[np.ndarray, np.ndarray]:
        c, s, upright = np.cos(self.pose[2]), np.sin(self.pose[2]), np.cos(self.tilt)
        return np.array([*self.pose[:2], 0.0]), np.array([[c, -s, 0], [s, c, 0], [0, 0, upright]])

    def _image(self) -> np.ndarray:
        return np.zeros((self.image_size, self.image_size, 3), np.uint8)


# Outlines


@st.composite
def convex(draw: st.DrawFn) -> np.ndarray:
    """A polygon inscribed in an ellipse, anywhere: strictly convex and counter-clockwise."""
    gaps = np.array(draw(st.lists(st.floats(0.3, 1.0), min_size=3, max_size=9)))
    angle = np.cumsum(gaps) / gaps.sum() * 2 * np.pi
    size = np.array([draw(st.floats(0.02, 0.1)), draw(st.floats(0.02, 0.1))])
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1) * size + [draw(st.floats(-0.05, 0.05)), draw(st.floats(-0.05, 0.05))]


@settings(max_examples=25, deadline=None)
@given(convex())
def test_support_points_have_the_moments_of_the_inside(outline: np.ndarray) -> None:
    points = shapes.support_points(outline)
    _, centroid, covariance = shapes.moments(outline)
    assert np.allclose(points.mean(axis=0), centroid)
    assert np.allclose(np.cov(points.T, bias=True), covariance)
    rng = np.random.default_rng(0)
    inside = rng.uniform(outline.min(axis=0), outline.max(axis=0), (20_000, 2))
    inside = inside[shapes.signed_distance(outline, inside) < 0]
    assert np.abs(inside.mean(axis=0) - centroid).max() < 2e-3
    assert np.abs(np.cov(inside.T) - covariance).max() < 0.05 * np.trace(covariance)
    # the torque at which the slider spins in place, against that of uniform pressure; slivers are the worst, sampling adds a percent
    torque = np.linalg.norm(points - centroid, axis=-1).mean() / np.linalg.norm(inside - centroid, axis=-1).mean()
    assert torque == pytest.approx(1.0, abs=0.1)
    assert len(points) <= 16


@settings(max_examples=25, deadline=None)
@given(convex(), st.floats(0, 0.999), st.floats(1e-4, 0.03))
def test_the_boundary_is_at_distance_zero_and_its_normal_points_out(outline: np.ndarray, fraction: float, gap: float) -> None:
    point, normal = shapes.boundary_point(outline, fraction)
    assert shapes.signed_distance(outline, point) == pytest.approx(0.0, abs=1e-12)
    assert shapes.signed_distance(outline, point + gap * normal) == pytest.approx(gap)


def test_the_sign_of_the_distance_holds_beside_an_acute_corner() -> None:
    sliver = np.array([(0.0, 0.0), (1.0, -0.05), (1.0, 0.05)])
    assert shapes.signed_distance(sliver, (-0.01, 0.02)) > 0
    assert shapes.signed_distance(sliver, (0.5, 0.0)) < 0


def test_inset_moves_every_edge_inwards() -> None:
    assert np.allclose(shapes.inset(shapes.rectangle(0.1, 0.06), 0.01), shapes.rectangle(0.08, 0.04))
    with pytest.raises(ValueError, match="vanish"):
        shapes.inset(shapes.rectangle(0.1, 0.06), 0.04)


def test_presets_have_their_centroid_at_the_origin() -> None:
    for outline in (shapes.rectangle(0.1, 0.06), shapes.ellipse(0.05, 0.03), shapes.triangle(0.1, 0.12, angle=1.0), shapes.regular_polygon(5, radius=0.04)):
        assert np.allclose(shapes.moments(outline)[1], 0.0)


@pytest.mark.parametrize(
    ("outline", "words"),
    [
        ([(0, 0), (1, 0)], "V >= 3"),
        ([(0, 0), (1, 0), (1, np.nan)], "vertex 2 not finite"),
        ([(0, 0), (0, 1), (1, 0)], "counter-clockwise"),
        ([(0, 0), (1, 0), (0.2, 0.2), (0, 1)], "convex"),
        ([(0, 0), (0.5, 0), (1, 0), (0, 1)], "strictly convex"),
    ],
)
def test_bad_outlines_are_refused(outline: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PushingConfig(outline=outline)


# The environment, without an engine


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"mass": 0.0}, "mass > 0"),
        ({"height": np.nan}, "height > 0"),
        ({"friction": -0.1}, "friction in"),
        ({"latency": 1.5}, "whole number"),
        ({"observation_noise": (0.001,)}, "two stds"),
        ({"center_of_mass": (0.06, 0.0)}, "inside the outline"),
        ({"workspace": 0.1}, "workspace"),
        ({"render_mode": "human"}, "rgb_array"),
    ],
)
def test_bad_fields_are_refused(field: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Frozen(**field)


def test_configs_compare_and_hash_whatever_the_outline_was_given_as() -> None:
    a, b = PushingConfig(outline=shapes.rectangle(0.1, 0.06)), PushingConfig(outline=shapes.rectangle(0.1, 0.06).tolist())
    assert a == b == PushingConfig()
    assert len({a, b}) == 1


@pytest.mark.parametrize("action", [(0.11, 0.0), (np.nan, 0.0), (np.inf, 0.0), (0.0,), 0.0])
def test_bad_actions_are_refused(action: Any) -> None:
    world = Frozen()
    with pytest.raises(RuntimeError, match="reset"):
        world.step((0, 0))
    world.reset(seed=0)
    with pytest.raises(ValueError, match="an action is"):
        world.step(action)
    world.step(np.float32([0.1, -0.1]))  # float32 bounds, a little above 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"object_pose": (0, 0, 0), "pusher": (0.054, 0.0)}, r"overlap at the start by 1\.00 mm"),
        ({"object_pose": (0, 0, 0), "pusher": (0.0, 0.0)}, "overlap"),
        ({"object_pose": (0, 0)}, "shape"),
        ({"pusher": (0.6, 0.0)}, "within the workspace"),
        ({"object_pose": (0, 0, np.nan)}, "finite"),
        ({"tip": (0, 0)}, "got tip"),
    ],
)
def test_bad_starts_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Frozen().reset(seed=0, options=options)


def test_random_starts_do_not_overlap_and_keep_what_is_given() -> None:
    world = Frozen(outline=shapes.triangle(0.2, 0.1))
    for seed in range(30):
        options = [{}, {"pusher": (0.1, 0.1)}, {"object_pose": (0.1, 0.0, 4.0)}][seed % 3]
        observation, info = world.reset(seed=seed, options=options)
        assert world.observation_space.contains(observation)
        assert pusher_clearance(world.config, info["object_pose"], observation["pusher"]) >= 0
        if "pusher" in options:
            assert np.array_equal(observation["pusher"], [0.1, 0.1])
        if "object_pose" in options:
            assert np.allclose(observation["object_pose"], [0.1, 0.0, 4.0 - 2 * np.pi])


@given(st.floats(-50, 50))
def test_angles_wrap_into_the_half_open_turn(angle: float) -> None:
    wrapped = wrap_angle(angle)
    assert -np.pi <= wrapped <= np.pi
    assert np.isclose(np.cos(wrapped - angle), 1.0)


def test_latency_delays_the_pusher_by_exactly_its_steps() -> None:
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 2))
    paths = []
    for latency in (0, 3):
        world = Frozen(latency=latency)
        world.reset(seed=1, options={"pusher": (0.1, 0.0)})
        paths.append(np.array([world.step(action)[0]["pusher"] for action in actions]))
    assert np.array_equal(paths[1][:3], [(0.1, 0.0)] * 3)
    assert np.array_equal(paths[1][3:], paths[0][:-3])


def test_the_pusher_stays_in_the_workspace_and_the_slider_ends_the_episode_outside() -> None:
    world = Frozen(workspace=0.2)
    world.reset(seed=0, options={"object_pose": (0, 0, 0), "pusher": (0.195, 0.0)})
    observation, reward, terminated, truncated, info = world.step((0.1, 0.05))
    assert np.allclose(observation["pusher"], [0.2, 0.005])
    assert np.allclose(world.velocity, [0.05, 0.05])
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert "reason" not in info
    world.pose = np.array([0.0, 0.21, 0.0])
    assert world.step((0, 0))[2:4] == (True, False)
    assert world.step((0, 0))[4]["reason"] == "the slider left the workspace"
    world.pose, world.tilt = np.zeros(3), 0.6
    assert world.step((0, 0))[4]["reason"] == "the slider tipped over"


def test_noise_has_its_std_and_spares_pusher_and_judge() -> None:
    world = Frozen(observation_noise=(0.002, 0.05))
    world.reset(seed=0, options={"object_pose": (0, 0, 3.1), "pusher": (0.1, 0)})
    steps = [world.step((0, 0)) for _ in range(2000)]
    poses = np.array([s[0]["object_pose"] for s in steps])
    assert np.abs(poses[:, 2]).max() <= np.pi
    assert poses[:, :2].std() == pytest.approx(0.002, rel=0.1)
    assert np.unwrap(poses[:, 2]).std() == pytest.approx(0.05, rel=0.1)
    assert all(np.array_equal(s[0]["pusher"], (0.1, 0)) and np.allclose(s[4]["object_pose"], (0, 0, 3.1)) for s in steps)


def test_recorded_pushes_are_straight_aimed_and_repeat() -> None:
    world = Frozen(outline=shapes.triangle(0.15, 0.1), latency=2)
    pushes = record_pushes(world, 40, seed=5, length=(0.03, 0.05))
    again = record_pushes(world, 40, seed=5, length=(0.03, 0.05))
    assert all(np.array_equal(getattr(pushes, name), getattr(again, name)) for name in vars(pushes))
    assert pushes.object_pose.shape == (40, 16, 3)
    assert pushes.pusher.shape == (40, 16, 2)
    assert pushes.actions.shape == (40, 15, 2)
    travel = pushes.final_tip - pushes.init_tip
    assert np.allclose(travel, pushes.actions.sum(axis=1) * world.config.dt)
    assert (np.linalg.norm(travel, axis=-1) >= 0.03).all()
    assert (np.linalg.norm(travel, axis=-1) <= 0.05).all()
    for pose, tip, way in zip(pushes.init_pose, pushes.init_tip, travel, strict=True):
        assert 0.0009 < pusher_clearance(world.config, pose, tip) < 0.0041
        ahead = tip + np.linspace(0, 1, 50)[:, None] * way  # the centre of a pusher that nothing stops
        assert shapes.signed_distance(place_points(pose, world.config.vertices), ahead).min() < 0
    with pytest.raises(ValueError, match="more steps or shorter"):
        record_pushes(world, 1, seed=0, length=(0.1, 0.2))


def test_engines_load_only_when_a_world_is_made() -> None:
    code = "import sys, structwm.worlds as w; w.PushingConfig; assert not {'pybullet', 'mujoco', 'torch', 'warp'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(ValueError, match="'bullet' or 'mujoco'"):
        worlds.make("gazebo")


# Both engines, as environments


def test_the_environment_checker_is_content(engine: str) -> None:
    world = gymnasium.make(f"structwm/PlanarPushing-{engine.capitalize()}-v0", friction=0.3)
    assert world.unwrapped.config.friction == 0.3
    with pytest.warns(UserWarning, match="infinity"):  # positions are unbounded
        check_env(world.unwrapped, skip_render_check=True)
    world.close()
    world.close()


def test_episodes_repeat_bit_for_bit_and_worlds_do_not_touch_each_other(engine: str) -> None:
    a, b = _world(engine, observation_noise=(0.001, 0.01)), worlds.make(engine, observation_noise=(0.001, 0.01))
    towards = (0.05, 0.01)

    def episode(*players: PlanarPushing) -> list[np.ndarray]:
        for world in players:
            world.reset(seed=7, options={"object_pose": (0, 0, 0.2), "pusher": (-0.062, 0.01)})
        return [np.array([world.step(towards)[0]["object_pose"] for world in players]) for _ in range(8)]

    alone = np.array(episode(a))[:, 0]
    together = np.array(episode(a, b))  # interleaved
    b.close()
    assert np.array_equal(alone, together[:, 0])
    assert np.array_equal(alone, together[:, 1])
    assert np.array_equal(alone, np.array(episode(a))[:, 0])


def test_the_view_from_above_shows_slider_and_pusher(engine: str) -> None:
    world = worlds.make(engine, render_mode="rgb_array", pusher_radius=0.03)
    world.reset(seed=0, options={"object_pose": (0.25, 0.25, 0), "pusher": (-0.25, -0.25)})
    try:
        image = world.render()
    except RuntimeError as error:
        if "MUJOCO_GL" not in str(error):
            raise
        pytest.skip(str(error))
    finally:
        world.close()
    assert image is not None
    assert image.shape == (320, 320, 3)
    assert image.dtype == np.uint8
    slider, pusher = image[80, 240].astype(int), image[240, 80].astype(int)
    assert slider[2] > slider[0] + 40  # blue
    assert pusher[0] > pusher[2] + 40  # red


def test_a_tall_slider_tips_over(engine: str) -> None:
    world = worlds.make(engine, outline=shapes.rectangle(0.03, 0.03), height=0.12, friction=0.6)
    world.reset(seed=0, options={"object_pose": (0, 0, 0), "pusher": (-0.025, 0)})
    for _ in range(20):
        *_, terminated, _, info = world.step((0.1, 0))
        if terminated:
            break
    world.close()
    assert info["reason"] == "the slider tipped over"


# Both engines, against theory


def test_nothing_drifts(engine: str) -> None:
    world = _world(engine, center_of_mass=(0.01, 0.005))
    poses = _push(world, pose=(0.1, 0.05, 0.4), pusher=(-0.2, 0), velocity=(0, 0), steps=50)
    assert np.abs(poses[0] - (0.1, 0.05, 0.4)).max() < 1e-5
    assert np.linalg.norm(poses[-1, :2] - poses[0, :2]) < 1e-4
    assert abs(poses[-1, 2] - poses[0, 2]) < 1e-3


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_a_sliding_body_stops_where_friction_says(engine: str, angle: float) -> None:
    """From v it slides v^2 / (2 mu g), straight: sliding friction is the configured coefficient in every direction."""
    world, speed = _world(engine), 0.5
    world.reset(seed=0, options={"object_pose": (0, 0, 0), "pusher": (-0.3, 0)})
    velocity = speed * np.array([np.cos(angle), np.sin(angle), 0])
    if engine == "bullet":
        import pybullet

        pybullet.resetBaseVelocity(world._slider_id, velocity.tolist(), [0, 0, 0], **world._at)
    else:
        world._data.qvel[2:5] = velocity
    for _ in range(5):
        pose = world.step((0, 0))[0]["object_pose"]
    assert np.linalg.norm(pose[:2]) == pytest.approx(speed**2 / (2 * world.config.friction * GRAVITY), rel=0.05)
    assert np.arctan2(pose[1], pose[0]) == pytest.approx(angle, abs=0.01)
    assert abs(pose[2]) < 0.01


@pytest.mark.parametrize("angle", [0.0, 0.17])
def test_a_push_through_the_centre_of_friction_does_not_turn(engine: str, angle: float) -> None:
    """Contact sticks when the direction is inside the friction cone (atan 0.25 = 0.245 rad), so a push whose line meets the centre only translates."""
    center = np.array([0.01, 0.005])
    world = _world(engine, center_of_mass=tuple(center))
    direction = np.array([np.cos(angle), np.sin(angle)])
    contact = center - direction * (0.05 + center[0]) / direction[0]
    poses = _push(world, pusher=contact - (0.005 + 1e-5, 0), velocity=0.05 * direction, steps=6)
    assert abs(poses[-1, 2]) < 0.01
    assert np.linalg.norm(poses[-1, :2] - 0.03 * direction) < 2e-4


def test_off_centre_pushes_turn_the_right_way_and_mirror(engine: str) -> None:
    world = _world(engine)
    left = _push(world, pusher=(-0.0551, 0.02), velocity=(0.05, 0), steps=4)[-1]
    right = _push(world, pusher=(-0.0551, -0.02), velocity=(0.05, 0), steps=4)[-1]
    assert left[2] < -0.1
    assert np.allclose(left, right * (1, -1, -1), atol=(1e-4, 1e-4, 3e-3))


def test_a_frictionless_pusher_moves_the_slider_with_least_power(engine: str) -> None:
    """Among all twists that the pusher allows, quasi-static motion dissipates least (normal contact force only); integrated over a fine uniform pressure."""
    config = PushingConfig(pusher_friction=0.0, height=0.004)
    world = _world(engine, config=config)
    grid = np.stack(np.meshgrid((np.arange(20) + 0.5) / 200 - 0.05, (np.arange(12) + 0.5) / 200 - 0.03), axis=-1).reshape(-1, 2)
    start, velocity, step = np.array([-0.0551, 0.02]), np.array([0.05, 0.0]), 0.01
    measured = _push(world, pusher=start, velocity=velocity, steps=6)[-1]

    def power(twist: np.ndarray) -> float:
        speed = twist[:2] + twist[2] * np.stack([-grid[:, 1], grid[:, 0]], axis=-1)
        return float(np.sqrt((speed**2).sum(axis=-1) + 1e-12).mean())

    pose, free = np.zeros(3), np.zeros(2)  # body-frame twist (vx, vy, w): vx follows from the contact on the edge x = -0.05, whose normal is x
    for k in range(60):
        tip = start + k * step * velocity
        turn = np.array([[np.cos(pose[2]), np.sin(pose[2])], [-np.sin(pose[2]), np.cos(pose[2])]])
        tip_body = turn @ (tip - pose[:2])
        gap = -0.05 - config.pusher_radius - tip_body[0]
        closing = (turn @ velocity)[0] - gap / step
        if closing <= 0:
            continue
        free = minimize(lambda u, c=closing, y=tip_body[1]: 1e3 * power(np.array([c + u[1] * y, u[0], u[1]])), free, tol=1e-9).x
        pose = pose + step * np.append(turn.T @ [closing + free[1] * tip_body[1], free[0]], free[1])
    assert abs(pose[2]) > 0.3
    # feet in place of uniform pressure, and in Bullet the stand's mass, cost a few tenths of a millimetre
    assert np.linalg.norm(measured[:2] - pose[:2]) < 5e-4
    assert abs(measured[2] - pose[2]) < np.radians(1.0)


def test_the_slider_stops_with_the_pusher(engine: str) -> None:
    world = _world(engine)
    poses = _push(world, pusher=(-0.056, 0.01), velocity=(0.05, 0), steps=6, rest=4)
    assert np.linalg.norm(poses[7, :2] - poses[6, :2]) < 1e-3
    assert np.abs(poses[-1] - poses[7]).max() < 1e-4


def test_mass_does_not_change_slow_pushes(engine: str) -> None:
    light, heavy = (_push(_world(engine, mass=mass), pusher=(-0.056, 0.015), velocity=(0.04, 0.01), steps=6)[-1] for mass in (0.1, 2.0))
    assert np.abs(light - heavy)[:2].max() < 2e-4
    assert abs(light[2] - heavy[2]) < 5e-3


@pytest.mark.parametrize(("coefficient", "slips"), [(0.46, False), (0.38, True)])
def test_contact_slips_beyond_the_friction_cone_and_sticks_within(engine: str, coefficient: float, slips: bool) -> None:
    """A push through the centre at 0.4 rad from the normal needs a coefficient of tan 0.4 = 0.423 to stick, whatever the slider's own friction is."""
    world = _world(engine, pusher_friction=coefficient, friction=0.5)
    direction = np.array([np.cos(0.4), np.sin(0.4)])
    start = -direction * 0.05 / direction[0] - (0.005 + 1e-5, 0)
    pose = _push(world, pusher=start, velocity=0.05 * direction, steps=8)[-1]
    turn = np.array([[np.cos(pose[2]), np.sin(pose[2])], [-np.sin(pose[2]), np.cos(pose[2])]])
    slid = (turn @ (start + 0.04 * direction - pose[:2]))[1] - start[1]  # of the pusher along the edge
    assert (abs(slid) > 5e-4) == slips
    assert abs(slid) > 5e-4 or abs(slid) < 2e-4


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"outline": tuple(map(tuple, shapes.ellipse(0.05, 0.035)))},
        {"outline": tuple(map(tuple, shapes.triangle(0.1, 0.1))), "center_of_mass": (0.005, -0.005)},
    ],
    ids=["rectangle", "ellipse", "triangle"],
)
def test_the_engines_agree_on_the_same_pushes(config: dict[str, Any]) -> None:
    """Over 20 pushes of 2-6 cm in each of 7 worlds they ended 0.15-0.24 mm and 0.1-0.5 degrees apart in the mean, 0.8 mm and 2.0 degrees at most."""
    bullet, mujoco = (record_pushes(_world(name, **config), 8, seed=3) for name in ("bullet", "mujoco"))
    assert np.array_equal(bullet.actions, mujoco.actions)
    assert np.array_equal(bullet.pusher, mujoco.pusher)
    assert np.linalg.norm(bullet.final_pose - bullet.init_pose, axis=-1).min() > 0.002
    apart = np.abs(bullet.final_pose - mujoco.final_pose)
    distance, angle = np.linalg.norm(apart[:, :2], axis=-1), np.degrees(apart[:, 2])
    assert distance.mean() < 4e-4
    assert distance.max() < 1e-3
    assert angle.mean() < 0.6
    assert angle.max() < 1.5
