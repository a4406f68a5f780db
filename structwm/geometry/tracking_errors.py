"""How far a predicted deformable body is from what was seen of it, as PhysTwin (Jiang et al., 2025, section 4.2) measures."""

from __future__ import annotations

import torch
from torch import Tensor

from .set_distances import chamfer


def visible_chamfer(clouds: Tensor, points: Tensor) -> Tensor:
    """Chamfer distance from what is visible to the predicted surface: the mean over seen points of the L1 distance to the nearest predicted one, averaged over
    frames. One-sided, so that what no camera sees costs nothing. Frames in which nothing was seen do not count.

    Args:
        clouds: what was seen in T frames, (*B, T, Q, 3) [m], NaN where there are fewer points.
        points: predicted points of the surface, (*B, T, N, 3) [m].

    Returns:
        (*B) [m]; NaN where nothing was seen in any frame.

    Raises:
        ValueError: on shapes that do not fit, or predictions that are not finite.
    """
    _check("visible_chamfer", clouds, points, clouds.shape[:-2] == points.shape[:-2])
    seen = clouds.isfinite().all(-1)
    some = seen.any(-1)
    if not bool(some.any()):
        return clouds.new_full(some.shape[:-1], torch.nan)
    distances = chamfer(torch.where(seen.unsqueeze(-1), clouds, 0.0)[some], points[some].to(clouds), norm="l1", direction="a_to_b", mask_a=seen[some])
    frames = torch.full(some.shape, torch.nan, dtype=distances.dtype, device=distances.device).masked_scatter(some, distances)
    return frames.nanmean(-1)


def track_error(tracks: Tensor, points: Tensor) -> Tensor:
    """Mean L2 distance of tracked points from the same material points of a prediction, over all points and frames in which they were seen.

    Args:
        tracks: (*B, T, N, 3) [m], NaN where one was not seen.
        points: predicted, (*B, T, N, 3) [m].

    Returns:
        (*B) [m]; NaN where nothing was seen.

    Raises:
        ValueError: on shapes that do not fit, or predictions that are not finite.
    """
    _check("track_error", tracks, points, tracks.shape == points.shape)
    distances: Tensor = (tracks - points.to(tracks)).norm(dim=-1)
    return distances.flatten(-2).nanmean(-1)


def _check(what: str, seen: Tensor, points: Tensor, fit: bool) -> None:
    if not fit or seen.ndim < 3 or seen.shape[-1] != 3 or points.shape[-1] != 3:
        raise ValueError(f"{what}: expected what was seen (*B, T, n, 3) and predictions of the same frames, got {tuple(seen.shape)} and {tuple(points.shape)}.")
    if not bool(points.isfinite().all()):
        raise ValueError(f"{what}: expected finite predictions, got NaN or infinity.")
