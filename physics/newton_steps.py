"""Newton's engines step by step: the commands of a step recorded into a graph where that is possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RecordedSteps(ABC):
    """A subclass sets `wp`, and `views` with a state's arrays by the names in `state_views`, and says what the commands of a step are."""

    wp: Any
    views: dict[str, NDArray[np.float32]]
    state_views: tuple[str, str]  # names of places and velocities
    graph: Any = None
    recordable = True

    @abstractmethod
    def start(self, places: Any, velocities: Any) -> None:
        """Set the state."""

    @abstractmethod
    def _commands(self) -> None:
        """Give the commands of a step."""

    def advance(self) -> None:
        """Take a step."""
        with self.wp.ScopedDevice("cpu"):
            if self.graph is None and self.recordable:
                self._record()
            if self.graph is not None:
                self.wp.capture_launch(self.graph)
            else:
                self._commands()

    def _record(self) -> None:
        """Capture the commands of one step; where that fails they are given one by one."""
        state = tuple(self.views[name].copy() for name in self.state_views)
        self._commands()  # compiles what is not compiled yet
        self.start(*state)
        try:
            with self.wp.ScopedCapture(device="cpu") as capture:
                self._commands()
            self.graph = capture.graph
        except Exception:  # an older driver, or an allocation that cannot be recorded
            self.recordable = False
        self.start(*state)
