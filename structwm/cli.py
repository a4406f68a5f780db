"""The command line: one subcommand a job. Nothing heavy is imported before a job needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

JOBS: dict[str, tuple[str, str]] = {
    "demo": ("structwm.cli:run_demo", "calibrate twins on real pushes, push objects to goals with them, write a report"),
    "fetch": ("structwm.cli:run_fetch", "find or download recorded data sets"),
    "version": ("structwm.cli:run_version", "versions of the library and of what it stands on"),
    "render": ("structwm.cli:run_render", "draw the Gaussian splats of a file into a picture"),
    "reconstruct": ("structwm.cli:run_reconstruct", "posed images to points, mesh, splats, convex pieces and a spring graph"),
    "evaluate": ("structwm.cli:run_evaluate", "judge saved models on recorded episodes: errors, drift, ranking, coverage"),
    "calibrate": ("structwm.cli:run_calibrate", "fit parameters of a scene, soft body or rope to recorded motion, with intervals and a report"),
}
"""By name: where the job is, and what it does."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a job, or say which there are."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return
    name, *rest = given
    if name not in JOBS:
        sys.stderr.write(f"structwm has no job {name!r}; it has {', '.join(JOBS)}.\n")
        raise SystemExit(2)
    module, function = JOBS[name][0].split(":")
    job: Callable[[list[str]], Any] = getattr(import_module(module), function)
    job(rest)


def _help() -> str:
    width = max(map(len, JOBS))
    lines = [f"  {name.ljust(width)}  {text}" for name, (_, text) in JOBS.items()]
    return "structwm: interchangeable structured world models\n\nusage: structwm JOB [options]      structwm JOB --help\n\n" + "\n".join(lines) + "\n"


@contextmanager
def _one_sentence(code: int = 1) -> Iterator[None]:
    """End a job that was given something wrong, or lacks something, with the sentence alone and an exit code."""
    from structwm.data.errors import DataUnavailable

    try:
        yield
    except (DataUnavailable, ImportError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(code) from None


def run_demo(arguments: list[str]) -> None:
    """`structwm demo`."""
    import tyro

    from structwm.demos.pushing import DemoConfig
    from structwm.demos.pushing import main as demo

    with _one_sentence():
        demo(tyro.cli(DemoConfig, args=arguments, prog="structwm demo"))


def run_evaluate(arguments: list[str]) -> None:
    """`structwm evaluate MODEL EPISODES`."""
    import tyro

    from structwm.demos.evaluating import EvaluateConfig
    from structwm.demos.evaluating import main as evaluate

    with _one_sentence():
        evaluate(tyro.cli(EvaluateConfig, args=arguments, prog="structwm evaluate"))


def run_calibrate(arguments: list[str]) -> None:
    """`structwm calibrate SCENE EPISODES`, or `structwm calibrate SHAPE RECORDING` of what deforms."""
    with _one_sentence(2):
        import tyro

        from structwm.physics.soft_shapes import is_shape

        if arguments and arguments[0].startswith("-") and not {"-h", "--help"} & set(arguments):
            raise ValueError(f"structwm calibrate needs the scene or shape first, then the recording, then options such as {arguments[0]}.")
        if arguments and is_shape(arguments[0]):
            from structwm.demos.calibrating_soft import CalibrateSoftConfig
            from structwm.demos.calibrating_soft import main as calibrate_soft

            calibrate_soft(tyro.cli(CalibrateSoftConfig, args=arguments, prog="structwm calibrate"))
            return
        from structwm.demos.calibrating import CalibrateConfig
        from structwm.demos.calibrating import main as calibrate

        calibrate(tyro.cli(CalibrateConfig, args=arguments, prog="structwm calibrate"))


def run_render(arguments: list[str]) -> None:
    """`structwm render FILE`."""
    import tyro

    from structwm.demos.render_file import RenderConfig
    from structwm.demos.render_file import main as draw

    with _one_sentence():
        draw(tyro.cli(RenderConfig, args=arguments, prog="structwm render"))


def run_reconstruct(arguments: list[str]) -> None:
    """`structwm reconstruct FOLDER`."""
    with _one_sentence(2):
        import tyro

        from structwm.demos.reconstructing import ReconstructConfig
        from structwm.demos.reconstructing import main as job

        job(tyro.cli(ReconstructConfig, args=arguments, prog="structwm reconstruct"))


def run_fetch(arguments: list[str]) -> None:
    """`structwm fetch NAME...`."""
    from typing import Annotated

    import tyro

    from structwm.data import fetch
    from structwm.data.registry import data_names

    known = ", ".join(data_names())
    form = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(name="names", metavar="NAME ...", help=f"any of: {known}", help_behavior_hint="")]
    names: tuple[str, ...] = tyro.cli(form, args=arguments, prog="structwm fetch", description="Find or download recorded data sets.")
    with _one_sentence():
        if not names:
            raise ValueError(f"structwm fetch needs the name of at least one data set; it knows {known}.")
        for name in names:
            sys.stdout.write(f"{name}: {fetch(name)}\n")


def run_version(arguments: list[str]) -> None:
    """`structwm version`."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    rows = {"python": platform.python_version()}
    for package in ("structwm", "torch", "warp-lang", "tensordict", "numpy", "gymnasium", "mujoco", "pybullet"):
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed"
    rows["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    for name, value in rows.items():
        sys.stdout.write(f"{name:<12}{value}\n")


if __name__ == "__main__":
    main()
