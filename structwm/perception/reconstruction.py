"""From posed images to the things that models are made of: surface points, mesh, splats, convex pieces, interior points and a spring graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from structwm.data.cloud_files import PointCloud
from structwm.data.posed_images import PosedImages
from structwm.geometry.mesh import Mesh
from structwm.geometry.mesh_sampling import face_areas, interior_points, mesh_parts, mesh_volume, sample_surface, thin_points
from structwm.geometry.rotations import normalize_quaternion
from structwm.geometry.signed_distance import MeshQuery
from structwm.geometry.spring_graph import spring_edges
from structwm.state import Splats

from .bounds import cloud_box, silhouette_box, support_plane
from .convex_decomposition import convex_pieces
from .depth_cleaning import clean_depth, depth_noise, depth_points, measured
from .surface_colors import surface_colors
from .volume import Evidence, Volume, fuse, surface_mesh

VOXELS = 1.5e6  # places of the grid, if its resolution is not given
DISKS = 0.64  # points that darts leave on an area of their spacing squared (saturated: 0.70)
FLAT = 0.15  # thickness of a splat on a surface, relative to its width


@dataclass(frozen=True)
class ReconstructionSettings:
    """How things are reconstructed; lengths that are None follow from the object's size and the images' resolution."""

    voxel: float | None = None  # of the grid [m]; finer shows more and takes longer
    truncation: float | None = None  # of signed distances [m]; by default 3 voxels, and 4 standard deviations of the depth's noise
    support: Tensor | bool = True  # plane (4,) n and d on what the object stands on, n . x + d = 0 [m]; True looks for it around the masks, False for none
    smallest_part: float = 0.05  # of the surface of the largest part, below which a part of the mesh is left out
    points: int = 4000  # on the surface, about
    interior_spacing: float | None = None  # between interior points [m]; by default that of the surface points, but no more than 4,000 of them
    radius: float = 2.0  # of springs, in units of the spacing of points
    neighbours: int = 12  # of a point that springs join it to, at most
    splats: int = 8000  # on the surface, about; fitting may add as many
    splat_iterations: int = 0  # of fitting splats to the images; 0 leaves them as the surface gives them, some hundreds are sharper
    concavity: float = 0.05  # of convex pieces, see `convex_pieces`
    pieces: int = 16  # at most
    seed: int = 0  # of all draws

    def __post_init__(self) -> None:
        lengths = [value for value in (self.voxel, self.truncation, self.interior_spacing) if value is not None]
        if not all(value > 0 for value in (*lengths, self.radius, self.concavity)) or not 0 <= self.smallest_part < 1:
            raise ValueError(f"reconstruction settings: expected lengths, radius and concavity above 0 and smallest_part in [0, 1), got {self}.")
        if min(self.points, self.neighbours, self.splats, self.pieces) < 1 or self.splat_iterations < 0:
            raise ValueError(f"reconstruction settings: expected counts of at least 1, and splat_iterations of at least 0, got {self}.")
        if isinstance(self.support, Tensor) and self.support.shape != (4,):
            raise ValueError(f"reconstruction settings: expected a support plane (4,), got {tuple(self.support.shape)}.")


class SpringGraph(NamedTuple):
    """Points and springs of a deformable solid."""

    points: Tensor  # (N, 3) [m], those of the surface first
    surface: int  # how many
    edges: Tensor  # int64 (M, 2)
    rest_lengths: Tensor  # (M,) [m]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A reconstructed object. What is not a field is computed when it is first asked for."""

    views: PosedImages
    volume: Volume
    mesh: Mesh  # closed, with colours where there are images
    noise: float  # standard deviation of the depth [m], 0 without depth
    support: Tensor | None  # (4,) plane under the object
    settings: ReconstructionSettings

    @cached_property
    def _samples(self) -> tuple[Tensor, Tensor]:
        """Points (N, 3) of the surface spread like a Poisson disk, and their normals (N, 3)."""
        return spread_points(self.mesh, self.spacing, self.settings.seed)

    @cached_property
    def spacing(self) -> float:
        """Least distance between surface points [m]."""
        return math.sqrt(float(face_areas(self.mesh)[0].sum()) * DISKS / self.settings.points)

    @cached_property
    def points(self) -> PointCloud:
        """Surface points with normals that point outward, and colours where there are images."""
        positions, normals = self._samples
        return PointCloud(positions, self._colors(positions, normals), normals)

    @cached_property
    def seen(self) -> Tensor:
        """Which surface points lie on what depth measured, bool (N,); none without depth."""
        return self.volume.seen_at(self.points.positions)

    @cached_property
    def query(self) -> MeshQuery:
        """The mesh, ready for signed distances."""
        return MeshQuery(self.mesh)

    @cached_property
    def interior(self) -> Tensor:
        """Points (N, 3) inside [m], on a jittered grid."""
        spacing = self.settings.interior_spacing or max(self.spacing, (float(mesh_volume(self.mesh).clamp_min(0)) / 4000) ** (1 / 3))
        return interior_points(self.query, spacing, seed=self.settings.seed)

    @cached_property
    def springs(self) -> SpringGraph:
        """Surface and interior points, and what joins them."""
        points = torch.cat((self.points.positions, self.interior))
        wide = max(self.spacing, self.settings.interior_spacing or 0.0, (float(mesh_volume(self.mesh).clamp_min(0)) / 4000) ** (1 / 3))
        edges = spring_edges(points, self.settings.radius * wide, self.settings.neighbours)
        return SpringGraph(points, len(self.points), edges, (points[edges[:, 0]] - points[edges[:, 1]]).norm(dim=-1))

    @cached_property
    def pieces(self) -> tuple[Mesh, ...]:
        """Convex pieces, see `convex_pieces`."""
        return convex_pieces(coarse_mesh(self.volume), concavity=self.settings.concavity, most=self.settings.pieces, seed=self.settings.seed)

    @cached_property
    def splats(self) -> Splats:
        """Flat splats on the surface; with `splat_iterations`, fitted to the images."""
        spacing = math.sqrt(float(face_areas(self.mesh)[0].sum()) * DISKS / self.settings.splats)
        positions, normals = spread_points(self.mesh, spacing, self.settings.seed)
        colors = self._colors(positions, normals)
        splats = surface_splats(positions, normals, torch.full_like(positions, 0.5) if colors is None else colors, spacing)
        if not self.settings.splat_iterations or self.views.colors is None:
            return splats
        from .splat_fit import SplatFitSettings, fit_splats

        fit = SplatFitSettings(
            iterations=self.settings.splat_iterations, splats=2 * max(self.settings.splats, len(positions)), resets=(), seed=self.settings.seed, refine_every=50
        )
        return fit_splats(self.views.colors, self.views.camera, masks=self.views.masks, initial=splats, settings=fit).splats

    def _colors(self, positions: Tensor, normals: Tensor) -> Tensor | None:
        if self.views.colors is None:
            return None
        near = 4 * self.volume.voxel + 3 * self.noise
        return surface_colors(positions, normals, self.views.camera.to(torch.float32), self.views.colors, near=near, masks=self.views.masks)


def reconstruct(views: PosedImages, settings: ReconstructionSettings | None = None) -> Reconstruction:
    """Reconstruct one object from posed images.

    With depth, signed distances to the measured surfaces are averaged; noise is measured and allowed for, and mixed pixels at edges are left out. With masks,
    what lies beside a silhouette is empty; without them, whatever depth measured is taken for the object. Masks alone give the hull of the silhouettes, which
    fills hollows that no outline shows. The mesh is closed: where nobody looked, it is as large as what was seen allows.

    Args:
        views: depth, masks or both; colours for the colours of points and mesh.
        settings: how.

    Raises:
        ValueError: in one sentence, if there is neither depth nor masks, or they leave no place for an object.
    """
    settings = settings or ReconstructionSettings()
    if views.depth is None and views.masks is None:
        raise ValueError("reconstruct: expected depth or masks, got colours alone; mask the object, or give depth.")
    if views.masks is not None and not bool(views.masks.any()):
        raise ValueError("reconstruct: expected masks with the object in them, got empty ones.")
    surface, noise = None, 0.0
    if views.depth is not None:
        fine = measured(views.depth) if views.masks is None else measured(views.depth) & views.masks
        if not bool(fine.any()):
            raise ValueError("reconstruct: expected depth of the object, got none" + (" within the masks." if views.masks is not None else "."))
        noise = depth_noise(views.depth, fine)
        surface = clean_depth(views.depth, views.camera, masks=views.masks, noise=noise).float()
    evidence = Evidence.of(replace(views, camera=views.camera.to(torch.float32)), surface, noise)
    low, high = cloud_box(depth_points(surface, evidence.camera)[0]) if surface is not None else silhouette_box(evidence)
    voxel = settings.voxel or default_voxel(evidence, low, high)
    truncation = settings.truncation or max(3 * voxel, 4 * noise)
    support = settings.support if isinstance(settings.support, Tensor) else None
    if settings.support is True and evidence.behind is not None:
        support = support_plane(evidence.behind, evidence.camera, low, high, noise, seed=settings.seed)
    margin = 0.02 * (high - low).max() + truncation
    smooth = 0.5 * min(1.0, 2 * noise / voxel)
    volume = fuse(evidence, low - margin, high + margin, voxel=voxel, truncation=truncation, smooth=smooth, support=support)
    mesh = main_parts(surface_mesh(volume), settings.smallest_part)
    found = Reconstruction(views, volume, mesh, noise, support, settings)
    if views.colors is not None:
        found = replace(found, mesh=Mesh(mesh.vertices, mesh.faces, found._colors(mesh.vertices, vertex_normals(mesh))))
    return found


def default_voxel(evidence: Evidence, low: Tensor, high: Tensor) -> float:
    """As fine as a grid of `VOXELS` places allows, but no finer than half a pixel is wide at the object [m]."""
    size = (high - low).clamp_min(0.05 * float((high - low).max()))
    depth = evidence.camera.project(((low + high) / 2).unsqueeze(0))[1].abs().median()
    pixel = float((depth / evidence.camera.pinholes[..., :2].amin(-1)).median())
    return max((float(size.prod()) / VOXELS) ** (1 / 3), pixel / 2)


def main_parts(mesh: Mesh, smallest: float) -> Mesh:
    """The parts of a mesh whose surface is at least `smallest` of the largest part's."""
    parts = mesh_parts(mesh)
    areas = [float(face_areas(part)[0].sum()) for part in parts]
    kept = [part for part, area in zip(parts, areas, strict=True) if area >= smallest * areas[0]]
    offsets = [sum(len(part.vertices) for part in kept[:k]) for k in range(len(kept))]
    return Mesh(torch.cat([part.vertices for part in kept]), torch.cat([part.faces + start for part, start in zip(kept, offsets, strict=True)]))


def vertex_normals(mesh: Mesh) -> Tensor:
    """Unit normals (N, 3) of the vertices, the mean of their faces' weighted by area."""
    areas, normals = face_areas(mesh)
    total = torch.zeros_like(mesh.vertices)
    for corner in range(3):
        total.index_add_(0, mesh.faces[:, corner], areas.unsqueeze(-1) * normals)
    return torch.nn.functional.normalize(total, dim=-1)


def spread_points(mesh: Mesh, spacing: float, seed: int) -> tuple[Tensor, Tensor]:
    """Points (N, 3) of the surface no nearer than `spacing` to each other, and their normals (N, 3), smooth over the faces."""
    area = float(face_areas(mesh)[0].sum())
    points, faces = sample_surface(mesh, max(64, int(8 * area / spacing**2)), seed=seed)
    kept = thin_points(points, spacing, seed=seed)
    points, faces = points[kept], faces[kept]
    corners, normals = mesh.vertices[mesh.faces[faces]], vertex_normals(mesh)[mesh.faces[faces]]
    nearness = 1 / ((corners - points.unsqueeze(1)).norm(dim=-1, keepdim=True) + 1e-9)
    return points, torch.nn.functional.normalize((nearness * normals).sum(1), dim=-1)


def coarse_mesh(volume: Volume, cells: int = 56) -> Mesh:
    """The largest part of the surface on a coarser grid, of so many cells along the longest side."""
    factor = max(1, math.ceil(max(volume.values.shape) / cells))
    if factor == 1:
        values, origin = volume.values, volume.origin
    else:
        padding = [pad for n in reversed(volume.values.shape) for pad in (0, -n % factor)]
        padded = torch.nn.functional.pad(volume.values[None, None], padding, mode="replicate")
        values, origin = torch.nn.functional.avg_pool3d(padded, factor)[0, 0], volume.origin + 0.5 * (factor - 1) * volume.voxel
    coarse = Volume(values, origin, factor * volume.voxel, torch.zeros_like(values, dtype=torch.bool))
    return mesh_parts(surface_mesh(coarse))[0]


def surface_splats(points: Tensor, normals: Tensor, colors: Tensor, spacing: float) -> Splats:
    """Flat opaque splats on points (N, 3) of a surface with normals (N, 3) and colours (N, 3), `spacing` [m] apart."""
    # the shortest rotation from z to the normal; opposite to z, a half turn about x
    half = torch.cat((1 + normals[:, 2:], -normals[:, 1:2], normals[:, :1], torch.zeros_like(normals[:, :1])), -1)
    rotations = torch.where(half[:, :1] > 1e-6, half, half.new_tensor([0.0, 1.0, 0.0, 0.0]))
    wide = 0.5 * spacing
    return Splats(
        means=points,
        rotations=normalize_quaternion(rotations),
        scales=points.new_tensor([wide, wide, FLAT * wide]).expand(len(points), 3).clone(),
        opacities=torch.full_like(points[:, 0], 0.95),
        colors=colors,
        batch_size=[],
    )
