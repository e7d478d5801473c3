from __future__ import annotations

import itertools
import random

import pytest
import torch
from scipy import stats
from torch import nn

from tutelage.models import parameter_count
from tutelage.students import (
    DepthSpace,
    SearchSpace,
    evolutionary_search,
    gradient_norm,
    naswot,
    partial_rank_correlation,
    random_search,
    rank_correlation,
    synflow,
)

SPACE = DepthSpace((1, 3, 5), (4, 8, 8), num_classes=4, input_shape=(1, 8, 8))
EVERY = list(itertools.product((1, 3, 5), repeat=3))


def test_a_depth_space_builds_what_it_prices() -> None:
    assert isinstance(SPACE, SearchSpace)
    assert len(SPACE) == 27
    rng = random.Random(0)
    for _ in range(5):
        arch = SPACE.sample(rng)
        assert arch in SPACE
        child = SPACE.mutate(arch, rng)
        assert sum(a != b for a, b in zip(arch, child, strict=True)) == 1
    net = SPACE.build((1, 1, 1))
    assert SPACE.cost((1, 1, 1)) == parameter_count(net)
    assert net(torch.zeros(2, 1, 8, 8)).logits.shape == (2, 4)
    with pytest.raises(ValueError, match="depths out of"):
        SPACE.build((2, 1, 1))


@pytest.mark.parametrize("search", [evolutionary_search, random_search])
def test_a_score_of_minus_cost_finds_the_cheapest(search: object) -> None:
    arguments = {"population": 8, "tournament": 4} if search is evolutionary_search else {}
    history, best = search(SPACE, lambda arch: -SPACE.cost(arch), evaluations=120, **arguments)  # type: ignore[operator]
    assert best == (1, 1, 1)
    assert len(history) == 120


@pytest.mark.parametrize("seed", range(3))
def test_nothing_above_the_budget_is_ever_scored(seed: int) -> None:
    budget = sorted(SPACE.cost(arch) for arch in EVERY)[9]
    seen = []
    history, best = evolutionary_search(
        SPACE,
        lambda arch: seen.append(arch) or SPACE.cost(arch),
        population=6,
        tournament=3,
        evaluations=60,
        budget=budget,
        seed=seed,
    )
    assert max(SPACE.cost(arch) for arch, _ in history) <= budget
    assert len(seen) == len(set(seen)), "an architecture was scored twice"
    assert SPACE.cost(best) == max(SPACE.cost(arch) for arch, _ in history)


def test_one_seed_one_history_and_evolution_beats_chance() -> None:
    wide = DepthSpace((1, 2, 3, 4, 5), (4,) * 5)
    wide.cost = lambda arch: 0.0  # type: ignore[method-assign, assignment]

    def closeness(arch: tuple[int, ...]) -> float:
        return -sum((depth - goal) ** 2 for depth, goal in zip(arch, (1, 5, 2, 4, 3), strict=True))

    first, again = (
        evolutionary_search(wide, closeness, population=20, tournament=5, evaluations=150, seed=1) for _ in range(2)
    )
    assert first == again
    evolved = [
        closeness(evolutionary_search(wide, closeness, population=20, tournament=5, evaluations=150, seed=s)[1])
        for s in range(4)
    ]
    drawn = [closeness(random_search(wide, closeness, evaluations=150, seed=s)[1]) for s in range(4)]
    assert sum(evolved) > sum(drawn)


def test_not_a_number_is_never_best() -> None:
    _, best = random_search(SPACE, lambda arch: float("nan") if arch[0] == 1 else 1.0, evaluations=40)
    assert best[0] != 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tournament": 9, "population": 8}, "tournament"),
        ({"evaluations": 0}, "evaluations"),
        ({"budget": 1.0}, "the cheapest of 1000"),
    ],
)
def test_bad_input(arguments: dict[str, int | float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evolutionary_search(SPACE, lambda arch: 0.0, **arguments)  # type: ignore[arg-type]


def test_correlations() -> None:
    a, b = [1.0, 3.0, 2.0, 5.0, 5.0], [2.0, 1.0, 3.0, 4.0, 6.0]
    assert rank_correlation(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert rank_correlation(a, b, kind="spearman") == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(a, a, kind="pearson") == pytest.approx(1)
    assert rank_correlation(a, [1.0] * 5) != rank_correlation(a, [1.0] * 5)  # NaN
    for bad in ([1.0, 2.0], [1.0, 2.0, 3.0, float("nan"), 5.0]):
        with pytest.raises(ValueError, match="`b`"):
            rank_correlation(a, bad)


def test_a_covariate_that_explains_everything_leaves_nothing() -> None:
    rng = random.Random(0)
    covariate = [rng.random() for _ in range(400)]
    score, accuracy = ([value + 0.3 * rng.random() for value in covariate] for _ in range(2))
    assert rank_correlation(score, accuracy, kind="spearman") > 0.8
    assert abs(partial_rank_correlation(score, accuracy, covariate)) < 0.15
    left = partial_rank_correlation(accuracy, accuracy, covariate)
    assert left == pytest.approx(1)
    assert partial_rank_correlation(covariate, accuracy, covariate) != 0  # NaN: nothing is left


def test_zero_cost_scores_leave_the_network_alone_and_know_its_size() -> None:
    small, large = (SPACE.build(arch) for arch in ((1, 1, 1), (5, 5, 5)))
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    before = {name: value.clone() for name, value in small.state_dict().items()}
    assert synflow(large, (1, 8, 8)) > synflow(small, (1, 8, 8))
    assert gradient_norm(small, x, y) > 0
    assert naswot(large, x) > naswot(small, x)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    with pytest.raises(ValueError, match="ReLU"):
        naswot(nn.Linear(2, 2), torch.zeros(2, 2))
