import pytest
import torch

from structwm.noise import Noise
from structwm.training.heads import GaussianHead, Head, MeanHead, MixtureHead
from structwm.training.statistics import Statistics
from structwm.training.windows import Batch

from .pendulums import network, swings

MAKE = {"gaussian": lambda: GaussianHead(2), "mixture": lambda: MixtureHead(2, components=3)}


def raw(head: Head, *batch: int) -> torch.Tensor:
    return torch.randn(*batch, head.inputs, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MAKE)
def test_density_integrates_to_one(name: str) -> None:
    """A Riemann sum over a grid that reaches far enough and is fine enough for these spreads: 1 to half a percent."""
    head = MAKE[name]()
    numbers = raw(head)
    axis = torch.linspace(-15, 15, 601)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    density = (head.log_prob(numbers.expand(601, 601, -1), grid) * 2).exp().detach()
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("name", MAKE)
def test_draws_have_the_mean_and_spread_that_are_said(name: str) -> None:
    """20,000 draws: the mean's standard error is std / 141; four of them are allowed, and five percent for the spread."""
    head, count = MAKE[name](), 20_000
    numbers = raw(head)
    draws = head.sample(numbers.expand(1, count, -1), Noise.from_seed(0, 1))[0]
    mean, std = head.mean(numbers), head.std(numbers)
    assert bool(((draws.mean(0) - mean).abs() < 4 * std / count**0.5).all())
    torch.testing.assert_close(draws.std(0), std.detach(), rtol=0.05, atol=0.0)


def fitted(head: Head, data: torch.Tensor, *, steps: int) -> tuple[torch.Tensor, float]:
    """Numbers under which data (N, D) are likeliest, and their mean log likelihood."""
    weights = torch.nn.Parameter(torch.randn(head.inputs))
    optimizer = torch.optim.Adam([weights, *head.parameters()], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -head.log_prob(weights.expand(len(data), -1), data).mean()
        loss.backward()
        optimizer.step()
    return weights.detach(), -float(loss.detach())


@pytest.mark.parametrize("name", MAKE)
def test_likelihood_finds_the_spread_of_data(name: str) -> None:
    torch.manual_seed(0)
    head = MAKE[name]()
    data = torch.randn(4000, 2) * torch.tensor([0.5, 2.0]) + torch.tensor([1.0, -1.0])
    weights, _ = fitted(head, data, steps=400)
    torch.testing.assert_close(head.mean(weights).detach(), torch.tensor([1.0, -1.0]), atol=0.1, rtol=0.0)
    torch.testing.assert_close(head.std(weights).detach(), torch.tensor([0.5, 2.0]), rtol=0.1, atol=0.0)


def test_a_mixture_tells_two_outcomes_apart_where_a_normal_cannot() -> None:
    torch.manual_seed(0)
    data = torch.where(torch.rand(2000, 1) < 0.5, -1.0, 1.0) + 0.05 * torch.randn(2000, 1)
    likelihood = {name: fitted(head, data, steps=300)[1] for name, head in (("gaussian", GaussianHead(1)), ("mixture", MixtureHead(1, components=2)))}
    assert likelihood["mixture"] > likelihood["gaussian"] + 1.0


def test_the_mean_head_is_the_squared_error() -> None:
    head, value = MeanHead(3), torch.tensor([1.0, 2.0, 2.0])
    assert float(head.log_prob(torch.zeros(3), value)) == pytest.approx(-1.5)
    with pytest.raises(ValueError, match="at least two components"):
        MixtureHead(2, components=1)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="knows the heads mean, gaussian, mixture, got 'gauss'"):
        network(swings(4, 3, seed=0), head="gauss")


def test_scales_of_windows_without_an_action_are_refused() -> None:
    batch = swings(4, 3, seed=0)
    with pytest.raises(ValueError, match="at least one valid action"):
        Statistics.of(Batch(batch.states, batch.actions, batch.valid & (torch.arange(4) == 0)))
