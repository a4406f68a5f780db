"""`check_model`: does a transition model keep the contract?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .noise import Noise
from .spec import Action, HybridAction
from .state import Points, Splats, State, Tracks, fields_of, state_of
from .transition import Trajectory, TransitionModel


class ModelCheckError(AssertionError):
    """A model broke the contract; the message lists every finding."""


@dataclass(frozen=True)
class Finding:
    """One check and what it found."""

    check: str
    message: str | None  # None: passed; else one sentence

    @property
    def passed(self) -> bool:
        """Whether the model kept this part of the contract."""
        return self.message is None


def check_model(model: TransitionModel[Any], state: State, *, horizon: int = 4, seed: int = 0, raise_on_failure: bool = True) -> list[Finding]:
    """Check a model against the contract, as `gymnasium.utils.env_checker.check_env` checks an environment.

    Tried on actions drawn from the model's own action space: shapes and field names, purity, determinism, no reused output buffers, finite values, batch
    consistency (problems together equal each alone), rollout equal to stepping, refusal of actions outside the bounds, time and validity, views, gradients
    against finite differences where `spec.traits.differentiable`, noise keyed and used where `stochastic`, and that the action matters at all.

    Args:
        model: the model.
        state: valid start states, batch_size (B,) or (B, E) for a model with members; B >= 2, all different if possible.
        horizon: steps of the rollouts that are tried.
        seed: of the actions and the noise.
        raise_on_failure: raise after all checks ran; False returns the findings only.

    Raises:
        ModelCheckError: lists what failed, one sentence each.
    """
    findings: list[Finding] = []
    probe = _Probe(model, state, horizon, seed)
    for name, check in _CHECKS.items():
        try:
            message = next(check(probe), None)
        except Exception as error:  # a model may fail in any way; the finding says which check it was
            message = f"raised {type(error).__name__}: {error}"
        findings.append(Finding(name, message))
        if message is not None and name in _GATES:
            break
    failed = [finding for finding in findings if not finding.passed]
    if failed and raise_on_failure:
        raise ModelCheckError(f"{type(model).__name__} breaks the contract:\n" + "\n".join(f"- {finding.check}: {finding.message}" for finding in failed))
    return findings


class _Probe:
    """A model, start states and actions drawn from its space."""

    def __init__(self, model: TransitionModel[Any], state: State, horizon: int, seed: int) -> None:
        self.model, self.state, self.horizon = model, state, horizon
        self.problems = state.batch_size[0] if state.batch_size else 0
        self.noise = Noise.from_seed(seed, max(self.problems, 1)) if model.spec.traits.stochastic else None
        self.generator = torch.Generator().manual_seed(seed)

    def actions(self, *batch: int) -> Action:
        spec = self.model.spec.action
        index = torch.randint(max(spec.choices, 1), batch, generator=self.generator)
        if spec.kind == "discrete":
            return index
        low, high = spec.low.clamp_min(-1e3), spec.high.clamp_max(1e3)
        values = spec.project(low + (high - low) * torch.rand((*batch, spec.size), generator=self.generator))
        return HybridAction(index=index, parameters=values, batch_size=batch) if spec.kind == "hybrid" else values

    def step(self, state: State | None = None, action: Action | None = None, noise: Noise | None = None) -> State:
        state = self.state if state is None else state
        action = self.actions(self.problems) if action is None else action
        return self.model.step(state, action, noise=noise or self.noise)

    def rollout(self, state: State, actions: Action, noise: Noise | None = None) -> Trajectory:
        return self.model.rollout(state, actions, noise=noise or self.noise)


Check = Callable[[_Probe], Iterator[str]]


def _check_setup(probe: _Probe) -> Iterator[str]:
    spec, state = probe.model.spec, probe.state
    if not isinstance(state, spec.state_type):
        yield f"spec.state_type is {spec.state_type.__name__}, but the state given is a {type(state).__name__}"
    expected = 2 if spec.members > 1 else 1
    if len(state.batch_size) != expected or probe.problems < 2:
        yield f"check_model needs start states of batch_size {'(B, E)' if expected == 2 else '(B,)'} with B >= 2, got {tuple(state.batch_size)}"
    if spec.members > 1 and state.batch_size[-1] != spec.members:
        yield f"spec.members is {spec.members}, but the states carry {state.batch_size[-1]}"


def _check_shapes(probe: _Probe) -> Iterator[str]:
    following = probe.step()
    if type(following) is not type(probe.state):
        yield f"step returns {type(following).__name__}, expected {type(probe.state).__name__}"
    if following.batch_size != probe.state.batch_size:
        yield f"step returns batch_size {tuple(following.batch_size)}, expected {tuple(probe.state.batch_size)}"
    before, after = fields_of(probe.state), fields_of(following)
    if set(before) != set(after):
        yield f"step returns the fields {sorted(after)}, expected {sorted(before)}"
    for name, value in before.items():
        if after[name].shape != value.shape or after[name].dtype != value.dtype:
            yield f"step returns {name} as {after[name].dtype} {tuple(after[name].shape)}, expected {value.dtype} {tuple(value.shape)}"


def _check_purity(probe: _Probe) -> Iterator[str]:
    before, action = probe.state.clone(), probe.actions(probe.problems)
    held = action.clone()
    probe.step(action=action)
    probe.rollout(probe.state, probe.actions(probe.problems, probe.horizon))
    changed = _differing(before, probe.state)
    if changed:
        yield f"step or rollout changed its input state in {changed}; work on copies"
    if not _same(held, action):
        yield "step changed the action it was given; work on a copy"


def _check_determinism(probe: _Probe) -> Iterator[str]:
    action = probe.actions(probe.problems)
    changed = _differing(probe.step(action=action), probe.step(action=action))
    if changed:
        yield f"two steps from the same state, action and noise differ in {changed}; keep no hidden state and draw random numbers from `noise` only"


def _check_aliasing(probe: _Probe) -> Iterator[str]:
    first = probe.step()
    kept = first.clone()
    rolled = probe.rollout(probe.state, probe.actions(probe.problems, probe.horizon))
    snapshot = rolled.states.clone()
    probe.step()
    probe.rollout(probe.state, probe.actions(probe.problems, probe.horizon))
    changed = _differing(kept, first) or _differing(snapshot, rolled.states)
    if changed:
        yield f"a later call overwrote {changed} of an earlier result; return fresh tensors, not a reused buffer"


def _check_finite(probe: _Probe) -> Iterator[str]:
    states = probe.rollout(probe.state, probe.actions(probe.problems, probe.horizon)).states
    for name, value in fields_of(states).items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            yield f"a rollout of {probe.horizon} steps from valid states and actions makes {name} not finite"


def _check_batch(probe: _Probe) -> Iterator[str]:
    actions = probe.actions(probe.problems, probe.horizon)
    together = probe.rollout(probe.state, actions).states
    for b in range(probe.problems):
        noise = None if probe.noise is None else Noise(probe.noise.seeds[b : b + 1])
        alone = probe.rollout(probe.state[b : b + 1], actions[b : b + 1], noise).states
        differing = _differing(together[b : b + 1], alone, relative=1e-4)
        if differing:
            yield f"problem {b} computed alone differs from the batch in {differing}; problems must not see each other"


def _check_rollout(probe: _Probe) -> Iterator[str]:
    actions = probe.actions(probe.problems, probe.horizon)
    trajectory = probe.rollout(probe.state, actions)
    if trajectory.states.batch_size != (*probe.state.batch_size, probe.horizon + 1):
        yield f"rollout returns states of batch_size {tuple(trajectory.states.batch_size)}, expected {(*probe.state.batch_size, probe.horizon + 1)}"
    state = probe.state
    for t in range(probe.horizon):
        allowed = probe.model.applicable(state)
        if allowed is not None and not bool(trajectory.valid[..., t + 1].all()):
            return  # steps after an inapplicable action are compared by the check of skills
        state = probe.step(state, actions[:, t], None if probe.noise is None else probe.noise.at(t))
        differing = _differing(trajectory.states[..., t + 1], state, relative=1e-4)
        if differing:
            yield f"rollout and step disagree at step {t + 1} in {differing}"


def _check_time(probe: _Probe) -> Iterator[str]:
    trajectory = probe.rollout(probe.state, probe.actions(probe.problems, probe.horizon))
    if not bool((trajectory.times[..., 0] == 0).all()) or not bool((trajectory.times.diff(dim=-1) >= 0).all()):
        yield "trajectory.times must start at 0 and never decrease"
    if trajectory.valid.dtype != torch.bool or not bool((trajectory.valid[..., 1:] <= trajectory.valid[..., :-1]).all()):
        yield "trajectory.valid must be bool and cumulative: once False, False to the end"
    for name in ("reward", "continue_probability", "value"):
        value, expected = getattr(trajectory, name), name in probe.model.spec.traits.predicts
        if (value is not None) != expected:
            yield f"spec.traits.predicts {'names' if expected else 'does not name'} {name}, but the trajectory {'lacks' if expected else 'has'} it"
        length = probe.horizon + (name == "value")
        if value is not None and tuple(value.shape) != (*trajectory.batch_shape, length):
            yield f"trajectory.{name} has shape {tuple(value.shape)}, expected {(*trajectory.batch_shape, length)}"


def _check_skills(probe: _Probe) -> Iterator[str]:
    allowed = probe.model.applicable(probe.state)
    if allowed is None:
        return
    n = probe.model.spec.action.choices
    if tuple(allowed.shape) != (*probe.state.batch_size, n) or allowed.dtype != torch.bool:
        yield f"applicable returns {allowed.dtype} {tuple(allowed.shape)}, expected bool {(*probe.state.batch_size, n)}"
    for choice in range(n):
        trajectory = probe.rollout(probe.state, torch.full((probe.problems, 1), choice))
        refused = ~allowed[..., choice]
        if not bool((trajectory.valid[..., 1] == allowed[..., choice]).all()):
            yield f"after action {choice} trajectory.valid disagrees with applicable"
        if bool(refused.any()) and _differing(trajectory.states[..., 1][refused], probe.state[refused]):
            yield f"action {choice} changes a state in which it is not applicable"


def _check_bounds(probe: _Probe) -> Iterator[str]:
    spec = probe.model.spec.action
    bad: list[tuple[str, Action]] = []
    actions = probe.actions(probe.problems, 1)
    if spec.kind == "continuous" and spec.size:
        bad.append(("a NaN action", torch.full_like(actions, float("nan"))))
        if bool(torch.isfinite(spec.high).any()):
            bad.append(("an action above its bounds", actions + 2.0 * (spec.high - spec.low).nan_to_num(posinf=0.0) + 1.0))
    elif spec.kind == "discrete":
        bad.append(("an index past the last choice", torch.full_like(actions, spec.choices)))
    for what, action in bad:
        try:
            probe.rollout(probe.state, action)
        except ValueError:
            continue
        yield f"rollout accepts {what}; call prepare (or spec.action.check) first"


def _check_views(probe: _Probe) -> Iterator[str]:
    scene, batch = probe.model.scene, tuple(probe.state.batch_size)
    for view in sorted(scene.views - {"signed_distance"}):
        value = getattr(scene, view)(probe.state)
        shape = tuple(value.batch_size) if isinstance(value, Points | Tracks | Splats) else tuple(value.shape[: len(batch)])
        if shape != batch:
            yield f"the view {view} has leading axes {shape}, expected {batch}"
    names, size = scene.coordinate_names(probe.state), scene.coordinates(probe.state).shape[-1]
    if len(names) != size or len(scene.coordinate_units(probe.state)) != size:
        yield f"the scene names {len(names)} coordinates and gives {size}"


def _check_noise(probe: _Probe) -> Iterator[str]:
    action, spec = probe.actions(probe.problems), probe.model.spec
    one, two = (probe.model.step(probe.state, action, noise=Noise.from_seed(s, probe.problems)) for s in (1, 1001))
    if spec.traits.stochastic and not _differing(one, two):
        yield "spec.traits.stochastic is True, but two noise seeds give the same next state"
    if not spec.traits.stochastic and _differing(one, two):
        yield "spec.traits.stochastic is False, but noise changes the next state"


def _check_action_matters(probe: _Probe) -> Iterator[str]:
    """The shuffled-action test: hand every problem another problem's actions."""
    actions = probe.actions(probe.problems, probe.horizon)
    other = probe.actions(probe.problems, probe.horizon)
    if not _differing(probe.rollout(probe.state, actions).states, probe.rollout(probe.state, other).states):
        yield "the prediction does not depend on the action: other actions give the same rollout"


def _check_gradients(probe: _Probe) -> Iterator[str]:
    """Directional derivatives of one step against central differences in float64; kinks are allowed in a fifth of the problems."""
    spec = probe.model.spec
    if not spec.traits.differentiable or spec.action.kind != "continuous":
        return
    model = copy.deepcopy(probe.model).double()
    fields = {name: value.double() if value.is_floating_point() else value for name, value in fields_of(probe.state).items()}
    action = probe.actions(probe.problems).double()  # type: ignore[union-attr]
    # stay off the bounds, where a clamp inside the model would have a kink
    middle = ((spec.action.low + spec.action.high) / 2).nan_to_num().double()
    action = middle + 0.9 * (action - middle)
    leaves = {name: value for name, value in fields.items() if value.is_floating_point()} | {"action": action}
    direction = {name: torch.randn(value.shape, generator=probe.generator, dtype=torch.float64) for name, value in leaves.items()}
    weights: dict[str, Tensor] = {}

    def scalar(values: dict[str, Tensor]) -> Tensor:
        state = state_of(type(probe.state), {**fields, **{k: v for k, v in values.items() if k != "action"}}, probe.state.batch_size)
        total = torch.zeros(probe.problems, dtype=torch.float64)
        for name, value in fields_of(model.step(state, values["action"], noise=probe.noise)).items():
            if value.is_floating_point():
                weight = weights.setdefault(name, torch.randn(value.shape[len(probe.state.batch_size) :], generator=probe.generator, dtype=torch.float64))
                total = total + (value * weight).flatten(1).sum(-1)
        return total

    inputs = {name: value.detach().clone().requires_grad_() for name, value in leaves.items()}
    output = scalar(inputs)
    if not output.requires_grad:
        yield "spec.traits.differentiable is True, but the next state has no gradient"
    gradients = torch.autograd.grad(output.sum(), list(inputs.values()), allow_unused=True)
    slopes = sum((g * direction[n]).flatten(1).sum(-1) for n, g in zip(inputs, gradients, strict=True) if g is not None)
    wrong = torch.ones(probe.problems, dtype=torch.bool)
    for eps in (1e-6, 1e-7):  # one of them must agree: a kink may lie within the wider one
        with torch.no_grad():
            ahead, behind = (scalar({n: v + sign * eps * direction[n] for n, v in leaves.items()}) for sign in (1.0, -1.0))
        numeric = (ahead - behind) / (2 * eps)
        wrong &= (slopes - numeric).abs() > 1e-3 * (1.0 + numeric.abs())
    if float(wrong.double().mean()) > 0.2:
        worst = int((slopes - numeric).abs().argmax())  # type: ignore[union-attr]
        pair = f"problem {worst}: {float(slopes[worst]):.4g} against {float(numeric[worst]):.4g}"  # type: ignore[index]
        yield f"gradients disagree with finite differences in {int(wrong.sum())} of {probe.problems} problems ({pair})"


_CHECKS: dict[str, Check] = {
    "setup": _check_setup,
    "shapes": _check_shapes,
    "purity": _check_purity,
    "determinism": _check_determinism,
    "aliasing": _check_aliasing,
    "finite": _check_finite,
    "batch": _check_batch,
    "rollout": _check_rollout,
    "time": _check_time,
    "skills": _check_skills,
    "bounds": _check_bounds,
    "views": _check_views,
    "noise": _check_noise,
    "action matters": _check_action_matters,
    "gradients": _check_gradients,
}
_GATES = {"setup", "shapes"}  # the checks behind these make no sense when they fail


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, HybridAction):
        return _same(a.index, b.index) and _same(a.parameters, b.parameters)
    return bool(torch.equal(a, b))


def _differing(a: State, b: State, *, relative: float = 0.0) -> str:
    """Names of the fields in which two states differ, by more than `relative` of the field's size; empty when none."""
    names = []
    left, right = fields_of(a), fields_of(b)
    for name, value in left.items():
        other = right[name]
        if not value.is_floating_point():
            differs = not torch.equal(value, other)
        else:
            scale = relative * (1.0 + value.abs().nan_to_num().amax()) if value.numel() else 0.0
            differs = not torch.equal(value.isnan(), other.isnan()) or bool(((value - other).abs() > scale).any())
        if differs:
            names.append(name)
    return ", ".join(names)
