"""Skinning in scenes of several objects: what belongs to one object follows nodes of that object only, however near those of others are."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.skinning import Skin, skinning_weights


def object_skin(points: Tensor, ids: Tensor, nodes: Tensor, node_ids: Tensor, *, k: int = 8) -> Skin:
    """The k nearest nodes of its own object for each point, and their weights as of `skinning_weights`.

    Args:
        points: (N, 3) [m].
        ids: int (N,), the object of each point.
        nodes: (M, 3) [m].
        node_ids: int (M,), the object of each node.
        k: nodes that a point follows; all of its object's where there are fewer.

    Raises:
        ValueError: in one sentence, if shapes do not fit or a point's object has no node.
    """
    if ids.shape != points.shape[:-1] or node_ids.shape != nodes.shape[:-1] or ids.is_floating_point() or node_ids.is_floating_point():
        raise ValueError(
            f"object_skin: expected an integer object id for each of {len(points)} points and {len(nodes)} nodes, got {ids.dtype} {tuple(ids.shape)} and "
            f"{node_ids.dtype} {tuple(node_ids.shape)}."
        )
    lacking = sorted(set(ids.tolist()) - set(node_ids.tolist()))
    if lacking:
        raise ValueError(f"object_skin: expected nodes of every object that points belong to, got none of object {lacking[0]}.")
    slots = min(k, len(nodes))
    indices = torch.zeros(len(points), slots, dtype=torch.int32, device=points.device)
    weights = points.new_zeros(len(points), slots)
    for number in ids.unique().tolist():
        rows, own = (ids == number).nonzero()[:, 0], (node_ids == number).nonzero()[:, 0]
        skin = skinning_weights(points[rows].contiguous(), nodes[own].contiguous(), k=min(k, len(own)))
        used = skin.indices.shape[-1]
        indices[rows] = own[:1].to(torch.int32)
        indices[rows, :used] = own[skin.indices.long()].to(torch.int32)
        weights[rows, :used] = skin.weights
    return Skin(indices, weights, len(nodes))
