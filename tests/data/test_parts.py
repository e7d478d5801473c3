from __future__ import annotations

import pytest
import torch

from tutelage.data import ArraySamples, assemble


def labelled(*labels: int) -> ArraySamples:
    return ArraySamples(torch.zeros(len(labels), 1), torch.tensor(labels))


def test_missing_parts_are_cut_from_train() -> None:
    data = assemble("toy", {"train": labelled(*[0, 1] * 40), "test": labelled(0, 1)})
    assert (len(data.train), len(data.validation), len(data.test)) == (70, 10, 2)
    rows = [part.batch(torch.arange(len(part))).index for part in (data.train, data.validation)]
    assert torch.cat(rows).sort().values.tolist() == list(range(80))


def test_real_targets_make_regression() -> None:
    data = assemble("toy", {"train": ArraySamples(torch.zeros(20, 1), torch.rand(20, 2))})
    assert (data.task, data.num_classes) == ("regression", 2)


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ({"train": labelled(0, 1), "validation": labelled(0), "test": labelled(2)}, {}, "test part .* but got class 2"),
        ({"train": labelled(0, 2, 2), "validation": labelled(0), "test": labelled(0)}, {}, "class 1 has no sample"),
        ({"train": labelled(0, 0), "validation": labelled(0), "test": labelled(0)}, {}, "at least 2 classes"),
        (
            {"train": labelled(0, 1), "validation": labelled(0), "test": labelled(5)},
            {"num_classes": 3},
            r"test labels of toy in \[0, 3\), but got 5",
        ),
        ({"train": labelled(0, 1), "validation": labelled(0), "test": labelled(1)}, {"class_names": ["a"]}, "a name"),
        ({"validation": labelled(0)}, {}, "the parts"),
        ({"train": ArraySamples(torch.zeros(20, 1))}, {}, "have a target"),
        ({"train": ArraySamples(torch.zeros(20, 1), torch.rand(20))}, {"task": "classification"}, "integer class"),
        ({"train": labelled(*[0, 1] * 9)}, {"fractions": (0.5, 0.5)}, "3 numbers"),
    ],
)
def test_bad_input(parts, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        assemble("toy", parts, **options)
