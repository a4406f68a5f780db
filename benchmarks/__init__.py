"""Benchmarks: `python -m benchmarks.NAME` measures the claims that the README and the issues name; `--quick` takes less data."""
