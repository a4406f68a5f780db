"""Shapes of noise over a horizon: each is a matrix (H, J) from J independent standard normal numbers to H correlated ones."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

Spline = Literal["zero", "linear", "cubic"]


@lru_cache(maxsize=32)
def repeated(row: Tensor, scale: float, axes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`scale` times a row (A,) over leading axes, (*axes, A): in memory, because what is expanded is read more slowly, and kept, so never to be written to."""
    with torch.inference_mode(False):
        return (scale * row).to(device, dtype).repeat(*axes, 1)


@cache
def spline_shape(horizon: int, knots: int, kind: Spline) -> Tensor:
    """(H, J) float64: a spline through knots spread evenly over the horizon, read at its steps.

    `zero` holds each knot for an equal share of the steps; `linear` joins the knots; `cubic` is the natural cubic spline, with two continuous derivatives.
    """
    if kind == "zero":
        owner = np.arange(horizon) * knots // horizon
        return torch.from_numpy(np.eye(knots)[owner])
    if knots == 1:
        return torch.ones(horizon, 1, dtype=torch.float64)
    places, steps = np.linspace(0.0, 1.0, knots), np.linspace(0.0, 1.0, horizon)
    if kind == "linear" or knots == 2:
        return torch.from_numpy(np.stack([np.interp(steps, places, row) for row in np.eye(knots)], 1))
    return torch.from_numpy(CubicSpline(places, np.eye(knots), bc_type="natural")(steps))


@cache
def coloured_shape(horizon: int, exponent: float) -> Tensor:
    """(H, H) float64: noise whose power falls with frequency f as `1 / f^exponent`, of unit variance at every step (Timmer and Koenig, A&A 1995).

    0 is white; larger exponents give noise that changes more slowly, as a robot's commands do (Pinneri et al., CoRL 2020). A period of twice the horizon is
    drawn, of which one half is used, so that the end does not depend on the start.
    """
    period = 2 * horizon
    steps, waves = np.arange(horizon), np.arange(1, period // 2 + 1)
    power = (waves / period) ** -float(exponent)
    power[-1] /= 2  # the highest frequency has a cosine only
    phase = 2 * math.pi * np.outer(steps, waves) / period
    basis = np.concatenate((np.sqrt(power) * np.cos(phase), np.sqrt(power) * np.sin(phase)), 1)
    covariance = basis @ basis.T
    scale = 1 / np.sqrt(np.diag(covariance))
    factor = np.linalg.cholesky(covariance * np.outer(scale, scale) + 1e-12 * np.eye(horizon))
    return torch.from_numpy(factor)


def shaped(shape: Tensor, numbers: Tensor) -> Tensor:
    """Noise (B, S, H, A) of a shape (H, J) from independent numbers (B, J, S, A).

    Each problem is a matrix product of its own, so that it comes out alike, bit for bit, whatever is computed beside it.
    """
    problems, count, samples, size = numbers.shape
    rows = numbers.reshape(problems, count, samples * size)
    if numbers.is_cuda:
        found = shape @ rows
    else:
        found = torch.stack([shape @ row for row in rows]) if problems > 1 else (shape @ rows[0]).unsqueeze(0)
    return found.view(problems, len(shape), samples, size).movedim(1, 2)
