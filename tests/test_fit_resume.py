"""Training that is killed, and training in two processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from structwm.training import fit_ensemble, load_model

from . import training_job
from .pendulums import network, swings

ROOT = Path(__file__).parents[1]
KILLS = 10


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _wait_for_start(starts: Path, number: int) -> None:
    """Until the run folder was opened for the nth time."""
    for _ in range(6000):
        if starts.exists() and len(starts.read_text().splitlines()) >= number:
            return
        time.sleep(0.01)
    raise AssertionError("the training process did not begin within a minute")


def _wait_for_lines(path: Path, more: int, job: multiprocessing.process.BaseProcess) -> None:
    """Until a file has so many lines more than now, or a job has ended: progress, however fast the machine is."""

    def lines() -> int:
        return path.read_text().count("\n") if path.exists() else 0

    until = lines() + more
    while lines() < until and job.is_alive():
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    expected = training_job.main(tmp_path / "whole")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training_job", "lightning_fabric", "structwm.training.training_loop"])
    moments = random.Random(0)
    for kill in range(KILLS):
        job = context.Process(target=training_job.main, args=(tmp_path / "killed",))
        job.start()
        _wait_for_start(tmp_path / "killed" / "starts.jsonl", kill + 1)
        _wait_for_lines(tmp_path / "killed" / "figures.jsonl", moments.choice((0, 1, 1, 2)), job)
        job.join(moments.uniform(0.0, 0.05))
        assert job.pid is not None and job.exitcode is None, "the job was done before it could be killed"
        os.kill(job.pid, signal.SIGKILL)
        job.join()
    resumed = training_job.main(tmp_path / "killed")
    starts = [json.loads(line)["step"] for line in (tmp_path / "killed" / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == KILLS + 1 and len(set(starts)) >= 3, "it was killed too soon after each start to get on"
    assert _same(resumed, expected)
    assert _same(load_model(tmp_path / "killed").state_dict(), expected)
    histories = [(folder / "figures.jsonl").read_text() for folder in (tmp_path / "whole", tmp_path / "killed")]
    assert histories[0] == histories[1]  # nothing is lost or told twice


def test_killed_at_every_tenth_step_it_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without processes: ten starts, each broken off at a step of its own, also between a checkpoint and the next, also twice between the same."""
    from structwm.training import training_loop

    expected = training_job.main(tmp_path / "whole")
    advance = training_loop._Job.advance

    class Killed(Exception):
        pass

    for stop in sorted(random.Random(1).sample(range(1, 120), KILLS)):

        def broken(self: training_loop._Job, batch: object, stop: int = stop) -> None:
            if self.step == stop:
                raise Killed
            advance(self, batch)  # type: ignore[arg-type]

        monkeypatch.setattr(training_loop._Job, "advance", broken)
        with pytest.raises(Killed):
            training_job.main(tmp_path / "killed")
    monkeypatch.undo()
    assert _same(training_job.main(tmp_path / "killed"), expected)


def test_a_finished_run_is_loaded_and_another_job_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = training_job.main(tmp_path)
    starts = time.perf_counter()
    assert _same(training_job.main(tmp_path), first)
    assert time.perf_counter() - starts < 2.0
    monkeypatch.setattr(training_job, "SETTINGS", training_job.SETTINGS.__class__(steps=130, accelerator="cpu", seed=3))
    with pytest.raises(ValueError, match=r"settings\.steps=130 where it had 120"):
        training_job.main(tmp_path)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """`torchrun` with two processes: each takes half of every batch, so that the mean gradient is that of the whole batch, up to rounding.

    Float32 sums in another order grow apart over 120 steps: the held-out errors agree to five percent. Both processes hold the same weights bit for bit.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    (tmp_path / "two").mkdir()
    done = subprocess.run(
        [*command, "-m", "tests.training_job", str(tmp_path / "two")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    weights = [torch.load(tmp_path / "two" / f"weights-{rank}.pt") for rank in range(2)]
    assert _same(*weights)
    training_job.main(tmp_path / "one")
    one, two = (json.loads((tmp_path / name / "figures.jsonl").read_text().splitlines()[-1])["held_out"] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=0.05)


def test_an_ensemble_of_no_windows_is_refused() -> None:
    train = swings(4, 3, seed=0)
    with pytest.raises(ValueError, match="at least one window in train"):
        fit_ensemble(lambda member: network(train), train[:0], held_out=train, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]])
def test_of_two_processes_one_writes_the_ensemble(launcher: list[str], tmp_path: Path) -> None:
    """Started by Fabric itself, and by `torchrun`: every process can load the ensemble as soon as it has it."""
    script = tmp_path / "two.py"
    script.write_text("""
import os, pathlib, sys
from structwm.training import FitSettings, ensembles, load_model
from tests.pendulums import network, swings

folder, save, train = pathlib.Path(sys.argv[1]), ensembles.save_model, swings(32, 4, seed=0)

def noted(*args, **options):
    with open(folder / "saved", "a") as file:
        file.write(os.environ["LOCAL_RANK"] + "\\n")
    return save(*args, **options)

ensembles.save_model = noted
settings = FitSettings(steps=2, batch=8, evaluate_every=2, accelerator="cpu", devices=2)
ensembles.fit_ensemble(lambda e: network(train), train, held_out=train, members=2, settings=settings, run=folder / "run", progress=False)
load_model(folder / "run")
""")
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "saved").read_text().split() == ["0"]
