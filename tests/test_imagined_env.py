"""Imagined environments: gymnasium's conventions, exact seeds, what ends episodes, members, goals, and stable-baselines3."""

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from structwm.demos.toys import CartPole, CartPoleState, Corridor, DoubleIntegrator, Maze, MazeState, NoisyIntegrator, Pendulum, PendulumState, RoomState
from structwm.ensemble import Ensemble
from structwm.noise import Noise
from structwm.planning import ActionCost, CoordinateGoal, CoordinateLimit
from structwm.roles import Goals, ImaginedEnv, as_env, as_sb3
from structwm.spec import Action
from structwm.wrappers import Residual
from tests.models import CASES

MODES = ("NextStep", "SameStep", "Disabled")


def poles(count=20):
    generator = torch.Generator().manual_seed(0)
    return CartPoleState(cart=0.1 * torch.randn(count, 2, generator=generator), pole=0.3 * torch.randn(count, 2, generator=generator), batch_size=[count])


def rooms(*numbers):
    return RoomState(room=torch.tensor(numbers), batch_size=[len(numbers)])


def origin():
    return MazeState(position=torch.zeros(1, 2), batch_size=[1])


def play(env, steps, *, seed=0, actions=0):
    """What an environment returns under random actions."""
    out = [env.reset(seed=seed)]
    env.action_space.seed(actions)
    for _ in range(steps):
        out.append(env.step(env.action_space.sample()))
    return out


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("springs", "rope")) and not name.endswith(("random member", ", mean"))])
def test_any_model_is_an_environment(name, mode):
    """Spaces, shapes and types hold for every model of the conformance suite, with the reward it predicts or a cost of its own."""
    make, states = CASES[name]
    model = make()
    start = states(5)
    start = start[:, 0] if model.spec.members > 1 else start
    objective = None if "reward" in model.spec.traits.predicts else CoordinateGoal({model.scene.coordinate_names(start)[0]: 0.0})
    env = ImaginedEnv(model, start, 6, objective=objective, max_steps=3, autoreset_mode=mode)
    for observation, *rest in play(env, 8):
        assert env.observation_space.contains(observation) and observation.dtype == np.float32
        if len(rest) > 1:
            reward, terminated, truncated, infos = rest
            assert reward.dtype == np.float64 and terminated.dtype == truncated.dtype == np.bool_
            assert all(part.shape == (6,) for part in (reward, terminated, truncated)) and np.isfinite(reward).all()
            assert all(f"_{key}" in infos and infos[f"_{key}"].dtype == np.bool_ for key in infos if not key.startswith("_"))


def test_gymnasiums_own_check_passes():
    check_env(as_env(ImaginedEnv(CartPole(), poles(), 1, autoreset_mode="Disabled")), skip_render_check=True)
    goals = Goals(("x", "y"), torch.tensor([[2.0, 0.0]]), tolerance=0.1)
    check_env(as_env(ImaginedEnv(Maze(), origin(), 1, goals=goals, autoreset_mode="Disabled")), skip_render_check=True)
    check_env(as_env(ImaginedEnv(Corridor(), rooms(0), 1, objective=CoordinateGoal({"room": 5.0}), autoreset_mode="Disabled")), skip_render_check=True)
    with pytest.raises(ValueError, match="needs ImaginedEnv"):
        as_env(ImaginedEnv(CartPole(), poles(), 2))


def test_steps_are_those_of_the_model_and_rewards_those_it_predicts():
    model = CartPole()
    env = ImaginedEnv(model, poles(), 8, continue_threshold=0.0)
    out = play(env, 5, seed=3)
    env.action_space.seed(0)
    pool = model.scene.coordinates(poles()).numpy()
    assert all((np.abs(pool - row).sum(1) < 1e-6).any() for row in out[0][0])
    for before, after in zip(out, out[1:]):
        x = torch.tensor(before[0])
        state = CartPoleState(cart=x[:, :2], pole=x[:, 2:], batch_size=[8])
        step = model.rollout(state, torch.tensor(env.action_space.sample())[:, None])
        assert np.allclose(model.scene.coordinates(step.states[:, -1]).numpy(), after[0], atol=1e-6)
        assert np.allclose(step.reward[:, 0].numpy(), after[1], atol=1e-6)


@pytest.mark.parametrize("mode", MODES[:2])
def test_episodes_depend_on_their_seed_alone(mode):
    """A noisy ensemble with random members: environment i of eight with seed s is environment 0 of one with seed s + i, over several episodes."""
    model = Ensemble([NoisyIntegrator(std=0.1), NoisyIntegrator(std=0.2), NoisyIntegrator(std=0.3)])
    start = CASES["double integrator"][1](50)

    def rollout(envs, seed, columns):
        env = ImaginedEnv(
            model, start, envs, objective=CoordinateGoal({"x": 0.0}), constraints=[CoordinateLimit("x", low=-1.0, high=1.0)], max_steps=7,
            propagation="random_member", autoreset_mode=mode,
        )  # fmt: skip
        generator = np.random.default_rng(1)
        seen = [env.reset(seed=seed)[0]]
        for _ in range(25):
            actions = generator.uniform(-1, 1, (8, 2)).astype(np.float32)[columns]
            seen.append(env.step(actions)[0])
        return np.stack(seen)

    together = rollout(8, 10, slice(None))
    assert np.array_equal(together, rollout(8, 10, slice(None)))
    assert not np.array_equal(together, rollout(8, 11, slice(None)))
    for i in (0, 5):
        assert np.array_equal(together[:, i], rollout(1, 10 + i, slice(i, i + 1))[:, 0])


def test_reset_without_seed_goes_on_and_with_it_begins_anew():
    env = ImaginedEnv(CartPole(), poles(200), 4)
    first, second = env.reset(seed=5)[0], env.reset()[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(first, env.reset(seed=5)[0]) and np.array_equal(second, env.reset()[0])
    assert np.array_equal(first, env.reset(seed=[5, 6, 7, 8])[0])
    unseeded = [ImaginedEnv(CartPole(), poles(200), 4).reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)
    with pytest.raises(ValueError, match="one seed for each of 4"):
        env.reset(seed=[1, 2])
    with pytest.raises(gymnasium.error.ResetNeeded):
        ImaginedEnv(CartPole(), poles(), 4).step(np.zeros((4, 1), np.float32))


def test_nothing_returned_changes_later_and_the_pool_stays():
    pool = poles()
    kept = pool.clone()
    for mode in MODES[:2]:
        env = ImaginedEnv(CartPole(), pool, 5, max_steps=4, autoreset_mode=mode)
        out = [env.reset(seed=0)]
        copies = [[np.array(out[0][0])]]
        for _ in range(10):
            out.append(env.step(env.action_space.sample()))
            copies.append([np.array(part) for part in out[-1][:4]])
            for part in out[-1][:4]:
                part.flags.writeable and part.fill(0)  # writing into what was given changes nothing in the environment
        again = ImaginedEnv(CartPole(), pool, 5, max_steps=4, autoreset_mode=mode)
        again.reset(seed=0)
    assert (pool.cart == kept.cart).all() and (pool.pole == kept.pole).all()
    env, other = (ImaginedEnv(CartPole(), pool, 5, max_steps=4) for _ in range(2))
    env.reset(seed=1), other.reset(seed=1)
    for _ in range(6):
        action = env.action_space.sample()
        first, second = env.step(action), other.step(action)
        kept_first = first[0].copy()
        first[0].fill(7.0)
        assert np.array_equal(second[0], kept_first)


def counting(mode, limit=3, envs=2):
    """Rooms walked to the right, one a step, truncated at a limit."""
    return ImaginedEnv(Corridor(20), rooms(0), envs, objective=CoordinateGoal({"room": 0.0}, stage=0.0), max_steps=limit, autoreset_mode=mode)


def test_next_step_resets_in_the_step_after_the_end():
    env = counting("NextStep")
    env.reset(seed=0)
    right = np.ones(2, np.int64)
    seen = [env.step(right) for _ in range(5)]
    assert [float(out[0][0, 0]) for out in seen] == [1.0, 2.0, 3.0, 0.0, 1.0]
    assert [bool(out[3][0]) for out in seen] == [False, False, True, False, False]
    assert [float(out[1][0]) for out in seen] == [-1.0, -4.0, -9.0, 0.0, -1.0]
    assert seen[3][4]["_violated"].tolist() == [False, False] and "final_obs" not in seen[2][4]
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_same_step_resets_at_once_and_keeps_the_last_observation():
    env = counting("SameStep")
    env.reset(seed=0)
    right = np.ones(2, np.int64)
    seen = [env.step(right) for _ in range(4)]
    assert [float(out[0][0, 0]) for out in seen] == [1.0, 2.0, 0.0, 1.0]
    end = seen[2]
    assert end[3].all() and end[1].tolist() == [-9.0, -9.0] and float(end[4]["final_obs"][0][0]) == 3.0 and end[4]["_final_obs"].all()
    assert end[4]["final_info"]["_violated"].all() and not end[4]["_violated"].any()
    assert "final_obs" not in seen[3][4]
    each = DictInfoToList(counting("SameStep"))
    each.reset(seed=0)
    infos = [each.step(right)[4] for _ in range(3)][-1]
    assert len(infos) == 2 and float(infos[1]["final_obs"][0]) == 3.0


def test_disabled_waits_for_a_masked_reset():
    env = counting("Disabled")
    env.reset(seed=0)
    env._steps[1] = -1  # the second one has a step more to go
    right = np.ones(2, np.int64)
    for _ in range(3):
        out = env.step(right)
    assert out[3].tolist() == [True, False]
    with pytest.raises(gymnasium.error.ResetNeeded, match="episode 0 has ended"):
        env.step(right)
    observation, _ = env.reset(options={"reset_mask": np.array([True, False])})
    assert observation[:, 0].tolist() == [0.0, 3.0]
    assert env.step(right)[0][:, 0].tolist() == [1.0, 4.0]
    with pytest.raises(ValueError, match="reset_mask is bool"):
        env.reset(options={"reset_mask": np.array([1, 0])})


def test_gymnasiums_vector_wrappers_count_episodes():
    env = RecordEpisodeStatistics(counting("NextStep", limit=5))
    env.reset(seed=0)
    lengths = []
    for _ in range(14):
        infos = env.step(np.ones(2, np.int64))[4]
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths == [5, 5, 5, 5]


def test_predicted_continuation_constraints_and_goals_end_episodes():
    fallen = CartPoleState(cart=torch.zeros(1, 2), pole=torch.tensor([[1.57, 3.0]]), batch_size=[1])
    env = ImaginedEnv(CartPole(), fallen, 3)
    env.reset(seed=0)
    assert env.step(np.zeros((3, 1), np.float32))[2].all()
    limit = ImaginedEnv(
        Maze(), origin(), 1, objective=ActionCost(), constraints=[CoordinateLimit("x", high=0.25)], violation_reward=-100.0, autoreset_mode="Disabled"
    )
    limit.reset(seed=0)
    out = [limit.step(np.array([[1.0, 0.0]], np.float32)) for _ in range(3)]
    assert [bool(o[2][0]) for o in out] == [False, False, True] and out[2][4]["violated"][0] and out[2][1][0] == pytest.approx(-101.0)
    goal = ImaginedEnv(Maze(), origin(), 1, goals=Goals(("x", "y"), torch.tensor([[0.5, 0.0]]), tolerance=0.21), autoreset_mode="Disabled")
    observation, _ = goal.reset(seed=0)
    assert observation.tolist() == [[0.0, 0.0, 0.5, 0.0]]
    out = [goal.step(np.array([[1.0, 0.0]], np.float32)) for _ in range(3)]
    assert [bool(o[2][0]) for o in out] == [False, False, True] and out[2][4]["is_success"][0]
    assert out[0][1][0] == pytest.approx(-0.4 / 0.21, rel=1e-3)


def test_continuation_by_chance_has_its_frequency():
    class Fickle(CartPole):
        def outcome(self, state, action, next_state):
            found = super().outcome(state, action, next_state)
            return type(found)(reward=found.reward, continue_probability=torch.full_like(found.reward, 0.9))

    env = ImaginedEnv(Fickle(), poles(), 2000, continue_threshold=None, autoreset_mode="SameStep")
    env.reset(seed=0)
    share = np.mean([env.step(np.zeros((2000, 1), np.float32))[2].mean() for _ in range(5)])
    assert abs(share - 0.1) < 3.5 * np.sqrt(0.1 * 0.9 / 10_000)


def test_progress_adds_up_to_the_fall_of_the_cost():
    """Without discount, rewards of an episode sum to the cost at its start minus that at its end, whatever the way; costs of actions cancel."""
    objective = CoordinateGoal({"x": 2.0, "y": 1.0}, root=True, stage=0.0) + 5.0 * ActionCost()
    env = ImaginedEnv(Maze(walls=((9.0, 9.0, 9.1, 9.1),)), origin(), 4, objective=objective, reward="progress")
    out = play(env, 20)
    total = sum(o[1] for o in out[1:])
    end = np.hypot(out[-1][0][:, 0] - 2.0, out[-1][0][:, 1] - 1.0)
    assert np.allclose(total, np.hypot(2.0, 1.0) - end, atol=1e-4)


def test_members_are_fixed_for_an_episode_random_by_step_or_averaged():
    """Masses that members drive to the right at 1, 2 and 3 times the action: which moved by how much is which member it was."""
    parts = [Residual(Maze(walls=((9.0, 9.0, 9.1, 9.1),)), lambda s, a, f, k=k: {"position": (k - 1) * 0.1 * a}) for k in (1, 2, 3)]
    model, push = Ensemble(parts), np.tile(np.array([[1.0, 0.0]], np.float32), (600, 1))

    def moves(propagation, steps=9):
        env = ImaginedEnv(model, origin(), 600, objective=ActionCost(), propagation=propagation, max_steps=4, autoreset_mode="SameStep")
        seen = [env.reset(seed=0)[0][:, 0]]
        found = []
        for _ in range(steps):
            observation, _, _, truncated, infos = env.step(push)
            end = np.where(truncated, [o[0] if o is not None else 0.0 for o in infos.get("final_obs", [None] * 600)], observation[:, 0])
            found.append(np.round((end - seen[-1]) / 0.1).astype(int))
            seen.append(observation[:, 0])
        return np.stack(found)

    fixed, random, mean = moves("fixed_member"), moves("random_member"), moves("mean")
    assert (fixed[:4] == fixed[0]).all() and (fixed[4:8] == fixed[4]).all() and not (fixed[4] == fixed[0]).all()
    for row in (fixed[0], fixed[4], random[0]):
        assert np.allclose(np.bincount(row, minlength=4)[1:] / 600, 1 / 3, atol=0.08)
    assert not (random[1] == random[0]).all() and (mean == 2).all()
    with pytest.raises(ValueError, match="make the Ensemble with fixed_member"):
        ImaginedEnv(Ensemble(parts, propagation="mean"), origin(), 2, objective=ActionCost())


def test_a_broken_prediction_cuts_the_episode_off():
    class Explodes(DoubleIntegrator):
        def step_fields(self, fields, action: Action, *, noise=None):
            following = super().step_fields(fields, action)
            return following | {"velocity": torch.where(fields["position"][..., :1] > 0.5, torch.nan, following["velocity"])}

    start = CASES["double integrator"][1](40)
    env = ImaginedEnv(Explodes(), start, 40, objective=CoordinateGoal({"x": 0.0, "vx": 0.0}), autoreset_mode="SameStep")
    for observation, *rest in play(env, 30):
        assert np.isfinite(observation).all()
        if len(rest) > 1 and "final_info" in rest[3]:
            assert np.isfinite(rest[0]).all() and rest[2][rest[3]["final_info"]["broken"]].all() and not rest[1].any()


def test_choices_that_do_not_apply_are_masked_in_the_infos():
    env = ImaginedEnv(Corridor(4), rooms(0), 2, objective=CoordinateGoal({"room": 3.0}), autoreset_mode="Disabled")
    observation, infos = env.reset(seed=0)
    assert infos["action_mask"].tolist() == [[0, 1, 1]] * 2 and env.single_action_space.sample(infos["action_mask"][0]) in (1, 2)
    observation, *_, infos = env.step(np.array([0, 2]))
    assert observation[:, 0].tolist() == [0.0, 3.0] and infos["action_mask"].tolist() == [[0, 1, 1], [1, 0, 0]]


def test_any_observation_and_start_may_be_given():
    def anywhere(noise: Noise):
        return PendulumState(
            angle=6 * noise.uniform((len(noise.seeds), 1)) - 3, rate=noise.child(1).normal((len(noise.seeds), 1)), batch_size=[len(noise.seeds)]
        )

    env = ImaginedEnv(
        Pendulum(), anywhere, 3, objective=CoordinateGoal({"angle": np.pi}), observe=lambda s: torch.cat((s.angle.sin(), s.angle.cos(), s.rate), -1)
    )
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3, 3) and np.allclose(np.hypot(observation[:, 0], observation[:, 1]), 1.0) and len(set(observation[:, 2])) == 3


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="DoubleIntegrator predicts no reward; give ImaginedEnv an objective or goals"):
        ImaginedEnv(DoubleIntegrator(), CASES["double integrator"][1](3), 2)
    with pytest.raises(ValueError, match=r"starts give CartPoleState of batch_size \(n,\), got RoomState"):
        ImaginedEnv(CartPole(), rooms(1), 2)
    with pytest.raises(ValueError, match="no coordinate 'z'"):
        ImaginedEnv(Maze(), origin(), 2, goals=Goals(("z",), torch.zeros(1, 1), tolerance=0.1))
    with pytest.raises(ValueError, match="knows the rewards"):
        ImaginedEnv(CartPole(), poles(), 2, reward="shaped")
    with pytest.raises(ValueError, match="needs goals"):
        ImaginedEnv(CartPole(), poles(), 2, objective=lambda goal: ActionCost())


def test_sb3_is_told_how_episodes_ended():
    pytest.importorskip("stable_baselines3")
    with pytest.raises(ValueError, match="autoreset_mode='SameStep'"):
        as_sb3(counting("NextStep"))
    vec = as_sb3(counting("SameStep"))
    vec.seed(0)
    assert vec.reset().tolist() == [[0.0], [0.0]] and vec.get_attr("max_steps") == [3, 3]
    for _ in range(3):
        observation, reward, done, infos = vec.step(np.ones(2, np.int64))
    assert done.all() and infos[0]["TimeLimit.truncated"] and infos[0]["terminal_observation"].tolist() == [3.0] and observation.tolist() == [[0.0], [0.0]]
    assert reward.dtype == np.float32 and infos[1]["broken"] == np.False_
    goals = ImaginedEnv(Maze(), origin(), 1, goals=Goals(("x",), torch.tensor([[0.2]]), tolerance=0.15), autoreset_mode="SameStep")
    vec = as_sb3(goals)
    vec.reset()
    _, _, done, infos = vec.step(np.array([[1.0, 0.0]], np.float32))
    assert done.all() and not infos[0]["TimeLimit.truncated"] and infos[0]["is_success"]


def test_sb3_learns_to_reach_goals_in_imagination():
    """PPO in a hundred imagined mazes without walls comes within 0.2 m of most goals, which a still policy does not."""
    sb3 = pytest.importorskip("stable_baselines3")
    goals = Goals(("x", "y"), torch.tensor([[0.8, 0.0], [0.0, 0.8], [-0.8, 0.0], [0.0, -0.8]]), tolerance=0.2)
    env = ImaginedEnv(Maze(walls=((9.0, 9.0, 9.1, 9.1),)), origin(), 64, goals=goals, reward="progress", max_steps=20, autoreset_mode="SameStep")
    vec = as_sb3(env)
    model = sb3.PPO("MlpPolicy", vec, n_steps=20, batch_size=320, n_epochs=5, learning_rate=2e-3, gamma=0.95, seed=0, device="cpu")
    model.learn(64 * 20 * 15)
    vec.seed(1)
    observation, reached, ended = vec.reset(), 0, 0
    for _ in range(20):
        observation, _, done, infos = vec.step(model.predict(observation, deterministic=True)[0])
        ended += int(done.sum())
        reached += sum(bool(info["is_success"]) for info, over in zip(infos, done, strict=True) if over)
    assert reached / ended > 0.8


def test_without_sb3_the_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("stable_baselines3", "structwm.roles.imagined_sb3"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ImportError, match=r"pip install structwm\[rl\]"):
        as_sb3(counting("SameStep"))
