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
    from .bullet_tabletop import BulletTabletop as BulletTabletop
    from .mujoco_pushing import MujocoPushing as MujocoPushing
    from .mujoco_tabletop import MujocoTabletop as MujocoTabletop
    from .pushing import PlanarPushing as PlanarPushing
    from .pushing import Pushes as Pushes
    from .pushing import PushingConfig as PushingConfig
    from .pushing import record_pushes as record_pushes
    from .soft_recording import Sensing as Sensing
    from .soft_recording import SoftRecording as SoftRecording
    from .soft_recording import observe as observe
    from .soft_scenarios import record_soft as record_soft
    from .tabletop import Tabletop as Tabletop
    from .tabletop import make_tabletop as make_tabletop
    from .tabletop_config import Box as Box
    from .tabletop_config import Chain as Chain
    from .tabletop_config import CylinderPusher as CylinderPusher
    from .tabletop_config import PlatePusher as PlatePusher
    from .tabletop_config import SpherePusher as SpherePusher
    from .tabletop_config import TabletopConfig as TabletopConfig
    from .tabletop_episodes import SoftPush as SoftPush
    from .tabletop_episodes import TabletopEpisodes as TabletopEpisodes
    from .tabletop_points import cloud_recording as cloud_recording
    from .tabletop_points import table_observation as table_observation
    from .tabletop_points import table_tracker as table_tracker
    from .tabletop_policy import PushPolicy as PushPolicy
    from .tabletop_policy import push_policy as push_policy
    from .tabletop_recording import record_tabletop as record_tabletop
    from .tabletop_recording import sample_config as sample_config
    from .tabletop_soft import record_soft_pushes as record_soft_pushes
    from .tabletop_soft import sample_soft as sample_soft

_HOME = {
    "Box": "tabletop_config",
    "BulletPushing": "bullet_pushing",
    "BulletSoft": "bullet_soft",
    "BulletTabletop": "bullet_tabletop",
    "Chain": "tabletop_config",
    "CylinderPusher": "tabletop_config",
    "MujocoPushing": "mujoco_pushing",
    "MujocoTabletop": "mujoco_tabletop",
    "PlanarPushing": "pushing",
    "PlatePusher": "tabletop_config",
    "PushPolicy": "tabletop_policy",
    "Pushes": "pushing",
    "PushingConfig": "pushing",
    "Sensing": "soft_recording",
    "SoftConfig": "bullet_soft",
    "SoftPush": "tabletop_episodes",
    "SoftRecording": "soft_recording",
    "SpherePusher": "tabletop_config",
    "Tabletop": "tabletop",
    "TabletopConfig": "tabletop_config",
    "TabletopEpisodes": "tabletop_episodes",
    "cloud_recording": "tabletop_points",
    "make_tabletop": "tabletop",
    "observe": "soft_recording",
    "push_policy": "tabletop_policy",
    "record_pushes": "pushing",
    "record_soft": "soft_scenarios",
    "record_soft_pushes": "tabletop_soft",
    "record_tabletop": "tabletop_recording",
    "sample_config": "tabletop_recording",
    "sample_soft": "tabletop_soft",
    "table_observation": "tabletop_points",
    "table_tracker": "tabletop_points",
}
_ENGINES = {"bullet": ("BulletPushing", "pybullet"), "mujoco": ("MujocoPushing", "mujoco")}

__all__ = [
    "Box",
    "BulletPushing",
    "BulletSoft",
    "BulletTabletop",
    "Chain",
    "CylinderPusher",
    "MujocoPushing",
    "MujocoTabletop",
    "PlanarPushing",
    "PlatePusher",
    "PushPolicy",
    "Pushes",
    "PushingConfig",
    "Sensing",
    "SoftConfig",
    "SoftPush",
    "SoftRecording",
    "SpherePusher",
    "Tabletop",
    "TabletopConfig",
    "TabletopEpisodes",
    "cloud_recording",
    "make",
    "make_tabletop",
    "observe",
    "push_policy",
    "record_pushes",
    "record_soft",
    "record_soft_pushes",
    "record_tabletop",
    "sample_config",
    "sample_soft",
    "table_observation",
    "table_tracker",
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
