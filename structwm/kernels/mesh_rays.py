"""Where rays first meet a triangle mesh."""

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.kernel
def cast_rays(
    first: int,
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),  # (R) [m]
    directions: wp.array(dtype=wp.vec3),  # (R) of length one
    distances: wp.array(dtype=float),  # (R) [m], infinite where nothing is met
    faces: wp.array(dtype=wp.int32),  # (R), -1 where nothing is met
    weights: wp.array(dtype=wp.vec3),  # (R) of the face's corners
):
    """The first place of the mesh on each ray, seen from whichever side."""
    i = first + wp.tid()
    hit = wp.mesh_query_ray(mesh, origins[i], directions[i], 1.0e6)
    if hit.result:
        distances[i] = hit.t
        faces[i] = hit.face
        weights[i] = wp.vec3(hit.u, hit.v, 1.0 - hit.u - hit.v)
    else:
        distances[i] = wp.inf
        faces[i] = -1
        weights[i] = wp.vec3(0.0, 0.0, 0.0)
