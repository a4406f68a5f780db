"""Foreign engines as gymnasium environments: where data comes from and where plans are judged. No model imports them.

PyBullet and MuJoCo are optional; each loads when its world is made. Importing this package registers `structwm/PlanarPushing-Bullet-v0` and
`structwm/PlanarPushing-Mujoco-v0` with gymnasium.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from .bullet_pushing import BulletPushing as BulletPushing
    from .bullet_soft import BulletSoft as BulletSoft
    from .bullet_soft import SoftConfig as SoftConfig
    from .mujoco_pushing import MujocoPushing as MujocoPushing
    from .pushing import PlanarPushing as PlanarPushing
    from .pushing import Pushes as Pushes
    from .pushing import PushingConfig as PushingConfig
    from .pushing import record_pushes as record_pushes
    from .soft_recording import Sensing as Sensing
    from .soft_recording import SoftRecording as SoftRecording
    from .soft_recording import observe as observe
    from .soft_scenarios import record_soft as record_soft

_HOME = {
    "BulletPushing": "bullet_pushing",
    "BulletSoft": "bullet_soft",
    "MujocoPushing": "mujoco_pushing",
    "PlanarPushing": "pushing",
    "Pushes": "pushing",
    "PushingConfig": "pushing",
    "Sensing": "soft_recording",
    "SoftConfig": "bullet_soft",
    "SoftRecording": "soft_recording",
    "observe": "soft_recording",
    "record_pushes": "pushing",
    "record_soft": "soft_scenarios",
}
_ENGINES = {"bullet": ("BulletPushing", "pybullet"), "mujoco": ("MujocoPushing", "mujoco")}

__all__ = [
    "BulletPushing",
    "BulletSoft",
    "MujocoPushing",
    "PlanarPushing",
    "Pushes",
    "PushingConfig",
    "Sensing",
    "SoftConfig",
    "SoftRecording",
    "make",
    "observe",
    "record_pushes",
    "record_soft",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)

for _name, _class in (("Bullet", "BulletPushing"), ("Mujoco", "MujocoPushing")):
    gymnasium.register(id=f"structwm/PlanarPushing-{_name}-v0", entry_point=f"{__name__}.{_HOME[_class]}:{_class}")


def make(engine: str, **config: Any) -> PlanarPushing:
    """A pushing world in an engine, `"bullet"` or `"mujoco"`; keywords are `config=`, `render_mode=` and fields of `PushingConfig`.

    Raises:
        ValueError: for an unknown engine.
        ImportError: if the engine is not installed.
    """
    if engine not in _ENGINES:
        raise ValueError(f"worlds are made in {' or '.join(map(repr, _ENGINES))}, got {engine!r}.")
    name, package = _ENGINES[engine]
    try:
        world = __getattr__(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"the {engine} world needs {package}, which is not installed; run `pip install {package}`.", name=package) from error
    return world(**config)  # type: ignore[no-any-return]
