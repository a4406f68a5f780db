"""Points and splats that follow moving nodes: each takes the blend of its nearest nodes' affine maps.

Linear blend skinning of splats as in SC-GS (Huang et al., CVPR 2024) and of embedded deformation (Sumner et al., SIGGRAPH 2007). Node m maps x to
F_m (x - p_m) + p'_m; a point with weights w_m goes to the sum of w_m times these, and the linear part there is F = sum w_m F_m. All inputs may carry gradients;
leading axes `*B` broadcast, so that one skin serves a whole rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from structwm.geometry.harmonics import harmonic_degree
from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import nearest_rotation, quaternion_to_matrix
from structwm.geometry.splat_checks import check_shapes
from structwm.geometry.splat_motion import harmonic_rotation
from structwm.kernels.launching import backward_only
from structwm.kernels.skinning import blend_maps, deform_axes, followers
from structwm.state import Splats

PROXIMITY = 1e-3  # pull of `node_rotations` on what the neighbors do not determine, as a part of their spread
ROUNDS = 4


@dataclass(frozen=True)
class Skin:
    """Which nodes each point follows, and how much.

    Raises:
        ValueError: in one sentence, if shapes do not fit or an index names no node.
    """

    indices: Tensor  # int (*B, N, k), kept as int32
    weights: Tensor  # (*B, N, k), each row sums to 1
    node_count: int  # M
    starts: Tensor = field(init=False, repr=False)  # int32 (*B, M + 1), see `structwm.kernels.skinning.followers`
    entries: Tensor = field(init=False, repr=False)  # int32 (*B, N k)

    def __post_init__(self) -> None:
        if self.indices.ndim < 2 or self.indices.shape != self.weights.shape or self.indices.is_floating_point() or not self.weights.is_floating_point():
            raise ValueError(
                f"skin: expected integer indices and float weights (*B, N, k), got {self.indices.dtype} {tuple(self.indices.shape)} and "
                f"{self.weights.dtype} {tuple(self.weights.shape)}."
            )
        if self.indices.numel() and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < self.node_count:
            raise ValueError(f"skin indices: expected those of {self.node_count} nodes, got {int(self.indices.min())} to {int(self.indices.max())}.")
        batch, (count, slots) = self.batch_size, self.indices.shape[-2:]
        starts, entries = followers(self.indices.reshape(batch.numel(), count, slots), self.node_count)
        object.__setattr__(self, "indices", self.indices.to(torch.int32))
        object.__setattr__(self, "starts", starts.view(*batch, self.node_count + 1))
        object.__setattr__(self, "entries", entries.view(*batch, count * slots))

    @property
    def batch_size(self) -> torch.Size:
        """The leading axes `*B`."""
        return self.indices.shape[:-2]


def skinning_weights(points: Tensor, nodes: Tensor, *, k: int = 8, bandwidth: float | Tensor | None = None, node_mask: Tensor | None = None) -> Skin:
    """The k nearest nodes of each point and their normalised weights.

    Without a bandwidth, weights fall with the inverse square of the distance d (Shepard's, smooth also at a node, where they are that node's alone); with one
    they are exp(-d^2 / (2 bandwidth^2)). The weights carry gradients of points, nodes and bandwidth; which nodes are nearest does not.

    Args:
        points: (*B, N, 3) [m].
        nodes: (*B, M, 3) [m].
        k: nodes that a point follows; all of them where there are fewer.
        bandwidth: of all nodes or of each, (*B, M) [m]; larger is smoother.
        node_mask: (*B, M) bool, False for nodes that nothing follows. A point with fewer than k nodes has weights 0 in the places left.

    Raises:
        ValueError: in one sentence, if there is no node to follow, or numbers or shapes are not those of points and nodes.
    """
    for name, value in (("points", points), ("nodes", nodes)):
        if value.ndim < 2 or value.shape[-1] != 3 or value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"skinning {name}: expected float32 or float64 (*B, N, 3), got {value.dtype} {tuple(value.shape)}.")
    if k < 1 or nodes.shape[-2] < 1:
        raise ValueError(f"skinning: expected at least one node to follow, got k = {k} of {nodes.shape[-2]} nodes.")
    if node_mask is not None and (node_mask.dtype != torch.bool or node_mask.shape[-1:] != nodes.shape[-2:-1] or not bool(node_mask.any(-1).all())):
        raise ValueError(f"skinning node_mask: expected bool (*B, {nodes.shape[-2]}) with a node left, got {node_mask.dtype} {tuple(node_mask.shape)}.")
    if bandwidth is not None and not bool((torch.as_tensor(bandwidth) > 0).all()):
        raise ValueError("skinning bandwidth: expected numbers above 0 [m].")
    node_count = nodes.shape[-2]
    width = None if bandwidth is None else torch.as_tensor(bandwidth, dtype=points.dtype, device=points.device)
    leads = [value.shape[:-1] for value in (node_mask, width) if value is not None and value.ndim]
    batch = torch.broadcast_shapes(points.shape[:-2], nodes.shape[:-2], *leads)
    x, p = (value.expand(*batch, *value.shape[-2:]) for value in (points, nodes))
    mask = None if node_mask is None else node_mask.expand(*batch, node_count)
    near = knn(x.detach(), p.detach(), min(k, node_count), point_mask=mask)
    indices = torch.where(near.valid, near.indices, near.indices[..., :1])
    square = (x.unsqueeze(-2) - _gather(p, indices)).square().sum(-1)
    if width is None:
        floor = 1e-6 * square.detach().mean(-1, keepdim=True) + torch.finfo(square.dtype).tiny
        rank = -(square + floor).log()
    else:
        rank = -square / (2 * _gather(width.expand(*batch, node_count).unsqueeze(-1), indices).squeeze(-1).square())
    weights = torch.softmax(rank.masked_fill(~near.valid, -torch.inf), -1)
    return Skin(indices, weights, node_count)


def _gather(table: Tensor, indices: Tensor) -> Tensor:
    """Rows of (*B, M, c) at (*B, N, k): (*B, N, k, c)."""
    flat = indices.flatten(-2).long().unsqueeze(-1).expand(*indices.shape[:-2], -1, table.shape[-1])
    return table.gather(-2, flat).unflatten(-2, indices.shape[-2:])


def skin_points(
    points: Tensor, skin: Skin, nodes: Tensor, moved_nodes: Tensor, *, rotations: Tensor | None = None, maps: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Points carried along by nodes, and how the space around each is mapped.

    Args:
        points: (*B, N, 3) [m].
        skin: of these points, see `skinning_weights`.
        nodes: (*B, M, 3) where the nodes were [m].
        moved_nodes: (*B, M, 3) where they are now [m].
        rotations: (*B, M, 4) how the nodes turned, quaternions wxyz of any sign; see also `node_rotations`.
        maps: (*B, M, 3, 3) instead, any linear maps. With neither, nodes only move.

    Returns:
        Positions (*B, N, 3) [m] and linear parts F (*B, N, 3, 3).

    Raises:
        ValueError: in one sentence, if shapes do not fit.
    """
    count, node_count, dtype = skin.indices.shape[-2], skin.node_count, skin.weights.dtype
    if rotations is not None and maps is not None:
        raise ValueError("skinning: expected the nodes' rotations or their maps, got both; leave one out.")
    for name, value, shape in (
        ("points", points, (count, 3)),
        ("nodes", nodes, (node_count, 3)),
        ("moved_nodes", moved_nodes, (node_count, 3)),
        ("rotations", rotations, (node_count, 4)),
        ("maps", maps, (node_count, 3, 3)),
    ):
        if value is not None and (value.shape[max(0, value.ndim - len(shape)) :] != shape or value.dtype != dtype):
            raise ValueError(f"skinning {name}: expected {dtype} (*B, {', '.join(map(str, shape))}) as the skin's, got {value.dtype} {tuple(value.shape)}.")
    if maps is None:
        eye = torch.eye(3, dtype=dtype, device=nodes.device).expand(node_count, 3, 3)
        maps = eye if rotations is None else quaternion_to_matrix(rotations)
    lead = torch.broadcast_shapes(moved_nodes.shape[:-2], maps.shape[:-3])
    batch = torch.broadcast_shapes(lead, points.shape[:-2], nodes.shape[:-2], skin.batch_size)
    moved_nodes, maps = moved_nodes.expand(*lead, node_count, 3), maps.expand(*lead, node_count, 3, 3)
    backward_only("skinning", points, skin.weights, nodes, moved_nodes, maps)
    tables = ((points, 2), (skin.indices, 2), (skin.weights, 2), (nodes, 2), (moved_nodes, 2), (maps, 3), (skin.starts, 1), (skin.entries, 1))
    positions, blended = blend_maps(*(_as_worlds(value, batch, own) for value, own in tables))
    return positions.view(*batch, *positions.shape[1:]), blended.view(*batch, *blended.shape[1:])


def _as_worlds(value: Tensor, batch: torch.Size, own: int) -> Tensor:
    """(*B, ...) with `own` axes of its own as (W, ...), or (1, ...) where it is one for all."""
    shape = value.shape[value.ndim - own :]
    if value.shape[: value.ndim - own].numel() == 1:
        return value.reshape(1, *shape)
    return value.expand(*batch, *shape).reshape(batch.numel(), *shape)


def skin_splats(
    splats: Splats,
    skin: Skin,
    nodes: Tensor,
    moved_nodes: Tensor,
    *,
    rotations: Tensor | None = None,
    maps: Tensor | None = None,
    deformed: bool = False,
) -> Splats:
    """Splats carried along by nodes: covariance F S F^T at the carried mean; harmonics turn with the rotation nearest to F.

    The new rotations and scales come from the singular values of F R diag(scales), without forming the covariance. Gradients are exact where a splat's new
    scales differ (see `structwm.kernels.skinning.deform_axes`): where two are equal to rounding, rotations and scales cannot say how a loss depends on the
    covariance between these axes, and that part of the gradient is 0. To optimise nodes that carry round splats, keep F with `deformed=True`: `render` takes
    it as it is, and its gradients are exact everywhere.

    Args:
        splats: worlds `*B` of N splats.
        skin: of their means, see `skinning_weights`.
        nodes: (*B, M, 3) where the nodes were [m].
        moved_nodes: (*B, M, 3) where they are now [m].
        rotations: (*B, M, 4) how the nodes turned, quaternions wxyz of any sign; see also `node_rotations`.
        maps: (*B, M, 3, 3) instead, any linear maps. With neither, nodes only move.
        deformed: leave rotations and scales as they are and give F as `deformations`; `bake_deformations` makes rotations and scales of it later.

    Raises:
        ValueError: in one sentence, if shapes do not fit.
    """
    check_shapes(splats)
    means, blended = skin_points(splats.means, skin, nodes, moved_nodes, rotations=rotations, maps=maps)
    batch = means.shape[:-2]
    moved = splats.expand(*batch).clone(recurse=False)
    moved.means = means
    moved.deformations = blended if splats.deformations is None else blended @ splats.deformations
    if splats.harmonics is not None:
        turn = harmonic_rotation(quaternion_to_matrix(nearest_rotation(blended)), harmonic_degree(splats.harmonics.shape[-2]))
        moved.harmonics = turn @ splats.harmonics
    return moved if deformed else bake_deformations(moved)


def bake_deformations(splats: Splats) -> Splats:
    """The same splats with their `deformations` in rotations and scales. As gradients go, see `skin_splats`.

    Raises:
        ValueError: in one sentence, if shapes or types do not fit.
    """
    check_shapes(splats)
    if splats.deformations is None:
        return splats
    backward_only("baking deformations", splats.deformations, splats.rotations, splats.scales)
    batch, baked = splats.batch_size, splats.clone(recurse=False)
    shapes = [splats.rotations, splats.scales]
    if batch.numel() > 1 and not any(value.requires_grad or any(value.stride()[:-2]) for value in shapes):
        shapes = [value[(0,) * len(batch)] for value in shapes]  # expanded: one for all states of a rollout
    axes = deform_axes(_as_worlds(splats.deformations, batch, 3), *(_as_worlds(value, batch, 2) for value in shapes))
    baked.rotations, baked.scales = (value.expand(batch.numel(), *value.shape[1:]).reshape(*batch, *value.shape[1:]) for value in axes)
    baked.deformations = None
    return baked


def node_rotations(nodes: Tensor, moved_nodes: Tensor, neighbors: Skin) -> Tensor:
    """How each node turned, from where its neighbors went: the rotation R with the least sum of w |p'_j - p'_m - R (p_j - p_m)|^2 (weighted Kabsch).

    What the neighbors leave open, as the twist of a straight rope about itself, stays as little as it can be: R starts at the identity and takes a few
    proximal steps, each the rotation nearest to sum w (p'_j - p'_m)(p_j - p_m)^T plus a small part of the last R.

    Args:
        nodes: (*B, M, 3) where the nodes were [m].
        moved_nodes: (*B, M, 3) where they are now [m].
        neighbors: the nodes that each node goes by, `skinning_weights(nodes, nodes, k=...)`; that it is its own neighbor does no harm.

    Returns:
        Unit quaternions (*B, M, 4).

    Raises:
        ValueError: in one sentence, if shapes do not fit.
    """
    count = neighbors.node_count
    for name, value in (("nodes", nodes), ("moved_nodes", moved_nodes)):
        if value.shape[-2:] != (count, 3) or neighbors.indices.shape[-2] != count:
            raise ValueError(f"node rotations, {name}: expected (*B, {count}, 3) and a skin of the nodes on themselves, got {tuple(value.shape)}.")
    batch = torch.broadcast_shapes(nodes.shape[:-2], moved_nodes.shape[:-2], neighbors.batch_size)
    indices, weights = (value.expand(*batch, *value.shape[-2:]) for value in (neighbors.indices, neighbors.weights))
    before, after = (_gather(value, indices) - value.unsqueeze(-2) for value in (nodes.expand(*batch, count, 3), moved_nodes.expand(*batch, count, 3)))
    spread = (weights.unsqueeze(-1) * (before.square() + after.square())).sum((-1, -2))
    products = (weights.unsqueeze(-1) * after).mT @ before / (spread + torch.finfo(spread.dtype).tiny)[..., None, None]
    turn = torch.eye(3, dtype=nodes.dtype, device=nodes.device)
    for _ in range(ROUNDS):
        quaternions = nearest_rotation(products + PROXIMITY * turn)
        turn = quaternion_to_matrix(quaternions)
    return quaternions
