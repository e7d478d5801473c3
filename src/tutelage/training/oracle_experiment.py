"""A controlled experiment: a student of an imperfect teacher, and its distance from what the teacher imitates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option
from tutelage.assessment import (
    ProxyGoldenCurve,
    mean_and_error,
    response_log_probabilities,
    sequence_kl,
)
from tutelage.assessment.sequence_distance import check_same_vocabulary
from tutelage.data.samples import Samples
from tutelage.objectives import TokenDivergence
from tutelage.objectives.schedules import Progress
from tutelage.teachers import FrozenTeacher
from tutelage.teachers.recorded import RecordedTeacher, record_logits
from tutelage.training.distillation import Distillation
from tutelage.training.monitors import Monitor
from tutelage.training.response_sources import MixedResponses, OfflineResponses, OnlineResponses
from tutelage.training.responses import generate_responses
from tutelage.training.settings import TrainingSettings
from tutelage.training.trainer import Trainer

Source = Literal["offline", "online_teacher", "online_student", "mixture"]

_MOST_RECORDED = 20_000_000  # numbers of a teacher's logits that are kept for a fixed data set


class OracleDistillationExperiment:
    """Distils a student, and follows its distance to the teacher (proxy) and to the oracle (golden).

    Both distances are `sequence_kl` along responses to held-out prompts that teacher and oracle write once, before the
    first step, so that all points of a curve compare; they are taken before the first step, at steps with equal ratios
    and at steps with equal distances. Every monitor gets a record of each: `step`, `epoch`, `proxy`, `golden`.

    The loss is a divergence from the teacher's full next-token distributions to the student's, the mean over the tokens
    of a response and then over responses. The teacher is frozen and in evaluation mode; no gradient goes through
    sampling.

    Args:
        oracle: What the teacher was fitted to.
        teacher: Imperfect: trained on a finite sample of the oracle's responses.
        student: Learns, in place.
        prompts_train: `[prompts, time]` tokens that the student is taught on.
        prompts_eval: `[prompts, time]` tokens that distances are taken on.
        max_new_tokens: Tokens of a response.
        divergence: `"forward_kl"`, `"reverse_kl"` or `"jsd"`.
        beta: The teacher's share of the mixture of `"jsd"`.
        source: `"offline"`: responses drawn once and read in every epoch. `"online_teacher"`, `"online_student"`: fresh
            ones at every visit of a prompt. `"mixture"`: fresh ones of the teacher with probability `fraction_online`.
        offline_source: Who writes the fixed responses, `"teacher"` or `"oracle"`.
        generations_per_prompt: Fixed responses to every prompt.
        prompt_fraction: Share of the prompts that is used.
        fraction_online: Probability of a fresh response in a `"mixture"`.
        prompts_teacher: The prompts that teacher and student were fitted on before, for a check.
        allow_overlap: Let prompt sets share prompts.
        responses_per_prompt: Responses to every held-out prompt.
        evaluations: Steps with equal ratios at which distances are taken; half as many with equal distances are added.
        length_normalized: Distances a token, not a response.
        end_token: Ends a response; None never does.
        settings: How the run goes; its seed also draws responses.
        monitors: What else watches the run.

    Attributes:
        source: The samples that are learned from, with `generated_tokens`.

    Raises:
        ValueError: Vocabularies that differ, prompt sets that overlap, a fraction that leaves no prompt, or an unknown
            option.

    Source: "On Teacher Hacking in Language Model Distillation", ICML 2025, Section 3. The mixture, the choice of
    evaluated steps and the oracle as a source are ours.

    >>> from tutelage.models import causal_lm
    >>> models = [causal_lm(9, hidden_size=8, num_layers=1) for _ in range(3)]
    >>> prompts = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    >>> settings = TrainingSettings(max_steps=4, batch_size=8)
    >>> experiment = OracleDistillationExperiment(*models, prompts[:32], prompts[32:48], max_new_tokens=3,
    ...                                           settings=settings)
    >>> experiment.run().steps
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        oracle: nn.Module,
        teacher: nn.Module,
        student: nn.Module,
        prompts_train: Int[Tensor, "train time"],
        prompts_eval: Int[Tensor, "eval time"],
        *,
        max_new_tokens: int,
        divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl",
        beta: float = 0.5,
        source: Source = "offline",
        offline_source: Literal["teacher", "oracle"] = "teacher",
        generations_per_prompt: int = 1,
        prompt_fraction: float = 1.0,
        fraction_online: float = 0.5,
        prompts_teacher: Tensor | None = None,
        allow_overlap: bool = False,
        responses_per_prompt: int = 8,
        evaluations: int = 25,
        length_normalized: bool = False,
        end_token: int | None = None,
        settings: TrainingSettings | None = None,
        monitors: Sequence[Monitor] = (),
    ) -> None:
        check_option(source, "source", ("offline", "online_teacher", "online_student", "mixture"))
        check_option(offline_source, "offline_source", ("teacher", "oracle"))
        check_at_least(responses_per_prompt, "responses_per_prompt", 1)
        check_at_least(evaluations, "evaluations", 1)
        sizes = [
            response_log_probabilities(model, prompts_eval[:1], prompts_eval[:1, :1]).shape[-1]
            for model in (oracle, teacher, student)
        ]
        check_same_vocabulary(*sizes)
        if not allow_overlap:
            _check_disjoint(
                {"prompts_train": prompts_train, "prompts_eval": prompts_eval, "prompts_teacher": prompts_teacher}
            )
        self.settings = settings or TrainingSettings()
        self.student = student
        self.monitors = list(monitors)
        self.evaluations = evaluations
        generator = torch.Generator(device=prompts_train.device).manual_seed(self.settings.seed)

        asked = prompts_eval.repeat_interleave(responses_per_prompt, dim=0)
        self._distances: dict[str, _Distance] = {}
        for name, model in (("proxy", teacher), ("golden", oracle)):
            told = generate_responses(
                model, asked, max_new_tokens=max_new_tokens, end_token=end_token, generator=generator
            )
            self._distances[name] = _Distance(
                model, asked, told.response_ids, told.mask, responses_per_prompt, length_normalized
            )

        writing: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "end_token": end_token,
            "generator": generator,
        }
        self.source: OfflineResponses | OnlineResponses | MixedResponses
        if source in ("offline", "mixture"):
            fixed = OfflineResponses(
                teacher if offline_source == "teacher" else oracle,
                prompts_train,
                generations_per_prompt=generations_per_prompt,
                prompt_fraction=prompt_fraction,
                **writing,
            )
            self.source = fixed
        else:
            used = int(prompt_fraction * len(prompts_train) + 1e-9)
            policy: Literal["teacher", "student"] = "teacher" if source == "online_teacher" else "student"
            writer = teacher if policy == "teacher" else student
            self.source = OnlineResponses(writer, prompts_train[:used], policy=policy, **writing)
        if source == "mixture":
            fresh = OnlineResponses(teacher, fixed.prompts, policy="teacher", **writing)
            self.source = MixedResponses(fixed, fresh, fraction_online=fraction_online, generator=generator)

        self._train: Samples = self.source
        told_by: Any = FrozenTeacher(teacher)
        if isinstance(self.source, OfflineResponses):
            positions = len(self.source) * (prompts_train.shape[1] + max_new_tokens)
            if positions * sizes[0] <= _MOST_RECORDED:
                self._train, told_by = record_logits(told_by, self.source), RecordedTeacher()
        loss = TokenDivergence(kind=divergence, beta=beta, token_average="sequence")
        self.method = Distillation(told_by, student, loss)

    def run(self) -> ProxyGoldenCurve:
        """Teach the student to the end (or to where a monitor stops it), and give both curves."""
        recorder = _CurveRecorder(self)
        Trainer(self.method, self._train, settings=self.settings, monitors=[recorder, *self.monitors]).run()
        points = recorder.points
        return ProxyGoldenCurve(
            steps=[step for step, _ in points],
            proxy=[point["proxy"][0] for _, point in points],
            golden=[point["golden"][0] for _, point in points],
            se_proxy=[point["proxy"][1] for _, point in points],
            se_golden=[point["golden"][1] for _, point in points],
        )

    def distances(self) -> dict[str, tuple[float, float]]:
        """Mean and standard error of both distances of the student as it is now."""
        return {name: distance(self.student) for name, distance in self._distances.items()}


class _Distance:
    """From one model to the student, along responses that the model wrote once."""

    def __init__(
        self, model: nn.Module, prompts: Tensor, responses: Tensor, mask: Tensor, per_prompt: int, normalized: bool
    ) -> None:
        self.prompts, self.responses, self.mask = prompts, responses, mask
        self.per_prompt, self.normalized = per_prompt, normalized
        self.told = response_log_probabilities(model, prompts, responses)

    def __call__(self, student: nn.Module) -> tuple[float, float]:
        rows = sequence_kl(
            self.told, student, self.prompts, self.responses, mask=self.mask, length_normalized=self.normalized
        )
        return mean_and_error(rows, responses_per_prompt=self.per_prompt)


class _CurveRecorder(Monitor):
    """Takes the distances at chosen steps and tells the other monitors."""

    def __init__(self, experiment: OracleDistillationExperiment) -> None:
        self.experiment = experiment
        self.points: list[tuple[int, dict[str, tuple[float, float]]]] = []
        self._due: set[int] = set()

    def on_start(self, trainer: Any) -> None:
        """Choose the steps; look at the student before the first one."""
        total, count = trainer.total_steps, self.experiment.evaluations
        spaced = np.concatenate([np.geomspace(1, total, count), np.linspace(0, total, 1 + count // 2)[1:], [total]])
        self._due = {int(step) for step in spaced.round()}
        self.points = [(0, self.experiment.distances())]

    def on_step(self, progress: Progress, losses: Mapping[str, float]) -> None:
        """Look at the student when it is due."""
        if progress.step not in self._due:
            return
        found = self.experiment.distances()
        self.points.append((progress.step, found))
        for monitor in self.experiment.monitors:
            means = {name: mean for name, (mean, _) in found.items()}
            monitor.on_record({"step": progress.step, "epoch": progress.epoch, **means})


def _check_disjoint(sets: Mapping[str, Tensor | None]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for name, prompts in sets.items():
        for prompt in [] if prompts is None else torch.unique(prompts, dim=0).tolist():
            other = seen.setdefault(tuple(prompt), name)
            if other != name:
                raise ValueError(f"Expected `{other}` and `{name}` to share no prompt, but both hold {prompt}.")
