import math

import pytest
import torch

from structwm import check_model
from structwm.demos.toys import Pendulum
from structwm.training import Curriculum, FitSettings, NegativeLogLikelihood, RolloutLoss, fit, open_loop_errors
from structwm.training.optimizers import optimizers_of
from structwm.training.training_loop import _Batches

from .pendulums import network, swings

QUICK = FitSettings(steps=250, batch=64, learning_rate=4e-3, evaluate_every=50, accelerator="cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("head", "loss", "curriculum", "bound"),
    [
        ("mean", RolloutLoss(), Curriculum(), 0.1),
        ("mean", RolloutLoss(kind="squared"), Curriculum(1, 1), 0.1),
        ("gaussian", NegativeLogLikelihood(), Curriculum(1, 1), 0.1),
        ("mixture", NegativeLogLikelihood(), Curriculum(1, 1), 0.15),  # its parts take turns at first
    ],
)
def test_it_learns_a_pendulum(head: str, loss: object, curriculum: Curriculum, bound: float) -> None:
    """Ten steps predicted freely, against holding still; the untrained network is no better than a few bounds."""
    train, held = swings(256, 10, seed=0), swings(64, 10, seed=1)
    model = network(train, head=head)
    before = float(open_loop_errors(model, held).relative().mean())
    settings = FitSettings(**{**vars(QUICK), "curriculum": curriculum})
    fitted = fit(model, train, held_out=held, loss=loss, settings=settings, progress=False)  # type: ignore[arg-type]
    assert fitted.best_error < bound < before / 3
    assert fitted.best_error == pytest.approx(float(open_loop_errors(fitted.model, held).relative().mean()), rel=1e-4)
    check_model(fitted.model, held.start[:4])


def test_the_gaussian_head_knows_where_a_system_is_noisy() -> None:
    """Kicks to the rate where the angle is positive, none where it is negative: the spread said follows."""
    train = swings(2000, 1, seed=0)
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(5)) * (train.start.angle > 0)
    train.states.rate[:, 1] += noise
    model = network(train, head="gaussian")
    fit(model, train, held_out=train[:200], loss=NegativeLogLikelihood(), settings=QUICK, progress=False)
    calm, wild = (
        model.std(part.start, part.actions[:, 0])["rate"].mean().item()
        for part in (train[train.start.angle[:, 0] < -0.5], train[train.start.angle[:, 0] > 0.5])
    )
    assert wild == pytest.approx(1.0, rel=0.2)
    assert calm < 0.3


def test_it_stops_when_the_held_out_error_rises_and_keeps_the_best() -> None:
    train = swings(6, 4, seed=0)
    held = swings(64, 4, seed=1, length=1.6)
    settings = FitSettings(steps=2000, batch=6, learning_rate=1e-2, evaluate_every=10, patience=4, accelerator="cpu")
    fitted = fit(network(train, hidden=(64, 64)), train, held_out=held, settings=settings, progress=False)
    errors = [entry["held_out"] for entry in fitted.history]
    assert fitted.stopped == "patience" and fitted.history[-1]["step"] < 2000
    assert fitted.best_error == min(errors)
    assert fitted.history[-1]["step"] - fitted.best_step == 4 * 10


def test_windows_with_holes_and_padding_train_as_well() -> None:
    train, held = swings(256, 8, seed=0), swings(32, 8, seed=1)
    train.states.angle[::2, 3:5] = torch.nan
    train.valid[::3, 6:] = False
    train.states.rate[::3, 6:] = 1e6  # padding that would wreck the fit if it were read
    fitted = fit(network(train[1::3]), train, held_out=held, settings=QUICK, progress=False)
    assert fitted.best_error < 0.2


def test_windows_whose_start_was_not_observed_are_left_out() -> None:
    train, held = swings(64, 5, seed=0), swings(16, 5, seed=1)
    for part in (train, held):
        part.states.rate[3, 0] = torch.nan
    fitted = fit(network(train[4:]), train, held_out=held, settings=QUICK, progress=False)
    assert fitted.skipped == 0 and fitted.best_error < 0.2
    assert torch.equal(fitted.held_out.relative().isnan(), torch.arange(16) == 3)
    with pytest.raises(ValueError, match="No held-out window starts at a fully observed state"):
        fit(network(train[4:]), train, held_out=held[3:4], settings=QUICK, progress=False)


def test_a_batch_that_shows_nothing_is_passed_over() -> None:
    train = swings(8, 4, seed=0)
    for row in range(1, 8):  # one window alone has two observed states one step apart
        train.states.rate[row, 1:] = torch.nan
        train.states.angle[row, 1:] = torch.nan
    settings = FitSettings(steps=16, batch=1, curriculum=Curriculum(1, 1), evaluate_every=8, accelerator="cpu")
    for head, loss in (("mean", RolloutLoss()), ("gaussian", NegativeLogLikelihood())):
        model = network(swings(8, 4, seed=0), head=head)
        before = model.network[0].weight.detach().clone()
        fitted = fit(model, train, held_out=train, loss=loss, settings=settings, progress=False)  # type: ignore[arg-type]
        assert fitted.skipped == 0 and not torch.equal(model.network[0].weight, before)
    with pytest.raises(ValueError, match="no state within 1 steps after an observed one"):
        fit(model, train[1:], held_out=train, settings=settings, progress=False)
    with pytest.raises(ValueError, match="fully observed states one step apart"):
        NegativeLogLikelihood().fitted(model, train[1:])


def test_what_trains_is_in_training_mode_and_what_is_frozen_is_not() -> None:
    train = swings(8, 2, seed=0)
    modes = set()

    class Watching(Pendulum):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.layer, self.frozen = torch.nn.Dropout(0.5), torch.nn.Linear(1, 1), network(train).requires_grad_(False)

        def step_fields(self, fields, action, *, noise=None):
            if torch.is_grad_enabled():
                modes.add((self.drop.training, self.frozen.training))
            return super().step_fields(fields, action) | {"rate": fields["rate"] + self.drop(self.layer(action))}

    model = Watching().eval()
    for _ in range(2):
        fit(model, train, held_out=train, settings=FitSettings(steps=2, accelerator="cpu"), progress=False)
    assert modes == {(True, False)}


@pytest.mark.parametrize("steps", [10, 21, 30, 250])
def test_the_learning_rate_rises_to_its_highest_and_no_further(steps: int) -> None:
    rates = [FitSettings(steps=steps).rate(step) for step in range(steps)]
    assert 0.9e-3 < max(rates) <= 1e-3 and rates[-1] < 0.2e-3


def test_the_curriculum_goes_from_teacher_forcing_to_free_running() -> None:
    lengths = [Curriculum(1, None, 0.5).steps(p, 20) for p in (0.0, 0.25, 0.5, 1.0)]
    assert lengths == [1, 10 + (round(19 * 0.5) - 9), 20, 20]
    assert Curriculum(3, 5).steps(1.0, 4) == 4
    with pytest.raises(ValueError, match="first <= last"):
        Curriculum(4, 2)


def test_batches_are_permutations_and_processes_share_them() -> None:
    settings = FitSettings(steps=9, batch=4, accelerator="cpu")
    whole = [index for batch in _Batches(12, settings, first=0, rank=0, world=1) for index in batch]
    for epoch in range(3):
        assert sorted(whole[12 * epoch : 12 * (epoch + 1)]) == list(range(12))
    halves = [list(_Batches(12, settings, first=0, rank=rank, world=2)) for rank in range(2)]
    for step, (one, other) in enumerate(zip(*halves, strict=True)):
        assert sorted([*one, *other]) == sorted(whole[4 * step : 4 * step + 4])
    assert list(_Batches(12, settings, first=5, rank=0, world=1)) == list(_Batches(12, settings, first=0, rank=0, world=1))[5:]


def test_a_loss_that_is_not_finite_is_counted_and_ends_training() -> None:
    train = swings(32, 4, seed=0)

    class Bad(RolloutLoss):
        def fitted(self, model, windows):
            return self

        def __call__(self, model, batch):
            return super().__call__(model, batch) * math.nan

    with pytest.raises(FloatingPointError, match="not finite in the ten steps up to 9"):
        fit(network(train), train, held_out=train, loss=Bad(), settings=QUICK, progress=False)


def test_a_prediction_that_is_not_finite_is_no_missing_observation() -> None:
    train = swings(4, 3, seed=0)
    model = network(train)
    with torch.no_grad():
        model.network[-1].bias.fill_(torch.nan)
    assert not bool(RolloutLoss().fitted(model, train)(model, train).isfinite())


def test_muon_moves_matrices_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.SiLU(), torch.nn.Linear(32, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))
    hidden, values = layers[2].weight, list(layers.parameters())
    plain, muon = optimizers_of(values, FitSettings(optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon) and [id(value) for value in muon.param_groups[0]["params"]] == [id(hidden)]
    assert isinstance(plain, torch.optim.AdamW) and len(plain.param_groups[0]["params"]) == 5
    assert len(optimizers_of(values, FitSettings())) == 1 and len(optimizers_of(values[:2], FitSettings(optimizer="muon"))) == 1
    layers(torch.randn(64, 3)).square().sum().backward()
    before, slopes = hidden.detach().clone(), torch.linalg.svdvals(hidden.grad)
    muon.step()
    moved = torch.linalg.svdvals(hidden.detach() - before)
    assert moved[4] > 0.5 * moved[0] and slopes[4] < 0.2 * slopes[0]  # in all directions alike, however steep


def test_what_cannot_be_trained_is_refused_first() -> None:
    train = swings(4, 3, seed=0)
    with pytest.raises(ValueError, match="no trainable parameters"):
        fit(Pendulum(), train, held_out=train, progress=False)
    with pytest.raises(ValueError, match="at least one window in held_out"):
        fit(network(train), train, held_out=train[:0], progress=False)
    with pytest.raises(ValueError, match="log_prob"):
        fit(_Trainable(), train, held_out=train, loss=NegativeLogLikelihood(), settings=QUICK, progress=False)
    with pytest.raises(ValueError, match="batch >= 1"):
        FitSettings(batch=0)
    with pytest.raises(ValueError, match="seed >= 0"):
        FitSettings(seed=-1)
    with pytest.raises(ValueError, match="adamw and muon"):
        FitSettings(optimizer="adam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32-true and bf16-mixed"):
        FitSettings(precision="16-mixed")
    with pytest.raises(ValueError, match="scale for 'anlge'; the coordinates of DeltaModel are angle, rate"):
        fit(network(train), train, held_out=train, loss=RolloutLoss(scale={"anlge": 1.0}), progress=False)
    with pytest.raises(ValueError, match="finite scales above 0"):
        RolloutLoss(scale={"angle": 0.0})


class _Trainable(Pendulum):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))


def test_a_model_that_cannot_be_saved_is_refused_before_training(tmp_path) -> None:
    train = swings(4, 3, seed=0)
    model = network(train)
    model.config = None
    model.sizes = None
    with pytest.raises(TypeError):
        fit(model, train, held_out=train, settings=QUICK, run=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
