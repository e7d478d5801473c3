from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.comparison import ComparisonConfig, comparison_from_options
from tutelage.config import parse_config


def test_the_config_of_a_distillation_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: iris\nteacher: {name: mlp, train: {epochs: 2}}\nstudent: mlp\nobjectives: [pld]\n"
        "seeds: [0, 1]\ncache: true\njobs: 3\ntraining: {epochs: 5}\n"
    )
    config, left_out = comparison_from_options(path, {"budget": "2m"}, ["keep=2"])
    assert sorted(left_out) == ["cache", "seeds"]
    assert (config.name, config.jobs, config.budget, config.keep, config.training.epochs) == ("mine", 3, 120.0, 2.0, 5)
    assert [term.name for term in config.arms["own lesson"]] == ["pld"]


def test_what_is_resolved_can_be_read_again(tmp_path: Path) -> None:
    for changes in ({}, {"teacher": None}, {"budget": "90s", "methods": {"own": ["math:sqrt"]}}):
        config = parse_config(changes, ComparisonConfig)
        (tmp_path / "config.yaml").write_text(config.to_yaml())
        assert comparison_from_options(tmp_path / "config.yaml", {}, [])[0] == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "soon"}, "`90s`"),
        ({"budget": -1}, "greater than 0"),
        ({"settings": 5}, "less than or equal to 4"),
        ({"teacher": {"name": "mlp", "kind": "online"}}, "`frozen`"),
        ({"methds": {}}, "did you mean 'methods'"),
        ({"arms": {"a/b": ["cross_entropy"]}}, "name of an arm"),
        ({"engine": "slurm"}, "processes"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_config(changes, ComparisonConfig)
    assert "\n" not in str(caught.value)


def test_the_title_is_that_of_the_data_unless_there_is_one() -> None:
    assert comparison_from_options(None, {"data": "tables/houses.csv"}, [])[0].name == "houses"
    assert comparison_from_options(None, {"data": "iris"}, ["name=flowers"])[0].name == "flowers"
    assert comparison_from_options(None, {}, [])[0].name == "digits"
