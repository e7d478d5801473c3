from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import load_data
from tutelage.models import mlp, save_model
from tutelage.teachers import CachedTeacher, FrozenTeacher, TeacherCache

runner = CliRunner()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "teacher", mlp((1, 8, 8), 10, hidden=(16,)))
    return tmp_path / "teacher"


def test_caches_a_saved_teacher(tmp_path: Path, saved: Path) -> None:
    from tutelage.models import load_model

    out = tmp_path / "cache"
    options = ["cache", "--teacher", str(saved), "--data", "digits", "--out", str(out)]
    done = runner.invoke(app, [*options, "--embedding", "--tap", "hidden=head:input", "--verify"])
    assert done.exit_code == 0, done.output
    live = FrozenTeacher(load_model(saved), embedding=True)
    samples = load_data("digits").train
    cache = TeacherCache(out, teacher=live, data=samples)
    assert f"{len(samples)} samples, {cache.bytes_per_sample} bytes a sample" in done.stdout
    assert "Every file is as it was written." in done.stdout
    batch = samples.batch(torch.arange(20))
    expected, found = live(batch), CachedTeacher(cache)(batch)
    assert torch.allclose(found.logits, expected.logits, atol=2e-3)
    assert torch.allclose(found.embedding, expected.embedding, rtol=1e-3)
    assert torch.equal(found.features["hidden"], found.embedding)


def test_top_k_of_another_part(tmp_path: Path, saved: Path) -> None:
    out = tmp_path / "cache"
    options = ["cache", "--teacher", str(saved), "--data", "digits", "--out", str(out)]
    done = runner.invoke(app, [*options, "--split", "test", "--top-k", "3"])
    assert done.exit_code == 0, done.output
    cache = TeacherCache(out)
    assert len(cache) == len(load_data("digits").test)
    assert cache.manifest.top_k == 3
    assert re.search(r"all logits in float32: 40, 1\.\d+ times that", done.stdout)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--split", "trian"], "did you mean 'train'"),
        (["--dtype", "float61"], "did you mean 'float16'"),
        (["--tap", "hidden"], "key=value"),
        (["--tap", "hidden=heat"], "did you mean 'head'"),
        (["--no-logits"], "at least one signal"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, saved: Path, options: list[str], text: str) -> None:
    common = ["cache", "--teacher", str(saved), "--data", "digits", "--out", str(tmp_path / "cache")]
    done = runner.invoke(app, common + options)
    assert isinstance(done.exception, ValueError)
    assert text in str(done.exception)
    assert "\n" not in str(done.exception)


def test_caches_a_served_teacher_and_asks_nothing_twice(tmp_path: Path) -> None:
    from tests.teachers.loopback import ServedModel
    from tutelage.models import causal_lm

    data = load_data("arithmetic", train=12, validation=4, test=4)
    torch.manual_seed(0)
    out = tmp_path / "cache"
    small = ["--data-option", "train=12", "--data-option", "validation=4", "--data-option", "test=4", "--top-k", "3"]
    with ServedModel(causal_lm(data.num_classes, hidden_size=8, num_layers=1, num_heads=1)) as served:
        options = ["cache", "--teacher", "small", "--data", "arithmetic", *small, "--endpoint", served.url]
        done = runner.invoke(app, [*options, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "12 samples" in done.stdout
        assert "12 requests" in done.stdout  # one answer more is read again: the first, which tells the layout
        (out / "manifest.json").unlink()  # the cache is lost, the answers are not
        for shard in out.glob("*.npy"):
            shard.unlink()
        again = runner.invoke(app, [*options, "--out", str(out)])
        assert " 0 requests" in again.stdout, again.output
        assert len(served.answered) == 12
    assert TeacherCache(out, data=data.train).manifest.top_k == 3
    wrong = runner.invoke(
        app, ["cache", "--teacher", "m", "--data", "digits", "--out", str(out), "--endpoint", "http://h"]
    )
    assert wrong.exit_code != 0
