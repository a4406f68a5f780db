"""The real rope: its trained splats in the four photos, and found again by the gradient of the pose after they were moved away."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim
from structwm.data import load_rope_photos
from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.splat_motion import place_splats
from structwm.perception import align_splats, mask_overlap, psnr
from structwm.render import render

SHIFT, TURN = 0.05, math.radians(5.0)  # how far the rope is moved away


def rope_claims(quick: bool, console: Console, pictures: Path | None = None) -> dict[str, Any]:
    """Overlap with the masks, likeness to the photos, and what is left of displacements of 5 cm and 5 degrees in random directions."""
    photos = load_rope_photos()
    seen = render(photos.splats, photos.camera)
    overlaps, likeness = mask_overlap(seen.alpha, photos.masks), psnr(seen.image, photos.images, mask=photos.masks)
    table = Table("view", "mask IoU", "PSNR inside the mask [dB]", title="rope, 8,957 splats, 640 x 480")
    for view in range(len(overlaps)):
        table.add_row(str(view), f"{overlaps[view]:.4f}", f"{likeness[view]:.2f}")
    console.print(table)
    if pictures is not None:
        save_pictures(photos, seen, pictures)
    generator = torch.Generator().manual_seed(0)
    weights = photos.splats.opacities / photos.splats.opacities.sum()
    middle = (weights[:, None] * photos.splats.means).sum(0)
    left, seconds = [], []
    for _ in range(1 if quick else 10):
        axis, direction = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator), dim=-1)
        turn = quaternion_to_matrix(rotation_vector_to_quaternion(TURN * axis))
        moved = place_splats(photos.splats, turn, middle + SHIFT * direction - turn @ middle)
        begin = time.perf_counter()
        found = align_splats(moved, photos.camera, photos.masks)
        seconds.append(time.perf_counter() - begin)
        whole = found.world_from_scene[:3, :3] @ turn
        place = found.world_from_scene[:3, :3] @ (middle + SHIFT * direction) + found.world_from_scene[:3, 3]
        angle = math.acos(min(1.0, max(-1.0, (float(whole.trace()) - 1) / 2)))
        left.append((100 * float((place - middle).norm()), math.degrees(angle), float(found.overlaps.mean())))
    worst = [max(row[k] for row in left) for k in range(2)]
    console.print(
        f"moved by {100 * SHIFT:.0f} cm and {math.degrees(TURN):.0f} degrees {len(left)} times and found again from the masks in {np.median(seconds):.1f} s: "
        f"at most {worst[0]:.3f} cm and {worst[1]:.3f} degrees from where its authors' splats lie; mask IoU then {min(row[2] for row in left):.4f}"
    )
    return {
        "rope_mask_iou": claim(float(overlaps.mean()), n=len(overlaps), low=float(overlaps.min()), high=float(overlaps.max())),
        "rope_psnr": claim(float(likeness.mean()), n=len(likeness), low=float(likeness.min()), high=float(likeness.max())),
        "rope_pose_left_cm": claim(worst[0], n=len(left), low=min(row[0] for row in left)),
        "rope_pose_left_deg": claim(worst[1], n=len(left), low=min(row[1] for row in left)),
    }


def save_pictures(photos: Any, seen: Any, folder: Path) -> None:
    """One picture a view: the photo, the splats, and the masks, that of the splats red and the photo's green."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for view in range(len(photos.images)):
        masks = torch.stack((seen.alpha[view], photos.masks[view].float(), torch.zeros_like(seen.alpha[view])), -1)
        row = torch.cat((photos.images[view], seen.image[view], masks), 1)
        Image.fromarray((255 * row.clamp(0, 1)).round().byte().numpy()).save(folder / f"rope_{view}.png")
