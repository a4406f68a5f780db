"""Splats as few tokens and back, and dynamics of the tokens: order, bounds, bad scenes, what some seconds of training reach, saved and made again."""

import math

import pytest
import torch

from structwm.check import check_model
from structwm.geometry.camera import Camera
from structwm.perception import psnr
from structwm.render import render, stack_scenes, take_splats
from structwm.spec import ActionSpec
from structwm.splats import (
    SplatEncoder,
    SplatLatentDynamics,
    SplatLatentLoss,
    SplatReconstructionLoss,
    fit_splat_encoder,
    follow_splats,
    latent_windows,
)
from structwm.state import Splats
from structwm.training import FitSettings, fit, load_model, save_model
from tests.splats import random_splats

BACKGROUND = (0.8, 0.8, 0.8)
ROBOT, STEPS, AHEAD = 8, 8, 5


def small(**options: object) -> SplatEncoder:
    torch.manual_seed(0)
    return SplatEncoder(**({"tokens": 6, "size": 4, "splats": 5, "width": 16, "layers": 1} | options))


def pushes(count: int, seed: int) -> tuple[Splats, torch.Tensor]:
    """Runs (count, STEPS + 1) of a red and a blue box of 6 cm, and the points of a round tool that shoves them aside as discs."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    n = 50
    local = 0.03 * (2 * uniform(count, 2, n, 3) - 1) + torch.tensor([0.0, 0.0, 0.03])
    angle, away, first = 2 * math.pi * uniform(count, 1), 2 * math.pi * uniform(count, 1), 0.2 * uniform(count, 2) - 0.1
    ahead, aside = torch.cat((angle.cos(), angle.sin()), -1), torch.cat((-angle.sin(), angle.cos()), -1)
    boxes = torch.stack((first, first + 0.12 * torch.cat((away.cos(), away.sin()), -1)), 1)
    tool = first - (0.05 + 0.03 * uniform(count, 1)) * ahead + 0.02 * (2 * uniform(count, 1) - 1) * aside
    places, tools = [boxes], [tool]
    speed = 0.006 + 0.006 * uniform(count, 1)
    for _ in range(STEPS):
        tool = tool + speed * ahead
        apart = boxes - tool.unsqueeze(1)
        gap = apart.norm(dim=-1, keepdim=True)
        boxes = tool.unsqueeze(1) + apart * gap.clamp_min(0.045) / gap
        places.append(boxes)
        tools.append(tool)
    moved = local.unsqueeze(1) + torch.nn.functional.pad(torch.stack(places, 1), (0, 1))[..., None, :]
    ring = torch.arange(ROBOT) * (2 * math.pi / ROBOT)
    robot = torch.nn.functional.pad(torch.stack(tools, 1), (0, 1), value=0.03).unsqueeze(2) + 0.008 * torch.stack((ring.cos(), ring.sin(), 0 * ring), -1)
    paint = torch.tensor([[0.8, 0.2, 0.1], [0.1, 0.3, 0.8]])[:, None] + 0.05 * torch.randn(count, 2, n, 3, generator=generator)
    shape = (count, STEPS + 1, 2 * n)
    splats = Splats(
        means=moved.flatten(2, 3),
        rotations=torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(*shape, 4),
        scales=torch.full((*shape, 3), 0.008),
        opacities=torch.full(shape, 0.9),
        colors=paint.clamp(0, 1).flatten(1, 2).unsqueeze(1).expand(*shape, 3),
        batch_size=shape[:2],
    )
    return splats, robot


def joined(one: Splats, other: Splats) -> Splats:
    return Splats(**{name: torch.cat((value, getattr(other, name))) for name, value in one.items() if value is not None}, batch_size=[])


def cameras() -> Camera:
    return Camera.look_at(torch.tensor([[0.5, 0.0, 0.4], [-0.3, 0.45, 0.4]]), torch.zeros(2, 3), width=48, height=36)


def image(splats: Splats) -> torch.Tensor:
    return render(splats, cameras()[0], background=BACKGROUND).image


@pytest.fixture(scope="module")
def encoder() -> SplatEncoder:
    """Trained for some seconds."""
    torch.manual_seed(0)
    made = SplatEncoder(tokens=12, size=8, splats=10, width=32, layers=1)
    settings = FitSettings(steps=120, batch=8, learning_rate=4e-3)
    losses = fit_splat_encoder(made, pushes(48, 1)[0].reshape(-1), cameras(), background=BACKGROUND, settings=settings, progress=False)
    assert len(losses) == 120 and sum(losses[-10:]) < 0.7 * sum(losses[:10])
    return made


@pytest.fixture(scope="module")
def dynamics(encoder: SplatEncoder) -> SplatLatentDynamics:
    torch.manual_seed(0)
    model = SplatLatentDynamics(encoder, robot_points=ROBOT, dt=0.1, width=32, layers=2)
    windows, held_out = (latent_windows(follow_splats(model, *pushes(count, seed)), AHEAD) for count, seed in ((48, 1), (8, 3)))
    model.fit_scales(windows)
    settings = FitSettings(steps=200, batch=12, learning_rate=3e-3, evaluate_every=200)
    fit(model, windows, held_out=held_out, loss=SplatLatentLoss(), settings=settings, progress=False)
    return model


def test_the_order_of_splats_does_not_matter():
    encoder, scene = small(), random_splats(40, seed=3)
    encoder.fit_scales(scene.unsqueeze(0))
    shuffled = take_splats(scene, torch.randperm(40, generator=torch.Generator().manual_seed(0)))
    one, other = encoder.encode(scene), encoder.encode(shuffled)
    assert torch.allclose(one.centres, other.centres, atol=1e-5) and torch.allclose(one.tokens, other.tokens, atol=1e-4)
    assert float(one.tokens.detach().std()) > 0.01


def test_tokens_do_not_change_with_the_place_of_a_scene_and_go_with_its_splats():
    encoder, scene = small(), random_splats(40, seed=3)
    encoder.fit_scales(scene.unsqueeze(0))
    shift = torch.tensor([0.05, -0.02, 0.01])
    start = encoder.encode(scene)
    moved = encoder.encode(scene.replace(means=scene.means + shift), previous=start)
    assert torch.allclose(moved.centres, start.centres + shift, atol=1e-4) and torch.allclose(moved.tokens, start.tokens, atol=1e-3)


def test_tokens_are_of_the_encoders_type():
    encoder, scene = small(), random_splats(20, dtype=torch.float64)
    assert encoder.encode(scene).tokens.dtype == torch.float32 and encoder.double().encode(scene).tokens.dtype == torch.float64


def test_padding_and_faint_splats_count_nothing():
    encoder, scenes = small(), [random_splats(30, seed=1), random_splats(45, seed=2)]
    together = stack_scenes(scenes)
    together.means = torch.where(together.mask.unsqueeze(-1), together.means, float("nan"))
    faint = random_splats(30, seed=7).replace(opacities=torch.full((30,), 1e-3))
    alone = [encoder.encode(scene) for scene in scenes]
    both = encoder.encode(together)
    for row, one in enumerate(alone):
        assert torch.allclose(both.tokens[row], one.tokens, atol=1e-5)
    assert torch.allclose(encoder.encode(joined(scenes[0], faint)).tokens, alone[0].tokens, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_decoded_splats_are_as_many_as_promised_and_bounded(batch):
    encoder, scenes = small(), random_splats(40, seed=3, batch=batch)
    with torch.no_grad():
        latents = encoder.encode(scenes)
    assert latents.tokens.shape == (*batch, 6, 4) and latents.centres.shape == (*batch, 6, 3)
    wild = latents.replace(tokens=1e3 * latents.tokens)  # whatever a model makes of tokens
    for found in (encoder.decode(each).detach() for each in (latents, wild)):
        assert found.means.shape == (*batch, 30, 3) and tuple(found.batch_size) == batch
        assert all(bool(value.isfinite().all()) for name, value in found.items() if value is not None and name != "mask")
        assert float((found.means.unflatten(-2, (6, 5)) - latents.centres.unsqueeze(-2)).abs().max()) <= float(encoder.reach) + 1e-6
        low, high = encoder.sizes.exp().tolist()
        assert 0.99 * low <= float(found.scales.min()) and float(found.scales.max()) <= 1.01 * high
        assert torch.allclose(found.rotations.norm(dim=-1), torch.ones(()))
        assert float(found.opacities.min()) >= 0 and float(found.opacities.max()) <= 1 and float(found.colors.min()) >= 0 and float(found.colors.max()) <= 1
        render(found, Camera.look_at(torch.tensor([3.0, 0.0, 0.5]), torch.zeros(3), width=16, height=12))


@pytest.mark.parametrize("count", [1, 4])
def test_scenes_of_fewer_splats_than_tokens(count):
    encoder, scene = small(), random_splats(count, seed=5)
    encoder.fit_scales(scene.unsqueeze(0))
    latents = encoder.encode(scene)
    assert latents.mask.tolist() == [True] * count + [False] * (6 - count)
    assert torch.allclose(latents.centres[:count].sort(0).values, scene.means.sort(0).values)
    found = encoder.decode(latents)
    assert int(found.mask.sum()) == 5 * count and bool(found.means.isfinite().all())
    copies = scene.replace(means=scene.means[:1].expand(count, 3).clone())  # all in one place
    assert bool(encoder.encode(copies).tokens.isfinite().all())


def test_bad_scenes_are_refused_in_a_sentence():
    encoder, scene = small(), random_splats(20)
    broken = scene.clone()
    broken.means[3, 1] = float("nan")
    with pytest.raises(ValueError, match="splats means: expected finite numbers"):
        encoder.encode(broken)
    with pytest.raises(ValueError, match="a splat that can be seen, of opacity above 0.0039, in every scene, got none in scene 1"):
        encoder.encode(torch.stack([scene, scene.replace(opacities=torch.zeros(20))]))
    with pytest.raises(ValueError, match="without deformations"):
        encoder.encode(scene.replace(deformations=torch.eye(3).expand(20, 3, 3)))
    with pytest.raises(ValueError, match="previous: expected centres"):
        encoder.encode(scene, previous=encoder.encode(torch.stack([scene, scene])))
    with pytest.raises(ValueError, match=r"scenes \(S,\) and cameras \(V,\)"):
        fit_splat_encoder(encoder, scene, cameras())
    with pytest.raises(ValueError, match="weights >= 0"):
        SplatReconstructionLoss(places=-1.0)


def test_held_out_scenes_are_drawn_again(encoder):
    """Far above the best image of one colour, and above drawing nothing: by 8 dB."""
    scenes = pushes(12, 2)[0][:, ::4].reshape(-1)
    seen = image(scenes)
    with torch.no_grad():
        again = image(encoder.decode(encoder.encode(scenes)))
    plain = [color.expand_as(seen) for color in (seen.mean((0, 1, 2)), torch.tensor(BACKGROUND))]
    baseline = max(float(psnr(one, seen).mean()) for one in plain)
    assert float(psnr(again, seen).mean()) > baseline + 8.0


def test_tokens_drawn_from_the_posterior_decode_to_nearly_the_same(encoder):
    scenes = pushes(8, 2)[0][:, 0]
    with torch.no_grad():
        latents = encoder.encode(scenes)
        drawn = encoder.sample(latents)
        assert latents.log_variance is not None and not torch.equal(drawn.tokens, latents.tokens)
        mean, other = (float(psnr(image(encoder.decode(each)), image(scenes)).mean()) for each in (latents, drawn))
        assert other > mean - 2.0
        assert 0.1 < float(encoder.divergence(latents).mean()) < 5.0
        plain = small(variational=False)
        fixed = plain.encode(random_splats(20))
        assert fixed.log_variance is None and plain.sample(fixed) is fixed and float(plain.divergence(fixed)) == 0.0


def test_dynamics_beat_persistence_on_held_out_runs(dynamics):
    """Where a box moves by more than a centimetre in five steps, tokens err by less than 0.7 of how far they go, and images are nearer to what is seen by 1 dB
    than those of the start."""
    splats, robot = pushes(32, 2)
    states, first = follow_splats(dynamics, splats, robot), STEPS - AHEAD
    moved = (splats.means[:, STEPS] - splats.means[:, first]).norm(dim=-1).amax(-1) > 0.01
    start, target = states[moved, first], states[moved, STEPS]
    with torch.no_grad():
        final = dynamics.rollout(start, robot[moved, first:].diff(dim=1).flatten(2)).final().states[:, 0]
    error, still = ((state.centres - target.centres).norm(dim=-1).mean() for state in (final, start))
    seen = image(splats[moved, STEPS])
    ahead, held = (float(psnr(image(scene), seen).mean()) for scene in (dynamics.scene.splats(final), splats[moved, first]))
    assert int(moved.sum()) > 12 and float(error) < 0.7 * float(still)
    assert ahead > held + 1.0


def test_the_contract_is_kept_after_training(dynamics):
    splats, robot = pushes(4, 5)
    state = dynamics.state(splats[:, 0], robot[:, 0])
    assert all(finding.passed for finding in check_model(dynamics, state))
    rolled = dynamics.rollout(state, robot.diff(dim=1).flatten(2))
    assert rolled.splats().means.shape == (4, STEPS + 1, 120, 3) and rolled.points().positions.shape == (4, STEPS + 1, 120, 3)
    assert rolled.embedding().shape == (4, STEPS + 1, 12 * 11)
    assert torch.allclose(rolled.states.robot, robot, atol=1e-5)


def test_actions_may_be_any_box():
    action = ActionSpec.box([-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], names=("x", "y", "grip"))
    model = SplatLatentDynamics(small(), dt=0.1, action=action, width=16, layers=1)
    assert all(finding.passed for finding in check_model(model, model.state(random_splats(30, batch=(4,)))))
    with pytest.raises(ValueError, match="either robot_points above 0 or a box"):
        SplatLatentDynamics(small(), dt=0.1, robot_points=3, action=action)
    with pytest.raises(ValueError, match="finite points of the robot"):
        model.state(random_splats(30), torch.zeros(2, 3))


def test_both_are_saved_and_made_again(dynamics, tmp_path):
    splats, robot = pushes(3, 5)
    again = load_model(save_model(dynamics, tmp_path / "model"))
    one, other = (model.rollout(model.state(splats[:, 0], robot[:, 0]), robot.diff(dim=1).flatten(2)) for model in (dynamics, again))
    assert torch.equal(one.states.tokens, other.states.tokens) and torch.equal(one.splats().means, other.splats().means)
    assert not any(parameter.requires_grad for parameter in again.encoder.parameters())
    alone = load_model(save_model(dynamics.encoder, tmp_path / "encoder"))
    assert torch.equal(alone.encode(splats[:, 0]).tokens, dynamics.encoder.encode(splats[:, 0]).tokens)
