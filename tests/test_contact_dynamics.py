"""Dynamics of rigid objects, and of what is made of rigid pieces, from where they touch: the contract, symmetries, odd clouds, and that pushing is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from structwm.check import check_model
from structwm.planning import CEM, PointGoal
from structwm.points import CloudRecording, ContactDynamics, Embodied, PointLoss, RigidTools, Still, point_cloud
from structwm.points.bonds import bonds_of, members, parts_of
from structwm.points.cloud import turned
from structwm.points.contact_touch import held
from structwm.points.graph import material
from structwm.training import FitSettings, fit, load_model, save_model
from structwm.training.open_loop import open_loop_errors

TOOL = RigidTools([6], axes=("vx", "vy", "wz"))


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def scattered(batch=3, points=42, *, objects=3, seed=0, **options):
    """Objects beside one another, balls of 6 cm, which move, and a robot of six points among them."""
    generator = random(seed)
    ids = torch.arange(points) % objects
    local = 0.03 + 0.03 * torch.nn.functional.normalize(torch.randn(batch, points, 3, generator=generator), dim=-1)
    positions = local + 0.07 * torch.stack((ids, torch.zeros(points), torch.zeros(points)), -1)
    speed = 0.003 * torch.randn(batch, objects, 1, 3, generator=generator)[:, ids]
    history = positions.unsqueeze(2) - speed * torch.tensor([1.0, 2.0])[:, None]
    tool = torch.tensor((0.02, -0.015, 0.03)) + 0.01 * torch.randn(batch, 6, 3, generator=generator)
    return point_cloud(positions, tool, history=history, rest=local, object_ids=ids, **options)


def model(*, loud=0.05, **options):
    """Untrained, but for last layers that are enlarged, so that contacts count."""
    loud = loud if options.get("parts") is None else 0.2 * loud  # small pieces are pushed easily
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ContactDynamics(**({"robot_points": 6, "dt": 0.1, "width": 16, "rounds": 2, "objects": 3} | options))
        with torch.no_grad():
            for each in made.rounds:
                for last in (each.said, each.answer):
                    last.weight[16:].normal_(std=loud)
    return made.eval()


either = pytest.mark.parametrize("parts", [None, 0.03], ids=["rigid", "in parts"])


@pytest.mark.parametrize("options", [{}, {"features": 2, "materials": 2, "ground": False}, {"parts": 0.04}])
def test_it_keeps_the_contract(options):
    more = {"features": torch.ones(42, 2), "material_ids": torch.arange(42) % 3 % 2} if "features" in options else {}
    state = scattered(mask=torch.arange(42) < torch.tensor([42, 33, 42])[:, None], **more)
    if "parts" in options:
        state = scattered(points=120, mask=torch.arange(120) < torch.tensor([120, 90, 120])[:, None])
    check_model(Embodied(model(**options), TOOL), state)


def test_objects_stay_rigid_and_are_moved_by_the_robot():
    state, dynamics = scattered(), model()
    motion = 0.01 * torch.randn(3, 4, 18, generator=random())
    found = dynamics.rollout(state, motion).states.positions
    own = state.object_ids[0] == 0
    before, after = (torch.cdist(found[:, t, own], found[:, t, own]) for t in (0, 4))
    assert torch.allclose(before, after, atol=1e-5)
    assert (found[:, 4] - found[:, 0]).norm(dim=-1).max() > 1e-3
    other = dynamics.rollout(state, -motion).states.positions
    assert (other - found).abs().max() > 1e-3


@either
def test_it_does_not_matter_where_or_in_which_order(parts):
    dynamics, state = model(parts=parts), scattered()
    motion = 0.01 * torch.randn(3, 2, 18, generator=random())
    found = dynamics.rollout(state, motion).states.positions
    away = torch.tensor([2.0, -1.0, 0.0])
    moved = state.replace(positions=state.positions + away, history=state.history + away, robot=state.robot + away, robot_history=state.robot_history + away)
    assert torch.allclose(dynamics.rollout(moved, motion).states.positions - away, found, atol=1e-4)
    order = torch.randperm(42, generator=random(1))
    mixed = state.replace(
        **{name: getattr(state, name)[:, order] for name in ("positions", "history", "rest", "features", "object_ids", "material_ids", "held", "mask")}
    )
    assert torch.allclose(dynamics.rollout(mixed, motion).states.positions, found[:, :, order], atol=1e-4)


@either
def test_a_turned_world_moves_likewise(parts):
    dynamics, state = model(parts=parts), scattered()
    motion = 0.01 * torch.randn(3, 3, 18, generator=random())
    angle = torch.tensor([0.4, 2.0, -3.0])
    found = turned(dynamics.rollout(state, motion).states[:, 3], angle).positions
    aside = turned(point_cloud(motion.view(3, 18, 3), torch.zeros(3, 0, 3)), angle).positions.reshape(3, 3, 18)
    assert torch.allclose(dynamics.rollout(turned(state, angle), aside).states.positions[:, 3], found, atol=1e-4)


@either
def test_problems_do_not_mix(parts):
    state, dynamics = scattered(), model(parts=parts)
    motion = 0.01 * torch.randn(3, 3, 18, generator=random())
    together = dynamics.rollout(state, motion).states.positions
    alone = torch.cat([dynamics.rollout(state[i : i + 1], motion[i : i + 1]).states.positions for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


@either
def test_what_touches_nothing_and_rests_is_moved_by_no_contact(parts):
    """A robot that is far away makes no difference."""
    state, dynamics = scattered(), model(parts=parts)
    far = state.replace(robot=state.robot + 5.0, robot_history=state.robot_history + 5.0)
    motion = 0.01 * torch.randn(3, 3, 18, generator=random())
    assert torch.equal(dynamics.rollout(far, motion).states.positions, dynamics.rollout(far, -motion).states.positions)


@either
@pytest.mark.parametrize(
    "positions", [torch.zeros(1, 1, 3), torch.zeros(1, 5, 3), torch.linspace(0, 0.1, 6).expand(3, 6).T[None], 0.02 * torch.randn(1, 40, 3, generator=random())]
)
def test_a_point_copies_lines_and_heaps(positions, parts):
    state = point_cloud(positions.contiguous(), torch.zeros(1, 6, 3) + 0.01 * torch.randn(1, 6, 3, generator=random()))
    found = model(parts=parts).rollout(state, 0.01 * torch.randn(1, 5, 18, generator=random())).states.positions
    assert found.isfinite().all()
    state = state.replace(positions=state.positions.clone().requires_grad_())
    model(parts=parts).rollout(state, 0.01 * torch.randn(1, 3, 18, generator=random())).states.positions.sum().backward()
    assert state.positions.grad.isfinite().all()


@either
def test_more_objects_than_ever_and_no_robot(parts):
    state = scattered(objects=7, points=70)
    assert model(parts=parts).rollout(state, torch.zeros(3, 2, 18)).states.positions.isfinite().all()
    lone = scattered()
    lone = point_cloud(lone.positions, torch.zeros(3, 0, 3), object_ids=lone.object_ids[0])
    assert model(robot_points=0, parts=parts).rollout(lone, torch.zeros(3, 2, 0)).states.positions.isfinite().all()


def test_saved_and_loaded(tmp_path):
    before = Embodied(model(parts=0.03), TOOL)
    after = load_model(save_model(before, tmp_path / "model"))
    state, actions = scattered(), 0.1 * torch.randn(3, 4, 3, generator=random())
    assert torch.equal(before.rollout(state, actions).states.positions, after.rollout(state, actions).states.positions)


def test_planners_plan_with_it():
    state = scattered(batch=2)
    plan = CEM(horizon=3, samples=8, elites=2, iterations=2).plan(Embodied(model(), TOOL), state, PointGoal(state.positions + 0.05))
    assert plan.actions.shape == (2, 3, 3) and plan.cost.isfinite().all()


@pytest.mark.parametrize("options", [{"width": 0}, {"rounds": 0}, {"margin": 0.0}, {"parts": 0.0}])
def test_it_refuses_sizes_that_make_no_sense(options):
    with pytest.raises(ValueError, match="ContactDynamics needs width and rounds"):
        ContactDynamics(robot_points=1, dt=0.1, **options)


def pushed_boxes(count, steps=10, seed=0):
    """Cubes that a flat plate pushes straight ahead, as far as it overlaps them, from gaps of 0 to 3 cm; in any direction."""
    generator = random(seed)
    half = 0.02 + 0.02 * torch.rand(count, 1, generator=generator)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 4)] * 3)
    shell = grid[(grid.abs() > 0.99).any(-1)]
    gap = 0.03 * torch.rand(count, 1, generator=generator)
    speed = 0.004 + 0.006 * torch.rand(count, 1, generator=generator)
    plate = torch.stack((torch.zeros(25), *torch.cartesian_prod(*[torch.linspace(-0.03, 0.03, 5)] * 2).T), -1)
    plate = torch.cat((plate, plate - torch.tensor([0.01, 0.0, 0.0])))
    time = torch.arange(steps + 1)
    front = -half - gap + speed * time
    place = (front + half).clamp_min(0.0)
    boxes = half[:, :, None, None] * shell + torch.stack((place, torch.zeros_like(place), half.expand_as(place)), -1)[:, :, None]
    tool = plate + torch.stack((front, torch.zeros_like(front), half.expand_as(front)), -1)[:, :, None]
    angle = 6.3 * torch.rand(count, generator=generator)
    turn = torch.stack((angle.cos(), angle.sin(), 0 * angle, -angle.sin(), angle.cos(), 0 * angle, 0 * angle, 0 * angle, 0 * angle + 1), -1).view(
        count, 1, 3, 3
    )
    return CloudRecording(boxes @ turn, tool @ turn, 0.1)


def strip(links=3, turn=0.0, points=24, seed=0):
    """Points of boxes of 4 x 2 x 2 cm in a row, each turned about the vertical by `turn` [rad] more than the last, at the middle between two."""
    half = torch.tensor((0.02, 0.01, 0.01))
    local = (2 * torch.rand(links, points, 3, generator=random(seed)) - 1) * half
    heading = turn * torch.arange(links)
    ahead = torch.stack((heading.cos(), heading.sin(), torch.zeros(links)), -1)
    across = torch.stack((-heading.sin(), heading.cos(), torch.zeros(links)), -1)
    joints = torch.cat((torch.zeros(1, 3), (0.04 * ahead).cumsum(0)))
    middle = 0.5 * (joints[:-1] + joints[1:])
    placed = local[..., :1] * ahead[:, None] + local[..., 1:2] * across[:, None] + local[..., 2:] * torch.tensor((0.0, 0.0, 1.0)) + middle[:, None]
    return placed.flatten(0, 1) + torch.tensor((0.0, 0.0, 0.01))


def test_pieces_are_of_one_object_and_no_larger_than_asked_for():
    rest = torch.cat((strip(6), strip(2) + torch.tensor((0.0, 0.03, 0.0)), torch.zeros(5, 3)))[None]
    ids = torch.cat((torch.zeros(144), torch.ones(53))).long()[None]
    mask = torch.arange(197)[None] < 192
    piece = parts_of(rest, ids, mask, 0.04)
    member = members(piece, mask)[0]
    assert member[:, :192].any(1).all() and not member[:, 192:].any() and (member[:, :192].sum(0) == 1).all()
    for own in member:
        assert len(ids[0][own].unique()) == 1 and torch.cdist(rest[0, own], rest[0, own]).max() < 2 * 0.04
    assert 6 <= len(member) <= 13
    order = torch.randperm(197, generator=random(1))
    mixed = parts_of(rest[:, order], ids[:, order], mask[:, order], 0.04)
    assert len(torch.stack((mixed, piece[:, order]), -1)[mask[:, order]].unique(dim=0)) == len(member)
    assert torch.equal(parts_of(rest[:, :0], ids[:, :0], mask[:, :0], 0.04), ids[:, :0])


def test_bonds_tell_how_pieces_are_turned_and_pulled_apart():
    rest, bent = strip()[None], strip(turn=0.3)[None]
    ids = torch.zeros(1, 72, dtype=torch.int64)
    there = torch.ones_like(ids, dtype=torch.bool)
    piece = (torch.arange(72) // 24)[None]
    member = members(piece, there).float()
    bonds = bonds_of(rest, piece, ids, member, material(rest, ids, there, 6).edges, 0.04)
    assert bonds.there.all() and sorted(zip(bonds.mine[0].tolist(), bonds.other[0].tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert torch.allclose(bonds.say.sum(1), torch.ones(1, 72)) and torch.allclose(bonds.around.sum(-1), torch.ones(1, 3))
    centre = (member @ rest) / 24
    whole = torch.ones(1, 1, 72)
    still = held(rest, centre, bonds, whole)
    assert still.driven.abs().max() < 1e-6 and still.bend.abs().max() < 1e-5
    found = held(bent, (member @ bent) / 24, bonds, whole)
    ahead = found.row < found.other
    assert (
        (found.bend[ahead, 2] > 0.1).all()
        and torch.allclose(found.bend[ahead, 2], -found.bend[~ahead, 2], atol=1e-6)
        and found.driven.norm(dim=-1).max() < 0.003
    )
    apart = rest.clone()
    apart[:, 48:, 0] += 0.01
    pulled = held(apart, (member @ apart) / 24, bonds, whole)
    along = (pulled.driven * pulled.normal).sum(-1)
    last = (pulled.row == 2) | (pulled.other == 2)
    assert (along[last] > 0.008).all() and (along[~last].abs() < 0.002).all()


def test_a_chain_is_dragged_by_the_link_that_is_pushed():
    """Of a strip of three boxes that bends, a pusher holds one end: learned from few runs, better by far than a rigid object can."""
    torch.manual_seed(0)

    def swings(count, seed):
        times = torch.arange(9)
        speed = 0.05 * (1 + torch.rand(count, generator=random(seed))) * (1 - 2 * (torch.rand(count, generator=random(seed + 1)) < 0.5).float())
        strips = torch.stack([torch.stack([strip(3, float(v * t), points=12, seed=n) for t in times]) for n, v in enumerate(speed)])
        end = strips[:, :, -12:].mean(2)
        grip = torch.stack((torch.zeros(8), *torch.cartesian_prod(torch.tensor((-0.004, 0.004)), torch.linspace(-0.01, 0.01, 4)).T), -1)
        return CloudRecording(strips, end[:, :, None] + grip, 0.1)

    runs, test = swings(16, 0), swings(6, 5)
    windows, judged = runs.windows(4), test.windows(8)[:]
    errors = {}
    for parts in (0.04, None):
        one = ContactDynamics(robot_points=8, dt=0.1, width=16, rounds=2, parts=parts)
        one.fit_scales(windows[::7])
        fit(one, windows, held_out=judged, loss=PointLoss(), settings=FitSettings(steps=40, batch=12, learning_rate=1e-2), progress=False)
        with torch.no_grad():
            errors[parts] = float((one.rollout(judged.start, judged.actions).states.positions - judged.states.positions)[:, -1].norm(dim=-1).mean())
    assert errors[0.04] < 0.5 * errors[None]


def test_trainings_are_judged_by_points():
    """Boxes that slide do not rise: an error upwards counts as much as one sideways, not more."""
    windows = pushed_boxes(6).windows(5, stride=2)[:]
    still = open_loop_errors(Still(robot_points=50, dt=0.1), windows)
    assert still.by_points and still[:3].by_points
    assert float(still.relative().mean()) == pytest.approx(1.0, rel=1e-5)
    lifted = replace(still, errors=still.errors + 1e-3, point_errors=still.point_errors + 1e-3)
    assert float(lifted.relative().mean()) == pytest.approx(1.0 + 1e-3 / float(still.point_changes.mean()), rel=1e-5)


def test_pushing_is_learned_from_few_pushes():
    torch.manual_seed(0)
    runs, test = pushed_boxes(40), pushed_boxes(12, seed=1)
    model = ContactDynamics(robot_points=50, dt=0.1, width=16, rounds=2)
    windows, judged = runs.windows(4), test.windows(8, stride=2)[:]
    model.fit_scales(windows[::7])
    fit(model, windows, held_out=judged, loss=PointLoss(), settings=FitSettings(steps=80, batch=16, learning_rate=1e-2), progress=False)

    def error(one):
        with torch.no_grad():
            return float((one.rollout(judged.start, judged.actions).states.positions - judged.states.positions)[:, -1].norm(dim=-1).mean())

    assert error(model) < 0.15 * error(Still(robot_points=50, dt=0.1))
