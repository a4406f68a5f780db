"""The worlds of real recordings say what the makers of the recordings say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from structwm.data.cube_tosses import INERTIA, MASS, SIDE
from structwm.demos.real_worlds import double_pendulum, tossed_cube
from structwm.physics import RigidTwin
from structwm.physics.scene_files import read_world

IDENTIFIED = {
    "m1": 0.6, "m2": 0.7, "l1": 0.3, "l2": 0.2, "r1": 0.2, "r2": 0.25, "I1": 0.04, "I2": 0.06, "b1": 0.02, "b2": 0.01,
    "cf1": 0.0, "cf2": 0.0, "Ir": 1e-4, "gr": 6.0, "tl1": 5.0, "tl2": 5.0, "g": 9.81,
}  # fmt: skip


def test_the_pendulum_accelerates_as_its_authors_equations_say() -> None:
    """M(q) a + c(q, v) + G(q) + F(v) = tau, of `structwm.data.double_pendulum`, but for the coupling of rotors by gears."""
    p, dt = IDENTIFIED, 1e-5
    twin = RigidTwin(double_pendulum(p), dt=dt, substeps=1)
    draw = np.random.default_rng(0)
    q, v, u = (draw.normal(size=(5, 2)) for _ in range(3))
    _, rates = twin.advance(torch.tensor(q), torch.tensor(v), torch.tensor(u).unsqueeze(1))
    found = (rates[:, 1].numpy() - v) / dt

    h, rotor = p["m2"] * p["l1"] * p["r2"], p["gr"] ** 2 * p["Ir"]
    cosine, sine, lower = np.cos(q[:, 1]), np.sin(q[:, 1]), p["m2"] * p["r2"] * np.sin(q.sum(1))
    mass = np.empty((5, 2, 2))
    mass[:, 0, 0] = p["I1"] + p["I2"] + p["m2"] * p["l1"] ** 2 + 2 * h * cosine + rotor
    mass[:, 0, 1] = mass[:, 1, 0] = p["I2"] + h * cosine
    mass[:, 1, 1] = p["I2"] + rotor
    bias = np.stack((-h * sine * (2 * v[:, 0] * v[:, 1] + v[:, 1] ** 2), h * sine * v[:, 0] ** 2), 1)
    weight = p["g"] * np.stack(((p["m1"] * p["r1"] + p["m2"] * p["l1"]) * np.sin(q[:, 0]) + lower, lower), 1)
    expected = np.linalg.solve(mass, (u - bias - weight - (p["b1"], p["b2"]) * v)[..., None])[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_a_second_link_without_room_for_its_own_inertia_keeps_a_little() -> None:
    world = double_pendulum(IDENTIFIED | {"I2": 0.04})  # less than m2 r2^2
    assert np.linalg.eigvalsh(world.body("lower").inertia).min() > 0


def test_the_example_file_is_of_the_cube() -> None:
    (stored,), (cube,) = read_world(Path(__file__).parent.parent / "examples" / "cube.json").bodies, tossed_cube().bodies
    assert (stored.name, stored.mass, stored.geometries[0].shape) == (cube.name, cube.mass, cube.geometries[0].shape)
    np.testing.assert_array_equal(stored.inertia, cube.inertia)


def test_the_cube_is_as_its_makers_say() -> None:
    cube = tossed_cube().body("cube")
    assert cube.mass == MASS
    assert cube.geometries[0].shape.half_extents == pytest.approx((SIDE / 2,) * 3)
    assert np.diag(cube.inertia) == pytest.approx((INERTIA,) * 3)


def test_round_edges_lie_within_the_cubes_width() -> None:
    """On a face it touches where a sharp cube does; balanced on a corner it is lower by (sqrt(3) - 1) of the radius."""
    radius, dt, touching = 0.01, 1e-4, {}
    heights = torch.linspace(0.04, 0.1, 6001, dtype=torch.float64)
    half = 0.5 * np.arccos(3**-0.5)
    turns = {"face": (1.0, 0.0, 0.0, 0.0), "corner": (np.cos(half), np.sin(half) / 2**0.5, -np.sin(half) / 2**0.5, 0.0)}  # the body's (1, 1, 1) is up
    for name, turn in turns.items():
        for rounding in (0.0, radius):
            twin = RigidTwin(tossed_cube(rounding), dt=dt, substeps=1)
            poses = torch.zeros(len(heights), 7, dtype=torch.float64)
            poses[:, 2], poses[:, 3:] = heights, torch.tensor(turn, dtype=torch.float64)
            speeds = twin.roll(twin.state(poses), torch.zeros(len(heights), 1, 0, dtype=torch.float64)).states.velocity[:, 1, 2]
            touching[name, rounding] = float(heights[speeds > -0.9 * 9.81 * dt].max())
    assert touching["face", radius] == pytest.approx(SIDE / 2, abs=2e-5) and touching["face", 0.0] == pytest.approx(SIDE / 2, abs=2e-5)
    assert touching["corner", 0.0] == pytest.approx(3**0.5 * SIDE / 2, abs=2e-5)
    assert touching["corner", 0.0] - touching["corner", radius] == pytest.approx((3**0.5 - 1) * radius, abs=4e-5)
