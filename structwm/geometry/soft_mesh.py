"""Meshes of deformable bodies: nodes, the triangles of their surface, tetrahedra inside; beams, balls, ropes and cloths of a chosen resolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .mesh import Mesh


@dataclass(frozen=True, eq=False)
class SoftMesh:
    """A deformable body at rest: of tetrahedra, or, where there are none, a sheet of triangles.

    Raises:
        ValueError: in one sentence, if shapes do not fit, an element names a node that is not there, or a tetrahedron is flat or turned inside out.
    """

    nodes: Tensor  # (P, 3) [m]
    triangles: Tensor  # int64 (F, 3): all of a sheet, those of the surface of a solid; anticlockwise seen from outside
    tetrahedra: Tensor | None = None  # int64 (M, 4), the last corner on the side to which the first three turn anticlockwise

    def __post_init__(self) -> None:
        if self.nodes.ndim != 2 or self.nodes.shape[-1] != 3 or not bool(self.nodes.isfinite().all()):
            raise ValueError(f"SoftMesh needs finite nodes (P, 3), got {tuple(self.nodes.shape)}.")
        object.__setattr__(self, "nodes", self.nodes.detach().double())
        for name, corners in (("triangles", 3), ("tetrahedra", 4)):
            value = getattr(self, name)
            if value is None:
                continue
            if value.ndim != 2 or value.shape[-1] != corners or value.is_floating_point() or not len(value):
                raise ValueError(f"SoftMesh needs {name} as whole numbers (n, {corners}), got {value.dtype} {tuple(value.shape)}.")
            if int(value.min()) < 0 or int(value.max()) >= len(self.nodes):
                raise ValueError(f"SoftMesh.{name} name nodes {int(value.min())} to {int(value.max())}, but there are {len(self.nodes)}.")
            object.__setattr__(self, name, value.long())
        if self.tetrahedra is not None and not bool((self._volumes() > 0).all()):
            raise ValueError(f"SoftMesh has {int((self._volumes() <= 0).sum())} tetrahedra that are flat or turned inside out; swap two of their corners.")

    def _volumes(self) -> Tensor:
        assert self.tetrahedra is not None
        corners = self.nodes[self.tetrahedra]
        a, b, c = (corners[:, k] - corners[:, 0] for k in (1, 2, 3))
        return (torch.linalg.cross(a, b) * c).sum(-1) / 6

    @classmethod
    def of_tetrahedra(cls, nodes: Tensor, tetrahedra: Tensor) -> Self:
        """The body of tetrahedra (M, 4); its triangles are the faces that belong to one of them alone."""
        faces = torch.cat([tetrahedra[:, list(corners)] for corners in ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))])
        _, which, count = faces.sort(-1).values.unique(dim=0, return_inverse=True, return_counts=True)
        return cls(nodes, faces[count[which] == 1], tetrahedra)

    @classmethod
    def beam(cls, cells: Sequence[int], size: Sequence[float]) -> Self:
        """A box about the origin of `size` (x, y, z) [m], each of its cells in six tetrahedra."""
        if len(cells) != 3 or min(cells) < 1 or len(size) != 3 or not min(size) > 0:
            raise ValueError(f"SoftMesh.beam needs three numbers of cells and three sizes above zero, got {cells} and {size}.")
        axes = [torch.linspace(-s / 2, s / 2, n + 1, dtype=torch.float64) for n, s in zip(cells, size, strict=True)]
        nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        number = torch.arange(len(nodes)).reshape([n + 1 for n in cells])
        steps = torch.tensor([number.stride(k) for k in range(3)])
        first = number[:-1, :-1, :-1].reshape(-1, 1)
        paths = []  # from the first corner of a cell to the last along its edges (Kuhn's subdivision), which fits that of the next cell
        for order in itertools.permutations(range(3)):
            path = torch.cat((torch.zeros(1, dtype=torch.int64), steps[list(order)].cumsum(0)))
            even = order in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
            paths.append(first + (path if even else path[[0, 2, 1, 3]]))
        return cls.of_tetrahedra(nodes, torch.cat(paths))

    @classmethod
    def ball(cls, cells: int, size: Sequence[float]) -> Self:
        """An ellipsoid about the origin of the diameters `size` (x, y, z) [m]: a cube of `cells` along each edge, pushed out to the sphere."""
        cube = cls.beam((cells,) * 3, (2.0,) * 3)
        farthest = cube.nodes.abs().amax(-1, keepdim=True)
        length = cube.nodes.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return cls.of_tetrahedra(cube.nodes * farthest / length * torch.tensor(size, dtype=torch.float64) / 2, cube._tetrahedra)

    @classmethod
    def rope(cls, segments: int, length: float, radius: float) -> Self:
        """A rope along x about the origin: sections of three nodes on a circle of `radius` [m], 3 k to 3 k + 2, with three tetrahedra between two."""
        if segments < 1 or not length > 0 or not radius > 0:
            raise ValueError(f"SoftMesh.rope needs a segment, a length and a radius above zero, got {segments}, {length} and {radius}.")
        x = torch.linspace(-length / 2, length / 2, segments + 1, dtype=torch.float64)
        angle = torch.arange(3, dtype=torch.float64) * (2 * math.pi / 3) + math.pi / 2
        nodes = torch.stack((x[:, None].expand(-1, 3), radius * angle.cos().expand(len(x), -1), radius * angle.sin().expand(len(x), -1)), -1).reshape(-1, 3)
        prism = torch.tensor([[0, 1, 2, 5], [0, 1, 5, 4], [0, 4, 5, 3]])  # faces fit from segment to segment, for all have the same diagonals
        tetrahedra = (3 * torch.arange(segments)[:, None, None] + prism).reshape(-1, 4)
        return cls.of_tetrahedra(nodes, tetrahedra)

    @classmethod
    def cloth(cls, cells: Sequence[int], size: Sequence[float]) -> Self:
        """A sheet in the plane z = 0 about the origin of `size` (x, y) [m]; the diagonals of its cells alternate, so that no direction is stiffer."""
        if len(cells) != 2 or min(cells) < 1 or len(size) != 2 or not min(size) > 0:
            raise ValueError(f"SoftMesh.cloth needs two numbers of cells and two sizes above zero, got {cells} and {size}.")
        x, y = (torch.linspace(-s / 2, s / 2, n + 1, dtype=torch.float64) for n, s in zip(cells, size, strict=True))
        nodes = torch.stack((*torch.meshgrid(x, y, indexing="ij"), torch.zeros(len(x), len(y), dtype=torch.float64)), -1).reshape(-1, 3)
        number = torch.arange(len(nodes)).reshape(len(x), len(y))
        a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
        odd = (torch.arange(cells[0])[:, None] + torch.arange(cells[1])) % 2 == 1
        one = torch.where(odd[..., None], torch.stack((a, b, d), -1), torch.stack((a, b, c), -1))
        two = torch.where(odd[..., None], torch.stack((b, c, d), -1), torch.stack((a, c, d), -1))
        return cls(nodes, torch.stack((one, two), 2).reshape(-1, 3))

    @property
    def _tetrahedra(self) -> Tensor:
        assert self.tetrahedra is not None
        return self.tetrahedra

    @property
    def volume(self) -> float:
        """Of the tetrahedra [m^3]; 0 of a sheet."""
        return 0.0 if self.tetrahedra is None else float(self._volumes().sum())

    @property
    def area(self) -> float:
        """Of the triangles [m^2]."""
        a, b, c = self.nodes[self.triangles].unbind(1)
        return float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum() / 2)

    def placed(self, position: Sequence[float] | Tensor, rotation: Tensor | None = None) -> SoftMesh:
        """The body turned by a matrix (3, 3) about the origin and moved [m]."""
        nodes = self.nodes if rotation is None else self.nodes @ rotation.double().T
        return SoftMesh(nodes + torch.as_tensor(position, dtype=torch.float64), self.triangles, self.tetrahedra)

    def within(self, center: Sequence[float] | Tensor, radius: float) -> tuple[int, ...]:
        """Numbers of the nodes within `radius` of `center` [m], as a gripper there would hold.

        Raises:
            ValueError: if there is none.
        """
        near = ((self.nodes - torch.as_tensor(center, dtype=torch.float64)).norm(dim=-1) <= radius).nonzero().flatten()
        if not len(near):
            raise ValueError(f"SoftMesh has no node within {radius:g} m of {[round(float(c), 4) for c in center]}.")
        return tuple(near.tolist())

    def surface(self, positions: Tensor | None = None) -> Mesh:
        """Its triangles as a mesh, with the nodes at `positions` (P, 3) [m] if given."""
        return Mesh(self.nodes if positions is None else positions, self.triangles)
