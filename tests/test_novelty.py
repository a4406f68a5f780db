"""Scores of how unlike the training transitions a transition is."""

import math

import pytest
import torch

from structwm.physics.push_novelty import EXPLANATION, TRANSITION, explanation_features, transition_features
from structwm.physics.pushing import PushState, PushTwin, rectangle
from structwm.physics.recording import Recording
from structwm.training.novelty import KnownCodes, Mahalanobis, NearestNeighbours, auroc, fuse, p_value, surprise
from tests.test_push_twin import starts


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_auroc_counts_pairs():
    a, b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    pairs = [(1.0 if y > x else 0.5 if y == x else 0.0) for x in a for y in b]
    assert auroc(a, b) == pytest.approx(sum(pairs) / 6)
    assert auroc(a, a + 10) == 1.0 and auroc(a, a - 10) == 0.0 and auroc(a, a) == 0.5
    with pytest.raises(ValueError, match="at least one"):
        auroc(a, a[:0])


def test_p_values_of_familiar_transitions_are_uniform():
    """P(p <= a) <= a on average; given 2000 reference scores and 2000 new ones it is off by at most 4 sqrt(2 * 0.25 / 2000) = 0.06."""
    p = p_value(normal(2000, seed=1), normal(2000))
    for level in (0.05, 0.2, 0.5, 0.9):
        assert abs(float((p <= level).double().mean()) - level) < 0.06
    assert float(p_value(torch.tensor([99.0]), torch.arange(9.0))) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [NearestNeighbours, Mahalanobis])
def test_scores_of_features_do_not_depend_on_units_and_find_what_is_unlike(kind):
    """Units: whitening undoes any invertible linear map, to rounding."""
    train, same, other = normal(400, 4), normal(300, 4, seed=1), normal(300, 4, seed=2) + torch.tensor([4.0, 0, 0, 0])
    units = normal(4, 4, seed=5) + 3 * torch.eye(4)
    fitted, mapped = kind.fit(train), kind.fit(train @ units)
    assert torch.allclose(fitted.score(same), mapped.score(same @ units), rtol=1e-6)
    assert auroc(fitted.score(same), fitted.score(other)) > 0.95
    assert abs(float((fitted.p_value(same) <= 0.1).double().mean()) - 0.1) < 0.07  # 4 sqrt(0.09 (1/400 + 1/300))
    assert float(fitted.p_value(other).median()) < 0.05


@pytest.mark.parametrize("kind", [NearestNeighbours, Mahalanobis])
def test_p_values_are_valid_from_few_transitions_with_many_features(kind):
    """P(p <= 0.1) over 40 fits of 60 transitions with 9 features and 100 new ones each: 0.1, to three standard errors of sqrt(0.09 (1 / 60 + 1 / 100) / 40)."""
    rates = [float((kind.fit(normal(60, 9, seed=s)).p_value(normal(100, 9, seed=1000 + s)) <= 0.1).double().mean()) for s in range(40)]
    assert abs(sum(rates) / len(rates) - 0.1) < 0.03


@pytest.mark.parametrize("kind", [NearestNeighbours, Mahalanobis])
def test_a_transition_left_out_has_the_distance_that_the_others_give_it(kind):
    features = normal(30, 3)
    fitted = kind.fit(features)
    for i in (0, 7):
        others = torch.cat((features[:i], features[i + 1 :]))
        assert float(fitted.reference[i]) == pytest.approx(float(kind.fit(others).score(features[i : i + 1])), rel=1e-6)


def test_too_few_transitions_are_refused():
    features = normal(1, 3)
    with pytest.raises(ValueError, match="at least three transitions"):
        Mahalanobis.fit(features[:1])


@pytest.mark.parametrize("kind", [NearestNeighbours, Mahalanobis])
def test_features_that_are_not_finite_are_refused(kind):
    features = normal(30, 3)
    features[3, 1], features[7] = math.inf, math.nan
    with pytest.raises(ValueError, match="finite features, got others of 2 transitions"):
        kind.fit(features)


def test_neighbours_see_holes_that_the_mahalanobis_distance_does_not():
    angle = 2 * math.pi * torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ring = torch.stack((angle.cos(), angle.sin()), -1) + 0.05 * normal(500, 2)
    hole = 0.05 * normal(100, 2, seed=1)
    assert auroc(NearestNeighbours.fit(ring[:400]).score(ring[400:]), NearestNeighbours.fit(ring[:400]).score(hole)) > 0.99
    assert auroc(Mahalanobis.fit(ring[:400]).score(ring[400:]), Mahalanobis.fit(ring[:400]).score(hole)) < 0.1
    with pytest.raises(ValueError, match="more than k = 5"):
        NearestNeighbours.fit(ring[:5])


def test_surprise_is_the_student_density():
    """Against torch's one-dimensional density, whose constant is left out."""
    errors, scale = normal(50, 1), torch.full((50, 1), 0.3, dtype=torch.float64)
    exact = -torch.distributions.StudentT(torch.tensor(4.0, dtype=torch.float64), scale=0.3).log_prob(errors[:, 0])
    found = surprise(errors, scale)
    assert torch.allclose(exact - exact[0], found - found[0], atol=1e-12)


def test_p_values_fuse_what_single_scores_miss():
    """Two scores of two independent features, each of which shows half of what is unlike."""
    train, same, other = normal(2000, 2), normal(2000, 2, seed=1), normal(2000, 2, seed=2) + torch.tensor([1.5, 1.5])

    def both(x):
        return torch.stack([p_value(x[:, d], train[:, d]) for d in range(2)], -1)

    single = auroc(same[:, 0], other[:, 0])
    assert all(auroc(fuse(both(same), how=how), fuse(both(other), how=how)) > single + 0.02 for how in ("fisher", "least"))
    with pytest.raises(ValueError, match="fisher and least"):
        fuse(both(same), how="sum")


def codes(count, offsets, centres, seed=0):
    """Transitions of codes that lie around their centres, and each code's standardised error of them (N, C, 2)."""
    own = torch.arange(count) % len(offsets)
    x = offsets[own] + 0.1 * normal(count, 2, seed=seed)
    return (x[:, None] - centres) / 0.1, own


def test_known_codes_learn_what_an_explanation_looks_like():
    """Eight codes in four groups, learned; two new codes must not be explained. Errors of 2 of the features say nothing."""
    source = torch.Generator().manual_seed(3)
    centres = 3 * torch.rand(8, 2, generator=source, dtype=torch.float64)
    strangers = 3 * torch.rand(40, 2, generator=source, dtype=torch.float64)
    strangers = strangers[torch.cdist(strangers, centres).amin(1) > 0.5]

    def with_noise(features, seed):
        return torch.cat((torch.asinh(features.abs()), normal(*features.shape, seed=seed)), -1)

    train, own = codes(400, centres, centres)
    model = KnownCodes.fit(with_noise(train, 10), own, [k // 2 for k in range(8)], steps=200, members=1)
    familiar, unknown = with_noise(codes(400, centres, centres, seed=1)[0], 11), with_noise(codes(400, strangers, centres, seed=2)[0], 12)
    assert auroc(model.score(familiar), model.score(unknown)) > 0.95
    assert float((model.p_value(familiar) <= 0.1).double().mean()) < 0.2  # 0.1 + 4 sqrt(0.09 / 400) + the folds' own differences
    ids = codes(400, centres, centres, seed=1)[1]
    sets = torch.stack([familiar[ids == k][:10] for k in range(8)])
    assert float(model.score_set(sets).max()) < float(model.score_set(unknown[: 8 * 10].reshape(8, 10, 8, 4)).min())
    again = KnownCodes.fit(with_noise(train, 10), own, [k // 2 for k in range(8)], steps=200, members=1)
    assert torch.equal(model.score(unknown), again.score(unknown))
    with pytest.raises(ValueError, match="at least two groups"):
        KnownCodes.fit(train, own, ["one"] * 8)


def pushes(shape, count=40):
    """Noise-free pushes of 2 cm."""
    twin = PushTwin(shape, dt=1.0, substeps=20)
    state, velocity = starts(shape, count)
    actions = (0.25 * velocity).unsqueeze(1)
    final = twin.rollout(state, actions).states.pose
    observed = {name: final[..., i] for i, name in enumerate(("x", "y", "yaw"))}
    return twin, Recording(state, actions, observed, {"x": 0.002, "y": 0.002, "yaw": 0.03}, frozenset({"yaw"}))


def moved(recording, angle, shift):
    """The same pushes elsewhere in the world."""
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    shift = torch.tensor(shift, dtype=torch.float64)
    pose = torch.cat((recording.state.pose[:, :2] @ turn.T + shift, recording.state.pose[:, 2:] + angle), -1)
    x, y = (torch.stack((recording.observed["x"], recording.observed["y"]), -1) @ turn.T + shift).unbind(-1)
    state = PushState(pose=pose, pusher=recording.state.pusher @ turn.T + shift, batch_size=recording.state.batch_size)
    return Recording(state, recording.actions @ turn.T, {"x": x, "y": y, "yaw": recording.observed["yaw"] + angle}, recording.scale, recording.periodic)


def test_push_features_do_not_depend_on_where_the_world_is():
    """An isotropic surface: rounding, and the kernel's, only. Yaw is not wrapped in what was recorded."""
    twin, recording = pushes(rectangle(0.09, 0.11))
    elsewhere = moved(recording, 2.0, (0.3, -0.2))
    here = transition_features(recording)
    assert here.shape == (40, len(TRANSITION)) and torch.allclose(here, transition_features(elsewhere), atol=1e-9)
    explained = explanation_features([twin], recording)
    assert explained.shape == (40, 1, len(EXPLANATION)) and torch.allclose(explained, explanation_features([twin], elsewhere), atol=1e-3)


def test_a_twin_explains_its_own_pushes_and_not_another_sliders():
    twins, recordings = zip(*(pushes(shape) for shape in (rectangle(0.09, 0.11), rectangle(0.08, 0.13))))
    error, gap = EXPLANATION.index("error"), EXPLANATION.index("end_gap")
    for k, recording in enumerate(recordings):
        features = explanation_features(twins, recording)
        assert float(features[:, k, error].max()) < 0.05  # the prediction is what was recorded
        own, other = (float(features[:, at, gap].abs().median()) for at in (k, 1 - k))  # in 0.2 mm, compressed
        assert own < 0.3 and other > 1.0


@pytest.mark.parametrize("size", [4, 20])
def test_the_kth_neighbour_is_that_of_all_distances(size):
    """Few features are searched by a tree, many by all distances; both agree with sorting."""
    known, new = normal(300, size), normal(50, size, seed=1)
    score = NearestNeighbours.fit(known, k=3)
    white = (new - score.mean) @ score.whitening
    assert torch.allclose(score.score(new), torch.cdist(white, score.bank).sort(-1).values[:, 2], atol=1e-9)
