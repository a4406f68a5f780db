"""Scenes of splats from simpler things, and several scenes in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structwm.geometry.neighbors import mean_neighbor_distance
from structwm.state import Points, Splats

FIELDS = ("means", "rotations", "scales", "opacities", "colors", "harmonics", "features", "deformations")


def splats_from_points(points: Points | Tensor, colors: Tensor | None = None, *, scale: float | None = None, opacity: float = 0.9) -> Splats:
    """A round splat at every point.

    Args:
        points: of one scene, or positions (N, 3) [m].
        colors: (N, 3) in [0, 1]; grey by default.
        scale: standard deviation [m]; by default the mean distance of each point to its three nearest neighbours (Kerbl et al., section 5.1), 0.01 m for a
            single one.
        opacity: of all.

    Raises:
        ValueError: if the points are not those of one scene.
    """
    positions = points.positions if isinstance(points, Points) else points
    if isinstance(points, Points) and points.mask is not None:
        positions, colors = positions[points.mask], None if colors is None else colors[points.mask]
    if positions.ndim != 2 or positions.shape[-1] != 3:
        raise ValueError(f"splats_from_points: expected the points (N, 3) of one scene, got {tuple(positions.shape)}.")
    if colors is None:
        colors = torch.full_like(positions, 0.5)
    if scale is None and len(positions) > 1:
        sizes = mean_neighbor_distance(positions.detach()).clamp_min(1e-7)
    else:
        sizes = torch.full_like(positions[:, 0], 0.01 if scale is None else scale)
    return Splats(
        means=positions,
        rotations=positions.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(positions), 4).contiguous(),
        scales=sizes.unsqueeze(-1).expand(-1, 3).contiguous(),
        opacities=torch.full_like(sizes, opacity),
        colors=colors,
        batch_size=[],
    )


def stack_scenes(scenes: Sequence[Splats]) -> Splats:
    """Scenes of different numbers of splats as worlds of one batch (len(scenes),), padded with splats that are masked out.

    Raises:
        ValueError: if there is none, only some have harmonics (of one degree), features (of one number of channels) or deformations, or their types or
            devices differ.
    """
    if not scenes or any(scene.batch_size for scene in scenes):
        raise ValueError("stack_scenes: expected at least one scene, each without batch axes.")
    count = max(len(scene.means) for scene in scenes)
    fields: dict[str, Tensor] = {}
    for name in FIELDS:
        values = [getattr(scene, name) for scene in scenes]
        if any((value is None) != (values[0] is None) or (value is not None and value.shape[1:] != values[0].shape[1:]) for value in values):
            raise ValueError(f"stack_scenes: expected scenes with the same kind of {name}, got {[None if v is None else tuple(v.shape[1:]) for v in values]}.")
        if values[0] is None:
            continue
        if kinds := {f"{value.dtype} on {value.device}" for value in values if (value.dtype, value.device) != (values[0].dtype, values[0].device)}:
            raise ValueError(f"stack_scenes: expected {name} of one type on one device, got {values[0].dtype} on {values[0].device} and {', '.join(kinds)}.")
        rest = values[0].new_tensor([1.0, 0.0, 0.0, 0.0]) if name == "rotations" else values[0].new_zeros(values[0].shape[1:])
        if name == "deformations":
            rest = torch.eye(3).to(values[0])
        fields[name] = torch.stack([torch.cat((value, rest.expand(count - len(value), *rest.shape))) for value in values])
    masks = [torch.ones_like(scene.means[:, 0], dtype=torch.bool) if scene.mask is None else scene.mask for scene in scenes]
    mask = torch.stack([torch.cat((mask, mask.new_zeros(count - len(mask)))) for mask in masks])
    return Splats(**fields, mask=mask, batch_size=[len(scenes)])  # type: ignore[arg-type]


def take_splats(splats: Splats, index: Tensor) -> Splats:
    """Some splats of one scene, by integers or a bool mask (N,)."""
    if splats.batch_size:
        raise ValueError(f"take_splats: expected one scene, got batch axes {tuple(splats.batch_size)}.")
    return Splats(**{name: value[index] for name, value in splats.items() if value is not None}, batch_size=[])  # type: ignore[arg-type]
