"""Every kind of file that the toolkit reads: how a good one is made, and how it is read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml

from tutelage.assessment import ReportCard
from tutelage.assessment.calibrated_model import CalibratedModel, load_calibrated, save_calibrator
from tutelage.config import DistillConfig, parse_config, read_config
from tutelage.data import ArraySamples, load_data
from tutelage.data.account_lists import load_account_lists
from tutelage.data.cityscapes import CityscapesSamples, label_file
from tutelage.data.streams import read_stream
from tutelage.data.two_views import av_mnist
from tutelage.files import read_json, read_tensors, write_json, write_tensors
from tutelage.models import load_model, mlp, save_model
from tutelage.objectives import TemperatureScaling
from tutelage.reporting import ArmResult, Report, read_report
from tutelage.reproduction import recorded
from tutelage.reproduction.runner import read_outcomes
from tutelage.run import read_card
from tutelage.searching.proposing import RememberedScores
from tutelage.teachers import FrozenTeacher, TeacherCache, build_cache
from tutelage.teachers.aspect_answers import CachedAnswers
from tutelage.teachers.aspect_questions import AspectQuestionSet
from tutelage.teachers.response_cache import ResponseCache
from tutelage.training.checkpoints import Checkpoint, load_latest, save_checkpoint
from tutelage.training.record import MetricsFile


@dataclass(frozen=True)
class Reader:
    """A kind of file or folder.

    Attributes:
        name: What the fault is listed under.
        make: Writes a good one into an empty folder.
        read: Reads what lies in the folder; equal contents give equal results.
        sealed: Whether a checksum stands for every byte, so that no other content is ever given.
        slow: Whether reading takes some hundredths of a second.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    sealed: bool = False
    slow: bool = False


def readers() -> dict[str, Reader]:
    """All of them by name."""
    return {one.name: one for one in _READERS}


# ── Models, checkpoints, caches ──────────────────────────────────────────────────────────────────────────────────────


def _make_checkpoints(folder: Path) -> None:
    for step in (1, 2):
        tensors = {"student.weight": torch.arange(6.0).reshape(2, 3) + step}
        state = {"identity": {"seed": 0}, "history": [{"loss": 0.5 + step}], "random": (torch.arange(9), None)}
        save_checkpoint(folder, Checkpoint(step, tensors, state))


def _read_checkpoints(folder: Path) -> Any:
    found = load_latest(folder)
    assert found is not None
    assert found.step in (1, 2)
    good = {"student.weight": torch.arange(6.0).reshape(2, 3) + found.step}
    assert all(torch.equal(found.modules[name], value) for name, value in good.items())
    assert found.state["history"] == [{"loss": 0.5 + found.step}]
    return "one that is whole"


def _samples() -> ArraySamples:
    generator = torch.Generator().manual_seed(0)
    return ArraySamples(torch.randn(40, 4, generator=generator), torch.arange(40) % 3)


def _make_model(folder: Path) -> None:
    torch.manual_seed(0)
    save_model(folder, mlp(4, 3, hidden=(5,)))


def _make_run(folder: Path) -> None:
    torch.manual_seed(0)
    save_model(folder / "student.safetensors", mlp(4, 3, hidden=(5,)))


def _read_model(folder: Path) -> str:
    return str(load_model(folder)(torch.ones(2, 4)).shape)


def _make_transformers(folder: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=16, max_position_embeddings=8, num_labels=3, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)


def _make_calibrator(folder: Path) -> None:
    _make_model(folder)
    save_calibrator(folder, CalibratedModel(load_model(folder), TemperatureScaling(), []))


def _make_cache(folder: Path) -> None:
    torch.manual_seed(0)
    build_cache(FrozenTeacher(mlp(4, 3, hidden=(5,))), _samples(), folder, shard_size=16, top_k=2)


def _read_cache(folder: Path) -> Any:
    read = TeacherCache(folder, verify="full").read(torch.arange(40))
    assert read.logits is not None
    return read.logits.tolist()


_KEY = "ab" * 32


def _make_responses(folder: Path) -> None:
    ResponseCache(folder).write(_KEY, {"choices": [{"text": "a"}]}, path="completions", payload={"prompt": "x"})


# ── Reports, records, configs ────────────────────────────────────────────────────────────────────────────────────────


def _card() -> ReportCard:
    return ReportCard("student", "classification", 8, metrics={"accuracy": 0.5})


def _make_metrics(folder: Path) -> None:
    for step in range(4):
        MetricsFile(folder).append({"step": step, "loss": 0.5})


def _read_metrics(folder: Path) -> str:
    MetricsFile(folder).keep_until(2)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["step"] <= 2
    return "what can be read, and stays readable"


def _make_outcomes(folder: Path) -> None:
    told = {"arm": "a", "seed": 0, "metrics": {"accuracy": 0.5}, "seconds": 1.0, "peak_rss_mb": 100.0}
    write_json(folder / "trials" / "a.0.json", told)


def _read_recorded(folder: Path) -> Any:
    with mock.patch.object(recorded, "recorded_folder", return_value=folder):
        return recorded.recorded_result("pld", "quick")


def _make_config(folder: Path) -> None:
    settings = {
        "data": {"name": "iris"},
        "teacher": {"name": "mlp", "arguments": {"hidden": [16]}, "train": {"epochs": 3}},
        "student": "mlp",
        "arms": {"label": ["cross_entropy"], "teacher": [{"name": "forward_kl", "weight": 0.5}]},
        "training": {"epochs": 6, "learning_rate": 0.01},
        "seeds": [0, 1],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def _make_scores(folder: Path) -> None:
    scores = RememberedScores(folder / "scores.jsonl", lambda arch: 0.5)
    for arch in ((4, 8), (8, 8)):
        scores(arch)


def _read_scores(folder: Path) -> str:
    scores = RememberedScores(folder / "scores.jsonl", lambda arch: 0.5)
    assert all(isinstance(scores(arch), float) for arch in ((4, 8), (8, 8)))
    again = RememberedScores(folder / "scores.jsonl", lambda arch: float("nan"))
    assert all(again(arch) == again(arch) for arch in ((4, 8), (8, 8))), "what could not be read was written again"
    return "scores, asked for again where they cannot be read"


# ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _make_npz(folder: Path) -> None:
    np.savez_compressed(folder / "zinnia.npz", x=np.ones((20, 3), np.float32), y=np.arange(20) % 2)


def _make_npy(folder: Path) -> None:
    np.save(folder / "zinnia.npy", np.ones((20, 3), np.float32))


def _rows() -> list[dict[str, Any]]:
    return [
        {"size": number / 2, "colour": "red" if number % 3 else "blue", "kind": "ab"[number % 2]}
        for number in range(20)
    ]


def _make_csv(folder: Path) -> None:
    with (folder / "zinnia.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["size", "colour", "kind"])
        writer.writeheader()
        writer.writerows(_rows())


def _make_jsonl(folder: Path) -> None:
    (folder / "zinnia.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows()))


def _make_parquet(folder: Path) -> None:
    import pandas

    pandas.DataFrame(_rows()).to_parquet(folder / "zinnia.parquet")


def _read_table(suffix: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        return len(load_data(folder / f"zinnia.{suffix}", target_column="kind").train)

    return read


def _make_accounts(folder: Path) -> None:
    rows = [{"V1": number / 2, "Amount": float(number), "Class": 0} for number in range(40)]
    with (folder / "zinnia.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["V1", "Amount", "Class"])
        writer.writeheader()
        writer.writerows(rows)


def _read_accounts(folder: Path) -> Any:
    load_account_lists.cache_clear()
    parts = load_account_lists(str(folder / "zinnia.csv"), 0, list_size=4, fraction=0.2, positives_per_list=None)
    return len(parts["train"].features)


def _image(path: Path, size: int = 8, mode: str = "RGB") -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    Image.fromarray(np.random.default_rng(0).integers(0, 30, shape, dtype=np.uint8)).save(path)


def _make_images(folder: Path) -> None:
    for kind in ("cat", "dog"):
        for number, suffix in enumerate(("png", "jpg", "bmp", "webp", "gif", "tif", "pgm")):
            _image(folder / kind / f"{number}.{suffix}")


def _street(folder: Path) -> Path:
    return folder / "leftImg8bit" / "train" / "bonn" / "bonn_0_leftImg8bit.png"


def _make_streets(folder: Path) -> None:
    _image(_street(folder))
    _image(label_file(_street(folder)), mode="L")


def _make_hugging_face(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(
        {"x": [[float(n), 1.0] for n in range(20)], "label": [n % 2 for n in range(20)]}
    ).save_to_disk(str(folder))


def _make_views(folder: Path) -> None:
    for view, pixels in (("image", 28 * 28), ("sound", 112 * 112)):
        (folder / view).mkdir()
        for part in ("train", "test"):
            values = np.arange(6 * pixels, dtype=np.uint8).reshape(6, pixels)
            np.save(folder / view / f"{part}_data.npy", values)
    for part in ("train", "test"):
        np.save(folder / f"{part}_labels.npy", np.arange(6))


def _answers() -> CachedAnswers:
    return CachedAnswers({"0": [1.0, 0.5], "1": [0.0, float("nan")]}, ["Is it red?", "Can it fly?"])


def _make_tokenizer(folder: Path) -> None:
    from tutelage.data.texts import train_bpe

    train_bpe(["one two three", "two three four"], 300).save_pretrained(folder)
    (folder / "zinnia.jsonl").write_text("".join(json.dumps({"text": "one two"}) + "\n" for _ in range(20)))


def _read_texts(folder: Path) -> Any:
    data = load_data(folder / "zinnia.jsonl", completion_column="text", tokenizer=str(folder), length=8)
    return len(data.train)


_READERS = [
    Reader("checkpoint", _make_checkpoints, _read_checkpoints, sealed=True),
    Reader(
        "safetensors file",
        lambda folder: write_tensors(folder / "a.safetensors", {"a": torch.ones(3)}),
        lambda folder: sorted(read_tensors(folder / "a.safetensors")),
    ),
    Reader(
        "JSON file",
        lambda folder: write_json(folder / "a.json", {"a": [1, 2.5, "x"]}),
        lambda folder: type(read_json(folder / "a.json")),
    ),
    Reader("saved model", _make_model, _read_model),
    Reader("student of a run", _make_run, _read_model),
    Reader("transformers folder", _make_transformers, lambda folder: type(load_model(folder)), slow=True),
    Reader("calibrator", _make_calibrator, lambda folder: type(load_calibrated(folder))),
    Reader("teacher cache", _make_cache, _read_cache, sealed=True),
    Reader(
        "response cache",
        _make_responses,
        lambda folder: ResponseCache(folder).read(_KEY) in (None, {"choices": [{"text": "a"}]}),
        sealed=True,
    ),
    Reader(
        "report.json",
        lambda folder: write_json(
            folder / "report.json",
            Report("x", arms=[ArmResult("a", "b", [_card()], [[{"step": 1, "loss": 0.5}]])], created="now").to_dict(),
        ),
        lambda folder: type(read_report(folder / "report.json")),
    ),
    Reader(
        "card.json",
        lambda folder: write_json(
            folder / "card.json", {"card": _card().to_dict(), "history": [{"step": 1, "validation_accuracy": 0.5}]}
        ),
        lambda folder: type(read_card(folder / "card.json")),
    ),
    Reader("metrics.jsonl", _make_metrics, _read_metrics),
    Reader("finished trial", _make_outcomes, lambda folder: len(read_outcomes(folder / "trials"))),
    Reader(
        "recorded result",
        lambda folder: write_json(
            folder / "pld.quick.json", {"slug": "pld", "scale": "quick", "arms": {}, "claims": []}
        ),
        _read_recorded,
    ),
    Reader(
        "config", _make_config, lambda folder: type(parse_config(read_config(folder / "config.yaml"), DistillConfig))
    ),
    Reader("search scores", _make_scores, _read_scores),
    Reader("npz data", _make_npz, lambda folder: len(load_data(folder / "zinnia.npz").train)),
    Reader("npz stream", _make_npz, lambda folder: len(read_stream(folder / "zinnia.npz").inputs)),
    Reader("npy stream", _make_npy, lambda folder: len(read_stream(folder / "zinnia.npy").inputs)),
    Reader("CSV table", _make_csv, _read_table("csv")),
    Reader("JSONL table", _make_jsonl, _read_table("jsonl")),
    Reader("Parquet table", _make_parquet, _read_table("parquet")),
    Reader("CSV of accounts", _make_accounts, _read_accounts),
    Reader("folder of images", _make_images, lambda folder: len(load_data(folder, size=8).train)),
    Reader(
        "Cityscapes",
        _make_streets,
        lambda folder: len(CityscapesSamples([_street(folder)]).batch(torch.tensor([0])).inputs),
    ),
    Reader("Hugging Face data set", _make_hugging_face, lambda folder: len(load_data(folder).train), slow=True),
    Reader("AV-MNIST", _make_views, lambda folder: len(av_mnist(folder, student="image").train), slow=True),
    Reader(
        "answers in JSON",
        lambda folder: _answers().save(folder / "a.json"),
        lambda folder: type(CachedAnswers.load(folder / "a.json")),
    ),
    Reader(
        "answers in npz",
        lambda folder: _answers().save(folder / "a.npz"),
        lambda folder: type(CachedAnswers.load(folder / "a.npz")),
    ),
    Reader(
        "questions in JSON",
        lambda folder: AspectQuestionSet(["Is it red?"]).save(folder / "a.json"),
        lambda folder: type(AspectQuestionSet.load(folder / "a.json")),
    ),
    Reader(
        "questions in text",
        lambda folder: (folder / "a.txt").write_text("Is it red?\nCan it fly?\n"),
        lambda folder: type(AspectQuestionSet.load(folder / "a.txt")),
    ),
    Reader("tokenizer and texts", _make_tokenizer, _read_texts, slow=True),
]


@contextmanager
def damaged(files: dict[Path, bytes], path: Path, content: bytes) -> Iterator[None]:
    """Another content of one file inside the block; then all files are as they were."""
    path.write_bytes(content)
    try:
        yield
    finally:
        for place, good in files.items():
            if not place.is_file() or place.read_bytes() != good:
                place.write_bytes(good)
