"""Pictures of scenes through cameras. `render` draws Gaussian splats on CPU and CUDA, differentiably."""

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.render.rendering import Camera, Rendering, render

__all__ = ["Camera", "Rendering", "render"]
__getattr__, __dir__ = lazy_exports("structwm.render", {"Camera": "rendering", "Rendering": "rendering", "render": "rendering"})
