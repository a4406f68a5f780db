import numpy as np
import pytest
import torch
from torch import Tensor

from structwm import ActionSpec, Noise
from structwm.data import Episode
from structwm.demos.toys import Pendulum, PendulumState, PlanarState
from structwm.training import Batch, EpisodeWindows, Statistics, open_loop_errors
from structwm.training.windows import select

from .pendulums import swings


def episode(steps: int, first: float = 0.0) -> Episode:
    count = np.arange(steps, dtype=np.float64)[:, None] + first
    return Episode.from_steps({"angle": count, "speed": 10 * count}, 0.1 * count[:-1], dt=0.05)


def windows(episodes: list[Episode], horizon: int, **options: object) -> EpisodeWindows:
    return EpisodeWindows(episodes, PendulumState, horizon=horizon, fields={"rate": "speed"}, **options)


def test_windows_hold_what_the_episodes_hold() -> None:
    batch = windows([episode(6), episode(5, 100.0)], 3).all()
    assert len(batch) == 3 + 2 and batch.horizon == 3
    assert batch.states.angle[:, 0, 0].tolist() == [0, 1, 2, 100, 101]
    torch.testing.assert_close(batch.states.rate, 10 * batch.states.angle)
    torch.testing.assert_close(batch.actions, 0.1 * batch.states.angle[:, :-1])
    assert bool(batch.valid.all())


def test_short_windows_are_masked_and_never_act_with_zeros() -> None:
    batch = windows([episode(4, 1.0)], 3, short=True).all()
    assert batch.valid.tolist() == [[True] * 4, [True, True, True, False], [True, True, False, False]]
    assert batch.actions[-1, :, 0].tolist() == pytest.approx([0.3, 0.3, 0.3])  # the last action taken is held


def test_windows_read_lazily_give_the_rows_asked_for() -> None:
    lazy = windows([episode(30), episode(20, 50.0)], 4, stride=3)
    everything = lazy.all()
    for rows in ([3], [5, 0, 2], np.int64(3)):
        torch.testing.assert_close(lazy[rows].states.angle, everything[rows].states.angle)
    for rows in ([3], [5, 0, 2]):
        torch.testing.assert_close(lazy.__getitems__(rows).states.angle, everything[rows].states.angle)
    torch.testing.assert_close(lazy[2:5].states.angle, everything[2:5].states.angle)
    torch.testing.assert_close(select(lazy, [4, 4, 1]).__getitems__([0, 2]).states.angle, everything[[4, 1]].states.angle)


def test_actions_can_be_converted_with_the_time_they_took() -> None:
    batch = windows([episode(4, 1.0)], 2, action=lambda action, seconds: action / seconds.unsqueeze(-1)).all()
    assert batch.actions[0, :, 0].tolist() == pytest.approx([0.1 / 0.05, 0.2 / 0.05])


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="No episode holds a window of 9 steps; the longest of 1 has 5"):
        windows([episode(6)], 9)
    with pytest.raises(ValueError, match="PlanarState needs the observation 'position', episode 0 has angle, speed"):
        EpisodeWindows([episode(6)], PlanarState, horizon=2)
    other = Episode.from_steps({"angle": np.zeros((6, 1))}, np.zeros((5, 1)), dt=0.05)
    with pytest.raises(ValueError, match="PendulumState needs the observation 'speed', episode 1 has angle"):
        windows([episode(6), other], 2)
    with pytest.raises(ValueError, match="PendulumState has no field 'velocity'"):
        EpisodeWindows([episode(6)], PendulumState, horizon=2, fields={"velocity": "speed"})
    with pytest.raises(ValueError, match="Batch needs states"):
        Batch(swings(2, 3, seed=0).states, torch.zeros(2, 4, 1), torch.ones(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_segments_cut_windows_without_losing_a_step(length: int) -> None:
    batch = swings(4, 5, seed=0)
    parts = batch.segments(length)
    steps = parts.valid[:, 1:].sum()
    assert int(steps) == 4 * 5
    assert bool(parts.observed()[:, 0].all())


def test_segments_begin_and_end_where_something_was_observed() -> None:
    batch = swings(2, 4, seed=0)
    batch.states.angle[:, 1:4] = torch.nan
    batch.states.rate[:, 1:4] = torch.nan
    assert len(batch.segments(2)) == 0
    assert len(batch.segments(4)) == 2
    batch.states.rate[1, 0] = torch.nan
    assert len(batch.segments(4)) == 1


class Still(Pendulum):
    def step_fields(self, fields: dict[str, Tensor], action: Tensor, *, noise: Noise | None = None) -> dict[str, Tensor]:
        return fields


def test_errors_of_the_truth_are_zero_and_of_holding_still_relative_one() -> None:
    batch = swings(16, 8, seed=0)
    errors = open_loop_errors(Pendulum(), batch, batch=5)
    assert float(errors.errors.abs().max()) < 1e-5
    assert float(open_loop_errors(Still(), batch).relative().mean()) == pytest.approx(1.0, rel=1e-5)


class Explodes(Pendulum):
    def step_fields(self, fields: dict[str, Tensor], action: Tensor, *, noise: Noise | None = None) -> dict[str, Tensor]:
        return {name: torch.full_like(value, size) for (name, value), size in zip(fields.items(), (torch.inf, torch.nan), strict=True)}


def test_predictions_that_are_no_numbers_have_infinite_errors() -> None:
    assert bool(open_loop_errors(Explodes(), swings(4, 3, seed=0)).errors.isinf().all())


def test_what_was_not_observed_counts_nothing() -> None:
    batch = swings(6, 5, seed=0)
    batch.states.angle[:, 2:5] = torch.nan
    errors = open_loop_errors(Pendulum(length=1.3), batch)
    assert errors.errors[:, 1:4, 0].isnan().all() and errors.errors[:, 4, 0].isfinite().all()
    assert errors.curve()["angle"].isnan().tolist() == [False, True, True, True, False]
    assert bool(errors.relative().isfinite().all())


def test_angles_are_compared_on_the_circle() -> None:
    batch = swings(4, 3, seed=0)
    turned = Batch(batch.states.replace(angle=batch.states.angle + 2 * torch.pi), batch.actions, batch.valid)
    shifted = Batch(torch.cat([batch.states[:, :1], turned.states[:, 1:]], 1), batch.actions, batch.valid)
    assert float(open_loop_errors(Pendulum(), shifted).errors.abs().max()) < 1e-5


def test_statistics_normalise_a_model() -> None:
    """The pendulum in normalised units, made by normalising and undoing it, behaves in physical units as it did before."""
    batch = swings(64, 5, seed=0)
    batch.states.rate[::2, 3] = torch.nan
    statistics = Statistics.of(batch, angles=("angle",))
    known = batch.observed()
    torch.testing.assert_close(statistics.mean["rate"], batch.states.rate[known].mean(0))
    torch.testing.assert_close(statistics.std["angle"], batch.states.angle[known].std(0, unbiased=False))
    assert float(statistics.change["angle"]) < float(statistics.std["angle"])

    class Unit(Pendulum):
        """The same pendulum, whose states and actions are numbers of spread one."""

        def step_fields(self, fields, action, *, noise=None):
            physical = {name: value * statistics.std[name] + statistics.mean[name] for name, value in fields.items()}
            following = super().step_fields(physical, action * statistics.action_std + statistics.action_mean)
            return {name: (value - statistics.mean[name]) / statistics.std[name] for name, value in following.items()}

    model = statistics.normalise(Unit(), ActionSpec.box(-5.0, 5.0, 1))
    assert float(open_loop_errors(model, swings(8, 5, seed=2)).errors.abs().max()) < 1e-4
    with pytest.raises(ValueError, match="fully observed"):
        Statistics.of(Batch(batch.states * torch.nan, batch.actions, batch.valid))


def test_a_prediction_that_is_no_number_is_infinitely_wrong() -> None:
    class Broken(Pendulum):
        def step_fields(self, fields, action, *, noise=None):
            following = super().step_fields(fields, action)
            return {name: torch.where(value > 1.0, torch.nan, value) for name, value in following.items()}

    errors = open_loop_errors(Broken(), swings(32, 4, seed=0))
    assert bool(errors.relative().isinf().any()) and not bool(errors.relative().isnan().any())


def test_inherited_fields_are_read_too() -> None:
    class Weighted(PendulumState):
        mass: torch.Tensor

    one = Episode.from_steps({"angle": np.ones((4, 1)), "rate": np.ones((4, 1)), "mass": np.full((4, 1), 2.0)}, np.ones((3, 1)), dt=0.1)
    states = EpisodeWindows([one], Weighted, horizon=2).all().states
    assert states.mass[0, 0].item() == 2.0 and states.angle.shape == (2, 3, 1)
