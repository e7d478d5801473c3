"""Answers to MaKD's questions: who gives them, where they are kept, and how they come to the student.

Source: "Multi-aspect Knowledge Distillation with Large Language Model", arXiv 2501.13341, section 3.2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tutelage._checks import check_in_range, check_non_negative, check_positive, check_unit_interval
from tutelage.batch import Batch
from tutelage.data.archives import read_npz
from tutelage.data.arrays import fingerprint_of
from tutelage.data.loading import load_data
from tutelage.data.samples import Data, Samples
from tutelage.files import atomic_path, errors_name, read_json, write_json
from tutelage.teachers.aspect_questions import AspectQuestionSet

ASPECTS = "aspects"
"""Where answers lie in a batch's extras: `[batch, questions]`, NaN for a question without an answer."""


@runtime_checkable
class AspectAnswerer(Protocol):
    """Answers yes/no questions about samples."""

    def answer(self, images: Any, questions: Sequence[str]) -> Float[Tensor, "batch questions"]:
        """Probabilities of "yes", `[batch, questions]` float32; NaN where there is no answer.

        Args:
            images: What is asked about, a batch in the form that the answerer knows it by: pictures for one that looks,
                true attributes for an oracle, sample ids for kept answers.
            questions: The questions, in the order of the columns.
        """
        ...


class AttributeOracle:
    """Answers from known attributes, with the faults of a model that looks.

    a = σ(κ · (2 · truth − 1) + N(0, noise²)), where the truth is turned round with probability `flip_rate` before.
    Every answer has its own draw, and draws go on from call to call: two oracles of one seed give the same answers to
    the same calls. With a `flip_rate` of 0.5 answers know nothing of the truth.

    Args:
        noise: Standard deviation of the logit.
        flip_rate: Probability that an answer is that of the opposite truth.
        certainty: κ, the logit of "yes" without noise.
        seed: Fixes the draws.

    Raises:
        ValueError: A negative noise, a rate outside [0, 1], or a certainty that is not positive.

    >>> oracle = AttributeOracle(noise=0.0, flip_rate=0.0)
    >>> oracle.answer(torch.tensor([[True, False]]), ["Is it red?", "Can it fly?"])
    tensor([[0.8808, 0.1192]])
    """

    def __init__(self, noise: float = 1.0, flip_rate: float = 0.1, *, certainty: float = 2.0, seed: int = 0) -> None:
        check_non_negative(noise, "noise")
        check_in_range(flip_rate, "flip_rate", 0.0, 1.0)
        check_positive(certainty, "certainty")
        self.noise = noise
        self.flip_rate = flip_rate
        self.certainty = certainty
        self._generator = torch.Generator().manual_seed(seed)

    def answer(
        self, images: Shaped[Tensor, "batch attributes"], questions: Sequence[str]
    ) -> Float[Tensor, "batch questions"]:
        """Answers to as many questions as there are attributes.

        Args:
            images: `[batch, questions]` true answers: booleans, or 0 and 1.
            questions: The questions, in the order of the attributes.

        Raises:
            ValueError: Another number of questions than attributes, or attributes that are neither 0 nor 1.
        """
        if images.shape[1] != len(questions):
            raise ValueError(
                f"Expected argument `images` to hold {len(questions)} attributes, one a question, "
                f"but got {images.shape[1]}."
            )
        truth = images.cpu().double()
        if not ((truth == 0) | (truth == 1)).all():
            raise ValueError("Expected argument `images` to hold attributes that are 0 or 1, but got others.")
        flipped = torch.rand(truth.shape, generator=self._generator, dtype=torch.float64) < self.flip_rate
        truth = truth.where(~flipped, 1 - truth)
        noise = self.noise * torch.randn(truth.shape, generator=self._generator, dtype=torch.float64)
        return torch.sigmoid(self.certainty * (2 * truth - 1) + noise).float()


class CachedAnswers:
    """Answers that were given once, by sample id: a dict that a file holds.

    Files are JSON (`{"questions": […], "answers": {id: […]}}`, null for a question without an answer) or `.npz` without
    pickled objects. Ids are texts; numbers count as their decimal form, so `7` and `"7"` are one sample.

    Args:
        answers: `[questions]` probabilities of "yes" by sample id; NaN for a question without an answer.
        questions: The questions, in the order of the numbers.

    Raises:
        ValueError: No sample, another number of answers than questions, or a number outside [0, 1].

    >>> cached = CachedAnswers({"cat-1": [0.9, 0.2], "dog-7": [0.4, float("nan")]}, ["Has it fur?", "Does it meow?"])
    >>> cached.answer(["dog-7", "cat-1"], ["Does it meow?"]).tolist()
    [[nan], [0.20000000298023224]]
    """

    def __init__(self, answers: Mapping[Any, Sequence[float] | Tensor], questions: Sequence[str]) -> None:
        self.questions = AspectQuestionSet(questions)
        if len(self.questions) != len(questions):
            raise ValueError("Expected argument `questions` to hold different questions, but some repeat.")
        if not answers:
            raise ValueError("Expected argument `answers` to hold at least one sample, but it is empty.")
        for sample, row in answers.items():
            if len(row) != len(self.questions):
                raise ValueError(
                    f"Expected {len(self.questions)} answers a sample, one a question, "
                    f"but sample {_id(sample)!r} has {len(row)}."
                )
        self._rows = {_id(sample): row for row, sample in enumerate(answers)}
        if len(self._rows) != len(answers):
            raise ValueError("Expected argument `answers` to hold every sample once, but some ids repeat as texts.")
        self.table = torch.stack([torch.as_tensor(row, dtype=torch.float32) for row in answers.values()])
        check_unit_interval(self.table.nan_to_num(nan=0.5), "answers")

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def sample_ids(self) -> list[str]:
        """The samples that there are answers for."""
        return list(self._rows)

    def answer(self, images: Any, questions: Sequence[str] | None = None) -> Float[Tensor, "batch questions"]:
        """The kept answers.

        Args:
            images: Sample ids: texts, numbers, or a tensor of numbers.
            questions: Which answers, in which order; by default all, in their own.

        Raises:
            KeyError: A sample or a question without answers; it is named.
        """
        ids = images.tolist() if isinstance(images, Tensor | np.ndarray) else list(images)
        rows = [self._rows.get(_id(sample), -1) for sample in ids]
        if -1 in rows:
            raise KeyError(f"There are no answers for sample {_id(ids[rows.index(-1)])!r}.")
        table = self.table[torch.tensor(rows, dtype=torch.int64)]
        if questions is None or tuple(questions) == tuple(self.questions):
            return table
        columns = {question: column for column, question in enumerate(self.questions)}
        for question in questions:
            if question not in columns:
                raise KeyError(f"There are no answers to the question {question!r}.")
        return table[:, [columns[question] for question in questions]]

    @classmethod
    def collect(
        cls,
        answerer: AspectAnswerer,
        samples: Samples,
        questions: Sequence[str],
        *,
        look: Callable[[Batch], Any] = lambda batch: batch.inputs,
        batch_size: int = 32,
    ) -> CachedAnswers:
        """Ask about every sample once; answers are kept by the samples' stable index.

        Args:
            answerer: Who is asked.
            samples: What is asked about: the training part, without augmentation.
            questions: The questions.
            look: What of a batch the answerer is shown; by default the inputs.
            batch_size: Samples a call.
        """
        answers: dict[Any, Tensor] = {}
        for rows in torch.split(torch.arange(len(samples)), batch_size):
            batch = samples.batch(rows)
            answers |= zip(batch.index.tolist(), answerer.answer(look(batch), questions), strict=True)
        return cls(answers, questions)

    def save(self, path: Path | str) -> None:
        """Write a `.json` or `.npz` file, atomically.

        Raises:
            ValueError: Another suffix.
        """
        path = Path(path)
        if path.suffix == ".json":
            rows = [[None if value != value else value for value in row] for row in self.table.tolist()]
            write_json(
                path,
                {"questions": self.questions.to_json(), "answers": dict(zip(self._rows, rows, strict=True))},
                indent=None,
            )
        elif path.suffix == ".npz":
            with atomic_path(path) as part, part.open("wb") as stream:
                np.savez_compressed(
                    stream, questions=np.array(list(self.questions)), ids=np.array(list(self._rows)), answers=self.table
                )
        else:
            raise ValueError(f"Expected answers to be kept in a .json or .npz file, but got {path.name!r}.")

    @classmethod
    def load(cls, path: Path | str, questions: Sequence[str] | None = None) -> CachedAnswers:
        """Read a file that `save` wrote, or a released one: a JSON object of answers by id, without the questions.

        Args:
            path: The file.
            questions: The questions of a file that does not name them.

        Raises:
            ValueError: Another kind of file, one that holds something else, or one without questions.
        """
        path = Path(path)
        if path.suffix == ".npz":
            kept = _read_npz(path)
        elif path.suffix == ".json":
            kept = read_json(path)
        else:
            raise ValueError(f"Expected answers to be kept in a .json or .npz file, but got {path.name!r}.")
        if isinstance(kept, dict) and set(kept) == {"questions", "answers"}:
            questions, kept = kept["questions"], kept["answers"]
        if questions is None:
            raise ValueError(f"Expected argument `questions` for {path}, which does not name them, but got None.")
        if not isinstance(kept, dict) or not all(isinstance(row, list) for row in kept.values()):
            raise ValueError(f"Expected {path} to hold a list of answers by sample id, but it does not.")
        with errors_name(path):
            told = {sample: [float("nan") if value is None else value for value in row] for sample, row in kept.items()}
            return cls(told, questions)


def _id(sample: Any) -> str:
    return sample if isinstance(sample, str) else str(int(sample))


def _read_npz(path: Path) -> dict[str, Any]:
    arrays = read_npz(path)
    missing = {"questions", "ids", "answers"} - set(arrays)
    if missing:
        raise ValueError(f"Expected {path} to hold answers, but it lacks {', '.join(sorted(missing))}.")
    with errors_name(path):
        rows = dict(zip(arrays["ids"].tolist(), arrays["answers"].tolist(), strict=True))
    return {"questions": arrays["questions"].tolist(), "answers": rows}


class AnsweredSamples:
    """Samples whose batches carry answers, in `extras["aspects"]`.

    Every answer belongs to a sample's stable index, so it stays with the sample in any order, and through an
    augmentation, which may crop away what was asked about.

    Args:
        samples: The samples.
        answers: Their answers, by stable index.
        questions: Which answers; by default all.

    >>> from tutelage.data import ArraySamples
    >>> answers = CachedAnswers({0: [0.9], 1: [0.2]}, ["Is it red?"])
    >>> AnsweredSamples(ArraySamples(torch.zeros(2, 3)), answers).batch(torch.tensor([1, 0])).extras["aspects"].tolist()
    [[0.20000000298023224], [0.8999999761581421]]
    """

    def __init__(self, samples: Samples, answers: CachedAnswers, questions: Sequence[str] | None = None) -> None:
        self.samples = samples
        self.answers = answers
        self.questions = answers.questions if questions is None else AspectQuestionSet(questions)

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, rows: Tensor) -> Batch:
        """The samples in the given rows.

        Raises:
            KeyError: A sample without answers.
        """
        batch = self.samples.batch(rows)
        batch.extras = {**batch.extras, ASPECTS: self.answers.answer(batch.index, self.questions)}
        return batch

    def fingerprint(self) -> str:
        """A hash of the samples and of all answers."""
        kept = fingerprint_of({"answers": self.answers.table})
        described = [self.samples.fingerprint(), kept, self.answers.sample_ids, list(self.questions)]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def answered_data(data: str | Mapping[str, Any], answers: Path | str, questions: Sequence[str] | None = None) -> Data:
    """Data whose training part carries answers from a file; for configs: `tutelage.teachers:answered_data`.

    Args:
        data: A name for `tutelage.data.load_data`, or `{"name": …, "options": {…}}`.
        answers: What `CachedAnswers.save` wrote.
        questions: Which answers; by default all.

    Raises:
        KeyError: A question without answers.
    """
    wanted: Mapping[str, Any] = {"name": data} if isinstance(data, str) else data
    loaded = load_data(wanted["name"], **wanted.get("options", {}))
    kept = CachedAnswers.load(answers)
    kept.answer([], questions)
    return replace(loaded, train=AnsweredSamples(loaded.train, kept, questions))
