from __future__ import annotations

import copy
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from example import network, samples
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.files import read_tensors, write_tensors
from tutelage.objectives import (
    BalancedDivergence,
    CrossEntropy,
    ForwardKL,
    LinearRamp,
    Objective,
    Progress,
    balanced_divergence,
    forward_kl,
)
from tutelage.outputs import Outputs
from tutelage.training import Distillation, Monitor, MutualDistillation, Trainer, TrainingSettings, Weighted


def batch(count: int = 16) -> Batch:
    return samples(count).batch(torch.arange(count))


def logits_of(method: MutualDistillation, data: Batch) -> dict[str, Tensor]:
    assert isinstance(data.inputs, Tensor)
    return {name: module(data.inputs) for name, module in method.networks.items()}


def gradients(module: nn.Module) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in module.parameters()]
    )


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_deep_mutual_learning_is_the_textbook_formula() -> None:
    method = MutualDistillation.deep_mutual_learning(
        [network(8, seed=s) for s in (1, 2, 3)], temperature=2.0, weight=0.5
    )
    data = batch()
    assert data.target is not None
    losses = method.step(data)
    said = logits_of(method, data)
    for name, own in said.items():
        others = [other for other_name, other in said.items() if other_name != name]
        kl = [
            F.kl_div((own / 2).log_softmax(-1), (other / 2).softmax(-1), reduction="batchmean") * 4 for other in others
        ]
        torch.testing.assert_close(losses[f"{name}/cross_entropy"], F.cross_entropy(own, data.target))
        torch.testing.assert_close(losses[f"{name}/forward_kl"], 0.5 * sum(kl) / 2)


def test_training_equals_a_hand_written_loop_with_two_optimisers() -> None:
    teacher, student = network(16, seed=1), network(8, seed=2)
    twins = copy.deepcopy((teacher, student))
    data = samples(64)
    settings = TrainingSettings(epochs=3, batch_size=16, optimizer="adam", scheduler="constant", shuffle=False,
                                weight_decay=0, clip_norm=0.5)  # fmt: skip
    Trainer(MutualDistillation.bd_kd(teacher, student, nu=3.0), data, settings=settings).run()
    optimizers = [torch.optim.Adam(twin.parameters(), lr=settings.learning_rate) for twin in twins]
    for _ in range(3):
        for start in range(0, 64, 16):
            one = data.batch(slice(start, start + 16))
            assert one.target is not None
            t, s = (twin(one.inputs) for twin in twins)
            of_teacher = F.cross_entropy(t, one.target) + forward_kl(t, s.detach(), reduction="mean")
            of_student = F.cross_entropy(s, one.target) + balanced_divergence(s, t.detach(), nu=3.0)
            for twin, optimizer, loss in zip(twins, optimizers, (of_teacher, of_student), strict=True):
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
                optimizer.step()
    torch.testing.assert_close(weights(teacher), weights(twins[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights(student), weights(twins[1]), rtol=1e-4, atol=1e-5)


def test_nobody_learns_through_the_loss_of_another_one() -> None:
    method = MutualDistillation.bd_kd(network(16, seed=1), network(8, seed=2))
    losses = method.step(batch())
    sum(loss for name, loss in losses.items() if name.startswith("student/")).backward()  # type: ignore[union-attr]
    assert gradients(method.networks["student"]).abs().sum() > 0
    assert not gradients(method.networks["teacher"]).any()


class Undetached(Objective):
    """A divergence through which the partner learns as well."""

    reads = ("student.logits", "teacher.logits")

    def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return forward_kl(student_logits, teacher_logits, reduction="mean")


@pytest.mark.parametrize("detach", [True, False])
def test_partners_can_be_left_on_the_graph(detach: bool) -> None:
    networks = {"a": network(8, seed=1), "b": network(8, seed=2)}
    method = MutualDistillation(networks, Undetached(), detach_partners=detach)
    method.step(batch())["a/undetached"].backward()
    assert gradients(networks["a"]).any()
    assert gradients(networks["b"]).any() == (not detach)


def test_equal_networks_have_nothing_to_tell_each_other() -> None:
    for method in (
        MutualDistillation.deep_mutual_learning([network(8, seed=1), network(8, seed=1)]),
        MutualDistillation.bd_kd(network(8, seed=1), network(8, seed=1)),
    ):
        losses = method.step(batch())
        sum(loss for name, loss in losses.items() if "cross_entropy" not in name).backward()  # type: ignore[union-attr]
        for module in method.networks.values():
            torch.testing.assert_close(gradients(module), torch.zeros(len(weights(module))), rtol=0, atol=1e-7)


def test_a_one_way_teacher_learns_as_if_it_were_alone() -> None:
    teacher, alone = network(16, seed=1), network(16, seed=1)
    settings = TrainingSettings(epochs=2, batch_size=16)
    student = network(8, seed=2)
    start = weights(student)
    Trainer(MutualDistillation.one_way(teacher, student), samples(), settings=settings).run()
    Trainer(Distillation(None, alone, CrossEntropy()), samples(), settings=settings).run()
    assert torch.equal(weights(teacher), weights(alone))
    assert not torch.equal(weights(student), start)


def test_several_teachers_and_students_take_the_mean_over_the_other_kind() -> None:
    method = MutualDistillation.bd_kd(
        {"wide": network(16, seed=1), "deep": network(12, seed=2)}, [network(8, seed=3), network(8, seed=4)], weight=2.0
    )
    data = batch()
    losses, said = method.step(data), logits_of(method, data)
    for student in ("student_1", "student_2"):
        mean = sum(balanced_divergence(said[student], said[teacher]) for teacher in ("wide", "deep")) / 2
        torch.testing.assert_close(losses[f"{student}/balanced_divergence"], 2 * mean)
    mean = sum(forward_kl(said["wide"], said[student], reduction="mean") for student in ("student_1", "student_2")) / 2
    torch.testing.assert_close(losses["wide/forward_kl"], 2 * mean)


def test_partners_and_lessons_can_be_chosen_for_each_network() -> None:
    networks = {name: network(8, seed=seed) for seed, name in enumerate("abc")}
    method = MutualDistillation(
        networks,
        {"a": ForwardKL(), "b": {"close": BalancedDivergence(), "far": Weighted(ForwardKL(temperature=2.0), 0.5)}},
        partners={"a": ["b", "c"], "b": ["c"]},
    )
    data = batch()
    losses, said = method.step(data), logits_of(method, data)
    labels = [f"{name}/cross_entropy" for name in "abc"]
    assert sorted(losses) == sorted([*labels, "a/forward_kl", "b/close", "b/far"])
    torch.testing.assert_close(losses["b/close"], balanced_divergence(said["b"], said["c"]))


def test_weights_follow_their_schedule() -> None:
    method = MutualDistillation([network(8, seed=1), network(8, seed=2)], Weighted(ForwardKL(), LinearRamp(epochs=2)))
    values = []
    for step in (0, 10, 20):
        method.advance(Progress(step, 40, 10))
        values.append(method.step(batch())["network_1/forward_kl"].item())
    assert values[0] == 0.0
    assert values[1] == pytest.approx(values[2] / 2, rel=1e-5)


class EmbeddingDistance(Objective):
    """Distance of embeddings after a projection, which is made for the pair's widths; and a tapped feature."""

    reads = ("student.embedding", "teacher.embedding", "student.features.first")

    def __init__(self) -> None:
        super().__init__()
        self.taps["student"]["first"] = "0"

    def build(self, student: object, teacher: object, batch: Batch) -> None:
        self.projector = nn.Linear(student.embedding.shape[1], teacher.embedding.shape[1])  # type: ignore[attr-defined]

    def loss(self, student: Tensor, teacher: Tensor, first: Tensor) -> Tensor:
        return (self.projector(student) - teacher).square().mean() + 0.1 * first.square().mean()


def test_objectives_with_parameters_get_their_own_for_every_pair() -> None:
    networks = {"wide": network(16, seed=1), "narrow": network(8, seed=2)}
    method = MutualDistillation(networks, EmbeddingDistance())
    Trainer(method, samples(), settings=TrainingSettings(epochs=1)).run()
    widths = [
        (term.projector.in_features, term.projector.out_features)
        for term in method.objectives
        if hasattr(term, "projector")
    ]
    assert widths == [(16, 8), (8, 16)]
    assert "objectives" in method.trainable()


def test_setup_leaves_modes_and_statistics_alone() -> None:
    normalized = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    normalized[2].eval()
    mean = normalized[1].running_mean.clone()  # type: ignore[union-attr, operator]
    MutualDistillation.deep_mutual_learning([normalized, network(8, seed=1)]).setup(batch())
    assert [module.training for module in normalized.modules()] == [True, True, True, False]
    assert torch.equal(normalized[1].running_mean, mean)  # type: ignore[arg-type]


def test_observers_see_what_everybody_said() -> None:
    method = MutualDistillation.bd_kd(network(16, seed=1), network(8, seed=2))
    seen = []
    method.observers.append(lambda said, batch: seen.append({name: outputs.logits for name, outputs in said.items()}))
    data = batch()
    method.step(data)
    for name, logits in logits_of(method, data).items():
        torch.testing.assert_close(seen[0][name], logits)


@pytest.mark.parametrize(
    ("networks", "options", "message"),
    [
        (["a"], {}, "at least 2 networks, but got 1"),
        (["a", "a.b"], {}, r"letters, digits and `_`.* got 'a\.b'"),
        (["a", "objectives"], {}, "other than 'objectives'"),
        (
            ["a", "b"],
            {"pairwise_loss": {"c": ForwardKL()}},
            "`pairwise_loss` to name networks among 'a', 'b', but got 'c'",
        ),
        (["a", "b"], {"partners": {"a": ["x"]}}, "`partners` to name networks"),
        (["a", "b"], {"partners": {"a": ["a"]}}, "partners of 'a' to be other networks"),
        (["a", "b"], {"label_loss": None, "partners": {"a": ["b"]}}, "'b' has no objective"),
        (["a", "b"], {"pairwise_loss": []}, "at least one objective"),
    ],
)
def test_refuses_bad_input(networks: list[str], options: dict[str, object], message: str) -> None:
    given = {"pairwise_loss": ForwardKL(), **options}
    with pytest.raises(ValueError, match=message):
        MutualDistillation({name: network(8, seed=1) for name in networks}, **given)  # type: ignore[arg-type]


def test_refuses_one_network_twice() -> None:
    same = network(8, seed=1)
    with pytest.raises(ValueError, match="given twice"):
        MutualDistillation.bd_kd(same, same)
    with pytest.raises(ValueError, match="names of their own"):
        MutualDistillation.bd_kd({"a": network(8, seed=1)}, {"a": same})


# ---- Under the trainer -----------------------------------------------------------------------------------------------


class Stop(Monitor):
    """Breaks a run off in the middle of an epoch."""

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        if progress.step == 7:
            raise RuntimeError("stopped")


def trainer(folder: Path | None, *monitors: Monitor, dropout: float = 0.2) -> Trainer:
    method = MutualDistillation.bd_kd(network(16, seed=1, dropout=dropout), network(8, seed=2, dropout=dropout), nu=3.0)
    settings = TrainingSettings(epochs=3, batch_size=16, checkpoint_every=2, learning_rate=0.01)
    return Trainer(method, samples(), settings=settings, folder=folder, monitors=monitors)


def ends(job: Trainer) -> dict[str, Tensor]:
    return {name: weights(module) for name, module in job.method.trainable().items()}


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = trainer(None)
    history = whole.run()
    with pytest.raises(RuntimeError, match="stopped"):
        trainer(tmp_path, Stop()).run()
    resumed = trainer(tmp_path)
    again = resumed.run(resume=True)
    assert [record["step"] for record in again] == [record["step"] for record in history]
    assert again[-1]["loss"] == history[-1]["loss"]  # the epoch in which the run was broken off has a mean of its rest
    for name, value in ends(whole).items():
        assert torch.equal(value, ends(resumed)[name])


def test_two_processes_give_the_networks_of_one(tmp_path: Path) -> None:
    alone = trainer(None, dropout=0.0)
    alone.run()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
               f"--master-port={port}", __file__, str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    together = read_tensors(tmp_path / "ends.safetensors")
    for name, value in ends(alone).items():
        torch.testing.assert_close(value, together[name], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    job = trainer(Path(sys.argv[1]), dropout=0.0)
    job.run()
    if job.accelerator.is_main_process:
        write_tensors(Path(sys.argv[1]) / "ends.safetensors", ends(job))


class _Statistics(Objective):
    """Keeps what it was told before training."""

    reads = ("student.logits", "teacher.logits")

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Outputs | None, Batch]] = []

    def prepare(self, lessons: Iterable[tuple[Outputs | None, Batch]]) -> None:
        self.told = list(lessons)

    def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return (student_logits - teacher_logits.detach()).square().mean()


def test_objectives_take_statistics_of_what_a_partner_says_about_all_samples() -> None:
    first, second = network(8, seed=1, dropout=0.5), network(6, seed=2, dropout=0.5)
    method = MutualDistillation({"first": first, "second": second}, {"first": _Statistics()})
    expected = second.eval()(batch(64).inputs).detach()
    second.train()
    Trainer(method, samples(64), settings=TrainingSettings(epochs=1, batch_size=16)).run()
    (statistics,) = (term.objective for term in method._terms if isinstance(term.objective, _Statistics))
    assert torch.equal(torch.cat([one.index for _, one in statistics.told]), torch.arange(64))
    said = torch.cat([outputs.logits for outputs, _ in statistics.told if outputs and outputs.logits is not None])
    torch.testing.assert_close(said, expected)
    assert not said.requires_grad
    assert second.training


class _Attached(Objective):
    """Keeps the models it is shown."""

    reads = ("student.logits", "teacher.logits")

    def attach(self, student: nn.Module, teacher: nn.Module | None) -> None:
        self.shown = (student, teacher)

    def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return (student_logits - teacher_logits.detach()).square().mean()


def test_objectives_see_their_learner_and_their_partner() -> None:
    networks = {"first": network(8, seed=1), "second": network(6, seed=2)}
    method = MutualDistillation(networks, _Attached())
    shown = [term.objective.shown for term in method._terms if isinstance(term.objective, _Attached)]
    assert [tuple(map(id, pair)) for pair in shown] == [
        (id(networks["first"]), id(networks["second"])),
        (id(networks["second"]), id(networks["first"])),
    ]


def test_networks_see_each_its_own_view() -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(2, 3)
    data = Batch(torch.randn(6, 4), torch.arange(6) % 3, torch.arange(6), {"teacher.input": torch.randn(6, 2)})
    method = MutualDistillation({"teacher": teacher, "student": student}, {"student": ForwardKL()})
    losses = method.step(data)
    kl = forward_kl(student(data.inputs), teacher(data.extras["teacher.input"]), reduction="mean")
    torch.testing.assert_close(losses["student/forward_kl"], kl)
