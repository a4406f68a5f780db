"""A search tree for B problems at once, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor


class SearchTree:
    """Statistics of up to N nodes for each of B problems; node 0 is the root. An edge is an action taken in a node.

    Args:
        problems: B.
        nodes: N.
        choices: n, actions of a node.
        device: of the tensors.
    """

    def __init__(self, problems: int, nodes: int, choices: int, device: torch.device) -> None:
        shape = (problems, nodes, choices)
        self.child = torch.full(shape, -1, dtype=torch.int64, device=device)  # (B, N, n) the node that an edge leads to; -1 where it was not taken
        self.visits = torch.zeros(shape, dtype=torch.float64, device=device)
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)  # of returns through an edge
        self.allowed = torch.ones(shape, dtype=torch.bool, device=device)
        self.prior = torch.full(shape, 1 / choices, dtype=torch.float64, device=device)  # probability that an action is good, before it is tried
        self.count = torch.ones(problems, dtype=torch.int64, device=device)  # nodes in use
        self.low = torch.full((problems,), torch.inf, dtype=torch.float64, device=device)  # of returns seen
        self.high = torch.full((problems,), -torch.inf, dtype=torch.float64, device=device)
        self.rows = torch.arange(problems, device=device)

    def select(self, node: Tensor, exploration: float) -> Tensor:
        """The edge (B,) with the greatest upper bound in each problem's node (B,): `Q + c P sqrt(1 + sum N) / (1 + N)`, Q scaled to [0, 1] by the returns seen.

        The rule is that of Silver et al. (Nature 2017) with the scaling of Schrittwieser et al. (Nature 2020, appendix B). Edges not taken yet have the mean Q
        of their node.
        """
        visits, total = self.visits[self.rows, node], self.total[self.rows, node]
        span = (self.high - self.low).clamp_min(1e-12)[:, None]
        scaled = ((total / visits.clamp_min(1.0)) - self.low[:, None].nan_to_num(posinf=0.0)) / span
        tried = visits > 0
        count = tried.sum(1, keepdim=True)
        mean = torch.where(count > 0, (scaled * tried).sum(1, keepdim=True) / count.clamp_min(1), 0.5)
        value = torch.where(tried, scaled, mean)
        bound = value + exploration * self.prior[self.rows, node] * (visits.sum(1, keepdim=True) + 1).sqrt() / (1 + visits)
        return bound.masked_fill(~self.allowed[self.rows, node], -torch.inf).argmax(1)

    def expand(self, node: Tensor, action: Tensor, where: Tensor) -> Tensor:
        """A new node (B,) behind an edge, in the problems `where`; elsewhere `node`."""
        fresh = torch.where(where, self.count, node)
        self.child[self.rows[where], node[where], action[where]] = fresh[where]
        self.count = self.count + where.long()
        return fresh

    def back_up(self, path: Tensor, actions: Tensor, on: Tensor, returns: Tensor) -> None:
        """Count returns along paths.

        Args:
            path: (B, D) nodes.
            actions: (B, D) the edges taken from them.
            on: (B, D) bool, which entries are part of the path.
            returns: (B, D) from each node on; those that are not finite count as the worst seen.
        """
        finite = returns.isfinite() & on
        self.low = torch.minimum(self.low, returns.masked_fill(~finite, torch.inf).amin(1))
        self.high = torch.maximum(self.high, returns.masked_fill(~finite, -torch.inf).amax(1))
        worst = self.low.nan_to_num(posinf=0.0)[:, None]
        returns = torch.where(finite, returns, worst)
        rows = self.rows[:, None].expand_as(path)
        self.visits.index_put_((rows[on], path[on], actions[on]), torch.ones_like(returns[on]), accumulate=True)
        self.total.index_put_((rows[on], path[on], actions[on]), returns[on], accumulate=True)

    def favourite(self, node: Tensor) -> Tensor:
        """The edge (B,) taken most often from a node (B,), of equals the one with the better mean return."""
        visits, total = self.visits[self.rows, node], self.total[self.rows, node]
        span = (self.high - self.low).nan_to_num(0.0, 0.0, 0.0).clamp_min(1e-12)[:, None]
        share = ((total / visits.clamp_min(1.0)) - self.low[:, None].nan_to_num(posinf=0.0)) / span
        return (visits + 0.5 * share.clamp(0, 1)).masked_fill(~self.allowed[self.rows, node], -torch.inf).argmax(1)
