"""Warp kernels that run on CPU and CUDA from one source. `python -m structwm.kernels.build` compiles them once."""

import warp as _warp

_warp.config.log_level = _warp.LOG_WARNING
_warp.init()
