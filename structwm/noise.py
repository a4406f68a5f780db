"""Random numbers keyed by problem seed, step and draw: the same key gives the same numbers, whatever else is computed beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def problem_seeds(seed: int | Tensor, problems: int) -> Tensor:
    """Seeds of B problems, int64 (B,): an int means `seed + arange(B)`, a tensor is taken as it is.

    Raises:
        ValueError: if a tensor does not have shape (B,).
    """
    if isinstance(seed, Tensor):
        if seed.shape != (problems,):
            raise ValueError(f"seed must be an int or int64 of shape ({problems},), got shape {tuple(seed.shape)}.")
        return seed.to(dtype=torch.int64, device="cpu")
    return _counted(seed, problems)


@lru_cache(maxsize=64)
def _counted(first: int, count: int) -> Tensor:
    """int64 (count,) from `first` on; kept, so never to be written to."""
    with torch.inference_mode(False):
        return torch.arange(first, first + count, dtype=torch.int64)


def _mix(key: int, word: int) -> int:
    """One absorb-and-finalise round of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (key + 0x9E3779B97F4A7C15 * (word + 1)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


@dataclass(frozen=True)
class Noise:
    """A stateless source of random numbers for B problems.

    Numbers are a function of the key (problem seed, `step`, `draw`) and of the shape asked for *within one problem*, never of what was drawn before or of the
    other problems: B problems together get what each gets alone. Each problem's block comes from a torch generator seeded with the hashed key; it is drawn once
    where all problems have the same seed.

    Axis 0 of every shape is the problem axis B. The axes in `common` are drawn once and broadcast: planners share the model's noise between the S candidates
    (common random numbers), which makes their ranking less noisy and does not depend on how candidates are split into chunks.
    """

    seeds: Tensor  # int64 (B,)
    step: int = 0  # time step within a rollout, or the index of a plan
    draw: int = 0  # separates draws made at the same step
    common: tuple[int, ...] = ()  # axes over which numbers are shared

    @classmethod
    def from_seed(cls, seed: int | Tensor, problems: int, *, step: int = 0, draw: int = 0) -> Noise:
        """Noise for B problems from an int or int64 (B,)."""
        return cls(problem_seeds(seed, problems), step=step, draw=draw)

    def at(self, step: int) -> Noise:
        """The same source at another step."""
        return Noise(self.seeds, step, self.draw, self.common)

    def stream(self, draw: int) -> Noise:
        """The same source for another draw at the same step."""
        return Noise(self.seeds, self.step, draw, self.common)

    def child(self, index: int) -> Noise:
        """An independent source, for one of several consumers at the same step and draw."""
        seeds = torch.tensor([_signed(_mix(_mix(1, seed & _MASK), index)) for seed in self.seeds.tolist()], dtype=torch.int64)
        return replace(self, seeds=seeds)

    def sharing(self, *axes: int) -> Noise:
        """The same source with numbers shared over these axes."""
        return replace(self, common=axes)

    def normal(self, shape: Sequence[int], *, like: Tensor | None = None) -> Tensor:
        """Standard normal numbers of `shape` (B, ...), on the device and of the type of `like`."""
        return self._draw(shape, like, lambda block, generator: block.normal_(generator=generator))

    def uniform(self, shape: Sequence[int], *, like: Tensor | None = None) -> Tensor:
        """Uniform numbers in [0, 1) of `shape` (B, ...), on the device and of the type of `like`."""
        return self._draw(shape, like, lambda block, generator: block.uniform_(generator=generator))

    def _draw(self, shape: Sequence[int], like: Tensor | None, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        if len(shape) == 0 or shape[0] != self.seeds.shape[0]:
            raise ValueError(f"Noise for {self.seeds.shape[0]} problems needs them on axis 0, got shape {tuple(shape)}.")
        device = like.device if like is not None else torch.device("cpu")
        dtype = like.dtype if like is not None else torch.float32
        seeds: list[int] = self.seeds.tolist()
        if len(set(seeds)) == 1:
            del seeds[1:]  # problems of one seed share their numbers
        own = [1 if axis in self.common else size for axis, size in enumerate(shape)]
        own[0] = len(seeds)
        numbers = torch.empty(own, device=device, dtype=dtype)
        generator = torch.Generator(device=device)
        for block, seed in zip(numbers.unbind(), seeds, strict=True):
            generator.manual_seed(_mix(_mix(_mix(0, seed & _MASK), self.step), self.draw))
            fill(block, generator)
        return numbers.expand(*shape)
