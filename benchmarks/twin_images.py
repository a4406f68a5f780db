"""Friction from masks alone: a block pushed in PyBullet and seen by two cameras, and on images made by others the rest of a push after its first 12."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim, differing, fraction_claim, settings_hash
from structwm.data import fetch, load_push_t
from structwm.demos import image_calibration as demo
from structwm.demos.image_calibration import FRICTIONS, HALF, PushTFit, film_block, fit_push_t, friction_from_images, planar_error

KEPT = Path(__file__).parent / "artefacts" / "twin_images.json"
OTHERS = 20  # frictions, blocks and pushes drawn at random beside the five
LEVEL = 0.9
FITTED = 12  # first images of the T that are looked at
SIZE = 200  # of its images [px]


@dataclass(frozen=True)
class Case:
    """A block and how it is pushed."""

    friction: float
    half: tuple[float, float, float] = HALF  # [m]
    seed: int | None = None  # of the pushes; None: those of the demo


def cases() -> list[Case]:
    """The five, then others."""
    rng = np.random.default_rng(0)
    found = [Case(friction) for friction in FRICTIONS]
    for seed in range(OTHERS):
        length, width, height = (float(rng.uniform(*bounds)) for bounds in ((0.04, 0.07), (0.03, 0.05), (0.02, 0.035)))
        found.append(Case(float(np.exp(rng.uniform(np.log(0.1), np.log(0.7)))), (length, width, height), seed))
    return found


def measure(case: Case) -> dict[str, Any]:
    """Friction and interval of one case, as plain JSON."""
    begin = time.perf_counter()
    found = friction_from_images(film_block(case.friction, half=case.half, seed=case.seed))
    low, high = found.intervals(LEVEL)["block.friction"]
    return {"value": found.values["block.friction"], "low": low, "high": high, "seconds": time.perf_counter() - begin}


def config() -> str:
    """Changes when what is calibrated, or how, changes."""
    pushes = [demo.DT, demo.FRAMES, demo.PUSH, demo.WIDTH, demo.HEIGHT]
    return settings_hash([asdict(case) for case in cases()], differing(demo.SETTINGS), demo.PARAMETERS, demo.SCALE, demo.SPREAD, demo.REPEATED, pushes, LEVEL)


def measured(console: Console) -> list[dict[str, Any]]:
    """Every case, each kept beside this file as it is done."""
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    found: list[dict[str, Any]] = kept["cases"] if kept.get("config") == config() else []
    for case in cases()[len(found) :]:
        row = measure(case)
        found.append(row)
        console.print(f"friction {case.friction:.3f}: {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}], {row['seconds']:.0f} s")
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps({"config": config(), "cases": found}, indent=1) + "\n", encoding="utf-8")
    return found


def kept_cases() -> list[dict[str, Any]]:
    """What the last full run found.

    Raises:
        ValueError: if it was found under other settings, or the run was not finished.
    """
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    if kept.get("config") != config() or len(kept["cases"]) < len(cases()):
        raise ValueError("The kept frictions were found under other settings; run python -m benchmarks.twins once without --quick.")
    found: list[dict[str, Any]] = kept["cases"]
    return found


def image_claims(console: Console, quick: bool) -> dict[str, Any]:
    """Frictions from masks, and the T. `quick` shows the frictions that were kept, and fits the T anew."""
    rows = kept_cases() if quick else measured(console)
    return friction_claims(rows, console) | push_t_claims(console)


def friction_claims(rows: Sequence[Mapping[str, Any]], console: Console) -> dict[str, Any]:
    """How far off, and how often within the interval."""
    table = Table(
        "block [mm]", "friction", "from masks", f"{100 * LEVEL:.0f} % interval", "within", title="friction of a pushed block, two cameras of 96 x 72 px"
    )
    hits, errors, far = [], [], []
    for case, row in zip(cases(), rows, strict=True):
        hits.append(row["low"] <= case.friction <= row["high"])
        errors.append(abs(row["value"] - case.friction) / case.friction)
        far.append(abs(row["value"] - case.friction) / ((row["high"] - row["low"]) / 2))
        size = " x ".join(f"{2e3 * half:.0f}" for half in case.half)
        table.add_row(size, f"{case.friction:.3f}", f"{row['value']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}", "yes" if hits[-1] else "no")
    console.print(table)
    five = len(FRICTIONS)
    console.print(
        f"the five: {sum(hits[:five])} of {five} within, errors up to {100 * max(errors[:five]):.1f} %; the others: {sum(hits[five:])} of {OTHERS} within, "
        f"{100 * float(np.median(errors[five:])):.1f} % in the middle, up to {100 * max(errors[five:]):.1f} % ({max(far[five:]):.1f} half widths)"
    )
    return {
        "image_friction_covered": fraction_claim(sum(hits[:five]), five),
        "image_friction_error_max": claim(max(errors[:five]), n=five, low=min(errors[:five]), high=max(errors[:five])),
        "image_friction_covered_others": fraction_claim(sum(hits[five:]), OTHERS),
        "image_friction_error_median_others": claim(float(np.median(errors[five:])), n=OTHERS, low=min(errors[five:]), high=max(errors[five:])),
    }


def push_t_claims(console: Console) -> dict[str, Any]:
    """The T's pose on the images behind the first 12, beside its last seen pose held still, and beside fits to true poses."""
    images = load_push_t(fetch("pinwm_push_t"), size=SIZE)
    last = len(images.times) - 1
    masks = fit_push_t(images, fitted=FITTED)
    poses, whole = (fit_push_t(images, fitted=count, given=images.poses[:count]) for count in (FITTED, last))
    errors = {
        "its last pose, held still": masks.still,
        f"twin, fitted to the masks of {FITTED} images": masks.errors,
        f"twin, fitted to the true poses of {FITTED}": poses.errors,
        "twin, fitted to all true poses": planar_error(whole.poses[FITTED - whole.slide.begin :], images.poses[FITTED:]),
    }
    table = Table(
        "model", "position [mm]", "rotation [deg]", "at the end", "friction", title=f"the T on images {FITTED} to {last}: mean error, error at the end"
    )
    for (name, error), fit in zip(errors.items(), (None, masks, poses, whole), strict=True):
        millimetres, degrees = 1e3 * error[:, 0], torch.rad2deg(error[:, 1])
        end = f"{millimetres[-1]:.2f} mm, {degrees[-1]:.2f} deg"
        table.add_row(name, f"{millimetres.mean():.2f}", f"{degrees.mean():.2f}", end, "" if fit is None else _friction(fit))
    console.print(table)
    console.print(f"The run is cut at image {masks.slide.begin}, where the T is fastest; the pusher's shape is not in the set.")
    return {
        "push_t_position_mm": _over(1e3 * masks.errors[:, 0]),
        "push_t_persistence_mm": _over(1e3 * masks.still[:, 0]),
        "push_t_rotation_deg": _over(torch.rad2deg(masks.errors[:, 1])),
        "push_t_persistence_rotation_deg": _over(torch.rad2deg(masks.still[:, 1])),
        "push_t_pose_fit_mm": _over(1e3 * poses.errors[:, 0]),
        "push_t_pose_fit_rotation_deg": _over(torch.rad2deg(poses.errors[:, 1])),
    }


def _friction(fit: PushTFit) -> str:
    low, high = fit.calibration.intervals(LEVEL)["block.friction"]
    return f"{fit.calibration.values['block.friction']:.4f} [{low:.4f}, {high:.4f}]"


def _over(values: torch.Tensor) -> dict[str, Any]:
    """The mean over images of one run, which are no independent measurements, with their range."""
    return claim(float(values.mean()), n=len(values), low=float(values.min()), high=float(values.max()))
