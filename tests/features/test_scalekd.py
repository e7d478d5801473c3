import json

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner

from tutelage.batch import Batch
from tutelage.cli import app
from tutelage.data import ArraySamples
from tutelage.features import (
    ScaleKD,
    ScaleKDObjective,
    TeacherStage,
    alternative_feature_loss,
    direct_feature_loss,
    last_stage,
)
from tutelage.models import call_model, mlp_mixer, resnet, swin, vit
from tutelage.teachers import CachedTeacher, FrozenTeacher, build_cache
from tutelage.training import Distillation

TERMS = ("s3_direct", "s3_alternative", "s4_direct", "s4_alternative")


def stage() -> TeacherStage:
    """4 × 4 tokens of 8 channels → a 2 × 2 map of 12."""
    torch.manual_seed(7)
    layer = nn.Sequential(nn.Linear(8, 12), nn.Tanh()).double()

    def continued(tokens: Tensor) -> Tensor:
        return F.avg_pool2d(layer(tokens).mT.unflatten(2, (4, 4)), 2)

    return TeacherStage(layer, continued, freeze=True)


def method(stage: TeacherStage | None, **options: object) -> ScaleKD:
    torch.manual_seed(1)
    return ScaleKD(
        (3, 5), (8, 12), ((6, 6), (3, 3)), ((4, 4), (2, 2)), stage, **{"num_heads": (2, 3), **options}
    ).double()


def lesson(batch: int = 4) -> dict[str, object]:
    torch.manual_seed(2)
    sizes = {"dtype": torch.float64, "requires_grad": True}
    return {
        "student_features": (torch.randn(batch, 3, 6, 6, **sizes), torch.randn(batch, 5, 3, 3, **sizes)),
        "teacher_last": torch.randn(batch, 12, 2, 2, **sizes),
        "student_logits": torch.randn(batch, 6, **sizes),
        "teacher_logits": torch.randn(batch, 6, **sizes),
        "task_loss": torch.tensor(1.7, **sizes),
    }


def test_losses_are_those_of_the_parts_put_together_by_hand() -> None:
    path = stage()
    whole = method(path, alpha=0.3, beta=0.2, kd_weight=0.25, temperature=2.0)
    given = lesson()
    penultimate, last = given["student_features"]
    found = whole(**given)
    teacher = given["teacher_last"]
    for view, loss, weight in (("direct", direct_feature_loss, 0.3), ("alternative", alternative_feature_loss, 0.2)):
        proxy = path(whole.projectors[f"s3_{view}"](penultimate))
        torch.testing.assert_close(found[f"s3_{view}"], loss(proxy, teacher, weight=weight))
        tokens = whole.projectors[f"s4_{view}"](last, proxy.flatten(2).mT)
        projected = tokens.mT.reshape(4, 12, 2, 2)
        torch.testing.assert_close(found[f"s4_{view}"], loss(projected, teacher, weight=weight))
    probabilities = (given["teacher_logits"] / 2).softmax(1)
    imitation = -(probabilities * (given["student_logits"] / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found["kd"], 0.25 * 4 * imitation)
    torch.testing.assert_close(found["task"].item(), 0.75 * 1.7)
    torch.testing.assert_close(found["total"], sum(value for name, value in found.items() if name != "total"))
    assert list(found) == ["task", "kd", *TERMS, "total"]


def test_gradients_reach_student_projectors_queries_and_positions_and_no_teacher() -> None:
    path = stage()
    whole, given = method(path), lesson()
    whole(**given)["total"].backward()
    assert all(feature.grad.abs().sum() > 0 for feature in given["student_features"])
    assert given["teacher_last"].grad is None
    assert given["teacher_logits"].grad is None
    assert all(value.grad is None for value in path.teacher.parameters())
    assert set(whole.projectors) == set(TERMS)
    for name, projector in whole.projectors.items():
        assert (projector.queries is not None) == name.startswith("s3")
        for parameter, value in projector.named_parameters():
            # Equal shifts of all keys, and shifts before batch normalisation, change nothing.
            assert parameter in ("key.bias", "conv.bias") or value.grad.abs().sum() > 0, (name, parameter)


def test_the_path_through_the_teacher_carries_gradients_and_its_output_asks_for_the_last_stage() -> None:
    given = lesson()
    penultimate, _ = given["student_features"]
    losses = method(stage())(**given)
    for name in TERMS:  # the last stage's losses reach the one before through queries that are not detached
        (gradient,) = torch.autograd.grad(losses[name], penultimate, retain_graph=True)
        assert gradient.abs().sum() > 0
    alone = method(None)(**given)
    assert alone["s3_direct"] == alone["s3_alternative"] == 0
    for name in ("s4_direct", "s4_alternative"):
        assert torch.autograd.grad(alone[name], penultimate, allow_unused=True, retain_graph=True) == (None,)


def test_the_kd_terms_gradient() -> None:
    given = lesson()
    losses = method(stage())(**given)
    (gradient,) = torch.autograd.grad(losses["kd"], given["student_logits"])
    expected = 0.5 * (given["student_logits"].softmax(1) - given["teacher_logits"].softmax(1)) / 4
    torch.testing.assert_close(gradient, expected)


def test_doubled_weights_double_losses_and_gradients() -> None:
    path, given = stage(), lesson()
    once, twice = method(path), method(path, alpha=0.16, beta=0.12)
    losses, doubled = once(**given), twice(**given)
    for name in TERMS:
        torch.testing.assert_close(doubled[name], 2 * losses[name])
    first = torch.autograd.grad(sum(losses[name] for name in TERMS), given["student_features"])
    second = torch.autograd.grad(sum(doubled[name] for name in TERMS), given["student_features"])
    torch.testing.assert_close(second, tuple(2 * value for value in first))


@pytest.mark.parametrize(
    ("options", "with_stage", "projectors"),
    [
        ({}, True, set(TERMS)),
        ({"beta": 0.0}, True, {"s3_direct", "s4_direct"}),
        ({"alpha": 0.0}, True, {"s3_alternative", "s4_alternative"}),
        ({"beta": (0.06, 0.0)}, True, {"s3_direct", "s3_alternative", "s4_direct"}),  # Swin-S → ResNet-50
        ({"beta": (0.0, 0.06)}, True, set(TERMS)),  # still the query of the last stage
        ({}, False, {"s4_direct", "s4_alternative"}),
        ({"beta": 0.0}, False, {"s4_direct"}),
    ],
)
def test_what_has_no_weight_is_left_out(options: dict[str, object], with_stage: bool, projectors: set[str]) -> None:
    whole = method(stage() if with_stage else None, **options)
    assert set(whole.projectors) == projectors
    losses = whole(**lesson())
    weights = {"direct": options.get("alpha", 0.08), "alternative": options.get("beta", 0.06)}
    for name in TERMS:
        weight = weights[name[3:]]
        if isinstance(weight, tuple):
            weight = weight[int(name[1]) - 3]
        assert (losses[name] > 0) == (weight > 0 and (with_stage or name.startswith("s4")))


def test_without_kd_the_task_is_whole() -> None:
    losses = method(stage(), kd_weight=0.0)(**lesson())
    assert losses["kd"] == 0
    assert losses["task"] == 1.7


def test_resolutions_may_differ() -> None:
    def last(tokens: Tensor) -> Tensor:
        return F.avg_pool2d(tokens.mT.unflatten(2, (14, 14)), 2)

    whole = ScaleKD((3, 3), (8, 8), ((14, 14), (14, 14)), ((14, 14), (7, 7)), last)
    features = torch.randn(2, 3, 14, 14), torch.randn(2, 3, 14, 14)
    logits = torch.randn(2, 5)
    losses = whole(features, torch.randn(2, 8, 7, 7), logits, logits, torch.tensor(0.0))
    assert all(losses[name] > 0 for name in TERMS)


def test_bad_settings_and_shapes() -> None:
    with pytest.raises(ValueError, match="`num_heads` to divide `teacher_dim`, but got 5 heads for 8"):
        method(stage(), num_heads=(5, 3))
    with pytest.raises(ValueError, match="`alpha` to be at least 0"):
        method(stage(), alpha=-1.0)
    with pytest.raises(ValueError, match="`beta` to be a number or a pair of them"):
        method(stage(), beta=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="`kd_weight` to be in"):
        method(stage(), kd_weight=1.5)
    with pytest.raises(ValueError, match=r"its parameter '0\.weight' learns"):
        method(nn.Sequential(nn.Linear(8, 12)))
    with pytest.raises(ValueError, match=r"more than one position in the last stage.*`beta=0` leaves it out"):
        ScaleKD((3, 5), (8, 8), ((4, 4), (2, 2)), ((2, 2), (1, 1)), stage())
    ScaleKD((3, 5), (8, 8), ((4, 4), (2, 2)), ((2, 2), (1, 1)), stage(), beta=0)
    with pytest.raises(ValueError, match=r"`teacher_last` to have shape \[batch, 12, 2, 2\], but got \(4, 12, 4, 4\)"):
        method(stage())(**{**lesson(), "teacher_last": torch.zeros(4, 12, 4, 4)})
    with pytest.raises(ValueError, match=r"`teacher_last_stage` to give shape \[batch, 12, 2, 2\], but got \(8, 8, 16"):
        method(lambda tokens: tokens.mT.unsqueeze(3))(**lesson())


# ---- In a run --------------------------------------------------------------------------------------------------------

TEACHER = {"patch_size": 2, "hidden_size": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 2}
STUDENTS = {
    "cnn": lambda: resnet((1, 8, 8), 4, widths=(4, 8), depths=(1, 1)),
    "mlp": lambda: mlp_mixer((1, 8, 8), 4, patch_size=2, hidden_size=8, num_layers=2),
    "vit": lambda: vit((1, 8, 8), 4, patch_size=2, hidden_size=8, num_layers=2, num_heads=2),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_an_objective_makes_itself_from_teacher_and_student(name: str) -> None:
    torch.manual_seed(0)
    teacher, student = swin((1, 8, 8), 4, **TEACHER), STUDENTS[name]()
    objective = ScaleKDObjective()
    batch = Batch(torch.randn(6, 1, 8, 8), torch.arange(6) % 4, torch.arange(6))
    taught = Distillation(teacher, student, objective)
    taught.setup(batch)
    loss = taught.step(batch)["scale_kd_objective"]
    loss.backward()
    assert {value.grad is None for value in teacher.parameters()} == {True}
    inside = dict(objective.named_parameters())
    assert all(name.startswith("scalekd.projectors.") for name in inside)
    assert inside["scalekd.projectors.s3_direct.queries"].grad.abs().sum() > 0
    assert sum(value.grad.abs().sum() for value in student.parameters() if value.grad is not None) > 0
    # All that is left after training is the student, whose outputs never depended on the projectors.
    student.eval()
    alone = call_model(student, batch.inputs).logits
    taught.step(batch)
    assert torch.equal(call_model(student, batch.inputs).logits, alone)


def test_the_objectives_loss_is_that_of_the_method() -> None:
    torch.manual_seed(0)
    teacher = swin((1, 8, 8), 4, **TEACHER)
    student = STUDENTS["cnn"]().eval()
    objective = ScaleKDObjective(kd_weight=0.25, alpha=1.0)
    batch = Batch(torch.randn(6, 1, 8, 8), torch.arange(6) % 4, torch.arange(6))
    taught = Distillation(teacher, student, objective)
    taught.setup(batch)
    objective.eval()
    maps = []
    for number in (-2, -1):
        student.resnet.encoder.stages[number].register_forward_hook(lambda module, given, out: maps.append(out))
    student_logits = student(batch.inputs).logits
    outputs = teacher.swin(batch.inputs)
    teacher_last = outputs.last_hidden_state.mT.reshape(6, 16, 2, 2)
    task = F.cross_entropy(student_logits, batch.target)
    losses = objective.scalekd(tuple(maps), teacher_last, student_logits, teacher(batch.inputs).logits, task)
    torch.testing.assert_close(taught.step(batch)["scale_kd_objective"], losses["total"])


def test_a_cache_alone_is_not_enough_but_the_stage_can_be_given(tmp_path) -> None:
    torch.manual_seed(0)
    teacher, student = swin((1, 8, 8), 4, **TEACHER), STUDENTS["cnn"]()
    path = last_stage(teacher, freeze=True)
    samples = ArraySamples(torch.randn(6, 1, 8, 8), torch.arange(6) % 4)
    frozen = FrozenTeacher(teacher, taps={path.tap: path.tap})
    build_cache(frozen, samples, tmp_path / "cache", signals=("logits", f"features.{path.tap}"), dtype="float32")
    cached = CachedTeacher(tmp_path / "cache")
    with pytest.raises(ValueError, match="needs the teacher itself and not its signals alone"):
        Distillation(cached, student, ScaleKDObjective())
    losses = []
    for asked in (cached, frozen):
        torch.manual_seed(1)
        taught = Distillation(asked, student, ScaleKDObjective(teacher_stage=path))
        taught.setup(samples.batch(slice(0, 6)))
        losses.append(taught.step(samples.batch(slice(0, 6)))["scale_kd_objective"])
    torch.testing.assert_close(*losses)


def test_teachers_without_a_known_last_stage_are_refused() -> None:
    with pytest.raises(ValueError, match="to be one of 'swin', 'vit', 'deit', 'beit', but got 'resnet'"):
        Distillation(STUDENTS["cnn"](), STUDENTS["cnn"](), ScaleKDObjective())
    with pytest.raises(ValueError, match="`student_taps` to name two places"):
        ScaleKDObjective(("stage:-1",))
    layer = nn.Linear(3, 5)
    with pytest.raises(ValueError, match="`teacher_stage` to have `tap`"):
        ScaleKDObjective(teacher_stage=TeacherStage(layer, layer, freeze=True))


CONFIG = """
name: ScaleKD
data:
  name: glyphs
  options: {alphabet: "0123", size: 8, train_per_class: 20, validation_per_class: 5, test_per_class: 5}
teacher:
  name: swin
  arguments: {patch_size: 2, hidden_size: 8, depths: [1, 1], num_heads: [1, 2], window_size: 2}
  train: {epochs: 2}
student: {name: resnet, arguments: {widths: [4, 8], depths: [1, 1]}}
arms:
  ScaleKD:
    - {name: scalekd, arguments: {kd_weight: 0.5, alpha: 0.08, beta: 0.06}}
  matching alone:
    - {name: scalekd, arguments: {perceive_teacher: false}}
seeds: [0]
training: {epochs: 3, batch_size: 16}
assessment: {robustness: false, latency: false}
jobs: 1
"""


def test_a_config_names_it(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    done = CliRunner().invoke(app, ["distill", str(path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    for arm in yaml.safe_load(CONFIG)["arms"]:
        records = [json.loads(line) for line in (tmp_path / f"run/arms/{arm}/seed-0/metrics.jsonl").open()]
        assert records[-1]["loss"] < records[0]["loss"]
