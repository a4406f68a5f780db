"""How unlike the training transitions a transition is: scores that are higher the less it resembles them, and what they are worth.

`NearestNeighbours` and `Mahalanobis` look at features of a transition (state, action, next state). `surprise` looks at how badly a model predicted it.
`KnownCodes` is for worlds that come in several known kinds (codes: objects, surfaces) when the kind of a transition is withheld: a transition is familiar if
some known code explains it. `fuse` joins scores through their p-values.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TREE_SIZE = 12  # features up to which a k-d tree finds neighbours faster than all distances do


def auroc(inliers: Tensor, outliers: Tensor) -> float:
    """Probability that an outlier's score is above an inlier's, ties counted half (the area under the ROC curve)."""
    if inliers.numel() == 0 or outliers.numel() == 0:
        raise ValueError(f"auroc needs at least one inlier and one outlier, got {inliers.numel()} and {outliers.numel()}.")
    ordered = inliers.flatten().double().sort().values
    scores = outliers.flatten().double().contiguous()
    below, upto = (torch.searchsorted(ordered, scores, right=right).double() for right in (False, True))
    return float((below + upto).mean() / (2 * len(ordered)))


def p_value(scores: Tensor, reference: Tensor) -> Tensor:
    """Conformal p-values of scores (N,) given those (M,) of transitions like the training ones that no fit saw: (1 + how many are as high) / (M + 1).

    For a transition like those in the reference, P(p <= a) <= a for every a (Vovk et al., 2005; Bates et al., Annals of Statistics 2023).
    """
    ordered = reference.flatten().double().sort().values
    return (1.0 + len(ordered) - torch.searchsorted(ordered, scores.double().contiguous())) / (len(ordered) + 1.0)


def surprise(errors: Tensor, scale: Tensor, *, dof: float = 4.0) -> Tensor:
    """Negative log likelihood, up to a constant, of errors (..., D) under a multivariate Student-t with scales (..., D): (...)."""
    distance = (errors / scale).square().sum(-1)
    return 0.5 * (dof + errors.shape[-1]) * torch.log1p(distance / dof) + scale.log().expand(errors.shape).sum(-1)


@dataclass(frozen=True)
class Mahalanobis:
    """Distance from the mean of the training features in units of their covariance."""

    mean: Tensor  # (F,)
    whitening: Tensor  # (F, F)
    reference: Tensor  # scores of the training transitions, each with itself left out

    @classmethod
    def fit(cls, features: Tensor) -> Mahalanobis:
        """From features (N, F); directions in which they do not vary at all are given a thousandth of their typical spread.

        Raises:
            ValueError: if there are fewer than three, or some are not finite.
        """
        if features.ndim != 2 or len(features) < 3:
            raise ValueError(f"Mahalanobis needs features (N, F) of at least three transitions, got {tuple(features.shape)}.")
        mean, whitening = _whitening(features)
        count, share = len(features), ((features.double() - mean) @ whitening).square().sum(-1) / (len(features) - 1)
        rest = (1 - share * count / (count - 1)).clamp_min(1e-9)  # Sherman and Morrison: mean and covariance of the others
        return cls(mean, whitening, ((count - 2) * (count / (count - 1)) ** 2 * share / rest).sqrt())

    def score(self, features: Tensor) -> Tensor:
        """(N,) of features (N, F)."""
        return ((features.double() - self.mean) @ self.whitening).norm(dim=-1)

    def p_value(self, features: Tensor) -> Tensor:
        """(N,)."""
        return p_value(self.score(features), self.reference)


@dataclass(frozen=True)
class NearestNeighbours:
    """Distance to the k-th nearest training transition in whitened features (Sun et al., ICML 2022)."""

    bank: Tensor  # (M, F) whitened
    mean: Tensor  # (F,)
    whitening: Tensor  # (F, F)
    k: int
    reference: Tensor  # scores of the training transitions, each with itself left out

    @classmethod
    def fit(cls, features: Tensor, *, k: int = 5) -> NearestNeighbours:
        """From features (N, F).

        Raises:
            ValueError: if there are not more than k, or some are not finite.
        """
        if features.ndim != 2 or len(features) <= k:
            raise ValueError(f"NearestNeighbours needs features (N, F) of more than k = {k} transitions, got {tuple(features.shape)}.")
        mean, whitening = _whitening(features)
        bank = (features.double() - mean) @ whitening
        return cls(bank, mean, whitening, k, _left_out_kth(bank, k))

    def score(self, features: Tensor) -> Tensor:
        """(N,) of features (N, F)."""
        return _kth((features.double() - self.mean) @ self.whitening, self.bank, self.k)

    def p_value(self, features: Tensor) -> Tensor:
        """(N,)."""
        return p_value(self.score(features), self.reference)


class KnownCodes:
    """How badly the best of C known codes explains a transition whose code is withheld.

    Features (N, C, F) say how each code would explain each transition: standardised prediction errors, violated constraints. A small network turns those of one
    code into a logit; a transition's score is minus their log-sum-exp. It learns from known codes only: each training transition is once shown with all codes,
    which is familiar, and once with its own code's group taken away, which plays the unknown (a contrastive estimate of a density ratio, as in Gutmann and
    Hyvaerinen, JMLR 2012).
    """

    def __init__(self, nets: Sequence[nn.Module], mean: Tensor, scale: Tensor, reference: Tensor) -> None:
        self.nets, self.mean, self.scale, self.reference = list(nets), mean, scale, reference

    @classmethod
    def fit(
        cls,
        features: Tensor,
        own: Tensor,
        groups: Sequence[Hashable],
        *,
        hidden: int = 16,
        members: int = 3,
        steps: int = 300,
        decay: float = 3e-3,
        folds: int = 3,
        seed: int = 0,
    ) -> KnownCodes:
        """From transitions that the codes' own models did not see in their fits.

        Args:
            features: (N, C, F).
            own: int (N,), which code each transition is of.
            groups: C labels, such as the shape where codes are a shape on a surface: unknown is what shares no label with a code.
            hidden: width of the two hidden layers.
            members: networks that are averaged.
            steps: of Adam on all transitions at once.
            decay: weight of the squared weights in the loss.
            folds: that give the reference scores out of fold; below 2 there is no reference, hence no p-values.
            seed: of weights and folds. The global random state is left as it was.

        Raises:
            ValueError: if shapes do not fit or all codes are of one group.
        """
        if features.ndim != 3 or len(own) != len(features) or len(groups) != features.shape[1] or len(set(groups)) < 2:
            got = f"{tuple(features.shape)}, {len(own)} codes and {len(set(groups))} groups of {len(groups)} codes"
            raise ValueError(f"KnownCodes needs features (N, C, F), N codes and C labels of at least two groups, got {got}.")
        labels = torch.tensor([list(dict.fromkeys(groups)).index(group) for group in groups])
        same = labels[own][:, None] == labels  # (N, C)
        x = features.float()
        mean, scale = x.mean((0, 1)), x.std((0, 1)).clamp_min(1e-6)
        x = (x - mean) / scale
        fold = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) % max(folds, 1)
        reference = torch.full((len(x),), float("nan"))
        for f in range(folds if folds > 1 else 0):
            held = fold == f
            nets = _train(x[~held], same[~held], hidden, 1, steps, decay, seed)
            reference[held] = -_logits(nets, x[held]).logsumexp(-1)
        return cls(_train(x, same, hidden, members, steps, decay, seed), mean, scale, reference[reference.isfinite()])

    def logits(self, features: Tensor) -> Tensor:
        """(N, C): how well each code explains each transition."""
        return _logits(self.nets, (features.float() - self.mean) / self.scale)

    def score(self, features: Tensor) -> Tensor:
        """(N,) of features (N, C, F), each transition by itself."""
        return -self.logits(features).logsumexp(-1)

    def score_set(self, features: Tensor) -> Tensor:
        """(S,) of features (S, M, C, F): M transitions of one and the same code, which one code must explain together."""
        return -self.logits(features.flatten(0, 1)).unflatten(0, features.shape[:2]).sum(1).logsumexp(-1)

    def p_value(self, features: Tensor) -> Tensor:
        """(N,) of features (N, C, F)."""
        if not len(self.reference):
            raise ValueError("KnownCodes.p_value needs reference scores; fit with folds of at least 2.")
        return p_value(self.score(features), self.reference)


def fuse(p_values: Tensor, *, how: str = "fisher") -> Tensor:
    """One score (N,) from the p-values (N, S) of S scores: `fisher`, minus the sum of logs, or `least`, minus the log of the least.

    Scores on the same transitions are dependent: for a p-value of the fused score, compare it with that of held-out transitions (`p_value`).
    """
    logs = p_values.log()
    if how not in ("fisher", "least"):
        raise ValueError(f"fuse knows fisher and least, got {how!r}.")
    return -logs.sum(-1) if how == "fisher" else -logs.amin(-1)


def _whitening(features: Tensor) -> tuple[Tensor, Tensor]:
    x = features.double()
    if not bool(x.isfinite().all()):
        raise ValueError(f"Novelty scores need finite features, got others of {int((~x.isfinite()).any(-1).sum())} transitions; leave these out.")
    mean = x.mean(0)
    values, axes = torch.linalg.eigh((x - mean).T.cov().reshape(x.shape[1], x.shape[1]))
    return mean, axes / values.clamp_min(1e-6 * float(values.mean()) + 1e-300).sqrt()


def _kth(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """Distance (N,) of queries (N, F) to the k-th nearest of a bank (M, F)."""
    if bank.shape[1] <= TREE_SIZE and bank.device.type == "cpu":
        from scipy.spatial import cKDTree

        distance, _ = cKDTree(bank.numpy()).query(queries.detach().numpy(), [k])
        return torch.as_tensor(distance)[:, 0]
    return torch.cat([torch.cdist(part, bank).topk(k, dim=-1, largest=False).values[:, -1] for part in queries.split(1024)])


def _left_out_kth(bank: Tensor, k: int) -> Tensor:
    """Distance of each whitened transition (M, F) to the k-th nearest other, in the covariance of the others (Sherman and Morrison)."""
    count, sizes = len(bank), bank.square().sum(-1)
    share = count / (count - 1) ** 2
    found = []
    for part, size in zip(bank.split(1024), sizes.split(1024), strict=True):
        along = size[:, None] - part @ bank.T  # of differences on the transition itself
        stretched = torch.cdist(part, bank).square() + along.square() * (share / (1 - share * size).clamp_min(1e-9))[:, None]
        found.append(((count - 2) / (count - 1) * stretched).sqrt().kthvalue(k + 1, dim=-1).values)  # it is its own nearest
    return torch.cat(found)


def _train(x: Tensor, same: Tensor, hidden: int, members: int, steps: int, decay: float, seed: int) -> list[nn.Module]:
    """Networks that tell transitions with all codes from those without their own group's."""
    nets: list[nn.Module] = []
    for member in range(members):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1000 + member)
            net = nn.Sequential(nn.Linear(x.shape[-1], hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        search = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(steps):
            logits = net(x)[..., 0]
            familiar, unknown = logits.logsumexp(-1), logits.masked_fill(same, float("-inf")).logsumexp(-1)
            size = torch.stack([weight.square().sum() for weight in net.parameters()]).sum()
            loss = nn.functional.softplus(-familiar).mean() + nn.functional.softplus(unknown).mean() + decay * size
            search.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            search.step()
        nets.append(net)
    return nets


def _logits(nets: Sequence[nn.Module], x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([net(x)[..., 0] for net in nets]).mean(0)
