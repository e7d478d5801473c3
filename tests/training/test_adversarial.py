from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.assessment import pgd_attack
from tutelage.batch import Batch
from tutelage.data import ArraySamples
from tutelage.objectives import (
    CrossEntropy,
    KnowledgeDistillation,
    Objective,
    PGDAdversarialTrainingLoss,
    Progress,
    SmoothAdversarialCompSumLoss,
    TradesLoss,
    forward_kl,
    margin_change,
    smooth_adversarial_comp_sum_loss,
    trades_loss,
)
from tutelage.teachers import CachedTeacher, FrozenTeacher, build_cache
from tutelage.training import AdversarialDistillation, Monitor, Trainer, TrainingSettings, Weighted


def network(seed: int = 0, *, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


def batch(count: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand(count, 1, 6, 6, generator=generator)
    return Batch(inputs, torch.arange(count) % 3, torch.arange(count))


def taught(objective: Objective, student: nn.Module, **options: object) -> AdversarialDistillation:
    settings = {"radius": 0.2, "steps": 3, **options}
    return AdversarialDistillation(None, student.train(), objective, **settings)  # type: ignore[arg-type]


def attacked_by_hand(student: nn.Module, raised: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The attack as the papers write it: signed steps on the raised loss in evaluation mode, from Gaussian noise."""
    data, evaluated = batch(), copy.deepcopy(student).eval()
    assert isinstance(data.inputs, Tensor)
    clean = evaluated(data.inputs).detach()
    point = data.inputs + 0.001 * torch.randn(data.inputs.shape)
    for _ in range(3):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(raised(clean, evaluated(point), data.target).sum(), point)
        point = (point.detach() + 0.05 * gradient.sign()).clamp(data.inputs - 0.2, data.inputs + 0.2).clamp(0, 1)
    return point


CASES = {
    "pgd": (PGDAdversarialTrainingLoss(), lambda _, attacked, target: F.cross_entropy(attacked, target)),
    "trades": (TradesLoss(beta=2.0), lambda clean, attacked, _: forward_kl(attacked, clean)),
    "comp-sum": (SmoothAdversarialCompSumLoss(nu=2.0), margin_change),
    "none named": (CrossEntropy(), lambda _, attacked, target: F.cross_entropy(attacked, target)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_attack_raises_what_the_objective_names(case):
    objective, raised = CASES[case]
    student = network()
    torch.manual_seed(5)
    expected = attacked_by_hand(student, raised)
    torch.manual_seed(5)
    torch.testing.assert_close(taught(objective, student).attack(batch()), expected)


def test_the_step_is_the_objective_on_what_the_student_says_about_both_inputs():
    for objective, function in (
        (TradesLoss(beta=2.0), lambda x, z, y: trades_loss(x, z, y, beta=2.0)),
        (SmoothAdversarialCompSumLoss(nu=0.5), lambda x, z, y: smooth_adversarial_comp_sum_loss(x, z, y, nu=0.5)),
        (PGDAdversarialTrainingLoss(), lambda x, z, y: F.cross_entropy(z, y)),
        (CrossEntropy(), lambda x, z, y: F.cross_entropy(x, y)),
    ):
        student, data = network(), batch()
        twin = copy.deepcopy(student)
        method = taught(objective, student)
        torch.manual_seed(7)
        attacked = method.attack(data)
        torch.manual_seed(7)
        (loss,) = method.step(data).values()
        loss.backward()
        expected = function(twin(data.inputs), twin(attacked), data.target)
        expected.backward()
        torch.testing.assert_close(loss, expected)
        for ours, theirs in zip(student.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("mode", ["evaluation", "batch_statistics"])
def test_the_attack_leaves_the_student_as_it_was(mode):
    student = network(dropout=0.5)
    method = taught(TradesLoss(), student, mode=mode)
    student[3].eval()
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(student.state_dict())
    attacked = method.attack(batch())
    assert not attacked.requires_grad
    assert [part.training for part in student] == [True, True, True, False, True, True]
    assert all(part.track_running_stats for part in student if isinstance(part, nn.BatchNorm2d))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in student.parameters())


def test_batch_statistics_are_those_of_the_step():
    """One large step goes along the gradient that the network has in the stated mode."""
    student, data = network(), batch()
    for mode in ("evaluation", "batch_statistics"):
        method = taught(CrossEntropy(), student, mode=mode, steps=1, step_size=0.2, start="zero", bounds=(-9, 9))
        reference = copy.deepcopy(student).train(mode == "batch_statistics")
        point = data.inputs.clone().requires_grad_()
        F.cross_entropy(reference(point), data.target).backward()
        torch.testing.assert_close(method.attack(data), data.inputs + 0.2 * point.grad.sign())
    student[1].eval()  # batch normalisation that its user froze stays frozen
    point = data.inputs.clone().requires_grad_()
    F.cross_entropy(copy.deepcopy(student)(point), data.target).backward()
    torch.testing.assert_close(method.attack(data), data.inputs + 0.2 * point.grad.sign())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", ["gaussian", "uniform"])
def test_attacks_stay_in_the_ball_and_the_bounds_and_do_harm(norm, start):
    student, data = network(), batch()
    attacked = taught(CrossEntropy(), student, norm=norm, start=start, radius=0.4, steps=8).attack(data)
    change = (attacked - data.inputs).flatten(1)
    length = change.norm(dim=1) if norm == "l2" else change.abs().amax(dim=1)
    assert (length <= 0.4 + 1e-6).all()
    assert ((attacked >= 0) & (attacked <= 1)).all()
    student.eval()
    assert F.cross_entropy(student(attacked), data.target) > F.cross_entropy(student(data.inputs), data.target)


def test_the_student_is_not_asked_about_clean_inputs_that_nobody_reads():
    student = network()
    calls: list[Tensor] = []
    student.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0]) if module.training else None)
    taught(PGDAdversarialTrainingLoss(), student).step(batch())
    assert len(calls) == 1
    taught(TradesLoss(), student).step(batch())
    assert len(calls) == 3
    torch.testing.assert_close(calls[1], batch().inputs)


class RobustDistillation(Objective):
    """Clean inputs as one teacher says, attacked inputs as another one."""

    reads = ("student.logits", "student.features.adversarial_logits",
             "teacher.logits", "teacher.features.adversarial_logits")  # fmt: skip

    def loss(self, clean: Tensor, attacked: Tensor, teacher: Tensor, robust_teacher: Tensor) -> Tensor:
        return (clean - teacher).square().mean() + 2 * (attacked - robust_teacher).square().mean()


def test_two_teachers_each_speak_about_their_own_inputs():
    student, teacher, robust, data = network(), network(1), network(2), batch()
    method = AdversarialDistillation(teacher, student, RobustDistillation(), radius=0.1, robust_teacher=robust)
    assert set(method.modules()) == {"objectives", "teacher", "robust_teacher"}
    torch.manual_seed(1)
    attacked = method.attack(data)
    torch.manual_seed(1)
    loss = method.step(data)["robust_distillation"]
    twin = copy.deepcopy(student)
    expected = (twin(data.inputs) - teacher.eval()(data.inputs)).square().mean()
    expected = expected + 2 * (twin(attacked) - robust.eval()(attacked)).square().mean()
    torch.testing.assert_close(loss, expected)
    alone = AdversarialDistillation(teacher, student, RobustDistillation(), radius=0.1)
    assert alone.robust_teacher is alone.teacher
    assert set(alone.modules()) == {"objectives", "teacher"}


def test_a_cache_can_not_be_asked_about_attacked_inputs(tmp_path):
    samples = ArraySamples(batch().inputs, batch().target)
    build_cache(FrozenTeacher(network(1)), samples, tmp_path / "cache", dtype="float32")
    teacher = CachedTeacher(tmp_path / "cache")
    method = AdversarialDistillation(teacher, network(), KnowledgeDistillation(), radius=0.1)
    assert method.step(batch())["knowledge_distillation"].requires_grad
    with pytest.raises(ValueError, match=r"a model as the teacher .* but got CachedTeacher"):
        AdversarialDistillation(teacher, network(), RobustDistillation(), radius=0.1)


class StopAt(Monitor):
    """Stops a run as a crash would."""

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        if progress.step == 20:
            raise RuntimeError("crash")


def test_training_makes_a_robust_student_and_resumes_to_the_same_bits(tmp_path):
    """Most entries give the label away but turn round under the attack; the first one stands, and errs at times."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, (256,), generator=generator)
    sign = 2.0 * target[:, None] - 1
    errs = torch.rand(256, 1, generator=generator) < 0.1
    inputs = 0.5 + torch.cat([0.3 * torch.where(errs, -sign, sign), 0.05 * sign.expand(-1, 32)], dim=1)
    samples = ArraySamples(inputs, target)

    def train(objective, folder=None, monitors=()):
        torch.manual_seed(0)
        student = nn.Linear(33, 2)
        settings = TrainingSettings(
            epochs=12, batch_size=32, learning_rate=0.05, optimizer="adam", checkpoint_every=8, weight_decay=0
        )
        method = AdversarialDistillation(None, student, objective, radius=0.2, steps=3)
        trainer = Trainer(method, samples, settings=settings, folder=folder, monitors=monitors)
        trainer.run(resume=folder is not None)
        return student

    def robust_accuracy(student):
        attacked = pgd_attack(student, inputs, target, radius=0.2, step_size=0.2, steps=2)
        return (student(attacked).argmax(dim=1) == target).double().mean().item()

    plain, hardened = train(CrossEntropy()), train(PGDAdversarialTrainingLoss())
    assert robust_accuracy(plain) < 0.2
    assert robust_accuracy(hardened) > 0.8
    with pytest.raises(RuntimeError, match="crash"):
        train(TradesLoss(), tmp_path, [StopAt()])
    assert torch.equal(train(TradesLoss(), tmp_path).weight, train(TradesLoss()).weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -0.1}, r"`radius` to be at least 0, but got -0.1\."),
        ({"steps": 0}, r"`steps` to be at least 1, but got 0\."),
        ({"step_size": 0.0}, r"`step_size` to be positive, but got 0.0\."),
        ({"attack": "margin_chang"}, r"the attack to be one of .*'margin_chang' \(did you mean 'margin_change'\?\)"),
        ({"start": "zero"}, "start away from the clean input"),
        ({"start_scale": 0.0}, "start away from the clean input"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        taught(TradesLoss(), network(), **options)


def test_bad_batches_and_mixed_attacks_are_refused():
    both = [TradesLoss(), Weighted(SmoothAdversarialCompSumLoss(), 0.5)]
    with pytest.raises(ValueError, match=r"choose between what objectives name: 'divergence' .*, 'margin_change'"):
        AdversarialDistillation(None, network(), both, radius=0.1)
    method = AdversarialDistillation(None, network(), both, radius=0.1, attack="divergence")
    assert len(method.step(batch())) == 2
    data = batch()
    with pytest.raises(ValueError, match="one floating-point tensor"):
        method.step(Batch({"pixels": data.inputs}, data.target, data.index))
    with pytest.raises(ValueError, match="to have labels"):
        method.step(Batch(data.inputs, None, data.index))
    with pytest.raises(ValueError, match=r"within the bounds \[0.0, 1.0\]"):
        method.step(Batch(data.inputs + 1, data.target, data.index))
