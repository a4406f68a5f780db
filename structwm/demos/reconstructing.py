"""`structwm reconstruct`: an object from posed images. Everything that can be refused is refused before work starts."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from structwm.data.atomic import write_bytes, write_json
from structwm.data.mesh_files import write_obj, write_points
from structwm.data.posed_images import FILE, PosedImages, read_posed_images
from structwm.data.rope_photos import load_rope_photos
from structwm.data.splat_files import write_splats
from structwm.perception.centre_lines import CentreLine, centre_line
from structwm.perception.convex_decomposition import has_coacd
from structwm.perception.reconstruction import Reconstruction, ReconstructionSettings, reconstruct
from structwm.report.reconstruction import draw_reconstruction, reconstruction_page

from .evaluating import _drawing as require_drawing
from .pushing import one_thread

ROPE = "gs_dynamics_rope"


@dataclass(frozen=True)
class ReconstructConfig:
    """Reconstruct one object from posed images: surface points, mesh, splats, convex pieces, a spring graph with interior points, and a report.

    The folder holds pictures and cameras.json: {"axes": "opencv" or "opengl", "pixel_center": 0.5, "depth_scale": 0.001, "views": [{"color": FILE,
    "depth": FILE, "mask": FILE, "intrinsics": 3x3, "world_from_camera": 4x4}, ...]}; depth (PNG of 16 bits, .npy or .npz), masks or both. Masks alone give the
    hull of the silhouettes.
    """

    source: Annotated[Path, tyro.conf.Positional]  # folder with cameras.json, or gs_dynamics_rope
    out: Path = Path("runs/reconstruction")  # folder of results
    voxel: float | None = None  # of the grid [m]; finer shows more and takes longer
    support: tuple[float, float, float, float] | None = None  # plane a b c d under the object, a x + b y + c z + d = 0 [m]; by default looked for in depth
    points: int = 4000  # on the surface, about
    interior_spacing: float | None = None  # between interior points [m]
    radius: float = 2.0  # of springs, in units of the spacing of points
    neighbours: int = 12  # of a point that springs join it to, at most
    splats: int = 8000  # about
    splat_iterations: int = 0  # of fitting splats to the images; some hundreds look better and take minutes
    concavity: float = 0.05  # how deep hollows may be that convex pieces fill; smaller gives more pieces
    pieces: bool = True  # convex pieces, by the package coacd, or one hull without it
    rope: int = 0  # vertices of a centre line, for ropes and cables; 0 for none
    seed: int = 0  # of all draws


def main(config: ReconstructConfig) -> Reconstruction:
    """Reconstruct, write the files and the report.

    Raises:
        ValueError: on what does not fit; the sentence says what to do.
        ImportError: if what draws is not installed.
    """
    if config.rope and config.rope < 3:
        raise ValueError(f"structwm reconstruct needs a centre line of 3 vertices or more, got {config.rope}.")
    settings = settings_of(config)
    require_drawing()
    views = read_views(config.source)
    config.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with one_thread():
        found = reconstruct(views, settings)
        line = rope_line(found, config.rope) if config.rope else None
        files = write_all(found, line, config)
        seconds = time.perf_counter() - begin
        pictures = draw_reconstruction(found, pieces=found.pieces if config.pieces else (), line=line)
        for name, image in pictures.items():
            write_bytes(config.out / f"{name}.png", [image])
        facts = {
            "source": str(config.source),
            "views": f"{len(views)} of {views.camera.width} x {views.camera.height} px, {given(views)}",
            "time": f"{seconds:.1f} s",
        }
        page = reconstruction_page(
            found, pictures, pieces=len(found.pieces) if config.pieces else None, line=line, facts=facts, files=files, title=title(config)
        )
        report = page.write(config.out / "report.html")
    for name, what in files.items():
        sys.stdout.write(f"{config.out / name}: {what}\n")
    sys.stdout.write(f"report: {report}\n")
    return found


def settings_of(config: ReconstructConfig) -> ReconstructionSettings:
    """How to reconstruct.

    Raises:
        ValueError: on numbers that cannot be.
    """
    settings = ReconstructionSettings(
        voxel=config.voxel,
        points=config.points,
        interior_spacing=config.interior_spacing,
        radius=config.radius,
        neighbours=config.neighbours,
        splats=config.splats,
        splat_iterations=config.splat_iterations,
        concavity=config.concavity,
        seed=config.seed,
    )
    if config.support is None:
        return settings
    plane = torch.tensor(config.support)
    if not float(plane[:3].norm()) > 0:
        raise ValueError(f"structwm reconstruct needs a support plane whose first three numbers are not all 0, got {config.support}.")
    return replace(settings, support=plane / plane[:3].norm())


def read_views(source: Path) -> PosedImages:
    """Images of a folder with `cameras.json`, or of the photos of a rope.

    Raises:
        ValueError: if there is nothing to read, or it cannot be right.
    """
    if (source / FILE).exists():
        return read_posed_images(source)
    if source.name == ROPE or (source / "R_list.npy").exists():
        photos = load_rope_photos(source if source.is_dir() else None)
        return PosedImages(photos.camera, photos.images, None, photos.masks)
    raise ValueError(f"structwm reconstruct needs a folder with {FILE}, or {ROPE}, got {source}; `structwm reconstruct --help` says how it is written.")


def given(views: PosedImages) -> str:
    """What the views hold, in words."""
    return ", ".join(name for name, value in (("colour", views.colors), ("depth", views.depth), ("masks", views.masks)) if value is not None)


def title(config: ReconstructConfig) -> str:
    """Of the report."""
    return f"{config.source.resolve().name}, reconstructed"


def rope_line(found: Reconstruction, vertices: int) -> CentreLine:
    """The centre line of what was reconstructed, by points on and in it."""
    return centre_line(torch.cat((found.points.positions, found.interior)), vertices)


def write_all(found: Reconstruction, line: CentreLine | None, config: ReconstructConfig) -> dict[str, str]:
    """Write everything; gives what each file holds."""
    out, graph = config.out, found.springs
    write_points(found.points, out / "points.ply")
    write_obj([found.mesh], out / "mesh.obj")
    write_splats(found.splats, out / "splats.ply")
    springs: dict[str, Any] = {
        "points": graph.points.numpy(),
        "surface": graph.surface,
        "edges": graph.edges.numpy(),
        "rest_lengths": graph.rest_lengths.numpy(),
    }
    np.savez_compressed(out / "springs.npz", **springs)
    files = {
        "points.ply": f"{len(found.points)} surface points with normals{' and colours' if found.points.colors is not None else ''}",
        "mesh.obj": f"{len(found.mesh.vertices)} vertices, {len(found.mesh.faces)} faces",
        "splats.ply": f"{len(found.splats.means)} splats",
        "springs.npz": f"{len(graph.points)} points, {len(graph.points) - graph.surface} of them inside, {len(graph.edges)} springs",
    }
    if config.pieces:
        write_obj(found.pieces, out / "convex_pieces.obj")
        how = "by CoACD" if has_coacd() else "the hull: pip install 'structwm[convex]' for several"
        files["convex_pieces.obj"] = f"{len(found.pieces)} convex pieces ({how})"
    if line is not None:
        write_json(out / "centre_line.json", {"vertices": line.vertices.tolist(), "length": line.length, "radius": line.radius})
        files["centre_line.json"] = f"{len(line.vertices)} vertices, {100 * line.length:.1f} cm long, {1000 * line.radius:.1f} mm in radius"
    return files
