"""Push proposals: whole pushes, from where the pusher is, for sampling planners to start from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.planar import rotate, wrap_angle
from structwm.noise import Noise

from .pushing import PushState, PushTwin

ARC_POINTS = 9


@dataclass(frozen=True)
class PushProposals:
    """Draws complete pushes: around the slider to a random point of its boundary, straight on in a random direction, at a random speed, for a random distance,
    then rest.

    Noise on single actions hardly ever leads a pusher around a slider to its other side; these sequences do, and a sampling planner refines the best of them.
    """

    twin: PushTwin  # whose slider is pushed
    horizon: int = 40  # steps of a sequence
    count: int = 64  # P, sequences per problem
    clearance: float = 0.01  # between pusher and slider on the way around [m]
    max_angle: float = 0.6  # between push direction and inward normal [rad]
    max_push: float = 0.08  # longest push after contact [m]
    min_speed: float = 0.2  # slowest push, as a fraction of the speed limit

    def __call__(self, state: PushState, noise: Noise) -> Tensor:
        """Action sequences (B, P, H, 2) [m/s] for states (B,)."""
        spec, dt = self.twin.spec.action, self.twin.spec.dt
        assert dt is not None
        speed = float(spec.high.min())
        problems, pose = state.pose.shape[0], state.pose
        pusher = rotate(state.pusher - pose[:, :2], -pose[:, 2])  # in the slider's frame
        contact, inward, depth, pace = self._pushes(noise, problems, pose)
        radius = self.twin.pusher_radius
        away = rotate(contact.new_tensor([1.0, 0.0]).expand_as(contact), torch.atan2(-inward[..., 1], -inward[..., 0]))
        ready = contact + (radius + self.clearance) * away
        path = self._path(pusher, ready, contact + (radius - depth.unsqueeze(-1)) * away, radius)
        times = torch.arange(self.horizon + 1, device=pose.device, dtype=pose.dtype) * dt
        places = _walk(path, speed, pace * speed, times)
        places = rotate(places, pose[:, None, None, 2].expand(places.shape[:-1]))
        return spec.project(places.diff(dim=-2) / dt)

    def _pushes(self, noise: Noise, problems: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Contact points (B, P, 2), push directions (B, P, 2), depths (B, P) [m] and fractions of the speed limit (B, P), in the slider's frame."""
        boundary = torch.from_numpy(self.twin.shape.boundary(360)).to(like)
        normals = self.twin.shape.nearest(boundary * 1.0005).normal
        u = noise.uniform((problems, self.count, 4), like=like)
        index = (u[..., 0] * len(boundary)).long().clamp_max(len(boundary) - 1)
        inward = rotate(-normals[index], (2 * u[..., 1] - 1) * self.max_angle)
        depth = u[..., 2].square() * self.max_push  # short pushes are drawn more often: they finish the work
        return boundary[index], inward, depth, self.min_speed + (1 - self.min_speed) * u[..., 3]

    def _path(self, pusher: Tensor, ready: Tensor, end: Tensor, radius: float) -> Tensor:
        """Corner points (B, P, n, 2) of the way: out to a circle around the slider, along it, in to `ready`, on to `end`."""
        reach = float(torch.from_numpy(self.twin.shape.boundary(360)).norm(dim=-1).max()) + radius + self.clearance
        here = pusher[:, None].expand_as(ready)
        start, goal = torch.atan2(here[..., 1], here[..., 0]), torch.atan2(ready[..., 1], ready[..., 0])
        turn = wrap_angle(goal - start)
        angle = start.unsqueeze(-1) + turn.unsqueeze(-1) * torch.linspace(0, 1, ARC_POINTS, device=ready.device, dtype=ready.dtype)
        arc = reach * torch.stack((angle.cos(), angle.sin()), -1)
        close = (here - ready).norm(dim=-1) < 2 * self.clearance
        arc = torch.where(close[..., None, None], here.unsqueeze(-2), arc)
        return torch.cat((here.unsqueeze(-2), arc, ready.unsqueeze(-2), end.unsqueeze(-2)), -2)


def _walk(path: Tensor, speed: float, last_speed: Tensor, times: Tensor) -> Tensor:
    """Places (*B, T, 2) at times (T,) [s] along a path (*B, n, 2), the last leg at its own speed (*B) [m/s]; at the end it rests."""
    lengths = path.diff(dim=-2).norm(dim=-1)
    durations = torch.cat((lengths[..., :-1] / speed, lengths[..., -1:] / last_speed.unsqueeze(-1)), -1)
    reached = torch.cat((torch.zeros_like(durations[..., :1]), durations.cumsum(-1)), -1)
    moments = times.expand(*reached.shape[:-1], -1).contiguous()
    leg = (torch.searchsorted(reached, moments, right=True) - 1).clamp(0, path.shape[-2] - 2)
    share = ((moments - reached.gather(-1, leg)) / durations.gather(-1, leg).clamp_min(1e-9)).clamp(0, 1).unsqueeze(-1)
    wide = leg.unsqueeze(-1).expand(*leg.shape, 2)
    before, after = path.gather(-2, wide), path.gather(-2, wide + 1)
    return before + share * (after - before)
