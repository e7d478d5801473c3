from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.data import ArraySamples, Samples
from tutelage.features import class_conditional_mean
from tutelage.objectives import (
    FusionRatioController,
    KnowledgeDistillation,
    forward_kl,
    fused_distillation_loss,
    trilateral_features,
)
from tutelage.outputs import Outputs
from tutelage.training import (
    BilevelDistiller,
    Distillation,
    Interrupted,
    Monitor,
    RatioMonitor,
    Trainer,
    TrainingSettings,
    lookahead_hypergradient,
)

CLASSES = 3


class Problem:
    """A tiny bilevel problem in float64."""

    def __init__(self, student: nn.Module | None = None, *, step_size: float = 0.3) -> None:
        torch.manual_seed(3)
        self.student = (student or nn.Linear(4, CLASSES)).double()
        self.controller = FusionRatioController(9 * CLASSES, hidden=(5,)).double()
        self.inputs, self.held_out = torch.randn(2, 8, 4).double()
        self.target = torch.arange(8) % CLASSES
        self.teacher = 2 * torch.randn(8, CLASSES).double()
        means = class_conditional_mean(self.teacher.softmax(dim=1), self.target, num_classes=CLASSES)
        # The state is read once: it is a constant, also where the student's weights are moved by hand.
        with torch.no_grad():
            student_probs = copy.deepcopy(self.student)(self.inputs).softmax(dim=1)
        self.state = trilateral_features(student_probs, self.teacher.softmax(dim=1), self.target, means)
        self.step_size = step_size

    def inner(self, forward: Callable[[Tensor], Tensor]) -> Tensor:
        return fused_distillation_loss(forward(self.inputs), self.teacher, self.target, self.controller(self.state))

    def outer(self, forward: Callable[[Tensor], Tensor]) -> Tensor:
        return F.cross_entropy(forward(self.held_out), self.target)

    def hypergradient(self, step_size: float | None = None) -> dict[str, Tensor]:
        return lookahead_hypergradient(
            self.student, self.inner, self.outer, self.controller, step_size=step_size or self.step_size
        )

    def looked_ahead(self) -> float:
        """The outer loss after a real step of plain gradient descent, on a copy."""
        student = copy.deepcopy(self.student)
        self.inner(student).backward()
        with torch.no_grad():
            for value in student.parameters():
                value -= self.step_size * value.grad
            return self.outer(student).item()

    def central_differences(self, width: float = 1e-5) -> Tensor:
        slopes = []
        with torch.no_grad():
            for value in self.controller.parameters():
                for place in range(value.numel()):
                    before = value.view(-1)[place].item()
                    ends = []
                    for end in (before + width, before - width):
                        value.view(-1)[place] = end
                        with torch.enable_grad():
                            ends.append(self.looked_ahead())
                    value.view(-1)[place] = before
                    slopes.append((ends[0] - ends[1]) / (2 * width))
        return torch.tensor(slopes, dtype=torch.float64)


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])


STUDENTS = {
    "linear": lambda: nn.Linear(4, CLASSES),
    "deep": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)),
    "normalised": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, CLASSES)),
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_hypergradient_equals_central_differences(kind: str) -> None:
    problem = Problem(STUDENTS[kind]())
    found, expected = flat(problem.hypergradient()), problem.central_differences()
    assert expected.norm() > 1e-3
    assert (found - expected).norm() < 1e-5 * expected.norm()


def per_sample_gradients(problem: Problem, loss: Callable[[Tensor, int], Tensor]) -> Tensor:
    rows = []
    for sample in range(8):
        logits = problem.student(problem.inputs[sample : sample + 1])
        slopes = torch.autograd.grad(loss(logits, sample), list(problem.student.parameters()))
        rows.append(torch.cat([slope.flatten() for slope in slopes]))
    return torch.stack(rows)


def closed_form(problem: Problem) -> Tensor:
    """−(η / B) Σ_b (∂α_b/∂ω) ⟨∇L_val(θ'), ∇(τ² KD_b − CE_b)⟩, sample by sample."""
    soft = per_sample_gradients(
        problem, lambda logits, b: 1.5**2 * forward_kl(logits, problem.teacher[b : b + 1], temperature=1.5).sum()
    )
    hard = per_sample_gradients(problem, lambda logits, b: F.cross_entropy(logits, problem.target[b : b + 1]))
    ahead = copy.deepcopy(problem.student)
    problem.inner(ahead).backward()
    with torch.no_grad():
        for value in ahead.parameters():
            value -= problem.step_size * value.grad
            value.grad = None
    problem.outer(ahead).backward()
    direction = torch.cat([value.grad.flatten() for value in ahead.parameters()])
    benefit = (soft - hard) @ direction
    total = torch.zeros(sum(value.numel() for value in problem.controller.parameters())).double()
    for sample in range(8):
        ratio = problem.controller(problem.state)[sample]
        slopes = torch.autograd.grad(ratio, list(problem.controller.parameters()))
        total -= problem.step_size / 8 * benefit[sample] * torch.cat([slope.flatten() for slope in slopes])
    return total


@pytest.mark.parametrize("kind", ["linear", "deep"])
def test_hypergradient_equals_the_closed_form(kind: str) -> None:
    problem = Problem(STUDENTS[kind]())
    torch.testing.assert_close(flat(problem.hypergradient()), closed_form(problem))


def test_hypergradient_vanishes_with_the_step() -> None:
    problem = Problem()
    one, tiny = flat(problem.hypergradient(1e-6)), flat(problem.hypergradient(1e-9))
    torch.testing.assert_close(tiny, one / 1000, rtol=1e-5, atol=0)


def test_a_sample_whose_two_gradients_are_equal_has_no_say() -> None:
    """At τ = 1 a teacher that is sure of the label gives the gradient of cross-entropy."""
    problem = Problem()
    problem.teacher = 1000.0 * F.one_hot(problem.target, CLASSES).double()
    problem.inner = lambda forward: fused_distillation_loss(  # type: ignore[method-assign]
        forward(problem.inputs), problem.teacher, problem.target, problem.controller(problem.state), temperature=1.0
    )
    assert flat(problem.hypergradient()).abs().max() < 1e-12


def test_a_ratio_that_helps_rises() -> None:
    """The teacher knows the held-out labels and the student's own labels are wrong: more of the teacher is better."""
    problem = Problem()
    problem.held_out = problem.inputs
    problem.teacher = 4.0 * F.one_hot(problem.target, CLASSES).double()
    truth, wrong = problem.target, (problem.target + 1) % CLASSES
    bias = nn.ParameterList([nn.Parameter(torch.zeros((), dtype=torch.float64))])
    found = lookahead_hypergradient(
        problem.student,
        lambda forward: fused_distillation_loss(
            forward(problem.inputs), problem.teacher, wrong, bias[0].sigmoid().expand(8)
        ),
        lambda forward: F.cross_entropy(forward(problem.inputs), truth),
        bias,
        step_size=0.3,
    )
    assert found["0"] < 0  # descent raises the ratio


def test_names_come_in_order_and_parameters_without_effect_get_zero() -> None:
    problem = Problem()
    problem.controller.add_module("unused", nn.Linear(2, 1).double())
    problem.controller.layers[0].bias.requires_grad_(False)
    found = problem.hypergradient()
    assert list(found) == [name for name, _ in problem.controller.named_parameters()]
    assert not found["unused.weight"].any()
    assert not found["layers.0.bias"].any()
    assert found["layers.0.weight"].any()
    assert not any(value.requires_grad for value in found.values())


def test_an_outer_loss_may_read_the_controller_itself() -> None:
    problem = Problem()
    plain = flat(problem.hypergradient())
    outer = problem.outer
    problem.outer = lambda forward: outer(forward) + problem.controller(problem.state).sum()  # type: ignore[method-assign]
    slopes = torch.autograd.grad(problem.controller(problem.state).sum(), list(problem.controller.parameters()))
    torch.testing.assert_close(flat(problem.hypergradient()), plain + torch.cat([slope.flatten() for slope in slopes]))


def test_frozen_weights_of_the_student_stay_where_they_are() -> None:
    problem = Problem(STUDENTS["deep"]())
    problem.student[0].requires_grad_(False)
    found = flat(problem.hypergradient())
    problem.looked_ahead = lambda: _step_of_the_head(problem)  # type: ignore[method-assign]
    torch.testing.assert_close(found, problem.central_differences(), rtol=1e-5, atol=1e-9)


def _step_of_the_head(problem: Problem) -> float:
    student = copy.deepcopy(problem.student)
    problem.inner(student).backward()
    with torch.no_grad():
        for value in student[2].parameters():
            value -= problem.step_size * value.grad
        return problem.outer(student).item()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(training: bool) -> None:
    problem = Problem(STUDENTS["normalised"]())
    problem.student.train(training)
    marks = {}
    for module in (problem.student, problem.controller):
        for value in module.parameters():
            value.grad = torch.ones_like(value)
        marks[module] = copy.deepcopy(module.state_dict())
    problem.hypergradient()
    for module, before in marks.items():
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert all(torch.equal(value.grad, torch.ones_like(value)) for value in module.parameters())
    assert problem.student.training is training


def test_evaluation_mode_uses_the_running_statistics() -> None:
    problem = Problem(STUDENTS["normalised"]())
    batch_statistics = flat(problem.hypergradient())
    problem.student.eval()
    found, expected = flat(problem.hypergradient()), problem.central_differences()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    assert (found - batch_statistics).norm() > 1e-3 * found.norm()


def test_inputs_by_name_and_other_outputs_of_models() -> None:
    class Named(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, values: Tensor) -> dict[str, Tensor]:
            return {"logits": self.linear(values)}

    problem = Problem()
    expected = flat(problem.hypergradient())
    found = lookahead_hypergradient(
        Named(problem.student),
        lambda forward: problem.inner(lambda inputs: forward({"values": inputs})),
        lambda forward: problem.outer(lambda inputs: forward({"values": inputs})),
        problem.controller,
        step_size=problem.step_size,
    )
    torch.testing.assert_close(flat(found), expected)


def test_a_controller_that_is_cut_off_is_named() -> None:
    problem = Problem()
    with torch.no_grad():
        ratio = problem.controller(problem.state)
    with pytest.raises(ValueError, match="inner loss to depend on the parameters of `controller`, but no gradient"):
        lookahead_hypergradient(
            problem.student,
            lambda forward: fused_distillation_loss(forward(problem.inputs), problem.teacher, problem.target, ratio),
            problem.outer,
            problem.controller,
            step_size=0.1,
        )


def test_bad_input_of_the_hypergradient() -> None:
    problem = Problem()
    for step_size in (-0.1, 0.0, float("nan")):
        with pytest.raises(ValueError, match="`step_size` to be positive"):
            lookahead_hypergradient(
                problem.student, problem.inner, problem.outer, problem.controller, step_size=step_size
            )
    problem.student.requires_grad_(False)
    with pytest.raises(ValueError, match="`student` to have parameters that require a gradient"):
        problem.hypergradient()


# ---- The method ------------------------------------------------------------------------------------------------------


def samples(count: int, seed: int) -> ArraySamples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return ArraySamples(inputs, inputs[:, :CLASSES].argmax(dim=1))


def network(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, CLASSES)
    )


def distiller(held_out: Samples | None, **options: object) -> BilevelDistiller:
    torch.manual_seed(9)
    controller = FusionRatioController(9 * CLASSES)
    chosen = {"step_size": 0.05, "controller_learning_rate": 0.05, "outer_batch_size": 16, **options}
    return BilevelDistiller(network(8, 1), network(16, 2), controller, held_out, **chosen)  # type: ignore[arg-type]


def train(method: BilevelDistiller, folder: Path | None = None, **options: object) -> Trainer:
    chosen = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "checkpoint_every": 2, **options}
    return Trainer(method, samples(70, 0), settings=TrainingSettings.model_validate(chosen), folder=folder)


def everything(method: BilevelDistiller) -> Tensor:
    parts = [*method.student.state_dict().values(), *method.controller.state_dict().values()]
    return torch.cat([value.detach().double().flatten() for value in parts])


class StopAt(Monitor):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, progress: object, losses: object) -> None:
        if progress.step == self.step:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


@pytest.mark.parametrize("outer_every", [1, 3])
@pytest.mark.parametrize("given", [True, False])
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(tmp_path: Path, outer_every: int, given: bool) -> None:
    means = torch.eye(CLASSES) if given else None
    options = {"outer_every": outer_every, "class_means": means}
    whole = distiller(samples(40, 1), **options)
    train(whole).run()
    stopped = train(distiller(samples(40, 1), **options), tmp_path)
    stopped.monitors.append(StopAt(11))  # in the middle of an epoch and of a pass over the held-out data
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        stopped.run()
    resumed = distiller(samples(40, 1), **options)
    job = train(resumed, tmp_path)
    job.run(resume=True)
    assert job.step == 20
    assert torch.equal(everything(resumed), everything(whole))
    assert resumed.held_out is not None
    assert whole.held_out is not None
    assert resumed.held_out.drawn == whole.held_out.drawn == -(-20 // outer_every)


def test_class_means_are_those_of_the_whole_training_data() -> None:
    method = distiller(samples(40, 1))
    job = train(method, max_steps=1)
    job.run()
    data = samples(70, 0)
    assert isinstance(data.inputs, Tensor)
    assert data.target is not None
    probs = method.teacher(data.batch(torch.arange(70))).logits.softmax(dim=1)  # type: ignore[union-attr]
    expected = class_conditional_mean(probs, data.target, num_classes=CLASSES, missing="uniform")
    torch.testing.assert_close(method.class_means, expected)
    with pytest.raises(ValueError, match="give `class_means`, or call `prepare` first"):
        distiller(samples(40, 1)).step(data.batch(torch.arange(4)))


def test_a_step_is_the_fused_loss_at_constant_ratios_and_the_hypergradient_of_the_held_out_batch() -> None:
    held_out = samples(16, 1)
    method = distiller(held_out, class_means=torch.eye(CLASSES))
    method.student.eval()  # without dropout, so that the pieces can be computed again
    batch = samples(70, 0).batch(torch.arange(16))
    (loss,) = method.step(batch).values()
    ratio = method.ratios(batch)
    teacher_logits = method.teacher(batch).logits
    assert teacher_logits is not None
    assert batch.target is not None
    expected = fused_distillation_loss(method.student(batch.inputs), teacher_logits, batch.target, ratio)
    torch.testing.assert_close(loss, expected)
    probs = method.student(batch.inputs).detach().softmax(dim=1), teacher_logits.softmax(dim=1)
    state = trilateral_features(*probs, batch.target, torch.eye(CLASSES))
    held = held_out.batch(torch.arange(16))
    assert held.target is not None
    gradient = lookahead_hypergradient(
        method.student,
        lambda forward: fused_distillation_loss(
            forward(batch.inputs), teacher_logits, batch.target, method.controller(state)
        ),
        lambda forward: F.cross_entropy(forward(held.inputs), held.target),
        method.controller,
        step_size=0.05,
    )
    for name, value in method.controller.named_parameters():
        torch.testing.assert_close(value.grad, gradient[name], rtol=1e-4, atol=1e-8)
    before = {name: value.detach().clone() for name, value in method.controller.named_parameters()}
    loss.backward()  # the graph is still there, and the controller hears nothing of it
    for name, value in method.controller.named_parameters():
        torch.testing.assert_close(value.grad, gradient[name], rtol=1e-4, atol=1e-8)
    method.after_step(method._progress)
    assert all(not torch.equal(value, before[name]) for name, value in method.controller.named_parameters())
    assert all(value.grad is None for value in method.controller.parameters())


def test_running_statistics_move_once_a_step() -> None:
    method = distiller(samples(40, 1), class_means=torch.eye(CLASSES))
    plain = copy.deepcopy(method.student)
    batch = samples(70, 0).batch(torch.arange(16))
    method.student.train()
    method.step(batch)
    plain.train()(batch.inputs)
    for name, value in method.student.named_buffers():
        torch.testing.assert_close(value, plain.get_buffer(name))
    assert plain[1].num_batches_tracked == method.student[1].num_batches_tracked == 1


def test_the_student_moves_as_under_plain_distillation_when_the_ratio_is_constant() -> None:
    """A controller whose ratio is ½ and whose learning rate is next to nothing."""
    method = distiller(samples(40, 1), controller_learning_rate=1e-30)
    method.student[3].p = 0.0
    for value in method.controller.parameters():
        value.data.zero_()
    train(method).run()
    student = network(8, 1)
    student[3].p = 0.0
    objective = KnowledgeDistillation(alpha=0.5, temperature=1.5)
    settings = TrainingSettings(epochs=4, batch_size=16, learning_rate=0.02)
    Trainer(Distillation(network(16, 2), student, objective), samples(70, 0), settings=settings).run()
    for ours, theirs in zip(method.student.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_held_out_samples_the_controller_stays_as_it_is() -> None:
    method = distiller(None)
    before = copy.deepcopy(method.controller.state_dict())
    student = copy.deepcopy(method.student.state_dict())
    train(method).run()
    assert all(torch.equal(value, before[name]) for name, value in method.controller.state_dict().items())
    assert any(not torch.equal(value, student[name]) for name, value in method.student.state_dict().items())


@pytest.mark.parametrize("liar", ["teacher", "label"])
def test_the_controller_finds_out_who_is_wrong_where_the_two_differ(liar: str) -> None:
    """Labels and teacher differ on 20 % of the samples, and one of the two is always right."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 4, generator=generator)
    truth = (inputs[:, 0] > 0).long()
    differ = torch.rand(400, generator=generator) < 0.2
    lie = torch.where(differ, 1 - truth, truth)
    said, label = (lie, truth) if liar == "teacher" else (truth, lie)

    class Said:
        def __call__(self, batch: Batch) -> Outputs:
            return Outputs(logits=5.0 * F.one_hot(said[batch.index], 2).float())

    torch.manual_seed(0)
    method = BilevelDistiller(
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)),
        Said(),
        FusionRatioController(18),
        ArraySamples(inputs[200:], truth[200:]),
        step_size=0.05,
        controller_learning_rate=0.01,
        outer_batch_size=200,
    )
    lessons = ArraySamples(inputs[:200], label[:200])
    settings = TrainingSettings(epochs=10, batch_size=50, learning_rate=0.01, scheduler="constant")
    Trainer(method, lessons, settings=settings).run()
    ratios = method.ratios(lessons.batch(torch.arange(200)))
    where, elsewhere = ratios[differ[:200]].mean(), ratios[~differ[:200]].mean()
    if liar == "teacher":
        assert where < 0.1 < elsewhere - 0.1
    else:
        assert where > 0.9


def test_schedules_and_cadence_of_the_outer_step() -> None:
    seen = []

    def step_size(progress: object) -> float:
        seen.append(progress.step)  # type: ignore[attr-defined]
        return 0.05

    train(distiller(samples(40, 1), step_size=step_size, outer_every=4), max_steps=10).run()
    assert seen == [0, 4, 8]


def test_accumulated_batches_add_up() -> None:
    method = distiller(samples(16, 1), class_means=torch.eye(CLASSES))
    method.student.eval()
    batch = samples(70, 0).batch(torch.arange(16))
    method.step(batch)
    once = [value.grad.clone() for value in method.controller.parameters() if value.grad is not None]
    method.step(batch)
    for value, gradient in zip(method.controller.parameters(), once, strict=True):
        torch.testing.assert_close(value.grad, 2 * gradient, rtol=1e-4, atol=1e-8)


def test_monitor_tells_where_the_ratios_stand() -> None:
    method = distiller(None, class_means=torch.eye(CLASSES))
    job = train(method, epochs=1)
    watch = RatioMonitor(method, samples(70, 0), batch_size=32)
    job.monitors.append(watch)
    (record,) = job.run()
    ratios = method.ratios(samples(70, 0).batch(torch.arange(70)))
    assert record["ratio/mean"] == pytest.approx(ratios.mean().item(), rel=1e-5)
    assert record["ratio/q10"] <= record["ratio/q50"] <= record["ratio/q90"]
    assert record["ratio/saturated"] == 0.0
    torch.testing.assert_close(watch.average, ratios)
    method.controller.layers[-1].bias.data.fill_(100.0)
    RatioMonitor(method, samples(70, 0)).on_record(record)
    assert record["ratio/saturated"] == 1.0
    watch.on_record(record)
    torch.testing.assert_close(watch.average, (ratios + 1) / 2)
    early = RatioMonitor(method, samples(70, 0), average_after=1)
    early.on_record(record)
    assert early.average is None
    assert method.student.training


def test_bad_input_of_the_method() -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

        def batch(self, rows: Tensor) -> Batch:
            raise AssertionError

        def fingerprint(self) -> str:
            return ""

    with pytest.raises(ValueError, match="`held_out` to hold at least one sample"):
        distiller(Empty())
    for name, value in (
        ("step_size", 0.0),
        ("temperature", -1.0),
        ("outer_every", 0),
        ("outer_batch_size", 0),
        ("controller_learning_rate", 0.0),
        ("controller_weight_decay", -1.0),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            distiller(samples(8, 1), **{name: value})
    unlabelled = ArraySamples(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="to have a target"):
        distiller(None, class_means=torch.eye(CLASSES)).step(unlabelled.batch(torch.arange(4)))


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import torch
torch.set_num_threads(1)
from test_bilevel import distiller, everything, samples, train
from tutelage.files import write_tensors
method = distiller(samples(40, 1))
job = train(method, max_steps=6)
job.run()
rank = job.accelerator.process_index
write_tensors(f"{{sys.argv[1]}}/{{rank}}.safetensors", {{"everything": everything(method)}})
"""


@pytest.mark.slow
def test_two_processes_keep_one_controller(tmp_path: Path) -> None:
    from tutelage.files import read_tensors

    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (read_tensors(tmp_path / f"{rank}.safetensors")["everything"] for rank in (0, 1))
    controls = sum(value.numel() for value in FusionRatioController(9 * CLASSES).parameters())
    assert torch.equal(first[-controls:], second[-controls:])
    untouched = everything(distiller(None))
    assert not torch.equal(first[-controls:], untouched[-controls:])
