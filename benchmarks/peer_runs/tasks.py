"""What is taught, to every subject alike: networks, data, losses and optimiser; and how a subject is asked for a run.

Nothing is shuffled, drawn or decayed during a run, so that all subjects do the same arithmetic in the same order and
end with the same student.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.allocator import keep_freed_memory

LEARNING_RATE = 1e-3
TEMPERATURE, ALPHA = 4.0, 0.9
"""Of the classic loss (1 − α)·cross-entropy + α·T²·KL."""

BETA = 0.5
"""Of the generalised Jensen–Shannon divergence between next-token distributions."""

IGNORED = -100


@dataclass(frozen=True)
class Classes:
    """Perceptrons, labels and the classic loss."""

    student_widths: tuple[int, ...]
    teacher_widths: tuple[int, ...]
    batch_size: int
    samples: int
    epochs: int

    @property
    def steps(self) -> int:
        """Optimiser steps of a run."""
        return self.epochs * self.samples // self.batch_size

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs [samples, width] and labels [samples]."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(self.samples, self.student_widths[0], generator=generator)
        return inputs, torch.randint(self.student_widths[-1], (self.samples,), generator=generator)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """A frozen teacher and a student with the same initial weights every time."""
        torch.manual_seed(0)
        return frozen(perceptron(self.teacher_widths)), perceptron(self.student_widths)

    def loss(self, student: nn.Module, teacher: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """The classic loss of a batch."""
        with torch.no_grad():
            taught = teacher(inputs)
        return classic(student(inputs), taught, target)


@dataclass(frozen=True)
class Texts:
    """Small GPT-2 models and a divergence over the tokens of fixed responses."""

    student_width: int
    teacher_width: int
    layers: int
    batch_size: int
    samples: int
    epochs: int
    vocabulary: int = 512
    length: int = 64
    prompt: int = 16

    @property
    def steps(self) -> int:
        """Optimiser steps of a run."""
        return self.epochs * self.samples // self.batch_size

    def data(self) -> tuple[Tensor, Tensor]:
        """Tokens [samples, length], and labels of the same shape, not shifted, with the prompts left out."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(3, self.vocabulary, (self.samples, self.length), generator=generator)
        labels = tokens.clone()
        labels[:, : self.prompt] = IGNORED
        return tokens, labels

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """A frozen teacher and a student with the same initial weights every time."""
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        teacher, student = (
            GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=self.vocabulary, n_positions=self.length, n_embd=width, n_layer=self.layers, n_head=4,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=0,
                    use_cache=False,
                )
            )
            for width in (self.teacher_width, self.student_width)
        )  # fmt: skip
        return frozen(teacher), student

    def loss(self, student: nn.Module, teacher: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
        """The divergence over the labelled tokens of a batch."""
        mask = torch.ones_like(tokens)
        with torch.no_grad():
            taught = teacher(input_ids=tokens, attention_mask=mask).logits[:, :-1]
        learned = student(input_ids=tokens, attention_mask=mask).logits[:, :-1]
        return jensen_shannon(learned, taught, labels[:, 1:])


@dataclass(frozen=True)
class Losses:
    """A loss alone, forward and backward, on logits [batch, classes] or, for texts, [1, tokens, vocabulary]."""

    kind: Literal["classic", "dist", "jensen_shannon"]
    batch_size: int = 1024
    classes: int = 1000
    steps: int = 10

    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of a student and a teacher, and labels."""
        generator = torch.Generator().manual_seed(0)
        student, teacher = 3 * torch.randn(2, self.batch_size, self.classes, generator=generator)
        target = torch.randint(self.classes, (self.batch_size,), generator=generator)
        if self.kind == "jensen_shannon":
            return student[None], teacher[None], target[None]
        return student, teacher, target

    def prepared(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Prepared:
        """A run of a loss."""
        student, teacher, target = self.data()

        def run() -> None:
            for _ in range(self.steps):
                logits = student.detach().requires_grad_()
                torch.autograd.grad(loss(logits, teacher, target), logits)

        return Prepared(run, lambda: float(loss(student, teacher, target)))


def classic(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """The classic loss, as one writes it by hand."""
    taught = F.log_softmax(teacher_logits / TEMPERATURE, dim=-1)
    learned = F.log_softmax(student_logits / TEMPERATURE, dim=-1)
    divergence = F.kl_div(learned, taught, reduction="batchmean", log_target=True)
    return (1 - ALPHA) * F.cross_entropy(student_logits, target) + ALPHA * TEMPERATURE**2 * divergence


def dist(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """DIST, as one writes it by hand: correlations of predictions along classes and along samples."""
    student, teacher = student_logits.softmax(dim=1), teacher_logits.softmax(dim=1)
    terms = []
    for dim in (1, 0):
        first, second = (part - part.mean(dim=dim, keepdim=True) for part in (student, teacher))
        terms.append(1 - F.cosine_similarity(first, second, dim=dim).mean())
    return terms[0] + terms[1]


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The generalised divergence, as one writes it by hand: mean over labelled tokens, mixture in logarithms."""
    learned, taught = F.log_softmax(student_logits, dim=-1), F.log_softmax(teacher_logits, dim=-1)
    shares = torch.tensor([BETA, 1 - BETA]).log()
    mixture = torch.logaddexp(taught + shares[0], learned + shares[1])
    of_teacher = F.kl_div(mixture, taught, reduction="none", log_target=True).sum(dim=-1)
    of_student = F.kl_div(mixture, learned, reduction="none", log_target=True).sum(dim=-1)
    return (BETA * of_teacher + (1 - BETA) * of_student)[labels != IGNORED].mean()


Task = Classes | Texts | Losses

TASKS: dict[str, Task] = {
    "classes, small": Classes((64, 24, 10), (64, 128, 10), 64, 1280, 20),
    "classes, large": Classes((1024, 1024, 1024, 100), (1024, 1024, 100), 128, 1280, 3),
    "texts, small": Texts(32, 64, 1, 8, 160, 4),
    "texts, large": Texts(128, 256, 4, 8, 160, 1),
    "classic loss": Losses("classic"),
    "DIST": Losses("dist"),
    "Jensen–Shannon": Losses("jensen_shannon"),
}


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """A perceptron with ReLU between its layers."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def frozen(teacher: nn.Module) -> nn.Module:
    """The network in evaluation mode, without gradients."""
    return teacher.eval().requires_grad_(False)


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start, and by what to see that it did what others do: a loss."""

    run: Callable[[], object]
    loss: Callable[[], float]


def taught(task: Classes | Texts, run: Callable[[], object], student: nn.Module) -> Prepared:
    """A run that teaches a student, whose loss over all data is asked for at its end."""

    def loss() -> float:
        teacher, _ = task.networks()
        with torch.no_grad():
            return float(task.loss(student.eval(), teacher, *task.data()))

    return Prepared(run, loss)


def serve(prepare: Callable[[Any], Prepared]) -> None:
    """Run a task for every line of standard input, which names it.

    Answers each with a line of JSON: the seconds of the run alone, of what came before it, and the final loss over all
    data, by which `benchmarks.peers` sees that subjects did the same.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what a trainer prints is no answer
        for line in sys.stdin:
            print(json.dumps(_run(prepare, TASKS[line.strip()])), file=answers, flush=True)


def _run(prepare: Callable[[Any], Prepared], task: Task) -> dict[str, float]:
    begun = time.perf_counter()
    prepared = prepare(task)
    started = time.perf_counter()
    prepared.run()
    ended = time.perf_counter()
    return {"seconds": ended - started, "seconds_before": started - begun, "loss": prepared.loss()}
