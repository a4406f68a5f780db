"""Geometry without a family: cameras, rotations, neighbors, distances between sets and to solids, skinning. Names load when first used.

What lies in the plane has modules of its own: `structwm.geometry.planar` on tensors, `structwm.geometry.outline` on arrays. Importing needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.geometry.camera import Camera
    from structwm.geometry.chain_skinning import chain_places, chain_rotations, chain_skin
    from structwm.geometry.harmonics import harmonic_basis, harmonic_degree
    from structwm.geometry.mesh import Mesh
    from structwm.geometry.mesh_sampling import face_areas, interior_points, mesh_parts, mesh_volume, sample_surface, thin_points
    from structwm.geometry.neighbors import Neighbors, knn, mean_neighbor_distance, radius_search
    from structwm.geometry.object_skinning import object_skin
    from structwm.geometry.rotations import (
        align_quaternions,
        invert_motion,
        matrix_to_quaternion,
        motion_matrix,
        nearest_rotation,
        normalize_quaternion,
        quaternion_conjugate,
        quaternion_multiply,
        quaternion_rotate,
        quaternion_to_matrix,
        quaternion_to_rotation_vector,
        rotation_vector_to_quaternion,
        slerp,
        to_body,
        to_world,
    )
    from structwm.geometry.set_distances import chamfer, emd, hausdorff
    from structwm.geometry.signed_distance import (
        Box,
        Capsule,
        Cylinder,
        Ellipsoid,
        HalfSpace,
        MeshQuery,
        MeshSolid,
        Solid,
        Sphere,
        Union,
        mesh_signed_distance,
    )
    from structwm.geometry.skinning import Skin, bake_deformations, node_rotations, skin_points, skin_splats, skinning_weights
    from structwm.geometry.soft_mesh import SoftMesh
    from structwm.geometry.splat_motion import harmonic_rotation, place_splats
    from structwm.geometry.spring_graph import graph_distances, graph_pieces, spring_edges
    from structwm.geometry.tracking_errors import track_error, visible_chamfer

_HOME = {
    "chain_places": "chain_skinning",
    "chain_rotations": "chain_skinning",
    "chain_skin": "chain_skinning",
    "face_areas": "mesh_sampling",
    "interior_points": "mesh_sampling",
    "mesh_parts": "mesh_sampling",
    "mesh_volume": "mesh_sampling",
    "sample_surface": "mesh_sampling",
    "thin_points": "mesh_sampling",
    "graph_distances": "spring_graph",
    "graph_pieces": "spring_graph",
    "spring_edges": "spring_graph",
    "Box": "signed_distance",
    "Camera": "camera",
    "Capsule": "signed_distance",
    "Cylinder": "signed_distance",
    "Ellipsoid": "signed_distance",
    "HalfSpace": "signed_distance",
    "Mesh": "mesh",
    "MeshQuery": "signed_distance",
    "MeshSolid": "signed_distance",
    "Neighbors": "neighbors",
    "Skin": "skinning",
    "SoftMesh": "soft_mesh",
    "Solid": "signed_distance",
    "Sphere": "signed_distance",
    "Union": "signed_distance",
    "align_quaternions": "rotations",
    "chamfer": "set_distances",
    "emd": "set_distances",
    "harmonic_basis": "harmonics",
    "harmonic_degree": "harmonics",
    "harmonic_rotation": "splat_motion",
    "hausdorff": "set_distances",
    "invert_motion": "rotations",
    "knn": "neighbors",
    "matrix_to_quaternion": "rotations",
    "mean_neighbor_distance": "neighbors",
    "mesh_signed_distance": "signed_distance",
    "motion_matrix": "rotations",
    "nearest_rotation": "rotations",
    "bake_deformations": "skinning",
    "node_rotations": "skinning",
    "normalize_quaternion": "rotations",
    "object_skin": "object_skinning",
    "place_splats": "splat_motion",
    "quaternion_conjugate": "rotations",
    "quaternion_multiply": "rotations",
    "quaternion_rotate": "rotations",
    "quaternion_to_matrix": "rotations",
    "quaternion_to_rotation_vector": "rotations",
    "radius_search": "neighbors",
    "rotation_vector_to_quaternion": "rotations",
    "skin_points": "skinning",
    "skin_splats": "skinning",
    "skinning_weights": "skinning",
    "slerp": "rotations",
    "to_body": "rotations",
    "to_world": "rotations",
    "track_error": "tracking_errors",
    "visible_chamfer": "tracking_errors",
}

__all__ = [
    "Box",
    "Camera",
    "Capsule",
    "Cylinder",
    "Ellipsoid",
    "HalfSpace",
    "Mesh",
    "MeshQuery",
    "MeshSolid",
    "Neighbors",
    "Skin",
    "SoftMesh",
    "Solid",
    "Sphere",
    "Union",
    "align_quaternions",
    "bake_deformations",
    "chain_places",
    "chain_rotations",
    "chain_skin",
    "chamfer",
    "emd",
    "face_areas",
    "graph_distances",
    "graph_pieces",
    "harmonic_basis",
    "harmonic_degree",
    "harmonic_rotation",
    "hausdorff",
    "interior_points",
    "invert_motion",
    "knn",
    "matrix_to_quaternion",
    "mean_neighbor_distance",
    "mesh_parts",
    "mesh_signed_distance",
    "mesh_volume",
    "motion_matrix",
    "nearest_rotation",
    "node_rotations",
    "normalize_quaternion",
    "object_skin",
    "place_splats",
    "quaternion_conjugate",
    "quaternion_multiply",
    "quaternion_rotate",
    "quaternion_to_matrix",
    "quaternion_to_rotation_vector",
    "radius_search",
    "rotation_vector_to_quaternion",
    "sample_surface",
    "skin_points",
    "skin_splats",
    "skinning_weights",
    "slerp",
    "spring_edges",
    "thin_points",
    "to_body",
    "to_world",
    "track_error",
    "visible_chamfer",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
