from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from tutelage.assessment.disagreements import one_sided_examples, partings
from tutelage.assessment.pictures import png_data_uri
from tutelage.data.arrays import ArraySamples


def test_partings_are_counted():
    student, teacher, target = (torch.randint(4, (200,)) for _ in range(3))
    found = partings(student, teacher, target)
    assert sum(entry["count"] for entry in found) == int((student != teacher).sum())
    counts = [entry["count"] for entry in found]
    assert counts == sorted(counts, reverse=True)
    for entry in found:
        pair = (student == entry["student"]) & (teacher == entry["teacher"])
        assert entry["student"] != entry["teacher"]
        assert entry["count"] == int(pair.sum())
        assert entry["student_right"] == int((pair & (student == target)).sum())
        assert entry["teacher_right"] == int((pair & (teacher == target)).sum())


def test_no_partings():
    same = torch.arange(3)
    assert partings(same, same, same) == []


def test_examples_are_half_of_either_kind():
    count = 60
    target = torch.zeros(count, dtype=torch.int64)
    right, wrong = torch.tensor([0.8, 0.2]), torch.tensor([0.3, 0.7])
    student = torch.stack([right if i % 2 else wrong for i in range(count)])
    teacher = torch.stack([wrong if i % 2 else right for i in range(count)])
    samples = ArraySamples(torch.rand(count, 1, 4, 4), target)
    examples = one_sided_examples(samples, student, teacher, target, 8)
    assert [entry["right"] for entry in examples].count("student") == 4
    assert [entry["index"] for entry in examples] == sorted(entry["index"] for entry in examples)
    for entry in examples:
        assert entry["right"] == ("student" if entry["index"] % 2 else "teacher")
        assert entry["student_confidence"] == pytest.approx(0.8 if entry["right"] == "student" else 0.7)
        assert entry["image"].startswith("data:image/png;base64,")
    assert one_sided_examples(samples, student, teacher, target, 8) == examples
    assert one_sided_examples(samples, student, teacher, target, 8, seed=1) != examples
    assert one_sided_examples(samples, student, teacher, target, 0) == []


def test_one_kind_fills_what_the_other_lacks():
    target = torch.zeros(10, dtype=torch.int64)
    right, wrong = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.3, 0.7]])
    student = torch.cat([right.repeat(9, 1), wrong])
    teacher = torch.cat([wrong.repeat(9, 1), right])
    examples = one_sided_examples(ArraySamples(torch.rand(10, 2), target), student, teacher, target, 6)
    assert [entry["right"] for entry in examples].count("student") == 5
    assert examples[0]["image"] is None


@pytest.mark.parametrize(
    ("image", "mode", "pixel"),
    [
        (torch.tensor([[[0.0, 1.0], [0.5, 0.2]]]), "L", 255),
        (torch.tensor([[[-2.0, 2.0], [0.0, 1.0]]]), "L", 255),
        (torch.tensor([0, 51, 255]).to(torch.uint8).view(3, 1, 1).expand(3, 2, 2), "RGB", (0, 51, 255)),
        (torch.zeros(1, 2, 2), "L", 0),
        (torch.full((1, 2, 2), 7.0), "L", 0),
    ],
)
def test_pictures_hold_the_pixels(image, mode, pixel):
    head, data = png_data_uri(image).split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64"
    assert (picture.mode, picture.size) == (mode, (2, 2))
    assert picture.getpixel((1, 0)) == pixel


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="height, width"):
        png_data_uri(torch.zeros(2, 4, 4))
