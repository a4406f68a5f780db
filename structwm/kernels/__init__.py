"""Warp kernels that run on CPU and CUDA from one source. `python -m structwm.kernels.build` compiles them once."""
