"""A policy that learns to push inside a model."""

import functools
import math

import numpy as np
import pytest
import torch

from structwm.demos.push_policy import Learning, PushActor, PushEpisodes, features, imagined_pushing, random_starts, run_policy, world_velocity
from structwm.ensemble import Ensemble
from structwm.geometry.planar import rotate, to_body
from structwm.noise import Noise
from structwm.physics.pushing import PushTwin, rectangle
from structwm.training import load_model, save_model

TWIN = PushTwin(rectangle(0.10, 0.06), dt=0.1, substeps=5)


def members():
    return Ensemble(TWIN.with_parameters({"friction": torch.tensor([0.2, 0.4])}))


def moved(pose, by):
    """Poses (N, 3) or points (N, 2), moved by one rigid motion (3,)."""
    place = by[:2] + rotate(pose[:, :2], by[2].expand(len(pose)))
    return torch.cat((place, pose[:, 2:] + by[2]), -1) if pose.shape[-1] == 3 else place


def test_a_policy_sees_alike_wherever_the_table_is():
    generator = torch.Generator().manual_seed(0)
    pose, goal, pusher = (torch.rand(50, size, generator=generator, dtype=torch.float64) for size in (3, 3, 2))
    by = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    assert torch.allclose(features(pose, pusher, goal), features(moved(pose, by), moved(pusher, by), moved(goal, by)), atol=1e-9)
    actor = PushActor().double()
    turned = rotate(actor(pose, pusher, goal, 0.1), by[2].expand(50))
    there = actor(moved(pose, by), moved(pusher, by), moved(goal, by), 0.1)
    assert torch.allclose(turned, there, atol=1e-9)


def test_velocities_keep_to_the_speed_and_turn_with_the_slider():
    pose = torch.tensor([[0.0, 0.0, math.pi / 2]]).expand(3, 3)
    velocity = world_velocity(pose, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.3, 0.0]]), 0.1)
    assert torch.allclose(velocity.norm(dim=-1), torch.tensor([0.1, 0.1, 0.03]))
    assert torch.allclose(velocity[0], torch.tensor([0.0, 0.1]), atol=1e-7)
    turns = torch.linspace(-4, 4, 2000)
    every = world_velocity(torch.stack((turns, turns, turns), -1), torch.ones(2000, 2), 0.1)
    assert bool((every.abs() <= 0.1).all())  # exactly, as action bounds are


def test_starts_are_where_episodes_say():
    episodes = PushEpisodes(distance=0.05, angle=0.5)
    state = random_starts(Noise.from_seed(0, 500), TWIN, episodes)
    assert float(state.pose[:, :2].norm(dim=-1).max()) <= 0.05 and float(state.pose[:, 2].abs().max()) <= 0.5
    gap = TWIN.shape.nearest(to_body(state.pose, state.pusher)).distance - TWIN.pusher_radius
    assert 0.0049 < float(gap.min()) < 0.01 and 0.045 < float(gap.max()) < 0.0501


def test_episodes_reward_what_brings_the_slider_nearer():
    env = imagined_pushing(members(), TWIN, 64, PushEpisodes(stray=0.0))
    before = np.array(env.reset(seed=0)[0])
    env.action_space.seed(0)
    for _ in range(30):
        after, reward, *_ = env.step(env.action_space.sample())
        tolerance = np.array([0.01 / math.sqrt(2)] * 2 + [math.radians(5)])
        distance = [np.linalg.norm(seen[:, :3] / tolerance, axis=-1) for seen in (before, after)]
        assert np.allclose(reward, distance[0] - distance[1], atol=1e-3)  # nobody reaches a goal in so short a time
        before = np.array(after)
    assert np.abs(before[:, 5:]).max() == 0.0  # goals are the origin


def test_a_policy_is_kept_whole(tmp_path):
    actor = PushActor((16, 8))
    loaded = load_model(save_model(actor, tmp_path / "actor"))
    pose, pusher, goal = torch.rand(4, 3), torch.rand(4, 2), torch.rand(4, 3)
    assert torch.equal(actor(pose, pusher, goal, 0.1), loaded(pose, pusher, goal, 0.1))


def test_learning_gives_the_policy_that_was_learned(monkeypatch):
    pytest.importorskip("stable_baselines3")
    from structwm.demos import push_training

    agents, make = [], push_training.PPO
    monkeypatch.setattr(push_training, "PPO", lambda *args, **options: agents.append(make(*args, **options)) or agents[-1])
    shares = []
    learning = Learning(steps=2048, rollout=8, minibatch=512, widths=(32, 16))
    actor = push_training.learn_to_push(imagined_pushing(members(), TWIN, 128, PushEpisodes(steps=6)), learning, tell=lambda *told: shares.append(told))
    assert [steps for steps, _ in shares] == [1024, 2048]
    state = random_starts(Noise.from_seed(1, 20), TWIN, PushEpisodes())
    goal = torch.zeros(20, 3)
    command, _ = agents[0].predict(features(state.pose, state.pusher, goal).numpy(), deterministic=True)
    assert torch.allclose(world_velocity(state.pose, torch.tensor(command), 0.1), actor(state.pose, state.pusher, goal, 0.1), atol=1e-6)


def test_the_last_observation_of_an_episode_is_seen_from_the_slider_too():
    pytest.importorskip("stable_baselines3")
    from structwm.demos.push_training import SliderFrame
    from structwm.roles import as_sb3

    env = SliderFrame(as_sb3(imagined_pushing(members(), TWIN, 4, PushEpisodes(steps=2))), 0.1)
    first = env.reset()
    assert first.shape == (4, 10)
    for _ in range(2):
        now, _, done, infos = env.step(np.zeros((4, 2), np.float32))
    assert done.all() and all(info["TimeLimit.truncated"] for info in infos)
    assert all(np.allclose(info["terminal_observation"], before, atol=1e-6) for info, before in zip(infos, first, strict=True))  # nothing moved
    assert not np.allclose(now, first)  # and new episodes began


@pytest.mark.parametrize("engine", ["bullet", "mujoco"])
def test_a_policy_is_judged_in_an_engine(engine):
    """One that pushes straight on reaches a goal ahead of it, and not one behind."""
    pytest.importorskip("pybullet" if engine == "bullet" else "mujoco")
    from structwm.worlds import make

    worlds = [make(engine) for _ in range(2)]
    for world in worlds:
        place = functools.partial(world.reset, options={"object_pose": np.zeros(3), "pusher": np.array([-0.06, 0.0])})
        world.reset = lambda place=place, **options: place(seed=options["seed"])  # the pusher behind the slider
    goals = np.array([[0.03, 0.0, 0.0], [-0.03, 0.0, 0.0]])
    run = run_policy(worlds, np.zeros((2, 3)), goals, lambda pose, pusher, goal: torch.tensor([0.05, 0.0]).expand(2, 2), PushEpisodes(steps=30))
    assert run.reached.tolist() == [True, False] and run.steps[0] < 10 and run.steps[1] == 30
    assert run.position_error[0] <= 0.01 < run.position_error[1]
    for world in worlds:
        world.close()
