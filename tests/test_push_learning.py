"""Learned corrections of planar pushing: symmetries, time, the gate, and recovery of a known difference between two twins."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from structwm.check import check_model
from structwm.data.pushes import Pushes
from structwm.geometry.planar import Ellipse, Polygon, rotate
from structwm.physics.calibration import Settings, calibrate
from structwm.physics.push_correction import Block, Fused, GeometricPush, KernelRates, MlpRates, PushCorrection
from structwm.physics.push_features import COLUMNS, ODD, Outline, PushGeometry, contact_step
from structwm.physics.push_learning import (
    GATES,
    HYBRID,
    STEPS,
    calibrate_in_contact,
    contact_geometry,
    correction_of,
    gate,
    hybrid_push_model,
    learned_push_model,
    unseen_push_model,
    with_steps,
)
from structwm.physics.push_process import Effect, RateProcess, linearise
from structwm.physics.pushing import PushState, PushTwin, rectangle
from structwm.physics.recorded_pushes import SECONDS, contact_gap, final_pose, push_recording, push_twin, push_windows
from structwm.training import Curriculum, FitSettings, fit, open_loop_errors
from structwm.transition import TransitionModel
from structwm.wrappers import Residual

BOX = rectangle(0.1, 0.06)
FRAME = ("arm", "reach", "angle")


def starts(count: int, *, seed: int = 0) -> PushState:
    """A pusher somewhere around a box, close to contact."""
    rng = np.random.default_rng(seed)
    pose = torch.tensor(np.column_stack((rng.uniform(-0.1, 0.1, (count, 2)), rng.uniform(-3, 3, count))))
    rim = torch.tensor(BOX.boundary(97)[rng.integers(97, size=count)])
    return PushState(pose=pose, pusher=pose[:, :2] + rotate(1.25 * rim, pose[:, 2]), batch_size=[count])


def inward(state: PushState, *, seed: int = 1) -> Tensor:
    """Velocities (B, 2) [m/s] towards the slider, more or less."""
    rng = np.random.default_rng(seed)
    away = state.pose[:, :2] - state.pusher
    return rotate(0.08 * away / away.norm(dim=-1, keepdim=True), torch.tensor(rng.uniform(-0.6, 0.6, len(away))))


def some_rates(*, seed: int = 0) -> KernelRates:
    blocks = (Block(FRAME, (0.7, 0.5, 0.7), 40), Block(("body_x", "normal_y", "motion_x"), (1.0, 1.0, 1.0), 30, seed=1))
    return KernelRates(blocks, 0.3 * torch.randn(70, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def models(dt: float = 0.05) -> dict[str, Residual[PushState]]:
    twin = PushTwin(BOX, pusher_radius=0.005, dt=dt, max_speed=0.1, substeps=3)
    geometry = PushGeometry.of(twin)
    base = GeometricPush(geometry, twin.spec, twin.scene)
    return {"hybrid": Residual(Fused(twin), PushCorrection(geometry, some_rates())), "learned": Residual(base, PushCorrection(geometry, some_rates()))}


def recorded(twin: PushTwin, count: int, *, seed: int, noise: float = 0.0, surface: str = "made", shape: str = "box") -> Pushes:
    """Pushes of 45 mm of which a twin says how they end."""
    rng = np.random.default_rng(seed)
    state = starts(count, seed=seed)
    gap, _, normal = PushGeometry.of(twin).near(state.pose, state.pusher)
    tip = state.pusher - (gap - 1e-4).unsqueeze(-1) * rotate(normal, state.pose[:, 2])
    heading = rotate(-rotate(normal, state.pose[:, 2]), torch.tensor(rng.uniform(-0.8, 0.8, count)))
    made = {
        "surface": surface,
        "shape": shape,
        "outline": np.array(twin.shape.vertices),
        "tip_radius": twin.pusher_radius,
        "init_pose": state.pose.numpy(),
        "init_tip": tip.numpy(),
        "final_tip": (tip + 0.045 * heading).numpy(),
    }
    begin = PushState(pose=state.pose, pusher=tip, batch_size=[count])
    ends = with_steps(twin).roll(begin, (0.045 * heading).unsqueeze(1).expand(-1, STEPS, -1)).states.pose[:, -1]
    final = ends.numpy() + noise * rng.standard_normal((count, 3)) * (1.0, 1.0, 30.0)
    return Pushes(final_pose=final, **made)


def mean_errors(model: TransitionModel[PushState], pushes: Pushes) -> tuple[float, float]:
    """Mean position [m] and yaw [rad] error."""
    position, yaw = pushes.errors(final_pose(model, pushes))
    return float(position.mean()), float(yaw.mean())


@pytest.mark.parametrize("name", ["hybrid", "learned"])
def test_models_keep_the_contract(name: str) -> None:
    state = starts(6)
    single = PushState(pose=state.pose.float(), pusher=state.pusher.float(), batch_size=state.batch_size)
    check_model(models()[name].float(), single, horizon=2)


@pytest.mark.parametrize("name", ["hybrid", "learned"])
def test_predictions_move_and_turn_with_the_scene(name: str) -> None:
    model, state = models()[name], starts(32)
    angle, shift = torch.tensor(0.7, dtype=torch.float64), torch.tensor([0.3, -0.2], dtype=torch.float64)

    def moved(pose: Tensor, pusher: Tensor) -> PushState:
        pose = torch.cat((rotate(pose[..., :2], angle) + shift, pose[..., 2:] + angle), -1)
        return PushState(pose=pose, pusher=rotate(pusher, angle) + shift, batch_size=pose.shape[:-1])

    actions = inward(state).unsqueeze(1).expand(-1, 6, -1)
    expected = model.roll(state, actions).states
    found = model.roll(moved(state.pose, state.pusher), rotate(actions, angle)).states
    assert (expected.pose[:, -1] - state.pose).abs().max() > 0.005
    torch.testing.assert_close(found.pose, moved(expected.pose, expected.pusher).pose, atol=1e-9, rtol=0)


def test_nothing_moves_without_contact() -> None:
    state = starts(16)
    away = -inward(state)
    for model in models().values():
        assert torch.equal(model.step(state, away).pose, state.pose)
        assert torch.equal(model.step(state, torch.zeros_like(away)).pose, state.pose)


@pytest.mark.parametrize("name", ["hybrid", "learned"])
def test_a_step_cut_in_two_leads_to_the_same_place(name: str) -> None:
    state = starts(64)
    ends = []
    for cut in (1, 2, 4):
        model = models(dt=0.02 / cut)[name]
        ends.append(model.roll(state, inward(state).unsqueeze(1).expand(-1, 10 * cut, -1)).states.pose[:, -1])
    coarse, fine = ((end - ends[2]).abs().median() for end in ends[:2])
    assert fine < coarse < 3e-4  # of some 12 mm and 0.2 rad


def test_corrections_push_sliders_hardly_into_the_pusher() -> None:
    """By a fifth of a millimetre where a step moves the pusher by 4; what is corrected itself does so by a fiftieth."""
    state = starts(64)
    for model in models().values():
        assert isinstance(model.correction, PushCorrection)
        for either, depth in ((model.model, 5e-5), (model, 5e-4)):
            states = either.roll(state, inward(state).unsqueeze(1).expand(-1, 12, -1)).states
            gap, _, _ = model.correction.geometry.near(states.pose, states.pusher)
            assert gap[:, 1:].min() > -depth


@pytest.mark.parametrize("shape", [BOX, Ellipse(0.05, 0.03)])
def test_features_of_a_mirror_image(shape: Polygon | Ellipse) -> None:
    geometry, outline = PushGeometry(shape, 0.005), Outline.of(shape)
    before = starts(16)
    after = PushState(pose=before.pose + 0.01, pusher=before.pusher + 0.002 * torch.randn(16, 2, dtype=torch.float64), batch_size=[16])

    def flip(state: PushState) -> PushState:
        return PushState(pose=state.pose * state.pose.new_tensor([1, -1, -1]), pusher=state.pusher * state.pose.new_tensor([1, -1]), batch_size=[16])

    one, two = (contact_step(geometry, outline, a, b).features for a, b in ((before, after), (flip(before), flip(after))))
    for name in ("arm", "reach", "angle", "slide", "turn", "spread", "skew", "corner"):
        k = COLUMNS.index(name)
        torch.testing.assert_close(two[:, k], one[:, k] * (-1 if name in ODD else 1), atol=1e-9, rtol=1e-9)
    rates = KernelRates((Block(("arm", "reach", "angle", "slide"), (1.0,) * 4, 30, odd=True),), torch.randn(30, 2, dtype=torch.float64))
    torch.testing.assert_close(rates(one), -rates(two), atol=1e-9, rtol=1e-9)


def test_linearised_effects_are_those_of_rollouts() -> None:
    twin = PushTwin(BOX, pusher_radius=0.005, values={"friction": 0.2})
    pushes, geometry, base = recorded(twin, 12, seed=4), PushGeometry.of(twin), with_steps(twin)
    rates = some_rates()
    rates.weights.data *= 1e-3
    effect = linearise(base, geometry, pushes, steps=STEPS)
    expected = torch.einsum("nhcr,nhr->nc", effect.jacobian, rates(effect.columns))
    found = torch.from_numpy(final_pose(Residual(base, PushCorrection(geometry, rates)), pushes) - final_pose(base, pushes))
    assert ((found - expected).norm(dim=-1) / found.norm(dim=-1)).median() < 0.1


def test_contact_tells_where_the_tip_was() -> None:
    """Tips recorded beside where they were, by the same vector all over the table: pushes that start and end in contact give it back."""
    truth = PushTwin(BOX, pusher_radius=0.005, values={"friction": 0.3})
    pushes, beside = recorded(truth, 40, seed=0), np.array([1.5e-3, -1e-3])
    assert float(contact_gap(push_twin(pushes), push_recording(pushes)).abs().median()) < 2e-4
    shifted = replace(pushes, init_tip=pushes.init_tip - beside, final_tip=pushes.final_tip - beside)
    assert float(contact_gap(push_twin(shifted), push_recording(shifted)).abs().median()) > 5e-4
    (geometry,) = contact_geometry([shifted])
    assert np.abs(np.array(geometry.tip_offset) - beside).max() < 2e-4


def test_twins_of_several_cells_are_calibrated_from_contact_and_ends() -> None:
    truths = [PushTwin(BOX, pusher_radius=0.005, values={"friction": value}) for value in (0.2, 0.4)]
    cells = [recorded(truth, 12, seed=k, noise=2e-4, surface=name) for k, (truth, name) in enumerate(zip(truths, "ab", strict=True))]
    for k, (truth, pushes, twin) in enumerate(zip(truths, cells, calibrate_in_contact(cells), strict=True)):
        test = recorded(truth, 30, seed=10 + k)
        before, after = mean_errors(push_twin(pushes), test), mean_errors(twin, test)
        assert after[0] < 0.6 * before[0] and after[1] < 0.6 * before[1]


def left(errors: torch.Tensor, expected: torch.Tensor) -> dict[float, torch.Tensor]:
    """What each share of a correction leaves."""
    return {share: errors - share * expected for share in GATES}


def test_the_gate_drops_what_does_not_help() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(200, 3, generator=generator, dtype=torch.float64) * 0.001
    noise = torch.randn(200, 3, generator=generator, dtype=torch.float64) * 0.001
    assert gate(left(errors, noise))[0] == 0.0
    assert gate(left(errors, errors + 0.2 * noise))[0] == 1.0
    assert 0.0 < gate(left(errors, errors + noise))[0] < 1.0


def test_a_hybrid_learns_what_the_twin_lacks() -> None:
    """The twin has far too little friction and is not calibrated."""
    truth = PushTwin(BOX, pusher_radius=0.005, values={"friction": 0.35})
    train, test = recorded(truth, 60, seed=0, noise=3e-4), recorded(truth, 80, seed=1)
    made = hybrid_push_model([train], calibrator=lambda cells: [push_twin(p).with_parameters({"friction": 0.15}) for p in cells], folds=3)
    before, after = (mean_errors(model, test) for model in (made.models[0].model, made.models[0]))
    assert made.gate > 0
    assert after[0] < 0.67 * before[0] and after[1] < 0.8 * before[1]


def test_a_hybrid_of_a_right_twin_is_no_worse() -> None:
    truth = PushTwin(BOX, pusher_radius=0.005, values={"friction": 0.3})
    train, test = recorded(truth, 20, seed=0, noise=1e-3), recorded(truth, 40, seed=1)

    def friction_only(cells: Sequence[Pushes]) -> list[PushTwin]:
        settings = Settings(evaluations=0, iterations=3)
        return [calibrate(push_twin(p), push_recording(p), ["friction"], held_out=None, settings=settings, progress=False).twin for p in cells]

    made = hybrid_push_model([train], calibrator=friction_only, folds=3)
    before, after = (mean_errors(model, test) for model in (made.models[0].model, made.models[0]))
    assert after[0] <= 1.05 * before[0] + 1e-4 and after[1] <= 1.05 * before[1] + 1e-3
    own = final_pose(made.models[0].model, train) - train.final_pose  # the noise, nearly: errors out of fold stand in the order of the pushes
    (errors,) = made.errors
    assert errors.shape == (20, 3) and all(np.corrcoef(errors[:, i], own[:, i])[0, 1] > 0.9 for i in range(2))


def test_learned_alone_from_a_few_pushes() -> None:
    truth = PushTwin(BOX, pusher_radius=0.005, values={"friction": 0.3})
    train, test = recorded(truth, 60, seed=0), recorded(truth, 40, seed=1)
    made = learned_push_model([train], geometry=[PushGeometry.of(truth)], iterations=3)
    still = test.errors(test.init_pose)
    position, yaw = mean_errors(made.models[0], test)
    assert position < 0.15 * still[0].mean() and yaw < 0.35 * still[1].mean()


def test_weights_of_a_cell_that_was_not_seen() -> None:
    made = [1e-3 * torch.randn(20, *size, dtype=torch.float64) for size in ((4, len(COLUMNS)), (4, 3, 2), (3,))]
    effect = Effect(1e3 * made[0], made[1], made[2], torch.arange(20) % 2)
    process = RateProcess(HYBRID, [("a", "x"), ("b", "x")]).fit(effect)
    seen, unseen = process.weights(("a", "x")), process.weights(("a", "y"))
    own = HYBRID[0].block.count
    assert bool((unseen[:own] == 0).all()) and torch.allclose(seen[own:], unseen[own:])
    assert not torch.equal(process.weights(("a", "x")), process.weights(("b", "x")))


def test_corrections_are_saved_as_weights() -> None:
    twin = PushTwin(BOX, pusher_radius=0.005)
    process = RateProcess(HYBRID, [("a", "x")]).fit(linearise(with_steps(twin), PushGeometry.of(twin), recorded(twin, 8, seed=2, noise=1e-3), steps=STEPS))
    correction = correction_of(process, PushGeometry.of(twin), ("a", "x"))
    again = PushCorrection(correction.geometry, KernelRates(correction.rates.map.blocks, torch.zeros_like(correction.rates.weights)))  # type: ignore[union-attr, arg-type]
    again.load_state_dict(copy.deepcopy(correction.state_dict()))
    state = starts(8)
    predicted = PushState(pose=state.pose + 0.001, pusher=state.pusher + 0.001, batch_size=[8])
    assert torch.equal(again(state, torch.zeros(8, 2), predicted)["pose"], correction(state, torch.zeros(8, 2), predicted)["pose"])


def test_network_rates_are_odd_and_bounded() -> None:
    rates = MlpRates(FRAME, hidden=16, bound=2.0).double()
    torch.nn.init.normal_(rates.network[-1].weight)  # type: ignore[arg-type]
    columns = torch.randn(9, len(COLUMNS), dtype=torch.float64)
    signs = torch.tensor([-1.0 if name in ODD else 1.0 for name in COLUMNS], dtype=torch.float64)
    torch.testing.assert_close(rates(columns), -rates(columns * signs))
    assert rates(1e3 * columns).abs().max() <= 2.0
    assert bool(rates(columns).isfinite().all())


def test_what_shapes_have_in_common_serves_a_shape_never_seen() -> None:
    """Learned on a square and a long box, asked of one between them: better than the geometry alone, from which it starts."""
    sizes = {"square": (0.09, 0.09), "long": (0.14, 0.06), "between": (0.11, 0.075)}
    twins = {name: PushTwin(rectangle(*size), pusher_radius=0.005, values={"friction": 0.3}) for name, size in sizes.items()}
    pushes = {name: recorded(twin, 60, seed=k, shape=name) for k, (name, twin) in enumerate(twins.items())}
    known = ["square", "long"]
    learned = learned_push_model([pushes[name] for name in known], geometry=[PushGeometry.of(twins[name]) for name in known], iterations=2)
    model = unseen_push_model(learned, pushes["between"], PushGeometry.of(twins["between"]))
    before, after = (mean_errors(m, pushes["between"]) for m in (model.model, model))
    assert after[0] < 0.5 * before[0] and after[1] < 0.5 * before[1]


def test_a_network_learns_from_final_poses_alone() -> None:
    """By gradient through rollouts of ten steps of which only the end was observed, with the fit loop of all models."""
    truth = PushTwin(BOX, pusher_radius=0.005, values={"friction": 0.3})
    train, held, test = (push_windows(recorded(truth, count, seed=seed), dt=SECONDS / STEPS).to(torch.float32) for seed, count in enumerate((60, 20, 60)))
    base = models()["learned"].model
    assert isinstance(base, GeometricPush)
    torch.manual_seed(0)
    model = Residual(
        GeometricPush(base.geometry, push_twin(recorded(truth, 4, seed=5)).with_timing(dt=0.1, substeps=3).spec, base.scene), network_correction(base)
    )
    settings = FitSettings(steps=60, batch=60, learning_rate=1e-2, evaluate_every=20, curriculum=Curriculum(first=STEPS), accelerator="cpu")
    before = float(open_loop_errors(model, test).point_errors[:, -1].mean())
    fitted = fit(model, train, held_out=held, settings=settings, progress=False)
    after = float(open_loop_errors(fitted.model, test).point_errors[:, -1].mean())
    assert after < 0.6 * before


def network_correction(base: GeometricPush) -> PushCorrection:
    return PushCorrection(base.geometry, MlpRates(FRAME, hidden=16))
