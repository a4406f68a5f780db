"""Recorded numbers in other units are refused where they show, and slow, noisy, fast or spinning motion in SI units is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structwm.geometry import quaternion_multiply, rotation_vector_to_quaternion
from structwm.physics import Body, BoxShape, CapsuleShape, Geometry, Joint, RigidRun, RigidTwin, RigidWorld, rigid_recording
from structwm.physics.rigid_checks import check_units

SIZE = 0.087  # of a cube of 10 cm [m]
RATE = 148.0


def path(steps: int = 148, *, velocity: tuple[float, ...] = (0.3, 0.0, 0.0), spin: tuple[float, ...] = (0.0, 0.0, 2.0), noise: float = 0.0) -> Any:
    """Poses, twists and times of a body that moves and turns evenly, its poses seen with noise [m, rad]."""
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(steps + 1, dtype=torch.float64) / RATE
    linear, angular = (torch.tensor(part, dtype=torch.float64) for part in (velocity, spin))
    errors = noise * torch.randn(2, steps + 1, 3, generator=generator, dtype=torch.float64)
    turn = quaternion_multiply(rotation_vector_to_quaternion(errors[1]), rotation_vector_to_quaternion(times[:, None] * angular))
    poses = torch.cat((times[:, None] * linear + errors[0], turn), -1)
    return poses, torch.cat((linear, angular)).expand(steps + 1, 6).clone(), times


def scaled(values: Tensor, *, linear: float = 1.0, angular: float = 1.0) -> Tensor:
    """Poses or twists with their first three numbers, and of twists the others, in another unit."""
    factors = torch.ones(values.shape[-1], dtype=torch.float64)
    factors[:3] = linear
    if values.shape[-1] == 6:
        factors[3:] = angular
    return values * factors


@pytest.mark.parametrize(
    "motion",
    [
        {"velocity": (0.0, 0.0, 0.0), "spin": (0.0, 0.0, 0.0), "noise": 1e-3},  # rests: poses jump by 0.4 m/s from each to the next
        {"velocity": (0.002, 0.0, 0.0), "spin": (0.0, 0.0, 0.01), "noise": 2e-3},  # creeps
        {"velocity": (0.0, 0.0, 0.0), "spin": (3.0, 5.0, 60.0)},  # spins through more than half a turn in a twentieth of a second
        {"velocity": (15.0, 0.0, 3.0), "spin": (0.0, 0.0, 0.0)},  # is thrown far
        {"velocity": (0.5, 0.1, -0.3), "spin": (1.0, 0.0, 4.0), "noise": 3e-3},
        {"steps": 1},
        {"steps": 2, "noise": 1e-3},
    ],
)
def test_si_units_are_accepted(motion: dict[str, Any]) -> None:
    check_units("a run", *path(**motion), SIZE)


def test_a_small_ball_may_fly_far() -> None:
    poses, twists, times = path(velocity=(2.0, 0.0, 0.0), spin=(0.0, 0.0, 0.0))
    check_units("a marble", poses, twists, times, 0.005)  # 400 times its size


@pytest.mark.parametrize("twists", [True, False])
@pytest.mark.parametrize("factor", [1000.0, 100.0])
def test_places_in_millimetres_or_centimetres(factor: float, twists: bool) -> None:
    """With or without twists to tell by."""
    poses, rates, times = path(velocity=(0.6, 0.2, 0.0))
    with pytest.raises(ValueError, match="millimetres"):
        check_units("a run", scaled(poses, linear=factor), rates if twists else torch.full_like(rates, math.nan), times, SIZE)


@pytest.mark.parametrize("noise", [0.0, 2e-3])
def test_twists_in_other_units(noise: float) -> None:
    poses, twists, times = path(velocity=(0.4, 0.0, 0.0), noise=noise)
    for linear in (1000.0, 100.0, 0.01):
        with pytest.raises(ValueError, match="mean velocity of .* m/s, what was seen shows .*millimetres or frames"):
            check_units("a run", poses, scaled(twists, linear=linear), times, SIZE)
    for angular in (math.degrees(1), 1 / RATE):
        with pytest.raises(ValueError, match="mean angular velocity of .* rad/s, what was seen shows 2; .*degrees or frames"):
            check_units("a run", poses, scaled(twists, angular=angular), times, SIZE)


def test_times_in_another_unit() -> None:
    poses, twists, times = path()
    for factor in (10.0, 0.1, 1000.0):
        with pytest.raises(ValueError, match="mean velocity"):
            check_units("a run", poses, twists, factor * times, SIZE)
    with pytest.raises(ValueError, match="rising times"):
        check_units("a run", poses, twists, times.flip(0), SIZE)


# joints

ROD = Body("rod", 0.2, 0.001, (Geometry(CapsuleShape(0.01, 0.1)),), com=(0.0, 0.0, -0.1), joint=Joint("hinge", axis=(0.0, 1.0, 0.0)))
SLED = Body("sled", 0.2, 0.001, (Geometry(BoxShape((0.05, 0.05, 0.05))),), joint=Joint("slide", axis=(1.0, 0.0, 0.0)))
JOINTED = RigidTwin(RigidWorld((ROD, SLED)), dt=0.01)


def test_rates_of_a_joint_that_turns_over_do_not_jump() -> None:
    """Angles between -pi and pi: the start is at 7 rad/s, not at -620."""
    turned = 3.1 + 0.07 * torch.arange(12, dtype=torch.float64)
    wrapped = (turned + math.pi) % (2 * math.pi) - math.pi
    for angles in (wrapped, turned):
        recording = rigid_recording(JOINTED, [RigidRun(positions={"rod": angles, "sled": torch.zeros(12)})], windows=(4, 1))
        torch.testing.assert_close(recording.state.velocity[:, 0], torch.full((len(recording),), 7.0, dtype=torch.float64))


def test_rates_of_a_joint_in_degrees() -> None:
    angles, places = 0.05 * torch.arange(40, dtype=torch.float64), 0.01 * torch.arange(40, dtype=torch.float64)
    good = {"rod": torch.full((40,), 5.0), "sled": torch.ones(40)}
    rigid_recording(JOINTED, [RigidRun(positions={"rod": angles, "sled": places}, rates=good)])
    with pytest.raises(ValueError, match="rod: states a mean rate of 28[67] rad/s, what was seen shows 5; is one of them in degrees"):
        rigid_recording(JOINTED, [RigidRun(positions={"rod": angles, "sled": places}, rates=good | {"rod": torch.full((40,), 286.5)})])
    with pytest.raises(ValueError, match="sled: states a mean rate of 1e\\+03 m/s, what was seen shows 1; is one of them in millimetres"):
        rigid_recording(JOINTED, [RigidRun(positions={"rod": angles, "sled": places}, rates=good | {"sled": torch.full((40,), 1000.0)})])


def test_runs_may_share_a_name() -> None:
    """Two of one name stay two runs: each is cut, held out and counted by itself."""
    run = RigidRun(positions={"rod": torch.linspace(0.0, 0.3, 8), "sled": torch.zeros(8)}, name="again")
    recording = rigid_recording(JOINTED, [run, run, run])
    assert recording.runs.tolist() == [0, 1, 2]
    fitted, aside = recording.split(0.3)
    assert len(fitted) == 2 and len(aside) == 1
