"""Run folders: a job killed at any moment resumes where its last complete checkpoint stands."""

from __future__ import annotations

import enum
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from structwm.training import RunFolder


class Mode(enum.Enum):
    FAST = 1


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class Config:
    steps: int = 10
    inner: Inner = Inner()
    mode: Mode = Mode.FAST
    out: Path = Path("here")
    limit: float = float("inf")


def test_a_run_is_recorded_whole(tmp_path: Path) -> None:
    with RunFolder.open_or_resume(tmp_path / "run", Config(), seeds=(0, 7)) as run:
        assert run.latest() is None and run.resumed_from == 0
        run.log(1, loss=0.5, error=float("nan"))
        run.save(1, {"weights": np.arange(6.0).reshape(2, 3).T, "scalar": np.float32(3)}, {"rng": np.random.default_rng(0).bit_generator.state})
        last = run.latest()
        assert run.figures()[0]["loss"] == 0.5 and np.isnan(run.figures()[0]["error"])
    assert last is not None and last.step == 1
    np.testing.assert_array_equal(last.arrays["weights"], np.arange(6.0).reshape(2, 3).T)
    assert last.arrays["scalar"].shape == () and last.arrays["scalar"] == 3
    generator = np.random.default_rng(5)
    generator.bit_generator.state = last.state["rng"]
    assert generator.random() == np.random.default_rng(0).random()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["seeds"] == [0, 7]
    assert config["config"] == {"steps": 10, "inner": {"rate": 0.1, "sizes": [3, 4]}, "mode": "FAST", "out": "here", "limit": "inf"}
    start = json.loads((tmp_path / "run" / "starts.jsonl").read_text())
    assert start["numpy"] == np.__version__ and {"time", "platform", "python", "torch", "structwm", "commit", "step"} == start.keys() - {"numpy"}


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    RunFolder.open_or_resume(tmp_path, Config(), seeds=(1,)).close()
    with pytest.raises(ValueError, match=r"got steps=11 where it had 10, inner.rate=0.2 where it had 0.1; use another folder"):
        RunFolder.open_or_resume(tmp_path, replace(Config(), steps=11, inner=Inner(rate=0.2)), seeds=(1,))
    with pytest.raises(ValueError, match=r"got seeds=\[2\] where it had \[1\]"):
        RunFolder.open_or_resume(tmp_path, Config(), seeds=(2,))
    with pytest.raises(TypeError, match="got a function; name it by a string"):
        RunFolder.open_or_resume(tmp_path / "other", {"activation": lambda x: x})
    with pytest.raises(ValueError, match="keep=0"):
        RunFolder.open_or_resume(tmp_path, Config(), keep=0)
    RunFolder.open_or_resume(tmp_path, Config(), seeds=(1,)).close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with RunFolder.open_or_resume(tmp_path, Config()), pytest.raises(BlockingIOError, match="another writer has it open"):
        RunFolder.open_or_resume(tmp_path, Config())


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    with RunFolder.open_or_resume(tmp_path, Config()) as run:
        for step in range(1, 8):
            run.log(step, loss=1 / step)
            if step % 2 == 0:
                run.save(step, {"x": np.full(3, step)})
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    (tmp_path / "checkpoint-000009-step-9.tmp").mkdir()
    with open(tmp_path / "figures.jsonl", "a") as stream:
        stream.write('{"step": 8, "lo')
    with RunFolder.open_or_resume(tmp_path, Config()) as run:
        assert run.resumed_from == 6 and [line["step"] for line in run.figures()] == [1, 2, 3, 4, 5, 6]
        assert not list(tmp_path.glob("*.tmp"))
        run.save(6, {"x": np.full(3, 60)})
        last = run.latest()
    assert last is not None and last.arrays["x"][0] == 60


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    with RunFolder.open_or_resume(tmp_path, Config()) as run:
        run.save(3, {"x": np.full(3, 3)})
        newest = run.save(5, {"x": np.full(3, 5)})
    os.truncate(newest / "arrays.safetensors", 40)
    with pytest.warns(UserWarning, match="step-5, found it damaged"):
        run = RunFolder.open_or_resume(tmp_path, Config())
    with run, pytest.warns(UserWarning, match="damaged"):
        last = run.latest()
    assert run.resumed_from == 3 and last is not None and last.arrays["x"][0] == 3


ROOT = Path(__file__).parents[1]
JOB = """
import sys
import numpy as np
from structwm.training import RunFolder
with RunFolder.open_or_resume(sys.argv[1], {"size": 200_000}, seeds=(0,)) as run:
    last = run.latest()
    total = last.arrays["total"].copy() if last else np.zeros(200_000)
    rng = np.random.default_rng(0)
    if last:
        rng.bit_generator.state = last.state["rng"]
    for step in range(run.resumed_from + 1, int(sys.argv[2]) + 1):
        total += rng.random()
        run.log(step, total=total[0])
        run.save(step, {"total": total}, {"rng": rng.bit_generator.state})
        print(step, flush=True)
"""


def test_a_killed_job_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    """SIGKILL at different moments of writing; the sum of random numbers comes out as if nothing had happened."""
    reached = 0
    for delay in (0.0, 0.003, 0.008):
        with subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path), "1000000"], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().split()
        assert process.returncode == -signal.SIGKILL
        reached = max([reached + 2, *map(int, said)])
        with RunFolder.open_or_resume(tmp_path, {"size": 200_000}, seeds=(0,)) as run:
            assert run.resumed_from in (reached, reached + 1)
            reached = run.resumed_from
    end = reached + 3
    subprocess.run([sys.executable, "-c", JOB, str(tmp_path), str(end)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    with RunFolder.open_or_resume(tmp_path, {"size": 200_000}, seeds=(0,)) as run:
        last = run.latest()
        assert last is not None and last.step == end
        numbers = np.random.default_rng(0).random(end)
        np.testing.assert_allclose(last.arrays["total"], numbers.sum(), rtol=1e-12)
        assert [line["step"] for line in run.figures()] == list(range(1, end + 1))
        np.testing.assert_allclose([line["total"] for line in run.figures()], numbers.cumsum(), rtol=1e-12)
