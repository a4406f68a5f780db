"""Monte Carlo tree search over discrete actions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, Planner, require_views
from structwm.noise import Noise, problem_seeds
from structwm.plan import Candidates, Plan
from structwm.state import State, fields_of, state_of
from structwm.transition import TransitionModel

from .constraints import Valid
from .objectives import PredictedReturn
from .problems import check_again, check_wanted, count_problems, spread
from .risk import Risk
from .rollouts import Rollouts
from .sampling import EXPECTED, Search
from .search_tree import SearchTree

Prior = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Chosen:
    """The parameters of a tree search: the sequence that it has come to, which the next one tries first."""

    actions: Tensor  # int64 (B, H)

    def around(self, actions: Tensor) -> Chosen:
        """Another sequence."""
        return Chosen(actions)


@dataclass(frozen=True, kw_only=True)
class MCTS(Planner):
    """Grows a tree of action sequences where returns are high, for B problems side by side (Kocsis and Szepesvari, ECML 2006; selection as in MuZero,
    Schrittwieser et al., Nature 2020).

    Under `PredictedReturn`, and with a model that predicts rewards and values, a new node is judged by its value and the states are kept in the tree, so that a
    simulation costs one step of the model: the search of MuZero. With any other objective the sequence to a new node is completed at random, several times, and
    judged by the best cost: constraints, risk, members and whole-trajectory costs all count as they do for other planners. Sequences in which an action is not
    applicable are not tried. Where the tree itself steps the model, for its nodes' values and for what is applicable, it does so by the mean prediction.
    """

    horizon: int = 20  # steps looked ahead, and the greatest depth of the tree
    simulations: int = 64  # nodes that are tried; more look deeper
    exploration: float = 1.25  # weight of what was tried little; larger searches wider
    completions: int = 8  # random ends of a sequence, where no value is predicted
    prior: Prior | None = None  # from states (B,), of members the first, to probabilities (B, n) of actions to be good, as of a policy; None: all alike
    particles: int | None = None  # E: how many states are drawn of a belief (None: all), or futures of a state by a stochastic model (None: 1)
    risk: Risk = EXPECTED  # how the costs of the E members become one
    budget: float | None = None  # wall time of a plan [s], after which no simulation is begun

    def __post_init__(self) -> None:
        for key in ("horizon", "simulations", "completions", "particles"):
            value = getattr(self, key)
            if value is not None and (value < 1 or not isinstance(value, int)):
                raise ValueError(f"MCTS.{key} must be a whole number of at least 1, got {value}.")
        if not isinstance(self.risk, Risk):
            raise TypeError(f"MCTS.risk needs to be a Risk such as Mean(), got {self.risk!r}.")
        if not self.exploration >= 0:
            raise ValueError(f"MCTS.exploration must not be negative, got {self.exploration}.")
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"MCTS.budget is a time above 0 s or None, got {self.budget}.")

    @torch.no_grad()
    def plan(
        self,
        model: TransitionModel[Any],
        state: State | Belief[Any],
        objective: Objective,
        *,
        constraints: Sequence[Constraint] = (),
        previous: Plan | None = None,
        seed: int | Tensor = 0,
        active: Tensor | None = None,
        elapsed: int = 1,
    ) -> Plan:
        """See `Planner.plan`.

        Raises:
            ValueError: if actions are not discrete, or the previous plan is of another planner.
        """
        started = time.perf_counter()
        spec = model.spec.action
        if spec.kind != "discrete":
            raise ValueError(f"MCTS plans discrete actions; {type(model).__name__} takes {spec.kind} ones.")
        check_wanted(objective, constraints)
        given = tuple(constraints)
        constraints = (*given, Valid()) if model.overrides("applicable") else given
        require_views(model.scene, objective, *constraints)
        problems, index = count_problems(state), 0 if previous is None else previous.index + 1
        check_again(problems, previous, active, elapsed)
        kept = self._kept(previous, problems, elapsed)
        noise = Noise(problem_seeds(seed, problems), step=index)
        kind, fields = spread(model, state, self.particles, noise)
        active = None if active is None else active.to(next(iter(fields.values())).device)
        inner = noise.child(2).sharing(1) if model.spec.traits.stochastic else None
        rollouts = Rollouts(model, kind, fields, objective, constraints, self.risk, inner, None, active)
        run = Search(spec, rollouts, noise, None, index, started, None if self.budget is None else started + self.budget, None, kept, active)
        first = torch.zeros(problems, self.horizon, dtype=torch.int64, device=rollouts.device) if kept is None else kept
        run.consider(first.unsqueeze(1), rollouts(first.unsqueeze(1)))
        tree = SearchTree(problems, self.simulations + 1, spec.choices, rollouts.device)
        values = isinstance(objective, PredictedReturn) and {"reward", "value"} <= model.spec.traits.predicts and model.spec.members == 1
        valued = values and not given and rollouts.members == 1
        grow = _Valued(self, run, tree, objective.discount) if valued and isinstance(objective, PredictedReturn) else _Completed(self, run, tree)
        for simulation in range(self.simulations):
            if run.deadline is not None and simulation and time.perf_counter() + run.slowest > run.deadline:
                run.stopped = f"time was up after {simulation} of {self.simulations} simulations"
                break
            begun = time.perf_counter()
            grow.simulate(noise.stream(simulation))
            run.iterations, run.slowest = simulation + 1, max(run.slowest, time.perf_counter() - begun)
        else:
            run.stopped = "all simulations were done"
        grow.conclude()
        return self._finish(run, tree)

    def _kept(self, previous: Plan | None, problems: int, elapsed: int) -> Tensor | None:
        if previous is None:
            return None
        sampler = previous.sampler
        if not isinstance(sampler, Chosen) or tuple(sampler.actions.shape) != (problems, self.horizon):
            raise ValueError(f"The previous plan does not fit this planner: expected actions of shape {(problems, self.horizon)} by MCTS; pass previous=None.")
        actions = sampler.actions
        return torch.cat((actions[:, elapsed:], actions[:, -1:].expand(-1, min(elapsed, self.horizon))), 1)

    def _finish(self, run: Search, tree: SearchTree) -> Plan:
        assert run.best is not None
        actions, cost = run.best, run.lowest
        if run.active is not None and run.kept is not None and not bool(run.active.all()):
            actions, cost = torch.where(run.active[:, None], actions, run.kept), None
        visits, total = tree.visits[:, 0], tree.total[:, 0]
        means = torch.where(visits > 0, -total / visits.clamp_min(1), torch.inf)
        weights = visits / visits.sum(1, keepdim=True).clamp_min(1)
        seconds = time.perf_counter() - run.started
        candidates = Candidates(means, lambda: weights)
        return Plan(actions, Chosen(actions), run.index, run.iterations, seconds, run.stopped, run.rollouts.predict, candidates, cost)


class _Growth:
    """What both ways to judge a node share: the walk from the root to a new edge."""

    def __init__(self, planner: MCTS, run: Search, tree: SearchTree) -> None:
        self.planner, self.run, self.tree = planner, run, tree
        self.model, self.spec = run.rollouts.model, run.spec
        whole = run.rollouts.whole
        self.carries = self.model.spec.members > 1  # states keep an axis of members
        self.root = {name: value if self.carries else value[:, 0] for name, value in whole.fields.items()}  # of all members, or the first particle
        self.kind, self.problems = whole.kind, whole.problems
        self._open(torch.zeros_like(tree.rows), self._state(self.root), torch.ones_like(tree.rows, dtype=torch.bool))

    def _state(self, fields: dict[str, Tensor]) -> State:
        return state_of(self.kind, fields, next(iter(fields.values())).shape[: 1 + self.carries])

    def _allowed(self, state: Any) -> Tensor | None:
        """What may be done in states (B, ...), bool (B, n): what applies for every member."""
        allowed = self.model.applicable(state)
        return allowed.all(1) if allowed is not None and self.carries else allowed

    def _open(self, node: Tensor, state: Any, fresh: Tensor) -> None:
        """Note what may be done in nodes (B,), whose states are given, where they are new, bool (B,)."""
        tree = self.tree
        rows, node = tree.rows[fresh], node[fresh]
        allowed = self._allowed(state)
        if allowed is not None:
            tree.allowed[rows, node] = allowed[fresh]
        if self.planner.prior is not None:
            tree.prior[rows, node] = self.planner.prior(state[:, 0] if self.carries else state)[fresh].to(tree.prior)

    def walk(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the root along the greatest bounds to an edge that was not taken, or to the horizon.

        Returns:
            Nodes and edges (B, D), which of them are part of the path, bool (B, D), and whether it ends in a new edge, bool (B,).
        """
        tree = self.tree
        node, walking = torch.zeros_like(tree.rows), torch.ones_like(tree.rows, dtype=torch.bool)
        nodes, edges, on = [], [], []
        fresh = torch.zeros_like(walking)
        for _ in range(self.planner.horizon):
            edge = tree.select(node, self.planner.exploration)
            nodes.append(node)
            edges.append(edge)
            on.append(walking)
            child = tree.child[tree.rows, node, edge]
            ends = walking & (child < 0)
            fresh |= ends
            walking = walking & ~ends
            if not bool(walking.any()):
                break
            node = torch.where(walking, child, node)
        return torch.stack(nodes, 1), torch.stack(edges, 1), torch.stack(on, 1), fresh

    def simulate(self, noise: Noise) -> None:
        raise NotImplementedError

    def conclude(self) -> None:
        """Add what the tree itself favours to what was considered."""


class _Completed(_Growth):
    """Nodes judged by the cost of whole sequences: the path to them, completed at random."""

    def simulate(self, noise: Noise) -> None:
        tree, run, count, horizon = self.tree, self.run, self.planner.completions, self.planner.horizon
        nodes, edges, on, fresh = self.walk()
        depth = on.sum(1)
        prefix = torch.nn.functional.pad(edges, (0, horizon - edges.shape[1]))
        assert run.best is not None
        sequences, after = self._complete(prefix, depth, noise.uniform((self.problems, count, horizon), like=torch.empty(0, device=tree.rows.device)))
        scores = run.rollouts(sequences)
        run.consider(sequences, scores)
        ranking = scores.cost if scores.excess is None else scores.cost.masked_fill(scores.excess > 0, torch.inf)
        returns = -ranking.amin(1).double()
        new = tree.expand(nodes.gather(1, depth[:, None] - 1).squeeze(1), edges.gather(1, depth[:, None] - 1).squeeze(1), fresh)
        if after is not None:
            self._open(new, after, fresh)
        tree.back_up(nodes, edges, on, returns[:, None].expand_as(nodes))

    def _complete(self, prefix: Tensor, depth: Tensor, numbers: Tensor) -> tuple[Tensor, State | None]:
        """Sequences (B, R, H) that begin with the first `depth` actions (B,) of `prefix` (B, H), and the states (B,) behind those.

        The first of them ends as the best sequence so far does, the others at random, by `numbers` (B, R, H), among what is applicable.
        """
        assert self.run.best is not None
        problems, count, horizon = numbers.shape
        begun = torch.arange(horizon, device=prefix.device) < depth[:, None]
        choices = self.spec.choices
        ends = (numbers * choices).long().clamp_max(choices - 1)
        ends[:, 0] = self.run.best
        sequences = torch.where(begun[:, None], prefix[:, None], ends)
        if not self.model.overrides("applicable") and self.planner.prior is None:
            return sequences, None
        fields = {name: value.unsqueeze(1).expand(problems, count, *value.shape[1:]).flatten(0, 1) for name, value in self.root.items()}
        state, after = self._state(fields), None
        fixed = begun[:, None].expand_as(sequences).flatten(0, 1).clone()
        fixed[::count] = True  # the end of the best sequence stays as it is
        flat, draws = sequences.flatten(0, 1).clone(), numbers.flatten(0, 1)
        for step in range(horizon):
            allowed = self._allowed(state)
            if allowed is not None:
                odds = allowed.double() / allowed.sum(-1, keepdim=True).clamp_min(1)
                picked = (draws[:, step, None] >= odds.cumsum(-1)).sum(-1).clamp_max(choices - 1)
                flat[:, step] = torch.where(fixed[:, step], flat[:, step], picked)
            following = self.model.step(state, flat[:, step])
            if allowed is not None:
                possible = allowed.gather(-1, flat[:, step, None]).squeeze(-1)
                following = _choose(possible, following, state)
            state = following
            firsts = {name: value.unflatten(0, (problems, count))[:, 0] for name, value in fields_of(state).items()}
            ends_here = depth == step + 1
            after = self._state(firsts) if after is None else _choose(ends_here, self._state(firsts), after)
        return flat.unflatten(0, (problems, count)), after


class _Valued(_Growth):
    """Nodes judged by the value that the model predicts; states are kept in the tree."""

    def __init__(self, planner: MCTS, run: Search, tree: SearchTree, discount: float) -> None:
        super().__init__(planner, run, tree)
        nodes = tree.child.shape[1]
        self.discount = discount
        self.fields = {name: value.unsqueeze(1).repeat(1, nodes, *(1,) * (value.ndim - 1)) for name, value in self.root.items()}
        self.reward, self.odds = (torch.zeros(self.problems, nodes, dtype=torch.float64, device=tree.rows.device) for _ in range(2))  # of the step to a node
        self.value = torch.zeros_like(self.reward)

    def simulate(self, noise: Noise) -> None:
        tree = self.tree
        nodes, edges, on, fresh = self.walk()
        last = on.sum(1, keepdim=True) - 1
        parent, edge = nodes.gather(1, last).squeeze(1), edges.gather(1, last).squeeze(1)
        reached = tree.child[tree.rows, parent, edge]
        new = tree.expand(parent, edge, fresh)
        new = torch.where(fresh, new, reached)
        before = self._state({name: value[tree.rows, parent] for name, value in self.fields.items()})
        after, reward, odds, value = self._step(before, edge)
        if self.model.overrides("applicable"):
            possible = tree.allowed[tree.rows, parent, edge]  # where nothing is, an edge that leads nowhere was taken
            after, value = _choose(possible, after, before), value.masked_fill(~possible, -torch.inf)
        chosen, rows = new[fresh], tree.rows[fresh]
        for name, buffer in self.fields.items():
            buffer[rows, chosen] = fields_of(after)[name][fresh]
        for buffer, numbers in ((self.reward, reward), (self.odds, odds), (self.value, value)):
            buffer[rows, chosen] = numbers[fresh].double()
        self._open(new, self._state({name: buffer[tree.rows, new] for name, buffer in self.fields.items()}), fresh)
        returns, following = torch.zeros_like(nodes, dtype=torch.float64), self.value[tree.rows, new]
        ends = torch.cat((nodes[:, 1:], new[:, None]), 1).scatter(1, last, new[:, None])
        for depth in reversed(range(nodes.shape[1])):
            end = ends[:, depth]
            here = self.reward[tree.rows, end] + self.discount * self.odds[tree.rows, end] * following
            following = torch.where(on[:, depth], here, following)
            returns[:, depth] = following
        tree.back_up(nodes, edges, on, returns)

    def _step(self, state: Any, action: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """The next state, reward, probability to go on, and value."""
        following = self.model.step(state, action)
        outcome = self.model.outcome(state, action, following)
        if outcome is None or outcome.reward is None or outcome.value is None:
            raise NotImplementedError(f"{type(self.model).__name__} says it predicts reward and value, but outcome gives none.")
        odds = torch.ones_like(outcome.reward) if outcome.continue_probability is None else outcome.continue_probability
        return following, outcome.reward, odds, outcome.value

    def conclude(self) -> None:
        """Where the tree's most visited path leads; from where nothing was tried twice, the best by one step ahead."""
        tree, steps = self.tree, []
        node, inside = torch.zeros_like(tree.rows), torch.ones_like(tree.rows, dtype=torch.bool)
        state: Any = self._state(self.root)
        for _ in range(self.planner.horizon):
            inside = inside & (tree.visits[tree.rows, node].amax(1) > 1)  # one visit tells no more than a step ahead
            action = torch.where(inside, tree.favourite(node), self._greedy(state))
            steps.append(action)
            child = tree.child[tree.rows, node, action]
            inside = inside & (child >= 0)
            node = torch.where(inside, child, node)
            allowed, following = self.model.applicable(state), self.model.step(state, action)
            state = following if allowed is None else _choose(allowed.gather(-1, action[:, None]).squeeze(-1), following, state)
        path = torch.stack(steps, 1).unsqueeze(1)
        self.run.consider(path, self.run.rollouts(path))

    def _greedy(self, state: Any) -> Tensor:
        choices = self.spec.choices
        fields = {name: value.repeat_interleave(choices, 0) for name, value in fields_of(state).items()}
        actions = torch.arange(choices, device=self.tree.rows.device).repeat(self.problems)
        _, reward, odds, value = self._step(self._state(fields), actions)
        merit = (reward + self.discount * odds * value).view(self.problems, choices)
        allowed = self.model.applicable(state)
        return (merit if allowed is None else merit.masked_fill(~allowed, -torch.inf)).argmax(1)


def _choose(where: Tensor, state: Any, other: Any) -> Any:
    """States (B,) of one kind where it is said, of another elsewhere."""
    others = fields_of(other)
    mixed = {name: torch.where(where.reshape(-1, *(1,) * (value.ndim - 1)), value, others[name]) for name, value in fields_of(state).items()}
    return state_of(type(state), mixed, state.batch_size)
