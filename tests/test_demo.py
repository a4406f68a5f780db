"""`structwm demo`, small: from pushes to a report, without the real data, killed and resumed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from structwm.data import DataUnavailable, fetch
from structwm.demos import push_report, push_stages, pushing
from structwm.demos.push_models import ModelName
from structwm.demos.push_stages import AFTER, BEFORE, STILL, centre_of_friction
from structwm.demos.pushing import DemoConfig, main
from structwm.physics.limit_surface import EllipsoidSupport
from structwm.physics.pushing import rectangle

pytestmark = pytest.mark.usefixtures("one_thread")


def small(folder: Path, **fields: object) -> DemoConfig:
    values = {"engines": ("mujoco",), "goals": 1, "pushes": 6, "recorded": 10, "samples": 32, "steps": 5, "cells": ("abs/rect1",)} | fields
    return DemoConfig(out=folder, **values)  # type: ignore[arg-type]


def check_report(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"https?://", text) == [] and re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert str(file.parent) not in text
    assert text.count("<table") >= 4 and text.count("data:image/svg+xml") >= 4 and text.count("<animateTransform") == 6
    return text


def unavailable(name: str) -> Path:
    raise DataUnavailable("expected mit_push in /some/folder, found none; run `structwm fetch mit_push`.")


def test_demo_without_the_real_pushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(push_stages, "fetch", unavailable)
    threads = torch.get_num_threads()
    report = main(small(tmp_path / "run"))
    text = check_report(report)
    assert "/some/folder" not in text and "not to be had here" in text and "Predicting recorded pushes" in text
    shown = " ".join(capsys.readouterr().out.split())
    assert "/some/folder" in shown and "structwm fetch mit_push" in shown and "report:" in shown
    assert torch.get_num_threads() == threads
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert set(figures["object"]["pooled"]) == {STILL, BEFORE, AFTER}
    assert figures["object"]["pooled"][AFTER]["mean_mm"] < figures["object"]["pooled"][BEFORE]["mean_mm"] < figures["object"]["pooled"][STILL]["mean_mm"]
    calibration = json.loads((tmp_path / "run" / "calibration.json").read_text())
    friction = calibration["object"][0]["parameters"]["friction"]
    assert friction["interval"][0] < friction["value"] < friction["interval"][1]


def test_killed_demo_keeps_finished_stages_and_a_finished_one_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(push_stages, "fetch", unavailable)
    calls: list[str] = []
    for name in ("calibrate_cells", "calibrate_object", "push_objects"):
        monkeypatch.setattr(push_stages, name, counted(getattr(push_stages, name), name, calls))
    config = small(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(push_stages, "push_objects", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main(config)
    assert calls == ["calibrate_cells", "calibrate_object"] and not (tmp_path / "report.html").exists()
    with pytest.raises(ValueError, match="goals"):
        main(small(tmp_path, goals=2))
    main(config)
    assert calls == ["calibrate_cells", "calibrate_object", "push_objects", "push_objects"]
    pushing._clear_finished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("model", ["learned", "hybrid", "ensemble"])
def test_any_model_takes_the_place_of_the_twin(model: ModelName, tmp_path: Path) -> None:
    """The same stages with another model: it predicts the object's other pushes better than the uncalibrated twin, is saved, and plans."""
    pytest.importorskip("mujoco")
    from rich.console import Console

    config = small(tmp_path, model=model, pushes=12)
    console = Console(quiet=True)
    part = push_stages.calibrate_object(config, console, tmp_path)
    cell = push_report.cells_of(part)[0]
    mine = [name for name in cell.predicted if name not in (STILL, BEFORE, AFTER)]
    assert len(mine) == 1
    assert cell.errors(mine[0])[0].mean() < cell.errors(BEFORE)[0].mean() < cell.errors(STILL)[0].mean()
    run = push_stages.push_objects(config, part, tmp_path, engine="mujoco", unseen=True)
    assert run.arrays["poses"].shape[1:] == (1, 3) and np.isfinite(run.arrays["poses"]).all()
    assert run.facts["model"] == model


def counted(stage: object, name: str, calls: list[str]) -> object:
    def call(*args: object, **kwargs: object) -> object:
        calls.append(name)
        return stage(*args, **kwargs)  # type: ignore[operator]

    return call


def interrupt(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_real_cells_beat_the_published_models() -> None:
    pytest.importorskip("matplotlib")
    try:
        fetch("mit_push")
    except DataUnavailable as error:
        pytest.skip(str(error))
    from rich.console import Console

    from structwm.demos.push_report import cells_of

    part = push_stages.calibrate_cells(DemoConfig(cells=("plywood/ellip2",)), Console(quiet=True))
    cell = cells_of(part)[0]
    means = {model: cell.errors(model)[0].mean() for model in cell.predicted}
    assert means[AFTER] < min(value for model, value in means.items() if model != AFTER)
    with pytest.raises(ValueError, match="expected cells among"):
        push_stages.calibrate_cells(DemoConfig(cells=("ice/rect1",)), Console(quiet=True))


def test_config_refuses_nonsense() -> None:
    for fields in ({"goals": 0}, {"engines": ()}, {"recorded": 5}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            DemoConfig(**fields)  # type: ignore[arg-type]


def test_centre_of_friction_of_an_ellipsoid_is_its_parameter() -> None:
    support = EllipsoidSupport(rectangle(0.1, 0.06))
    values = {"characteristic_length": [0.03, 0.05], "friction_centre_x": [0.01, -0.004], "friction_centre_y": [-0.006, 0.0]}
    surface = support.coefficients({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
    centre = support.gyration * centre_of_friction(surface).numpy()
    np.testing.assert_allclose(centre, np.stack([values["friction_centre_x"], values["friction_centre_y"]], -1), atol=1e-9)
