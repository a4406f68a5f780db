"""Recorded rollouts of `RigidTwin`: the same numbers as launched ones."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from structwm.demos.real_worlds import double_pendulum, tossed_cube
from structwm.kernels.rigid_recorded import KEPT
from structwm.physics import Body, Joint, RigidTwin, RigidWorld
from structwm.physics.rigid_scene import RigidState
from tests.test_real_worlds import IDENTIFIED


def thrown(count: int, horizon: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[RigidTwin, RigidState, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    twin = RigidTwin(tossed_cube(), dt=0.01, substeps=2)
    pose = torch.tensor([0.0, 0.0, 0.08, 1.0, 0.0, 0.0, 0.0], dtype=dtype).expand(count, 7)
    return twin, twin.state(pose, torch.randn(count, 6, generator=draw, dtype=dtype), dtype=dtype), torch.zeros(count, horizon, 0, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "horizon"), [(1, 1), (5, 20), (200, 3)])
def test_bit_for_bit(count: int, horizon: int, dtype: torch.dtype) -> None:
    twin, _, actions = thrown(count, horizon, dtype=dtype)
    recorded = twin.recorded()
    for seed in range(3):
        state = thrown(count, horizon, seed=seed, dtype=dtype)[1]
        expected, found = twin.roll(state, actions).states, recorded.roll(state, actions).states
        assert torch.equal(expected.configuration, found.configuration)
        assert torch.equal(expected.velocity, found.velocity)


def test_with_actions_and_joints() -> None:
    twin = RigidTwin(double_pendulum(IDENTIFIED), dt=0.01)
    recorded, draw = twin.recorded(), torch.Generator().manual_seed(0)
    for _ in range(2):
        state = twin.state(positions={"upper": 0.3, "lower": torch.rand((), generator=draw)})
        actions = torch.rand(15, 2, generator=draw)
        assert torch.equal(twin.roll(state, actions).states.configuration, recorded.roll(state, actions).states.configuration)


def test_earlier_results_stay() -> None:
    twin, state, actions = thrown(4, 5)
    recorded = twin.recorded()
    first = recorded.roll(state, actions).states.configuration
    before = first.clone()
    recorded.roll(thrown(4, 5, seed=1)[1], actions)
    assert torch.equal(first, before)


def test_other_parameters_are_followed() -> None:
    twin, state, actions = thrown(4, 30)
    recorded = twin.recorded()
    recorded.roll(state, actions)
    for values in ({"gravity": 3.0}, {"friction": torch.linspace(0.1, 0.7, 4)}):
        expected = twin.with_parameters(values).roll(state, actions).states.configuration
        assert torch.equal(recorded.with_parameters(values).roll(state, actions).states.configuration, expected)


def test_gradients_are_those_of_the_twin() -> None:
    twin, state, actions = thrown(4, 10)

    def gradient(model: RigidTwin) -> Tensor:
        gravity = torch.tensor(9.81, requires_grad=True)
        height = model.with_parameters({"gravity": gravity}).roll(state, actions).states.configuration[:, -1, 2].sum()
        return torch.autograd.grad(height, gravity)[0]

    assert torch.equal(gradient(twin.recorded()), gradient(twin))


def test_many_sizes_copies_and_threads() -> None:
    twin, _, _ = thrown(1, 1)
    recorded = twin.recorded()
    sizes = [(count, horizon) for count in (1, 2, 3) for horizon in range(1, KEPT)]
    with ThreadPoolExecutor(4) as pool:
        for (count, horizon), found in zip(sizes, pool.map(lambda size: recorded.roll(*thrown(*size)[1:]).states.configuration, sizes), strict=True):
            assert torch.equal(found, twin.roll(*thrown(count, horizon)[1:]).states.configuration)
    state, actions = thrown(2, 3)[1:]
    for other in (copy.deepcopy(recorded), pickle.loads(pickle.dumps(recorded))):
        assert torch.equal(other.roll(state, actions).states.configuration, twin.roll(state, actions).states.configuration)


def test_no_worlds_and_nothing_that_moves() -> None:
    twin, _, _ = thrown(1, 1)
    fixed = RigidTwin(RigidWorld((Body("post", 1.0, 0.1, joint=Joint("fixed")),)), dt=0.01)
    none = twin.state(torch.zeros(0, 7), torch.zeros(0, 6))
    for model in (twin, twin.recorded()):
        assert model.roll(none, torch.zeros(0, 4, 0)).states.configuration.shape == (0, 5, 7)
    still = fixed.state()
    assert fixed.roll(still, torch.zeros(4, 0)).states.configuration.shape == (5, 0)
