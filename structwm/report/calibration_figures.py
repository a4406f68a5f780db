"""Figures of calibrations: parameters against their priors, the search, what the data says together and apart, predictions beside what was observed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from structwm.geometry import quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector
from structwm.physics.calibration import Calibration
from structwm.physics.cloud_measurement import CloudMeasurement
from structwm.physics.measurements import PoseMeasurement, TrackMeasurement, chosen_points
from structwm.physics.recording import Recording, persistence, predict
from structwm.transition import Trajectory

from . import figures
from .cloud_figures import draw_clouds
from .evaluation import Kind, grid_of, set_scale
from .style import BLUE, GREY, INK, PALE, SKY, VERMILLION

Array = NDArray[Any]
DRAWS = 12  # cousins whose predictions are drawn beside the fitted twin's
RUNS = 3  # of a figure: well, middling and badly predicted
SHARE = 0.5  # of the trajectories that an instant of a curve needs; shorter ones end before
MOST = 24  # parameters in one matrix


def draw_parameters(calibration: Calibration[Any], *, truth: Mapping[str, float] | None = None, level: float = 0.9, kind: Kind = "png") -> bytes:
    """Every parameter's value and interval over the interval of its prior, on its own scale, with the truth where it is known."""
    names, truth = calibration.space.names, _full(calibration, truth)
    before = calibration.prior.covariance.diagonal().sqrt() * float(stats.norm.ppf(0.5 + level / 2))
    low, high = (calibration.space.unpack(calibration.prior.mean + sign * before) for sign in (-1, 1))
    start, interval = calibration.space.unpack(calibration.prior.mean), calibration.intervals(level)
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    with figures.look():
        figure = figures.new(9.6, 0.85 * rows + 0.55)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[len(names) :]:
            axis.remove()
        for axis, name, parameter in zip(axes, names, calibration.space.parameters, strict=False):
            axis.barh(0, float(high[name] - low[name]), left=float(low[name]), height=0.7, color=PALE, label=f"prior, {100 * level:g} %")
            axis.plot([float(start[name])] * 2, [-0.35, 0.35], color=GREY, linewidth=1.5, label="middle of the prior")
            axis.plot(interval[name], [0, 0], color=BLUE, linewidth=6, alpha=0.45, solid_capstyle="butt", label=f"interval, {100 * level:g} %")
            axis.plot(calibration.values[name], 0, "o", color=BLUE, markersize=6, label="calibrated")
            if name in truth:
                axis.plot(truth[name], 0, "D", color=VERMILLION, markersize=7, fillstyle="none", markeredgewidth=1.6, label="true")
            if parameter.scale == "log" and float(high[name]) > 3 * float(low[name]):
                _plain_log(axis)
            axis.set(ylim=(-0.6, 0.6), yticks=[])
            axis.spines["left"].set_visible(False)
            axis.grid(axis="y", visible=False)
            low_end, high_end = interval[name]
            shown = f"{name}: {calibration.values[name]:.4g} ({low_end:.3g} to {high_end:.3g}) {written_unit(parameter.unit)}"
            axis.set_title(shown, fontsize=9)
            axis.tick_params(labelsize=8)
        _legend(figure, axes[: len(names)])
        return figures.to_bytes(figure, kind)


def draw_losses(calibration: Calibration[Any], *, generations: Sequence[Sequence[float]] = (), kind: Kind = "png") -> bytes:
    """The draws of the global search with the best so far, and the steps downhill after it. The noise scales change in between, and losses with them."""
    with figures.look():
        figure = figures.new(9.6, 3.1)
        left, right = figure.subplots(1, 2)
        if generations:
            drawn = np.concatenate([np.asarray(losses, dtype=np.float64) for losses in generations])
            best = np.minimum.accumulate(drawn)
            top = float(np.quantile(drawn, 0.9))
            left.plot(np.arange(1, len(drawn) + 1), np.minimum(drawn, top), ".", color=SKY, markersize=3, alpha=0.7, label="a draw")
            left.plot(np.arange(1, len(drawn) + 1), best, color=BLUE, linewidth=1.8, label="best so far")
            left.set_ylim(float(best[-1]) - 0.05 * (top - float(best[-1]) + 1e-9), top)
            left.legend(loc="upper right")
        else:
            left.text(0.5, 0.5, "no global search", ha="center", transform=left.transAxes, color=GREY)
        left.set(title="global search", xlabel="draws", ylabel="negative log posterior")
        losses = np.array(calibration.losses)
        right.plot(np.arange(len(losses)), losses, color=BLUE, marker="o", markersize=4, linewidth=1.6)
        right.set(title="steps downhill", xlabel="steps")
        right.xaxis.get_major_locator().set_params(integer=True)
        for axis in (left, right):
            axis.yaxis.get_major_formatter().set_useOffset(False)
        return figures.to_bytes(figure, kind)


def draw_correlations(calibration: Calibration[Any], *, kind: Kind = "png") -> bytes:
    """Posterior correlations, and the principal directions of what the data says, weakest first, with how much it narrows each."""
    names = list(calibration.space.names)[:MOST]
    matrix = calibration.correlations().numpy()[: len(names), : len(names)]
    directions = calibration.directions()
    parts = np.array([[way[name] for name in names] for _, way in directions])
    with figures.look():
        figure = figures.new(10.4, 1.5 + 0.36 * max(len(names), 4))
        left, right = figure.subplots(1, 2)
        _matrix(left, matrix, names, names)
        left.set_title("posterior correlations")
        _matrix(right, parts, [f"{_times(narrowed)}" for narrowed, _ in directions], names)
        right.set_title("directions of the data, weakest first")
        return figures.to_bytes(figure, kind)


def _matrix(axis: Any, values: Array, rows: Sequence[str], columns: Sequence[str]) -> None:
    axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.grid(visible=False)
    for (i, k), value in np.ndenumerate(values):
        if abs(value) >= 0.095 and max(values.shape) <= 14:
            axis.text(k, i, f"{value:.1f}", ha="center", va="center", fontsize=7.5, color="white" if abs(value) > 0.6 else INK)


def _times(factor: float) -> str:
    return f"{factor:.3g} x" if factor < 1e4 else f"{factor:.0e} x"


@dataclass(frozen=True)
class Curves:
    """Errors of every trajectory over its instants 1 to H, in a unit for people."""

    name: str
    unit: str
    error: Array  # (N, H) of the calibrated twin
    still: Array  # (N, H) of holding still


def error_curves(calibration: Calibration[Any], recording: Recording[Any]) -> list[Curves]:
    """By observed name, errors of the calibrated twin beside those of the start held still; angles in degrees."""
    with torch.no_grad():
        found, still = (recording.magnitudes(recording.compare(made(calibration.twin, recording))) for made in (predict, persistence))
    curves = []
    for name in found:
        unit = unit_of(name, calibration, recording)
        factor, shown = for_people(unit, float(still[name].nan_to_num(0.0).max()))
        curves.append(Curves(name, shown, factor * found[name].numpy(), factor * still[name].numpy()))
    return curves


def unit_of(name: str, calibration: Calibration[Any], recording: Recording[Any]) -> str:
    """The unit of an observed name."""
    scene = calibration.twin.scene
    if name in recording.observed:
        coordinates = scene.coordinate_names(recording.state)
        return str(dict(zip(coordinates, scene.coordinate_units(recording.state), strict=True))[name])
    return "rad" if name.endswith(".rotation") else "m" if name.endswith(".position") or name in ("points", "tracks", "cloud") else ""


def for_people(unit: str, size: float) -> tuple[float, str]:
    """A factor, and the unit that it leads to: degrees for radians, millimetres for short lengths."""
    if unit == "rad":
        return 180 / math.pi, "deg"
    return (1000.0, "mm") if unit == "m" and size < 1.0 else (1.0, unit)


def draw_over_time(calibration: Calibration[Any], recording: Recording[Any], *, kind: Kind = "png") -> bytes:
    """Errors since the start, median and quartiles over trajectories, beside the start held still; a panel for each observed name."""
    curves = error_curves(calibration, recording)[:9]
    dt = float(calibration.twin.spec.dt or 1.0)
    with figures.look():
        figure, axes = grid_of(len(curves))
        for axis, curve in zip(axes, curves, strict=True):
            middles = []
            for values, color, label in ((curve.error, BLUE, "calibrated twin"), (curve.still, GREY, "held still")):
                count = np.isfinite(values).sum(0)
                seen = count >= max(1.0, SHARE * count.max())
                time = dt * (np.flatnonzero(seen) + 1)
                low, middle, high = np.nanquantile(values[:, seen], [0.25, 0.5, 0.75], axis=0)
                marker = "o" if len(time) == 1 else None
                axis.fill_between(time, low, high, color=color, alpha=0.18, linewidth=0)
                axis.plot(time, middle, color=color, linewidth=1.8, linestyle="-" if color == BLUE else (0, (4, 2)), marker=marker, label=label)
                middles.append(middle)
            axis.set_title(f"{curve.name} [{curve.unit}]" if curve.unit else curve.name)
            set_scale(axis, middles[1], [middles[0]])
        figure.supxlabel("time since the start [s]", fontsize=9.5)
        figure.supylabel("error", fontsize=9.5)
        _legend(figure, axes)
        return figures.to_bytes(figure, kind)


def draw_runs(
    calibration: Calibration[Any], recording: Recording[Any], *, labels: Sequence[str] = (), runs: int = RUNS, kind: Kind = "png"
) -> dict[str, bytes]:
    """Predicted beside observed, a row for a well, a middling and a badly predicted trajectory; a picture for each body whose poses were observed, one for
    tracks and one for all joints and other coordinates. Pale lines are twins drawn from the posterior.

    Args:
        calibration: the calibrated twin.
        recording: trajectories.
        labels: what the runs of the recording are called, by `Recording.origin`.
        runs: how many trajectories, at most.
        kind: of picture.
    """
    chosen = _chosen(calibration, recording, runs)
    few = recording[torch.tensor(chosen)]
    names = [_label(recording, number, labels) for number in chosen]
    with torch.no_grad():
        fitted, still = predict(calibration.twin, few), persistence(calibration.twin, few)
        cousins = predict(calibration.sample(DRAWS), few)
    pictures: dict[str, bytes] = {}
    for measurement in few.measurements:
        if isinstance(measurement, PoseMeasurement):
            for k, body in enumerate(measurement.bodies):
                index = fitted.scene.body_names.index(body)
                poses = [trajectory.poses()[..., index, :].double() for trajectory in (fitted, still, cousins)]
                panels = [_pose_panels(measurement.poses[:, :, k].double(), poses, row) for row in range(len(chosen))]
                pictures[body] = _draw_panels(panels, names, calibration, f"{body}: ", kind)
        if isinstance(measurement, TrackMeasurement):
            panels = [_track_panels(measurement, [fitted, still, cousins], row) for row in range(len(chosen))]
            pictures["tracks"] = _draw_panels(panels, names, calibration, "", kind)
        if isinstance(measurement, CloudMeasurement):
            pictures["clouds"] = draw_clouds(measurement, fitted, kind=kind)
    if few.observed:
        panels = [_coordinate_panels(few, fitted, still, cousins, calibration, row) for row in range(len(chosen))]
        pictures["coordinates"] = _draw_panels(panels, names, calibration, "", kind)
    return pictures


@dataclass(frozen=True)
class Panel:
    """One quantity of one trajectory over its instants."""

    name: str
    unit: str
    observed: Array | None  # (H+1,); None for errors
    fitted: Array  # (H+1,)
    still: Array | None  # (H+1,), for errors
    cousins: Array  # (E, H+1)


def _pose_panels(observed: Any, poses: Sequence[Any], row: int) -> list[Panel]:
    """x, y, z and the error of rotation."""
    seen, (fitted, still, cousins) = observed[row], (part[row] for part in poses)
    known = seen.isfinite().all(-1)
    end = int(known.nonzero().max()) + 1
    seen, fitted, still, cousins = seen[:end], fitted[:end], still[:end], cousins[..., :end, :]
    reach = max(float((seen[known[:end], :3] - seen[0, :3]).abs().max()), 1e-6)
    factor, unit = for_people("m", reach)
    panels = [
        Panel(axis, unit, factor * seen[:, k].numpy(), factor * fitted[:, k].numpy(), None, factor * cousins[..., k].numpy()) for k, axis in enumerate("xyz")
    ]
    upright = torch.where(known[:end, None], seen[:, 3:], seen.new_tensor([1.0, 0.0, 0.0, 0.0]))

    def turned(pose: Any) -> Array:
        away = quaternion_multiply(pose[..., 3:], quaternion_conjugate(upright.expand_as(pose[..., 3:])))
        angle = torch.where(known[:end], quaternion_to_rotation_vector(away).norm(dim=-1), math.nan)
        degrees: Array = torch.rad2deg(angle).numpy()
        return degrees

    return [*panels, Panel("error of rotation", "deg", None, turned(fitted), turned(still), turned(cousins))]


def _track_panels(measurement: TrackMeasurement, trajectories: Sequence[Trajectory], row: int) -> list[Panel]:
    """x, y and z of the point that is predicted worst, and the mean error of all."""
    seen = measurement.positions[row].double()
    places = measurement.points, measurement.corners, measurement.weights
    own, still, others = (chosen_points(trajectory.points().positions[row].double(), *places) for trajectory in trajectories)
    moved = (seen - seen[0]).norm(dim=-1).nan_to_num(0.0)
    most = int((own - seen).norm(dim=-1).nanmean(0).nan_to_num(0.0).argmax())
    factor, unit = for_people("m", max(float(moved.max()), 1e-6))
    at = most if measurement.points is None else measurement.points[most]
    observed, predicted, drawn = ((factor * part[..., most, :]).numpy() for part in (seen, own, others))
    panels = [Panel(f"point {at}, {axis}", unit, observed[:, k], predicted[:, k], None, drawn[..., k]) for k, axis in enumerate("xyz")]
    error, unmoved, errors = ((factor * (part - seen).norm(dim=-1).nanmean(-1)).numpy() for part in (own, still, others))
    return [*panels, Panel("mean error of all points", unit, None, error, unmoved, errors)]


def _coordinate_panels(few: Any, fitted: Trajectory, still: Trajectory, cousins: Trajectory, calibration: Calibration[Any], row: int) -> list[Panel]:
    """Every observed coordinate; angles without jumps."""
    names = fitted.scene.coordinate_names(fitted.states)
    panels = []
    for name in list(few.observed)[:4]:
        at, seen = names.index(name), few.observed[name][row].double()
        known = seen.isfinite()
        end = int(known.nonzero().max()) + 1
        factor, unit = for_people(unit_of(name, calibration, few), float((seen[known] - seen[known][0]).abs().max()))
        own, others = (part.coordinates()[row][..., :end, at].double().numpy() for part in (fitted, cousins))
        observed = seen[:end].numpy().copy()
        if name in few.periodic:
            own, others = np.unwrap(own), np.unwrap(others)
            ahead = np.nan_to_num(observed - own)
            observed = np.where(known[:end].numpy(), observed - 2 * np.pi * np.round(ahead[:1] / (2 * np.pi)), np.nan)
        panels.append(Panel(name, unit, factor * observed, factor * own, None, factor * others))
    return panels


def _draw_panels(panels: Sequence[Sequence[Panel]], names: Sequence[str], calibration: Calibration[Any], prefix: str, kind: Kind) -> bytes:
    """A row for each trajectory, a column for each quantity."""
    dt = float(calibration.twin.spec.dt or 1.0)
    columns = len(panels[0])
    with figures.look():
        figure = figures.new(max(4.6, 2.75 * columns), 2.05 * len(panels) + 0.6)
        grid = figure.subplots(len(panels), columns, squeeze=False)
        for row, (axes, own, name) in enumerate(zip(grid, panels, names, strict=True)):
            for axis, panel in zip(axes, own, strict=True):
                time = dt * np.arange(len(panel.fitted))
                axis.plot(time, panel.cousins.T, color=SKY, linewidth=0.7, alpha=0.6, label="drawn from the posterior")
                if panel.still is not None:
                    axis.plot(time, panel.still, color=GREY, linewidth=1.3, linestyle=(0, (4, 2)), label="held still")
                if panel.observed is not None:
                    axis.plot(time, panel.observed, color=INK, linewidth=2.2, alpha=0.85, label="observed")
                axis.plot(time, panel.fitted, color=BLUE, linewidth=1.5, label="predicted")
                _room(axis, [panel.fitted, *(part for part in (panel.observed, panel.still) if part is not None)], zero=panel.observed is None)
                if row == 0:
                    axis.set_title(f"{prefix}{panel.name} [{panel.unit}]" if panel.unit else f"{prefix}{panel.name}", fontsize=9.5)
                axis.tick_params(labelsize=8)
            axes[0].set_ylabel(name, fontsize=8.5)
        figure.supxlabel("time since the start [s]", fontsize=9.5)
        _legend(figure, grid.ravel())
        return figures.to_bytes(figure, kind)


def _room(axis: Any, values: Sequence[Array], *, zero: bool) -> None:
    """Limits that show what was observed and predicted, whatever single draws do."""
    known = np.concatenate([part[np.isfinite(part)] for part in values])
    low, high = (0.0 if zero else float(known.min())), float(known.max())
    margin = 0.12 * (high - low) or 0.1 * (abs(high) or 1.0)
    axis.set_ylim(low if zero else low - margin, high + margin)


def _label(recording: Recording[Any], number: int, labels: Sequence[str]) -> str:
    """What a trajectory is called: its run, and which window of it where there are several."""
    run = int(recording.runs[number])
    name = labels[run] if run < len(labels) else f"run {run}"
    own = (recording.runs == run).nonzero().flatten().tolist()
    return name if len(own) == 1 else f"{name}\nwindow {own.index(number) + 1}"


def _chosen(calibration: Calibration[Any], recording: Recording[Any], count: int) -> list[int]:
    """Trajectories from the best to the worst predicted."""
    with torch.no_grad():
        found = recording.magnitudes(recording.compare(predict(calibration.twin, recording)))
    errors = sum(value.nanmean(-1) / recording.scales[name] for name, value in found.items())
    order = torch.as_tensor(errors).nan_to_num(math.inf).argsort().tolist()
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [order[place] for place in places]


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    """One legend above, each label once."""
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True) if label not in handles}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=6, fontsize=8.5)


def _full(calibration: Calibration[Any], truth: Mapping[str, float] | None) -> dict[str, float]:
    """True values by full names."""
    return {calibration.twin.full_name(name): value for name, value in (truth or {}).items()}


def written_unit(unit: str) -> str:
    """A unit with its powers raised; nothing for none."""
    return "" if unit == "-" else unit.replace("^2", "\u00b2").replace("^3", "\u00b3")


def _plain_log(axis: Any) -> None:
    """A logarithmic axis whose numbers are written out."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
