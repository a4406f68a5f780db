"""`structwm calibrate`: the parameters of a scene from recorded motion. Everything that can be refused is refused before the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from structwm.data.atomic import write_bytes
from structwm.kernels.rigid_layout import JointKind
from structwm.physics.calibration import Calibration, Settings, calibrate
from structwm.physics.recorded_runs import read_runs
from structwm.physics.recording import Recording
from structwm.physics.rigid_runs import rigid_recording
from structwm.physics.rigid_world import Fixture, Geometry, PlaneShape, RigidWorld
from structwm.physics.saving import load_calibration, save_calibration
from structwm.physics.scene_files import read_world
from structwm.physics.timed_runs import TimedRun, at_steps, typical_step
from structwm.physics.world_twin import WorldTwin
from structwm.report.calibration import calibration_page, draw_calibration, error_rows, parameter_rows, read_generations

from .evaluating import _drawing as require_drawing
from .pushing import one_thread

Engine = Literal["rigid", "newton", "bullet", "mujoco"]
ENGINES: dict[str, tuple[str, str]] = {
    "rigid": ("structwm.physics.rigid", "RigidTwin"),
    "newton": ("structwm.physics.newton_twin", "NewtonTwin"),
    "bullet": ("structwm.physics.bullet_twin", "BulletTwin"),
    "mujoco": ("structwm.physics.mujoco_twin", "MujocoTwin"),
}
QUICK = Settings(evaluations=80, iterations=6, explore=60, rounds=2)
GROUPS = {  # of displacements of start states, and the endings of their names
    "place": ("x", "y", "z", "position"),
    "turn": ("rx", "ry", "rz", "angle"),
    "velocity": ("vx", "vy", "vz"),
    "spin": ("wx", "wy", "wz"),
}


@dataclass(frozen=True)
class CalibrateConfig:
    """Fit parameters of a scene to recorded runs: values, intervals, what the data cannot tell, errors on runs held out, a report.

    Run again with the same arguments it goes on where it was stopped. What deforms has options of its own: `structwm calibrate SHAPE --help`.
    """

    scene: Annotated[Path, tyro.conf.Positional]  # .urdf, .xml (MJCF) or .json
    episodes: Annotated[tuple[str, ...], tyro.conf.Positional]  # .csv or .npz files, a folder of them or of episodes, contactnets_cube or double_pendulum
    parameters: tuple[str, ...] = ()  # what is fitted, separated by commas: friction,mass or cube.friction,ground.offset
    engine: Engine = "rigid"  # whose twin is calibrated; rigid is the fastest and has gradients
    dt: float | None = None  # time step of the twin [s]; by default the recording's
    substeps: int = 8  # of the engine in a step; more are more exact, allow stiffer contacts, and take longer
    runs: str = ""  # which runs: 0:16, or 3,5,8; by default all
    held_out: float = 0.2  # share of the runs that only measure the error; 0 holds none out
    start_spread: tuple[str, ...] = ()  # how far off recorded starts may be (1 std): velocity=0.05 spin=0.5 place=0.001 turn=0.01 cube.vx=0.1 arm.rate=0.2
    windows: str | None = None  # L,S: cut runs into windows of L steps, one every S, each from its recorded start; needed where motion is chaotic
    scale: tuple[float, float] | None = None  # size of an error of position [m] and rotation [rad] that matters
    evaluations: int | None = None  # draws of the global search, 400 by default; more find better optima
    iterations: int | None = None  # steps downhill at most, 30 by default
    level: float = 0.9  # of the intervals shown
    ground: Literal["auto", "yes", "no"] = "auto"  # whether a plane at z = 0 is added; auto: where something free stands on nothing else
    names: tuple[str, ...] = ()  # bodies and actuators that are called otherwise in the recording: THERE=HERE
    folder: Path = Path("runs/calibration")  # of results, and of the journal from which an interrupted run goes on
    seed: int = 0  # of the search, and of which runs are held out
    quick: bool = False  # fewer draws and steps, for a first look


def main(config: CalibrateConfig) -> Calibration[Any]:
    """Calibrate, print the tables, write `calibration.json`, `calibration.safetensors`, `scene.json`, `report.html` and its pictures.

    Raises:
        FileNotFoundError: if there are no such recordings.
        ValueError: on what does not fit; the sentence says what to do.
        ImportError: if an engine, or what draws, is not installed.
    """
    check(config)
    require_drawing()
    console = Console() if Console().is_terminal else Console(width=140)
    with one_thread():
        world = with_ground(read_world(config.scene), config.ground)
        runs = selected(read_runs(config.episodes, world, names=pairs(config.names, "names")), config.runs)
        twin = make_twin(config, world, config.dt or typical_step(runs))
        parameters = named(twin, config.parameters)
        recording, held_out = split(config, twin, runs)
        settings = settings_of(config)
        console.print(f"{len(recording.runs.unique())} runs to fit, {0 if held_out is None else len(held_out.runs.unique())} held out; "
                      f"{len(recording)} trajectories of up to {recording.actions.shape[1]} steps of {twin.spec.dt:.4g} s", soft_wrap=True)  # fmt: skip
        calibration = calibrate(twin, recording, parameters, held_out=held_out, settings=settings, folder=config.folder, progress=console.is_terminal)
        calibration = first_time(calibration, config.folder)
        save_calibration(calibration, config.folder, level=config.level)
        show(calibration, recording, config.level, console)
        shown = recording if held_out is None else held_out
        labels = [run.record for run in runs]
        with console.status("drawing the report"):
            generations = read_generations(config.folder)
            pictures = draw_calibration(calibration, shown, labels=labels, generations=generations, level=config.level)
            for name, image in pictures.items():
                write_bytes(config.folder / f"{name}.png", [image])
            title = f"{config.scene.stem}, calibrated on {' '.join(Path(name).name for name in config.episodes)}"
            facts = words_of(config, twin, recording, held_out, settings)
            page = calibration_page(calibration, shown, title=title, settings=facts, level=config.level, pictures=pictures)
            report = page.write(config.folder / "report.html")
    console.print(f"calibration: {config.folder / 'calibration.json'}", soft_wrap=True)
    console.print(f"report: [bold]{report}[/bold]", soft_wrap=True)
    return calibration


def check(config: CalibrateConfig) -> None:
    """Refuse counts, shares and steps that cannot be.

    Raises:
        ValueError: says which, and what it should be.
    """
    counts = {"substeps": config.substeps, "evaluations": config.evaluations, "iterations": config.iterations}
    for name, value in counts.items():
        if value is not None and value < (1 if name == "substeps" else 0):
            raise ValueError(f"structwm calibrate needs {name} of {1 if name == 'substeps' else 0} or more, got {value}.")
    if not 0 <= config.held_out < 1:
        raise ValueError(f"structwm calibrate needs held-out from 0 to below 1, got {config.held_out:g}.")
    if not 0 < config.level < 1:
        raise ValueError(f"structwm calibrate needs a level between 0 and 1, got {config.level:g}.")
    if config.dt is not None and not config.dt > 0:
        raise ValueError(f"structwm calibrate needs dt above 0, got {config.dt:g} s.")


def first_time(calibration: Calibration[Any], folder: Path) -> Calibration[Any]:
    """With the time that the same calibration took before, if it was read again from its journal."""
    with suppress(FileNotFoundError, ValueError):
        before = load_calibration(folder)
        if before.space.names == calibration.space.names and torch.equal(before.z, calibration.z):
            return replace(calibration, seconds=before.seconds)
    return calibration


def with_ground(world: RigidWorld, ground: str) -> RigidWorld:
    """The world with a plane at z = 0, if it is asked for, or if there is nothing that something free could fall on."""
    free = any(body.joint.kind is JointKind.FREE for body in world.bodies)
    if ground == "no" or (ground == "auto" and (world.fixtures or not free)):
        return world
    taken = {body.name for body in world.bodies} | {fixture.name for fixture in world.fixtures}
    name = "ground" if "ground" not in taken else next(f"ground{k}" for k in range(2, 99) if f"ground{k}" not in taken)
    fixtures = (*world.fixtures, Fixture((Geometry(PlaneShape()),), name=name))
    return RigidWorld(world.bodies, fixtures, world.actuators, world.gravity)


def selected(runs: Sequence[TimedRun], which: str) -> list[TimedRun]:
    """The runs of `0:16`, `3,5,8` or both.

    Raises:
        ValueError: if it is no such text, or there are no such runs.
    """
    chosen: list[int] = []
    for part in filter(None, (part.strip() for part in which.split(","))):
        try:
            bounds = [int(number) if number.strip() else None for number in part.split(":")]
            found = list(range(len(runs)))[slice(*bounds)] if ":" in part else [range(len(runs))[int(part)]]
        except (ValueError, TypeError, IndexError):
            raise ValueError(f"structwm calibrate needs runs such as 0:16 or 3,5,8 of the {len(runs)} recorded ones, got {part!r}.") from None
        if not found:
            raise ValueError(f"There are no runs {part} in the {len(runs)} recorded ones.")
        chosen += found
    return [runs[k] for k in dict.fromkeys(chosen)] if chosen else list(runs)


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=OTHER, separated by spaces or commas, as a mapping.

    Raises:
        ValueError: if something is not written so.
    """
    found = {}
    for part in ",".join(given).split(","):
        name, equals, value = part.partition("=")
        if part and not (name and equals and value):
            raise ValueError(f"structwm calibrate needs {option} as NAME=VALUE, got {part!r}.")
        if part:
            found[name] = value
    return found


def make_twin(config: CalibrateConfig, world: RigidWorld, dt: float) -> WorldTwin:
    """The twin of the engine that was asked for."""
    module, name = ENGINES[config.engine]
    kind: Callable[..., WorldTwin] = getattr(import_module(module), name)
    return kind(world, dt=dt, substeps=config.substeps)


def named(twin: WorldTwin, given: Sequence[str]) -> list[str]:
    """Full names of parameters, each once.

    Raises:
        ValueError: if there are none, one is unknown, or one is named twice.
    """
    names = [name.strip() for part in given for name in part.split(",") if name.strip()]
    if not names:
        raise ValueError(f"structwm calibrate needs --parameters; this scene has {', '.join(twin.physical)}.")
    full = [twin.full_name(name) for name in names]
    twice = [name for name in full if full.count(name) > 1]
    if twice:
        raise ValueError(f"structwm calibrate got the parameter {twice[0]!r} twice; name each once.")
    return full


def split(config: CalibrateConfig, twin: WorldTwin, runs: Sequence[TimedRun]) -> tuple[Recording[Any], Recording[Any] | None]:
    """What is fitted, and what is held out.

    Raises:
        ValueError: if windows or spreads are not written as they should be, or there is nothing to hold out.
    """
    windows = None
    if config.windows is not None:
        try:
            length, stride = (int(number) for number in config.windows.replace(" ", ",").split(","))
        except ValueError:
            raise ValueError(f"structwm calibrate needs windows as L,S: steps of a window, and steps between two starts, got {config.windows!r}.") from None
        if min(length, stride) < 1:
            raise ValueError(f"structwm calibrate needs windows of one step or more, got {config.windows!r}.")
        windows = (length, stride)
    assert twin.spec.dt is not None
    even = [at_steps(run, twin.world, twin.spec.dt) for run in runs]
    spread = start_spread(twin, pairs(config.start_spread, "start-spread"))
    recording = rigid_recording(twin, even, scale=config.scale, start_spread=spread, windows=windows)
    if not config.held_out:
        return recording, None
    if len(runs) < 2:
        raise ValueError("There is one run, of which nothing can be held out; give --held-out 0, or more runs.")
    return recording.split(config.held_out, seed=config.seed)


def start_spread(twin: WorldTwin, given: dict[str, str]) -> dict[str, float]:
    """By displacement of the twin, how far off starts may be: groups of `GROUPS` and bare endings stand for those of all bodies.

    Raises:
        ValueError: on a name that displaces nothing, or what is no positive number.
    """
    found: dict[str, float] = {}
    for name, text in sorted(given.items(), key=lambda pair: "." in pair[0]):  # what names a body goes before what names a kind
        endings = GROUPS.get(name, (name,))
        fits = [full for full in twin.displacements if full == name or full.rpartition(".")[2] in endings]
        if not fits:
            raise ValueError(f"Nothing is displaced by {name!r}; there are {', '.join((*GROUPS, *twin.displacements))}.")
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"structwm calibrate needs start-spread {name} as a number, got {text!r}.") from None
        found |= dict.fromkeys(fits, value)
    return found


def settings_of(config: CalibrateConfig) -> Settings:
    """How to search."""
    base = QUICK if config.quick else Settings()
    return Settings(
        evaluations=base.evaluations if config.evaluations is None else config.evaluations,
        iterations=base.iterations if config.iterations is None else config.iterations,
        explore=base.explore,
        rounds=base.rounds,
        seed=config.seed,
    )


def words_of(config: CalibrateConfig, twin: WorldTwin, recording: Recording[Any], held_out: Recording[Any] | None, settings: Settings) -> dict[str, str]:
    """What was calibrated and how, for the report."""
    assert twin.spec.dt is not None
    held = 0 if held_out is None else len(held_out.runs.unique())
    return {
        "scene": str(config.scene),
        "recording": f"{' '.join(config.episodes)}{f', runs {config.runs}' if config.runs else ''}",
        "runs": f"{len(recording.runs.unique())} to fit, {held} held out",
        "trajectories to fit": f"{len(recording)} of up to {recording.actions.shape[1]} steps" + (f", windows {config.windows}" if config.windows else ""),
        "twin": f"{type(twin).__name__}, steps of {1000 * twin.spec.dt:.4g} ms in {twin.substeps} substeps",
        "starts": f"fitted along, {' '.join(config.start_spread)}" if config.start_spread else "as recorded",
        "search": f"{settings.evaluations} draws (CMA-ES), up to {settings.iterations} steps (Gauss-Newton), {settings.rounds} x {settings.explore} draws "
        "where the loss is rough",
        "seed": str(settings.seed),
    }


def show(calibration: Calibration[Any], recording: Recording[Any], level: float, console: Console) -> None:
    """Print what was found."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("parameter", "unit", "value", f"{100 * level:g} % interval", "narrowed", "note"):
        table.add_column(title, justify="left" if title in ("parameter", "unit", "note") else "right", overflow="fold")
    for row in parameter_rows(calibration, level=level):
        style = "yellow" if "not identified" in row.note else None
        table.add_row(row.name, row.unit, f"{row.value:.4g}", f"{row.low:.4g} to {row.high:.4g}", f"{row.narrowed:.3g} x", row.note, style=style)
    console.print(table)
    rows = list(error_rows(calibration, recording))
    errors = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    errors.add_column("mean error")
    words = {"calibration": "runs of the fit", "held out": "held out", "persistence": "held out, held still"}
    for split_name, _ in rows[0][2]:
        errors.add_column(words.get(split_name, split_name), justify="right")
    for name, unit, found in rows:
        errors.add_row(f"{name} {unit}", *(f"{value:.4g}" if name in calibration.errors[part] else "-" for part, value in found))
    console.print(errors)
    for warning in calibration.warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", soft_wrap=True, highlight=False)
    console.print(f"{calibration.seconds:.1f} s", highlight=False)
