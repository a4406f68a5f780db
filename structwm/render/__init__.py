"""Pictures of scenes through cameras. `render` draws Gaussian splats on CPU and CUDA, differentiably."""

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.render.job import Drawn, SplatJob
    from structwm.render.mesh_views import MeshImages, MeshViews
    from structwm.render.recorded import RecordedBackend
    from structwm.render.rendering import Rendering, render
    from structwm.render.scenes import splats_from_points, stack_scenes, take_splats

_HOME = {
    "Drawn": "job",
    "MeshImages": "mesh_views",
    "MeshViews": "mesh_views",
    "RecordedBackend": "recorded",
    "Rendering": "rendering",
    "SplatJob": "job",
    "render": "rendering",
    "splats_from_points": "scenes",
    "stack_scenes": "scenes",
    "take_splats": "scenes",
}

__all__ = [
    "Drawn",
    "MeshImages",
    "MeshViews",
    "RecordedBackend",
    "Rendering",
    "SplatJob",
    "render",
    "splats_from_points",
    "stack_scenes",
    "take_splats",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
