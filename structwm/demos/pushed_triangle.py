"""The pushed triangle of `cmu_push` as a rigid world, and a picture of how models predict its pushes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from structwm.data.cmu_push import MASS, OUTLINE, PushLog
from structwm.data.pushes import Pushes
from structwm.geometry.outline import moments
from structwm.physics import (
    GROUND,
    Body,
    ConvexShape,
    Geometry,
    Joint,
    Material,
    Recording,
    RigidRun,
    RigidState,
    RigidTwin,
    RigidWorld,
    SphereShape,
    drive,
    rigid_recording,
)
from structwm.physics.recording import predict
from structwm.report import figures
from structwm.report.animation import place
from structwm.report.pushing import PredictedPushes
from structwm.report.style import BLUE, GREY, INK, PALE, VERMILLION

Array = NDArray[Any]
SECONDS = 0.5  # of a push, which took 5: the triangle coasts by 0.2 mm at 33 mm/s
STEPS = 25
FOOT, BOTTOM, TOP = 0.002, 0.004, 0.020  # radius of a foot, and the plate above the ground [m]
SCALE = (0.0015, 0.03)  # errors that matter [m], [rad]
SHOWN = (0.1, 0.5, 0.75, 0.95)  # share of the pushes that are predicted better than the one drawn
PAINT = (BLUE, VERMILLION)


def triangle_twin(log: PushLog) -> RigidTwin:
    """The triangle on its three known support points, with the mass and the friction on the ground that upstream measured, and a driven tip.

    `tip.friction` is the square of the tip's coefficient over that of the ground, since coefficients of two surfaces combine to their geometric mean.
    """
    corners = np.array([(x, y, z) for x, y in OUTLINE for z in (BOTTOM, TOP)])
    feet = tuple(Geometry(SphereShape(FOOT), (x, y, FOOT)) for x, y in log.support_points.tolist())
    second = moments(OUTLINE)[2]
    about_x, about_y = MASS * second[1, 1], MASS * second[0, 0]
    inertia = np.array([(about_x, -MASS * second[0, 1], 0), (-MASS * second[0, 1], about_y, 0), (0, 0, about_x + about_y)])
    plate = Body(
        "triangle",
        MASS,
        inertia,
        (Geometry(ConvexShape(corners)), *feet),
        com=(0, 0, (BOTTOM + TOP) / 2),
        material=Material(friction=log.friction, restitution=0.05),
    )
    tip = Body("tip", 1.0, 1e-3, (Geometry(SphereShape(log.straight().tip_radius)),), joint=Joint("driven"), material=Material(friction=log.friction))
    world = RigidWorld((plate, tip), (GROUND,), drive("tip", 1.0, axes=(0, 1)))
    return RigidTwin(world, dt=SECONDS / STEPS, substeps=20, values={"slip_speed": 1e-3})


def triangle_recording(twin: RigidTwin, pushes: Pushes) -> Recording[RigidState]:
    """Straight pushes, the triangle's pose known before and after them."""
    return rigid_recording(twin, [_run(pushes, k) for k in range(len(pushes))], scale=SCALE)


def _run(pushes: Pushes, k: int) -> RigidRun:
    poses, tips, twists = np.full((STEPS + 1, 7), np.nan), np.zeros((STEPS + 1, 7)), np.zeros((STEPS + 1, 6))
    for row, (x, y, yaw) in ((0, pushes.init_pose[k]), (-1, pushes.final_pose[k])):
        poses[row] = x, y, 0, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
    tips[:, :2] = np.linspace(pushes.init_tip[k], pushes.final_tip[k], STEPS + 1)
    tips[:, 2:4] = (BOTTOM + TOP) / 2, 1
    moving = twists.copy()
    moving[:, :2] = (pushes.final_tip[k] - pushes.init_tip[k]) / SECONDS
    return RigidRun({"triangle": poses, "tip": tips}, {"triangle": twists, "tip": moving}, actions=moving[:-1, :2])


def triangle_final(twin: RigidTwin, pushes: Pushes) -> Array:
    """Predicted final poses (n, 3): x, y [m], yaw [rad]."""
    with torch.no_grad():
        last = twin.scene.poses(predict(twin, triangle_recording(twin, pushes)).states[:, -1])[:, 0].numpy()
    return np.stack([last[:, 0], last[:, 1], 2 * np.arctan2(last[:, 6], last[:, 3])], axis=-1)


def draw_predictions(pushes: Pushes, predicted: Mapping[str, Array]) -> bytes:
    """PNG: single pushes, from well to badly predicted by the first model, then of all pushes travel and turn, predicted over measured, and the errors.

    Args:
        pushes: n of them.
        predicted: final poses (n, 3) by model, one or two.
    """
    p = pushes
    cell = PredictedPushes(p.name, p.outline, p.tip_radius, p.init_pose, p.final_pose, p.init_tip, p.final_tip, dict(predicted))
    first, models = next(iter(predicted)), dict(zip(predicted, PAINT, strict=False))
    ranked = np.argsort(cell.displacement(first))
    with figures.look():
        figure = figures.new(11.0, 7.0)
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.2))
        for axis, share in zip(above.subplots(1, len(SHOWN)), SHOWN, strict=True):
            _draw_push(axis, cell, int(ranked[int(share * (len(ranked) - 1))]), models)
            axis.set_title(f"{100 * share:.0f} % are predicted better", fontsize=8)
        above.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
        travel, turn, errors = below.subplots(1, 3)
        for axis, (measured, predicted) in ((travel, _along(cell)), (turn, _turned(cell))):
            for model, color in models.items():
                axis.plot(measured, predicted[model], "o", color=color, markersize=4, alpha=0.75, label=model)
            ends = np.array([measured.min(), measured.max()])
            axis.plot(ends, ends, color=INK, linewidth=0.9, label="right")
            axis.plot(ends, 0 * ends, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), label="hold still")
            axis.set(xlabel="measured", ylabel="predicted")
        travel.set_title("travel along the push [mm]")
        turn.set_title("turn [degrees]")
        travel.legend(fontsize=8)
        for model, color in models.items():
            errors.step(np.sort(1000 * cell.errors(model)[0]), np.linspace(0, 100, len(ranked)), color=color, label=model)
        still = 1000 * np.linalg.norm((cell.final_pose - cell.init_pose)[:, :2], axis=1)
        errors.step(np.sort(still), np.linspace(0, 100, len(ranked)), color=GREY, linestyle=(0, (4, 2)), label="hold still")
        errors.set(title="pushes with a smaller error [%]", xlabel="error of position [mm]", xlim=(0, None), ylim=(0, 100))
        return figures.to_bytes(figure, "png")


def _along(cell: PredictedPushes) -> tuple[Array, dict[str, Array]]:
    """Travel in the direction of the push [mm], (n,): measured, and by model."""
    heading = cell.final_tip - cell.init_tip
    heading = 1000 * heading / np.linalg.norm(heading, axis=1, keepdims=True)
    of = {name: ((poses - cell.init_pose)[:, :2] * heading).sum(axis=1) for name, poses in {"": cell.final_pose, **cell.predicted}.items()}
    return of.pop(""), of


def _turned(cell: PredictedPushes) -> tuple[Array, dict[str, Array]]:
    """Turn [degrees], (n,): measured, and by model."""
    of = {name: (np.degrees((poses - cell.init_pose)[:, 2]) + 180) % 360 - 180 for name, poses in {"": cell.final_pose, **cell.predicted}.items()}
    return of.pop(""), of


def _draw_push(axis: Any, cell: PredictedPushes, k: int, models: Mapping[str, str]) -> None:
    """One push, in mm from where the triangle started."""

    def outline(pose: Array, **style: Any) -> None:
        axis.fill(*(1000 * (place(cell.outline, pose) - cell.init_pose[k, :2])).T, **style)

    outline(cell.init_pose[k], facecolor=PALE, edgecolor=GREY, linewidth=0.8, label="before")
    outline(cell.final_pose[k], fill=False, edgecolor=INK, linewidth=1.8, label="after, measured")
    for model, color in models.items():
        outline(cell.predicted[model][k], fill=False, edgecolor=color, linewidth=1.3, linestyle=(0, (4, 2)), label=f"after, {model}")
    start, end = (1000 * (tip[k] - cell.init_pose[k, :2]) for tip in (cell.init_tip, cell.final_tip))
    axis.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.2})
    axis.set_aspect("equal")
    axis.tick_params(labelsize=7)
