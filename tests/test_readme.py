"""The README's code runs, and its commands exist."""

import re
from pathlib import Path

import pytest
import torch

from structwm.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_own_model_plans_to_its_velocity():
    scope: dict = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), scope)
    assert float((scope["state"].velocity - 0.5).abs().max()) < 0.1
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 24


def test_training_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), scope)
    assert scope["fitted"].best_error < 0.1
    main(["evaluate", "runs/pendulum", "runs/swings", "--horizon", "10", "--out", "runs/evaluation"])
    assert "regret" in capsys.readouterr().out
    written = {file.name for file in (tmp_path / "runs" / "evaluation").iterdir()}
    pictures = {"one_step.png", "open_loop.png", "ranking.png", "training-pendulum-progress.png", "training-pendulum-open_loop.png"}
    assert written == {"evaluation.json"} | pictures


def test_calibration_example(data_dir, capsys):
    data_dir("mit_push")
    scope: dict = {}
    exec(compile(BLOCKS[2], "README.md", "exec"), scope)
    errors = scope["calibration"].errors
    assert errors["held out"]["x"] < 0.3 * errors["persistence"]["x"]
    assert scope["cousins"].spec.members == 16


def test_rigid_example(data_dir, capsys):
    data_dir("contactnets_cube")
    scope: dict = {}
    exec(compile(BLOCKS[3], "README.md", "exec"), scope)
    errors = scope["fitted"].errors
    assert errors["held out"]["cube.position"] < 0.1 * errors["persistence"]["cube.position"]


def test_deformable_example(capsys):
    scope: dict = {}
    exec(compile(BLOCKS[4], "README.md", "exec"), scope)
    moved = scope["lifted"].points().positions.mean(-2)[[0, -1], 2].diff()
    assert 0.05 < float(moved) < 0.11


def test_rendering_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict = {}
    exec(compile(BLOCKS[5], "README.md", "exec"), scope)
    assert scope["fit"].last.held_out_psnr > 17
    main(["render", "scene.ply", "--output", "scene.png", "--width", "80", "--height", "60"])
    assert (tmp_path / "scene.png").stat().st_size > 500


def test_points_example(capsys):
    pytest.importorskip("pybullet")
    scope: dict = {}
    exec(compile(BLOCKS[6], "README.md", "exec"), scope)
    assert scope["fitted"].best_error < 0.5
    assert scope["flow"].shape == (1, 10, 48, 3) and bool(scope["flow"].isfinite().all())


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_guide_to_planning_runs(capsys):
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "planning.md").read_text(), flags=re.DOTALL):
        exec(compile(block, "planning.md", "exec"), scope)
    assert bool(scope["plan"].feasible.all()) and "keeps every constraint" in capsys.readouterr().out
    off = (scope["state"].position - torch.tensor([[1.0, 0.0], [1.0, 0.5]])).norm(dim=-1)
    assert float(off.max()) < 0.6 and scope["seen"].shape == (64, 6)
