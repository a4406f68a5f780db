"""Subgoals by search over recorded states (Eysenbach, Salakhutdinov and Levine, "Search on the Replay Buffer", NeurIPS 2019).

Nodes are recorded states. There is an edge where recorded actions led from one to the next, and where a short plan with the model reaches one from the other;
its length is the number of steps. The shortest path from a start to a goal gives the subgoals. A planner that sees a few steps ahead is so led around what it
would get stuck in, by what the model knows of few steps and the record of where one can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from structwm.interfaces import Planner, SubgoalGenerator, Subgoals, Task
from structwm.training.windows import Batch
from structwm.transition import TransitionModel

from .subgoals import Reach, goal_coordinates

LEAST = 0.5  # steps of an edge between states that are within tolerance of each other; a path over fewer nodes is then shorter


@dataclass(frozen=True)
class ShortPlans:
    """How many steps a short plan takes from states to goals."""

    model: TransitionModel[Any]
    planner: Planner
    reach: Reach
    chunk: int = 1024  # problems that are planned at once
    seed: int = 0

    def steps(self, states: Any, goals: Tensor) -> Tensor:
        """From states (n,) to coordinates (n, D), (n,); infinite where a plan does not come within the tolerance. Of members, the slowest counts."""
        found = []
        for at in range(0, len(goals), self.chunk):
            part, targets = states[at : at + self.chunk], goals[at : at + self.chunk]
            plan = self.planner.plan(self.model, part, self.reach.objective(part, targets), seed=self.seed + at)
            moments = plan.trajectory.states  # (n, E, H+1)
            near = self.reach.distance(moments, targets[:, None, None].expand(*moments.batch_size, -1)).amax(1) <= 1
            first = near.int().argmax(-1).double().clamp_min(LEAST)
            found.append(torch.where(near.any(-1), first, torch.inf).cpu())
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


class StateGraph(SubgoalGenerator[Any]):
    """A graph over recorded states; `fit` makes it.

    Args:
        plans: tell how far states are apart.
        nodes: recorded states (M,).
        edges: int64 (L, 2), from and to.
        steps: (L,), their lengths.
        neighbours: nodes to which a start and a goal are tried to be joined.
    """

    def __init__(self, plans: ShortPlans, nodes: Any, edges: Tensor, steps: Tensor, *, neighbours: int) -> None:
        self.plans, self.nodes, self.edges, self.steps, self.neighbours = plans, nodes, edges, steps, neighbours
        self.places = plans.model.scene.coordinates(nodes)

    @classmethod
    def fit(
        cls,
        model: TransitionModel[Any],
        windows: Any,
        planner: Planner,
        *,
        tolerance: Mapping[str, float],
        stride: int = 1,
        most: int = 500,
        neighbours: int = 8,
        chunk: int = 1024,
        seed: int = 0,
    ) -> Self:
        """From recorded windows.

        Args:
            model: plans from node to node.
            windows: a `Batch`, `EpisodeWindows`, or anything sliced alike; states that were not fully observed are left out.
            planner: its horizon says how far apart neighbours may be.
            tolerance: by coordinate name, in its unit: the coordinates that count, and how near is reached. Smaller than what separates: two sides of a wall
                that is thinner than the tolerance are one place to the graph.
            stride: steps between the nodes of a window, which recorded actions join.
            most: nodes; of more windows some are drawn at random.
            neighbours: nearest nodes that are tried for an edge; more find more ways and cost more plans.
            chunk: plans at once.
            seed: of that draw and of the plans.

        Raises:
            ValueError: if fewer than two states were observed.
        """
        if stride < 1 or neighbours < 1 or most < 2:
            raise ValueError(f"StateGraph needs stride and neighbours of at least 1 and most of at least 2, got {stride}, {neighbours} and {most}.")
        each = windows[:1].horizon // stride + 1
        rows = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[: max(most // each, 1)]
        batch: Batch = windows[rows.sort().values]
        known = batch.observed()[:, ::stride].cpu()
        index = torch.where(known, known.flatten().cumsum(0).reshape(known.shape) - 1, -1)
        nodes = batch.states[:, ::stride][known]
        if len(nodes) < 2:
            raise ValueError(f"StateGraph needs at least two observed states, got {len(nodes)} in {len(batch)} windows.")
        chained = known[:, 1:] & known[:, :-1]
        recorded = torch.stack((index[:, :-1][chained], index[:, 1:][chained]), -1)
        plans = ShortPlans(model, planner, Reach(model.scene, tolerance), chunk, seed)
        graph = cls(plans, nodes, recorded, torch.full((len(recorded),), float(stride), dtype=torch.float64), neighbours=neighbours)
        near = graph._nearest(nodes, min(neighbours, len(nodes) - 1), own=True)
        pairs = torch.stack((torch.arange(len(nodes))[:, None].expand(near.shape), near), -1).flatten(0, 1)
        steps = plans.steps(nodes[pairs[:, 0]], graph.places[pairs[:, 1]])
        found = steps.isfinite()
        return cls(plans, nodes, torch.cat((recorded, pairs[found])), torch.cat((graph.steps, steps[found])), neighbours=neighbours)

    def propose(self, state: Any, task: Task) -> Subgoals:
        return self._ways(state, task, None)

    def propose_again(self, state: Any, task: Task, failed: Tensor) -> Subgoals:
        """The shortest ways past what was not reached: over no node within tolerance of it, or, where it is the goal, not straight there. Where there is no
        such way, the shortest way."""
        return self._ways(state, task, failed)

    def _ways(self, state: Any, task: Task, failed: Tensor | None) -> Subgoals:
        problems = int(state.batch_size[0])
        goal = goal_coordinates(self.plans.model.scene, task.goal, problems).to(self.places)
        edges, steps = self._joined(state, goal, problems)
        count = len(self.nodes)
        starts, ends = count + np.arange(problems), count + problems + np.arange(problems)
        ways = _shortest(edges, steps, starts, ends)
        for b, given in enumerate([] if failed is None else failed):
            if not len(given := given[given.isfinite().all(-1)]):
                continue
            past = self._past(given, goal[b], edges, (starts[b], ends[b]))
            other = _shortest(edges[past], steps[past], starts[b : b + 1], ends[b : b + 1])[0]
            ways[b] = ways[b] if other is None else other
        paths = [way or [] for way in ways]
        width = 1 + max(len(path) for path in paths)
        found, valid = goal.unsqueeze(1).repeat(1, width, 1), torch.zeros(problems, width, dtype=torch.bool)
        for b, path in enumerate(paths):
            found[b, : len(path)] = self.places[path]
            valid[b, : len(path) + 1] = True
        reachable = torch.tensor([way is not None for way in ways])
        return Subgoals(found, valid.to(found.device), reachable.to(found.device))

    def _past(self, failed: Tensor, goal: Tensor, edges: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
        """Which edges lead to none of the nodes within tolerance of coordinates (F, D), nor straight from the start to the goal where that is among them."""
        reach = self.plans.reach
        near = (reach.distance(self.nodes.unsqueeze(1).expand(-1, len(failed)), failed.to(self.places).expand(len(self.nodes), *failed.shape)) <= 1).any(1)
        past: np.ndarray = ~np.isin(edges[:, 1], near.nonzero().squeeze(-1).cpu().numpy())
        columns = reach.columns(self.nodes[:1], torch.cat((failed.to(goal), goal[None])))
        if bool((columns[:-1] == columns[-1]).all(-1).any()):
            past &= (edges != np.array(ends)).any(1)
        return past

    def _joined(self, state: Any, goal: Tensor, problems: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges and their lengths with the starts, numbered behind the nodes, and the goals, behind those."""
        count, own = len(self.nodes), torch.arange(problems)
        width = min(self.neighbours, count)
        first, last = self._nearest(state, width), self._nearest_to(goal, width)
        rows = own[:, None].expand(problems, width).flatten()
        away = self.plans.steps(state[rows], self.places[first.flatten()])
        home = self.plans.steps(self.nodes[last.flatten()], goal[rows])
        straight = self.plans.steps(state, goal)
        starts, goals = count + rows, count + problems + rows
        edges = torch.cat((
            self.edges,
            torch.stack((starts, first.flatten()), -1),
            torch.stack((last.flatten(), goals), -1),
            torch.stack((count + own, count + problems + own), -1),
        ))  # fmt: skip
        steps = torch.cat((self.steps, away, home, straight))
        short: dict[tuple[int, int], float] = {}
        for (a, b), length in zip(edges[steps.isfinite()].tolist(), steps[steps.isfinite()].tolist(), strict=True):
            short[a, b] = min(length, short.get((a, b), np.inf))  # a sparse matrix would add up edges that come twice
        return np.array(list(short)).reshape(-1, 2), np.array(list(short.values()))

    def _nearest(self, states: Any, count: int, *, own: bool = False) -> Tensor:
        """The nodes nearest to states (n,), int64 (n, count); `own` leaves out the state itself where the states are the nodes."""
        pairs = states.unsqueeze(1).expand(len(states), len(self.nodes))
        distance = self.plans.reach.distance(pairs, self.places.expand(len(states), *self.places.shape))
        if own:
            distance.fill_diagonal_(torch.inf)
        return distance.topk(count, largest=False).indices.cpu()

    def _nearest_to(self, goal: Tensor, count: int) -> Tensor:
        """The nodes nearest to coordinates (n, D), int64 (n, count)."""
        pairs = self.nodes.unsqueeze(0).expand(len(goal), len(self.nodes))
        return self.plans.reach.distance(pairs, goal[:, None].expand(len(goal), len(self.nodes), -1)).topk(count, largest=False).indices.cpu()


def _shortest(edges: np.ndarray, steps: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[list[int] | None]:
    """The nodes between each start and its end on the shortest way; None where there is none."""
    size = 1 + max(int(edges.max(initial=0)), int(ends.max()))
    graph = coo_array((steps, (edges[:, 0], edges[:, 1])), shape=(size, size)).tocsr()
    far, before = dijkstra(graph, indices=starts, return_predecessors=True)
    ways: list[list[int] | None] = []
    for end, length, chain in zip(ends, far, before, strict=True):
        at, found = int(chain[end]), []
        while np.isfinite(length[end]) and int(chain[at]) >= 0:
            found.append(at)
            at = int(chain[at])
        ways.append(found[::-1] if np.isfinite(length[end]) else None)
    return ways
