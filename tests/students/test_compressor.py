import pytest
import torch
from torch import nn

from tutelage.data import ArraySamples
from tutelage.models import convnet, parameter_count, resnet
from tutelage.students import (
    NetworkCompressor,
    RemovalPolicy,
    ShortDistillation,
    describe_layers,
    random_architecture_search,
    uniform_width_architecture,
)
from tutelage.training import NonFiniteLoss, TrainingSettings

SHAPE = (1, 8, 8)


def teacher(**arguments):
    return convnet(SHAPE, 10, channels=arguments.pop("channels", (24, 16)), **arguments)


def half(network: nn.Module) -> float:
    return 0.5


def compressor(network=None, train=lambda student: None, evaluate=half, cls=NetworkCompressor, **settings):
    settings = {"iterations": 3, "rollouts": 4, "input_shape": SHAPE, **settings}
    return cls(network or teacher(), train, evaluate, **settings)


def test_one_seed_one_history_and_each_architecture_is_trained_once():
    trained = []
    first = compressor(train=lambda student: trained.append(parameter_count(student)))
    first.search()
    again, other = compressor(), compressor(seed=1)
    again.search()
    other.search()
    assert first.history == again.history
    assert first.history != other.history
    assert len(first.history) == 2 * 3 * 4
    valid = {candidate.architecture for candidate in first.history if not candidate.refusal}
    assert len(trained) == len(valid) < len(first.history)
    assert first.rewards("removal").shape == (3, 4)
    best = first.best()
    assert parameter_count(first.build(best.architecture)) == best.size < first.teacher_size


def test_what_is_no_network_or_no_smaller_costs_minus_one():
    search = compressor(teacher(channels=(10,)), iterations=6)
    search.search()
    refused = [candidate for candidate in search.history if candidate.refusal]
    keep_all = [candidate for candidate in refused if candidate.architecture == search.teacher_layers]
    assert keep_all
    assert all(candidate.reward == -1 for candidate in refused)
    assert "no fewer" in keep_all[0].refusal


def test_students_of_a_residual_network():
    search = compressor(resnet(SHAPE, 10, widths=(16, 24), depths=(1, 2)), iterations=2)
    best = search.search()
    assert search.build(best.architecture)(torch.zeros(2, *SHAPE)).shape == (2, 10)


def test_losses_that_are_not_finite_count_as_nothing_learned():
    def fail(student):
        raise NonFiniteLoss("infinite")

    assert {candidate.accuracy for candidate in _searched(compressor(train=fail)).history} == {0.0}


def test_the_limits_decide_the_best_student_in_the_end():
    free, tight = (
        _searched(compressor(iterations=5, evaluate=_wide_is_good, size_limit=limit)) for limit in (None, 2500)
    )
    assert free.best().size > 2500 >= tight.best().size


def test_while_all_students_are_too_large_the_best_without_limits_is_the_best():
    search = _searched(compressor(iterations=4, evaluate=_wide_is_good, size_limit=1))
    worth = [
        (1 - (size := candidate.size) / search.teacher_size) * (1 + size / search.teacher_size) * candidate.accuracy
        for candidate in search.history
        if not candidate.refusal
    ]
    best = search.best()
    size = best.size / search.teacher_size
    assert (1 - size) * (1 + size) * best.accuracy == pytest.approx(max(worth))
    assert len(set(worth)) > 3


def _wide_is_good(network: nn.Module) -> float:
    return min(1.0, 0.01 + parameter_count(network) / 4000) ** 2


def _searched(search):
    search.search()
    return search


def test_rewards_are_measured_from_the_teacher_or_from_the_stage():
    of_teacher, of_stage = (_searched(compressor(reference=reference)) for reference in ("teacher", "stage"))
    of_stage_2 = [c for c in of_teacher.history if c.stage == "shrinkage" and not c.refusal]
    assert of_stage_2
    for candidate in of_stage_2:
        compression = 1 - candidate.size / of_teacher.teacher_size
        assert candidate.reward == pytest.approx(compression * (2 - compression))
    start = max((c for c in of_stage.history if c.stage == "removal"), key=lambda c: c.reward)
    for candidate in of_stage.history:
        if candidate.stage == "shrinkage" and not candidate.refusal:
            compression = 1 - candidate.size / start.size
            assert candidate.reward == pytest.approx(compression * (2 - compression))


def test_policies_move_to_a_larger_teacher():
    small = _searched(compressor())
    start = {name: value.clone() for name, value in small.removal_policy.state_dict().items()}
    policy = RemovalPolicy(5)
    policy.load_state_dict(start)
    large = compressor(teacher(channels=(24, 24, 16)), removal_policy=policy, iterations=1)
    large.remove_layers()
    assert large.removal_policy is policy
    assert any(not torch.equal(value, start[name]) for name, value in policy.state_dict().items())
    with pytest.raises(ValueError, match="7 entries"):
        compressor(resnet(SHAPE, 10, widths=(16,), depths=(1,)), removal_policy=policy)


def test_random_search_has_the_same_budget_and_does_not_learn():
    search = random_architecture_search(
        teacher(), lambda student: None, half, input_shape=SHAPE, iterations=4, rollouts=3
    )
    assert len(search.history) == 24
    fresh = compressor().removal_policy.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in search.removal_policy.state_dict().items())
    assert search.best().size < search.teacher_size


def test_learning_raises_the_reward_where_small_is_all_that_counts():
    network = convnet(SHAPE, 10, channels=(24, 24, 24), normalization="batch")
    search = compressor(network, iterations=(40, 0), rollouts=5, learning_rate=0.03)
    search.remove_layers()
    rewards = search.rewards("removal").mean(dim=1)
    assert rewards[-10:].mean() > rewards[:10].mean()


def test_uniform_width_keeps_to_the_size():
    _, specs = describe_layers(teacher(channels=(40, 16)))
    previous = 0
    for limit in (3000, 5000, 10_000):
        found = uniform_width_architecture(specs, SHAPE, limit)
        size = parameter_count(compressor().build(found))
        assert previous < size <= limit
        previous = size


def test_a_search_with_real_lessons():
    torch.manual_seed(0)
    samples = ArraySamples(torch.randn(60, *SHAPE), torch.arange(60) % 10)
    lesson = ShortDistillation(
        teacher(), samples, samples, settings=TrainingSettings(optimizer="adam", epochs=1, batch_size=30)
    )
    search = compressor(train=lesson.train, evaluate=lesson.accuracy, iterations=1, rollouts=2)
    assert 0 <= search.search().accuracy <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollouts": 0}, "rollouts"),
        ({"horizon": 0}, "horizon"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"evaluate": lambda network: 0.0}, "teacher accuracy"),
        ({"input_shape": (1, 16, 16), "network": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, "rebuilt"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        compressor(**settings)


def test_nothing_smaller_is_said():
    search = compressor(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(ValueError, match="smaller than the teacher"):
        search.search()
