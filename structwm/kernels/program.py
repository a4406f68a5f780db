"""What stays the same of a thing that kernels roll out, as the structs that they take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Program(ABC):
    """Arrays of a thing, and of these a struct for each type of number and device, made when first asked for. Copies and pickles start without."""

    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def model(self, scalar: Any, device: Any) -> Any:
        """The struct that kernels take, on a device."""
        key = (scalar, str(device))
        if key not in self._kept:
            self._kept[key] = self._make(scalar, device)
        return self._kept[key]

    @abstractmethod
    def _make(self, scalar: Any, device: Any) -> Any:
        """A new struct."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}
