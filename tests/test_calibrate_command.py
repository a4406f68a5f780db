"""`structwm calibrate`: from files to parameters and a report; refusals in one sentence; goes on after it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from structwm.cli import main
from structwm.demos import calibrating
from structwm.physics.saving import load_calibration
from tests.sliding_cubes import write_slides
from tests.test_calibration_saving import assert_same

pytest.importorskip("matplotlib")
PICTURES = dict.fromkeys(("parameters", "search", "correlations", "over_time", "runs_cube"), b"PNG")  # where drawing is not what is tested
SLOWLY = """
import sys, time
from structwm.physics.journal import Journal
once = Journal.once
def slowly(self, label, compute):
    time.sleep(0.1)
    return once(self, label, compute)
Journal.once = slowly
from structwm.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_slides(tmp_path_factory.mktemp("slides"))


def command(files: tuple[Path, Path], folder: Path, *more: str) -> list[str]:
    options = ["--parameters", "friction,gravity", "--substeps", "4", "--evaluations", "60", "--iterations", "4", "--held-out", "0.3"]
    return ["calibrate", *map(str, files), *options, "--folder", str(folder), *more]


def test_it_finds_the_truth_and_goes_on_after_a_kill(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", SLOWLY, *command(files, killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        main(command(files, whole))
        shown = capsys.readouterr().out
        journal, deadline = killed / "journal.jsonl", time.monotonic() + 60
        while (not journal.exists() or journal.read_bytes().count(b"\n") < 3) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done, all_of_it = (len((folder / "journal.jsonl").read_bytes().splitlines()) for folder in (killed, whole))
    assert 3 <= done < all_of_it and not (killed / "calibration.json").exists()

    for words in ("4 runs to fit, 2 held out", "cube.friction", "90 % interval", "not identified", "held still", "warning:", "report.html"):
        assert words in shown
    calibration = load_calibration(whole)
    low, high = calibration.intervals()["cube.friction"]
    assert low < 0.3 < high and high - low < 0.05
    names = ("report.html", "scene.json", "parameters.png", "search.png", "correlations.png", "over_time.png", "runs_cube.png")
    assert set(names) <= {file.name for file in whole.iterdir()}
    assert (whole / "report.html").read_text().count("data:image/png;base64,") == 5

    monkeypatch.setattr(calibrating, "draw_calibration", lambda *_, **__: PICTURES)
    main(command(files, killed))
    resumed = load_calibration(killed)
    assert_same(calibration, type(resumed)(**(vars(resumed) | {"seconds": calibration.seconds})))
    before = (killed / "calibration.json").read_bytes()
    main(command(files, killed))  # finished: read again from its journal, nothing changes
    assert (killed / "calibration.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--parameters"], "needs --parameters; this scene has gravity,"),
        (["--parameters", "colour"], "RigidTwin has no parameter 'colour'; it has gravity"),
        (["--parameters", "friction,cube.friction"], "the parameter 'cube.friction' twice"),
        (["--runs", "9:12"], "no runs 9:12 in the 6 recorded ones"),
        (["--runs", "two"], "needs runs such as 0:16 or 3,5,8 of the 6 recorded ones, got 'two'"),
        (["--runs", "0"], "There is one run, of which nothing can be held out; give --held-out 0"),
        (["--held-out", "1.5"], "needs held-out from 0 to below 1"),
        (["--windows", "5"], "needs windows as L,S"),
        (["--start-spread", "speed=1"], "Nothing is displaced by 'speed'; there are place, turn"),
        (["--start-spread", "velocity"], "needs start-spread as NAME=VALUE, got 'velocity'"),
        (["--names", "a=b"], "No body or actuator is called 'b'"),
        (["--dt", "0.001"], "field time: expected gaps of 3 steps of 0.001 s at most, got one of 0.02 s"),
        (["--dt", "-1"], "needs dt above 0"),
    ],
)
def test_refusals(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command(files, tmp_path / "out", *change))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_files_and_another_calibration(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, runs = files
    (tmp_path / "inputs.json").write_text("{}")
    for arguments, words in (
        (command((scene.with_name("none.urdf"), runs), tmp_path / "out"), "none.urdf, the whole file"),
        (command((scene, runs.with_name("none.csv")), tmp_path / "out"), "expected recorded runs at"),
        (command((runs, runs), tmp_path / "out"), "read_world reads .urdf, .xml, .json, got 'slides.csv'"),
        (command(files, tmp_path), "holds a calibration with another"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and words in capsys.readouterr().err


def test_windows_start_spreads_and_quick(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "draw_calibration", lambda *_, **__: PICTURES)
    more = ["--windows", "10,5", "--start-spread", "velocity=0.01", "cube.wz=0.05", "--held-out", "0", "--runs", "0:2,4", "--level", "0.8", "--quick"]
    main(command(files, tmp_path, "--evaluations", "20", "--iterations", "2", *more))
    shown = capsys.readouterr().out
    assert "3 runs to fit, 0 held out; 9 trajectories of up to 10 steps" in shown and "80 % interval" in shown
    calibration = load_calibration(tmp_path)
    assert calibration.start is not None and calibration.start.shape == (9, 4) and set(calibration.errors) == {"calibration"}
    assert json.loads((tmp_path / "inputs.json").read_text())["start_spread"] == {"cube.vx": 0.01, "cube.vy": 0.01, "cube.vz": 0.01, "cube.wz": 0.05}


def test_help_is_light_and_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and all(option in shown for option in ("--parameters", "--engine", "--windows", "--start-spread", "--quick", "--runs"))
