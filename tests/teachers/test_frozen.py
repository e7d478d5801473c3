from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.batch import Batch
from tutelage.teachers import FrozenTeacher, RandomTeacher, Teacher, model_fingerprint, teacher_fingerprint


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))


def batch(size: int = 5) -> Batch:
    return Batch(torch.randn(size, 4), None, torch.arange(size))


def test_gives_the_models_outputs_without_a_gradient() -> None:
    model = network().eval()
    data = batch()
    expected = model(data.inputs)
    teacher = FrozenTeacher(model)
    assert isinstance(teacher, Teacher)
    logits = teacher(data).logits
    assert torch.equal(logits, expected)
    assert not logits.requires_grad
    assert not logits.is_inference()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_outputs_may_enter_autograd() -> None:
    projector = nn.Linear(3, 2)
    projector(FrozenTeacher(network())(batch()).logits).sum().backward()
    assert projector.weight.grad is not None


@pytest.mark.parametrize("who", ["teacher", "holder", "model", "part"])
def test_stays_in_evaluation_mode_whoever_calls_train(who: str) -> None:
    model = network()
    teacher = FrozenTeacher(model)
    data = batch()
    first = teacher(data).logits
    statistics = model[1].running_mean.clone()
    {"teacher": teacher, "holder": nn.ModuleList([teacher]), "model": model, "part": model[3]}[who].train()
    assert torch.equal(teacher(data).logits, first)
    assert torch.equal(model[1].running_mean, statistics)
    assert not any(module.training for module in model.modules())


def test_observes_embedding_and_taps() -> None:
    model = network()
    data = batch()
    outputs = FrozenTeacher(model, embedding=True, taps={"wide": "0", "into": "1:input"})(data)
    assert torch.equal(outputs.features["wide"], model[0](data.inputs))
    assert torch.equal(outputs.features["into"], outputs.features["wide"])
    assert torch.allclose(model[4](outputs.embedding), outputs.logits)
    assert not outputs.embedding.requires_grad


def test_a_tap_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="'wide'"):
        FrozenTeacher(network(), taps={"wide": "nowhere"})


def test_the_fingerprint_knows_weights_buffers_and_architecture_only() -> None:
    model = network()
    before = model_fingerprint(model)
    assert before == FrozenTeacher(model, embedding=True).fingerprint() == teacher_fingerprint(model.eval())
    with torch.no_grad():
        model[1].running_mean[0] += 1
    assert model_fingerprint(model) != before
    with torch.no_grad():
        model[1].running_mean[0] -= 1
    assert model_fingerprint(model) == before
    model[2] = nn.GELU()
    assert model_fingerprint(model) != before


def test_a_teacher_without_a_fingerprint() -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        teacher_fingerprint(lambda batch: batch)


def test_random_teachers_are_new_at_every_seed_and_leave_the_rest_alone() -> None:
    model = network()
    with torch.no_grad():
        model[1].running_mean.fill_(3.0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    teacher = RandomTeacher(model, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert teacher.model[1].running_mean.abs().max() == 0
    assert teacher.fingerprint() == RandomTeacher(model, seed=1).fingerprint()
    assert teacher.fingerprint() != RandomTeacher(model, seed=2).fingerprint()
    assert RandomTeacher(network, seed=5).fingerprint() == RandomTeacher(network, seed=5).fingerprint()


def test_a_random_teacher_needs_modules_that_initialise_themselves() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(3))

    with pytest.raises(ValueError, match=r"'1' \(Token\) has none"):
        RandomTeacher(nn.Sequential(nn.Linear(2, 2), Token()))
