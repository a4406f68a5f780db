"""Conformal regions hold their level, are small where the model is sure, and ensembles grow less sure away from their data."""

import json
import math

import pytest
import torch

from structwm.demos.toys import DoubleIntegrator, PlanarState
from structwm.ensemble import Ensemble, disagreement
from structwm.physics import Settings, calibrate
from structwm.physics.push_intervals import TwinRegions, out_of_fold_errors
from structwm.training import ConformalRegions, SpreadScale
from structwm.transition import TransitionModel
from tests.test_calibration import NAMES, recorded


def draw(count, *, steps=3, seed=0, heavy=False):
    """Correlated errors (N, H, 2) that grow over the horizon, and the scale of each."""
    source = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, steps, 2, generator=source, dtype=torch.float64)
    if heavy:
        raw = raw / torch.randn(count, steps, 1, generator=source, dtype=torch.float64).abs().clamp_min(0.1)
    scale = torch.exp(torch.randn(count, 1, 1, generator=source, dtype=torch.float64)) * torch.arange(1, steps + 1)[:, None] * torch.tensor([1.0, 0.1])
    mixed = torch.stack((raw[..., 0], 0.8 * raw[..., 0] + 0.6 * raw[..., 1]), -1)
    return mixed * scale, scale


@pytest.mark.parametrize("kind", ["box", "ellipsoid", "each"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shaping", [0.0, 0.3])
def test_new_exchangeable_errors_lie_inside_with_the_level(kind, scaled, shaping):
    """Given the fit, coverage is Beta distributed with a standard deviation of sqrt(0.09 / n): 0.008 for n = 1400; 4000 new errors add 0.005.

    0.035 is four of these together, for the twelve cases and their steps.
    """
    errors, spread = draw(2000, heavy=True)
    regions = ConformalRegions.fit(errors, spread if scaled else None, kind=kind, shaping=shaping)
    new, its = draw(4000, seed=1, heavy=True)
    covered = regions.coverage(new, its if scaled else None)
    assert covered.rate.shape == ((3, 2) if kind == "each" else (3,))
    assert ((covered.rate - 0.9).abs() < 0.035).all()
    assert (covered.low < covered.rate).all() and (covered.rate < covered.high).all()


def test_the_guarantee_holds_on_average_with_few_errors():
    """Nine errors at level 0.9 take the largest: mean coverage over 400 fits is 0.9, to four times 0.09 / sqrt(400) = 0.018 plus the judge's own noise."""
    new, _ = draw(500, steps=1, seed=7)
    rates = [float(ConformalRegions.fit(draw(9, steps=1, seed=s)[0][..., :1], kind="each").coverage(new[..., :1]).rate) for s in range(400)]
    assert 0.88 < sum(rates) / len(rates) < 0.92


def test_regions_are_smaller_where_the_model_is_sure_and_by_the_median():
    errors, spread = draw(2000)
    constant, scaled = ConformalRegions.fit(errors), ConformalRegions.fit(errors, spread)
    new, its = draw(2000, seed=1)
    sure = its[:, 0, 0] < its[:, 0, 0].median()
    volume = scaled.volume(its)
    assert volume[sure].median() < 0.2 * volume[~sure].median()
    assert volume.median() < 0.5 * constant.volume().median()
    assert ((scaled.coverage(new, its).rate - 0.9).abs() < 0.035).all()
    halves = [scaled.coverage(new[at], its[at]).rate for at in (sure, ~sure)]
    assert all(((rate - 0.9).abs() < 0.05).all() for rate in halves)  # with the true scale, also where sure and where unsure
    assert (constant.coverage(new[sure]).rate > 0.97).all()  # a constant width is too wide there


def test_an_ellipsoid_is_smaller_than_a_box_for_correlated_errors():
    errors, spread = draw(3000)
    volumes = {kind: float(ConformalRegions.fit(errors, spread, kind=kind).volume(spread).mean()) for kind in ("box", "ellipsoid")}
    assert volumes["ellipsoid"] < 0.9 * volumes["box"]
    regions = ConformalRegions.fit(errors, spread, kind="ellipsoid")
    beyond = regions.half_widths(spread) * 1.001  # the ellipsoid's bounding box touches it
    assert not regions.contains(torch.stack((beyond[..., 0], 0 * beyond[..., 1]), -1), spread).any()


def test_a_horizon_is_held_at_once_if_asked():
    errors, spread = draw(2000)
    new, its = draw(4000, seed=1)
    whole = [
        float(ConformalRegions.fit(errors, spread, simultaneous=simultaneous).contains(new, its).all(-1).double().mean()) for simultaneous in (False, True)
    ]
    assert whole[0] < 0.85 and abs(whole[1] - 0.9) < 0.035


def test_groups_even_out_coverage():
    def data(seed):
        errors, spread = draw(3000, seed=seed)
        groups = ["calm" if i % 3 else "wild" for i in range(3000)]
        return errors * torch.tensor([1.0 if g == "calm" else 2.5 for g in groups])[:, None, None], spread, groups

    errors, spread, groups = data(0)
    new, its, theirs = data(1)
    wild = torch.tensor([g == "wild" for g in theirs])
    plain, grouped = ConformalRegions.fit(errors, spread), ConformalRegions.fit(errors, spread, groups=groups)
    assert plain.contains(new, its)[wild].double().mean() < 0.8
    inside = grouped.contains(new, its, theirs)
    assert abs(inside[wild].double().mean() - 0.9) < 0.03 and abs(inside[~wild].double().mean() - 0.9) < 0.03


def test_angles_are_wrapped_and_what_was_not_observed_is_left_out():
    errors, _ = draw(300)
    regions = ConformalRegions.fit(errors, kind="each", periodic=[1])
    turned = errors + torch.tensor([0.0, 2 * math.pi])
    assert (regions.contains(turned) ^ regions.contains(errors)).sum() <= 6  # but for the error that sets each threshold, by rounding
    holes = errors.clone()
    holes[::2, 1, 0] = math.nan
    box = ConformalRegions.fit(holes, periodic=[1])
    assert not box.contains(holes)[::2, 1].any()
    assert box.coverage(holes).count.tolist() == [300, 150, 300]
    assert (box.coverage(holes).rate >= 0.9).all()


@pytest.mark.parametrize("kind", ["box", "ellipsoid", "each"])
def test_a_prediction_that_broke_is_an_error_and_no_missing_observation(kind):
    """One in twenty errors is infinite: regions of level 0.9 are wider for it, hold 0.9 of all, and count the broken ones as outside; one in five: infinite."""

    def data(seed, share):
        errors, _ = draw(2000, seed=seed)
        broken = torch.rand(2000, generator=torch.Generator().manual_seed(seed)) < share
        return errors.masked_fill(broken[:, None, None], math.inf), broken

    (errors, _), (new, broken) = data(0, 0.05), data(1, 0.05)
    regions = ConformalRegions.fit(errors, kind=kind, periodic=[1], groups=["a", "b"] * 1000)
    covered = regions.coverage(new, groups=["a", "b"] * 1000)
    assert covered.count.unique().tolist() == [2000] and ((covered.rate - 0.9).abs() < 0.035).all()
    assert not regions.contains(new[broken]).any()
    assert regions.half_widths().isfinite().all()
    many = ConformalRegions.fit(data(0, 0.2)[0], kind=kind, periodic=[1])
    assert many.half_widths().isinf().all() and many.contains(new).all()
    assert ConformalRegions.from_json(json.loads(json.dumps(many.to_json(), allow_nan=False))).contains(new).all()
    whole = ConformalRegions.fit(data(0, 0.2)[0], kind=kind, simultaneous=True)
    assert whole.half_widths().isinf().all() and whole.contains(new).all()


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("kind", ["box", "ellipsoid", "each"])
def test_a_prediction_whose_spread_broke_too_counts_as_well(kind, value):
    """Members that diverge leave infinite errors with a variance of inf - inf: one in five, level 0.7 holds 0.7 of all."""

    def data(seed):
        errors, spread = draw(2000, seed=seed)
        broken = (torch.rand(2000, generator=torch.Generator().manual_seed(seed)) < 0.2)[:, None, None]
        return errors.masked_fill(broken, math.inf), spread.expand_as(errors).masked_fill(broken, value)

    (errors, spread), (new, its) = data(0), data(1)
    covered = ConformalRegions.fit(errors, spread, kind=kind, level=0.7).coverage(new, its)
    assert covered.count.unique().tolist() == [2000] and ((covered.rate - 0.7).abs() < 0.05).all()  # 4 sqrt(0.21 (1 / 2000 + 1 / 2000))
    whole = errors.isfinite().flatten(1).all(1)
    scale, clean = SpreadScale.fit(errors, spread.square()), SpreadScale.fit(errors[whole], spread[whole].square())
    assert torch.allclose(scale.floor, clean.floor, rtol=1e-6) and torch.allclose(scale.gain, clean.gain, rtol=1e-6)


def test_infinite_regions_stay_infinite_where_the_spread_is_nothing():
    errors, spread = draw(100)
    regions = ConformalRegions.fit(torch.full_like(errors, math.inf), spread.expand_as(errors))
    nothing = torch.zeros_like(errors)
    assert regions.half_widths(nothing).isinf().all() and regions.volume(nothing).isinf().all()


def test_group_sizes_keep_the_guarantee_where_a_part_gives_the_shape():
    """Forty groups of two errors: coverage over 150 fits averages 0.9 at least, to three standard errors of 0.003."""
    groups, rates = [i // 2 for i in range(80)], []
    new, _ = draw(400, steps=1, seed=999)
    for seed in range(150):
        errors, _ = draw(80, steps=1, seed=seed)
        regions = ConformalRegions.fit(errors, shaping=0.3, groups=groups, shrinkage=1.0)
        rates.append(float(regions.coverage(new, groups=[i % 40 for i in range(400)]).rate))
    assert sum(rates) / len(rates) > 0.89


def test_regions_come_back_from_json():
    errors, spread = draw(200)
    groups = ["a", "b"] * 100
    for kind in ("box", "ellipsoid", "each"):
        regions = ConformalRegions.fit(errors, spread, kind=kind, groups=groups, periodic=[1])
        again = ConformalRegions.from_json(json.loads(json.dumps(regions.to_json())))
        assert torch.equal(again.contains(errors, spread, groups), regions.contains(errors, spread, groups))
        assert torch.allclose(again.half_widths(spread, groups), regions.half_widths(spread, groups))


def test_what_cannot_work_is_said_in_one_sentence():
    errors, spread = draw(18)
    with pytest.raises(ValueError, match=r"level 0.95 need at least 19 errors, got 18 at step 1"):
        ConformalRegions.fit(errors, level=0.95)
    assert ConformalRegions.fit(torch.cat((errors, errors[:1])), level=0.95).level == 0.95
    with pytest.raises(ValueError, match="level between 0 and 1"):
        ConformalRegions.fit(errors, level=1.0)
    with pytest.raises(ValueError, match="fitted without a spread; leave it out"):
        ConformalRegions.fit(errors).contains(errors, spread)
    with pytest.raises(ValueError, match=r"errors \(N, H, D\)"):
        ConformalRegions.fit(errors[0])
    for some in (errors[:0], torch.where(torch.tensor([[False], [True], [False]]), math.nan, errors)):
        with pytest.raises(ValueError, match=r"level 0.9 need at least 9 errors, got 0 at step"):
            ConformalRegions.fit(some)
    with pytest.raises(ValueError, match="errors of every coordinate, got none of number 1"):
        SpreadScale.fit(torch.where(torch.tensor([False, True]), math.nan, errors), errors.square())
    with pytest.raises(ValueError, match="errors of every coordinate, got none of number 0, 1"):
        SpreadScale.fit(errors[:0], errors[:0])
    with pytest.raises(ValueError, match="finite variance of at least 0 for every finite error, got 54 others"):
        SpreadScale.fit(errors, errors.square() * torch.tensor([-1.0, 1.0]))
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="fraction shaping of at least 0 and below 1"):
            ConformalRegions.fit(errors, shaping=share)
    with pytest.raises(ValueError, match="a group for each"):
        ConformalRegions.fit(errors, groups=["a"])


def test_the_scale_of_a_spread_is_found():
    """Errors of known variance 0.01 + 9 V: the Student-t fit overstates neither part's share by more than a factor of two."""
    source = torch.Generator().manual_seed(0)
    variance = torch.exp(2 * torch.randn(4000, 1, 1, generator=source, dtype=torch.float64)) * 1e-2
    errors = (0.01 + 9 * variance).sqrt() * torch.randn(4000, 1, 1, generator=source, dtype=torch.float64)
    scale = SpreadScale.fit(errors, variance)
    ratio = float(scale.gain / scale.floor.square()) / (9 / 0.01)
    assert 0.5 < ratio < 2.0
    standard = (errors / scale(variance)).square()
    low, high = (standard[at].mean() for at in (variance < variance.median(), variance >= variance.median()))
    assert 0.8 < low / high < 1.25


class Fitted(TransitionModel[PlanarState]):
    """Next state by ridge regression on random Fourier features: off its data it knows nothing."""

    def __init__(self, inputs, targets, seed):
        super().__init__()
        truth = DoubleIntegrator()
        self.spec, self.scene = truth.spec, truth.scene
        source = torch.Generator().manual_seed(seed)
        self.frequency = torch.randn(inputs.shape[1], 100, generator=source)
        self.phase = 2 * math.pi * torch.rand(100, generator=source)
        again = torch.randint(len(inputs), (len(inputs),), generator=source)  # bootstrap
        features = self.features(inputs[again])
        self.weights = torch.linalg.solve(features.T @ features + 1e-2 * torch.eye(100), features.T @ targets[again])

    def features(self, inputs):
        return torch.cos(inputs @ self.frequency + self.phase) / 10

    def step_fields(self, fields, action, *, noise=None):
        change = self.features(torch.cat((fields["position"], fields["velocity"], action), -1)) @ self.weights
        return {"position": fields["position"] + change[..., :2], "velocity": fields["velocity"] + change[..., 2:]}


def test_an_ensemble_grows_less_sure_away_from_its_data():
    """Five members, trained within 0.5 m and m/s of the origin, in metres of their points: they part the more the further a rollout starts from there."""
    source, truth = torch.Generator().manual_seed(0), DoubleIntegrator()
    start = torch.rand(600, 4, generator=source) - 0.5
    action = 2 * torch.rand(600, 2, generator=source) - 1
    following = truth.step_fields({"position": start[:, :2], "velocity": start[:, 2:]}, action)
    targets = torch.cat((following["position"], following["velocity"]), -1) - start
    ensemble = Ensemble([Fitted(torch.cat((start, action), -1), targets, seed) for seed in range(5)])

    def apart(offset):
        position = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) - 0.5 + torch.tensor([offset, 0.0])
        state = PlanarState(position=position, velocity=torch.zeros(50, 2), batch_size=[50]).unsqueeze(1).expand(50, 5)
        return float(disagreement(ensemble.rollout(state, torch.zeros(50, 4, 2)))[:, -1].median())

    near, far, farther = apart(0.0), apart(1.0), apart(2.0)
    assert near < 0.01  # 1 cm: about the effect of noise-free data with a ridge
    assert far > 2 * near and farther > 5 * near


def test_twin_regions_hold_new_pushes_of_both_twins():
    """Two objects, one recorded with thrice the noise; 160 errors fit the regions (standard deviation 0.024) and 400 judge them (0.015): 0.9 to 0.08."""
    noises = ((0.0005, 0.0005, 0.01), (0.0015, 0.0015, 0.03))
    twin, _ = recorded(4)
    recordings = [recorded(80, noise=noise, seed=3 * k)[1] for k, noise in enumerate(noises)]
    new = [recorded(200, noise=noise, seed=50 + 3 * k)[1] for k, noise in enumerate(noises)]

    def fit(parts):
        settings = Settings(evaluations=0, iterations=6)
        return [calibrate(twin, part, NAMES, held_out=None, settings=settings, progress=False) for part in parts]

    calibrations, errors = fit(recordings), out_of_fold_errors(fit, recordings, folds=3)
    assert [tuple(error.shape) for error in errors] == [(80, 1, 3)] * 2 and all(bool(error.isfinite().all()) for error in errors)
    regions = TwinRegions.fit(calibrations, recordings, errors, ["clean", "noisy"])
    cases = list(zip(calibrations, new, ["clean", "noisy"]))
    inside = torch.stack([regions.contains(*case)[:, 0] for case in cases]).double()
    assert abs(float(inside.mean()) - 0.9) < 0.08
    clean, noisy = (regions.half_widths(*case).median(0).values for case in cases)
    assert (noisy > 1.5 * clean).all()
    with pytest.raises(ValueError, match="at least 2 folds"):
        out_of_fold_errors(fit, recordings, folds=1)
