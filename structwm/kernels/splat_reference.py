"""The rasterizer in plain torch, any floating type: the oracle of the kernels in float64, and in float32 what they are timed against.

Compositing goes tile by tile as in the kernels, but for many tiles at once: all tiles take their next `BLOCK` splats together, those whose pixels are all
opaque or whose lists have ended drop out, and the gradients are torch's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structwm.geometry.rotations import quaternion_to_matrix

TILE = 16  # pixels a side
BLOCK = 32  # splats of every tile composited at once
OPAQUE = 0.99  # alpha at most
CLEAR = 1.0 / 255.0  # alpha at least, to be drawn
MARGIN = 0.15  # of the image's size on every side, within which the Jacobian follows a splat's centre
STOP = 1e-4  # transmittance at which a pixel is finished


class Projected(NamedTuple):
    """Splats as ellipses in images."""

    centres: Tensor  # (..., 2) [px]
    conics: Tensor  # (..., 3) inverse covariance (a, b, c) [1/px^2]
    depths: Tensor  # (...) [m] along the optical axis, 0 for what cannot be seen


def project(
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    camera_from_world: Tensor,
    pinholes: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
    blur: float,
    deformations: Tensor | None = None,
) -> Projected:
    """The same as `structwm.kernels.splat_raster.project_splats`."""
    sound = means.isfinite().all(-1) & rotations.isfinite().all(-1) & scales.isfinite().all(-1)
    if deformations is not None:
        sound = sound & deformations.isfinite().flatten(-2).all(-1)
        deformations = torch.where(sound[..., None, None], deformations, 0.0)
    means, rotations, scales = (torch.where(sound.unsqueeze(-1), value, 0.0) for value in (means, rotations, scales))  # else zero times NaN
    turned, camera = camera_from_world[:, :, None, :, :3], pinholes.unsqueeze(2)
    point = (turned @ means[:, None, :, :, None]).squeeze(-1) + camera_from_world[:, :, None, :, 3]
    rotations, scales = rotations.unsqueeze(1), scales.unsqueeze(1)
    seen = (point[..., 2] > near) & (point[..., 2] < far) & (rotations != 0).any(-1)
    point = torch.where(seen.unsqueeze(-1), point, 1.0)
    turn = quaternion_to_matrix(torch.where(seen.unsqueeze(-1), rotations, 1.0))
    depth, flat = point[..., 2], point[..., :2] / point[..., 2:]
    size = camera.new_tensor([width, height])
    low, high = (-MARGIN * size - camera[..., 2:]) / camera[..., :2], ((1 + MARGIN) * size - camera[..., 2:]) / camera[..., :2]
    ray, focal, zero = flat.maximum(low).minimum(high), camera[..., :2] / depth.unsqueeze(-1), torch.zeros_like(depth)
    jacobian = torch.stack((focal[..., 0], zero, -focal[..., 0] * ray[..., 0], zero, focal[..., 1], -focal[..., 1] * ray[..., 1]), -1).unflatten(-1, (2, 3))
    axes = turn * scales.unsqueeze(-2)
    root = jacobian @ turned @ (axes if deformations is None else deformations.unsqueeze(1) @ axes)
    first, second = root.unbind(-2)
    xx, b, yy = first.square().sum(-1), (first * second).sum(-1), second.square().sum(-1)
    area = torch.linalg.cross(first, second).square().sum(-1) + blur * (xx + yy) + blur * blur  # a c - b^2 would cancel for long thin splats
    a, c = xx + blur, yy + blur
    seen = seen & (area > 0) & area.isfinite()
    conics = torch.where(seen.unsqueeze(-1), torch.stack((c, -b, a), -1) / torch.where(seen, area, 1.0).unsqueeze(-1), area.new_tensor([1.0, 0.0, 1.0]))
    return Projected(torch.where(seen.unsqueeze(-1), camera[..., :2] * flat + camera[..., 2:], 0.0), conics, torch.where(seen, depth, 0.0))


def composite(centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Blend splats from front to back, as `structwm.kernels.splat_raster.composite_splats`.

    Args:
        centres: (V, N, 2) [px].
        conics: (V, N, 3).
        depths: (V, N) [m], 0 for what is not drawn.
        opacities: (V, N) in [0, 1].
        channels: (V, N, C) of any meaning.
        width: of the images [px].
        height: of the images [px].

    Returns:
        Channels (V, height, width, C) without background, and what shines through (V, height, width).
    """
    views, per_view = opacities.shape
    projected = Projected(*(value.reshape(views * per_view, *value.shape[2:]) for value in (centres, conics, depths)))
    view = torch.arange(views, device=opacities.device).repeat_interleave(per_view)
    opacities, channels = opacities.reshape(-1), channels.reshape(views * per_view, -1)
    columns, rows = -(-width // TILE), -(-height // TILE)
    splats, starts = _lists(projected, opacities, view, columns, rows, views)
    counts = starts.diff()
    like = channels
    inner = torch.arange(TILE, device=like.device)
    x = (inner.expand(TILE, TILE).reshape(-1) + 0.5).to(like.dtype)
    y = (inner.unsqueeze(1).expand(TILE, TILE).reshape(-1) + 0.5).to(like.dtype)
    tiles = views * rows * columns
    place = torch.arange(tiles, device=like.device) % (rows * columns)
    left, top = ((place % columns) * TILE).to(like.dtype), (torch.div(place, columns, rounding_mode="floor") * TILE).to(like.dtype)
    image = like.new_zeros(tiles, TILE * TILE, channels.shape[1])
    through = like.new_ones(tiles, TILE * TILE)
    open_ = torch.ones(tiles, TILE * TILE, dtype=torch.bool, device=like.device)
    for first in range(0, int(counts.max()) if tiles else 0, BLOCK):
        active = ((counts > first) & open_.any(1)).nonzero()[:, 0]
        if not len(active):
            break
        at = first + torch.arange(min(BLOCK, int(counts[active].max()) - first), device=like.device)
        known = at < counts[active, None]  # (A, K)
        p = splats[(starts[:-1][active, None] + at).clamp_max(len(splats) - 1)]
        dx = (x + left[active, None])[:, None] - projected.centres[p, 0, None]  # (A, K, 256)
        dy = (y + top[active, None])[:, None] - projected.centres[p, 1, None]
        a, b, c = projected.conics[p].unsqueeze(-2).unbind(-1)
        alpha = opacities[p, None] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        drawn = (alpha.detach() >= CLEAR) & known.unsqueeze(-1) & open_[active, None]
        alpha = torch.where(drawn, alpha.clamp_max(OPAQUE), 0.0)
        after = through[active, None] * torch.cumprod(1 - alpha, 1)
        kept = after.detach() > STOP
        alpha = torch.where(kept, alpha, 0.0)
        share = torch.cat((through[active, None], after[:, :-1]), 1) * alpha
        image = image.index_add(0, active, share.mT @ channels[p])
        through = through.index_put((active,), through[active] * torch.prod(1 - alpha, 1))
        open_[active] &= kept[:, -1]

    def picture(values: Tensor) -> Tensor:
        return values.reshape(views, rows, columns, TILE, TILE, -1).transpose(2, 3).reshape(views, rows * TILE, columns * TILE, -1)[:, :height, :width]

    return picture(image), picture(through).squeeze(-1)


def _lists(projected: Projected, opacities: Tensor, view: Tensor, columns: int, rows: int, views: int) -> tuple[Tensor, Tensor]:
    """Splats of all tiles one after another, nearest first, and where each tile's begin (tiles + 1,)."""
    centres, (a, b, c) = projected.centres.detach(), projected.conics.detach().unbind(-1)
    reach = 2 * torch.log(opacities.detach().clamp_min(1e-12) / CLEAR)
    reach = torch.where(projected.depths > 0, reach, -1.0)
    extent = (reach.clamp_min(0)[:, None] * torch.stack((c, a), -1) / (a * c - b * b)[:, None]).sqrt()
    low = torch.floor((centres - extent) / TILE).clamp_min(0).long()
    high = torch.minimum(torch.floor((centres + extent) / TILE), centres.new_tensor([columns - 1, rows - 1])).long()
    size = torch.where((reach >= 0)[:, None], (high - low + 1).clamp_min(0), 0)
    order = projected.depths.detach().argsort(stable=True)
    count = size.prod(1)[order]
    splats = order.repeat_interleave(count)
    within = torch.arange(len(splats), device=splats.device) - (count.cumsum(0) - count).repeat_interleave(count)
    across = size[splats, 0].clamp_min(1)
    tile = view[splats] * (rows * columns) + (low[splats, 1] + torch.div(within, across, rounding_mode="floor")) * columns + low[splats, 0] + within % across
    tile, place = tile.sort(stable=True)
    starts = torch.searchsorted(tile, torch.arange(views * rows * columns + 1, device=tile.device))
    return splats[place], starts
