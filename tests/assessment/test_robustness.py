from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.assessment import (
    fgsm_attack,
    pgd_attack,
    projected_gradient_ascent,
    robust_accuracy_curve,
    weighted_robust_accuracy,
)
from tutelage.data.arrays import ArraySamples


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


def images(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 1, 8, 8), torch.arange(count) % 3


@pytest.mark.parametrize("start", ["gaussian", "uniform", "zero"])
def test_attack_stays_in_the_ball_and_the_bounds(network, start):
    x, y = images()
    attacked = pgd_attack(network, x, y, radius=0.1, step_size=0.04, steps=5, start=start)
    assert (attacked - x).abs().max() <= 0.1 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad
    network.eval()
    loss = nn.functional.cross_entropy
    assert loss(network(attacked), y) > loss(network(x), y)


def test_attack_leaves_the_model_as_it_was(network):
    x, y = images()
    network[2].eval()  # every sub-module has its own mode
    network[5].weight.grad = torch.ones_like(network[5].weight)
    modes = [part.training for part in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    pgd_attack(network, x, y, radius=0.1, step_size=0.04, steps=3)
    assert [part.training for part in network.modules()] == modes
    assert all(value.equal(state[name]) for name, value in network.state_dict().items())
    grads = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    assert list(grads) == ["5.weight"]
    assert grads["5.weight"].eq(1).all()


def test_modes_are_restored_after_an_error(network):
    def failing(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        pgd_attack(network, *images(), radius=0.1, step_size=0.04, steps=1, objective=failing)
    assert all(part.training for part in network.modules())


def test_attack_is_deterministic_under_a_generator(network):
    x, y = images()
    attacks = [
        pgd_attack(
            network,
            x,
            y,
            radius=0.1,
            step_size=0.02,
            steps=2,
            start="uniform",
            generator=torch.Generator().manual_seed(s),
        )
        for s in (1, 1, 2)
    ]
    assert attacks[0].equal(attacks[1])
    assert not attacks[0].equal(attacks[2])


def test_linear_model_is_pushed_to_the_corner():
    model = nn.Linear(5, 2)
    x, y = torch.full((3, 5), 0.5), torch.zeros(3, dtype=torch.int64)
    direction = (model.weight[1] - model.weight[0]).sign()
    expected = x + 0.2 * direction
    torch.testing.assert_close(pgd_attack(model, x, y, radius=0.2, step_size=1.0, steps=2), expected)
    torch.testing.assert_close(fgsm_attack(model, x, y, radius=0.2), expected)


@pytest.mark.parametrize("start", ["gaussian", "uniform", "zero"])
def test_attack_within_a_euclidean_ball_goes_along_the_gradient(start):
    model = nn.Linear(5, 2)
    x, y = torch.full((3, 5), 0.5), torch.zeros(3, dtype=torch.int64)
    direction = nn.functional.normalize(model.weight[1] - model.weight[0], dim=0)
    attacked = pgd_attack(model, x, y, radius=0.2, step_size=0.2, steps=30, start=start, norm="l2")
    torch.testing.assert_close(attacked, x + 0.2 * direction, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attack_works_where_gradients_are_off(network, mode):
    with mode():
        x, y = images()
        attacked = pgd_attack(network, x, y, radius=0.1, step_size=0.05, steps=2)
    assert not attacked.equal(x)


def test_objective_of_per_sample_values_is_raised():
    model = nn.Linear(4, 3)
    x, y = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])

    def margin(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        own = logits.gather(1, target[:, None]).squeeze(1)
        return logits.scatter(1, target[:, None], -torch.inf).amax(1) - own

    attacked = pgd_attack(model, x, y, radius=0.3, step_size=0.1, steps=5, objective=margin)
    assert (margin(model(attacked), y) >= margin(model(x), y) - 1e-6).all()


def test_l2_ascent_reaches_the_spectral_norm():
    # sup over the ball of the norm of W δ is radius · σ_max(W)
    weight, x = torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    objective = lambda moved: ((moved - x) @ weight.T).norm(dim=1)  # noqa: E731
    reached = projected_gradient_ascent(objective, x, norm="l2", radius=0.5, step_size=0.2, steps=200)
    best = 0.5 * torch.linalg.matrix_norm(weight, 2)
    assert (objective(reached) >= 0.999 * best).all()
    assert ((reached - x).norm(dim=1) <= 0.5 + 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball(norm):
    x = torch.zeros(400, 3)
    flat = lambda moved: moved.sum(dim=1) * 0  # noqa: E731  # no gradient: the start stays
    reached = projected_gradient_ascent(flat, x, norm=norm, radius=2.0, step_size=1.0, steps=1)
    size = reached.norm(dim=1) if norm == "l2" else reached.abs().amax(dim=1)
    assert size.max() <= 2 + 1e-5
    assert size.min() < 0.9
    assert size.max() > 1.9
    stay = projected_gradient_ascent(flat, x, norm=norm, radius=2.0, step_size=1.0, steps=1, random_start=False)
    assert stay.equal(x)


def test_radius_zero_changes_nothing(network):
    x, y = images()
    assert fgsm_attack(network, x, y, radius=0.0).equal(x)
    moved = projected_gradient_ascent(lambda v: v.flatten(1).sum(1), x, radius=0.0, step_size=0.1, steps=2)
    torch.testing.assert_close(moved, x)


def test_curve_starts_at_clean_accuracy_and_never_rises(network):
    x, y = images(40)
    curve = robust_accuracy_curve(network, ArraySamples(x, y), [0.3, 0.0, 0.05, 0.1], steps=4, num_samples=None)
    network.eval()
    clean = float((network(x).argmax(1) == y).double().mean())
    by_radius = dict(zip(curve.epsilon, curve.accuracy, strict=True))
    assert curve.epsilon == (0.3, 0.0, 0.05, 0.1)
    assert by_radius[0.0] == pytest.approx(clean)
    assert sorted(by_radius.values(), reverse=True) == [by_radius[radius] for radius in sorted(by_radius)]
    assert curve.num_samples == 40


def test_curve_of_a_linear_model_is_exact():
    # the margin of x is 2·x − 1, so a sample falls when its distance to ½ is below the radius
    class Threshold(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([1 - x, x], dim=1)

    x = torch.tensor([[0.55], [0.65], [0.75], [0.95], [0.0]])
    samples = ArraySamples(x, torch.tensor([1, 1, 1, 1, 0]))
    curve = robust_accuracy_curve(Threshold(), samples, [0.0, 0.1, 0.2, 0.3], bounds=(0.0, 1.0), batch_size=2)
    assert curve.accuracy == (1.0, 0.8, 0.6, 0.4)


def test_weighted_robust_accuracy():
    assert weighted_robust_accuracy(0.9, 0.5) == pytest.approx(0.7)
    assert weighted_robust_accuracy(0.9, 0.5, weight=1.0) == 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -0.1}, "`radius` to be at least 0"),
        ({"steps": 0}, "`steps` to be at least 1"),
        ({"step_size": 0.0}, "`step_size` to be positive"),
        ({"x": torch.full((1, 1, 8, 8), 1.5), "y": torch.tensor([0])}, "within the bounds"),
        ({"x": torch.empty(0, 1, 8, 8), "y": torch.empty(0, dtype=torch.int64)}, "empty"),
        ({"norm": "l1"}, "`norm` to be one of"),
        ({"start": "gausian"}, "did you mean 'gaussian'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(network, change, message):
    x, y = images()
    settings = {"x": x, "y": y, "radius": 0.1, "step_size": 0.05, "steps": 1} | change
    with pytest.raises(ValueError, match=message):
        pgd_attack(network, **settings)


def test_bad_curves(network):
    x, y = images()
    with pytest.raises(ValueError, match="at least one radius"):
        robust_accuracy_curve(network, ArraySamples(x, y), [])
    with pytest.raises(ValueError, match="targets"):
        robust_accuracy_curve(network, ArraySamples(x), [0.1])
    with pytest.raises(ValueError, match="floating-point input"):
        robust_accuracy_curve(network, ArraySamples(torch.zeros(3, 4).long(), torch.zeros(3).long()), [0.1])
    with pytest.raises(ValueError, match="at least 0"):
        robust_accuracy_curve(network, ArraySamples(x, y), [-0.1])
