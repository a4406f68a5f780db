"""`structwm demo`: calibrate a pushing twin on real pushes, then on an object in PyBullet, and let MPC move that object to goals there and in MuJoCo.

Finished stages are kept in the run folder: a demo that was killed goes on with the stage it was in.
"""

from __future__ import annotations

import shutil
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from structwm.data.atomic import write_json
from structwm.training import RunFolder

from . import push_report, push_stages
from .push_models import WORDS, ModelName
from .push_stages import ENGINES, Part

Engine = Literal["bullet", "mujoco"]
OWN_FILES = ("report.html", "model.json", "model.safetensors", "figures.json", "calibration.json", "config.json", "starts.jsonl", "figures.jsonl")


@dataclass(frozen=True)
class DemoConfig:
    """The main job: calibrate on real pushes, control in foreign engines, report.

    Raises:
        ValueError: for a count that is not positive or an empty choice.
    """

    out: Path = Path("runs/demo")  # folder of the report and its figures
    engines: tuple[Engine, ...] = ("bullet", "mujoco")  # the object is calibrated in the first; the last has physics that calibration did not see
    goals: int = 5  # goal poses in each engine; more give a surer success rate and take longer
    pushes: int = 20  # of the object to be moved, for its calibration; fewer widen the intervals
    cells: tuple[str, ...] = ("abs/rect1", "plywood/ellip2", "abs/tri2")  # surface/shape of the real pushes to calibrate on
    recorded: int = 60  # pushes recorded of each object where the real ones are not to be had
    samples: int = 128  # candidate action sequences per plan; more find better pushes and take longer
    steps: int = 150  # control steps of 0.1 s after which a goal is given up
    model: ModelName = "physics"  # what the planner predicts with: the twin, a model without one, the twin and a learned correction, or several twins
    seed: int = 0  # of recordings, goals and planner
    open_report: bool = False  # show the report in the browser when done

    def __post_init__(self) -> None:
        for name in ("goals", "pushes", "recorded", "samples", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"DemoConfig needs {name} >= 1, got {getattr(self, name)}.")
        if self.recorded < 10:
            raise ValueError(f"DemoConfig needs recorded >= 10, of which a fifth calibrates, got {self.recorded}.")
        for name in ("engines", "cells"):
            if not getattr(self, name):
                raise ValueError(f"DemoConfig needs at least one of {name}, got none.")


def main(config: DemoConfig) -> Path:
    """Run the demo, or what is left of it, and write its report.

    Returns:
        The report's file, in `config.out` beside `figures.json` (all figures shown) and `calibration.json` (parameters and intervals).

    Raises:
        ImportError: if no foreign engine is installed.
        ValueError: on an unknown cell, or if `config.out` holds another unfinished demo.
    """
    console = Console()
    _clear_finished(config.out)
    with one_thread(), RunFolder.open_or_resume(config.out, replace(config, out=Path("."), open_report=False), seeds=(config.seed,)) as run:
        parts = _load(run)
        stages = _stages(config, parts, run, console)
        for number, (name, title, stage) in enumerate(stages, start=1):
            console.print(f"[bold]{number}/{len(stages)}[/bold] {title}" + (" (kept from before)" if name in parts else ""))
            if name not in parts:
                begin = time.perf_counter()
                part = stage()
                parts[name] = replace(part, facts=part.facts | {"wall_seconds": time.perf_counter() - begin})
                _save(run, number, parts)
            _say(parts[name], console)
        figures = push_report.figures_of(parts)
        write_json(run.path / "calibration.json", {key: parts[key].facts["cells"] for key in ("real", "object")})
        write_json(run.path / "figures.json", figures)
        with console.status("drawing the report"):
            report = push_report.build(config, parts, figures).write(run.path / "report.html")
    console.print(f"report: [bold]{report}[/bold]", soft_wrap=True)
    if config.open_report:
        webbrowser.open(report.resolve().as_uri())
    return report


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: its operations are small here, and on busy cores its threads would wait for each other. Kernels keep their own threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stages(config: DemoConfig, parts: dict[str, Part], run: RunFolder, console: Console) -> list[tuple[str, str, Callable[[], Part]]]:
    """Name, title and work of each stage; later ones read the parts of earlier ones when they run."""
    engines = push_stages.available(config.engines)
    first, last = engines[0], engines[-1]
    missing = [ENGINES[engine] for engine in config.engines if engine not in engines]
    if missing:
        console.print(f"{' and '.join(missing)} is not installed, so {ENGINES[first]} stands in for it.", style="yellow")

    def control(*, engine: str, unseen: bool) -> Part:
        return push_stages.push_objects(config, parts["object"], run.path, engine=engine, unseen=unseen)

    words = WORDS[config.model].split(",")[0]
    calibrating = f"calibrating a twin of an object in {ENGINES[first]} from {config.pushes} pushes"
    return [
        ("real", "calibrating twins on recorded pushes of real objects", partial(push_stages.calibrate_cells, config, console)),
        ("object", calibrating, partial(push_stages.calibrate_object, config, console, run.path)),
        ("known", f"pushing that object to {config.goals} goals in {ENGINES[first]} with {words}", partial(control, engine=first, unseen=False)),
        ("unseen", f"the same in {ENGINES[last]}, with other friction, mass and latency", partial(control, engine=last, unseen=True)),
    ]


def _say(part: Part, console: Console) -> None:
    """A line of result, or a small table of errors."""
    if "reached" in part.arrays:
        reached, plan = part.arrays["reached"], part.facts["plan_ms"]
        position, yaw = 1000 * float(np.median(part.arrays["position_error"])), np.degrees(float(np.median(part.arrays["yaw_error"])))
        console.print(f"    {int(reached.sum())} of {len(reached)} goals reached; median {position:.1f} mm and {yaw:.1f} deg off; {plan:.0f} ms a plan")
        return
    cells = push_report.cells_of(part)
    table = Table("    mean error \\[mm, rad]", *(cell.name for cell in cells), box=None, padding=(0, 2, 0, 0), header_style="dim")
    for model in push_report.models_of(part):
        means = ((1000 * float(position.mean()), float(yaw.mean())) for position, yaw in (cell.errors(model) for cell in cells))
        style = "bold" if model == push_stages.AFTER else None
        table.add_row(f"    {model}", *(f"{mm:.2f}, {rad:.3f}" for mm, rad in means), style=style)
    console.print(table)


def _clear_finished(folder: Path) -> None:
    """Remove a finished demo's own files, so that the demo runs anew; an unfinished one is left to be resumed."""
    if (folder / "report.html").exists() and (folder / "config.json").exists():
        for name in OWN_FILES[::-1]:  # the report goes last: a kill in between leaves it to be cleared again
            (folder / name).unlink(missing_ok=True)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def _save(run: RunFolder, number: int, parts: dict[str, Part]) -> None:
    arrays = {f"{key}/{name}": values for key, part in parts.items() for name, values in part.arrays.items()}
    run.save(number, arrays, {key: part.facts for key, part in parts.items()})


def _load(run: RunFolder) -> dict[str, Part]:
    last = run.latest()
    if last is None:
        return {}
    return {
        key: Part({name.removeprefix(f"{key}/"): values for name, values in last.arrays.items() if name.startswith(f"{key}/")}, facts)
        for key, facts in last.state.items()
    }
