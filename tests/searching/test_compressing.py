from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data, load_data
from tutelage.models import build_model, convnet, load_model, mlp, parameter_count, resnet, save_model
from tutelage.searching import Candidate, search_students
from tutelage.searching.compressing import architecture_name, propose_compressed
from tutelage.students import LayerSpec, NetworkCompressor, ShortDistillation, layered_student
from tutelage.training import NonFiniteLoss

BUDGET = 6000


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(path, convnet((1, 8, 8), 10, channels=(32, 32), normalization="batch"))
    return path


def search(teacher: Path, folder: Path, **changes: Any) -> list[Candidate]:
    options = {"budget": BUDGET, "evaluations": 12, "lesson_epochs": 1, "finalists": 2, "epochs": 1, "seeds": 1}
    options |= {"jobs": 1, "announce": lambda line: None, "data_options": {"fractions": [300, 100, 1397]}}
    return search_students(teacher, "digits", folder, **{"method": "n2n", **options, **changes})


def test_students_come_from_the_teacher_keep_to_the_budget_and_can_be_loaded(teacher: Path, tmp_path: Path) -> None:
    found = search(teacher, tmp_path)
    assert all(one.parameters <= BUDGET < parameter_count(load_model(teacher)) for one in found)
    reasons = [reason for one in found for reason in one.reasons]
    for text in ("rank 1 by reward", "the largest within the budget", "all widths scaled alike", "a random draw"):
        assert text in reasons
    assert any(one.on_front for one in found)
    inputs = load_data("digits").test.batch(torch.arange(16)).inputs
    for one in found:
        file = tmp_path / "students" / f"{one.arch}-0.safetensors"
        student = load_model(file)
        assert parameter_count(student) == one.parameters == parameter_count(build_model(one.student))
        again = build_model({**one.student, "weights": str(file)}).eval()
        copied = load_model(save_model(tmp_path / "copy", student))
        logits = student(inputs)
        assert logits.shape == (16, 10)
        assert torch.equal(logits, again(inputs))
        assert torch.equal(logits, copied(inputs))
    kept = json.loads((tmp_path / "search.json").read_text())["candidates"]
    assert [one["student"] for one in kept] == [one.student for one in found]
    assert all(one.arch in (tmp_path / "search.html").read_text() for one in found)


def test_a_search_that_was_killed_goes_on_and_gives_the_same(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons: list[int] = []
    stop_after = 1000
    real = ShortDistillation.train

    def train(self: ShortDistillation, student: nn.Module) -> nn.Module:
        if len(lessons) == stop_after:
            raise KeyboardInterrupt
        lessons.append(parameter_count(student))
        return real(self, student)

    monkeypatch.setattr(ShortDistillation, "train", train)
    whole = search(teacher, tmp_path / "whole", evaluations=16)
    needed = list(lessons)
    lessons.clear()
    stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        search(teacher, tmp_path / "part", evaluations=16)
    assert not (tmp_path / "part" / "search.json").exists()
    stop_after = 1000
    resumed = search(teacher, tmp_path / "part", evaluations=16)
    assert lessons == needed
    assert len(needed) > 3

    def outcome(candidates: list[Candidate]) -> list[tuple[Any, ...]]:
        return [(one.arch, one.reasons, one.score, one.accuracies, one.student) for one in candidates]

    assert outcome(resumed) == outcome(whole)
    lessons.clear()
    assert outcome(search(teacher, tmp_path / "part", evaluations=16)) == outcome(whole)
    assert not lessons


def test_another_search_is_not_mixed_in(teacher: Path, tmp_path: Path) -> None:
    search(teacher, tmp_path)
    for changes in ({"lesson_epochs": 2}, {"budget": 5000}, {"method": "score"}):
        with pytest.raises(ValueError, match="other settings"):
            search(teacher, tmp_path, **changes)


def test_the_command(teacher: Path, tmp_path: Path) -> None:
    arguments = ["search", "--method", "n2n", "--teacher", str(teacher), "--data", "digits", "--budget", str(BUDGET)]
    arguments += ["--evaluations", "4", "--finalists", "1", "--epochs", "1", "--lesson-epochs", "1", "--seeds", "1"]
    result = CliRunner().invoke(app, [*arguments, "--jobs", "1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "all widths scaled alike" in result.output
    assert "layered_student" in (tmp_path / "out" / "search.html").read_text()


@pytest.mark.slow
def test_students_come_back_from_a_ray_cluster(teacher: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    here, there = search(teacher, tmp_path / "here"), search(teacher, tmp_path / "there", engine="ray", jobs=2)
    assert [(one.arch, one.accuracies) for one in here] == [(one.arch, one.accuracies) for one in there]
    for one in there:
        first, second = (
            load_model(tmp_path / at / "students" / f"{one.arch}-0.safetensors") for at in ("here", "there")
        )
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def random_data() -> Data:
    generator = torch.Generator().manual_seed(0)
    samples = ArraySamples(torch.randn(40, 1, 8, 8, generator=generator), torch.arange(40) % 10)
    return Data("random", samples, samples, samples, num_classes=10)


def propose(model: nn.Module, folder: Path, **changes: Any) -> Any:
    options = {"input_shape": (1, 8, 8), "budget": BUDGET, "evaluations": 10, "finalists": 1, "lesson_epochs": 1}
    return propose_compressed(model, random_data(), folder / "scores.jsonl", **{**options, **changes})


def test_residual_teachers_are_compressed(tmp_path: Path) -> None:
    proposals, tried = propose(resnet((1, 8, 8), 10, widths=(16, 24), depths=(1, 1)), tmp_path, budget=9000)
    assert tried == len((tmp_path / "scores.jsonl").read_text().splitlines())
    assert all(parameter_count(build_model(one.student)) <= 9000 for one in proposals)


def test_lessons_that_fail_are_remembered_as_nothing_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ShortDistillation, student: nn.Module) -> nn.Module:
        raise NonFiniteLoss("infinite")

    monkeypatch.setattr(ShortDistillation, "train", fail)
    propose(convnet((1, 8, 8), 10, channels=(32, 32)), tmp_path)
    assert {json.loads(line)[1] for line in (tmp_path / "scores.jsonl").read_text().splitlines()} == {0.0}


class Twice(nn.Module):
    """A layer that is used twice, which no list of layers can say."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(self.convolution(x)).flatten(1))


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (Twice(), {}, "`n2n` cannot compress this teacher.* is used twice"),
        (nn.Sequential(nn.Flatten(), mlp(64, 10)), {}, "but it has none: linear layers"),
        (convnet((1, 8, 8), 10, channels=(32, 32)), {"budget": 100}, "smallest has"),
        (convnet((1, 8, 8), 10, channels=(32, 32)), {"evaluations": 1}, "evaluations"),
        (convnet((1, 8, 8), 10, channels=(32, 32)), {"lesson_epochs": 0}, "lesson_epochs"),
    ],
)
def test_what_cannot_be_searched_is_told(
    model: nn.Module, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        propose(model, tmp_path, **changes)
    assert not (tmp_path / "scores.jsonl").exists()


def test_equal_widths_with_other_layers_have_other_names() -> None:
    layers = [LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("Linear", width=10)]
    other = [LayerSpec("Conv2d", 3, 1, 16, 0), LayerSpec("Linear", width=10)]
    assert architecture_name(layers) != architecture_name(other)
    assert architecture_name(layers) == architecture_name(list(layers))
    assert len(architecture_name(layers * 60)) < 80


def test_a_student_with_other_bounds_for_linear_layers_is_rebuilt() -> None:
    search = NetworkCompressor(
        convnet((1, 2, 2), 3, channels=(16,)),
        lambda student: None,
        lambda network: 0.5,
        input_shape=(1, 2, 2),
        iterations=1,
        linear_inputs=(1, 100_000),
    )
    built = search.build([LayerSpec("Conv2d", 2, 1, 4), LayerSpec("Linear", width=3)])
    specification = built.__dict__["tutelage_specification"]
    assert parameter_count(layered_student(**specification.arguments)) == parameter_count(built)
