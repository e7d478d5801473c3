from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.batch import Batch
from tutelage.config import DistillConfig, MethodSettings, config_from_options, parse_config, read_config, set_key
from tutelage.objectives import ForwardKL, TradesLoss
from tutelage.training import AdversarialDistillation, Distillation, PowerLawMonitor, ProgressMonitor


def test_the_resolved_config_reads_back_as_itself() -> None:
    config = config_from_options(
        None, {"objectives": ["cross_entropy", "pld"]}, ["objectives=[{name: pld, weight: 0.5}]"]
    )
    import yaml

    assert parse_config(yaml.safe_load(config.to_yaml()), DistillConfig) == config


def test_options_win_over_the_file_and_settings_over_options(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: {epochs: 3, batch_size: 8}\nstudent: mlp\narms: {a: [pld]}\n")
    config = config_from_options(path, {"training.epochs": 5, "objectives": ["cross_entropy"]}, ["training.seed=9"])
    assert (config.training.epochs, config.training.batch_size, config.training.seed) == (5, 8, 9)
    assert list(config.arms) == ["student"]
    assert config.arms["student"][0].name == "cross_entropy"


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({}, "digits"),
        ({"data": "photos/"}, "photos"),
        ({"data": {"name": "tables/wine.csv", "options": {}}}, "wine"),
        ({"data": "package.module:birds"}, "birds"),
        ({"data": "iris", "name": "flowers"}, "flowers"),
    ],
)
def test_a_run_is_titled_after_its_data(given: dict[str, object], title: str) -> None:
    assert parse_config(given, DistillConfig).name == title


def test_single_settings_change_the_defaults() -> None:
    config = config_from_options(None, {}, ["student.arguments.hidden=[5]", "teacher.train.epochs=2"])
    assert config.student.name == DistillConfig().student.name
    assert config.student.arguments["hidden"] == [5]
    assert config.teachers[0].train is not None
    assert config.teachers[0].train.epochs == 2
    assert config.teachers[0].name == DistillConfig().teachers[0].name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trainign": {}}, r"`trainign` is not known \(did you mean 'training'\?\)"),
        ({"training": {"epoch": 3}}, r"`training.epoch` is not known \(did you mean 'epochs'\?\)"),
        ({"training": {"epochs": 0}}, "`training.epochs`: input should be greater than 0, but got 0"),
        ({"training": {"epochs": "many"}}, r"`training.epochs`: input should be a valid integer.*but got 'many'"),
        ({"training": {"scheduler": "cosin"}}, r"`training.scheduler`: input should be 'constant', 'linear'.*'cosin'"),
        ({"teacher": {"name": "mlp", "trian": {}}}, r"`teacher.trian` is not known \(did you mean 'train'\?\)"),
        (
            {"teacher": [{"name": "mlp", "kind": "random"}, {"nam": "mlp"}]},
            r"`teacher.1.nam` is not known \(did you mean 'name'\?\)",
        ),
        (
            {"objectives": [{"name": "pld", "wieght": 2}]},
            r"`arms.student.0.wieght` is not known \(did you mean 'weight'\?\)",
        ),
        ({"objectives": [{"weight": 2}]}, "`arms.student.0.name` is missing"),
        ({"arms": {"../evil": ["pld"]}}, "the name of an arm is letters"),
        ({"arms": {"a": ["pld"]}, "objectives": ["pld"]}, "`arms` or `objectives`, not both"),
        ({"seeds": []}, "`seeds`: "),
        ({"method": {"name": "mutual", "argument": {}}}, r"`method.argument` is not known .*'arguments'"),
        (
            {"method": "mutual"},
            "the method `mutual` needs a teacher that learns with the student: set its `kind: online`",
        ),
        ({"teacher": {"name": "mlp", "kind": "online"}}, "an `online` teacher needs a method that teaches it"),
        (
            {"teacher": [{"name": "mlp", "kind": "random"}, {"name": "mlp", "kind": "online"}], "method": "mutual"},
            "all of them or none",
        ),
        ({"teacher": "mlp"}, r"`teacher`: `mlp` begins with random weights: give its `weights`.* `train: \{\}`"),
        ({"teacher": {"name": "mlp", "kind": "online"}, "method": "mutual", "cache": True}, "can not be cached"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_config(given, DistillConfig)
    assert "\n" not in str(caught.value)


def test_a_file_holds_plain_data_only(tmp_path: Path) -> None:
    evil = tmp_path / "evil.yaml"
    evil.write_text("data: !!python/object/apply:os.system ['touch gotcha']\n")
    with pytest.raises(ValueError, match="to be a YAML file of plain data"):
        read_config(evil)
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="holds a list"):
        read_config(tmp_path / "list.yaml")
    with pytest.raises(FileNotFoundError, match="Expected a config file at"):
        read_config(tmp_path / "none.yaml")


def test_assignments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of the form `dotted\.key=value`"):
        set_key({}, "epochs")
    with pytest.raises(ValueError, match="Expected `epochs` in"):
        set_key({"training": {"epochs": 3}}, "training.epochs.more=1")


def test_objectives_and_schedules_are_made_by_name() -> None:
    config = parse_config(
        {
            "objectives": [
                {"name": "knowledge_distillation", "arguments": {"temperature": 3.0}, "weight": 0.5},
                {"name": "pld", "weight": {"schedule": "linear", "arguments": {"epochs": 4}}},
                {"name": "tutelage.objectives:CrossEntropy"},
            ]
        },
        DistillConfig,
    )
    made = [term.make() for term in config.arms["student"]]
    assert made[0].weight == 0.5
    assert callable(made[1].weight)
    assert made[1].weight(2) == 0.5
    assert type(made[2].objective).__name__ == "CrossEntropy"


def test_an_objective_that_does_not_exist_or_fit_is_one_line() -> None:
    wrong_name = parse_config({"objectives": ["plackett_luce_distilation"]}, DistillConfig)
    with pytest.raises(ValueError, match="did you mean 'plackett_luce_distillation'"):
        wrong_name.arms["student"][0].make()
    wrong_argument = parse_config({"objectives": [{"name": "pld", "arguments": {"temprature": 1.0}}]}, DistillConfig)
    with pytest.raises(ValueError, match="unexpected keyword argument 'temprature'"):
        wrong_argument.arms["student"][0].make()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "mutaul",
            r"to be one of 'adversarial', 'distillation', 'generalized_kd', 'gradient_balanced', 'mutual' or "
            r".*'mutaul' \(did you mean 'mutual'\?\)",
        ),
        ({"name": "mutual", "arguments": {"nu": 2}}, "Expected the arguments of 'mutual' to fit it, but: .*'nu'"),
    ],
)
def test_a_method_that_does_not_exist_or_fit_is_found_without_a_model(method: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MethodSettings.model_validate(method).check()


def test_the_adversarial_method_takes_its_settings_from_the_config() -> None:
    chosen = MethodSettings(name="adversarial", arguments={"radius": 0.1, "bounds": [0, 1], "attack": "divergence"})
    made = chosen.make(None, nn.Linear(2, 2), TradesLoss())
    assert isinstance(made, AdversarialDistillation)
    losses = made.step(Batch(torch.ones(3, 2), torch.tensor([0, 1, 1]), torch.arange(3)))
    assert list(losses) == ["trades_loss"]
    with pytest.raises(ValueError, match=r"Expected the arguments of 'adversarial' to fit it, but: .*'radius'"):
        MethodSettings(name="adversarial").check()


def test_a_method_of_ones_own_gets_teacher_student_and_objectives() -> None:
    teacher, student = nn.Linear(2, 2), nn.Linear(2, 2)
    method = MethodSettings(name="tutelage.training:Distillation").make(teacher, student, ForwardKL())
    assert isinstance(method, Distillation)
    assert method.student is student
    with pytest.raises(ValueError, match="'builtins:print' to make a `Method`, but got NoneType"):
        MethodSettings(name="builtins:print").make(teacher, student, ForwardKL())


def test_the_lesson_of_learning_teachers_is_named_like_any_other() -> None:
    lesson = {"teacher_objectives": ["cross_entropy", {"name": "reverse_kl", "weight": 0.5}]}
    made = MethodSettings(name="mutual", arguments=lesson).make([nn.Linear(2, 2)], nn.Linear(2, 2), ForwardKL())
    losses = made.step(Batch(torch.ones(3, 2), torch.tensor([0, 1, 1]), torch.arange(3)))
    assert list(losses) == ["teacher/cross_entropy", "teacher/reverse_kl", "student/forward_kl"]
    with pytest.raises(ValueError, match="forward_lk"):
        MethodSettings(name="mutual", arguments={"teacher_objectives": "forward_lk"}).make(
            [nn.Linear(2, 2)], nn.Linear(2, 2), ForwardKL()
        )


def test_monitors_are_made_by_name_or_place() -> None:
    made = parse_config(
        {"monitors": ["teacher_hacking", {"name": "tutelage.training:ProgressMonitor", "arguments": {"every": 2}}]},
        DistillConfig,
    ).monitors
    watching = made[0].make()
    assert isinstance(watching, PowerLawMonitor)
    assert watching.constant  # a validation loss has a floor
    assert made[0].make() is not made[0].make()
    assert isinstance(made[1].make(), ProgressMonitor)


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("teacher_haking", "did you mean 'teacher_hacking'"),
        ({"name": "teacher_hacking", "arguments": {"patince": 1}}, "patince"),
        ({"name": "teacher_hacking", "arguments": {"patience": 0}}, "`patience`"),
        ("builtins:dict", "to make a `Monitor`, but got dict"),
    ],
)
def test_a_monitor_that_does_not_exist_or_fit_is_one_line(monitor: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config({"monitors": [monitor]}, DistillConfig).monitors[0].make()
