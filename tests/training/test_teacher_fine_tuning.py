from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.assessment import conditional_mutual_information
from tutelage.data import ArraySamples
from tutelage.features import class_conditional_mean
from tutelage.objectives import ClassCentroids, MCMILoss, Progress, mcmi_loss
from tutelage.training import MCMIFineTuning, Monitor, Trainer, TrainingSettings, fine_tune_teacher


def samples(count: int = 96) -> ArraySamples:
    """Three overlapping classes in four dimensions."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(count) % 3
    return ArraySamples(torch.randn(count, 4, generator=generator) + 1.5 * F.one_hot(target, 4), target)


def network(dropout: float = 0.0, batch_norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    middle: nn.Module = nn.BatchNorm1d(16) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 16), middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def everything(data: ArraySamples) -> tuple[Tensor, Tensor]:
    batch = data.batch(torch.arange(len(data)))
    assert isinstance(batch.inputs, Tensor)
    assert batch.target is not None
    return batch.inputs, batch.target


def cmi(model: nn.Module, data: ArraySamples) -> float:
    inputs, target = everything(data)
    return conditional_mutual_information(model(inputs), target).item()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return fine_tune_teacher(network(), samples(), cmi_weight=0.0, epochs=20, batch_size=32)


@pytest.mark.parametrize("update", ["epoch", "fixed", "ema"])
def test_it_raises_the_mutual_information_the_more_the_larger_the_weight(trained, update):
    data = samples()
    values = []
    for weight in (0.0, 0.2, 0.5):
        teacher = copy.deepcopy(trained)
        assert fine_tune_teacher(
            teacher, data, cmi_weight=weight, epochs=10, batch_size=32, centroid_update=update, learning_rate=0.02
        ) is teacher  # fmt: skip
        assert not teacher.training
        values.append(cmi(teacher, data))
    assert values[0] < values[1] < values[2]


def test_a_wrong_sign_lowers_the_mutual_information(trained, monkeypatch):
    data = samples()
    plain, wrong = copy.deepcopy(trained), copy.deepcopy(trained)
    fine_tune_teacher(plain, data, cmi_weight=0.0, epochs=10, batch_size=32)
    whole = MCMILoss.parts

    def flipped(self: MCMILoss, logits: Tensor, target: Tensor):
        parts = whole(self, logits, target)
        return parts._replace(cmi=-parts.cmi)

    monkeypatch.setattr(MCMILoss, "parts", flipped)
    fine_tune_teacher(wrong, data, cmi_weight=0.5, epochs=10, batch_size=32)
    assert cmi(wrong, data) < cmi(plain, data)


def slow_fine_tuning(model: nn.Module, data: ArraySamples, weight: float, epochs: int, update: str) -> nn.Module:
    """By hand: whole batches, plain SGD, centroids from probabilities."""
    inputs, target = everything(data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        if epoch == 0 or update == "epoch":
            with torch.no_grad():
                centroids = class_conditional_mean(model(inputs).softmax(1), target, num_classes=3)
        logits = model(inputs)
        loss = mcmi_loss(logits, target, centroids, cmi_weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("update", ["epoch", "fixed"])
def test_training_is_a_hand_written_loop(update):
    data = samples()
    expected = slow_fine_tuning(network(), data, 0.4, 6, update)
    found = fine_tune_teacher(
        network(), data, cmi_weight=0.4, epochs=6, batch_size=96, learning_rate=0.1, centroid_update=update,
        momentum=0.0, weight_decay=0.0, scheduler="constant",
    )  # fmt: skip
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def method_of(model: nn.Module, update: str = "epoch", **options: object) -> MCMIFineTuning:
    method = MCMIFineTuning(model, samples(), MCMILoss(ClassCentroids(update)), batch_size=32, **options)
    method.setup(samples().batch(torch.arange(4)))
    return method


def test_losses_of_a_step_are_the_two_parts():
    method = method_of(network())
    method.advance(Progress(0, 6, 3))
    batch = samples().batch(torch.arange(10))
    losses = method.step(batch)
    logits = method.model(batch.inputs)
    parts = mcmi_loss(logits, batch.target, method.objective.centroids.probabilities, return_parts=True)
    torch.testing.assert_close(losses["cross_entropy"], parts.cross_entropy)
    torch.testing.assert_close(sum(losses.values()), parts.loss)


def test_centroids_are_the_class_means_of_the_model_and_change_only_by_the_epoch():
    method = method_of(network(), centroid_mode="eval")
    inputs, target = everything(samples())
    method.advance(Progress(0, 6, 3))
    first = method.objective.centroids.probabilities.clone()
    torch.testing.assert_close(first, class_conditional_mean(method.model(inputs).softmax(1), target, num_classes=3))
    with torch.no_grad():
        method.model[-1].bias += torch.tensor([1.0, 0.0, 0.0])
    method.advance(Progress(1, 6, 3))
    assert torch.equal(method.objective.centroids.probabilities, first)
    method.advance(Progress(3, 6, 3))
    torch.testing.assert_close(
        method.objective.centroids.probabilities,
        class_conditional_mean(method.model(inputs).softmax(1), target, num_classes=3),
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_taking_centroids_leaves_the_model_as_it_was(mode):
    model = network(dropout=0.3, batch_norm=True).train()
    method = method_of(model, centroid_mode=mode)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method.advance(Progress(0, 6, 3))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_modes_differ_where_the_model_trains_otherwise_than_it_predicts():
    found = []
    for mode in ("train", "eval"):
        method = method_of(network(batch_norm=True), centroid_mode=mode)
        method.advance(Progress(0, 6, 3))
        found.append(method.objective.centroids.probabilities)
    assert (found[0] - found[1]).abs().max() > 1e-3


class StopAt(Monitor):
    def __init__(self, step: int) -> None:
        self.stop = step

    def on_step(self, progress: Progress, losses: object) -> None:
        if progress.step == self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("update", ["epoch", "fixed", "ema"])
def test_a_resumed_run_ends_with_the_same_bits(update, tmp_path):
    options = {"cmi_weight": 0.3, "epochs": 4, "batch_size": 32, "centroid_update": update, "checkpoint_every": 1}
    whole = fine_tune_teacher(network(dropout=0.2, batch_norm=True), samples(), **options)
    objective = MCMILoss(ClassCentroids(update), cmi_weight=0.3)
    model = network(dropout=0.2, batch_norm=True)
    settings = TrainingSettings(epochs=4, batch_size=32, learning_rate=0.05, optimizer="sgd", momentum=0.9,
                                weight_decay=5e-4, scheduler="cosine", checkpoint_every=1)  # fmt: skip
    stopped = Trainer(
        MCMIFineTuning(model, samples(), objective, batch_size=32), samples(), settings=settings, folder=tmp_path,
        monitors=[StopAt(5)],
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = fine_tune_teacher(
        network(dropout=0.2, batch_norm=True), samples(), folder=tmp_path, resume=True, **options
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_it_takes_whatever_data_come_as():
    data = samples()
    inputs, target = everything(data)
    dataset = torch.utils.data.TensorDataset(inputs, target)
    options = {"cmi_weight": 0.2, "epochs": 1}
    found = [
        fine_tune_teacher(network(), given, **options)
        for given in (data, (inputs, target), dataset, torch.utils.data.DataLoader(dataset, batch_size=7))
    ]
    for model in found[1:]:
        assert torch.equal(model[0].weight, found[0][0].weight)


def test_bad_input():
    inputs, target = everything(samples())
    with pytest.raises(ValueError, match="`cmi_weight` to be at least 0, but got -1"):
        fine_tune_teacher(network(), samples(), cmi_weight=-1.0)
    with pytest.raises(ValueError, match="learning_rat"):
        fine_tune_teacher(network(), samples(), learning_rat=0.1)
    with pytest.raises(ValueError, match="none of 2"):
        fine_tune_teacher(network(), (inputs[target < 2], target[target < 2]))
    with pytest.raises(ValueError, match="no target"):
        fine_tune_teacher(network(), inputs)
    with pytest.raises(ValueError, match=r"logits `\[batch, classes\]`"):
        fine_tune_teacher(nn.Unflatten(1, (2, 2)), (inputs, target))
