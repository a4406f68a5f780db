"""Recorded runs from files and stores: what is read, how it comes to a twin's steps, and what is refused in one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from structwm.data.episode import Episode
from structwm.data.errors import BadData
from structwm.data.metadata import EpisodeMetadata
from structwm.data.store import EpisodeWriter
from structwm.geometry import rotation_vector_to_quaternion
from structwm.physics.recorded_runs import read_runs
from structwm.physics.rigid_runs import RigidRun
from structwm.physics.rigid_scene import POSE_NAMES, TWIST_NAMES
from structwm.physics.rigid_world import Actuator, Body, BoxShape, CapsuleShape, Fixture, Geometry, Joint, PlaneShape, RigidWorld
from structwm.physics.timed_runs import TimedRun, at_steps, typical_step

BOX = Geometry(BoxShape((0.05, 0.05, 0.05)))
CUBE = RigidWorld((Body("cube", 0.4, 0.0008, (BOX,)),))
ROD = Body("rod", 0.2, 0.001, (Geometry(CapsuleShape(0.01, 0.1)),), com=(0.0, 0.0, -0.1), joint=Joint("hinge", axis=(0.0, 1.0, 0.0), low=-3.0, high=3.0))
BOTH = RigidWorld((Body("cube", 0.4, 0.0008, (BOX,)), ROD), actuators=(Actuator("rod", "effort", -1.0, 1.0, name="motor"),))


def motion(times: np.ndarray) -> dict[str, np.ndarray]:
    """A cube that falls and turns about z at 2 rad/s, a rod that swings, and a torque."""
    turn = rotation_vector_to_quaternion(torch.tensor(times)[:, None] * torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)).numpy()
    pose = np.c_[0.3 * times, 0 * times, 1.0 - 0.5 * times, turn]
    columns = {f"cube.{label}": pose[:, k] for k, label in enumerate(("x", "y", "z", "qw", "qx", "qy", "qz"))}
    twist = np.tile([0.3, 0.0, -0.5, 0.0, 0.0, 2.0], (len(times), 1))
    columns |= {f"cube.{label}": twist[:, k] for k, label in enumerate(("vx", "vy", "vz", "wx", "wy", "wz"))}
    return {"time": times, **columns, "rod.angle": 0.5 * times, "rod.rate": np.full(len(times), 0.5), "motor": times.copy()}


def write_csv(file: Path, columns: dict[str, Any]) -> Path:
    rows = zip(*columns.values(), strict=True)
    file.write_text("\n".join([",".join(columns), *(",".join("" if isinstance(c, float) and math.isnan(c) else str(c) for c in row) for row in rows)]) + "\n")
    return file


def without(columns: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values for name, values in columns.items() if name not in names}


TIMES = 0.01 * np.arange(8)


def test_csv_npz_and_episodes_say_the_same(tmp_path: Path) -> None:
    columns = motion(TIMES)
    np.savez(tmp_path / "run.npz", **columns)
    pose, twist = (np.stack([columns[f"cube.{label}"] for label in labels], 1) for labels in (POSE_NAMES, TWIST_NAMES))
    grouped = {"cube.pose": pose, "cube.twist": twist, "rod.angle": columns["rod.angle"], "rod.rate": columns["rod.rate"], "time": TIMES}
    np.savez(tmp_path / "grouped.npz", action=columns["motor"][:-1, None], **grouped)
    episode = Episode.from_steps(
        {
            "cube/pose": pose,
            "cube/twist": twist,
            "rod/angle": columns["rod.angle"][:, None],
            "rod/rate": columns["rod.rate"],
            "camera/rgb": np.zeros((8, 2, 2, 3)),
        },
        columns["motor"][:-1, None],
        dt=0.01,
    )
    with EpisodeWriter(tmp_path / "store") as writer:
        writer.append(episode)
    sources = [write_csv(tmp_path / "run.csv", columns), tmp_path / "run.npz", tmp_path / "grouped.npz", tmp_path / "store"]
    for source in sources:
        (run,) = read_runs(source, BOTH)
        np.testing.assert_allclose(run.poses["cube"], pose, atol=1e-12)
        np.testing.assert_array_equal(run.twists["cube"], twist)
        np.testing.assert_array_equal(run.positions["rod"], columns["rod.angle"])
        np.testing.assert_array_equal(run.rates["rod"], columns["rod.rate"])
        assert run.actions is not None
        np.testing.assert_array_equal(run.actions[:-1, 0], columns["motor"][:-1])
        even = at_steps(run, BOTH, 0.01)
        np.testing.assert_array_equal(even.poses["cube"], run.poses["cube"])
        assert even.actions.shape == (7, 1) and str(source) in even.name


def test_runs_by_column_file_and_pattern(tmp_path: Path) -> None:
    columns = without(motion(TIMES), "rod.angle", "rod.rate", "motor")
    both = {name: np.concatenate((values, values)) for name, values in columns.items()}
    write_csv(tmp_path / "b.csv", both | {"run": ["second"] * 8 + ["third"] * 8})
    write_csv(tmp_path / "a.csv", columns)
    runs = read_runs(tmp_path, CUBE)
    assert [run.record for run in runs] == ["the run", "run second", "run third"]
    assert [run.name for run in read_runs(str(tmp_path / "*.csv"), CUBE)] == [run.name for run in runs]
    assert len(read_runs([tmp_path / "b.csv", tmp_path / "a.csv"], CUBE)) == 3
    short = {name.rpartition(".")[2]: values for name, values in columns.items()}  # one body needs no name
    np.testing.assert_array_equal(read_runs(write_csv(tmp_path / "a.csv", short), CUBE)[0].poses["cube"], runs[0].poses["cube"])
    renamed = {name.replace("cube.", "block."): values for name, values in columns.items()}
    (run,) = read_runs(write_csv(tmp_path / "c.csv", renamed | {"note.extra": TIMES}), CUBE, names={"block": "cube"})
    np.testing.assert_array_equal(run.poses["cube"], runs[0].poses["cube"])


def test_uneven_times_and_other_rates_come_to_even_steps() -> None:
    times = np.array([0.0, 0.011, 0.019, 0.03, 0.042, 0.05])
    columns = motion(times)
    pose = np.stack([columns[f"cube.{label}"] for label in POSE_NAMES], 1)
    run = TimedRun(times, {"cube": pose}, positions={"rod": columns["rod.angle"]}, actions=times[:, None])
    even = at_steps(run, BOTH, 0.01)
    exact = motion(0.01 * np.arange(6))
    for k, label in enumerate(POSE_NAMES):  # a straight line at constant speed, and a turn at constant rate, are met exactly
        np.testing.assert_allclose(even.poses["cube"][:, k], exact[f"cube.{label}"], atol=1e-12)
    np.testing.assert_allclose(even.positions["rod"], exact["rod.angle"], atol=1e-12)
    # 0 holds over all of the first step and a tenth of the second, then 0.011 for 8 ms and 0.019 for 1 ms
    np.testing.assert_allclose(even.actions[:2, 0], [0.0, (0.011 * 8 + 0.019 * 1) / 10], atol=1e-12)
    held = TimedRun(0.02 * np.arange(3), {"cube": pose[:3]}, actions=np.array([[1.0], [2.0], [math.nan]]))
    np.testing.assert_allclose(at_steps(held, BOTH, 0.01).actions[:, 0], [1, 1, 2, 2], atol=1e-12)  # held, not interpolated
    assert typical_step([held, run]) == pytest.approx(0.011)


def test_what_was_not_seen_stays_so_and_angles_do_not_jump() -> None:
    times = np.array([0.0, 0.011, 0.019, 0.03, 0.042, 0.05])
    columns = motion(times)
    pose = np.stack([columns[f"cube.{label}"] for label in POSE_NAMES], 1)
    pose[3] = math.nan
    angle = np.array([3.0, 3.1, -3.1, -3.0, -2.9, -2.8])
    even = at_steps(TimedRun(times, {"cube": pose}, positions={"rod": angle}, actions=times[:, None]), BOTH, 0.01)
    assert np.isfinite(even.poses["cube"]).all(1).tolist() == [True, True, False, False, False, True]
    assert np.abs(np.diff(even.positions["rod"])).max() < 0.15


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: without(c, "time"), "field time: expected a column of times"),
        (lambda c: without(c, "cube.qz"), r"field cube.qz: expected the columns cube.x to cube.qz, got only"),
        (lambda c: without(c, *[n for n in c if n.startswith("cube")]), "field cube.x: .* got none of cube"),
        (lambda c: c | {"brick.x": TIMES}, "field brick.x: expected columns of the bodies cube, rod, got one of 'brick'"),
        (lambda c: c | {"rod.qq": TIMES}, "field rod.qq: expected one of angle, rate"),
        (lambda c: without(c, "rod.angle"), "field rod.angle: .* got none"),
        (lambda c: without(c, "motor"), r"field motor: expected a column of each actuator \(motor\), got none"),
        (lambda c: c | {"motor": 50 * c["motor"]}, r"field motor: expected -1 to 1 .*, got 3.5"),
        (lambda c: c | {"time": TIMES[::-1]}, "field time: expected rising times"),
        (lambda c: c | {"cube.qw": 2 * c["cube.qw"] + 1}, "field cube.qw to cube.qz: expected a length of 1"),
        (lambda c: c | {"rod.angle": np.rad2deg(c["rod.angle"]) + 30}, r"field rod.angle: expected -3 to 3 rad, the joint's limits, got 3.*degrees"),
        (lambda c: c | {"cube.x": ["?"] * 8}, "row 1, field cube.x: expected a number, got '\\?'"),
        (lambda c: c | {"cube.x": np.array([np.inf] * 8)}, "field cube.x: expected finite numbers"),
        (lambda c: c | {"motor": np.array([0.0, math.nan] + [0.0] * 6)}, "expected finite actions before the last instant"),
    ],
)
def test_what_cannot_be_is_refused_by_file_and_column(tmp_path: Path, change: Any, words: str) -> None:
    file = write_csv(tmp_path / "run.csv", change(motion(TIMES)))
    with pytest.raises(BadData, match=words) as caught:
        read_runs(file, BOTH)
    assert str(file) in str(caught.value) and str(caught.value).count("\n") == 0 and str(caught.value).endswith(".")


def test_gaps_and_slow_times_are_refused() -> None:
    times = np.array([0.0, 0.01, 0.02, 0.06, 0.07])
    pose = np.tile([0.0, 0, 1, 1, 0, 0, 0], (5, 1))
    run = TimedRun(times, {"cube": pose}, file="a.csv")
    with pytest.raises(BadData, match=r"a.csv, .*field time: expected gaps of 3 steps of 0.01 s at most, got one of 0.04 s after 0.02 s"):
        at_steps(run, CUBE, 0.01)
    assert isinstance(at_steps(run, CUBE, 0.02), RigidRun)
    with pytest.raises(BadData, match="milliseconds"):
        typical_step([TimedRun(1000 * times, {"cube": pose})])
    with pytest.raises(BadData, match="at least one step"):
        at_steps(run, CUBE, 0.2)
    with pytest.raises(BadData, match="two instants or more"):
        TimedRun(times[:1], {"cube": pose[:1]})


def test_stores_say_their_units_and_frames(tmp_path: Path) -> None:
    pose = np.tile([0.0, 0, 1, 1, 0, 0, 0], (4, 1))
    for metadata, words in (
        (EpisodeMetadata(units={"observation/cube/pose": "mm"}), "observation/cube/pose: expected SI units, got 'mm'"),
        (EpisodeMetadata(frames={"observation/cube/pose": "camera"}), "expected numbers in the frame 'world'"),
        (EpisodeMetadata(units={"time": "step"}), "field time: expected SI units, got 'step'"),
    ):
        folder = tmp_path / words[:4].strip(":/") / str(len(words))
        with EpisodeWriter(folder) as writer:
            writer.append(Episode.from_steps({"cube/pose": pose}, np.zeros((3, 0)), dt=0.01, metadata=metadata))
        with pytest.raises(BadData, match=words):
            read_runs(folder, CUBE)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected recorded runs at .*nowhere.*contactnets_cube"):
        read_runs(tmp_path / "nowhere", CUBE)
    (tmp_path / "run.txt").write_text("time\n0\n")
    with pytest.raises(BadData, match=r"expected .csv or .npz, got '.txt'"):
        read_runs(tmp_path / "run.txt", CUBE)
    (tmp_path / "run.npz").write_bytes(b"no archive")
    with pytest.raises(BadData, match="arrays of numbers"):
        read_runs(tmp_path / "run.npz", CUBE)
    np.savez(tmp_path / "pickled.npz", time=np.array([None, {}], dtype=object), allow_pickle=True)
    with pytest.raises(BadData, match="arrays of numbers"):
        read_runs(tmp_path / "pickled.npz", CUBE)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(BadData, match="a header and rows"):
        read_runs(tmp_path / "empty.csv", CUBE)
    with pytest.raises(ValueError, match="No body or actuator is called 'brick'"):
        read_runs(write_csv(tmp_path / "run.csv", motion(TIMES)), BOTH, names={"block": "brick"})


def test_data_sets_by_name(data_dir: Any) -> None:
    data_dir("contactnets_cube")
    data_dir("double_pendulum")
    tosses = read_runs("contactnets_cube", CUBE)
    assert len(tosses) == 550 and typical_step(tosses[:3]) == pytest.approx(1 / 148)
    assert at_steps(tosses[0], CUBE, 1 / 148).poses["cube"].shape == tosses[0].poses["cube"].shape
    off = [run.twists["cube"][0, 2] - np.polyfit(run.times[:8], run.poses["cube"][:8, 2], 2)[1] for run in tosses[:40]]
    assert abs(np.median(off)) < 0.01  # the files' own velocities are half a step of gravity, 0.033 m/s, behind
    with pytest.raises(ValueError, match="contactnets_cube is of one free body; the scene has 0"):
        read_runs("contactnets_cube", RigidWorld((ROD,)))
    upper = Body("upper", 0.5, 0.01, joint=Joint("hinge", axis=(1.0, 0.0, 0.0)))
    lower = Body("lower", 0.5, 0.01, joint=Joint("hinge", axis=(1.0, 0.0, 0.0), position=(0.0, 0.0, -0.2)), parent="upper")
    motors = (Actuator("upper", "effort", -10.0, 10.0), Actuator("lower", "effort", -10.0, 10.0))
    runs = read_runs("double_pendulum", RigidWorld((upper, lower), (), motors))
    even = at_steps(runs[0], RigidWorld((upper, lower), (), motors), 0.01)
    assert len(runs) == 4 and even.actions.shape[1] == 2 and even.actions.any()
    assert np.abs(even.rates["lower"] - np.gradient(even.positions["lower"], 0.01)).mean() < 0.5
    with pytest.raises(ValueError, match="torques at its joint 1; give the scene an actuator"):
        read_runs("double_pendulum", RigidWorld((upper, lower), (), motors[1:]))
    with pytest.raises(ValueError, match="two bodies on hinges; the scene has 1"):
        read_runs("double_pendulum", BOTH)


def test_fixtures_are_no_bodies(tmp_path: Path) -> None:
    world = RigidWorld(CUBE.bodies, (Fixture((Geometry(PlaneShape()),), name="table"),))
    columns = without(motion(TIMES), "rod.angle", "rod.rate", "motor") | {"table.x": TIMES}
    with pytest.raises(BadData, match="expected columns of the bodies cube, got one of 'table'"):
        read_runs(write_csv(tmp_path / "run.csv", columns), world)
