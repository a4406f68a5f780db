"""What splats must be before kernels read them: shapes and types always, numbers where there is time to look."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structwm.state import Splats

# Trailing sizes (None: of any length), what is expected of numbers, and their least and greatest.
_RULES: dict[str, tuple[tuple[int | None, ...], str, float, float]] = {
    "means": ((3,), "finite numbers", -math.inf, math.inf),
    "rotations": ((4,), "finite quaternions that are not zero", -math.inf, math.inf),
    "scales": ((3,), "finite numbers, none negative", 0, math.inf),
    "opacities": ((), "numbers in [0, 1]", 0, 1),
    "colors": ((3,), "finite numbers", -math.inf, math.inf),
    "harmonics": ((None, 3), "finite numbers", -math.inf, math.inf),
    "features": ((None,), "finite numbers", -math.inf, math.inf),
    "deformations": ((3, 3), "finite numbers", -math.inf, math.inf),
    "mask": ((), "", 0, 1),
}
_OPTIONAL = ("harmonics", "features", "deformations", "mask")
_HARMONICS = (3, 8, 15)


def check_shapes(splats: Splats) -> None:
    """Refuse fields whose shapes, types or devices do not go together; looks at no number.

    Raises:
        ValueError: one sentence with the field, what was expected and what it is.
    """
    means, axes = splats.means, len(splats.batch_size)
    if means.ndim != axes + 2 or means.shape[:-2] != splats.batch_size or means.shape[-1] != 3 or not means.is_floating_point():
        raise ValueError(f"splats means: expected floating point numbers (*B, N, 3) with *B = {tuple(splats.batch_size)}, got {tuple(means.shape)}.")
    for name, (shape, *_) in _RULES.items():
        value: Tensor | None = getattr(splats, name)
        wanted = (*means.shape[:-1], *shape)
        if value is None:
            if name not in _OPTIONAL:
                raise ValueError(f"splats {name}: expected {wanted}, got None.")
            continue
        fits = value.ndim == len(wanted) and all(w is None or have == w for w, have in zip(wanted, value.shape, strict=True))
        if not fits or (name == "harmonics" and value.shape[axes + 1] not in _HARMONICS) or (name == "features" and value.shape[-1] == 0):
            more = " with K = 3, 8 or 15 for degrees 1, 2 or 3" if name == "harmonics" else ""
            raise ValueError(f"splats {name}: expected {str(wanted).replace('None', 'K')}{more}, got {tuple(value.shape)}.")
        dtype = torch.bool if name == "mask" else means.dtype
        if value.dtype != dtype or value.device != means.device:
            raise ValueError(f"splats {name}: expected {dtype} on {means.device} beside the means, got {value.dtype} on {value.device}.")


def check_splats(splats: Splats) -> None:
    """Refuse what cannot be drawn.

    Raises:
        ValueError: one sentence with the field, what was expected, and the first splat that is wrong.
    """
    check_shapes(splats)
    for name, (shape, expected, least, greatest) in _RULES.items():
        value: Tensor | None = getattr(splats, name)
        if value is None or name == "mask" or _all_within(value.detach(), least, greatest, turning=name == "rotations"):
            continue
        each = value.detach().flatten(len(splats.batch_size) + 1) if shape else value.detach().unsqueeze(-1)
        good = (each.isfinite() & (each >= least) & (each <= greatest)).all(-1)
        if name == "rotations":
            good &= (each != 0).any(-1)
        if splats.mask is not None:
            good = good | ~splats.mask
        if not bool(good.all()):
            place = tuple((~good).nonzero()[0].tolist())
            where = f"splat {place[-1]}" + (f" of world {place[:-1]}" if len(place) > 1 else "")
            raise ValueError(f"splats {name}: expected {expected}, got {value.detach()[place].tolist()} for {where}.")


def _all_within(value: Tensor, least: float, greatest: float, *, turning: bool) -> bool:
    """A quick look: true only if all numbers are finite and within the bounds, and, for `turning`, no quaternion is zero."""
    if value.numel() == 0:
        return True
    if turning:
        value, least = value.square() @ value.new_ones(4), torch.finfo(value.dtype).tiny
    low, high = torch.stack(value.aminmax()).tolist()
    return bool(least <= low and high <= greatest and math.isfinite(low) and math.isfinite(high))
