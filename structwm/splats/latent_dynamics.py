"""`SplatLatentDynamics`: how the tokens of a splat scene change under actions.

As in GWM (Lu et al., ICCV 2025) dynamics are learned where splats are few numbers, under actions, by attention over the latent set; here in one deterministic
step, not by diffusion, and each token also moves in metres.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from structwm.noise import Noise
from structwm.scene import Scene
from structwm.spec import Action, ActionSpec, ModelSpec
from structwm.state import Points, Splats, State
from structwm.training.windows import Batch
from structwm.transition import TransitionModel

from .encoder import SplatEncoder, SplatLatents
from .set_attention import Pairs, SetBlock

LEAST = 1e-6  # unit of motions that data never show [m]


class SplatLatentState(State):
    """A splat scene as tokens, beside the points of the robot that acts on it."""

    tokens: Tensor  # (*B, L, D)
    centres: Tensor  # (*B, L, 3) [m]
    present: Tensor  # bool (*B, L), False for tokens that are not there
    robot: Tensor  # (*B, M, 3) [m]


class SplatLatentScene(Scene):
    """Reads tokens by decoding them: `splats`; `points`, the means of those; `embedding`, all tokens and places in units of length, in the order of tokens;
    `coordinates`, the places of tokens [m].

    Args:
        encoder: decodes.
    """

    def __init__(self, encoder: SplatEncoder) -> None:
        names = [f"{axis}{number}" for number in range(encoder.tokens) for axis in "xyz"]
        super().__init__(coordinate_names=names, coordinate_units=["m"] * len(names))
        self.encoder = encoder

    def config(self) -> dict[str, Any]:
        return {"encoder": self.encoder}

    def coordinates(self, state: SplatLatentState) -> Tensor:
        return state.centres.flatten(-2)

    def splats(self, state: SplatLatentState) -> Splats:
        return self.encoder.decode_tokens(state.tokens, state.centres, state.present)

    def points(self, state: SplatLatentState) -> Points:
        found = self.splats(state)
        return Points(positions=found.means, mask=found.mask, batch_size=found.batch_size)

    def embedding(self, state: SplatLatentState) -> Tensor:
        parts = torch.cat((state.tokens, state.centres / self.encoder.length), -1)
        return (parts * state.present.unsqueeze(-1)).flatten(-2)


class SplatLatentDynamics(TransitionModel[SplatLatentState]):
    """Predicts tokens and their places from the motion of the robot's points, or from actions of any box.

    A step is `centre' = centre + scale * network`, `token' = token + scale * network`, with scales read from data (`fit_scales`); the network is a transformer
    in which tokens attend to each other and to the robot's points. It sees differences of places only. A token that is not there stays so.

    Args:
        encoder: frozen; makes states (`state`, `latent_windows`) and decodes them.
        robot_points: M, points of the robot that are in the state.
        dt: duration of a step [s].
        action: what actions mean, a box; None: the motion of each of the robot's points over the step, (*B, 3 M) [m]. With other actions M is 0.
        width: numbers inside the network, a multiple of `heads`.
        layers: of attention.
        heads: of attention.

    Raises:
        ValueError: if there is nothing to act with, or robot points beside other actions.
    """

    move: Tensor
    change: Tensor
    push: Tensor

    def __init__(
        self,
        encoder: SplatEncoder,
        *,
        robot_points: int = 0,
        dt: float,
        action: ActionSpec | None = None,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if (action is None) != (robot_points > 0) or layers < 1 or (action is not None and action.kind != "continuous"):
            raise ValueError(
                f"SplatLatentDynamics needs layers of at least 1, and either robot_points above 0 or a box of other actions, got {layers}, {robot_points} and "
                f"{action}."
            )
        self.encoder = encoder.requires_grad_(False).eval()
        self.robot_points, self.dt, self.action, self.width, self.layers, self.heads = robot_points, dt, action, width, layers, heads
        self.spec = ModelSpec(SplatLatentState, action or robot_motion(robot_points), dt)
        self.scene: SplatLatentScene = SplatLatentScene(encoder)
        self.seen = nn.Linear(encoder.size, width)
        self.acting = nn.Linear(3 if action is None else action.size, width)
        self.blocks = nn.ModuleList(SetBlock(width, heads) for _ in range(layers))
        last = nn.Linear(width, encoder.size + 3)
        with torch.no_grad():  # an untrained model all but holds still
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), last)
        for key, number in (("move", 0.005), ("change", 0.1), ("push", 0.01 if action is None else 1.0)):
            self.register_buffer(key, torch.tensor(number))

    def config(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("encoder", "robot_points", "dt", "action", "width", "layers", "heads")}

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def fit_scales(self, windows: Batch) -> None:
        """Take the units of motions, changes and actions from windows."""
        states: SplatLatentState = windows.states
        both = states.present & windows.valid[..., None]
        both = both[:, 1:] & both[:, :-1]
        for key, values in (("move", states.centres.diff(dim=1)[both]), ("change", states.tokens.diff(dim=1)[both]), ("push", windows.actions)):
            if values.numel():
                getattr(self, key).copy_(values.square().mean().sqrt().clamp_min(LEAST))

    def state(self, splats: Splats, robot: Tensor | None = None, *, previous: SplatLatents | None = None) -> SplatLatentState:
        """The state (*B) of splats (*B) and the robot's points (*B, M, 3) [m], without gradients.

        Args:
            splats: of the scene, without the robot's.
            robot: not for models of other actions.
            previous: tokens of the instant before, as of `SplatEncoder.encode`.

        Raises:
            ValueError: if the robot's points are not those expected, and as `SplatEncoder.encode`.
        """
        with torch.no_grad():
            return self.joined(self.encoder.encode(splats, previous=previous), robot)

    def joined(self, latents: SplatLatents, robot: Tensor | None = None) -> SplatLatentState:
        """The state (*B) of tokens (*B) and the robot's points (*B, M, 3) [m]."""
        batch = latents.batch_size
        if robot is None:
            robot = latents.centres.new_zeros(*batch, 0, 3)
        if tuple(robot.shape) != (*batch, self.robot_points, 3) or not bool(robot.isfinite().all()):
            raise ValueError(f"SplatLatentDynamics: expected finite points of the robot {(*batch, self.robot_points, 3)}, got {tuple(robot.shape)}.")
        return SplatLatentState(tokens=latents.tokens, centres=latents.centres, present=latents.mask, robot=robot, batch_size=batch)

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        assert isinstance(action, Tensor)
        batch = fields["present"].shape[:-1]
        tokens, centres, robot = (fields[key].reshape(batch.numel(), -1, fields[key].shape[-1]) for key in ("tokens", "centres", "robot"))
        present, given = fields["present"].reshape(batch.numel(), -1), action.reshape(batch.numel(), -1)
        x, senders = self.seen(tokens), centres.new_zeros(len(centres), 0, self.width)
        if self.action is None:
            motion = given.unflatten(-1, (self.robot_points, 3))
            senders = self.acting(motion / self.push)
            robot = robot + motion
        else:
            x = x + self.acting(given / self.push).unsqueeze(1)
        mask = torch.cat((present, present.new_ones(senders.shape[:2])), 1)
        pairs = Pairs.of(centres, torch.cat((centres, robot), 1), mask, self.encoder.length)
        for block in self.blocks:
            x = block(x, torch.cat((x, senders), 1), pairs)
        raw = self.out(x) * present.unsqueeze(-1)
        return {
            "tokens": (tokens + self.change * raw[..., 3:]).view_as(fields["tokens"]),
            "centres": (centres + self.move * raw[..., :3]).view_as(fields["centres"]),
            "present": fields["present"].clone(),
            "robot": robot.reshape(fields["robot"].shape) if self.action is None else fields["robot"].clone(),
        }


def robot_motion(points: int) -> ActionSpec:
    """The motion of each of the robot's points over a step, (3 M) [m]."""
    names = tuple(f"d{axis}{number}" for number in range(points) for axis in "xyz")
    size = [float("inf")] * (3 * points)
    return ActionSpec.box([-bound for bound in size], size, names=names, units=("m",) * len(size), convention="delta")
