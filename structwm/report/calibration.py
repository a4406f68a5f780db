"""The report of a calibration: what the parameters are and how sure, what the data cannot tell, how well the twin predicts what it has not seen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structwm.physics.calibration import Calibration
from structwm.physics.recording import Recording

from .calibration_figures import draw_correlations, draw_losses, draw_over_time, draw_parameters, draw_runs, for_people, unit_of, written_unit
from .html import Block, Figure, Page, Section, Table, Text, Tiles

LOOSE = 1 / 0.7  # times narrower than the prior, below which a parameter is called unidentified, as calibration warns
EDGE, NEARER = 0.02, 0.2  # of a parameter's range, and of the way from a bound to what was expected, within which a value is called at its bound
FAR = 3.0  # prior standard deviations from the middle, beyond which a value is called unexpected
TOGETHER = 0.9  # correlation from which two parameters trade off
PARTS = 0.3  # of a direction, below which a parameter is not named
WEAK = 3  # directions in words


@dataclass(frozen=True)
class ParameterRow:
    """What a calibration says of one parameter."""

    name: str
    help: str
    unit: str  # "" for none
    before: float  # the middle of the prior
    value: float
    low: float
    high: float
    narrowed: float  # how many times narrower than the prior, in the space in which it is fitted
    note: str  # one or several remarks, or ""


def parameter_rows(calibration: Calibration[Any], *, level: float = 0.9) -> list[ParameterRow]:
    """Every parameter with its interval, how much the data narrowed it, and what is to be said of it."""
    prior = calibration.prior.covariance.diagonal().sqrt()
    shrink = prior / calibration.covariance.diagonal().sqrt()
    away = (calibration.z - calibration.prior.mean) / prior
    correlation = calibration.correlations()
    middle, intervals = calibration.space.unpack(calibration.prior.mean), calibration.intervals(level)
    rows = []
    for k, parameter in enumerate(calibration.space.parameters):
        notes, place, expected = [], float(calibration.z[k].sigmoid()), float(calibration.prior.mean[k].sigmoid())
        if float(shrink[k]) < LOOSE:
            notes.append("not identified")
        if place < min(EDGE, NEARER * expected):
            notes.append("at its lower bound")
        if 1 - place < min(EDGE, NEARER * (1 - expected)):
            notes.append("at its upper bound")
        if abs(float(away[k])) > FAR:
            notes.append("far from what was expected")
        with_others = [name for i, name in enumerate(calibration.space.names) if i != k and abs(float(correlation[k, i])) > TOGETHER]
        if with_others:
            notes.append(f"trades off against {', '.join(with_others)}")
        unit = "" if parameter.unit == "-" else parameter.unit
        value, name = calibration.values[parameter.name], parameter.name
        rows.append(ParameterRow(name, parameter.help, unit, float(middle[name]), value, *intervals[name], float(shrink[k]), "; ".join(notes)))
    return rows


def error_rows(calibration: Calibration[Any], recording: Recording[Any]) -> Iterator[tuple[str, str, list[tuple[str, float]]]]:
    """By observed name: name, unit for people, and mean error by split in that unit, NaN where the split has none of it."""
    for name in calibration.errors["calibration"]:
        found = {split: errors.get(name, math.nan) for split, errors in calibration.errors.items()}
        largest = max((abs(value) for value in found.values() if math.isfinite(value)), default=0.0)
        factor, unit = for_people(unit_of(name, calibration, recording), largest)
        yield name, unit, [(split, factor * value) for split, value in found.items()]


def directions_in_words(calibration: Calibration[Any], *, count: int = WEAK) -> list[str]:
    """The weakest directions, a sentence each: which parameters, and how much the data says of them together."""
    sentences = []
    for k, (narrowed, way) in enumerate(calibration.directions()[:count]):
        ranked = sorted(way.items(), key=lambda part: -abs(part[1]))
        named = [(name, part) for name, part in ranked if abs(part) >= PARTS] or ranked[:1]
        first = named[0][1]
        words = [named[0][0], *(f"{name} {'with' if part * first > 0 else 'against'} it" for name, part in named[1:])]
        gain = f"makes it {narrowed:.3g} times narrower than the prior"
        says = "says nothing" if narrowed < 1.05 else f"hardly {gain}" if narrowed < LOOSE else gain if narrowed < 1e4 else "pins it down"
        place = ("The weakest direction", "The next", "The third")[k] if k < 3 else f"Number {k + 1}"
        sentences.append(f"{place} is {' and '.join(words)}: the data {says}.")
    return sentences


def read_generations(folder: Path) -> list[list[float]]:
    """The losses of the global search by generation, from the journal that `calibrate(folder=...)` keeps; none without one."""
    file = folder / "journal.jsonl"
    if not file.is_file():
        return []
    lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}"))
    return [line["value"] for line in lines if line["label"] == "draws"]


def draw_calibration(
    calibration: Calibration[Any],
    recording: Recording[Any],
    *,
    labels: Sequence[str] = (),
    truth: Mapping[str, float] | None = None,
    generations: Sequence[Sequence[float]] = (),
    level: float = 0.9,
) -> dict[str, bytes]:
    """Every picture of the report, PNG, by name. `recording` is what predictions are drawn of: the held-out trajectories, or all where none were held out."""
    return {
        "parameters": draw_parameters(calibration, truth=truth, level=level),
        "search": draw_losses(calibration, generations=generations),
        "correlations": draw_correlations(calibration),
        "over_time": draw_over_time(calibration, recording),
    } | {f"runs_{name}": image for name, image in draw_runs(calibration, recording, labels=labels).items()}


def calibration_page(
    calibration: Calibration[Any],
    recording: Recording[Any],
    *,
    title: str = "A calibrated twin",
    labels: Sequence[str] = (),
    truth: Mapping[str, float] | None = None,
    generations: Sequence[Sequence[float]] = (),
    settings: Mapping[str, str] | None = None,
    level: float = 0.9,
    pictures: Mapping[str, bytes] | None = None,
) -> Page:
    """The report.

    Args:
        calibration: what is reported.
        recording: trajectories of which predictions are drawn: the held-out ones, or all where none were held out.
        title: of the page.
        labels: what the runs of the recording are called, by `Recording.origin`.
        truth: true values by name, where they are known.
        generations: losses of the global search, `read_generations`.
        settings: what was calibrated and how, in words, for a table.
        level: of the intervals.
        pictures: those of `draw_calibration`, if they are drawn already.

    Raises:
        ValueError: if a name in `truth` is no parameter of the twin.
    """
    known = {calibration.twin.full_name(name): value for name, value in (truth or {}).items()}
    pictures = pictures or draw_calibration(calibration, recording, labels=labels, truth=truth, generations=generations, level=level)
    rows = parameter_rows(calibration, level=level)
    held = "held out" in calibration.errors
    identified = sum("not identified" not in row.note for row in rows)
    kind = type(calibration.twin).__name__
    return Page(
        title=title,
        lead=f"{len(rows)} parameters of a {kind} were fitted to recorded motion. Below: their values and how sure they are, how well the twin predicts "
        + ("runs that the fit has not seen" if held else "the runs it was fitted to (none were held out)")
        + ", and what the data cannot tell.",
        top=[Tiles(_tiles(calibration, recording, identified)), *(Text(sentence) for sentence in calibration.warnings)],
        sections=[
            _parameters(calibration, rows, known, pictures, level),
            _predictions(calibration, recording, pictures, held),
            _identifiability(calibration, pictures),
            _made(calibration, recording, pictures, dict(settings or {})),
        ],
        foot="All numbers of this page are in calibration.json beside it.",
    )


def _tiles(calibration: Calibration[Any], recording: Recording[Any], identified: int) -> list[tuple[str, str]]:
    tiles = []
    for name, unit, errors in list(error_rows(calibration, recording))[:2]:
        by = {split: value for split, value in errors if name in calibration.errors[split]}
        split = "held out" if "held out" in by else "calibration"
        still = f"; held still {by['persistence']:.3g} {unit}" if "persistence" in by else ""
        tiles.append((f"{by[split]:.3g} {unit}", f"mean error of {name}, {'runs held out' if split == 'held out' else 'runs of the fit'}{still}"))
    tiles.append((f"{identified} of {len(calibration.space)}", "parameters that the data identifies"))
    tiles.append((f"{calibration.seconds:.1f} s", "of calibration" + (", the last go" if calibration.seconds < 1 else "")))
    return tiles


def _parameters(
    calibration: Calibration[Any], rows: Sequence[ParameterRow], truth: Mapping[str, float], pictures: Mapping[str, bytes], level: float
) -> Section:
    header = ["parameter", "what it is", "unit", "before", "calibrated", f"{100 * level:g} % interval", "narrowed", *(["true"] if truth else []), "note"]
    cells = [
        [
            row.name,
            row.help,
            written_unit(row.unit),
            f"{row.before:.4g}",
            f"{row.value:.4g}",
            f"{row.low:.4g} to {row.high:.4g}",
            f"{row.narrowed:.3g} x",
            *([f"{truth[row.name]:.4g}" if row.name in truth else ""] if truth else []),
            row.note,
        ]
        for row in rows
    ]
    how = (
        "The loss is rough, as that of motion with impacts is, so the intervals are the bootstrap's: how far the fit moves when runs are drawn anew."
        if calibration.explored
        else f"The intervals allow for errors that hang together in time and within a run: variances were widened {calibration.inflation:.3g} times for it."
    )
    return Section(
        "Parameters",
        [
            Table(header, cells, caption="Narrowed: standard deviation of the prior over that after the data, in the space in which the parameter is fitted."),
            Figure(
                pictures["parameters"],
                "Grey: what was expected before. Blue: what the data says. A blue bar as wide as the grey one means that the data says nothing.",
                "parameters with their intervals over their priors",
                "png",
            ),
            Text(how, small=True),
        ],
    )


def _predictions(calibration: Calibration[Any], recording: Recording[Any], pictures: Mapping[str, bytes], held: bool) -> Section:
    rows = list(error_rows(calibration, recording))
    splits = [split for split, _ in rows[0][2]]
    words = {"calibration": "runs of the fit", "held out": "held out", "persistence": "held out, held still"}
    table = []
    for name, unit, errors in rows:
        by = dict(errors)
        gain = f"{by['persistence'] / by['held out']:.2f} x" if held and by["held out"] > 0 else ""
        table.append([name, unit, *(f"{by[split]:.4g}" if name in calibration.errors[split] else "-" for split in splits), *([gain] if held else [])])
    blocks: list[Block] = [
        Table(
            ["mean error", "unit", *(words.get(split, split) for split in splits), *(["smaller by"] if held else [])],
            table,
            caption="Mean over instants and runs of open-loop predictions from each start. Held still: the start repeated, what a model must beat.",
        ),
        Figure(
            pictures["over_time"],
            "Errors of open-loop predictions since the start: median over runs, and quartiles, as long as half of them last.",
            "errors over time beside the start held still",
            "png",
        ),
    ]
    for name, image in pictures.items():
        if name.startswith("runs_"):
            what = name.removeprefix("runs_")
            blocks.append(
                Figure(
                    image,
                    f"{'Coordinates' if what == 'coordinates' else what[0].upper() + what[1:]} of a well, a middling and a badly predicted run"
                    f"{' among those held out' if held else ''}. Pale lines: twins drawn from the posterior.",
                    f"predicted beside observed motion of {what}",
                    "png",
                )
            )
    return Section("Predictions" + (" of runs that the fit has not seen" if held else ""), blocks)


def _identifiability(calibration: Calibration[Any], pictures: Mapping[str, bytes]) -> Section:
    condition = calibration.condition
    says = (
        "the directions are about equally well known"
        if condition < 100
        else "some combinations of parameters are known far better than others"
        if condition < 1e6
        else "some combinations of parameters hardly show in this data"
    )
    return Section(
        "What the data tells, and what it does not",
        [
            Text(f"The condition number of the data's information is {condition:.2g}, in units of the prior: {says}."),
            *(Text(sentence) for sentence in directions_in_words(calibration)),
            Figure(
                pictures["correlations"],
                "Left: parameters that move together in the posterior; near 1 or -1 the data tells only a combination. "
                "Right: each row is a direction in the space of the parameters, in units of the prior, and the number before it how much the data narrows it.",
                "posterior correlations and principal directions",
                "png",
            ),
        ],
    )


def _made(calibration: Calibration[Any], recording: Recording[Any], pictures: Mapping[str, bytes], settings: dict[str, str]) -> Section:
    noise = []
    for name, scale in calibration.noise.items():
        factor, unit = for_people(unit_of(name, calibration, recording), scale)
        noise.append([name, f"{factor * scale:.4g}", unit])
    facts = settings | {
        "error model": f"Student-t with {calibration.dof:g} degrees of freedom",
        "variances widened by": f"{calibration.inflation:.3g}",
        "gradient numbers left out": f"{calibration.nonfinite}",
        "time": f"{calibration.seconds:.1f} s since it was last started",
    }
    return Section(
        "How it was found",
        [
            Figure(
                pictures["search"], "Left: draws of the global search. Right: steps downhill from the best of them.", "losses of search and refinement", "png"
            ),
            Table(["what was fitted to", "scale of the errors", "unit"], noise, caption="Scales of the prediction errors, estimated along."),
            Table(["setting", "value"], [[name, value] for name, value in facts.items()]),
        ],
    )
