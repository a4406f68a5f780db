"""Episodes: what their steps mean, masks, cuts and windows, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structwm.data import BadData, CameraCalibration, ControllerTiming, Episode, EpisodeMetadata


def walk(steps: int = 5, *, discrete: bool = False, terminated: bool = False, **options: object) -> Episode:
    """An episode whose numbers say which step they belong to."""
    t = np.arange(steps)
    action = t[:-1] if discrete else np.stack([t[:-1], -t[:-1]], axis=-1).astype(np.float32)
    observation = {"pose": np.stack([t, 10.0 + t], axis=-1), "image": np.zeros((steps, 2, 2, 3), np.uint8) + t[:, None, None, None].astype(np.uint8)}
    values: dict[str, object] = {"reward": t[:-1] * 0.5, "dt": 0.1, "terminated": terminated, "name": "walk"} | options
    return Episode.from_steps(observation, action, **values)  # type: ignore[arg-type]


def test_steps_have_the_meaning_of_rlds() -> None:
    episode = walk(terminated=True)
    assert len(episode) == 5 and not episode.truncated and not episode.discrete
    assert episode.is_first.tolist() == [True, False, False, False, False]
    assert episode.is_last.tolist() == episode.is_terminal.tolist() == [False] * 4 + [True]
    np.testing.assert_array_equal(episode.discount[:4], [1, 1, 1, 0])
    np.testing.assert_allclose(episode.time, [0, 0.1, 0.2, 0.3, 0.4])
    assert walk().truncated and walk().is_last[-1] and walk().discount[3] == 1


@pytest.mark.parametrize("discrete", [False, True])
def test_the_last_action_is_masked_and_no_zero(discrete: bool) -> None:
    episode = walk(discrete=discrete)
    assert episode.action_valid.tolist() == [True] * 4 + [False]
    assert episode.discrete is discrete
    assert (episode.action[-1] == -1).all() if discrete else np.isnan(episode.action[-1]).all()
    assert np.isnan(episode.reward[-1]) and np.isnan(episode.discount[-1])


def test_transitions_pair_neighbouring_steps() -> None:
    episode = walk(terminated=True)
    moves = episode.transitions()
    np.testing.assert_array_equal(moves.observation["pose"][:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(moves.next_observation["pose"][:, 0], [1, 2, 3, 4])
    np.testing.assert_array_equal(moves.action[:, 0], [0, 1, 2, 3])
    np.testing.assert_allclose(moves.duration, 0.1)
    assert moves.next_is_terminal.tolist() == [False, False, False, True]
    assert np.isfinite(moves.reward).all() and np.isfinite(moves.action).all()


def test_a_masked_step_gives_no_transition() -> None:
    episode = walk()
    valid = episode.action_valid.copy()
    valid[1] = False
    action = episode.action.copy()
    action[1] = np.nan
    moves = dataclasses.replace(episode, action=action, action_valid=valid).transitions()
    np.testing.assert_array_equal(moves.action[:, 0], [0, 2, 3])


@given(st.integers(2, 9), st.data())
def test_a_cut_is_an_episode_with_the_same_transitions(steps: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, steps - 1))
    stop = data.draw(st.integers(start + 1, steps))
    episode = walk(steps, terminated=True)
    cut = episode[start:stop]
    checked = Episode(**{item.name: getattr(cut, item.name) for item in dataclasses.fields(Episode)})
    assert checked.truncated is (stop < steps)
    whole, part = episode.transitions(), cut.transitions()
    np.testing.assert_array_equal(part.action, whole.action[start : stop - 1])
    np.testing.assert_array_equal(part.next_observation["pose"], whole.next_observation["pose"][start : stop - 1])


@given(st.integers(1, 6), st.integers(-7, 7), st.integers(1, 9))
def test_windows_mask_what_lies_outside(steps: int, start: int, length: int) -> None:
    episode = walk(steps + 1)
    window = episode.window(start, length)
    wanted = np.arange(start, start + length)
    np.testing.assert_array_equal(window.step_valid, (wanted >= 0) & (wanted <= steps))
    np.testing.assert_array_equal(window.action_valid, (wanted >= 0) & (wanted < steps))
    np.testing.assert_array_equal(window.observation["pose"][window.step_valid][:, 0], wanted[window.step_valid])
    np.testing.assert_array_equal(window.action[window.action_valid][:, 0], wanted[window.action_valid])
    assert np.isnan(window.action[~window.action_valid]).all() and np.isnan(window.reward[~window.action_valid]).all()


def test_windows_tile_the_episode() -> None:
    assert [w.time[0] for w in walk(7).windows(3, stride=2)] == pytest.approx([0.0, 0.2, 0.4])
    padded = list(walk(4).windows(3, pad=True))
    assert [int(w.step_valid.sum()) for w in padded] == [3, 3, 2, 1]


def test_arrays_are_read_only_but_the_callers_stay_his() -> None:
    pose = np.zeros((3, 2))
    episode = Episode.from_steps({"pose": pose}, np.zeros((2, 1)), dt=1.0)
    with pytest.raises(ValueError, match="read-only"):
        episode.observation["pose"][0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        episode.time = pose  # type: ignore[misc]
    pose[0] = 1


def test_metadata_survives_json() -> None:
    camera = CameraCalibration(np.eye(3).tolist(), np.eye(4).tolist(), 640, 480)
    metadata = EpisodeMetadata(
        units={"action": "m/s"},
        frames={"action": "world"},
        embodiment="arm",
        cameras={"front": camera},
        timing=ControllerTiming(0.1, latency=0.05),
        may_be_nan=("action",),
    )
    assert EpisodeMetadata.from_json(metadata.to_json()) == metadata
    with pytest.raises(ValueError, match=r"intrinsics: expected a matrix \(3, 3\)"):
        CameraCalibration(np.eye(2).tolist(), np.eye(4).tolist(), 640, 480)


def faulty(**changes: object) -> dict[str, object]:
    episode = walk()
    return {item.name: getattr(episode, item.name) for item in dataclasses.fields(Episode)} | changes


NAN_POSE = np.full((5, 2), [0.0, np.nan])


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"reward": np.zeros(4)}, "reward", r"expected shape \(5,\).*got shape \(4,\)"),
        ({"action": np.zeros((4, 2))}, "action", "expected 5 rows"),
        ({"action": np.array(["left"] * 5)}, "action", "dtype <U4"),
        ({"action": np.zeros((5, 2), np.int64)}, "action", "floating point"),
        ({"action": np.array([0, -3, 0, 0, -1])}, "action", "got -3 at step 1"),
        ({"action": np.full((5, 2), np.nan)}, "action", "4 steps that are not, the first is step 0"),
        ({"observation": {"pose": NAN_POSE}}, "observation/pose", "expected finite values"),
        ({"time": np.array([0, 0.1, 0.1, 0.2, 0.3])}, "time", "0.1 s after 0.1 s at step 2"),
        ({"time": np.zeros(0)}, "time", "at least one step"),
        ({"is_first": np.zeros(5, bool)}, "is_first", "got False at step 0 of 5"),
        ({"is_last": np.array([0, 1, 0, 0, 1], bool)}, "is_last", "got True at step 1 of 5"),
        ({"is_terminal": np.array([0, 0, 1, 0, 0], bool)}, "is_terminal", "false before the last step"),
        ({"is_last": np.array([0, 0, 0, 0, 1])}, "is_last", "expected booleans"),
        ({"action_valid": np.ones(5, bool)}, "action_valid", "false at the last step"),
        ({"metadata": EpisodeMetadata(units={"observation/pos": "m"})}, "observation/pos", "metadata of the fields"),
    ],
)
def test_faults_are_named_by_episode_and_field(changes: dict[str, object], field: str, says: str) -> None:
    with pytest.raises(BadData, match=says) as caught:
        Episode(**faulty(**changes))  # type: ignore[arg-type]
    assert caught.value.record == "walk" and caught.value.field == field
    assert "walk" in str(caught.value) and f"field {field}" in str(caught.value)


def test_nan_may_be_declared() -> None:
    episode = Episode(**faulty(observation={"pose": NAN_POSE}, metadata=EpisodeMetadata(may_be_nan=("observation/pose",))))  # type: ignore[arg-type]
    assert np.isnan(episode.observation["pose"]).any()


def test_time_is_needed_once() -> None:
    with pytest.raises(BadData, match="got both or none; give one"):
        Episode.from_steps({"pose": np.zeros((3, 2))}, np.zeros((2, 1)))


def test_errors_cross_processes() -> None:
    error = BadData.at(file="f", record=3, field="x", expected="a", got="b", advice="c")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "f, record 3, field x: expected a, got b; c." and again.field == "x"
