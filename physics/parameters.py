"""Named, bounded, unit-bearing parameters, and the unconstrained space in which they are fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """One physical parameter of a twin.

    It is fitted as `z`, an unconstrained number: the logit of the value's position between its bounds, measured on a linear or a logarithmic scale. Any `z`
    is a legal value, so bounds need no handling in the search.

    Raises:
        ValueError: if the default does not lie strictly between the bounds, or a logarithmic scale has a bound that is not positive.
    """

    name: str
    unit: str  # SI, "-" for none
    default: float
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"  # log: for positive values whose magnitude is unknown
    spread: float | None = None  # standard deviation expected among objects, in the unit (log: of the logarithm); None: no prior
    help: str = ""
    detail: bool = False  # one of many that refine what the others give: random draws leave it where the prior has it, and steps downhill find it

    def __post_init__(self) -> None:
        if not self.low < self.default < self.high:
            raise ValueError(f"{self.name} needs low < default < high, got {self.low}, {self.default}, {self.high} {self.unit}.")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"{self.name} has a logarithmic scale, so its lower bound must be positive, got {self.low} {self.unit}.")

    def _position(self, value: Tensor) -> Tensor:
        if self.scale == "log":
            low, high = torch.tensor(self.low).double().log(), torch.tensor(self.high).double().log()
            return (value.log() - low.to(value)) / (high - low).to(value)
        return (value - self.low) / (self.high - self.low)

    def unconstrained(self, value: Tensor | float) -> Tensor:
        """z of a value strictly inside the bounds."""
        return self._position(torch.as_tensor(value, dtype=torch.float64)).clamp(1e-9, 1 - 1e-9).logit()

    def constrained(self, z: Tensor) -> Tensor:
        """The value of z, in the unit."""
        position = z.sigmoid()
        if self.scale == "log":
            low, high = torch.tensor(self.low, dtype=z.dtype).log(), torch.tensor(self.high, dtype=z.dtype).log()
            return (low + position * (high - low)).exp()
        return self.low + position * (self.high - self.low)

    @property
    def z_spread(self) -> float:
        """`spread` as a standard deviation of z around the default; without one, wide enough to leave the whole range open."""
        if self.spread is None:
            return 10.0
        step = self.default * float(torch.tensor(self.spread).exp()) if self.scale == "log" else self.default + self.spread
        back = self.default / float(torch.tensor(self.spread).exp()) if self.scale == "log" else self.default - self.spread
        step, back = min(step, self.high), max(back, self.low)
        tangent = self.unconstrained(self.default + 1e-4 * (step - self.default)) - self.unconstrained(self.default + 1e-4 * (back - self.default))
        return float(tangent) / 2e-4

    def check(self, value: Tensor) -> None:
        """Refuse a value that is not finite or lies outside the bounds.

        Raises:
            ValueError: names the parameter, its bounds and unit, and the value.
        """
        inside = (value >= self.low) & (value <= self.high)
        if not bool(inside.all()):
            worst = float(value.reshape(-1)[int((~inside).reshape(-1).nonzero()[0])])
            raise ValueError(f"{self.name} must lie in [{self.low:g}, {self.high:g}] {self.unit}, got {worst:g}.")


class ParameterSpace:
    """An ordered choice of parameters and the map between their values and z (*P, n)."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.names = tuple(parameter.name for parameter in parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def pack(self, values: Mapping[str, Tensor | float]) -> Tensor:
        """z (*P, n), float64, of values by name."""
        columns = torch.broadcast_tensors(*(p.unconstrained(values[p.name]) for p in self.parameters))
        return torch.stack(columns, dim=-1)

    def unpack(self, z: Tensor) -> dict[str, Tensor]:
        """Values (*P) by name of z (*P, n)."""
        return {p.name: p.constrained(column) for p, column in zip(self.parameters, z.unbind(-1), strict=True)}

    @property
    def coarse(self) -> list[int]:
        """Which a random search draws: all but details, or all where there is nothing else."""
        return [k for k, parameter in enumerate(self.parameters) if not parameter.detail] or list(range(len(self)))

    @property
    def default(self) -> Tensor:
        """z (n,) of the defaults."""
        return torch.stack([p.unconstrained(p.default) for p in self.parameters])

    @property
    def spread(self) -> Tensor:
        """Prior standard deviation of z, (n,)."""
        return torch.tensor([p.z_spread for p in self.parameters], dtype=torch.float64)
