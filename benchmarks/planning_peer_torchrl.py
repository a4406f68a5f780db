"""The other end of `benchmarks.planning_torchrl`: TorchRL's CEMPlanner and MPPIPlanner, asked for plans and episodes by lines of JSON.

Actions are in units of half their range there, because these planners begin with a standard deviation of 1; `scale` says how far 1 reaches.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
import torchrl
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules import CEMPlanner, MPPIPlanner

from benchmarks.planning_tasks import Task, all_tasks
from benchmarks.planning_timing import fast_steps, steady_starts, timed_tasks


class PlainEnv(EnvBase):
    """A task as TorchRL wants it."""

    batch_locked = False

    def __init__(self, task: Task, size: int, scale: float) -> None:
        super().__init__(device="cpu", run_type_checks=False)
        self.task, self.dynamics, self.scale = task, fast_steps(task), scale
        self.centre, self.half = task.model.spec.action.centre, task.model.spec.action.half
        self.observation_spec = Composite(observation=Unbounded((size,)))
        self.action_spec = Bounded(-1.0 / scale, 1.0 / scale, (len(task.low),))
        self.reward_spec = Unbounded((1,))

    def commands(self, action: Tensor) -> Tensor:
        """What the task takes."""
        return self.centre + (self.scale * self.half) * action

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        command = self.commands(tensordict.get("action"))
        following = self.dynamics(tensordict.get("observation"), command)
        reward = -self.task.cost(following, command).unsqueeze(-1)
        done = torch.zeros_like(reward, dtype=torch.bool)
        return TensorDict({"observation": following, "reward": reward, "done": done, "terminated": done}, tensordict.batch_size)

    def _reset(self, tensordict: TensorDictBase | None, **options: Any) -> TensorDictBase:
        raise NotImplementedError

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            torch.manual_seed(seed)


class Return(nn.Module):
    """The advantage that MPPIPlanner weighs by: the sum of all rewards less that of the best candidate, without which its exponentials vanish."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        reward = tensordict.get(("next", "reward"))  # (B, S, H, 1)
        total = reward.sum(-2, keepdim=True)
        return tensordict.set("advantage", (total - total.amax(-3, keepdim=True)).expand_as(reward))


def build(planner: str, task: Task, size: int, settings: dict[str, Any]) -> tuple[PlainEnv, nn.Module]:
    """Environment and planner."""
    settings = dict(settings)
    env = PlainEnv(task, size, settings.pop("scale", 1.0))
    if planner == "cem":
        return env, CEMPlanner(env, **settings)
    return env, MPPIPlanner(env, Return(), **settings)


def state_of(x: Tensor) -> TensorDict:
    """States (B, D) as a tensordict."""
    done = torch.zeros(len(x), 1, dtype=torch.bool)
    return TensorDict({"observation": x, "done": done, "terminated": done.clone()}, [len(x)])


class Server:
    """Does what is asked for."""

    def __init__(self) -> None:
        self.tasks = {task.name: task for task in (*all_tasks(), *timed_tasks())}
        self.prepared: tuple[nn.Module, TensorDict] | None = None

    def version(self) -> str:
        """Of TorchRL."""
        return str(torchrl.__version__)

    def prepare(self, planner: str, task: str, problems: int, settings: dict[str, Any], seed: int) -> None:
        """Build what `time` runs."""
        torch.manual_seed(seed)
        x = steady_starts(self.tasks[task], problems)
        self.prepared = build(planner, self.tasks[task], x.shape[-1], settings)[1], state_of(x)

    def time(self) -> float:
        """Seconds of a plan."""
        assert self.prepared is not None
        planner, state = self.prepared
        begin = time.perf_counter()
        planner(state.clone())
        return time.perf_counter() - begin

    def episodes(self, planner: str, task: str, starts: list[list[float]], settings: dict[str, Any], seed: int) -> list[float]:
        """Costs of episodes."""
        torch.manual_seed(seed)
        problem, x = self.tasks[task], torch.tensor(starts)
        env, plan = build(planner, problem, x.shape[-1], settings)
        total = torch.zeros(len(x))
        for _ in range(problem.steps):
            action = plan(state_of(x)).get("action")
            command = env.commands(action).clamp(problem.low, problem.high)
            x = env.dynamics(x, command)
            total += problem.cost(x, command)
        costs: list[float] = total.tolist()
        return costs


def main() -> None:
    """Answer until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes elsewhere
    torch.set_num_threads(1)
    server = Server()
    with torch.no_grad():
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"value": getattr(server, request.pop("job"))(**request)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
