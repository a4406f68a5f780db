"""A world model as a training environment: any RL library that knows gymnasium's vector environments learns inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from structwm.ensemble import Ensemble, Propagation
from structwm.interfaces import Constraint, Objective, require_views
from structwm.noise import Noise
from structwm.spec import Action, HybridAction
from structwm.state import State, fields_of, state_of
from structwm.training.open_loop import evaluating
from structwm.transition import Trajectory, TransitionModel

from .episode_goals import Goals, draw_rows
from .imagined_steps import finite_states, imagined_reward, keyed_seeds, mean_member, states_where

Array: TypeAlias = NDArray[Any]
Starts = State | Callable[[Noise], Any]
"""A pool of states (M,) of which one is drawn for every episode, or a function of noise for n episodes to states (n,)."""


class ImaginedEnv(VectorEnv[Array, Any, Array]):
    """N episodes at once in one rollout step of a model.

    An episode terminates where the model predicts that it does not go on, where a constraint is violated, or where its goal is reached; it is truncated at
    `max_steps`, and where a prediction is not finite: then the last finite state is shown, with a reward of 0. An inapplicable discrete action leaves the
    state. Which of these happened is in the infos: `is_success`, `violated`, `broken`; with members `member`, with choices that may not apply `action_mask`.

    The k-th episode of environment i is a function of its seed (`seed + i`), k, and its actions alone: neither the number of environments nor what happens in
    the others matters. Arrays given out are never written to again.

    Args:
        model: any transition model; with members, episodes run through them as `propagation` says.
        starts: where episodes start.
        num_envs: N.
        objective: what is rewarded is minus its cost of each one-step trajectory; with goals, a function of goals (n, G) to an objective, by default minus the
            distance in tolerances. None without goals: the reward that the model predicts.
        reward: `cost`, or `progress`: the discounted difference of minus the cost of standing at either state, a potential-based reward (Ng, Harada and
            Russell, ICML 1999), in which costs of actions cancel.
        discount: of that difference.
        goals: what episodes are to reach; part of the observation, behind it.
        constraints: what ends an episode where it is violated.
        violation_reward: added when that happens.
        continue_threshold: predicted probabilities to go on below this end an episode; None: by chance, as they say.
        max_steps: steps after which an episode is truncated.
        propagation: `fixed_member`: every episode has a member of its own, drawn at random (domain randomisation); `random_member`: every step;
            `mean`: the mean of what the members predict.
        observe: from states (n,) to observations (n, D); by default the coordinates.
        autoreset_mode: gymnasium's `NextStep`, `SameStep` or `Disabled`.

    Raises:
        ValueError: if the parts do not fit; the sentence says which.
        ViewMissing: if the scene lacks a view that an objective or a constraint needs.
    """

    def __init__(
        self,
        model: TransitionModel[Any],
        starts: Starts,
        num_envs: int,
        *,
        objective: Objective | Callable[[Tensor], Objective] | None = None,
        reward: Literal["cost", "progress"] = "cost",
        discount: float = 1.0,
        goals: Goals | None = None,
        constraints: Sequence[Constraint] = (),
        violation_reward: float = 0.0,
        continue_threshold: float | None = 0.5,
        max_steps: int = 200,
        propagation: Propagation | str = Propagation.FIXED_MEMBER,
        observe: Callable[[Any], Tensor] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        super().__init__()
        if num_envs < 1 or max_steps < 1:
            raise ValueError(f"ImaginedEnv needs num_envs and max_steps of at least 1, got {num_envs} and {max_steps}.")
        if reward not in ("cost", "progress"):
            raise ValueError(f"ImaginedEnv knows the rewards cost and progress, got {reward!r}.")
        if objective is None and goals is None and "reward" not in model.spec.traits.predicts:
            raise ValueError(f"{type(model).__name__} predicts no reward; give ImaginedEnv an objective or goals.")
        if objective is not None and not isinstance(objective, Objective) and goals is None:
            raise ValueError("An objective that is a function of goals needs goals.")
        if isinstance(model, Ensemble) and model.propagation is not Propagation.FIXED_MEMBER:
            raise ValueError(f"ImaginedEnv says itself how episodes run through members; make the Ensemble with fixed_member, not {model.propagation.value}.")
        self.model, self.starts, self.num_envs, self.objective, self.goals = model, starts, num_envs, objective, goals
        self.reward_kind, self.discount, self.constraints, self.violation_reward = reward, discount, tuple(constraints), violation_reward
        self.continue_threshold, self.max_steps, self.propagation = continue_threshold, max_steps, Propagation(propagation)
        self.observe = observe or model.scene.coordinates
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.render_mode = None
        self.single_action_space = deepcopy(model.spec.action.space)  # sampling draws from a generator of its own
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._check_parts()
        self._seeds = np.zeros(num_envs, np.int64)
        self._episode = np.full(num_envs, -1)  # number of the episode under way, -1 before the first
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        self._member = torch.zeros(num_envs, dtype=torch.int64)
        self._seeded = False

    def _check_parts(self) -> None:
        """Draws a start and a goal once, for the spaces and to refuse what does not fit."""
        noise = Noise.from_seed(0, 1)
        if isinstance(self.starts, State) and len(self.starts.batch_size) != 1:
            raise ValueError(f"starts need states of batch_size (M,), got {tuple(self.starts.batch_size)}.")
        state = self._start_states(noise)
        if not isinstance(state, self.model.spec.state_type) or tuple(state.batch_size) != (1,):
            raise ValueError(f"starts give {self.model.spec.state_type.__name__} of batch_size (n,), got {type(state).__name__} of {tuple(state.batch_size)}.")
        self._state: Any = state.expand(self.num_envs).clone()
        goal = None if self.goals is None else self.goals.draw(noise)
        if self.goals is not None and goal is not None:
            self.goals.reached(self.model.scene, state, goal)
        self._goal = None if goal is None else goal.expand(self.num_envs, -1).clone()
        readers = [reader for reader in (self._objective(), *self.constraints) if reader is not None]
        require_views(self.model.scene, *readers)
        size = self._observation(state, goal).shape[-1]
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    # gymnasium

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start episodes in all environments, or in those of `options["reset_mask"]`, bool (N,).

        With a seed, an int that means `seed + i` or one for each, episodes are counted anew; without, the next ones begin.
        """
        rows = self._reset_rows(options)
        if seed is not None or not self._seeded:
            super().reset(seed=seed if isinstance(seed, int) else None)
            drawn = self.np_random.integers(0, 2**62, self.num_envs)
            given = list(seed + np.arange(self.num_envs)) if isinstance(seed, int | np.integer) else list(seed or [None] * self.num_envs)
            if len(given) != self.num_envs:
                raise ValueError(f"reset takes one seed for each of {self.num_envs} environments, got {len(given)}.")
            for i in rows.tolist():
                self._seeds[i] = drawn[i] if given[i] is None else given[i]
                self._episode[i] = -1
            self._seeded = True
        with torch.no_grad(), evaluating(self.model):
            self._begin(rows)
            return self._arrays(self._observation(self._state, self._goal)), self._infos({}, np.isin(np.arange(self.num_envs), rows))

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of every episode; see `autoreset_mode` for what follows the end of one."""
        if not self._seeded:
            raise gymnasium.error.ResetNeeded("step needs an episode in every environment; call reset() first.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise gymnasium.error.ResetNeeded(f"episode {int(self._ended.argmax())} has ended; call reset(options={{'reset_mask': ...}}) first.")
        with torch.no_grad(), evaluating(self.model):
            again = self._ended.copy() if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, bool)
            reward, terminated, truncated, events = self._advance(self._model_action(actions))
            reward, terminated, truncated = (np.where(again, 0, part).astype(part.dtype) for part in (reward, terminated, truncated))
            self._ended = terminated | truncated
            if again.any():
                self._begin(np.flatnonzero(again))
            observation = self._arrays(self._observation(self._state, self._goal))
            infos = self._infos(events, ~again)
            if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
                observation, infos = self._restart(observation, events)
        return observation, reward, terminated, truncated, infos

    # parts of a step

    def _advance(self, action: Action) -> tuple[Array, Array, Array, dict[str, Array]]:
        """Reward, termination, truncation and events (N,) of one step of all episodes, by which the state moves on."""
        seeds = self._step_seeds()
        trajectory = self._roll(action, seeds)
        following = trajectory.states[:, -1]
        value = imagined_reward(trajectory, self._objective(), self.reward_kind, self.discount)
        broken = ~(finite_states(following) & value.isfinite())
        self._state = states_where(broken, self._state, following)
        self._steps += 1
        violated = torch.zeros_like(broken)
        for constraint in self.constraints:
            violated |= (constraint(trajectory) > 0).any(-1)
        events = {"broken": broken, "violated": violated & ~broken}
        terminated = events["violated"].clone()
        if self.goals is not None and self._goal is not None:
            events["is_success"] = self.goals.reached(self.model.scene, self._state, self._goal) & ~broken & ~violated
            terminated |= events["is_success"]
        if trajectory.continue_probability is not None:
            odds = trajectory.continue_probability[:, 0]
            chance = self.continue_threshold if self.continue_threshold is not None else Noise(seeds, draw=3).uniform((self.num_envs, 1), like=odds)[:, 0]
            terminated |= (odds < chance) & ~broken
        value = torch.where(broken, 0.0, value + self.violation_reward * events["violated"])
        found = {name: self._arrays(event) for name, event in events.items()}
        ended = self._arrays(terminated)
        return self._arrays(value).astype(np.float64), ended, (found["broken"] | (self._steps >= self.max_steps)) & ~ended, found

    def _roll(self, action: Action, seeds: Tensor) -> Trajectory:
        """One step of all episodes, batch axes (N,)."""
        noise = Noise(seeds) if self.model.spec.traits.stochastic else None
        actions, members = action.unsqueeze(1), self.model.spec.members
        if members == 1:
            return self.model.rollout(self._state, actions, noise=noise)
        trajectory = self.model.rollout(self._state.unsqueeze(1).expand(self.num_envs, members), actions, noise=noise)
        if self.propagation is Propagation.MEAN:
            return mean_member(trajectory)
        if self.propagation is Propagation.RANDOM_MEMBER:
            self._member = draw_rows(Noise(seeds, draw=2), members)
        return trajectory[torch.arange(self.num_envs), self._member]

    def _begin(self, rows: Array) -> None:
        """Start the next episode in some environments."""
        self._episode[rows] += 1
        self._steps[rows] = 0
        self._ended[rows] = False
        noise, at = Noise(keyed_seeds(self._seeds[rows], self._episode[rows])), torch.from_numpy(rows)
        start = fields_of(self._start_states(noise))
        fields = {name: value.index_copy(0, at.to(value.device), start[name].to(value)) for name, value in fields_of(self._state).items()}
        self._state = state_of(type(self._state), fields, self._state.batch_size)
        if self.goals is not None and self._goal is not None:
            self._goal = self._goal.index_copy(0, at.to(self._goal.device), self.goals.draw(noise.child(1)).to(self._goal))
        if self.model.spec.members > 1:
            self._member = self._member.index_copy(0, at, draw_rows(noise.child(2), self.model.spec.members))

    def _restart(self, observation: Array, events: dict[str, Array]) -> tuple[Array, dict[str, Any]]:
        """Begin anew within the step in which episodes ended; the infos hold how they did."""
        ended = self._ended.copy()
        final = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final[i] = observation[i].copy()
        last = self._infos(events, ended)
        self._begin(np.flatnonzero(ended))
        self._ended = np.zeros(self.num_envs, bool)
        infos = self._infos({name: np.where(ended, False, event) for name, event in events.items()}, np.ones(self.num_envs, bool))
        for name in events:
            infos[f"_{name}"] = ~ended
        infos |= {"final_obs": final, "_final_obs": ended, "final_info": last, "_final_info": ended.copy()}
        return self._arrays(self._observation(self._state, self._goal)), infos

    def _infos(self, events: dict[str, Array], there: Array) -> dict[str, Any]:
        """Infos in gymnasium's form for vectors: each (N, ...) with a mask of where it holds."""
        found: dict[str, Array] = dict(events)
        if self.model.spec.members > 1 and self.propagation is not Propagation.MEAN:
            found["member"] = self._arrays(self._member)
        mask = self._applicable()
        if mask is not None:
            found["action_mask"] = mask
        return {key: value for name, array in found.items() for key, value in ((name, array), (f"_{name}", there.copy()))}

    def _applicable(self) -> Array | None:
        if not self.model.overrides("applicable"):
            return None
        members = self.model.spec.members
        state = self._state if members == 1 else self._state.unsqueeze(1).expand(self.num_envs, members)
        allowed = self.model.applicable(state)
        if allowed is not None and members > 1:
            allowed = allowed[torch.arange(self.num_envs), self._member] if self.propagation is Propagation.FIXED_MEMBER else allowed.all(1)
        return None if allowed is None else self._arrays(allowed).astype(np.int8)  # as the masks of gymnasium's Discrete

    # what goes in and out

    def _model_action(self, actions: Any) -> Action:
        """Actions of the batched space as the model takes them."""
        like = next(value for value in fields_of(self._state).values())
        if self.model.spec.action.kind == "hybrid":
            index, parameters = (torch.as_tensor(np.asarray(part), device=like.device) for part in actions)
            return HybridAction(index.long(), parameters.float(), batch_size=[self.num_envs])
        values = torch.tensor(np.asarray(actions), device=like.device)
        if self.model.spec.action.kind == "discrete":
            return values.long()
        return values.to(like.dtype if like.is_floating_point() else torch.float32)

    def _observation(self, state: Any, goal: Tensor | None) -> Tensor:
        seen = self.observe(state)
        return seen if goal is None else torch.cat((seen, goal.to(seen)), -1)

    def _arrays(self, values: Tensor) -> Array:
        """A fresh array; numbers as float32."""
        array = values.detach().to(torch.float32 if values.is_floating_point() else values.dtype).cpu().numpy()
        return np.array(array)

    def _objective(self) -> Objective | None:
        """What is rewarded now, for the goals under way."""
        if self._goal is None or self.goals is None or isinstance(self.objective, Objective):
            return self.objective if isinstance(self.objective, Objective) else None
        return (self.objective or self.goals.objective)(self._goal)

    def _start_states(self, noise: Noise) -> Any:
        return self.starts[draw_rows(noise, len(self.starts))] if isinstance(self.starts, State) else self.starts(noise)

    def _step_seeds(self) -> Tensor:
        return keyed_seeds(self._seeds, self._episode, self._steps + 1)

    def _reset_rows(self, options: dict[str, Any] | None) -> Array:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any() or (not self._seeded and not mask.all()):
            raise ValueError(f"reset_mask is bool ({self.num_envs},) with some of them true, all at the first reset; got {mask.dtype} {mask.shape}.")
        return np.flatnonzero(mask)
