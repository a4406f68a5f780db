"""A learned transition model for any state: a network predicts how each field changes, in normalised units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from structwm.geometry.planar import wrap_angle
from structwm.noise import Noise
from structwm.scene import Scene
from structwm.spec import Action, ModelSpec, Traits
from structwm.state import State, fields_of
from structwm.transition import TransitionModel

from .heads import HEADS, Head, MixtureHead
from .statistics import Statistics
from .windows import Batch

S = TypeVar("S", bound=State)


class DeltaModel(TransitionModel[S]):
    """`next[f] = f + scale[f] * network(fields, action)[f]`: predicting the change is easier than the state where a step changes it little.

    Fields enter the network less their mean over standard deviation, angles as sine and cosine; `fit_scales` reads these from data. Without noise the
    prediction is the head's mean; with noise and a Gaussian or mixture head it is a draw.

    Args:
        spec: of the model to be; continuous or discrete actions, one member.
        scene: of its states.
        sizes: by floating-point field, its shape behind the batch axes.
        hidden: units of each hidden layer; more fit finer and need more data.
        head: `mean`, `gaussian` (a spread for every input), or `mixture` (several outcomes).
        components: of a mixture.
        angles: names of fields that hold angles [rad].
        unread: names of fields that the network does not see, such as a position the motion does not depend on.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self,
        spec: ModelSpec,
        scene: Scene,
        sizes: Mapping[str, Sequence[int]],
        *,
        hidden: Sequence[int] = (128, 128),
        head: Literal["mean", "gaussian", "mixture"] = "mean",
        components: int = 4,
        angles: Sequence[str] = (),
        unread: Sequence[str] = (),
    ) -> None:
        super().__init__()
        unknown = sorted({*angles, *unread} - set(sizes))
        if unknown or spec.action.kind == "hybrid" or spec.members != 1:
            reason = f"has no field {unknown[0]!r}; it has {', '.join(sizes)}" if unknown else "takes continuous or discrete actions and one member"
            raise ValueError(f"DeltaModel {reason}.")
        self.sizes = {name: tuple(int(n) for n in shape) for name, shape in sizes.items()}
        self.hidden, self.head_name, self.components = tuple(hidden), head, components
        self.angles, self.unread = tuple(angles), tuple(unread)
        counts = {name: int(torch.Size(shape).numel()) for name, shape in self.sizes.items()}
        total = sum(counts.values())
        if head not in HEADS:
            raise ValueError(f"DeltaModel knows the heads {', '.join(HEADS)}, got {head!r}.")
        self.head: Head = MixtureHead(total, components=components) if head == "mixture" else HEADS[head](total)
        read = sum(count * (2 if name in self.angles else 1) for name, count in counts.items() if name not in self.unread)
        widths = [read + (spec.action.size or spec.action.choices), *self.hidden]
        layers = [part for a, b in zip(widths[:-1], widths[1:], strict=True) for part in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], self.head.inputs))
        self.spec = replace(spec, traits=replace(spec.traits, stochastic=self.head.stochastic, differentiable=True))
        self.scene = scene
        for name, count in counts.items():
            for part, value in (("mean", 0.0), ("std", 1.0), ("change", 0.1)):
                self.register_buffer(f"{part}_{name}", torch.full((count,), value))
        self.register_buffer("action_mean", torch.zeros(spec.action.size))
        self.register_buffer("action_std", torch.ones(spec.action.size))

    @classmethod
    def like(cls, model: TransitionModel[S], windows: Batch, **options: Any) -> DeltaModel[S]:
        """A fresh network for the states, actions and scene of another model, with scales read from windows."""
        sizes = {name: value.shape[2:] for name, value in fields_of(windows.states).items() if value.is_floating_point()}
        made: DeltaModel[S] = cls(replace(model.spec, members=1, traits=Traits()), model.scene, sizes, **options)
        made.fit_scales(windows)
        return made

    def config(self) -> dict[str, Any]:
        options = {"hidden": self.hidden, "head": self.head_name, "components": self.components, "angles": self.angles, "unread": self.unread}
        return {"spec": replace(self.spec, traits=Traits()), "scene": self.scene, "sizes": self.sizes, **options}

    def fit_scales(self, windows: Batch) -> None:
        """Take means and spreads of fields, actions and one-step changes from windows."""
        statistics = Statistics.of(windows, angles=self.angles)
        for name in self.sizes:
            for part in ("mean", "std", "change"):
                self.get_buffer(f"{part}_{name}").copy_(getattr(statistics, part)[name].flatten())
        if self.spec.action.size:
            self.action_mean.copy_(statistics.action_mean)
            self.action_std.copy_(statistics.action_std)

    def _difference(self, name: str, following: Tensor, value: Tensor) -> Tensor:
        change = following - value
        return wrap_angle(change) if name in self.angles else change

    def raw(self, fields: Mapping[str, Tensor], action: Action) -> Tensor:
        """The network's outputs (*B, inputs of the head)."""
        flat = self._flat(fields)
        parts = []
        for name, value in flat.items():
            if name in self.angles:
                parts += [value.sin(), value.cos()]
            elif name not in self.unread:
                parts.append((value - getattr(self, f"mean_{name}")) / getattr(self, f"std_{name}"))
        if self.spec.action.size:
            parts.append((action - self.action_mean) / self.action_std)
        else:
            parts.append(torch.nn.functional.one_hot(action, self.spec.action.choices).to(parts[0] if parts else torch.float32))
        raw: Tensor = self.network(torch.cat(parts, -1).to(self.action_mean.dtype))
        return raw

    def _flat(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fields with one axis behind the batch axes."""
        return {name: fields[name].unsqueeze(-1) if not shape else fields[name].flatten(-len(shape)) for name, shape in self.sizes.items()}

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        raw = self.raw(fields, action)
        change = self.head.mean(raw) if noise is None else self.head.sample(raw, noise)
        following, first = dict(fields), 0
        for name, value in self._flat(fields).items():
            last = first + value.shape[-1]
            moved = value + change[..., first:last].to(value) * getattr(self, f"change_{name}").to(value)
            following[name] = moved.reshape(fields[name].shape)
            first = last
        return following

    def log_prob(self, state: S, action: Action, next_state: S) -> Tensor:
        """Log density per number (*B) of the next state, in normalised units."""
        fields, following = self._flat(fields_of(state)), self._flat(fields_of(next_state))
        change = torch.cat([self._difference(name, following[name], value) / getattr(self, f"change_{name}") for name, value in fields.items()], -1)
        return self.head.log_prob(self.raw(fields_of(state), action), change)

    def std(self, state: S, action: Action) -> dict[str, Tensor]:
        """Standard deviation of the next state by field, shaped as the fields, in their units."""
        scales = self.head.std(self.raw(fields_of(state), action))
        spread, first = {}, 0
        for name, value in self._flat(fields_of(state)).items():
            last = first + value.shape[-1]
            spread[name] = (scales[..., first:last] * getattr(self, f"change_{name}")).reshape(getattr(state, name).shape)
            first = last
        return spread
