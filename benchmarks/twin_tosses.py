"""Real cube tosses: three engines calibrated on the same 1, 4, 16 and 64 tosses, and scored on 100 others from their first frame to their end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim, differing, fraction_claim, mean_claim, settings_hash
from structwm.data import fetch
from structwm.data.cube_tosses import FRICTION, GRAVITY, INERTIA, RATE, RESTITUTION, ROUNDING, SIDE, Toss, read_cube_tosses, toss_split
from structwm.demos.real_worlds import tossed_cube
from structwm.geometry import quaternion_conjugate, quaternion_multiply, quaternion_rotate, quaternion_to_rotation_vector, rotation_vector_to_quaternion
from structwm.physics import (
    BulletTwin,
    Calibration,
    MujocoTwin,
    RigidRun,
    RigidTwin,
    Settings,
    WorldTwin,
    calibrate,
    rigid_recording,
)

KEPT = Path(__file__).parent / "artefacts" / "twins.json"
ENGINES: Mapping[str, Callable[..., WorldTwin]] = {"rigid": RigidTwin, "bullet": BulletTwin, "mujoco": MujocoTwin}
NAMES = {"rigid": "RigidTwin", "bullet": "PyBullet", "mujoco": "MuJoCo"}
PARAMETERS = ("friction", "restitution", "stiffness", "inertia", "offset", "gravity")
SETTINGS = Settings(evaluations=600)  # the same draws in every engine; steps downhill where the loss is smooth
SUBSTEPS = (1, 2, 4, 8)
ROUNDINGS = (ROUNDING, 0.0)  # of edges [m]: as the recordings show them, and none, where an engine predicts better with sharp ones
DRAWS = 16  # from the posterior, whose mean prediction is scored beside that of the best fit
SIZES = (1, 4, 16, 64)
CHOSEN_ON = 100  # tosses between those that calibrate and those that test
STATED = {"friction": (FRICTION[0] + FRICTION[1]) / 2, "restitution": RESTITUTION, "inertia": INERTIA}  # by the set's makers
SCALE = (0.08 * SIDE, 0.1)  # [m], [rad], where the noise estimate starts
WITHIN = 1.05  # the largest time step whose error is within this factor of the best


def runs_of(tosses: Sequence[Toss]) -> list[RigidRun]:
    """Tosses as runs of the body `cube`, each from its twist at the first row."""
    return [RigidRun({"cube": toss.poses}, {"cube": np.concatenate((toss.start[None], toss.twists[1:]))}, name=f"toss {toss.number}") for toss in tosses]


def toss_errors(twin: WorldTwin, tosses: Sequence[Toss]) -> np.ndarray:
    """Of each toss (n, 3): mean position error [% of width], mean and last rotation error [deg], over all frames behind the first.

    Of a twin under several draws of its parameters it is the mean prediction that is scored: the mean place, and the rotation that is nearest to all (the
    principal axis of the quaternions; Markley et al., Journal of Guidance, Control, and Dynamics 2007).
    """
    recording = rigid_recording(twin, runs_of(tosses), scale=SCALE)
    members = twin.spec.members
    state = recording.state.apply(lambda value: value.float())
    with torch.no_grad():
        if members == 1:
            states = twin.rollout(state, recording.actions.float()).states
            poses = twin.scene.poses(states)[:, :, 0].double()
        else:
            states = twin.rollout(state.unsqueeze(1).expand(len(recording), members), recording.actions.float()).states
            each = twin.scene.poses(states)[..., 0, :].double()
            axes = torch.linalg.eigh(torch.einsum("nehi,nehj->nhij", each[..., 3:], each[..., 3:])).eigenvectors
            poses = torch.cat((each[..., :3].mean(1), axes[..., -1]), -1)
    return _errors(list(poses.numpy()), tosses)


def _errors(predicted: Sequence[np.ndarray], tosses: Sequence[Toss]) -> np.ndarray:
    rows = []
    for poses, toss in zip(predicted, tosses, strict=True):
        length = len(toss.poses)
        place = np.linalg.norm(poses[1:length, :3] - toss.poses[1:, :3], axis=1) / SIDE * 100
        turn = np.degrees(_angle(torch.tensor(poses[1:length, 3:]), torch.tensor(toss.poses[1:, 3:])).numpy())
        rows.append((place.mean(), turn.mean(), turn[-1]))
    return np.array(rows)


def _angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return quaternion_to_rotation_vector(quaternion_multiply(a, quaternion_conjugate(b))).norm(dim=-1)


def ballistic_then_slide(tosses: Sequence[Toss], friction: float = FRICTION[1], gravity: float = GRAVITY) -> np.ndarray:
    """The floor: free flight until a corner touches, then flat on the nearest face, sliding to a stop. Errors as `toss_errors`."""
    corners = torch.tensor(np.array(np.meshgrid(*[(-SIDE / 2, SIDE / 2)] * 3)).reshape(3, 8).T)
    predicted = []
    for toss in tosses:
        pose, twist = torch.tensor(toss.poses[0]), torch.tensor(toss.start)
        place, turn, speed, landed = pose[:3].clone(), pose[3:].clone(), twist[:3].clone(), False
        rows = [pose.numpy()]
        for _ in range(len(toss.poses) - 1):
            if not landed:
                speed[2] -= gravity / RATE
                place = place + speed / RATE
                turn = quaternion_multiply(rotation_vector_to_quaternion(twist[3:] / RATE), turn)
                low = float((quaternion_rotate(turn.expand(8, 4), corners)[:, 2] + place[2]).min())
                if low < 0:
                    landed, up = True, quaternion_rotate(quaternion_conjugate(turn), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
                    face = torch.zeros(3, dtype=torch.float64)
                    face[int(up.abs().argmax())] = float(up[int(up.abs().argmax())].sign())
                    axis = torch.linalg.cross(quaternion_rotate(turn, face), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
                    angle = torch.asin(axis.norm().clamp(max=1.0))
                    turn = quaternion_multiply(rotation_vector_to_quaternion(axis / axis.norm().clamp_min(1e-12) * angle), turn)
                    place[2], speed[2] = SIDE / 2, 0.0
            else:
                pace = float(speed.norm())
                speed = speed * max(0.0, 1.0 - friction * gravity / RATE / max(pace, 1e-9))
                place = place + speed / RATE
            rows.append(torch.cat((place, turn)).numpy())
        predicted.append(np.stack(rows))
    return _errors(predicted, tosses)


def config() -> str:
    """Changes when what is calibrated, or how, changes."""
    return settings_hash(PARAMETERS, differing(SETTINGS), SUBSTEPS, ROUNDINGS, DRAWS, SIZES, CHOSEN_ON, SCALE)


def calibrated(console: Console) -> dict[str, Any]:
    """Every engine on every number of tosses, at the time step that is best on tosses of neither split. Each engine is kept beside this file as it is done, and
    not calibrated again until the settings change or the file is removed."""
    found = _read()
    if found["config"] != config():
        found = {"config": config(), "engines": {}}
    for engine in ENGINES:
        if engine not in found["engines"]:
            facts = calibrate_engine(engine, console)
            others = _read()
            found = others if others["config"] == config() else {"config": config(), "engines": {}}  # what another engine's run has written meanwhile stays
            found["engines"][engine] = facts
            _write(found)
    if "stated" not in found:
        found["stated"] = held_at_stated(found["engines"]["rigid"]["rounding"], found["engines"]["rigid"]["substeps"])
        _write(found)
    return found


def calibrate_engine(engine: str, console: Console) -> dict[str, Any]:
    """One engine with round edges at every time step on 16 tosses, with sharp ones at the best, then at the better of these on the others."""
    tosses = read_cube_tosses(fetch("contactnets_cube"))
    order, _ = toss_split(len(tosses))

    def fit(size: int, substeps: int, rounding: float) -> Calibration[WorldTwin]:
        twin = ENGINES[engine](tossed_cube(rounding), dt=1 / RATE, substeps=substeps)
        recording = rigid_recording(twin, runs_of([tosses[i] for i in order[:size]]), scale=SCALE)
        return calibrate(twin, recording, PARAMETERS, held_out=None, settings=SETTINGS)

    scores: dict[float, dict[int, float]] = {rounding: {} for rounding in ROUNDINGS}
    fits: dict[tuple[float, int], Calibration[WorldTwin]] = {}

    def scored(rounding: float, substeps: int) -> None:
        begin = time.perf_counter()
        fits[rounding, substeps] = fit(16, substeps, rounding)
        errors = toss_errors(fits[rounding, substeps].twin, [tosses[i] for i in between(len(tosses))])
        scores[rounding][substeps] = float(errors[:, 0].mean())
        console.print(
            f"{NAMES[engine]}, edges rounded by {1e3 * rounding:.1f} mm, {substeps} substeps of {1e3 / RATE / substeps:.2f} ms: "
            f"{errors[:, 0].mean():.2f} % and {errors[:, 1].mean():.1f} deg on {CHOSEN_ON} tosses in between, calibrated in {time.perf_counter() - begin:.0f} s"
        )

    round_edges = scores[ROUNDINGS[0]]
    for substeps in SUBSTEPS:
        scored(ROUNDINGS[0], substeps)
    best = min(round_edges, key=round_edges.__getitem__)
    for rounding in ROUNDINGS[1:]:
        scored(rounding, best)
    shape = min(ROUNDINGS, key=lambda rounding: scores[rounding][best])
    for substeps in SUBSTEPS:
        if substeps not in scores[shape]:
            scored(shape, substeps)
    best = min(scores[shape], key=scores[shape].__getitem__)
    fastest = min(substeps for substeps, score in scores[shape].items() if score <= WITHIN * scores[shape][best])
    sizes = {size: fits[shape, best] if size == 16 else fit(size, best, shape) for size in SIZES}
    return {
        "rounding": shape,
        "substeps": best,
        "fastest": fastest,
        "scores": {f"{rounding:g}": {str(substeps): score for substeps, score in found.items()} for rounding, found in scores.items()},
        "values": {str(size): found.values for size, found in sizes.items()},
        "draws": {str(size): {name: value.tolist() for name, value in found.draw(DRAWS).items()} for size, found in sizes.items()},
        "fast_values": fits[shape, fastest].values,
        "intervals": {str(size): found.intervals(0.9) for size, found in sizes.items()},
        "explored": {str(size): found.explored for size, found in sizes.items()},
    }


def held_at_stated(rounding: float, substeps: int) -> dict[str, float]:
    """What it costs RigidTwin to keep what the set's makers state: mean position error [% of width] on the tosses in between when nothing, one parameter or all
    three are held there, and the others calibrated on 64 tosses."""
    tosses = read_cube_tosses(fetch("contactnets_cube"))
    order, _ = toss_split(len(tosses))
    errors = {}
    for held in ((), *((name,) for name in STATED), tuple(STATED)):
        twin = RigidTwin(tossed_cube(rounding), dt=1 / RATE, substeps=substeps).with_parameters({name: STATED[name] for name in held})
        recording = rigid_recording(twin, runs_of([tosses[i] for i in order]), scale=SCALE)
        fitted = calibrate(twin, recording, [name for name in PARAMETERS if name not in held], held_out=None, settings=SETTINGS).twin
        errors[" and ".join(held) or "nothing"] = float(toss_errors(fitted, [tosses[i] for i in between(len(tosses))])[:, 0].mean())
    return errors


def between(n: int) -> np.ndarray:
    """Tosses neither calibrated nor tested on, by which each engine's time step is chosen."""
    return np.random.default_rng(0).permutation(n)[64 : 64 + CHOSEN_ON]


def _write(found: Mapping[str, Any]) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _read() -> dict[str, Any]:
    if not KEPT.exists():
        return {"config": "", "engines": {}}
    found: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return found


def kept() -> dict[str, Any]:
    """What the last full run calibrated.

    Raises:
        ValueError: if it was calibrated under other settings, or an engine is missing.
    """
    found = _read()
    if found["config"] != config() or set(found["engines"]) != set(ENGINES) or "stated" not in found:
        raise ValueError("The kept calibration was made under other settings; run python -m benchmarks.twins once without --quick.")
    return found


def twin_of(found: Mapping[str, Any], engine: str, size: int) -> WorldTwin:
    """A calibrated twin."""
    facts = found["engines"][engine]
    twin = ENGINES[engine](tossed_cube(facts["rounding"]), dt=1 / RATE, substeps=facts["substeps"])
    return twin.with_parameters(facts["values"][str(size)])


def drawn_twin(found: Mapping[str, Any], engine: str, size: int) -> WorldTwin:
    """The same under draws from the posterior."""
    return twin_of(found, engine, size).with_parameters({name: torch.tensor(value) for name, value in found["engines"][engine]["draws"][str(size)].items()})


def fast_twin(found: Mapping[str, Any], engine: str) -> WorldTwin:
    """A twin at the largest time step whose error is within `WITHIN` of the engine's best, calibrated on 16 tosses at that step."""
    facts = found["engines"][engine]
    return ENGINES[engine](tossed_cube(facts["rounding"]), dt=1 / RATE, substeps=facts["fastest"]).with_parameters(facts["fast_values"])


def other_tosses() -> list[Toss]:
    """All tosses that neither calibrate nor choose time step and edges, the test tosses among them."""
    tosses = read_cube_tosses(fetch("contactnets_cube"))
    return [tosses[i] for i in np.random.default_rng(0).permutation(len(tosses))[64 + CHOSEN_ON :]]


def some_tosses() -> list[Toss]:
    """The test tosses."""
    tosses = read_cube_tosses(fetch("contactnets_cube"))
    return [tosses[i] for i in toss_split(len(tosses))[1]]


def cube_claims(found: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Errors on the test tosses, and how far RigidTwin is from the better engine."""
    chosen = some_tosses()
    table = Table("model", "tosses", "position [% of width]", "median", "rotation [deg]", "median", "wrong face", title=f"{len(chosen)} test tosses, whole")
    claims: dict[str, Any] = {}

    def row(name: str, size: str, errors: np.ndarray) -> None:
        place, turn, last = errors.T
        reach = [1.0 / np.sqrt(len(errors)) * part.std(ddof=1) for part in (place, turn)]
        table.add_row(
            name,
            size,
            f"{place.mean():.2f} +- {reach[0]:.2f}",
            f"{np.median(place):.2f}",
            f"{turn.mean():.1f} +- {reach[1]:.1f}",
            f"{np.median(turn):.1f}",
            f"{(last > 45).mean():.2f}",
        )

    row("ballistic, then slide", "-", ballistic_then_slide(chosen))
    for size in SIZES:
        errors = {engine: toss_errors(twin_of(found, engine, size), chosen) for engine in ENGINES}
        for engine, values in errors.items():
            row(NAMES[engine], str(size), values)
            suffix = "" if engine == "rigid" else f"_{engine}"
            if size in (16, 64):
                claims[f"cube_error_{size}{suffix}"] = mean_claim(values[:, 0])
                claims[f"cube_rotation_{size}{suffix}"] = mean_claim(values[:, 1])
                claims[f"cube_wrong_face_{size}{suffix}"] = fraction_claim(int((values[:, 2] > 45).sum()), len(values))
        if size in (16, 64):
            claims[f"cube_upper_{size}"] = beside_better(errors, f"{len(chosen)} test tosses, {size} calibrate", console)
            means = {engine: toss_errors(drawn_twin(found, engine, size), chosen) for engine in ENGINES}
            claims[f"cube_mean_upper_{size}"] = beside_better(means, f"the same, means of {DRAWS} draws from the posterior", console)
            for engine, values in means.items():
                row(f"{NAMES[engine]}, mean of draws", str(size), values)
                suffix = "" if engine == "rigid" else f"_{engine}"
                claims[f"cube_mean_error_{size}{suffix}"] = mean_claim(values[:, 0])
                claims[f"cube_mean_rotation_{size}{suffix}"] = mean_claim(values[:, 1])
    console.print(table)
    others = other_tosses()
    for size in (16, 64):
        errors = {engine: toss_errors(twin_of(found, engine, size), others) for engine in ENGINES}
        claims[f"cube_upper_{size}_others"] = beside_better(
            errors, f"all {len(others)} tosses that choose neither time step nor edges, {size} calibrate", console
        )
        for engine, values in errors.items():
            claims[f"cube_error_{size}_others" + ("" if engine == "rigid" else f"_{engine}")] = mean_claim(values[:, 0])
    show_parameters(found, console)
    return claims


def beside_better(errors: Mapping[str, np.ndarray], what: str, console: Console) -> dict[str, Any]:
    """A claim of how far RigidTwin's mean position error is above that of the better engine, at most (95 % of the paired bootstrap) [% of width]."""
    better = min(("bullet", "mujoco"), key=lambda engine: errors[engine][:, 0].mean())
    gap = errors["rigid"] - errors[better]
    draws = np.random.default_rng(0).integers(0, len(gap), (10_000, len(gap)))
    low, high = np.quantile(gap[draws, 0].mean(1), [0.05, 0.95])
    console.print(
        f"{what}: {', '.join(f'{NAMES[engine]} {values[:, 0].mean():.2f} %' for engine, values in errors.items())}; RigidTwin minus {NAMES[better]} "
        f"{gap[:, 0].mean():+.2f} % of width, 90 % of paired bootstrap {low:+.2f} to {high:+.2f}; rotation {gap[:, 1].mean():+.1f} deg"
    )
    return claim(float(high), n=len(gap), low=float(low), high=float(high))


def show_parameters(found: Mapping[str, Any], console: Console) -> None:
    """Fitted values with intervals beside what the makers of the set state."""
    truth = {"friction": f"{FRICTION[0]} to {FRICTION[1]}", "restitution": str(RESTITUTION), "inertia": str(INERTIA), "gravity": "9.81"}
    table = Table("parameter", "stated", *(f"{NAMES[engine]}, 64" for engine in ENGINES), "RigidTwin, 16", title="fitted values and 90 % intervals")
    for name in found["engines"]["rigid"]["values"]["64"]:
        cells = []
        for engine, size in (*((engine, "64") for engine in ENGINES), ("rigid", "16")):
            facts = found["engines"][engine]
            low, high = facts["intervals"][size][name]
            cells.append(f"{facts['values'][size][name]:.4g} [{low:.4g}, {high:.4g}]")
        table.add_row(name, truth.get(name.rpartition(".")[2], "-"), *cells)
    console.print(table)
    held = ", ".join(f"{error:.1f} % with {names} held" for names, error in found["stated"].items())
    console.print(f"RigidTwin on {CHOSEN_ON} tosses in between, some parameters held at the stated values and the others fitted to 64 tosses: {held}.")
