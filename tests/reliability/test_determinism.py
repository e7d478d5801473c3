"""The same bits: from run to run, and however many processes read the data or teach students at a time."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from tests.reliability.outcomes import differences, outcome
from tests.reliability.shared_work import carry_out, check_alike, result, samples, trainer
from tutelage.batch import Batch
from tutelage.cli import main
from tutelage.data import load_batches


class Augmented:
    """Samples with noise from the generators that people's transforms draw from."""

    def __init__(self) -> None:
        self.samples = samples()

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, rows: Tensor) -> Batch:
        batch = self.samples.batch(rows)
        noise = torch.randn(batch.inputs.shape) + float(np.random.normal()) + random.gauss(0.0, 1.0)
        return Batch(batch.inputs + 0.1 * noise, batch.target, batch.index)

    def fingerprint(self) -> str:
        return self.samples.fingerprint()


def augmented_run(folder: Path | None, **settings: Any) -> tuple[list[dict[str, Any]], list[Tensor]]:
    job = trainer(folder, dropout=0.2, **settings)
    job.train = Augmented()
    history = job.run(resume=True)
    records = [{name: value for name, value in record.items() if name != "seconds"} for record in history]
    return records, [value.detach().clone() for value in job.method.student.parameters()]


def same(ours: tuple[list[dict[str, Any]], list[Tensor]], theirs: tuple[list[dict[str, Any]], list[Tensor]]) -> bool:
    return ours[0] == theirs[0] and all(map(torch.equal, ours[1], theirs[1]))


def test_runs_and_readers_give_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = augmented_run(tmp_path / "first", keep_checkpoints=99)
    torch.manual_seed(6)  # what a caller drew before is of no matter
    assert same(first, augmented_run(None))
    for num_workers in (1, 2):
        assert same(first, augmented_run(None, num_workers=num_workers)), num_workers
    other = augmented_run(None, seed=1)
    assert not same(first, other)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_goes_on_in_an_epoch_augments_as_it_would_have(tmp_path: Path, num_workers: int) -> None:
    settings = {"batch_size": 16, "checkpoint_every": 3, "num_workers": num_workers}  # 5 batches an epoch
    whole = augmented_run(tmp_path / "whole", keep_checkpoints=99, **settings)
    newer = sorted((tmp_path / "whole" / "checkpoints").iterdir())[1:]
    for path in newer:
        path.rename(tmp_path / path.name)
    assert same(whole, augmented_run(tmp_path / "whole", keep_checkpoints=99, **settings))


def test_epochs_do_not_repeat_the_augmentation_of_the_one_before() -> None:
    rows = [torch.arange(4), torch.arange(4)]
    for num_workers in (0, 1):
        first, again = (list(load_batches(Augmented(), rows, num_workers=num_workers, seed=epoch)) for epoch in (0, 1))
        drawn = [batch.inputs for batch in (*first, *again)]
        assert not any(torch.equal(one, other) for place, one in enumerate(drawn) for other in drawn[:place])


RUN = {
    "name": "tiny",
    "data": "iris",
    "teacher": {"name": "mlp", "arguments": {"hidden": [16]}, "train": {"epochs": 3, "learning_rate": 0.01}},
    "student": {"name": "mlp", "arguments": {"hidden": [8], "dropout": 0.2}},
    "arms": {"label": ["cross_entropy"], "teacher": ["forward_kl"]},
    "training": {"epochs": 4, "learning_rate": 0.01, "batch_size": 16, "num_workers": 1},
    "seeds": [0, 1],
}


@pytest.mark.reliability
def test_students_are_the_same_however_many_are_taught_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(RUN))
    for name, options in {"one": ["--jobs", "1"], "two": ["--jobs", "2"], "again": ["--jobs", "2"]}.items():
        place = str(tmp_path / name)
        monkeypatch.setattr(
            "sys.argv", ["tutelage", "distill", str(tmp_path / "config.yaml"), "--out", place, *options]
        )
        with contextlib.suppress(SystemExit):
            main()
        assert (tmp_path / name / "report.json").exists()
    one, two, again = (outcome(tmp_path / name) for name in ("one", "two", "again"))
    assert differences(two, again) == []
    for found in (one, two):  # the config, and the report with it, say how many at a time
        del found["config.yaml"], found["report.json"]["config_text"]
    assert differences(one, two) == []


@pytest.mark.reliability
def test_numbers_of_threads_change_no_more_than_the_order_of_sums(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for name in (f"{threads}", f"{threads} again"):
                (tmp_path / name).mkdir()
                carry_out(tmp_path / name, kind="features")
    finally:
        torch.set_num_threads(before)
    for threads in (1, 2):
        records, learned = result(tmp_path / f"{threads}")
        again, relearned = result(tmp_path / f"{threads} again")
        assert records == again
        assert all(torch.equal(value, relearned[name]) for name, value in learned.items())
    check_alike(tmp_path / "1", tmp_path / "2")
