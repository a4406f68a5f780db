"""`SplatEncoder`: scenes of splats to a small set of tokens with places, and back.

The form is that of the 3-D Gaussian variational autoencoder of GWM (Lu et al., "GWM: Towards Scalable Gaussian World Models for Robotic Manipulation", ICCV
2025): queries at points far from one another attend to all splats, then to each other, and a decoder gives splats back. Unlike there, tokens are told only
differences of places, and each keeps its place in metres beside it: what a token holds does not change as its surroundings are moved. The places are middles of
groups of splats, so that they go with the splats from one instant to the next.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from structwm.geometry.rotations import normalize_quaternion, quaternion_to_matrix
from structwm.geometry.splat_checks import check_splats
from structwm.state import Splats, View

from .set_attention import WAVES, Pairs, SetBlock
from .token_places import settle_tokens, spread_tokens

FAINT = 1 / 255  # opacities up to which nothing is drawn, see `structwm.render.render`
THIN = 1e-6  # least standard deviation that is told apart [m]
SPLAT = 3 + 6 * len(WAVES) + 6 + 1 + 3  # numbers that are told of a splat
DECODED = 3 + 4 + 3 + 1 + 3  # of offset, quaternion, scales, opacity and colour


class SplatLatents(View):
    """A scene of splats as L tokens of D numbers."""

    tokens: Tensor  # (*B, L, D)
    centres: Tensor  # (*B, L, 3) [m]
    mask: Tensor  # bool (*B, L), False for tokens without splats
    colors: Tensor  # (*B, L, 3) mean of its splats, by which it finds them again
    log_variance: Tensor | None = None  # (*B, L, D) of the posterior, of which `tokens` is the mean


class SplatEncoder(nn.Module):
    """Splats to tokens and back.

    The order of splats does not matter, and masked splats and those too faint to be drawn count nothing. Harmonics and features are not told: colours are means
    over all directions. `fit_scales` reads units of length and size from data; `fit_splat_encoder` trains.

    Args:
        tokens: L, at most; a scene with fewer splats has as many.
        size: D, numbers of each token.
        splats: that a token is decoded to.
        width: numbers inside the network, a multiple of `heads`.
        layers: of attention among tokens, of the encoder.
        heads: of attention.
        variational: whether tokens are means of a posterior, for a latent space without gaps (Kingma and Welling, ICLR 2014).
    """

    length: Tensor
    reach: Tensor
    sizes: Tensor

    def __init__(
        self, *, tokens: int = 32, size: int = 16, splats: int = 16, width: int = 64, layers: int = 2, heads: int = 4, variational: bool = True
    ) -> None:
        super().__init__()
        if min(tokens, size, splats, layers) < 1:
            raise ValueError(f"SplatEncoder needs tokens, size, splats and layers of at least 1, got {tokens}, {size}, {splats} and {layers}.")
        self.tokens, self.size, self.splats, self.width, self.layers, self.heads, self.variational = tokens, size, splats, width, layers, heads, variational
        self.told = nn.Sequential(nn.Linear(SPLAT, width), nn.SiLU(), nn.Linear(width, width))
        self.asked = nn.Linear(3, width)
        self.gather = SetBlock(width, heads)
        self.inward = nn.ModuleList(SetBlock(width, heads) for _ in range(layers))
        self.posterior = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * size if variational else size))
        self.widen = nn.Linear(size, width)
        self.outward = SetBlock(width, heads)
        last = nn.Linear(2 * width, splats * DECODED)
        with torch.no_grad():  # splats of a token begin apart
            last.bias.view(splats, DECODED)[:, :3].normal_(0.0, 0.5)
        self.decoder = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), last)
        self.register_buffer("length", torch.tensor(0.02))
        self.register_buffer("reach", torch.tensor(0.05))
        self.register_buffer("sizes", torch.tensor((1e-3, 0.05)).log())

    def config(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("tokens", "size", "splats", "width", "layers", "heads", "variational")}

    @torch.no_grad()
    def fit_scales(self, splats: Splats) -> None:
        """Take the distance between tokens, how far their splats are from them, and the sizes of splats from scenes (*B)."""
        means, colors, seen, flat = self._visible(splats)
        places, there = spread_tokens(means, colors, seen, self.tokens)
        away = torch.cdist(places[..., :3], places[..., :3])
        pair = there.unsqueeze(1) & there.unsqueeze(2) & ~torch.eye(self.tokens, dtype=torch.bool, device=there.device)
        near = away.masked_fill(~pair, math.inf).amin(-1)
        if bool((near.isfinite() & (near > 0)).any()):
            self.length.copy_(near[near.isfinite()].mean())
        places, _, own = settle_tokens(means, colors, seen, places, there, self.length)
        offset = (means - places[..., :3].gather(1, own.unsqueeze(-1).expand(-1, -1, 3))).abs()[seen]
        self.reach.copy_((1.5 * offset.amax()).clamp_min(self.length))
        scales = flat.scales[seen].clamp_min(THIN).log().flatten()
        margin = math.log(2.0)
        self.sizes.copy_(torch.stack((scales.min() - margin, scales.max() + 2 * margin)))

    def encode(self, splats: Splats, *, previous: SplatLatents | None = None) -> SplatLatents:
        """The tokens of scenes (*B).

        Args:
            splats: any numbers of them; masked where they are padded. Tokens are of the encoder's floating type.
            previous: tokens (*B) of the instant before, each of which is then found again under its number; one without splats stays without.

        Raises:
            ValueError: in one sentence, on bad splats, deformations, a scene that shows nothing, or previous tokens of other scenes.
        """
        means, colors, seen, flat = self._visible(splats)
        batch = splats.batch_size
        if previous is None:
            places, there = spread_tokens(means, colors, seen, self.tokens)
        else:
            if previous.centres.shape != (*batch, self.tokens, 3):
                raise ValueError(f"SplatEncoder.encode previous: expected centres {(*batch, self.tokens, 3)}, got {tuple(previous.centres.shape)}.")
            places = torch.cat((previous.centres, previous.colors), -1).reshape(-1, self.tokens, 6)
            there = previous.mask.reshape(-1, self.tokens)
        places, there, own = settle_tokens(means, colors, seen, places, there, self.length)
        centres = places[..., :3]
        told = self.told(self._features(flat, means - centres.gather(1, own.unsqueeze(-1).expand(-1, -1, 3))))
        x = self.gather(self.asked(places[..., 3:]), told, Pairs.of(centres, means, seen, self.length))
        pairs = Pairs.of(centres, centres, there, self.length)
        for block in self.inward:
            x = block(x, x, pairs)
        parts = (self.posterior(x) * there.unsqueeze(-1)).view(*batch, self.tokens, -1).split(self.size, -1)
        shape = (*batch, self.tokens)
        return SplatLatents(
            tokens=parts[0],
            centres=centres.view(*shape, 3),
            mask=there.view(shape),
            colors=places[..., 3:].view(*shape, 3),
            log_variance=parts[1].clamp(-12.0, 4.0) if self.variational else None,
            batch_size=batch,
        )

    def decode(self, latents: SplatLatents) -> Splats:
        """Splats (*B) of the tokens, as many of each, token by token; masked where a token is not there."""
        return self.decode_tokens(latents.tokens, latents.centres, latents.mask)

    def decode_tokens(self, tokens: Tensor, centres: Tensor, mask: Tensor) -> Splats:
        """`decode` of tokens (*B, L, D), centres (*B, L, 3) [m] and mask (*B, L)."""
        batch, count = tokens.shape[:-2], tokens.shape[-2]
        flat, there = centres.reshape(-1, count, 3), mask.reshape(-1, count)
        x = self.widen(tokens.reshape(-1, count, tokens.shape[-1]))
        raw = self.decoder(self.outward(x, x, Pairs.of(flat, flat, there, self.length))).unflatten(-1, (self.splats, DECODED))
        offset, turn, scale, opacity, color = (part.reshape(*batch, count * self.splats, -1) for part in raw.split((3, 4, 3, 1, 3), -1))
        low, high = self.sizes
        return Splats(
            means=centres.repeat_interleave(self.splats, -2) + self.reach * offset.tanh(),
            rotations=normalize_quaternion(turn + turn.new_tensor((1.0, 0.0, 0.0, 0.0))),
            scales=(low + (high - low) * scale.sigmoid()).exp(),
            opacities=opacity.squeeze(-1).sigmoid(),
            colors=color.sigmoid(),
            mask=mask.repeat_interleave(self.splats, -1),
            batch_size=batch,
        )

    def sample(self, latents: SplatLatents) -> SplatLatents:
        """Tokens drawn from the posterior, by torch's own random numbers; where there is none, as they are."""
        if latents.log_variance is None:
            return latents
        return latents.replace(tokens=latents.tokens + (0.5 * latents.log_variance).exp() * torch.randn_like(latents.tokens))

    def divergence(self, latents: SplatLatents) -> Tensor:
        """Kullback-Leibler divergence (*B) of the posterior from the standard normal distribution, the mean over numbers of tokens that are there [nat]."""
        if latents.log_variance is None:
            return latents.tokens.new_zeros(latents.batch_size)
        each = 0.5 * (latents.tokens.square() + latents.log_variance.exp() - 1 - latents.log_variance).mean(-1)
        return (each * latents.mask).sum(-1) / latents.mask.sum(-1).clamp_min(1)

    def _visible(self, splats: Splats) -> tuple[Tensor, Tensor, Tensor, Splats]:
        """Means (P, N, 3), colours and which splats count, bool (P, N), and the splats themselves, what does not count put in order."""
        check_splats(splats)
        if splats.deformations is not None:
            raise ValueError("SplatEncoder: expected splats without deformations, got some; give their covariances as rotations and scales.")
        flat: Splats = splats.reshape(-1).to(self.length.dtype)
        seen = flat.opacities > FAINT if flat.mask is None else (flat.opacities > FAINT) & flat.mask
        if not bool(seen.any(-1).all()):
            world = int((~seen.any(-1)).nonzero()[0])
            raise ValueError(f"SplatEncoder: expected a splat that can be seen, of opacity above {FAINT:.4f}, in every scene, got none in scene {world}.")
        keep = seen.unsqueeze(-1)
        unit = flat.rotations.new_tensor((1.0, 0.0, 0.0, 0.0))
        tidy = flat.replace(
            rotations=torch.where(keep, flat.rotations, unit),
            scales=torch.where(keep, flat.scales, 1.0),
            opacities=torch.where(seen, flat.opacities, 0.0),
        )
        return torch.where(keep, flat.means, 0.0), torch.where(keep, flat.colors, 0.0), seen, tidy.replace(colors=torch.where(keep, flat.colors, 0.0))

    def _features(self, splats: Splats, offset: Tensor) -> Tensor:
        """What is told of splats (P, N, SPLAT); `offset` (P, N, 3) [m] says where they are, seen from their tokens."""
        offset = offset / self.length
        waves = [wave(rate * offset) for rate in WAVES for wave in (torch.sin, torch.cos)]
        turn = quaternion_to_matrix(splats.rotations)
        middle, half = self.sizes.mean(), (self.sizes[1] - self.sizes[0]) / 2
        size = (splats.scales.clamp_min(THIN).log() - middle) / half
        shape = (turn * size.unsqueeze(-2)) @ turn.mT  # a logarithm of the covariance: the same however axes are named
        upper = torch.triu_indices(3, 3, device=shape.device)
        opacity = splats.opacities.unsqueeze(-1)
        return torch.cat((offset.clamp(-4.0, 4.0), *waves, shape[..., upper[0], upper[1]], opacity, splats.colors), -1)
