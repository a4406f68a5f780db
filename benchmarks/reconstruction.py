"""Reconstruction of objects and ropes: `python -m benchmarks.reconstruction [--quick]`.

Objects of PyBullet's data and made ones, 16 cm large, in eight views of 320 x 320 px: the surface chamfer is the mean distance from points of the reconstructed
surface to the true one plus the same the other way round, unsquared, distances to surfaces and not to samples of them. Ropes: tubes along random curves of
known length, with noise, parts hidden, strangers among the points; and the real one, beside its length traced in its photos.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim, median_claim
from benchmarks.parts import Part, run_parts
from benchmarks.reconstruction_rope import trace_rope
from benchmarks.reconstruction_scenes import eight_views, objects, photograph, true_surface
from benchmarks.reconstruction_tubes import KINDS, SPOILT, tube_points
from structwm.data import PosedImages, load_rope_photos
from structwm.geometry import Mesh, MeshQuery, sample_surface
from structwm.perception import Reconstruction, centre_line, reconstruct

NOISE = 0.002  # of the depth [m]
SAMPLES = 20_000
ROPE = 0.6  # length of made ropes [m]


def surface_chamfer(found: Mesh, truth: Mesh, touched: torch.Tensor) -> float:
    """Mean distance of the found surface to the true one, plus that of the touchable points of the true one to the found one [m]."""
    there = MeshQuery(truth, sign="winding").signed_distance(sample_surface(found, SAMPLES)[0]).abs().mean()
    back = MeshQuery(found).signed_distance(touched).abs().mean()
    return float(there + back)


def seen_chamfer(found: Reconstruction, views: PosedImages, truth: Mesh, touched: torch.Tensor) -> float:
    """The surface chamfer of what was seen: true points that lie on the depth of a view, and found ones near which depth was measured [m]."""
    assert views.depth is not None
    pixels, depth = views.camera.project(touched)
    column, row = (pixels[..., axis].floor().long().clamp(0, limit - 1) for axis, limit in ((0, views.camera.width), (1, views.camera.height)))
    measured = torch.stack([image[r, c] for image, r, c in zip(views.depth, row, column, strict=True)])
    shown = touched[((measured - depth).abs() < 0.002).any(0)]
    points = sample_surface(found.mesh, SAMPLES)[0]
    points = points[found.volume.seen_at(points)]
    there = MeshQuery(truth, sign="winding").signed_distance(points).abs().mean()
    return float(there + MeshQuery(found.mesh).signed_distance(shown).abs().mean())


def variants(images: PosedImages, table: PosedImages) -> dict[str, PosedImages]:
    """What is given, by name."""
    assert images.depth is not None and table.depth is not None
    generator = torch.Generator().manual_seed(0)

    def noisy(seen: PosedImages) -> PosedImages:
        assert seen.depth is not None
        return replace(seen, depth=torch.where(seen.depth > 0, seen.depth + NOISE * torch.randn(seen.depth.shape, generator=generator), 0.0))

    return {
        "depth and masks": images,
        "2 mm noise": noisy(images),
        "2 mm noise, no masks": replace(noisy(images), masks=None),
        "on a table, from above, 2 mm noise": noisy(table),
        "masks alone": replace(images, depth=None),
    }


def object_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Surface chamfer of every object and variant."""
    size, found, seconds = (200 if quick else 320), dict[str, dict[str, float]](), []
    for name, mesh in objects().items():
        touched = true_surface(mesh, SAMPLES)
        around, above = (photograph(mesh, eight_views(flag, size), table=flag) for flag in (False, True))
        found[name] = {}
        for variant, views in variants(around, above).items():
            begin = time.perf_counter()
            shape = reconstruct(views)
            if variant == "2 mm noise":
                seconds.append(time.perf_counter() - begin)
                found[name]["2 mm noise, what was seen"] = 1000 * seen_chamfer(shape, around, mesh, touched)
            found[name][variant] = 1000 * surface_chamfer(shape.mesh, mesh, touched)
    names = list(next(iter(found.values())))
    table = Table("object", *names, title=f"surface chamfer in mm, both directions summed; 16 cm objects, 8 views, {size} px")
    for name, row in found.items():
        table.add_row(name, *(f"{row[variant]:.2f}" for variant in names))
    console.print(table)
    claims = {}
    keys = ("chamfer_mm", "chamfer_noise_seen_mm", "chamfer_noise_mm", "chamfer_no_masks_mm", "chamfer_table_mm", "chamfer_masks_mm")
    for key, variant in zip(keys, names, strict=True):  # each the worst object
        values = [row[variant] for row in found.values()]
        claims[f"reconstruct_{key}"] = claim(max(values), n=len(values), low=min(values), high=max(values))
    return claims | {"reconstruct_s": median_claim(seconds)}


def rope_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Errors of lengths, of made ropes and of the real one."""
    table = Table("curve", *SPOILT, title="error of the length [%], median (worst) over ropes")
    claims: dict[str, Any] = {}
    every: dict[str, list[float]] = {name: [] for name in (*SPOILT, "strands near")}
    for kind in KINDS:
        cells = []
        for spoilt in SPOILT:
            errors = []
            for seed in range(2 if quick else 6):
                points = tube_points(kind, spoilt, length=ROPE, radius=0.008, seed=seed)
                try:
                    errors.append(100 * abs(centre_line(points).length / ROPE - 1))
                except ValueError:
                    errors.append(100.0)
            every["strands near" if "near" in kind else spoilt] += errors
            cells.append(f"{np.median(errors):.2f} ({max(errors):.2f})")
        table.add_row(kind, *cells)
    console.print(table)
    for spoilt, errors in every.items():
        name = f"reconstruct_rope_error_pct_{spoilt.replace(' ', '_')}"
        claims[name] = claim(float(np.median(errors)), n=len(errors), low=float(np.quantile(errors, 0.05)), high=float(np.quantile(errors, 0.95)))
    photos = load_rope_photos()
    truth = trace_rope(photos.camera, photos.masks)
    solid = reconstruct(PosedImages(photos.camera, photos.images, None, photos.masks))
    lengths = {
        "splats": centre_line(photos.splats.means, 40).length,
        "masks": centre_line(torch.cat((solid.points.positions, solid.interior)), 40).length,
    }
    console.print(
        f"real rope: traced in the photos {100 * truth.length:.2f} cm ({truth.residual:.2f} px off the middles of the masks), "
        + ", ".join(f"by its {name} {100 * length:.2f} cm" for name, length in lengths.items())
    )
    for name, length in lengths.items():
        claims[f"reconstruct_real_rope_error_pct_{name}"] = claim(100 * abs(length / truth.length - 1), n=1)
    return claims


def reconstruction_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Objects and ropes."""
    return object_claims(quick, console) | rope_claims(quick, console)


PARTS: dict[str, Part] = {"objects": object_claims, "ropes": rope_claims}


if __name__ == "__main__":
    run_parts("reconstruction", __doc__, PARTS, quick="smaller images, fewer ropes")
