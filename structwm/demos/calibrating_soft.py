"""`structwm calibrate` of soft bodies, cloths and ropes: their parameters from tracks, clouds and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor

from structwm.data.atomic import write_bytes
from structwm.data.rope_motion import CABLES
from structwm.physics.calibration import Calibration, Settings, calibrate
from structwm.physics.recording import Recording, predict
from structwm.physics.rod_scene import Rod
from structwm.physics.rod_tracks import rod_recording
from structwm.physics.rod_twin import RodTwin
from structwm.physics.saving import TWIN, save_calibration
from structwm.physics.soft_runs import read_soft_run, read_vertices
from structwm.physics.soft_shapes import RodShape, SpringShape, read_shape
from structwm.physics.spring_fit import fit_springs, topology_prior
from structwm.physics.spring_twin import SpringTwin
from structwm.report.calibration import calibration_page, draw_calibration, read_generations
from structwm.training.saving import save_model

from .calibrating import first_time, show
from .evaluating import _drawing as require_drawing
from .pushing import one_thread
from .soft_bodies import Placed, held_out_part, matched, placed_body, soft_recording, thinned

SEGMENT = 250  # instants of a part of a rod's run

CURVATURES = "curvatures"  # in a list of parameters, the natural curvatures of all vertices
SPRINGS = "springs"  # of the twin with a stiffness of each spring, beside the calibrated one


@dataclass(frozen=True)
class CalibrateSoftConfig:
    """Fit parameters of a soft body, cloth or rope to a recorded motion: values, intervals, errors on what was held out, a report, the twin.

    Of a single run the last frames are held out, and predicted from its first frame; of several, whole runs. Run again with the same arguments it goes on where
    it was stopped.
    """

    shape: Annotated[str, tyro.conf.Positional]  # what structwm reconstruct wrote, .npz or .json of points and springs or of a rod, or DLO1 or DLO2
    recording: Annotated[str, tyro.conf.Positional]  # .npz with times, controllers, tracks, clouds, depth or masks; of a cable deform_rope
    parameters: tuple[str, ...] = ()  # what is fitted, separated by commas: stiffness,damping,reach
    grip: float | None = None  # distance up to which particles move with a controller [m]; by default those the recording says are held, or 1.5 spacings
    attach: float | None = None  # instead, distance up to which springs join a controller with particles [m]
    push: float | None = None  # radius of the spheres with which controllers push [m]
    points: int = 400  # particles at most; a shape of more is thinned, and near points are joined anew
    neighbours: int = 24  # of a particle that is joined anew, at most
    mass: float = 0.2  # of the whole body [kg]; motion alone does not tell it
    register: Literal["auto", "yes", "no"] = "auto"  # look for the shape in the first frame; auto: where it does not fit, if the recording does not place it
    ground: Literal["auto", "yes", "no"] = "auto"  # whether a plane at z = 0 is there; auto: where nothing was seen below it
    springs: bool = False  # fit a stiffness of each spring after the parameters
    spring_steps: int = 36  # rollouts with gradients of that fit
    driven: tuple[int, ...] = ()  # vertices of a rod that move as recorded; by default those of its file, or both ends
    runs: str = ""  # which runs of a rod: 0:16, or 3,5,8; by default all
    segment: int = SEGMENT  # instants of the parts into which runs of a rod are cut, each with its recorded start
    substeps: int | None = None  # of a step; by default 2000 a second for springs, 2 for rods
    held_out: float = 0.3  # share of the frames, or runs, that only measures the error; 0 holds none out
    scale: float = 0.005  # size of an error that matters [m]
    evaluations: int | None = None  # draws of the global search, 150 by default, 40 of a rod
    iterations: int | None = None  # steps downhill at most, 6 by default
    level: float = 0.9  # of the intervals shown
    folder: Path = Path("runs/calibration")  # of results, and of the journal from which an interrupted run goes on
    seed: int = 0  # of the search and of draws
    quick: bool = False  # fewer draws and steps, for a first look


@dataclass(frozen=True)
class Job:
    """What is calibrated on what."""

    twin: Any
    recording: Recording[Any]
    held_out: Recording[Any] | None
    words: dict[str, str]  # for the report


def main(config: CalibrateSoftConfig) -> Calibration[Any]:
    """Calibrate, print the tables, write `calibration.json`, `calibration.safetensors`, `twin.safetensors`, `report.html` and its pictures.

    Raises:
        DataUnavailable: if there are no such files.
        ValueError: on what does not fit; the sentence says what to do.
        ImportError: if what draws is not installed.
    """
    check(config)
    require_drawing()
    console = Console() if Console().is_terminal else Console(width=140)
    with one_thread():
        shape = read_shape(config.shape)
        if config.springs and isinstance(shape, RodShape):
            raise ValueError("structwm calibrate fits a stiffness of each spring for bodies of springs, not for rods; leave --springs away.")
        if config.register == "yes" and isinstance(shape, RodShape):
            raise ValueError("structwm calibrate looks for bodies of springs, not for rods, whose vertices are tracked; leave --register away.")
        job = _rod_job(config, shape) if isinstance(shape, RodShape) else _spring_job(config, shape)
        names = _names(job.twin, config.parameters)
        settings = _settings(config, isinstance(shape, RodShape))
        for text in job.words.values():
            console.print(text, soft_wrap=True, highlight=False)
        prior = topology_prior(job.twin, names) if isinstance(job.twin, SpringTwin) else None
        found = calibrate(
            job.twin, job.recording, names, held_out=job.held_out, prior=prior, settings=settings, folder=config.folder, progress=console.is_terminal
        )
        found = first_time(found, config.folder)
        save_calibration(found, config.folder, level=config.level)
        show(found, job.recording, config.level, console)
        words = job.words | (_springs(config, found, job, console) if config.springs else {})
        with console.status("drawing the report"):
            shown = job.recording if job.held_out is None else job.held_out
            pictures = draw_calibration(found, shown, generations=read_generations(config.folder), level=config.level)
            for name, image in pictures.items():
                write_bytes(config.folder / f"{name}.png", [image])
            title = f"{Path(config.shape).name}, calibrated on {Path(config.recording).name}"
            facts = {"shape": config.shape, "recording": config.recording} | words | {"seed": str(config.seed)}
            report = calibration_page(found, shown, title=title, settings=facts, level=config.level, pictures=pictures).write(config.folder / "report.html")
    console.print(f"twin: {config.folder / TWIN}.safetensors, for structwm.training.load_model", soft_wrap=True)
    console.print(f"report: [bold]{report}[/bold]", soft_wrap=True)
    return found


def check(config: CalibrateSoftConfig) -> None:
    """Refuse numbers that cannot be.

    Raises:
        ValueError: says which, and what it should be.
    """
    for name, least in (("points", 4), ("neighbours", 1), ("spring_steps", 3), ("segment", 4), ("substeps", 1), ("evaluations", 0), ("iterations", 0)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"structwm calibrate needs {name.replace('_', '-')} of {least} or more, got {value}.")
    for name in ("grip", "attach", "push", "mass", "scale"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"structwm calibrate needs {name} above 0, got {value:g}.")
    if not 0 <= config.held_out < 1 or not 0 < config.level < 1:
        raise ValueError(f"structwm calibrate needs held-out from 0 to below 1 and a level between 0 and 1, got {config.held_out:g} and {config.level:g}.")
    if config.grip is not None and (config.attach is not None or config.push is not None):
        raise ValueError(
            "structwm calibrate takes --grip or --attach, not both, and --grip without --push: particles move with a controller, or hang on it, or are pushed."
        )


def _names(twin: Any, given: tuple[str, ...]) -> list[str]:
    """Full names of parameters; `curvatures` are all natural curvatures of a rod that is curved.

    Raises:
        ValueError: if there are none, one is unknown, or one is named twice.
    """
    names = [name.strip() for part in given for name in part.split(",") if name.strip()]
    curvatures = getattr(twin, "curvatures", ())
    if CURVATURES in names and not curvatures:
        raise ValueError(f"structwm calibrate finds {CURVATURES} of rods with a director alone; write one into the .json of the rod.")
    names = [own for name in names for own in (curvatures if name == CURVATURES and curvatures else (name,))]
    if not names:
        raise ValueError(f"structwm calibrate needs --parameters; this thing has {', '.join(twin.physical)}.")
    return [str(name) for name in twin.space(names).names]


def _settings(config: CalibrateSoftConfig, rod: bool) -> Settings:
    evaluations = config.evaluations if config.evaluations is not None else 30 if config.quick else 40 if rod else 150
    iterations = config.iterations if config.iterations is not None else 3 if config.quick else 6
    return (
        Settings(evaluations=evaluations, iterations=iterations, explore=0, seed=config.seed, dof=8.0)
        if rod
        else Settings(evaluations=evaluations, iterations=iterations, explore=0, opening=0.4, seed=config.seed)
    )


def _spring_job(config: CalibrateSoftConfig, shape: SpringShape) -> Job:
    """A network of springs and its one run."""
    if config.recording in CABLES or config.recording == "deform_rope":
        raise ValueError("The set deform_rope holds cables; calibrate DLO1 or DLO2, or a .json file with a rod, on it.")
    run, left = matched(read_soft_run(config.recording), shape, config.register)
    body = thinned(shape, config.points, config.neighbours, run.held)
    placed: Placed = placed_body(body, run, config)
    substeps = config.substeps or max(4, round(2000 * run.dt))
    radius = min(0.005, 0.25 * float(placed.body.lengths.median()))
    twin = SpringTwin(placed.body, dt=run.dt, substeps=substeps, stages=4, values={"mass": config.mass, "radius": radius})
    recording, seen = soft_recording(twin, placed, run, config)
    words = {
        "body": f"{placed.body.points} particles of {len(shape.points)} points, {len(placed.body.springs)} springs; {placed.words}",
        "seen": f"{run.frames} frames of {1000 * run.dt:.4g} ms; {seen}",
    } | ({"left aside": left} if left else {})
    if not config.held_out:
        return Job(twin, recording, None, words)
    split = run.frames - max(1, round(config.held_out * run.frames))
    late, missing = held_out_part(recording, split)
    words["held out"] = f"frames {split} to {run.frames - 1}, predicted from the first frame{missing}"
    return Job(twin, recording.until(split - 1), late, words)


def _rod_job(config: CalibrateSoftConfig, shape: RodShape) -> Job:
    """A rod and the runs of its vertices."""
    tracks, dt = read_vertices(config.recording, config.shape if config.shape in CABLES else None)
    chosen = _chosen(config.runs, len(tracks))
    tracks = tracks[chosen]
    if shape.vertices is not None and len(shape.vertices) != tracks.shape[2]:
        raise ValueError(f"The rod has {len(shape.vertices)} vertices and the recording tracks {tracks.shape[2]}; give a rod without vertices to take those.")
    told, held, words = _set_aside(tracks, chosen, config)
    curved: dict[str, Any] = {} if shape.director is None else {"curved": True, "director": shape.director}
    rod = Rod.from_tracks(told, driven=config.driven or shape.driven, radius=shape.radius, **curved)
    twin = RodTwin(rod, dt=dt, substeps=config.substeps or 2)
    seen = {
        "rod": f"{rod.vertices} vertices, {100 * rod.length:.1f} cm, driven {', '.join(map(str, rod.driven))}" + (", curved" if curved else ""),
        "seen": f"{len(tracks)} runs of {tracks.shape[1]} frames of {1000 * dt:.4g} ms",
    }
    few = rod_recording(twin, told, scale=config.scale, segment=config.segment)
    if held is None:
        return Job(twin, few, None, seen)
    unseen = rod_recording(twin, held, scale=config.scale)
    return Job(twin, few, unseen if len(tracks) > 1 else held_out_part(unseen, told.shape[1] - 1)[0], seen | words)


def _set_aside(tracks: Tensor, numbers: Tensor, config: CalibrateSoftConfig) -> tuple[Tensor, Tensor | None, dict[str, str]]:
    """Tracks (N, T, V, 3) of runs with numbers (N,) to fit, and those to judge by: other runs, or of one run all of it, whose end was not fitted; and that in
    words."""
    if not config.held_out:
        return tracks, None, {}
    if len(tracks) > 1:
        held = min(max(1, round(config.held_out * len(tracks))), len(tracks) - 1)
        order = torch.randperm(len(tracks), generator=torch.Generator().manual_seed(config.seed))
        words = {"held out": f"runs {', '.join(map(str, sorted(numbers[order[:held]].tolist())))}, whole"}
        return tracks[order[held:].sort().values], tracks[order[:held].sort().values], words
    split = tracks.shape[1] - max(1, round(config.held_out * tracks.shape[1]))
    if split < 4:
        raise ValueError(f"structwm calibrate has {split} frames left to fit; hold out less than {config.held_out:g}, or record more.")
    return tracks[:, :split], tracks, {"held out": f"frames {split} to {tracks.shape[1] - 1}, predicted from the first two"}


def _chosen(which: str, count: int) -> Tensor:
    """Numbers of the runs of `0:16`, `3,5,8` or both.

    Raises:
        ValueError: if there are no such runs.
    """
    found: list[int] = []
    for part in filter(None, (part.strip() for part in which.split(","))):
        try:
            bounds = [int(number) if number.strip() else None for number in part.split(":")]
            found += list(range(count))[slice(*bounds)] if ":" in part else [range(count)[int(part)]]
        except (ValueError, TypeError, IndexError):
            raise ValueError(f"structwm calibrate needs runs such as 0:16 or 3,5,8 of the {count} recorded ones, got {part!r}.") from None
    if which.strip() and not found:
        raise ValueError(f"There are no runs {which} in the {count} recorded ones.")
    return torch.tensor(list(dict.fromkeys(found)) or list(range(count)))


def _springs(config: CalibrateSoftConfig, found: Calibration[Any], job: Job, console: Console) -> dict[str, str]:
    """Fit a stiffness of each spring, and keep the twin with them."""
    steps = 9 if config.quick else config.spring_steps
    fit = fit_springs(found.twin, job.recording, steps=steps, spread=0.5, smooth=0.15, progress=console.is_terminal)
    words = f"a stiffness of each spring: {fit.seconds:.0f} s, {'kept' if fit.kept >= 0 else 'dropped, for it predicts the instants held back no better'}"
    facts: dict[str, Any] = {"kept": fit.kept >= 0, "seconds": fit.seconds}
    if job.held_out is not None:
        errors = {}
        for label, twin in (("alike", found.twin), ("each", fit.twin)):
            with torch.no_grad():
                each = job.held_out.magnitudes(job.held_out.compare(predict(twin, job.held_out)))
            errors[label] = {name: float(value.nanmean()) for name, value in each.items()}
        facts["held out"] = errors
        told = ", ".join(f"{name} {errors['each'][name]:.4g} (alike: {errors['alike'][name]:.4g})" for name in errors["each"])
        words += f"; held out: {told}, in m or shares"
    save_model(fit.twin, config.folder / SPRINGS, facts=facts)
    console.print(words, soft_wrap=True, highlight=False)
    return {"springs": words}
