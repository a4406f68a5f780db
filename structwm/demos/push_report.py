"""The pushing demo's figures and report, drawn from what its stages left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from structwm.report.animation import ClosedLoop, gallery, legend
from structwm.report.html import Block, Cell, Figure, Markup, Number, Page, Section, Table, Text, Tiles
from structwm.report.pushing import PredictedPushes, draw_convergence, draw_errors, draw_pushes, draw_strip, interval_bar, pooled_errors
from structwm.report.style import GREEN, GREY, SKY, VERMILLION

from .push_stages import AFTER, BEFORE, ENGINES, PUBLISHED, STILL, Options, Part

CHANGES = {
    "latency": "latency {1} control step instead of {0}",
    "friction": "friction on the ground {1:g} instead of {0:g}",
    "mass": "mass {1:g} kg instead of {0:g} kg",
    "pusher_friction": "friction at the pusher {1:g} instead of {0:g}",
}


def cells_of(part: Part) -> list[PredictedPushes]:
    """The test pushes of a calibration stage, by object."""
    cells = []
    for k, facts in enumerate(part.facts["cells"]):
        own = {name.removeprefix(f"{k}/"): values for name, values in part.arrays.items() if name.startswith(f"{k}/")}
        given = [name.removeprefix("predicted/") for name in own if name.startswith("predicted/")]
        order = [model for model in (STILL, *PUBLISHED.values(), BEFORE, AFTER) if model in given]
        order += [model for model in given if model not in order]
        predicted = {model: own.pop(f"predicted/{model}") for model in order}
        cells.append(PredictedPushes(name=facts["name"], tip_radius=facts["tip_radius"], predicted=predicted, **own))
    return cells


def models_of(part: Part) -> list[str]:
    """The models that predicted, the calibrated twin and the planner's model last."""
    return list(cells_of(part)[0].predicted)


def loops_of(part: Part) -> list[ClosedLoop]:
    """The closed loops of a control stage, each until the slider rested at its goal."""
    arrays, facts, loops = part.arrays, part.facts, []
    for i, goal in enumerate(arrays["goals"]):
        end = int(min(arrays["steps"][i] + 1, len(arrays["poses"])))
        title = f"goal {i + 1}: {'reached' if arrays['reached'][i] else 'missed'} in {(end - 1) * facts['dt']:.1f} s"
        loops.append(
            ClosedLoop(
                outline=arrays["outline"],
                pusher_radius=facts["pusher_radius"],
                poses=arrays["poses"][:end, i],
                pushers=arrays["pushers"][:end, i],
                goal=goal,
                dt=facts["dt"],
                reached=bool(arrays["reached"][i]),
                title=title,
            )
        )
    return loops


def figures_of(parts: Mapping[str, Part]) -> dict[str, Any]:
    """Every number of the report, as plain JSON."""
    figures: dict[str, Any] = {}
    for key in ("real", "object"):
        cells = cells_of(parts[key])
        facts = parts[key].facts
        figures[key] = {"source": facts.get("source", facts.get("engine")), "pooled": _errors(cells), "cells": {}, "intervals": facts.get("intervals")}
        for cell in cells:
            figures[key]["cells"][cell.name] = _errors([cell])
    for key in ("known", "unseen"):
        arrays, facts = parts[key].arrays, parts[key].facts
        figures[key] = {
            "engine": facts["engine"],
            "changes": facts["changes"],
            "goals": len(arrays["reached"]),
            "reached": int(arrays["reached"].sum()),
            "position_error_mm": (1000 * arrays["position_error"]).tolist(),
            "yaw_error_deg": np.degrees(arrays["yaw_error"]).tolist(),
            "seconds_to_goal": (arrays["steps"] * facts["dt"]).tolist(),
            "plan_ms": facts["plan_ms"],
        }
    figures["wall_seconds"] = {key: part.facts["wall_seconds"] for key, part in parts.items()}
    return figures


def _errors(cells: Sequence[PredictedPushes]) -> dict[str, dict[str, float]]:
    """Mean and median error by model."""
    table = {}
    for model in cells[0].predicted:
        position, yaw = pooled_errors(cells, model)
        table[model] = {
            "mean_mm": 1000 * float(position.mean()),
            "median_mm": 1000 * float(np.median(position)),
            "mean_rad": float(yaw.mean()),
            "median_rad": float(np.median(yaw)),
            "n": len(position),
        }
    return table


def build(options: Options, parts: Mapping[str, Part], figures: Mapping[str, Any]) -> Page:
    """The page."""
    first, last = (ENGINES[parts[key].facts["engine"]] for key in ("known", "unseen"))
    where = f"in {first} and in {last}" if last != first else f"in {first}, as calibrated and changed"
    return Page(
        title="A pushing twin, calibrated and put to work",
        lead="A twin is a fast physics model whose parameters are read from a few recorded pushes. Below: how well it predicts pushes it has not seen, "
        f"and how a planner uses it to move an object to goal poses {where}.",
        top=[Tiles(_tiles(parts, figures))],
        sections=[
            _loops(parts),
            _real(parts["real"], figures["real"]),
            _object(parts["object"], figures["object"]),
            _time(parts),
            _made(options, parts, figures),
        ],
        foot="All figures of this page are in figures.json and calibration.json beside it.",
    )


def _tiles(parts: Mapping[str, Part], figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    real, own, known, unseen = figures["real"]["pooled"], figures["object"]["pooled"], figures["known"], figures["unseen"]
    peer, words = (PUBLISHED["poly4"], "the published 4th-order model") if PUBLISHED["poly4"] in real else (BEFORE, "the uncalibrated twin")
    kind = "real" if parts["real"].facts["source"] == "mit_push" else "recorded"
    few = parts["object"].facts["cells"][0]["calibration_pushes"]
    names = [ENGINES[figures[key]["engine"]] for key in ("known", "unseen")]
    return [
        (
            f"{real[AFTER]['mean_mm']:.2f} mm",
            f"mean error of the calibrated twin on {real[AFTER]['n']} {kind} pushes it has not seen; {words}: {real[peer]['mean_mm']:.2f} mm, "
            f"{STILL}: {real[STILL]['mean_mm']:.1f} mm",
        ),
        (
            f"{own[AFTER]['mean_mm']:.2f} mm",
            f"mean error on new pushes of an object in {names[0]} after {few} of its pushes; before: {own[BEFORE]['mean_mm']:.2f} mm",
        ),
        (f"{known['reached']} of {known['goals']}", f"goals reached with that object in {names[0]}, to 1 cm and 5\N{DEGREE SIGN}"),
        (f"{unseen['reached']} of {unseen['goals']}", f"goals reached in {names[1]} with friction, mass and latency that calibration did not see"),
    ]


def _loops(parts: Mapping[str, Part]) -> Section:
    known, unseen = parts["known"].facts, parts["unseen"].facts
    changes = [CHANGES[name].format(*values) for name, values in unseen["changes"].items()]
    return Section(
        "The closed loop",
        [
            Text(
                f"Ten times a second the planner (MPPI) sees where the object is, tries pushes in {_planner(parts['object'])} and sends the first step of "
                "the best. It is told neither the physics nor the latency of the world. The animations run in real time."
            ),
            Markup(legend([(SKY, "object"), (GREEN, "goal (dashed), object at its goal"), (VERMILLION, "pusher and its path"), (GREY, "start (outline)")])),
            Markup(f"<h3>{ENGINES[known['engine']]}, as calibrated</h3>"),
            Markup(gallery(loops_of(parts["known"]))),
            Markup(f"<h3>{ENGINES[unseen['engine']]}, with physics the model does not know</h3>"),
            Text(f"Changed after calibration: {', '.join(changes)}.", small=True),
            Markup(gallery(loops_of(parts["unseen"]))),
        ],
    )


def _planner(part: Part) -> str:
    """What the planner predicts with, in words."""
    planner = part.facts["planner"]
    if planner["gate"] is None:
        return str(planner["words"])
    return f"{planner['words']} (here {100 * planner['gate']:.0f} %)"


def _real(part: Part, figures: Mapping[str, Any]) -> Section:
    cells, facts = cells_of(part), part.facts
    beside = PUBLISHED["poly4"] if PUBLISHED["poly4"] in cells[0].predicted else BEFORE
    real = facts["source"] == "mit_push"
    if real:
        intro = (
            "A robot pushed flat objects over abs and plywood with a round tip (Yu et al., IROS 2016). A fifth of each object's pushes calibrates the twins, "
            "all together: objects on one surface have much in common. Every error is on the other pushes. Two published models (Zhou et al., ICRA 2016), "
            "fitted by their authors on pushes of their own, are judged on the same ones."
        )
    else:
        intro = facts["note"] + " A fifth of each object's pushes calibrates its twin; every error is on the others."
    models = list(cells[0].predicted)
    rows = [[model, *_means(figures["pooled"][model]), *(_short(figures["cells"][cell.name][model]) for cell in cells)] for model in models]
    header = ["mean error on test pushes", "all [mm]", "all [rad]", *(f"{cell.name} [mm, rad]" for cell in cells)]
    sizes = ", ".join(f"{cell['name']} {cell['calibration_pushes']} and {cell['test_pushes']}" for cell in facts["cells"])
    blocks: list[Block] = [
        Text(intro),
        Table(header, rows, strong=[models.index(AFTER)], caption=f"Predicted against measured final pose. Pushes that calibrate and that test: {sizes}."),
        Text(_intervals(facts["intervals"])),
        Figure(
            draw_errors(cells, models, ours=AFTER),
            "All test pushes. Boxes: quartiles, with the median as a line; whiskers: 5 to 95 %; diamond and number: mean.",
            "boxes of the errors of each model",
        ),
        Figure(
            draw_pushes(cells, ours=AFTER, beside=beside),
            "Test pushes, from well to badly predicted by the calibrated twin. Black is what happened, blue dashes what the calibrated twin predicted.",
            "predicted beside measured final poses",
        ),
    ]
    return Section("Predicting real pushes" if real else "Predicting recorded pushes", blocks)


def _intervals(intervals: Mapping[str, Mapping[str, float]]) -> str:
    covered = ", ".join(f"{100 * entry['covered']:.0f} % in {name}" for name, entry in intervals.items())
    widths = ", ".join(f"{name} {entry['width']:.3f} rad" if name == "yaw" else f"{name} {1000 * entry['width']:.1f} mm" for name, entry in intervals.items())
    level = 100 * next(iter(intervals.values()))["level"]
    return f"The twin also says how sure it is: its {level:.0f} % predictive intervals cover {covered} of the test pushes; median widths {widths}."


def _means(errors: Mapping[str, float]) -> list[Cell]:
    return [Number(errors["mean_mm"], 2), Number(errors["mean_rad"], 4)]


def _short(errors: Mapping[str, float]) -> str:
    return f"{errors['mean_mm']:.2f}, {errors['mean_rad']:.3f}"


def _object(part: Part, figures: Mapping[str, Any]) -> Section:
    cell, facts = cells_of(part)[0], part.facts["cells"][0]
    engine, models = ENGINES[part.facts["engine"]], list(cell.predicted)
    rows = [_parameter(name, entry, part.facts["truth"].get(name)) for name, entry in (facts["parameters"] | part.facts["derived"]).items()]
    blocks: list[Block] = [
        Text(
            f"{facts['calibration_pushes']} straight pushes in {engine} are all that the twin of this box of 100 x 60 mm, heavier at one corner, learns from. "
            "The engine computes with contact points and impulses; where a parameter of the twin has a counterpart there, the table shows it."
        ),
        Table(
            ["parameter", "what it is", "before", "calibrated", "90 % interval", "in the engine", "before (tick), now (dot, interval)"],
            rows,
            caption="Parameters and what the pushes say of them.",
        ),
        *(Text(sentence[0].upper() + sentence[1:], small=True) for sentence in facts["warnings"]),
        Table(
            ["error on other pushes", "mean [mm]", "mean [rad]", "median [mm]", "median [rad]"],
            [[model, *_means(errors), Number(errors["median_mm"], 2), Number(errors["median_rad"], 4)] for model, errors in figures["pooled"].items()],
            strong=[models.index(AFTER)],
            caption=f"Predicted against simulated final pose of {facts['test_pushes']} pushes that did not calibrate.",
        ),
        Figure(draw_pushes([cell], ours=AFTER, beside=BEFORE), f"Some of these pushes in {engine}, drawn as above.", "predicted beside simulated final poses"),
    ]
    return Section(f"A twin of an object in {engine}", blocks)


def _parameter(name: str, entry: Mapping[str, Any], truth: float | None) -> list[Cell]:
    """A row of the table of parameters; lengths in millimetres."""
    scale, unit = (1000.0, " mm") if entry["unit"] == "m" else (1.0, "" if entry["unit"] == "-" else f" {entry['unit']}")
    low, high, value, before = (scale * x for x in (*entry["interval"], entry["value"], entry["default"]))
    digits = 1 if scale > 1 else 3
    interval = f"{low:.{digits}f} to {high:.{digits}f}"
    shown = "" if truth is None else f"{scale * truth:.{digits}f}{unit}"
    return [name, entry["help"], f"{before:.{digits}f}{unit}", f"{value:.{digits}f}{unit}", interval, shown, interval_bar(value, (low, high), before)]


def _time(parts: Mapping[str, Part]) -> Section:
    facts = parts["known"].facts
    groups = {f"{_world(parts[key])}, {words}": loops_of(parts[key]) for key, words in (("known", "as calibrated"), ("unseen", "unseen physics"))}
    ways = [loop.errors() for loop in loops_of(parts["known"])]
    far = int(np.argmax([position[0] / facts["position_tolerance"] + yaw[0] / facts["yaw_tolerance"] for position, yaw in ways]))
    strip = [replace(loops[far], title=name.replace(", ", "\n")) for name, loops in groups.items()]
    rows = []
    for i, goal in enumerate(parts["known"].arrays["goals"]):
        start = parts["known"].arrays["poses"][0, i]
        turn = np.degrees((goal[2] - start[2] + np.pi) % (2 * np.pi) - np.pi)
        way = f"{1000 * float(np.linalg.norm(goal[:2] - start[:2])):.0f} mm, {turn:+.0f}\N{DEGREE SIGN}"
        rows.append([f"goal {i + 1}", way, *(text for key in ("known", "unseen") for text in _outcome(parts[key], i))])
    first, second = (_world(parts[key]) for key in ("known", "unseen"))
    header = [
        "",
        "way to go",
        *(f"{name}: {what}" for name in (first, second if second != first else f"{first}, changed") for what in ("time", "left at the end")),
    ]
    reach = draw_convergence(groups, position_tolerance=facts["position_tolerance"], yaw_tolerance=facts["yaw_tolerance"])
    return Section(
        "Goal by goal",
        [
            Table(header, rows),
            Figure(reach, "Distance and yaw error over time; the green band is within the tolerance of 1 cm and 5 degrees.", "errors over time"),
            Figure(
                draw_strip(strip),
                f"Goal {far + 1}, the farthest from its start, frame by frame: object (blue), goal (green), pusher and its path (orange).",
                "film strip",
            ),
        ],
    )


def _world(part: Part) -> str:
    return ENGINES[part.facts["engine"]]


def _outcome(part: Part, i: int) -> tuple[str, str]:
    """Time and remaining error of a goal."""
    arrays = part.arrays
    left = f"{1000 * arrays['position_error'][i]:.1f} mm, {np.degrees(arrays['yaw_error'][i]):.1f}\N{DEGREE SIGN}"
    return f"{arrays['steps'][i] * part.facts['dt']:.1f} s", left if arrays["reached"][i] else f"{left}: missed"


def _made(options: Options, parts: Mapping[str, Part], figures: Mapping[str, Any]) -> Section:
    names = {
        "real": "reading pushes, calibrating and judging twins",
        "object": "recording pushes of the object and calibrating its twin",
        "known": f"closed loop in {_world(parts['known'])}",
        "unseen": f"closed loop in {_world(parts['unseen'])}, changed",
    }
    plans = {key: f", {parts[key].facts['plan_ms']:.0f} ms a plan for all {options.goals} goals at once" for key in ("known", "unseen")}
    rows = [[names[key] + plans.get(key, ""), f"{seconds:.1f} s"] for key, seconds in figures["wall_seconds"].items()]
    command = (
        f"structwm demo --seed {options.seed} --goals {options.goals} --pushes {options.pushes} --samples {options.samples} --cells {' '.join(options.cells)}"
    )
    return Section("How this was made", [Table(["step", "wall time"], rows), Text(command, small=True)])
