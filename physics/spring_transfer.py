"""A calibrated network of springs, met again: in another place and shape, held by other controllers (PhysTwin, Jiang et al., 2025, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .spring_body import SpringBody
from .spring_registration import BodyRegistration, BodySurface, register_body
from .spring_rest import balanced_lengths
from .spring_twin import SpringTwin

SPAN = 0.3  # of the size of the surface, that must have been observed at least [-]
STRETCHED = 0.35  # root mean square change of the springs' lengths above which a registration is taken to have failed [-]


@dataclass(frozen=True, eq=False)
class Transfer:
    """A twin at a new observation of its object."""

    twin: SpringTwin  # at rest where it was observed
    registration: BodyRegistration
    limit: float  # of the registration's residual [m]
    held: tuple[int, ...]  # how many particles each controller holds


def transfer(
    twin: SpringTwin,
    points: Tensor,
    *,
    controllers: Tensor | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    attach: float | None = None,
    grip: float | None = None,
    push: float | None = None,
    neighbours: int = 16,
    rest: Literal["new", "balanced", "old"] = "new",
    surface: Sequence[int] | Tensor | None = None,
    surface_weights: Tensor | None = None,
    surface_features: Tensor | None = None,
    features: Tensor | None = None,
    registration: BodyRegistration | None = None,
    limit: float | None = None,
    strain: float = 0.07,
    turns: bool = True,
    seed: int = 0,
) -> Transfer:
    """Bring a calibrated twin to a new observation of the same object.

    Its particles are registered to the observed points, what held it is dropped, and new controllers hold it where they are. Parameters stay, and so does the
    tension over strain of each spring that the calibration left: springs that `reach` or `neighbours` cut off are gone, what `falloff` says of the others is in
    their factors, so that none of it changes with the new lengths.

    Rest lengths are `"new"`: those of the new shape, as in PhysTwin. The shape is free of stress, as of a cloth that was folded or a body that was bent for
    good; errors of the registration pull at nothing. What weight had bent it by is kept, and weight bends it once more. `"balanced"`: changed from these
    as little as makes the springs carry the weight, so that what was observed hanging at rest stays so; it is not for what lies on the ground or hangs on
    controllers by springs. `"old"`: those of the calibration. The shape is the old one under load and goes back when it is let go; errors of the registration
    pull, until the body has settled.

    Args:
        twin: calibrated.
        points: new observation (M, 3) [m]; parts may be missing.
        controllers: places of the new controllers at that moment (C, 3) [m]; none: nothing holds the object.
        groups: which of them, by their place in `controllers`, move together; each by itself if not given. With `attach` or `push`.
        attach: distance up to which each is joined by springs with particles, as stiff as the calibration's `attachment_stiffness` [m].
        grip: instead, distance up to which particles move with it, as clamped [m].
        push: radius of the spheres with which they push [m]; None: they do not.
        neighbours: with how many particles at most each is joined.
        rest: which rest lengths.
        surface: particles that cameras may see, all of the body if not given; with `surface_weights` the particles (S, K) of which each point is a mean.
        surface_weights: (S, K) of these.
        surface_features: (S, F) what each of them looks like, such as its colour in [0, 1]. A body that looks alike from several sides, or was folded, is only
            registered rightly by these.
        features: (M, F) of the observed points.
        registration: found before, of the same points; it is not searched for again.
        limit: of the registration's residual [m]; half the middle spring's length if not given.
        strain: as for `register_body`.
        turns: try large rotations; False where the body lies about as it did.
        seed: of the registration.

    Raises:
        ValueError: if the twin has members, the registration fails (its residual is above the limit, or it asks springs to change by more than a third), a
            controller finds no particle, or arguments do not fit together.
    """
    body = twin.body
    if twin.spec.members > 1:
        raise ValueError(f"transfer needs a twin under one value of each parameter, got one with {twin.spec.members} members.")
    if rest not in ("new", "balanced", "old"):
        raise ValueError(f"transfer needs rest 'new', 'balanced' or 'old', got {rest!r}.")
    if rest == "balanced" and attach is not None:
        raise ValueError("transfer balances no body that hangs on controllers by springs; take grip, or rest 'new' or 'old'.")
    if controllers is None and (attach, grip, push) != (None, None, None):
        raise ValueError("transfer needs controllers where attach, grip or push says what they do.")
    if controllers is not None and (controllers.ndim != 2 or controllers.shape[-1] != 3 or not len(controllers) or not bool(controllers.isfinite().all())):
        raise ValueError(f"transfer needs finite controllers (C, 3), got {tuple(controllers.shape)}.")
    if controllers is not None and (grip is None) == (attach is None and push is None):
        raise ValueError("transfer needs grip, or attach or push: controllers that are clamped to particles, or that hold by springs or push.")
    if points.ndim != 2 or points.shape[-1] != 3 or len(points) < 4 or not bool(points.isfinite().all()):
        raise ValueError(f"transfer needs at least four finite points (M, 3), got {tuple(points.shape)}.")
    if (surface_features is None) != (features is None):
        raise ValueError("transfer needs features of both the surface and the observed points, or of none.")
    own = body.lengths[~body.attached]
    limit = 0.5 * float(own.median()) if limit is None else limit
    seen = BodySurface.of(body, surface, surface_weights, surface_features)
    found = registration or register_body(body, points, seen, features=features, strain=strain, turns=turns, seed=seed)
    check_registration(found, limit)
    made = _loose(twin, found.positions.double(), rest)
    if controllers is not None:
        places = controllers.detach().double()
        if grip is not None:
            made = replace(made, driven=clamped_groups(made, places, grip))
        else:
            made = made.with_controllers(places, groups=groups, attach=attach, neighbours=neighbours, push=push)
    if rest == "balanced":
        weight = float(twin.values["mass"]) * float(twin.values["gravity"]) * twin._shares[: body.points]
        made = replace(made, rest_lengths=balanced_lengths(made, _strengths(twin)[_there(twin)], torch.cat((weight, weight.new_zeros(made.controllers)))))
    held = (0,) * (0 if controllers is None else len(controllers)) if grip is None else tuple(len(group) for group in made.driven)
    if attach is not None:
        ends = made.springs[made.attached].amax(-1) - made.points
        held = tuple(torch.bincount(ends, minlength=made.controllers).tolist())
    return Transfer(_with_strengths(twin, made), found, limit, held)


def check_registration(found: BodyRegistration, limit: float) -> None:
    """Refuse a registration that failed.

    Raises:
        ValueError: if the residual is above `limit` [m], springs changed by more than a third, or what was observed is much smaller.
    """
    why = None
    if not found.residual <= limit:
        why = f"observed points are {1e3 * found.residual:.1f} mm from it, more than {1e3 * limit:.1f} mm"
    elif not found.strain <= STRETCHED:
        why = f"springs would differ by {100 * found.strain:.0f} % from before, more than {100 * STRETCHED:.0f} %"
    elif not found.span >= SPAN:
        why = f"what was observed has {100 * found.span:.0f} % of its size, less than {100 * SPAN:.0f} %"
    if why is not None:
        raise ValueError(
            f"The body is not found at the observed points: {why}; is it the same object in the same unit, alone, and told by colours if it is symmetric?"
        )


def _there(twin: SpringTwin) -> Tensor:
    """(M,) which springs of the body itself the calibration left."""
    return ~twin.body.attached & (twin.gates(torch.zeros((), dtype=torch.float64)) > 0)


def _strengths(twin: SpringTwin) -> Tensor:
    """Tension over strain of each spring (M,) [N], gates, falloff and factors counted in."""
    found = twin._springs(torch.zeros((), dtype=torch.float64))[0] * twin.body.lengths
    return found.detach()


def _loose(twin: SpringTwin, positions: Tensor, rest: str) -> SpringBody:
    """The body at positions (P, 3) [m], with the springs that are left and nothing that moves it."""
    body, kept = twin.body, _there(twin)
    return replace(
        body,
        positions=positions,
        springs=body.springs[kept],
        rest_lengths=body.lengths[kept] if rest == "old" else None,
        ranks=None if body.ranks is None else body.ranks[kept],
        controllers=0,
        driven=(),
        pushers=(),
        shares=None if body.shares is None else body.shares[: body.points],
    )


def clamped_groups(body: SpringBody, places: Tensor, grip: float) -> tuple[tuple[int, ...], ...]:
    """Of each place (C, 3) the particles of a body within `grip` [m], each with the nearest place alone.

    Raises:
        ValueError: if a place is near none.
    """
    away = torch.cdist(places, body.positions)
    near = (away <= grip) & (torch.arange(len(places)).unsqueeze(-1) == away.argmin(0))
    for k, own in enumerate(near):
        if not bool(own.any()):
            raise ValueError(f"Controller {k} finds no particle within {grip:g} m to hold; the nearest is {float(away[k].min()):.3g} m away.")
    return tuple(tuple(own.nonzero().flatten().tolist()) for own in near)


def _with_strengths(twin: SpringTwin, body: SpringBody) -> SpringTwin:
    """A twin of the body whose springs are as stiff, tension over strain, as those that are left of the twin's."""
    old = twin.body
    like = torch.zeros((), dtype=torch.float64)
    strength = _strengths(twin)
    kept = _there(twin)
    values = {name: value for name, value in twin.values.items() if name not in ("reach", "neighbours", "attachment_stiffness", "falloff")}
    plain = SpringTwin(body, dt=_step(twin), substeps=twin.substeps, stages=twin.stages, values=values)
    plain = plain.with_parameters({name: value for name, value in twin.values.items() if name in ("attachment_stiffness", "falloff") and name in plain.values})
    wanted = torch.ones(len(body.springs), dtype=torch.float64)
    base = (plain._springs(like)[0] * body.lengths).detach()
    own = ~body.attached
    wanted[own] = strength[kept] / base[own]
    if bool(old.attached.any()) and bool(body.attached.any()) and twin.factors is not None:
        wanted[body.attached] = float(twin.factors.detach().double()[old.attached].log().mean().exp())
    same = bool(torch.allclose(wanted, torch.ones_like(wanted), rtol=1e-9, atol=0))
    return plain if same else plain.with_factors(wanted.float() if _single(twin) else wanted)


def _single(twin: SpringTwin) -> bool:
    return twin.factors is not None and twin.factors.dtype == torch.float32


def _step(twin: SpringTwin) -> float:
    assert twin.spec.dt is not None and math.isfinite(twin.spec.dt)
    return twin.spec.dt
