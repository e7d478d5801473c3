from __future__ import annotations

import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.files import read_tensors
from tutelage.objectives import (
    AdaptiveLDRLoss,
    LabelDistributionallyRobustLoss,
    adaptive_label_distributionally_robust_loss,
    adaptive_ldr_temperature,
    crammer_singer_loss,
    label_distributionally_robust_loss,
    normalize_scores,
)

CLASSES = 5


def ldr(scores, target, temperature, margin=0.0, reduction="none"):
    return label_distributionally_robust_loss(
        scores, target, temperature=temperature, margin=margin, score_transform=None, reduction=reduction
    )


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * torch.randn(8, CLASSES, dtype=torch.float64), torch.randint(CLASSES, (8,))


def _costs(scores: torch.Tensor, target: torch.Tensor, margin: float) -> torch.Tensor:
    """δ_k + c·1[k≠y]."""
    return scores - scores.gather(1, target[:, None]) + margin * (1 - F.one_hot(target, scores.shape[1]))


def _divergence(probs: torch.Tensor) -> torch.Tensor:
    return math.log(probs.shape[1]) - torch.special.entr(probs).sum(dim=1)


def test_known_values():
    assert ldr(torch.zeros(1, 2), torch.tensor([0]), 0.3).abs().item() < 1e-6
    scores, target = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([1])
    for temperature, value in [(1.0, 0.620115), (2.0, 0.561860)]:
        assert ldr(scores, target, temperature).item() == pytest.approx(value, abs=1e-6)


def test_its_ends_are_cross_entropy_the_support_vector_machine_and_the_mean(samples):
    scores, target = samples
    expected = F.cross_entropy(scores, target, reduction="none") - math.log(CLASSES)
    torch.testing.assert_close(ldr(scores, target, 1.0), expected, rtol=0, atol=1e-6)
    sharp = ldr(scores, target, 1e-3, margin=0.5)
    hinge = crammer_singer_loss(scores, target, margin=0.5, reduction="none")
    torch.testing.assert_close(sharp, hinge, rtol=0, atol=1e-2)
    flat = ldr(scores, target, 1e6, margin=0.5)
    torch.testing.assert_close(flat, _costs(scores, target, 0.5).mean(dim=1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_it_is_its_closed_form_with_a_temperature_a_sample(samples, margin):
    scores, target = samples
    temperature = torch.rand(8, dtype=torch.float64) + 0.2
    inner = _costs(scores, target, margin) / temperature[:, None]
    expected = temperature * (inner.logsumexp(dim=1) - math.log(CLASSES))
    torch.testing.assert_close(ldr(scores, target, temperature, margin), expected)


def test_gradients_with_respect_to_scores_and_temperature(samples):
    scores, target = samples
    scores.requires_grad_()
    temperature = (torch.rand(8, dtype=torch.float64) + 0.2).requires_grad_()
    probs = (_costs(scores, target, 0.3) / temperature[:, None]).softmax(dim=1).detach()
    by_scores, by_temperature = torch.autograd.grad(
        ldr(scores, target, temperature, 0.3, reduction="sum"), (scores, temperature)
    )
    torch.testing.assert_close(by_scores, probs - F.one_hot(target, CLASSES))
    torch.testing.assert_close(by_temperature, -_divergence(probs))


@given(low=st.floats(0.01, 10), ratio=st.floats(1, 10), margin=st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_it_never_rises_with_temperature_and_is_convex(low, ratio, margin):
    first, second = torch.randn(2, 16, CLASSES, dtype=torch.float64)
    target = torch.randint(CLASSES, (16,))
    assert (ldr(first, target, low * ratio, margin) <= ldr(first, target, low, margin) + 1e-9).all()
    middle = ldr((first + second) / 2, target, low, margin)
    assert (middle <= (ldr(first, target, low, margin) + ldr(second, target, low, margin)) / 2 + 1e-9).all()


def test_no_distribution_on_labels_is_worse(samples):
    scores, target = samples
    costs, temperature = _costs(scores, target, 0.3), 0.7

    def priced(probs):
        return (probs * costs).sum(dim=1) - temperature * _divergence(probs)

    loss = ldr(scores, target, temperature, 0.3)
    for probs in torch.distributions.Dirichlet(torch.ones(8, CLASSES, dtype=torch.float64)).sample((100,)):
        assert (priced(probs) <= loss + 1e-9).all()
    torch.testing.assert_close(priced((costs / temperature).softmax(dim=1)), loss)


def test_normalised_scores_have_a_bounded_size_and_a_symmetric_limit():
    logits = 3 * torch.randn(4, CLASSES, dtype=torch.float64)
    for transform in ("softplus_l1", "l1"):
        scores = normalize_scores(logits, transform=transform)
        torch.testing.assert_close(scores.abs().sum(dim=1), torch.full((4,), float(CLASSES), dtype=torch.float64))
        torch.autograd.gradcheck(
            lambda x, chosen=transform: normalize_scores(x, transform=chosen), logits.clone().requires_grad_()
        )
    torch.testing.assert_close(scores.sign(), logits.sign())
    assert normalize_scores(logits, transform=None) is logits
    labels = [torch.full((4,), label) for label in range(CLASSES)]
    total = sum(
        label_distributionally_robust_loss(logits, label, temperature=1e6, reduction="none") for label in labels
    )
    torch.testing.assert_close(total, torch.full_like(total, 0.1 * (CLASSES - 1)), rtol=0, atol=1e-4)


def test_scores_that_all_vanish_are_zero_and_teach_nothing():
    logits = torch.full((2, 3), -1e4, requires_grad=True)
    scores = normalize_scores(logits)
    assert not scores.any()
    assert not torch.autograd.grad(scores.sum(), logits)[0].any()
    assert torch.isfinite(normalize_scores(torch.full((2, 3), -40.0))).all()


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("transform", ["softplus_l1", "l1", None])
def test_huge_logits_are_finite_in_float32(temperature, transform):
    logits = (1e4 * torch.randn(8, CLASSES).sign()).requires_grad_()
    loss = label_distributionally_robust_loss(
        logits, torch.randint(CLASSES, (8,)), temperature=temperature, score_transform=transform
    )
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_a_temperature_step_is_its_formula(samples):
    scores, target = samples
    current = torch.rand(8, dtype=torch.float64) + 0.5
    probs = (_costs(scores, target, 0.2) / current[:, None]).softmax(dim=1)
    expected = 3 * (1 - _divergence(probs) / (2.5 * math.log(CLASSES)))
    options = {"initial_temperature": 3.0, "current_temperature": current, "alpha": 2.5, "margin": 0.2}
    torch.testing.assert_close(adaptive_ldr_temperature(scores, target, **options), expected)
    probs = (scores / current[:, None]).softmax(dim=1) + 1e-5
    expected = 3 * (1 - _divergence(probs / probs.sum(dim=1, keepdim=True)) / (2.5 * math.log(CLASSES)))
    code = adaptive_ldr_temperature(scores, target, **options, margin_in_weights=False)
    torch.testing.assert_close(code, expected)


@given(scale=st.floats(0, 1e4), alpha=st.floats(1.01, 50), initial=st.floats(0.05, 20))
@settings(max_examples=20, deadline=None)
def test_temperatures_stay_within_their_bounds(scale, alpha, initial):
    scores = scale * torch.randn(8, CLASSES)
    renewed = adaptive_ldr_temperature(
        scores,
        torch.randint(CLASSES, (8,)),
        initial_temperature=initial,
        current_temperature=torch.full((8,), initial),
        alpha=alpha,
    )
    assert (renewed >= initial * (1 - 1 / alpha) * (1 - 1e-5)).all()
    assert (renewed <= initial * (1 + 1e-6)).all()


def test_an_undecided_example_keeps_its_temperature_and_costs_nothing():
    loss, temperature = adaptive_label_distributionally_robust_loss(
        torch.zeros(3, 7, dtype=torch.float64), torch.tensor([0, 3, 6]), initial_temperature=0.3, margin=0.0
    )
    torch.testing.assert_close(temperature, torch.full((3,), 0.3, dtype=torch.float64))
    assert abs(loss) < 1e-12


def test_more_inner_steps_never_lower_the_objective(samples):
    values = [
        adaptive_label_distributionally_robust_loss(
            *samples, num_inner_steps=steps, alpha=1.5, score_transform=None, reduction="none"
        )[0]
        for steps in range(1, 8)
    ]
    assert (torch.stack(values).diff(dim=0) >= -1e-12).all()


def test_a_large_alpha_recovers_the_loss_at_the_initial_temperature(samples):
    scores, target = samples
    loss, _ = adaptive_label_distributionally_robust_loss(scores, target, initial_temperature=2.0, alpha=1e9)
    torch.testing.assert_close(loss, label_distributionally_robust_loss(scores, target, temperature=2.0))


def test_the_gradient_takes_the_temperature_as_given(samples):
    scores, target = samples
    scores.requires_grad_()
    loss, temperature = adaptive_label_distributionally_robust_loss(scores, target)
    assert not temperature.requires_grad
    (gradient,) = torch.autograd.grad(loss, scores)
    frozen = label_distributionally_robust_loss(scores, target, temperature=temperature)
    torch.testing.assert_close(gradient, torch.autograd.grad(frozen, scores)[0])
    price = (2 * math.log(CLASSES) / 2 * (temperature - 1).square()).mean()
    torch.testing.assert_close(loss, frozen - price)
    assert torch.autograd.gradcheck(
        lambda x: label_distributionally_robust_loss(x, target, temperature=temperature), scores
    )


def test_the_table_changes_in_the_rows_of_the_batch_only(samples):
    scores, target = samples
    module = AdaptiveLDRLoss(20, alpha=3.0)
    index = torch.tensor([19, 3, 5, 7, 0, 11, 2, 13])
    for expected_start in (torch.ones(8), None):
        start = module.temperature[index].clone()
        if expected_start is not None:
            assert torch.equal(start, expected_start)
        expected, temperature = adaptive_label_distributionally_robust_loss(
            scores, target, alpha=3.0, current_temperature=start
        )
        torch.testing.assert_close(module(scores, target, index), expected)
        torch.testing.assert_close(module.temperature[index], temperature.float())
    others = torch.ones(20, dtype=torch.bool).index_fill_(0, index, False)
    assert torch.equal(module.temperature[others], torch.ones(12))
    assert (module.temperature[index] < 1).all()

    other = AdaptiveLDRLoss(20, alpha=3.0)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.temperature, module.temperature)
    before = module.temperature.clone()
    module.eval()
    module(scores, target, index)
    assert torch.equal(module.temperature, before)


def test_the_table_is_a_buffer_that_moves_with_the_module():
    module = AdaptiveLDRLoss(3)
    assert list(dict(module.named_buffers())) == list(module.state_dict()) == ["temperature"]
    assert not list(module.parameters())
    assert module.to("meta").temperature.device.type == "meta"


def test_samples_without_a_label_are_left_out(samples):
    scores, target = samples
    skipped = target.clone()
    skipped[2:] = -100
    module, other = AdaptiveLDRLoss(8), AdaptiveLDRLoss(8)
    loss = module(scores, skipped, torch.arange(8))
    torch.testing.assert_close(loss, other(scores[:2], target[:2], torch.arange(2)))
    assert torch.equal(module.temperature, other.temperature)
    nothing = module(scores.requires_grad_(), torch.full_like(target, -100), torch.arange(8))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, scores)[0].any()


PROGRAM = """
import sys
import torch
from torch import nn
from tutelage.data import ArraySamples
from tutelage.files import write_tensors
from tutelage.objectives import AdaptiveLDRLoss
from tutelage.training import Distillation, Trainer, TrainingSettings

torch.set_num_threads(1)
torch.manual_seed(0)
inputs = torch.randn(31, 4)
samples = ArraySamples(inputs, (inputs[:, 0] > 0).long())
method = Distillation(None, nn.Linear(4, 2), AdaptiveLDRLoss(33, score_transform=None))
chosen = TrainingSettings(epochs=2, batch_size=15, learning_rate=0.1, optimizer="sgd")
job = Trainer(method, samples, settings=chosen, folder=sys.argv[1])
job.run()
(table,) = method.objectives.children()
write_tensors(f"{sys.argv[1]}/table-{job.accelerator.process_index}.safetensors", dict(table.state_dict()))
"""


@pytest.mark.slow
def test_two_processes_keep_the_table_of_one(tmp_path: Path):
    """Batches of 15 (8 and 7 rows) and of 1 (both processes hold that row)."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    for name, prefix in (("one", []), ("two", launcher)):
        command = [sys.executable, *prefix, str(program), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
    alone = read_tensors(tmp_path / "one" / "table-0.safetensors")["temperature"]
    first, second = (read_tensors(tmp_path / "two" / f"table-{rank}.safetensors")["temperature"] for rank in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-5)
    assert (alone[:31] < 1).all()
    assert torch.equal(alone[31:], torch.ones(2))
    checkpoint = next((tmp_path / "two" / "checkpoints").glob("*/modules.safetensors"))
    (saved,) = (value for name, value in read_tensors(checkpoint).items() if name.endswith("temperature"))
    assert torch.equal(saved, first)


SCORES, LABEL, HERE = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LabelDistributionallyRobustLoss(temperature=0.0), r"`temperature` to be positive, but got 0.0\."),
        (lambda: LabelDistributionallyRobustLoss(margin=-0.1), r"`margin` to be at least 0, but got -0.1\."),
        (lambda: ldr(SCORES, LABEL, torch.tensor([1.0, 0.0])), r"`temperature` to be positive, but got 0.0\."),
        (lambda: ldr(SCORES, LABEL, torch.ones(3)), r"`temperature` to have shape \(2,\), but got \(3,\)\."),
        (lambda: ldr(SCORES, LABEL + 2, 1.0), r"classes in \[0, 3\), but got 3\."),
        (lambda: AdaptiveLDRLoss(4, alpha=1.0), r"`alpha` to be above 1, but got 1.0\."),
        (lambda: AdaptiveLDRLoss(0), "`num_examples` to be at least 1, but got 0"),
        (lambda: AdaptiveLDRLoss(4, num_inner_steps=0), "`num_inner_steps` to be at least 1, but got 0"),
        (lambda: AdaptiveLDRLoss(2)(SCORES, LABEL, HERE + 1), r"rows in \[0, 2\) of the table, but got 2\."),
        (lambda: AdaptiveLDRLoss(2)(SCORES, LABEL, HERE - 1), r"rows in \[0, 2\) of the table, but got -1\."),
        (lambda: AdaptiveLDRLoss(2)(SCORES, LABEL, 0 * HERE), "each example once a batch, but 0 is repeated"),
        (lambda: AdaptiveLDRLoss(2)(SCORES, LABEL, HERE[:1]), r"`index` to have shape \(2,\), but got \(1,\)\."),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
