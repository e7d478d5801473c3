from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch

from tutelage.data import load_data
from tutelage.data.tables import table_data


def frame(rows: int = 60) -> pandas.DataFrame:
    generator = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "height": generator.normal(170, 10, rows),
            "colour": generator.choice(["red", "green", "blue"], rows),
            "member": generator.random(rows) > 0.5,
            "constant": 3,
            "kind": np.where(np.arange(rows) % 3 == 0, "yes", "no"),
            "price": generator.normal(5, 2, rows),
        }
    )


def test_columns_follow_training_statistics() -> None:
    train, test = frame(), frame(9)
    test.loc[0, "colour"] = "purple"
    data = table_data(
        "toy",
        {"train": train, "validation": frame(12), "test": test},
        target_column="kind",
        feature_columns=["height", "colour", "member", "constant"],
    )
    assert data.extras["feature_names"] == (
        "height",
        "colour=blue",
        "colour=green",
        "colour=red",
        "member=False",
        "member=True",
        "constant",
    )
    inputs = data.test.inputs.numpy()
    mean, deviation = train["height"].mean(), train["height"].std(ddof=0)
    np.testing.assert_allclose(inputs[:, 0], (test["height"] - mean) / deviation, rtol=1e-5)
    assert inputs[0, 1:4].tolist() == [0, 0, 0]  # a colour that training does not have
    assert (inputs[1:, 1:4].sum(axis=1) == 1).all()
    assert (inputs[:, 6] == 0).all()
    assert data.class_names == ("no", "yes")
    assert data.test.target.tolist() == [int(kind == "yes") for kind in test["kind"]]


def test_one_frame_is_split_first_and_standardised_after() -> None:
    data = table_data("toy", {"train": frame(200)}, target_column="kind", feature_columns=["height"])
    assert (len(data.train), len(data.validation), len(data.test)) == (140, 20, 40)
    assert float(data.train.inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert abs(float(data.test.inputs.mean())) > 1e-3
    assert float(data.train.target.float().mean()) == pytest.approx(1 / 3, abs=0.02)


def test_regression_target_is_standardised() -> None:
    data = table_data("toy", {"train": frame()}, target_column="price", feature_columns=["height"])
    assert data.task == "regression"
    assert float(data.train.target.mean()) == pytest.approx(0, abs=1e-5)
    back = data.train.target * data.extras["target_std"] + data.extras["target_mean"]
    distance = np.abs(back.numpy()[:, None] - frame()["price"].to_numpy()[None]).min(axis=1)
    assert distance.max() < 1e-5


def test_text() -> None:
    texts = pandas.DataFrame({"words": ["good film", "bad film, very bad"] * 10, "label": [1, 0] * 10})
    data = table_data("toy", {"train": texts}, target_column="label", text_column="words", max_length=12)
    ids, mask = data.train.inputs["input_ids"], data.train.inputs["attention_mask"]
    assert ids.shape == (14, 12)
    good = int((data.train.target == 1).nonzero()[0])
    assert data.extras["tokenizer"].decode(ids[good]) == "good film"
    assert int(mask[good].sum()) == len("good film") + 2


def test_missing_values() -> None:
    holes = frame()
    holes.loc[3, "height"] = np.nan
    options = {"target_column": "kind", "feature_columns": ["height", "colour"]}
    with pytest.raises(ValueError, match="'height' has 1"):
        table_data("toy", {"train": holes}, **options)
    kept = table_data("toy", {"train": holes}, missing="mean", **options)
    assert len(kept.train) + len(kept.validation) + len(kept.test) == 60
    assert torch.isfinite(kept.train.inputs).all()
    dropped = table_data("toy", {"train": holes}, missing="drop", **options)
    assert len(dropped.train) + len(dropped.validation) + len(dropped.test) == 59
    holes.loc[3, "kind"] = None
    with pytest.raises(ValueError, match="'kind' has 1"):
        table_data("toy", {"train": holes}, missing="mean", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_column": "kint"}, "did you mean 'kind'"),
        ({"target_column": "kind", "feature_columns": ["hight"]}, "did you mean 'height'"),
        ({"target_column": "constant"}, "at least 2 classes"),
        ({"target_column": "kind", "task": "regression"}, "hold numbers for regression"),
        ({"target_column": "kind", "fractions": (0.5, 0.5)}, "3 numbers"),
    ],
)
def test_bad_input(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        table_data("toy", {"train": frame()}, **options)


def test_classes_that_training_lacks() -> None:
    test = frame(9)
    test.loc[0, "kind"] = "perhaps"
    with pytest.raises(ValueError, match="holds 'perhaps'"):
        table_data("toy", {"train": frame(), "test": test}, target_column="kind")


def test_identifiers_are_no_categories() -> None:
    many = frame(600).assign(name=[f"person {row}" for row in range(600)])
    with pytest.raises(ValueError, match="at most 256 categories"):
        table_data("toy", {"train": many}, target_column="kind")


def test_dates_and_lists_are_no_categories() -> None:
    for values in (pandas.date_range("2020", periods=60), [[1, 2]] * 60):
        with pytest.raises(ValueError, match="'odd' of toy to hold numbers or categories"):
            table_data("toy", {"train": frame().assign(odd=values)}, target_column="kind")


def test_infinite_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        table_data("toy", {"train": frame().assign(height=np.inf)}, target_column="kind")


@pytest.mark.parametrize(
    ("name", "rows", "width", "classes"),
    [("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2), ("diabetes", 442, 10, 1)],
)
def test_tables_of_scikit_learn(name: str, rows: int, width: int, classes: int) -> None:
    data = load_data(name)
    assert len(data.train) + len(data.validation) + len(data.test) == rows
    assert data.train.inputs.shape[1] == width
    assert data.num_classes == classes
    assert torch.allclose(data.train.inputs.mean(0), torch.zeros(width), atol=1e-5)
    assert data.train.fingerprint() == load_data(name).train.fingerprint()
