"""Natural curvature: of rods that have one, and found from motion. In float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from structwm.physics import Prior, Rod, RodState, RodTwin, Settings, calibrate, material_curvature, rod_recording, transfer_rod
from structwm.physics.optimise import Posterior
from structwm.physics.rod_scene import untwisted

NATURAL = ((0.1, 0.2), (0.3, 0.0), (0.2, -0.2), (-0.1, 0.3), (0.0, 0.1), (0.25, 0.25))


def bent(count: int = 8, **options: object) -> Rod:
    return Rod.even(0.7, count, twists=True, natural_curvature=NATURAL, **options)


def line(vertices: int = 8, length: float = 0.7) -> Tensor:
    positions = torch.zeros(vertices, 3, dtype=torch.float64)
    positions[:, 0] = torch.linspace(0, length, vertices, dtype=torch.float64)
    return positions


def run(twin: RodTwin, state: RodState, steps: int) -> RodState:
    with torch.no_grad():
        states: RodState = twin.rollout(state, torch.zeros(steps, twin.spec.action.size, dtype=torch.float64)).states
    return states


def test_a_free_rod_takes_its_natural_shape() -> None:
    values = {"gravity": 0.0, "bend_stiffness": 0.01, "bend_damping": 1e-3, "drag": 2.0, "twist_stiffness": 0.01}
    end = run(RodTwin(bent(), dt=0.01, substeps=4, values=values), RodTwin(bent(), dt=0.01).state(line()), 600)[-1]
    found = material_curvature(end.positions, end.directors)
    torch.testing.assert_close(found, torch.tensor(NATURAL, dtype=torch.float64), atol=0.01, rtol=0)


def test_a_free_rod_that_bends_by_nature_keeps_momentum_and_energy() -> None:
    """No force from outside: what bends by nature gains neither momentum nor angular momentum, and its energy stays what it was at the start."""
    values = {
        "gravity": 0.0,
        "bend_stiffness": 0.01,
        "bend_damping": 1e-9,
        "drag": 1e-4,
        "quadratic_drag": 1e-5,
        "twist_stiffness": 0.01,
        "twist_damping": 1e-5,
    }
    twin = RodTwin(bent(), dt=1e-3, substeps=4, values=values)
    states = run(twin, twin.state(line()), 200)
    rest = torch.full((7,), 0.1, dtype=torch.float64)
    mass = float(twin.values["vertex_mass"]) + 0.05 * (torch.nn.functional.pad(rest, (0, 1)) + torch.nn.functional.pad(rest, (1, 0))) / 2
    edges = states.positions.diff(dim=-2)
    inertia = 0.5 * 0.05 * rest * float(twin.values["radius"]) ** 2
    spin = (inertia * states.spins).unsqueeze(-1) * edges / edges.norm(dim=-1, keepdim=True)
    moving = mass.unsqueeze(-1) * states.velocities
    speed = states.velocities.norm(dim=-1).max()
    assert speed > 0.5
    size = float((mass * states.velocities.norm(dim=-1)).sum(-1).max())
    assert float(moving.sum(-2).norm(dim=-1).max()) < 1e-6 * size  # the air takes the rest
    turning = (torch.linalg.cross(states.positions - states.positions.mean(-2, keepdim=True), moving).sum(-2) + spin.sum(-2)).norm(dim=-1)
    assert float(turning.max()) < 0.01 * 0.35 * size
    total = energy(twin, states, mass, inertia)
    assert float((total - total[0]).abs().max()) < 0.03 * float(total[0])


@pytest.mark.parametrize(("curvature", "stiffness"), [(0.1, 1.0), (0.2, 1.0), (0.5, 0.3)])
def test_a_stiff_curved_rod_rests_at_long_substeps(curvature: float, stiffness: float) -> None:
    """Of 5 ms, in which the fastest bending turns through many radians: a slightly disturbed rod in its natural shape stays near it."""
    slope = 2 * math.atan(curvature / 2) * torch.arange(7, dtype=torch.float64)
    edges = 0.1 * torch.stack((torch.cos(slope), torch.zeros(7, dtype=torch.float64), -torch.sin(slope)), -1)
    shape = torch.cat((torch.zeros(1, 3, dtype=torch.float64), edges.cumsum(0)))
    rod = Rod.even(0.7, 8, twists=True, natural_curvature=((curvature, 0.0),) * 6, director=(0.0, 1.0, 0.0))
    twin = RodTwin(rod, dt=0.01, substeps=2, values={"gravity": 0.0, "bend_stiffness": stiffness, "twist_stiffness": stiffness})
    noise = 1e-3 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states = run(twin, twin.state(shape + noise), 300)
    assert float((material_curvature(shape, twin.state(shape).directors) - torch.tensor(rod.natural_curvature)).abs().max()) < 1e-6
    bent = (material_curvature(states.positions, states.directors) - torch.tensor(rod.natural_curvature)).norm(dim=-1)
    assert float(bent.max()) < 2 * float(bent[0].max())
    mass = torch.full((8,), 0.005 + 0.0005, dtype=torch.float64)
    total = energy(twin, states, mass, torch.full((7,), 0.5 * 0.005 * 0.005**2, dtype=torch.float64), natural=torch.tensor(rod.natural_curvature))
    assert float(total.max()) < 1.05 * float(total[0])


def energy(twin: RodTwin, states: RodState, mass: Tensor, inertia: Tensor, natural: Tensor | None = None) -> Tensor:
    """Of motion, bending, twisting and stretching (H+1,) [J]."""
    values = {name: float(value) for name, value in twin.values.items()}
    motion = (mass * states.velocities.square().sum(-1)).sum(-1) / 2 + (inertia * states.spins.square()).sum(-1) / 2
    edges = states.positions.diff(dim=-2)
    along = edges / edges.norm(dim=-1, keepdim=True)
    stretch = values["stretch_stiffness"] / 2 * ((edges.norm(dim=-1) - 0.1).square() / 0.1).sum(-1)
    frames = torch.stack((states.directors, torch.linalg.cross(along, states.directors)), -2)
    first, second = along[..., :-1, :], along[..., 1:, :]
    kappa = 2 * torch.linalg.cross(first, second) / (1 + (first * second).sum(-1, keepdim=True))
    natural = torch.tensor(NATURAL, dtype=torch.float64) if natural is None else natural
    bend = torch.zeros(len(motion), dtype=torch.float64)
    for held in (frames[..., :-1, :, :], frames[..., 1:, :, :]):  # half of the energy with the material of either edge
        bend = bend + values["bend_stiffness"] / 0.1 / 4 * ((held * kappa.unsqueeze(-2)).sum(-1) - natural).square().sum((-1, -2))
    flat = untwisted(states.positions)
    turned = torch.atan2((torch.linalg.cross(flat, states.directors) * along).sum(-1), (flat * states.directors).sum(-1)).diff(dim=-1)
    turned = torch.remainder(turned + math.pi, 2 * math.pi) - math.pi
    return motion + stretch + bend + values["twist_stiffness"] / 0.1 / 2 * turned.square().sum(-1)


def test_natural_curvature_turns_with_the_grip() -> None:
    """A cantilever that is bent to one side by nature points to the other side once its grip has turned by half a turn."""
    rod = replace(bent(), natural_curvature=((0.0, 0.3),) * 6, driven=(0, 1), rolled=(0,), director=(0.0, 0.0, 1.0))
    twin = RodTwin(rod, dt=0.01, substeps=4, values={"gravity": 0.0, "bend_stiffness": 0.01, "bend_damping": 1e-3, "drag": 5.0, "twist_stiffness": 0.05})
    actions = torch.zeros(1200, twin.spec.action.size, dtype=torch.float64)
    actions[400:500, -1] = math.pi
    with torch.no_grad():
        states = twin.rollout(twin.state(line()), actions).states
    before, after = states.positions[400, -1], states.positions[-1, -1]
    assert float(before[2].abs()) > 0.2
    torch.testing.assert_close(after, before * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64), atol=5e-3, rtol=0)


def swings(rod: Rod, values: dict[str, float], runs: int) -> Tensor:
    """Tracks (N, T, V, 3) of a rod held at both ends that are moved about, from rest."""
    generator = torch.Generator().manual_seed(3)
    twin = RodTwin(rod, dt=0.01, substeps=2, values=values)
    slope = torch.linspace(-1.3, 1.3, 7, dtype=torch.float64)
    edges = 0.1 * torch.stack((torch.cos(slope), torch.zeros(7), torch.sin(slope)), -1)
    start = torch.cat((torch.zeros(1, 3), edges.cumsum(0))).double().expand(runs, 8, 3)
    time = torch.arange(150) * 0.01
    waves = torch.randn(runs, 1, 2, 3, 3, generator=generator, dtype=torch.float64)
    speeds = (0.08 * waves * torch.sin(2 * math.pi * torch.tensor([0.5, 0.9, 1.4]).double()[:, None] * time[None, :, None, None, None])).sum(-2)
    actions = torch.cat((speeds[:, :, :1].expand(-1, -1, 2, 3), speeds[:, :, 1:].expand(-1, -1, 2, 3)), 2).flatten(2)
    with torch.no_grad():
        tracks: Tensor = twin.rollout(twin.state(start), actions).states.positions
    return tracks + 1e-4 * torch.randn(tracks.shape, generator=generator, dtype=torch.float64)


def test_natural_curvature_is_calibrated_with_the_material() -> None:
    """A rod taken for straight is wrong in motions of others; with its natural curvature among the parameters it is not."""
    values = {"bend_stiffness": 0.005, "bend_damping": 2e-4, "twist_stiffness": 5e-3}
    rod = bent(driven=(0, 1, -2, -1), director=(0.0, 1.0, 0.0))
    tracks = swings(rod, values, 6)
    start = RodTwin(replace(rod, natural_curvature=()), dt=0.01, substeps=2, values=values | {"bend_stiffness": 3e-3})
    told, others = (rod_recording(start, part) for part in (tracks[:4], tracks[4:]))
    settings = Settings(evaluations=0, iterations=25, explore=0)
    first = calibrate(start, told, ["bend_stiffness"], held_out=None, settings=settings).twin
    names = ["bend_stiffness", *start.curvatures]
    ends = [first, calibrate(first, told, names, held_out=None, prior=Prior.around(first, names), settings=settings).twin]
    wrong = [float((twin.rollout(others.state, others.actions).states.positions - tracks[4:, 1:]).detach().norm(dim=-1).mean()) for twin in ends]
    assert wrong[1] < 0.0005 < 0.003 < wrong[0]
    assert ends[1].natural_curvature.shape == (6, 2)
    assert float((ends[1].natural_curvature - torch.tensor(NATURAL)).abs().mean()) < 0.05


def test_curvature_across_the_weight_is_read_from_tracks() -> None:
    """Of rods that are bent sideways by nature, up to the factor by which grips and weight hold them straighter, which is one parameter more."""
    values = {"bend_stiffness": 0.005, "bend_damping": 2e-4, "twist_stiffness": 5e-3}
    sideways = tuple((0.0, value) for value in (0.0, 0.0, -0.4, 0.0, 0.2, 0.0))
    options = {"driven": (0, 1, -2, -1), "director": (0.0, 1.0, 0.0)}
    tracks = swings(Rod.even(0.7, 8, twists=True, natural_curvature=sideways, **options), values, 6)
    seen = tracks[:, 50:].clone()
    seen[0, :, 5] = math.nan
    curved = Rod.from_tracks(seen, curved=True, **options)
    found, truth = torch.tensor(curved.natural_curvature), torch.tensor(sideways)
    assert float(torch.corrcoef(torch.stack((found[:, 1], truth[:, 1])))[0, 1]) > 0.85
    assert bool((found[:, 0] == 0).all()) and curved.twists
    wrong = []
    for rod, names in ((replace(curved, natural_curvature=()), ["bend_stiffness", "length"]), (curved, ["bend_stiffness", "curvature_scale"])):
        twin = RodTwin(rod, dt=0.01, substeps=2, values=values | {"bend_stiffness": 3e-3})
        end = calibrate(twin, rod_recording(twin, tracks[:4]), names, held_out=None, settings=Settings(evaluations=0, iterations=8, explore=0)).twin
        others = rod_recording(end, tracks[4:])
        wrong.append(float((end.rollout(others.state, others.actions).states.positions - tracks[4:, 1:]).detach().norm(dim=-1).mean()))
    assert wrong[1] < 0.85 * wrong[0]


def test_a_first_edge_along_the_director_tells_nothing() -> None:
    still = line()
    still[4:, 1] += 0.05 * torch.arange(4)
    seen = torch.cat((still.expand(3, 8, 3), still[:, [1, 0, 2]].expand(5, 8, 3)))
    rods = [Rod.from_tracks(tracks, curved=True, director=(0.0, 1.0, 0.0)) for tracks in (seen, seen[:3])]
    assert rods[0].natural_curvature == rods[1].natural_curvature and abs(rods[0].natural_curvature[3][1]) > 0.4


def test_natural_curvature_stays_with_its_cable() -> None:
    twin = RodTwin(bent(driven=(0, 1)), dt=0.01, values={"v2.curvature_along": 0.5, "curvature_scale": 2.0})
    same = transfer_rod(twin, line(length=0.8), same=True)
    assert float(same.natural_curvature[1, 0]) == pytest.approx(1.0) and same.rod.length == pytest.approx(0.8)
    for other in (transfer_rod(twin, line(vertices=5), driven=(0, 1)), transfer_rod(twin, line(length=0.8))):
        assert other.rod.natural_curvature == () and not bool(other.natural_curvature.any())
    with pytest.raises(ValueError, match="of the same vertices, of which there were 8, now 5"):
        transfer_rod(twin, line(vertices=5), driven=(0, 1), same=True)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="only a rod that twists"):
        Rod.even(1.0, 8, natural_curvature=NATURAL)
    for natural in (NATURAL[:2], ((math.nan, 0.0),) * 6, ((5.0, 0.0),) * 6, (0.1,) * 6, ((0.0, 0.0, 0.0),) * 6, None, "bent"):
        with pytest.raises(ValueError, match="needs two numbers between -4 and 4 for each of the 6 inner vertices"):
            Rod.even(1.0, 8, twists=True, natural_curvature=natural)
    for director in ((0.0, 1.0), (0.0, 0.0, 0.0), (math.nan, 0.0, 0.0), 3.0, "up"):
        with pytest.raises(ValueError, match="direction in the world"):
            Rod.even(1.0, 8, twists=True, director=director)
        with pytest.raises(ValueError, match="direction in the world"):
            Rod.from_tracks(line().expand(5, 8, 3), curved=True, director=director)
    with pytest.raises(ValueError, match="with twists=True"):
        Rod.even(1.0, 8, director=(0.0, 1.0, 0.0))
    for options in ({}, {"director": (0.0, 1.0, 0.0), "natural_curvature": NATURAL}, {"director": (0.0, 1.0, 0.0), "twists": False}):
        with pytest.raises(ValueError, match="needs a director"):
            Rod.from_tracks(line().expand(5, 8, 3), curved=True, **options)
    with pytest.raises(ValueError, match="across the director"):
        Rod.from_tracks(line().expand(5, 8, 3), curved=True, director=(1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="material_curvature needs positions"):
        material_curvature(line(), line())
    with pytest.raises(ValueError, match="has no parameter 'curvature_scale'"):
        RodTwin(Rod.even(1.0, 8, twists=True), dt=0.01, values={"curvature_scale": 2.0})
    unseen = line().expand(5, 8, 3).clone()
    unseen[:3, 4], unseen[3:, 6] = math.nan, math.nan
    with pytest.raises(ValueError, match="never saw vertices 0 to 6 together"):
        Rod.from_tracks(unseen, curved=True, director=(0.0, 1.0, 0.0))
    with pytest.raises(ValueError, match="along the first edge"):
        RodTwin(Rod.even(0.7, 8, twists=True, director=(1.0, 0.0, 0.0)), dt=0.01).state(line())


def test_random_draws_leave_details_where_the_prior_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """CMA-ES draws the material alone; curvatures, of which there are many, are found by steps downhill."""
    drawn: list[Tensor] = []
    loss = Posterior.loss
    monkeypatch.setattr(Posterior, "loss", lambda self, z, *rest: drawn.append(z.clone()) or loss(self, z, *rest))
    values = {"bend_stiffness": 0.005, "bend_damping": 2e-4, "twist_stiffness": 5e-3}
    twin = RodTwin(bent(driven=(0, 1, -2, -1), director=(0.0, 1.0, 0.0)), dt=0.01, substeps=2, values=values)
    recording = rod_recording(twin, swings(twin.rod, values, 2)[:, :40])
    names = ("bend_stiffness", *twin.curvatures)
    calibrate(twin, recording, names, held_out=None, settings=Settings(evaluations=24, iterations=0, explore=0), progress=False)
    draws, prior = torch.cat([z for z in drawn if len(z) > 1]), Prior.of(twin.space(names))
    assert len(draws) >= 20 and float(draws[:, 0].std()) > 0.1
    torch.testing.assert_close(draws[:, 1:], prior.mean[1:].expand(len(draws), -1), rtol=0, atol=0)
