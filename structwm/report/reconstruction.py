"""The report of a reconstruction: what was seen, what was made of it, and where nobody looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.mesh import Mesh
from structwm.geometry.mesh_sampling import face_areas, mesh_volume
from structwm.perception.centre_lines import CentreLine
from structwm.perception.image_metrics import mask_overlap
from structwm.perception.reconstruction import Reconstruction
from structwm.render.rendering import render

from .figures import look, new, to_bytes
from .html import Block, Cell, Figure, Number, Page, Section, Table, Text, Tiles
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

VIEWS = 4  # at most that are shown
SPRINGS = 6000  # at most that are drawn
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY)


def draw_reconstruction(found: Reconstruction, *, pieces: Sequence[Mesh] = (), line: CentreLine | None = None) -> dict[str, bytes]:
    """Every picture of the report, PNG, by name."""
    pictures = {"views": draw_views(found), "shapes": draw_shapes(found, pieces)}
    if line is not None:
        pictures["centre_line"] = draw_line(found, line)
    return pictures


def draw_views(found: Reconstruction) -> bytes:
    """The views beside the splats drawn from the same places."""
    from PIL import Image

    views, camera = found.views, found.views.camera.to(torch.float32)
    shown = torch.linspace(0, len(views) - 1, min(VIEWS, len(views))).round().long().tolist()
    factor = min(1.0, 360 / camera.width)
    seen = render(found.splats, camera[shown].scaled(factor), background=(1.0, 1.0, 1.0))
    size = seen.image.shape[1:3]

    def small(value: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(value.float().unsqueeze(1) if value.ndim == 3 else value.permute(0, 3, 1, 2), size, mode="area")

    if views.colors is not None:
        given = small(views.colors[shown]).permute(0, 2, 3, 1)
    elif views.masks is not None:
        given = small(views.masks[shown])[:, 0].unsqueeze(-1).expand(-1, -1, -1, 3)
    else:
        assert views.depth is not None
        depth = small(views.depth[shown].nan_to_num().clamp_min(0))[:, 0]
        given = (1 - depth / depth.max().clamp_min(1e-9)).unsqueeze(-1).expand(-1, -1, -1, 3)
    picture = torch.cat((torch.cat(list(given), 1), torch.cat(list(seen.image.clamp(0, 1)), 1)), 0)
    stream = BytesIO()
    Image.fromarray((255 * picture.clamp(0, 1)).round().byte().numpy()).save(stream, format="png")
    return stream.getvalue()


def draw_shapes(found: Reconstruction, pieces: Sequence[Mesh]) -> bytes:
    """Surface points, the spring graph cut open, and convex pieces, from one side."""
    with look():
        count = 3 if pieces else 2
        figure = new(4.2 * count, 4.2)
        axes = [figure.add_subplot(1, count, k + 1, projection="3d") for k in range(count)]
        points = found.points
        x, y, z = points.positions.numpy().T
        seen = found.seen.numpy()
        colors = points.colors.numpy() if points.colors is not None else None
        axes[0].scatter(x, y, z, s=2, c=colors if colors is not None else [BLUE if s else ORANGE for s in seen], depthshade=colors is None)
        axes[0].set_title("surface points")
        _springs(axes[1], found)
        if pieces:
            _solids(axes[2], pieces)
        for one in axes:
            _frame(one, points.positions)
        return to_bytes(figure, "png")


def _springs(axes: Any, found: Reconstruction) -> None:
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    graph = found.springs
    middle = graph.points[:, 1].median()
    ends = graph.points[graph.edges]
    ends = ends[(ends[..., 1] > middle).all(-1)]
    if len(ends) > SPRINGS:
        ends = ends[torch.randperm(len(ends), generator=torch.Generator().manual_seed(0))[:SPRINGS]]
    axes.add_collection3d(Line3DCollection(ends.numpy(), colors=GREY, linewidths=0.25))
    inside = graph.points[graph.surface :]
    inside = inside[inside[:, 1] > middle]
    axes.scatter(*inside.numpy().T, s=1.5, c=VERMILLION)
    axes.set_title("springs and interior points, far half")


def _solids(axes: Any, pieces: Sequence[Mesh]) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    for number, piece in enumerate(pieces):
        color = PALETTE[number % len(PALETTE)]
        axes.add_collection3d(
            Poly3DCollection(piece.vertices[piece.faces].numpy(), facecolors=color, edgecolors="white", linewidths=0.2, alpha=0.8, shade=True)
        )
    axes.set_title(f"{len(pieces)} convex pieces" if len(pieces) > 1 else "convex hull")


def draw_line(found: Reconstruction, line: CentreLine) -> bytes:
    """The centre line among the points, from one side."""
    with look():
        figure = new(6.5, 4.2)
        axes = figure.add_subplot(1, 1, 1, projection="3d")
        axes.scatter(*found.points.positions.numpy().T, s=1, c=GREY, alpha=0.3)
        axes.plot(*line.vertices.numpy().T, "-o", color=VERMILLION, markersize=2.5, linewidth=1.5)
        axes.set_title(f"centre line, {100 * line.length:.1f} cm")
        _frame(axes, found.points.positions)
        return to_bytes(figure, "png")


def _frame(axes: Any, points: Tensor) -> None:
    low, high = points.amin(0), points.amax(0)
    middle, half = (low + high) / 2, 0.52 * float((high - low).max())
    for axis, centre in zip("xyz", middle.tolist(), strict=True):
        getattr(axes, f"set_{axis}lim")(centre - half, centre + half)
        getattr(axes, f"set_{axis}label")(f"{axis} [m]")
        getattr(axes, f"{axis}axis").set_major_locator(__import__("matplotlib.ticker", fromlist=["MaxNLocator"]).MaxNLocator(4))
    axes.set_box_aspect((1, 1, 1), zoom=0.85)
    axes.view_init(elev=25, azim=-60)


def reconstruction_page(
    found: Reconstruction,
    pictures: Mapping[str, bytes],
    *,
    pieces: int | None = None,
    line: CentreLine | None = None,
    facts: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    title: str = "A reconstruction",
) -> Page:
    """The report.

    Args:
        found: what was reconstructed.
        pictures: of `draw_reconstruction`.
        pieces: number of convex pieces, None for none.
        line: the centre line of a rope.
        facts: what it was reconstructed from, in words.
        files: names of files and what they hold.
        title: of the page.
    """
    size = (found.mesh.vertices.amax(0) - found.mesh.vertices.amin(0)).tolist()
    tiles = [
        (" x ".join(f"{100 * side:.1f}" for side in size) + " cm", "along x, y and z"),
        (f"{1e6 * float(mesh_volume(found.mesh)):.0f} cm³", "volume"),
        (
            f"{100 * float(found.seen.float().mean()):.0f} %",
            "of the surface measured by depth" if found.views.depth is not None else "measured by depth: there was none",
        ),
        (f"{1000 * found.noise:.2f} mm", "noise of the depth (1 std)")
        if found.views.depth is not None
        else (f"{1000 * found.volume.voxel:.1f} mm", "cells of the grid"),
    ]
    if line is not None:
        tiles.insert(0, (f"{100 * line.length:.1f} cm", f"long, {2000 * line.radius:.1f} mm thick"))
    shapes: list[Block] = [
        Figure(pictures["shapes"], "Springs join points within a radius; only the far half is drawn.", "points, springs and convex pieces", "png")
    ]
    if "centre_line" in pictures:
        shapes.append(Figure(pictures["centre_line"], "The middle of the rope, evenly spaced vertices.", "centre line", "png"))
    sections = [
        Section("What was seen, and what was made of it", [*_views(found, pictures)]),
        Section("Shapes", shapes),
        Section("Numbers", [Table(["what", "value"], [[name, value] for name, value in _numbers(found, pieces, dict(facts or {}))])]),
    ]
    if files:
        sections.append(Section("Files", [Table(["file", "what it holds"], [[name, what] for name, what in files.items()])]))
    lead = "One object, reconstructed from posed images" + (
        " by the hull of its silhouettes." if found.views.depth is None else " by averaging signed distances to measured surfaces."
    )
    return Page(title=title, lead=lead, top=[Tiles(tiles), *(Text(sentence) for sentence in remarks(found))], sections=sections)


def remarks(found: Reconstruction) -> list[str]:
    """What a reader should know before trusting the shape, a sentence each."""
    said = []
    if found.views.depth is None:
        said.append("There was no depth: hollows that show in no outline are filled, and the object is as large as its silhouettes allow.")
    elif float(hidden := 1 - found.seen.float().mean()) > 0.05:
        said.append(f"{100 * float(hidden):.0f} % of the surface was seen by no camera; there the object is as large as what was seen allows.")
    if found.support is not None:
        said.append("It stands on a plane, below which there is nothing of it.")
    return said


def _views(found: Reconstruction, pictures: Mapping[str, bytes]) -> list[Block]:
    blocks: list[Block] = [
        Figure(pictures["views"], "Above what the cameras saw, below the reconstructed splats from the same places.", "views and renderings", "png")
    ]
    if found.views.masks is not None:
        camera = found.views.camera.to(torch.float32)
        overlap = torch.stack([mask_overlap(render(found.splats, camera[view]).alpha, found.views.masks[view]) for view in range(len(camera))])
        rows: list[list[Cell]] = [[str(view), Number(float(value), 3)] for view, value in enumerate(overlap)]
        blocks.append(Table(["view", "overlap of silhouette and mask (IoU)"], rows))
    return blocks


def _numbers(found: Reconstruction, pieces: int | None, facts: dict[str, str]) -> list[tuple[str, str]]:
    graph = found.springs
    degree = torch.bincount(graph.edges.flatten(), minlength=len(graph.points))
    rows = [
        ("cells of the grid", f"{1000 * found.volume.voxel:.2f} mm, {' x '.join(map(str, found.volume.values.shape))}"),
        ("mesh", f"{len(found.mesh.vertices)} vertices, {len(found.mesh.faces)} faces, {1e4 * float(face_areas(found.mesh)[0].sum()):.0f} cm²"),
        ("surface points", f"{len(found.points)}, at least {1000 * found.spacing:.1f} mm apart"),
        ("interior points", f"{len(found.interior)}"),
        ("springs", f"{len(graph.edges)}, {float(degree.float().mean()):.1f} a point, {1000 * float(graph.rest_lengths.mean()):.1f} mm long in the mean"),
        ("splats", f"{len(found.splats.means)}"),
    ]
    if pieces is not None:
        rows.append(("convex pieces", str(pieces)))
    return [*facts.items(), *rows]
