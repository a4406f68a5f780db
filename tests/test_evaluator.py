"""The evaluator: what perfect models, still models and ensembles score, figures of it, and the command line from end to end."""

import json
import math

import numpy as np
import pytest
import torch

from structwm import Ensemble
from structwm.cli import main as command
from structwm.data.episode import Episode
from structwm.data.metadata import EpisodeMetadata
from structwm.data.store import EpisodeWriter
from structwm.demos.toys import DoubleIntegrator, Pendulum, PendulumState, PlanarState
from structwm.roles import compare, evaluate
from structwm.state import fields_of
from structwm.training import Batch, ConformalRegions, EpisodeWindows, open_loop_errors, save_model


class Still(DoubleIntegrator):
    """Predicts that nothing moves."""

    def step_fields(self, fields, action, *, noise=None):
        return {name: value.clone() for name, value in fields.items()}


class Turned(Pendulum):
    """Predicts one angle [rad], whatever happens."""

    def __init__(self, angle):
        super().__init__()
        self.angle = angle

    def step_fields(self, fields, action, *, noise=None):
        return {"angle": torch.full_like(fields["angle"], self.angle), "rate": fields["rate"]}


class Broken(DoubleIntegrator):
    """Predicts nonsense for windows that start on the right."""

    def step_fields(self, fields, action, *, noise=None):
        following = super().step_fields(fields, action)
        return following | {"velocity": torch.where(fields["position"][..., :1] > 0, torch.nan, following["velocity"])}


def planar(count=120, horizon=8, seed=0):
    """Windows of a double integrator."""
    random = torch.Generator().manual_seed(seed)
    start = PlanarState(position=torch.randn(count, 2, generator=random), velocity=0.1 * torch.randn(count, 2, generator=random), batch_size=[count])
    actions = torch.rand(count, horizon, 2, generator=random) * 2 - 1
    trajectory = DoubleIntegrator().rollout(start, actions)
    return Batch(trajectory.states, actions, trajectory.valid)


def pendulum(count=60, horizon=20, *, mass=1.0):
    random = torch.Generator().manual_seed(1)
    start = PendulumState(angle=6 * torch.rand(count, 1, generator=random) - 3, rate=torch.randn(count, 1, generator=random), batch_size=[count])
    actions = 4 * (2 * torch.rand(count, horizon, 1, generator=random) - 1)
    trajectory = Pendulum(mass=mass).rollout(start, actions)
    return Batch(trajectory.states, actions, trajectory.valid)


def test_perfect_model_scores_perfectly():
    found = evaluate(DoubleIntegrator(), planar())
    assert [quantity.name for quantity in found.quantities] == ["x", "y", "vx", "vy", "points"]
    for quantity in found.quantities:
        assert quantity.one_step_mean.value == quantity.standard_error == quantity.last.value == quantity.drift.value == 0.0
    assert found.relative.value == 0.0 and found.broken == 0.0
    assert found.ranking is not None and found.ranking.tau.value == 1.0 and found.ranking.regret.value == 0.0 and found.ranking.hit_rate.value == 1.0


def test_holding_still_is_what_errors_are_compared_with():
    windows = planar()
    found = evaluate(Still(), windows)
    assert found.relative.value == pytest.approx(1.0)
    for quantity in found.quantities:
        np.testing.assert_allclose(quantity.errors, quantity.still)
        np.testing.assert_allclose(quantity.one_step, quantity.one_step_still)
    assert found.quantities[-1].still[:, -1] == pytest.approx((windows.states.position[:, -1] - windows.states.position[:, 0]).norm(dim=-1).numpy())
    assert found.ranking is not None and math.isnan(found.ranking.tau.value)
    assert found.ranking.regret == found.ranking.random_regret and found.ranking.relative_regret.value == pytest.approx(1.0)


def test_drift_is_the_slope_of_the_error():
    """A model whose position moves 1 cm too far in each step drifts by that."""

    class Drifting(DoubleIntegrator):
        def step_fields(self, fields, action, *, noise=None):
            following = super().step_fields(fields, action)
            return following | {"position": following["position"] + torch.tensor([0.01, 0.0])}

    found = {quantity.name: quantity for quantity in evaluate(Drifting(), planar()).quantities}
    assert found["x"].drift.value == pytest.approx(0.01, rel=1e-3) and found["y"].drift.value == 0.0
    assert found["points"].drift.value == pytest.approx(0.01, rel=1e-3)
    assert found["x"].one_step_mean.value == pytest.approx(0.01, rel=1e-3) and found["x"].last.value == pytest.approx(0.08, rel=1e-3)
    assert math.isnan(evaluate(Drifting(), planar(horizon=1)).quantities[0].drift.value)


def test_predictions_that_break_do_not_pass_for_unobserved():
    found = evaluate(Broken(), planar())
    assert 0.1 < found.broken < 0.9 and math.isinf(found.relative.value) and math.isinf(found.quantities[0].last.value)
    assert found.to_json()["relative_error"]["value"] is None and "not finite" in str([row.label for row in found.rows()])
    assert found.ranking is not None and found.ranking.regret.value > 0.0


def test_unobserved_and_invalid_states_are_left_out():
    windows = planar(40)
    whole = evaluate(Still(), windows, goals=10)
    position, valid = windows.states.position.clone(), windows.valid.clone()
    position[:, 3], valid[:20, 6:] = torch.nan, False
    velocity = windows.states.velocity
    part = evaluate(Still(), Batch(PlanarState(position=position, velocity=velocity, batch_size=[40, 9]), windows.actions, valid), goals=10)
    x, before = part.quantities[0], whole.quantities[0]
    assert np.isnan(x.errors).sum() == 40 + 20 * 3
    assert x.curve()["mean"][0] == before.curve()["mean"][0] and np.isnan(x.curve()["mean"][2])
    known = ~np.isnan(x.errors)
    np.testing.assert_array_equal(x.errors[known], before.errors[known])
    assert (~np.isnan(x.one_step)).sum() == 20 * (8 - 2) + 20 * (5 - 2)  # neither to nor from what was not seen
    assert part.broken == 0.0


def test_windows_without_a_start_or_anything_after_it_are_left_out():
    """The figures are those of the other windows, also where the batches fall elsewhere."""
    windows, hidden = planar(40), torch.tensor([0, 1, 2, 7, 30])
    position, velocity = windows.states.position.clone(), windows.states.velocity.clone()
    position[hidden[:3], 0, 0] = torch.nan  # in part
    position[7, 0], velocity[7, 0] = torch.nan, torch.nan
    position[30, 1:], velocity[30, 1:] = torch.nan, torch.nan
    spoilt = Batch(PlanarState(position=position, velocity=velocity, batch_size=[40, 9]), windows.actions, windows.valid)
    rest = [index for index in range(40) if index not in hidden]
    groups = ["a" if index < 20 else "b" for index in range(40)]
    for size in (3, 1000):
        found = evaluate(Still(), spoilt, groups=groups, goals=10, batch=size)
        clean = evaluate(Still(), windows[rest], groups=[groups[index] for index in rest], goals=10)
        assert (found.windows, found.left_out) == (35, 5) and (clean.windows, clean.left_out) == (35, 0) and found.broken == 0.0
        assert found.to_json() == clean.to_json() | {"left_out": 5}
        assert "(5 unobserved ones left out)" in found.table().title and "left out" not in clean.table().title


@pytest.mark.parametrize("first", [0, 1])
def test_windows_of_which_nothing_can_be_judged_are_refused(first):
    windows = planar(6)
    unseen = {name: value.clone() for name, value in fields_of(windows.states).items()}
    for value in unseen.values():
        value[:, first:] = torch.nan
    with pytest.raises(ValueError, match="start was fully observed and something after it, got 6 others"):
        evaluate(DoubleIntegrator(), Batch(PlanarState(**unseen, batch_size=[6, 9]), windows.actions, windows.valid))


def test_what_is_seen_in_part_only_is_judged_but_not_ranked():
    windows = planar(6)
    position = windows.states.position.clone()
    position[:, 1:] = torch.nan
    found = evaluate(Still(), Batch(PlanarState(position=position, velocity=windows.states.velocity, batch_size=[6, 9]), windows.actions, windows.valid))
    assert found.ranking is None and found.windows == 6 and found.relative.value == pytest.approx(1.0)
    assert math.isnan(found.quantities[0].last.value) and found.quantities[2].last.value > 0.0


def test_every_rollout_is_computed_once():
    """16 windows of 8 steps are rolled out freely and step by step: 2 * 16 * 8 steps."""

    class Counting(DoubleIntegrator):
        steps = 0

        def step_fields(self, fields, action, *, noise=None):
            self.steps += fields["position"][..., 0].numel()
            return super().step_fields(fields, action)

    model = Counting()
    evaluate(model, planar(16), batch=5)
    assert model.steps == 256


def test_standard_error_takes_windows_as_units():
    """Steps that repeat each other do not make a mean surer."""
    quantity = evaluate(Still(), planar()).quantities[2]
    twice = type(quantity)(
        *("vx", "m/s"), np.tile(quantity.one_step, 2), np.tile(quantity.one_step_still, 2), np.tile(quantity.window, 2), quantity.errors, quantity.still
    )
    assert twice.standard_error == pytest.approx(quantity.standard_error)
    by_window = [quantity.one_step[quantity.window == index].mean() for index in range(120)]
    assert quantity.standard_error == pytest.approx(np.std(by_window, ddof=1) / math.sqrt(120), rel=1e-6)


def test_members_cover_what_is_drawn_like_them():
    """Pendulums whose masses are drawn as the members' are: central intervals hold their level, within three standard errors of 400 pendulums."""
    random = np.random.default_rng(0)
    members = Ensemble([Pendulum(mass=float(mass)) for mass in random.uniform(0.8, 1.2, 39)])
    start = PendulumState(angle=torch.full((400, 1), 0.5), rate=torch.zeros(400, 1), batch_size=[400])
    actions = torch.full((400, 6, 1), 2.0)
    states = torch.cat([Pendulum(mass=float(mass)).rollout(start[:1], actions[:1]).states for mass in np.linspace(0.8, 1.2, 400)])
    windows = Batch(states, actions, torch.ones(400, 7, dtype=torch.bool))
    (coverage,) = evaluate(members, windows, goals=5).coverage
    assert coverage.source == "members" and coverage.levels == (0.5, 0.7, 0.8, 0.9, 0.95) and coverage.share.shape == (5, 6, 2)
    exact = [np.quantile([m.mass for m in members.members], [(1 - level) / 2, (1 + level) / 2], method="weibull") for level in coverage.levels]
    for share, (low, high) in zip(coverage.overall, exact, strict=True):
        assert share.value == pytest.approx((high - low) / 0.4, abs=0.02)  # effect is monotone in mass, so the share is that of the masses
    few = evaluate(Ensemble([Pendulum(mass=m) for m in (0.8, 1.0, 1.2)]), windows, goals=5)
    assert few.coverage[0].levels == (0.5,)  # three members cannot show more


@pytest.mark.parametrize("centre", [0.0, 2.0, math.pi])
def test_members_cover_angles_on_their_side_of_the_circle_only(centre):
    """Nine members within 0.2 rad of a centre hold what lies between them, wherever on the circle, and not what lies opposite, however near to half a turn."""
    members = Ensemble([Turned(centre + turn) for turn in np.linspace(-0.2, 0.2, 9).tolist()])
    for away, inside in ((0.01, 1.0), (-0.01 - 2 * math.pi, 1.0), (0.3, 0.0), (math.pi, 0.0), (math.pi - 0.05, 0.0), (-math.pi + 0.05, 0.0)):
        angle = torch.full((4, 3, 1), centre + away)
        angle[:, 0] = centre + 1.0
        windows = Batch(PendulumState(angle=angle, rate=torch.zeros(4, 3, 1), batch_size=[4, 3]), torch.zeros(4, 2, 1), torch.ones(4, 3, dtype=torch.bool))
        (coverage,) = evaluate(members, windows, coordinates=("angle",), levels=(0.5, 0.8)).coverage
        assert (coverage.share == inside).all(), away


def test_regions_that_know_groups_are_told_them():
    """Two objects of which one moves ten times as far: regions fitted with groups hold 90 % of both together, to four standard errors of 799 windows."""

    def windows(seed):
        found = planar(800, 3, seed)
        for value in fields_of(found.states).values():
            change = 0.1 * torch.randn(value[:, 1:].shape, generator=torch.Generator().manual_seed(seed + 10))
            change[::2] *= 10
            value[:, 1:] = value[:, :1] + change
        return found

    groups, fitted, new = ["far", "near"] * 400, windows(1), windows(2)
    new.states.position[0, 0] = torch.nan  # left out, and its label with it
    regions = ConformalRegions.fit(open_loop_errors(Still(), fitted).errors, groups=groups)
    (coverage,) = evaluate(Still(), new, groups=groups, regions=regions, goals=5).coverage
    inside = regions.coverage(open_loop_errors(Still(), new[1:]).errors, groups=groups[1:])
    np.testing.assert_allclose(coverage.share[0, :, 0], inside.rate.numpy())
    assert coverage.overall[0].value == pytest.approx(0.9, abs=0.042)


def test_regions_are_judged_at_their_level():
    class Box:
        """All errors up to a size."""

        def __init__(self, level, size):
            self.level, self.size = level, size

        def contains(self, errors, spread=None):
            return (errors.abs() <= self.size).all(-1)

    found = evaluate(Still(), planar(), regions=[Box(0.9, 1e9), Box(0.5, 0.0)], goals=5)
    (coverage,) = found.coverage
    assert coverage.levels == (0.5, 0.9) and [share.value for share in coverage.overall] == [0.0, 1.0] and coverage.names == ("all coordinates",)
    grouped = evaluate(Still(), planar(), regions=Box(0.9, 1e9), groups=["a"] * 120, goals=5)  # of which such regions know nothing
    assert grouped.coverage[0].share.shape == (1, 8, 1)


def test_candidates_are_of_the_goals_group_and_angles_wrap():
    windows = pendulum()
    groups = ["a", "b"] * 30
    found = evaluate(Pendulum(mass=1.1), windows, groups=groups, candidates=50)
    assert found.ranking is not None and found.ranking.candidates == 29 and found.ranking.tau.value > 0.8
    turned = fields_of(windows.states)
    turned["angle"] = turned["angle"] + 2 * math.pi * torch.arange(21).reshape(1, 21, 1)  # whole turns change nothing
    again = evaluate(Pendulum(mass=1.1), Batch(PendulumState(**turned, batch_size=[60, 21]), windows.actions, windows.valid), groups=groups, candidates=50)
    assert again.ranking is not None and again.ranking.tau.value == pytest.approx(found.ranking.tau.value, abs=1e-3)
    with pytest.raises(ValueError, match="a group for each of the 60"):
        evaluate(Pendulum(), windows, groups=["a"])
    assert evaluate(Pendulum(), windows[:2]).ranking is None


def test_outcome_says_what_counts():
    windows = planar()
    found = evaluate(Still(), windows, outcome=lambda last, start: last.position - start.position, cost_unit="m")
    ends = (windows.states.position[:, -1] - windows.states.position[:, 0]).numpy()
    spacing = np.linalg.norm(ends[:, None] - ends, axis=-1)
    assert found.ranking is not None and found.cost_unit == "m"
    assert found.ranking.oracle_cost.value + found.ranking.random_regret.value == pytest.approx(spacing.sum() / (120 * 119), rel=0.1)


def test_coordinates_that_do_not_count_are_left_out():
    """One model is wrong in x and vx only; whoever asks for the others does not see it."""

    class Sideways(DoubleIntegrator):
        def step_fields(self, fields, action, *, noise=None):
            return super().step_fields(fields, action * torch.tensor([0.0, 1.0]))

    whole, part = (evaluate(Sideways(), planar(), coordinates=names) for names in ((), ("y", "vy")))
    assert [quantity.name for quantity in part.quantities] == ["y", "vy", "points"]
    assert part.relative.value == 0.0 < whole.relative.value
    assert part.ranking.tau.value == 1.0 > whole.ranking.tau.value
    with pytest.raises(ValueError, match="no coordinate 'z'; it has x, y, vx, vy"):
        evaluate(Sideways(), planar(), coordinates=("z",))


def test_models_are_compared_on_equal_terms_and_left_as_they_were():
    models = {"still": Still(), "exact": DoubleIntegrator()}
    models["still"].train()
    found = compare(models, planar(40))
    assert models["still"].training
    regrets = [evaluation.ranking.random_regret for evaluation in found.evaluations.values()]
    assert regrets[0] == regrets[1]
    table = found.table()
    assert [column.header for column in table.columns][2:4] == ["still", "exact"] and table.row_count == len(found.evaluations["exact"].rows())
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["still"]["ranking"]["tau"]["value"] is None
    with pytest.raises(ValueError, match="at least one model"):
        compare({}, planar(4))


def test_parts_of_the_windows_make_the_whole():
    one, many = (evaluate(Pendulum(mass=1.2), pendulum(), batch=size, goals=20) for size in (1000, 7))
    ours, theirs = (json.dumps(found.to_json()) for found in (one, many))
    assert json.loads(ours)["ranking"] == json.loads(theirs)["ranking"]
    np.testing.assert_allclose(one.quantities[0].errors, many.quantities[0].errors, atol=1e-6)
    assert sorted(set(many.quantities[0].window.tolist())) == list(range(60))


def test_figures_are_drawn():
    pytest.importorskip("matplotlib")
    from structwm.report.evaluation import draw_evaluation
    from structwm.report.training import draw_training

    members = Ensemble([Pendulum(mass=m) for m in np.linspace(0.8, 1.2, 9).tolist()])
    found = compare({"one": Pendulum(mass=1.2), "many": members}, pendulum(), goals=20)
    images = draw_evaluation(found.evaluations)
    assert images.keys() == {"open_loop", "one_step", "ranking", "reliability"} and all(image.startswith(b"\x89PNG") for image in images.values())
    assert draw_evaluation({"none": evaluate(Broken(), planar(2, 1))}).keys() == {"open_loop", "one_step"}
    lines = [{"step": 100 * k, "loss": math.nan if k == 0 else 1 / k, "held_out": 1 / (1 + k), "horizon": k} for k in range(6)]
    for k, line in enumerate(lines):
        line |= {f"error/x/{h}": h / (1 + k) for h in range(1, 5)} | ({f"still/x/{h}": 2.0 * h for h in range(1, 5)} if k == 0 else {})
    drawn = draw_training(lines, units={"x": "m"})
    assert drawn.keys() == {"progress", "open_loop"} and all(image.startswith(b"\x89PNG") for image in drawn.values())
    assert draw_training([]) == {} and draw_training([{"step": 0, "loss": 1.0}]).keys() == {"progress"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with episodes of two pendulums whose angle is called theta, and saved models."""
    tmp_path = tmp_path_factory.mktemp("recorded")
    with EpisodeWriter(tmp_path / "episodes") as writer:
        for mass in (1.0, 1.3):
            windows, metadata = pendulum(6, 30, mass=mass), EpisodeMetadata(embodiment=f"{mass} kg")
            for states, actions in zip(windows.states, windows.actions, strict=True):
                observation = {"theta": states.angle.numpy(), "rate": states.rate.numpy()}
                writer.append(Episode.from_steps(observation, actions.numpy(), dt=0.05, metadata=metadata))
    for name, model in {
        "exact": Pendulum(),
        "heavy": Pendulum(mass=1.3),
        "slow": Pendulum(dt=0.1),
        "weak": Pendulum(torque=1.0),
        "cart": DoubleIntegrator(),
    }.items():
        save_model(model, tmp_path / name)
    return tmp_path


def test_command_line_end_to_end(recorded, capsys):
    pytest.importorskip("matplotlib")
    fields = ("--fields", "angle=theta")
    out = recorded / "out"
    command(
        ["evaluate", str(recorded / "exact"), str(recorded / "episodes"), *fields, "--horizon", "10", "--against", str(recorded / "heavy"), "--out", str(out)]
    )
    shown = capsys.readouterr().out
    assert "exact" in shown and "heavy" in shown and "Kendall" in shown
    content = json.loads((out / "evaluation.json").read_text())
    assert content["models"].keys() == {"exact", "heavy"} and content["models"]["exact"]["windows"] == 2 * 6 * 3
    assert content["models"]["exact"]["ranking"]["candidates"] == 6 * 3 - 1  # of one pendulum, as metadata tells them apart
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "open_loop.png", "one_step.png", "ranking.png"}


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("absent", [], "There is no model"),
        ("exact", [], "needs the observation 'angle'"),
        ("exact", ["--fields", "angle=theta", "--horizon", "31"], "the longest of 12 has 30"),
        ("exact", ["--fields", "tilt=theta"], "has no field 'tilt'; it has angle, rate"),
        ("slow", ["--fields", "angle=theta"], "predicts steps of 0.1 s, the episodes' steps take 0.05 s"),
        ("cart", ["--fields", "angle=theta"], "takes actions of 2 numbers"),
        ("weak", ["--fields", "angle=theta"], "takes torque from -1 to 1"),
        ("exact", ["--fields", "angle=theta", "--against", "exact"], "a model twice"),
        ("exact", ["--fields", "angle=theta", "--coordinates", "tilt"], "no coordinate 'tilt'"),
    ],
)
def test_command_line_refuses_in_a_sentence(model, options, sentence, recorded, capsys, monkeypatch):
    monkeypatch.chdir(recorded)
    with pytest.raises(SystemExit) as stop:
        command(["evaluate", model, "episodes", *options])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and sentence in error and "Traceback" not in error and error.count("\n") == 1


def test_command_line_refuses_episodes_that_are_not_there(recorded, capsys):
    with pytest.raises(SystemExit):
        command(["evaluate", str(recorded / "exact"), str(recorded / "nothing")])
    assert "expected episodes in" in capsys.readouterr().err


def test_uneven_steps_are_warned_of():
    from structwm.demos.evaluating import fits

    at = np.array([0.0, 0.05, 0.1, 0.18, 0.23])
    episode = Episode.from_steps({"angle": np.zeros((5, 1)), "rate": np.zeros((5, 1))}, np.zeros((4, 1)), time=at)
    (warning,) = fits(Pendulum(), [episode], "pendulum")
    assert "25 % of the recorded steps" in warning


def test_windows_on_disk_are_evaluated_like_those_in_memory(recorded):
    from structwm.data.store import EpisodeSet

    windows = EpisodeWindows(EpisodeSet(recorded / "episodes"), PendulumState, horizon=10, stride=10, fields={"angle": "theta"})
    lazy, whole = evaluate(Pendulum(), windows, batch=5), evaluate(Pendulum(), windows.all())
    assert lazy.windows == whole.windows == 36 and lazy.ranking.regret.value == pytest.approx(whole.ranking.regret.value, abs=1e-6)
