"""Keypoint tracks, their models and metrics: `structwm.pointtracks`. Not built yet; the package holds the place that the contract and the floors give it."""

if not __name__.startswith("structwm."):
    raise ImportError(f"import structwm.{__name__} instead of {__name__}: as a top-level package every class would exist twice.")
