import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from structwm import ActionSpec, Chunked, Ensemble, Normalised, Residual
from structwm.demos import toys
from structwm.geometry.planar import Ellipse
from structwm.physics.pushing import PushState, PushTwin
from structwm.training import NetworkCorrection, load_model, model_facts, save_model

from .models import CASES
from .pendulums import network, swings


def drag(state, action, following):
    return {"velocity": -0.3 * following.velocity}


MAKE = {
    "network": lambda: network(swings(8, 2, seed=0), head="mixture"),
    "residual of a network": lambda: Residual(toys.Pendulum(length=1.2), NetworkCorrection(network(swings(8, 2, seed=0)))),
    "ensemble": lambda: Ensemble([network(swings(8, 2, seed=0), seed=e) for e in range(3)], propagation="mean"),
    "residual of a named function": lambda: Residual(toys.DoubleIntegrator(0.2), drag),
    "normalised and chunked": lambda: Chunked(
        Normalised(
            toys.DoubleIntegrator(), action=ActionSpec.box(-2.0, 2.0, 2), mean={"position": torch.ones(2)}, std={"position": torch.ones(2)}, action_std=2.0
        ),
        3,
    ),
    "twins": lambda: PushTwin(Ellipse(0.05, 0.03), substeps=3, values={"friction": torch.tensor([0.2, 0.3]), "pressure_x": 0.4}),
}


def start(model: torch.nn.Module) -> object:
    kind, members = model.spec.state_type, (model.spec.members,) if model.spec.members > 1 else ()
    sizes = {toys.PendulumState: {"angle": 1, "rate": 1}, toys.PlanarState: {"position": 2, "velocity": 2}, PushState: {"pose": 3, "pusher": 2}}[kind]
    generator = torch.Generator().manual_seed(0)
    return kind(**{name: 0.05 * torch.randn(4, *members, size, generator=generator) for name, size in sizes.items()}, batch_size=[4, *members])


@pytest.mark.parametrize("name", MAKE)
def test_a_loaded_model_predicts_the_same(name: str, tmp_path: Path) -> None:
    model = MAKE[name]()
    save_model(model, tmp_path / "folder" / "it", facts={"error": 1.5})
    for path in (tmp_path / "folder" / "it", tmp_path / "folder" / "it.json", tmp_path / "folder" / "it.safetensors"):
        again = load_model(path, trusted=("tests",))
        assert again.spec == model.spec and type(again) is type(model)
    actions = model.spec.action.project(torch.ones(4, 3, model.spec.action.size))
    for name, value in model.rollout(start(model), actions).states.items():
        assert torch.equal(getattr(again.rollout(start(model), actions).states, name), value)
    assert model_facts(tmp_path / "folder" / "it") == {"error": 1.5}


def test_a_run_folder_is_a_name_and_saving_again_replaces(tmp_path: Path) -> None:
    save_model(toys.Pendulum(length=2.0), tmp_path / "model")
    save_model(toys.Pendulum(length=3.0), tmp_path / "model")
    assert load_model(tmp_path).length == 3.0
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors"}
    assert json.loads((tmp_path / "model.json").read_text())["model"]["value"]["length"] == 3.0


@pytest.mark.parametrize(
    "name", [name for name in CASES if "residual" not in name and "transform" not in name and "ensemble," not in name and "wrapped" not in name]
)
def test_every_model_of_the_suite_can_be_saved(name: str, tmp_path: Path) -> None:
    model = CASES[name][0]()
    assert load_model(save_model(model, tmp_path / "model"), trusted=("tests",)).spec == model.spec


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"<lambda> has no name to be found by"):
        save_model(Residual(toys.DoubleIntegrator(), lambda state, action, following: {}), tmp_path / "model")
    with pytest.raises(TypeError, match="Forgetful that does not keep its argument 'rate'"):
        save_model(Residual(toys.DoubleIntegrator(), Forgetful(1.0)), tmp_path / "model")
    with pytest.raises(TypeError, match="another spec or other weights"):
        save_model(Lying(0.1), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class Forgetful(torch.nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()


class Lying(toys.DoubleIntegrator):
    def config(self) -> dict[str, float]:
        return {"dt": self.dt * 2}


def test_what_cannot_be_loaded_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no model"):
        load_model(tmp_path / "nothing")
    save_model(Residual(toys.DoubleIntegrator(), drag), tmp_path / "foreign")
    with pytest.raises(ValueError, match="trusted=\\('tests',\\)"):
        load_model(tmp_path / "foreign")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path / "broken")


def rewritten(folder: Path, change: dict[str, object]) -> Path:
    """A saved pendulum whose header was changed by hand."""
    path = folder / "forged.safetensors"
    with safe_open(save_model(toys.Pendulum(), folder / "model").with_suffix(".safetensors"), framework="pt") as stream:
        header = json.loads(stream.metadata()["structwm-model"])
    header["model"] = change
    save_file({}, path, metadata={"structwm-model": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    "kind",
    ["structwm.training.saving:os.system", "structwm.training.run_folder:subprocess.run", "structwm.training.saving:save_model", "structwm.data:EpisodeWriter"],
)
def test_a_forged_file_calls_nothing_that_is_no_model(kind: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    forged = rewritten(
        tmp_path, {"$": "object", "kind": kind, "value": {"command": f"touch {touched}", "path": str(touched), "model": None, "args": ["touch"]}}
    )
    with pytest.raises(ValueError, match="which is nothing that structwm"):
        load_model(forged)
    assert not touched.exists()


def test_loaded_models_have_their_number_type_and_are_to_be_used(tmp_path: Path) -> None:
    model = network(swings(8, 2, seed=0)).double()
    again = load_model(save_model(model, tmp_path / "model"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float64}
    assert not again.training and all(parameter.requires_grad for parameter in again.parameters())
