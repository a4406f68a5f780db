"""A calibrated network of springs met again: registered by what it looks like, held elsewhere, each spring as stiff as it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structwm.geometry import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.perception import register_points
from structwm.physics import Rod, RodTwin, SpringBody, SpringTwin, transfer, transfer_rod

pytestmark = pytest.mark.usefixtures("one_thread")

TURN = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.2, 0.1, 2.4], dtype=torch.float64)))
SHIFT = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64)


def bar(shape: tuple[int, int, int] = (9, 3, 3), spacing: float = 0.02) -> Tensor:
    """Points (P, 3) of a bar along x, symmetric in every way."""
    return spacing * torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij"), -1).reshape(-1, 3)


def curled(points: Tensor, angle: float = 1.2) -> Tensor:
    """The bar bent into an arc in its xz plane, as long as before in its middle."""
    radius = float(points[:, 0].max()) / angle
    turn, out = points[:, 0] / radius, radius - (points[:, 2] - 0.02)
    return torch.stack((out * turn.sin(), points[:, 1], radius - out * turn.cos()), -1)


def calibrated(**options: object) -> SpringTwin:
    """A bar that a controller held, with a stiffness of each spring, of which `reach` has cut off the longest."""
    body = SpringBody.from_points(bar(), radius=0.036, neighbours=26, **options).with_controllers(torch.tensor([[0.0, 0.02, 0.05]]), attach=0.032)
    factors = torch.linspace(-0.5, 0.5, len(body.springs), dtype=torch.float64).exp()
    values = {"stiffness": 6.0, "falloff": 1.0, "reach": 0.031, "attachment_stiffness": 25.0, "damping": 4e-3, "drag": 1.0}
    return SpringTwin(body, dt=0.02, substeps=40, values=values, factors=factors)


def seen(points: Tensor, seed: int = 0) -> Tensor:
    """Some of the points, as a camera would see them."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(len(points), generator=generator) < 0.8
    return points[kept] + 5e-4 * torch.randn(int(kept.sum()), 3, generator=generator, dtype=torch.float64)


def painted(points: Tensor) -> Tensor:
    return points / points.amax(0)


def tension(twin: SpringTwin) -> dict[tuple[int, int], float]:
    """Of each spring that is there and not a controller's: over strain [N]."""
    strength = twin._springs(torch.zeros((), dtype=torch.float64))[0] * twin.body.lengths
    own = ~twin.body.attached & (strength > 0)
    return {tuple(pair): float(value) for pair, value in zip(twin.body.springs[own].tolist(), strength[own], strict=True)}


def test_looks_tell_how_a_symmetric_body_lies() -> None:
    points = bar()
    generator = torch.Generator().manual_seed(1)
    colors = painted(points)
    errors = []
    for turn in (torch.eye(3, dtype=torch.float64), TURN, TURN @ TURN, TURN.mT):
        target = curled(points) @ turn.mT + SHIFT
        noisy = colors + 0.03 * torch.randn(colors.shape, generator=generator, dtype=torch.float64)
        blind = register_points(points, target)
        looking = register_points(points, target, source_features=colors, target_features=noisy)
        errors.append([float((found.move(points) - target).norm(dim=-1).mean()) for found in (blind, looking)])
    by_shape, by_looks = zip(*errors, strict=True)
    assert max(by_shape) > 0.02  # by its shape alone it may lie in any of several ways
    assert max(by_looks) < 0.003
    with pytest.raises(ValueError, match="of both sets of points, or of none"):
        register_points(points, target, source_features=colors)
    with pytest.raises(ValueError, match=r"target_features: expected finite features \(81, 3\), got \(80, 3\)"):
        register_points(points, target, source_features=colors, target_features=colors[:80])


@pytest.mark.parametrize("rest", ["new", "old"])
def test_every_spring_is_as_stiff_as_it_was(rest: str) -> None:
    """By tension over strain, with a curled shape and other rest lengths, and what the calibration cut off stays cut off."""
    twin, points = calibrated(), bar()
    target = curled(points) @ TURN.mT + SHIFT
    place = target[:9].mean(0) + torch.tensor([0.0, 0.0, 0.02])
    moved = transfer(twin, target, controllers=place[None], attach=0.035, rest=rest, surface_features=painted(points), features=painted(points))
    assert moved.registration.residual < 0.002 and (moved.registration.positions - target).norm(dim=-1).mean() < 0.003
    before, after = tension(twin), tension(moved.twin)
    assert before.keys() == after.keys() and len(after) < len(twin.body.springs)
    for pair, value in before.items():
        assert after[pair] == pytest.approx(value, rel=1e-6)
    body, held = moved.twin.body, moved.twin.body.attached
    assert body.controllers == 1 and moved.held == (int(held.sum()),) and moved.held[0] >= 4
    for name in ("mass", "damping", "drag", "attachment_stiffness", "gravity"):
        assert float(moved.twin.values[name]) == float(twin.values[name])
    old = {tuple(pair): float(length) for pair, length in zip(twin.body.springs.tolist(), twin.body.lengths, strict=True)}
    strain = moved.twin.scene.strain(moved.twin.state(body.positions[: body.points]))
    if rest == "new":
        assert float(strain.abs().max()) < 1e-9
    else:
        assert all(float(length) == old[tuple(pair)] for pair, length in zip(body.springs[~held].tolist(), body.lengths[~held], strict=True))
    factors = moved.twin.factors
    assert factors is not None
    mean = twin.factors[twin.body.attached].log().mean().exp()
    assert torch.allclose(factors[held], mean.expand(int(held.sum())))


def test_a_moved_twin_moves_as_it_did() -> None:
    """Rigidly displaced and held at the same place, it predicts the same motion, displaced."""
    twin, points = calibrated(), bar()
    assert twin.factors is not None
    twin = twin.with_factors(torch.where(twin.body.attached, 1.3, twin.factors))
    angle = torch.tensor(2.4, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    turn = torch.stack((torch.stack((c, -s, 0 * c)), torch.stack((s, c, 0 * c)), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)))
    target = points @ turn.mT + SHIFT
    hand = torch.tensor([[0.0, 0.02, 0.05]], dtype=torch.float64)
    moved = transfer(twin, target, controllers=hand @ turn.mT + SHIFT, attach=0.032, rest="old", surface_features=painted(points), features=painted(points))
    assert float((moved.registration.positions - target).norm(dim=-1).max()) < 1e-4
    actions = 0.3 * torch.randn(25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        here = twin.rollout(twin.state(points), actions).points().positions
        there = moved.twin.rollout(moved.twin.state(target), actions @ turn.mT).points().positions
    assert float((there - (here @ turn.mT + SHIFT)).norm(dim=-1).max()) < 0.02 * float((here[-1] - here[0]).norm(dim=-1).mean())


def test_what_hangs_at_rest_stays_there_when_it_is_balanced() -> None:
    """A bar that was seen sagging: new rest lengths let it sag once more."""
    twin = calibrated().with_parameters({"stiffness": 12.0, "reach": 0.036})
    points = bar()
    still = transfer(twin, points, controllers=points[:9].mean(0)[None], grip=0.03, rest="old").twin.with_stable_steps().with_parameters({"drag": 20.0})
    zero = torch.zeros(150, 3, dtype=torch.float64)
    with torch.no_grad():
        sagging = still.rollout(still.state(points), zero).states.positions[-1]
    away = {}
    for rest in ("new", "balanced"):
        moved = transfer(twin, sagging, controllers=points[:9].mean(0)[None], grip=0.03, rest=rest, turns=False).twin.with_stable_steps()
        start = moved.body.positions
        with torch.no_grad():
            end = moved.with_parameters({"drag": 20.0}).rollout(moved.state(start), zero).states.positions[-1]
        away[rest] = float((end - start).norm(dim=-1).mean())
    assert away["new"] > 0.004
    assert away["balanced"] < 0.1 * away["new"]


def test_grips_clamp_what_is_near() -> None:
    points = bar()
    target = points @ TURN.mT + SHIFT
    moved = transfer(calibrated(), target, controllers=target[[4, 76]], grip=0.03, surface_features=painted(points), features=painted(points))
    body = moved.twin.body
    assert body.controllers == 0 and len(body.driven) == 2 and not bool(body.attached.any()) and "attachment_stiffness" not in moved.twin.values
    near = (torch.cdist(target[[4, 76]], moved.registration.positions) <= 0.03).sum(1).tolist()
    assert moved.held == tuple(near) and 4 in body.driven[0] and 76 in body.driven[1]


def test_parts_that_were_not_seen_follow_and_strangers_are_let_be() -> None:
    points = bar()
    target = curled(points) @ TURN.mT + SHIFT
    shown = points[:, 0] < 0.13
    strangers = SHIFT + 0.3 * torch.rand(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cloud = torch.cat((target[shown], strangers))
    colors = torch.cat((painted(points)[shown], torch.rand(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)))
    moved = transfer(calibrated(), cloud, surface_features=painted(points), features=colors)
    assert not moved.twin.body.driven and moved.held == ()
    away = (moved.registration.positions - target).norm(dim=-1)
    assert float(away[shown].mean()) < 0.004 and float(away.mean()) < 0.008


def test_what_cannot_be_is_refused() -> None:
    twin, points = calibrated(), bar()
    looks = {"surface_features": painted(points), "features": painted(points)}
    with pytest.raises(ValueError, match="Controller 0 finds no particle within 0.01 m to hold; the nearest is"):
        transfer(twin, points, controllers=torch.tensor([[0.5, 0.0, 0.0]]), grip=0.01, **looks)
    with pytest.raises(ValueError, match="Controller 0 finds no particle within 0.01 m"):
        transfer(twin, points, controllers=torch.tensor([[0.5, 0.0, 0.0]]), attach=0.01, **looks)
    with pytest.raises(ValueError, match="is it the same object in the same unit"):
        transfer(twin, 0.4 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    with pytest.raises(ValueError, match="is it the same object in the same unit"):
        transfer(twin, 3.0 * points, **looks)
    with pytest.raises(ValueError, match="The body is not found at the observed points"):
        transfer(twin, 0.05 * points)
    with pytest.raises(ValueError, match="needs grip, or attach or push"):
        transfer(twin, points, controllers=points[:1])
    with pytest.raises(ValueError, match="balances no body that hangs on controllers by springs"):
        transfer(twin, points, controllers=points[:1], attach=0.03, rest="balanced")
    with pytest.raises(ValueError, match="needs controllers where attach"):
        transfer(twin, points, attach=0.03)
    with pytest.raises(ValueError, match="rest 'new', 'balanced' or 'old', got 'same'"):
        transfer(twin, points, rest="same")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least four finite points \(M, 3\)"):
        transfer(twin, points * math.nan)
    with pytest.raises(ValueError, match="features of both the surface and the observed points"):
        transfer(twin, points, features=painted(points))
    with pytest.raises(ValueError, match="got one with 2 members"):
        transfer(twin.with_parameters({"drag": torch.tensor([0.2, 0.3])}), points)


def test_a_rod_takes_the_lengths_of_the_new_cable() -> None:
    twin = RodTwin(Rod.even(0.6, 7, driven=(0, -1)), dt=0.02, substeps=2, values={"bend_stiffness": 4e-3, "vertex_mass": 0.002})
    cable = torch.stack((torch.linspace(0, 0.8, 9), torch.zeros(9), torch.zeros(9)), -1)
    moved = transfer_rod(twin, cable, driven=(0, 1))
    assert moved.rod.length == pytest.approx(0.8) and moved.rod.driven == (0, 1) and float(moved.values["bend_stiffness"]) == pytest.approx(4e-3)
    per_metre = [float(each.values["vertex_mass"]) * each.rod.vertices / each.rod.length for each in (twin, moved)]
    assert per_metre[1] == pytest.approx(per_metre[0])
    with pytest.raises(ValueError, match="needs driven where the number of vertices changes, here from 7 to 9"):
        transfer_rod(twin, cable)
