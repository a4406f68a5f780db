"""Files of Gaussian splats: reading and writing `structwm.state.Splats`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.ply import bad, read_ply, table_of
from structwm.data.splat_antimatter import read_antimatter, write_antimatter
from structwm.data.splat_compressed import decode_compressed, write_compressed
from structwm.data.splat_ply import decode_ply, write_splat_ply

if TYPE_CHECKING:
    from torch import Tensor

    from structwm.state import Splats

Array = NDArray[Any]

SUFFIXES = (".compressed.ply", ".ply", ".splat")


def read_splats(path: str | Path) -> Splats:
    """Read splats, float32 and without batch axes, in the order of the file.

    `.ply` is the layout of the reference implementation of 3-D Gaussian splatting or PlayCanvas' compressed one, as its header says; `.splat` is
    antimatter15's web viewer's. Means and harmonics come as they are stored; scales, opacities and colors are computed in float64 and rounded once; colors
    are not clamped. Quaternions have the length they are stored with, in the compressed formats length 1.

    Raises:
        BadData: in one sentence that names file, record and field, if the file is missing, damaged, cut short or of another kind.
    """
    import torch

    from structwm.state import Splats

    path = Path(path)
    suffix = _suffix(path)
    if suffix == ".splat":
        found = read_antimatter(path)
    elif suffix in (".ply", ".compressed.ply"):
        tables = read_ply(path)
        found = decode_compressed(tables, path) if "chunk" in tables else decode_ply(table_of(tables, "vertex", path), path)
    else:
        raise bad(path, "the whole file", "suffix", f"one of {', '.join(SUFFIXES)}", repr(path.suffix), "rename the file or convert it")
    zero = ~found["rotations"].any(-1)
    if zero.any():
        raise bad(path, int(np.argmax(zero)), "rotation", "a quaternion that is not zero", "zero", "remove the record or write the file again")
    return Splats(**{name: torch.from_numpy(values) for name, values in found.items()}, batch_size=[])  # type: ignore[arg-type]


def write_splats(splats: Splats, path: str | Path, *, drop_features: bool = False, drop_harmonics: bool = False) -> Tensor:
    """Write the splats of one world that are not masked out, in the format of the suffix; an existing file is replaced in one step.

    `.ply` keeps float32: what came from such a file is read again bit for bit, anything else within rounding (an opacity of 0 or 1 is written as a logit of
    -104 or 20, a scale of 0 as a logarithm of -104, which float32 reads as 0 or 1). `.splat` and `.compressed.ply` round; the latter may change the order.

    Args:
        splats: batch size (), numbers finite.
        path: ends with .ply, .compressed.ply or .splat.
        drop_features: leave `features` out, for which no format has a place; else they are refused.
        drop_harmonics: leave `harmonics` out; else `.splat` refuses them.

    Returns:
        int64 (records,): which of the splats each record of the file holds.

    Raises:
        ValueError: in one sentence, before anything is written, if the splats are batched, cannot be right, or would lose something.
    """
    import torch

    path = Path(path)
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a suffix {', '.join(SUFFIXES)}, got {path.suffix!r}; rename the file.")
    if len(splats.batch_size) or splats.means.ndim != 2:
        shape = tuple(splats.means.shape)
        raise ValueError(f"{path}: expected the splats of one world, means (N, 3), got means {shape}; write one file for each, as of splats[0].")
    if splats.features is not None and not drop_features:
        raise ValueError(
            f"{path}: expected splats without features, for which no format has a place, got some; keep them elsewhere and pass drop_features=True."
        )
    if splats.harmonics is not None and suffix == ".splat" and not drop_harmonics:
        raise ValueError(f"{path}: expected splats without harmonics, for which .splat has no place, got some; write .ply or pass drop_harmonics=True.")
    if splats.deformations is not None:
        from structwm.geometry.skinning import bake_deformations
        from structwm.geometry.splat_checks import check_splats

        check_splats(splats)
        splats = bake_deformations(splats.detach())
    kept = _arrays(splats, path, harmonics=not drop_harmonics)
    order = np.arange(len(splats.means))
    if splats.mask is not None:
        order = np.flatnonzero(splats.mask.cpu().numpy())
        kept = {name: values[order] for name, values in kept.items()}
    _check_numbers(kept, order, path)
    if suffix == ".splat":
        write_antimatter(path, kept)
    elif suffix == ".compressed.ply":
        order = order[write_compressed(path, kept)]
    else:
        write_splat_ply(path, kept)
    return torch.from_numpy(order)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), path.suffix)


def _arrays(splats: Splats, path: Path, *, harmonics: bool) -> dict[str, Array]:
    """All splats as float32 arrays by field."""
    import torch

    from structwm.geometry.harmonics import HARMONIC_COUNTS, harmonic_degree

    shapes: dict[str, tuple[int, ...]] = {"means": (3,), "rotations": (4,), "scales": (3,), "opacities": (), "colors": (3,)}
    if harmonics and splats.harmonics is not None:
        shapes["harmonics"] = (HARMONIC_COUNTS[harmonic_degree(splats.harmonics.shape[-2])], 3)
    arrays = {}
    for name, shape in shapes.items():
        values = getattr(splats, name)
        if tuple(values.shape) != (len(splats.means), *shape):
            raise ValueError(f"{path}: expected {name} {(len(splats.means), *shape)}, got {tuple(values.shape)}.")
        arrays[name] = values.detach().to("cpu", torch.float32).numpy()
    return arrays


def _check_numbers(arrays: dict[str, Array], order: Array, path: Path) -> None:
    """Refuses what is not a splat, by its index."""
    checks: list[tuple[str, Any, str]] = [(name, np.isfinite(values), "finite numbers") for name, values in arrays.items()]
    checks.append(("scales", arrays["scales"] >= 0, "scales of 0 m or more"))
    checks.append(("opacities", (arrays["opacities"] >= 0) & (arrays["opacities"] <= 1), "opacities in [0, 1]"))
    checks.append(("rotations", arrays["rotations"].any(-1), "quaternions that are not zero"))
    for name, fine, expected in checks:
        if not fine.all():
            record = int(np.argmin(fine.reshape(len(fine), -1).all(-1)))
            raise ValueError(f"{path}: expected {expected}, got {name} {arrays[name][record].tolist()} of splat {order[record]}; correct it or mask it out.")
