"""What candidates are drawn from, and what weight they have."""

import pytest
import torch

from structwm.demos import toys
from structwm.noise import Noise
from structwm.planning import (
    ICEM,
    MPPI,
    ActionCost,
    CoordinateGoal,
    Gaussian,
)
from structwm.planning.shapes import spline_shape
from tests.models import pendulum, planar

SPEED = CoordinateGoal({"vx": 0.5, "vy": -0.25}) + 0.01 * ActionCost()


def test_common_noise_ranks_equal_actions_equally():
    plan = MPPI(horizon=5, samples=16).plan(toys.NoisyIntegrator(), planar(2), SPEED, seed=2)
    noise = Noise.from_seed(2, 2).child(2).sharing(1)
    twice = plan.actions[:, None].expand(2, 3, 5, 2)
    trajectory = toys.NoisyIntegrator().rollout(planar(2).unsqueeze(1).expand(2, 3), twice, noise=noise)
    cost = SPEED(trajectory)
    assert torch.equal(cost[:, 0], cost[:, 2])
    assert torch.allclose(cost[:, 0], plan.cost)


def test_candidates_may_search_far_and_near_at_once():
    planner, flat = MPPI(horizon=3, samples=64, narrow=0.01), torch.zeros(1, 3, 2)
    sampler = Gaussian(flat, torch.ones_like(flat), torch.ones_like(flat))
    found, all_far = (p.sample(sampler, Noise.from_seed(0, 1)) for p in (planner, MPPI(horizon=3, samples=64)))
    assert not bool(found[:, 0].any())
    ratio = (found / all_far)[0, 1:, 0, 0]
    assert torch.allclose(ratio, 0.01 ** (torch.arange(1, 64) / 63), rtol=1e-4)
    with pytest.raises(ValueError, match="narrow is a share"):
        MPPI(narrow=0.0)


def test_problems_of_one_seed_share_their_numbers():
    alone = Noise.from_seed(7, 1, step=3).normal((1, 5, 4))
    assert torch.equal(Noise(torch.full((3,), 7), step=3).normal((3, 5, 4)), alone.expand(3, 5, 4))
    mixed = Noise(torch.tensor([7, 8, 7]), step=3).normal((3, 5, 4))
    assert torch.equal(mixed[::2], alone.expand(2, 5, 4)) and not torch.equal(mixed[1], mixed[0])


def test_coloured_noise_has_the_spectrum_it_is_asked_for():
    """Power falls as 1 / f^2, every step has unit variance, and neighbours move together."""
    like = torch.zeros(1, 64, 1)
    kicks = ICEM(horizon=64, samples=4000, colour=2.0).kicks(like, Noise.from_seed(0, 1))[0, :, :, 0]
    assert torch.allclose(kicks.std(0), torch.ones(64), atol=0.05)
    assert float((kicks[:, 1:] * kicks[:, :-1]).mean()) > 0.95
    window = torch.hann_window(64)
    power = torch.fft.rfft((kicks - kicks.mean(1, keepdim=True)) * window).abs().square().mean(0)[3:24]
    slope = torch.linalg.lstsq(torch.stack((torch.arange(3, 24).log(), torch.ones(21)), 1), power.log().unsqueeze(1)).solution[0]
    assert float(slope) == pytest.approx(-2.0, abs=0.3)
    white = ICEM(horizon=64, samples=4000, colour=0.0).kicks(like, Noise.from_seed(0, 1))[0, :, :, 0]
    assert abs(float((white[:, 1:] * white[:, :-1]).mean())) < 0.02


@pytest.mark.parametrize("kind", ["zero", "linear", "cubic"])
def test_splines_go_through_their_knots(kind):
    shape = spline_shape(13, 4, kind)
    assert torch.allclose(shape.sum(1), torch.ones(13, dtype=torch.float64))  # equal knots give a constant
    if kind == "zero":
        assert shape.unique().tolist() == [0.0, 1.0]
    else:
        assert torch.allclose(shape[::4], torch.eye(4, dtype=torch.float64), atol=1e-12)
    if kind == "cubic":
        bends = (shape @ torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64)).diff(n=2)
        assert float(bends.diff().abs().max()) < 0.4  # curvature has no jumps


def test_noise_of_axes_hangs_together_as_it_is_told():
    kicks = MPPI(horizon=2, samples=20_000, covariance=((1.0, 0.8), (0.8, 1.0))).kicks(torch.zeros(1, 2, 2), Noise.from_seed(0, 1))
    assert float(torch.corrcoef(kicks[0].flatten(0, 1).T)[0, 1]) == pytest.approx(0.8, abs=0.02)
    with pytest.raises(ValueError, match="covariance is of 2 axes, and an action has 1"):
        MPPI(horizon=2, samples=4, covariance=((1.0, 0.8), (0.8, 1.0))).plan(toys.Pendulum(), pendulum(1), CoordinateGoal({"angle": 0.0}))


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("missing", [0, 3])
def test_mppi_weights_are_exponentials_of_standardised_costs(absolute, missing):
    """Against the formula in float64, also where some candidates cost infinity; a constant added to all costs changes nothing."""
    scores = 1e3 + 5.0 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[1, :missing] = torch.inf
    known = scores.masked_fill(~scores.isfinite(), torch.nan)
    spread = 1.0 if absolute else ((known - known.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True)).sqrt()
    expected = torch.exp(-(scores - scores.amin(1, keepdim=True)) / (0.3 * spread))
    expected /= expected.sum(1, keepdim=True)
    weights = MPPI(horizon=2, samples=50, temperature=0.3, absolute=absolute).weights(scores)
    assert torch.allclose(weights, expected, atol=1e-12)
