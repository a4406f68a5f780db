"""Fit a small scene of splats to calibrated photos with masks, starting from nothing else, and look at it beside the photos.

The photos are four of a real rope (`structwm fetch gs_dynamics_rope`); one of them is held out. With your own, give images (V, height, width, 3) in [0, 1], a
`Camera` of V views and bool masks. On two CPU cores it takes less than a minute.

    python examples/scene_from_photos.py --iterations 600 --held-out 2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image

from structwm.data import load_rope_photos, write_splats
from structwm.perception import SplatFitProgress, SplatFitSettings, fit_splats, mask_overlap, psnr
from structwm.render import render


@dataclass
class Config:
    iterations: int = 600
    splats: int = 6000  # at most
    size: float = 1.0  # of the photos while fitting; smaller is faster, and no sharper than that
    held_out: int = 2  # the view that is not fitted
    out: Path = Path("runs/rope")


def show(step: SplatFitProgress) -> None:
    print(f"{step.iteration:5d}  {step.psnr:.1f} dB  held out {step.held_out_psnr:.1f} dB  {step.splats} splats  {step.seconds:.0f} s", flush=True)


def main(config: Config) -> None:
    photos = load_rope_photos()
    settings = SplatFitSettings(iterations=config.iterations, splats=config.splats, size=config.size, antialiased=True)
    fit = fit_splats(
        photos.images,
        photos.camera,
        masks=photos.masks,
        held_out=(config.held_out,),
        settings=settings,
        progress=show,
    )
    config.out.mkdir(parents=True, exist_ok=True)
    write_splats(fit.splats, config.out / "scene.ply")
    seen = render(fit.splats, photos.camera, antialiased=True)
    overlap, likeness = mask_overlap(seen.alpha, photos.masks), psnr(seen.image, photos.images, mask=photos.masks)
    for view, (image, drawn, mask) in enumerate(zip(photos.images, seen.image, photos.masks, strict=True)):
        print(f"view {view}{' (held out)' if view == config.held_out else ''}: mask IoU {overlap[view]:.3f}, PSNR inside the mask {likeness[view]:.1f} dB")
        both = torch.cat((image * mask[..., None], drawn), 1)
        Image.fromarray((255 * both.clamp(0, 1)).byte().numpy()).save(config.out / f"view_{view}.png")
    print(f"{config.out}: scene.ply, view_0.png ...; structwm render {config.out / 'scene.ply'} --up z")


if __name__ == "__main__":
    main(tyro.cli(Config))
