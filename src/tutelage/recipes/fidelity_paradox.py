"""Fidelity paradox: is a distilled model more accurate, does it answer like its teacher, does it reason like it?

Source: "On the Generalization vs Fidelity Paradox in Knowledge Distillation", Findings of ACL 2025, arXiv 2505.15442.
Part (a) recomputes the paper's statistics from the result tables of its public repository, which are shipped with this
package as three CSV files (see their README).

The question. Distillation makes small language models more accurate, and one would think that it does so by making them
like their teacher. Three questions are asked apart: how much accuracy is gained over fine-tuning the same student, how
often student and teacher give the same answer, and how alike the texts are in which they work it out. Small models
learn to add and subtract three digits modulo 10 in two steps, in one of four styles that are equally right: which digit
comes first, which two are taken together first, and how a step is written. Style matters to nothing but fidelity.

The comparison. A student of each size is fine-tuned on the worked problems (the baseline), or learns from a larger
model that was, from its forward KL, its reverse KL, its judgement of the student's own texts (GKD), or the texts that
it writes for the same problems (sequence-level distillation). Every arm has the same problems, initial weights, steps
and learning rate, and no label in the loss when there is a teacher, as in the paper's code. Nothing is chosen: all
comparisons are at temperature 1 and after the last epoch. A seed draws weights and order; problems and teachers are the
same for all seeds. Texts are decoded greedily.

Departures from the paper: models have up to 200 thousand parameters and are trained from random weights, without LoRA;
only completions are learned (the code's default includes the prompt). Fidelity is BLEU, the overlap of steps, and the
share of equal styles; there are no sentence embeddings.

What does not hold, and why. Distillation does not bring texts closer to the teacher's (BLEU -1.5, p = 0.7), and
fidelity does go with accuracy (rank correlation +0.5). Students learn from random weights and stop on the way: accuracy
differs by 10 to 30 points between seeds, and a student that has got further writes more like any model that can do the
task. Reverse KL leads the larger student nowhere in this time (-32 points), and makes both write less like the teacher;
without it BLEU rises by 5 in the mean. The paper starts from models that can reason already, which none of ours can.
More steps would tell more, for all arms alike, but do not fit the budget. The small student gains more than the large
one, as in the paper, but the large one's loss is that of reverse KL.

At `full` the same claim fails in the same way (BLEU -0.7, rank correlation +0.4). Unlike in the paper, hot targets help
here: forward KL at temperature 5 has 0.62 where fine-tuning has 0.49, reverse KL 0.59 in place of 0.17 at temperature
1.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from tutelage.assessment import (
    answer_agreement,
    bootstrap_interval,
    disagreement_breakdown,
    rationale_fidelity,
)
from tutelage.batch import Batch
from tutelage.data import ArraySamples, CharacterTokenizer, completion_samples
from tutelage.files import read_json, write_json
from tutelage.models import build_model, load_model, parameter_count, save_model
from tutelage.objectives import CrossEntropy, TokenDivergence, perturb_logits
from tutelage.outputs import Outputs
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.reproduction.fidelity_tables import EXPECTED, published_statistics
from tutelage.teachers import FrozenTeacher
from tutelage.teachers.teacher import TeacherModule
from tutelage.training import Distillation, GeneralizedKD, Method, Trainer, TrainingSettings, generate_responses

# ---- Scales ----------------------------------------------------------------------------------------------------------

TRAINING = {"learning_rate": 1e-2, "weight_decay": 0.01, "scheduler": "cosine", "warmup": 0.05, "clip_norm": 1.0}
LESSON = {"train": 1600, "test": 300}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            "problems": {"train": 60, "test": 20},
            "students": [8, 16],
            "teachers": [16],
            "teacher_training": {**TRAINING, "batch_size": 30, "epochs": 4},
            "training": {**TRAINING, "batch_size": 30, "epochs": 2},
            "more": False,
        },
    ),
    "quick": Scale(
        "quick",
        seeds=3,
        settings={
            "problems": LESSON,
            "students": [24, 40],
            "teachers": [64],
            "teacher_training": {**TRAINING, "batch_size": 50, "epochs": 40},
            "training": {**TRAINING, "batch_size": 50, "epochs": 16},
            "more": False,
        },
    ),
    "full": Scale(
        "full",
        seeds=3,
        settings={
            "problems": LESSON,
            "students": [24, 32, 40],
            "teachers": [64],
            "teacher_training": {**TRAINING, "batch_size": 50, "epochs": 40},
            "training": {**TRAINING, "batch_size": 50, "epochs": 16},
            "more": True,
        },
    ),
    "paper": Scale(
        "paper",
        seeds=1,
        settings={
            "problems": {"source": "Math10K", "tests": ["gsm8k", "SVAMP", "MultiArith", "AddSub", "SingleEq", "AQuA"]},
            "students": ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-3B", "meta-llama/Llama-3.2-1B"],
            "teachers": ["Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-14B", "meta-llama/Llama-3.1-8B"],
            "teacher_training": {
                "learning_rate": 3e-4,
                "batch_size": 16,
                "epochs": 4,
                "lora": {"rank": 8, "alpha": 16},
            },
            "training": {"learning_rate": 3e-4, "batch_size": 16, "epochs": 4, "lora": {"rank": 8, "alpha": 16}},
            "more": True,
        },
        needs=Needs(gpus=1, packages=("peft", "datasets"), datasets=("openai/gsm8k", "ChilleD/SVAMP")),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

METHODS = ("forward KL", "reverse KL", "sequences", "GKD")


def arms(scale: Scale) -> list[Arm]:
    """Fine-tuning, every method for every pair (GKD at `full` only, since it samples), and what disturbs a teacher."""
    students, teachers = scale.settings["students"], scale.settings["teachers"]
    found = [Arm(f"SFT {student}", {"student": student, "method": "SFT"}) for student in students]
    for teacher in teachers:
        for student in students:
            for method in METHODS if scale.settings["more"] else METHODS[:3]:
                settings = {"student": student, "teacher": teacher, "method": method}
                found.append(Arm(f"{method} {teacher} to {student}", settings))
    last = {"student": students[-1], "teacher": teachers[-1], "method": "forward KL"}
    found.append(Arm("noise 5", {**last, "sigma": 5.0}, description="teacher logits + 5 N(0, 1)"))
    found.append(Arm("unaware", {**last, "teacher": "unaware"}, description="a teacher of another task"))
    if scale.settings["more"]:
        found += [Arm(f"noise {sigma:g}", {**last, "sigma": sigma}) for sigma in (1.0, 2.0)]
        for temperature in (2.0, 5.0):
            for method in ("forward KL", "reverse KL"):
                found.append(
                    Arm(f"{method} at {temperature:g}", {**last, "method": method, "temperature": temperature})
                )
    return found


def taught_by_nobody(arm: Arm) -> Arm:
    """Distillation without a teacher's signal: every method falls back to fine-tuning on the same texts."""
    return replace(arm, settings={"student": arm.settings["student"], "method": "SFT"})


# ---- Problems in four styles -----------------------------------------------------------------------------------------

STYLES = ("in order", "turned", "grouped", "worded")
ALPHABET = "0123456789+-=;>,"
TOKENIZER = CharacterTokenizer(ALPHABET)


@dataclass(frozen=True)
class Problem:
    """a + b + c or a + b − c, all digits, with results modulo 10."""

    a: int
    b: int
    c: int
    sign: str

    @property
    def prompt(self) -> str:
        """What is given."""
        return f"{self.a}+{self.b}{self.sign}{self.c}="

    @property
    def answer(self) -> int:
        """What is right."""
        return self._last(self.a + self.b)

    def worked(self, style: str) -> str:
        """The two steps in one of the styles."""
        first, inner = (self.a + self.b) % 10, self._last(self.b)
        if style == "grouped":
            return f"{self.b}{self.sign}{self.c}={inner};{self.a}+{inner}={self.answer}"
        if style == "worded":
            return f"{self.a}+{self.b}>{first},{first}{self.sign}{self.c}>{self.answer}"
        one, other = (self.b, self.a) if style == "turned" else (self.a, self.b)
        return f"{one}+{other}={first};{first}{self.sign}{self.c}={self.answer}"

    def _last(self, number: int) -> int:
        return (number + (self.c if self.sign == "+" else -self.c)) % 10


def draw_problems(count: int, seed: int) -> list[Problem]:
    """Distinct ones of the 2000 problems there are."""
    every = [Problem(a, b, c, sign) for a, b, c, sign in itertools.product(range(10), range(10), range(10), "+-")]
    return random.Random(seed).sample(every, count)


@functools.lru_cache(maxsize=1)
def lessons(train: int, test: int) -> tuple[ArraySamples, list[Problem]]:
    """Worked problems to learn, each in a style drawn at random, and new problems to solve."""
    problems = draw_problems(train + test, seed=0)
    chance = random.Random(1)
    texts = [problem.worked(chance.choice(STYLES)) for problem in problems[:train]]
    return completion_samples([problem.prompt for problem in problems[:train]], texts, TOKENIZER), problems[train:]


def answer_of(text: str) -> int | None:
    """The last digit of a worked solution.

    >>> answer_of("1+2=3;3+4=7"), answer_of("+")
    (7, None)
    """
    numbers = re.findall(r"\d", text)
    return int(numbers[-1]) if numbers else None


def style_of(text: str, problem: Problem) -> str | None:
    """The style in which a solution is written, right or wrong; None when it is none of the four."""
    if ">" in text:
        return "worded"
    first = text.partition("=")[0]
    alike = [style for style in STYLES if first == problem.worked(style).partition("=")[0]]
    return max(alike, key=lambda style: _shared_beginning(text, problem.worked(style)), default=None)


def _shared_beginning(one: str, other: str) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


# ---- The experiment --------------------------------------------------------------------------------------------------


class NoisyTeacher(TeacherModule):
    """A teacher whose logits carry fresh noise in every call."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.teacher, self.sigma = FrozenTeacher(model), sigma

    def forward(self, batch: Batch) -> Outputs:
        """The disturbed logits."""
        outputs = self.teacher(batch)
        assert outputs.logits is not None
        outputs.logits = perturb_logits(outputs.logits, self.sigma)
        return outputs


def prepare(context: Context) -> Mapping[str, float]:
    """Train the teachers, and one of another task; keep what they write about the problems."""
    train, test = lessons(**context["problems"])
    facts = dict(published_statistics())
    for width in context["teachers"]:
        model = _new_model(width, seed=1000 + width)
        _train(Distillation(None, model, CrossEntropy()), train, context["teacher_training"], seed=0)
        save_model(context.folder / f"teacher {width}", model)
        texts = solve(model, [problem.prompt for problem in test])
        written = solve(model, _prompts(train))
        write_json(context.folder / f"texts {width}.json", {"test": texts, "train": written})
        facts[f"teacher_{width}_accuracy"] = _accuracy(texts, test)
    model = _new_model(context["teachers"][-1], seed=999)
    _train(Distillation(None, model, CrossEntropy()), _other_task(train), context["teacher_training"], seed=0)
    save_model(context.folder / "teacher unaware", model)
    return facts


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student, let it solve new problems, and compare its texts with the teachers'."""
    settings = arm.settings
    train, test = lessons(**context["problems"])
    student = _new_model(settings["student"], seed=seed)
    method = _method(context, settings, student)
    if settings["method"] == "sequences":
        written = read_json(context.folder / f"texts {settings['teacher']}.json")["train"]
        train = completion_samples(_prompts(train), written, TOKENIZER)
    _train(method, train, context["training"], seed=seed)
    texts = solve(student, [problem.prompt for problem in test])
    measured: Metrics = {"accuracy": _accuracy(texts, test)}
    for teacher in context["teachers"]:
        taught = read_json(context.folder / f"texts {teacher}.json")["test"]
        measured |= {f"{name}_{teacher}": value for name, value in closeness(texts, taught, test).items()}
    return measured


def closeness(texts: Sequence[str], taught: Sequence[str], problems: Sequence[Problem]) -> dict[str, float]:
    """How often both answer alike (and where the teacher is wrong), and how alike they work it out."""
    answers, taught_answers = [answer_of(text) for text in texts], [answer_of(text) for text in taught]
    gold = [problem.answer for problem in problems]
    shares = disagreement_breakdown(answers, taught_answers, gold)
    wrong = sum(shares[name] for name in ("both_wrong_same", "both_wrong_different", "only_student_right"))
    styles = [style_of(text, problem) for text, problem in zip(texts, problems, strict=True)]
    taught_styles = [style_of(text, problem) for text, problem in zip(taught, problems, strict=True)]
    spaced, taught_spaced = ([_spaced(text) for text in side] for side in (texts, taught))
    return {
        "agreement": answer_agreement(answers, taught_answers)[0],
        "agreement_where_wrong": shares["both_wrong_same"] / wrong if wrong else 0.0,
        "fidelity": float(rationale_fidelity(spaced, taught_spaced).mean()),
        "step_overlap": float(rationale_fidelity(texts, taught, metric="step_overlap").mean()),
        "style_match": answer_agreement(styles, taught_styles)[0],
    }


def solve(model: nn.Module, prompts: Sequence[str], *, at_once: int = 250) -> list[str]:
    """What a model writes after each prompt, greedily."""
    texts = []
    for start in range(0, len(prompts), at_once):
        rows = [[TOKENIZER.bos_token_id, *TOKENIZER.encode(prompt)] for prompt in prompts[start : start + at_once]]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        told = generate_responses(
            model, ids, prompt_mask=mask, max_new_tokens=14, temperature=0.0, end_token=TOKENIZER.eos_token_id
        )
        texts += [TOKENIZER.decode(row) for row in told.response_ids]
    return texts


def _method(context: Context, settings: Mapping[str, Any], student: nn.Module) -> Method:
    name = settings["method"]
    if name in ("SFT", "sequences"):
        return Distillation(None, student, CrossEntropy())
    model = load_model(context.folder / f"teacher {settings['teacher']}")
    teacher = NoisyTeacher(model, settings["sigma"]) if settings.get("sigma") else FrozenTeacher(model)
    if name == "GKD":
        return GeneralizedKD(teacher, student, lmbda=0.5, beta=0.5, max_new_tokens=14, end_token=2)
    kind: Any = {"forward KL": "forward_kl", "reverse KL": "reverse_kl"}[name]
    objective = TokenDivergence(
        kind=kind,
        temperature=settings.get("temperature", 1.0),
        scale_by_temperature_squared=True,
        token_average="sequence",
    )
    return Distillation(teacher, student, objective)


def _train(method: Method, samples: ArraySamples, settings: Mapping[str, Any], *, seed: int) -> None:
    Trainer(method, samples, settings=TrainingSettings(seed=seed, **settings)).run()


def _new_model(width: int, *, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"hidden_size": width, "num_layers": 2, "num_heads": 4, "max_length": 24, "eos_token_id": 2}
    model = build_model({"name": "causal_lm", "arguments": arguments}, vocab_size=len(TOKENIZER))
    with torch.no_grad():  # GPT-2's initial deviation of 0.02 suits widths of a thousand; narrow models stall on it
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.7 / (0.02 * width**0.5))
    return model


def _prompts(samples: ArraySamples) -> list[str]:
    assert isinstance(samples.inputs, dict)
    lengths = samples.extras["prompt_length"].tolist()
    return [TOKENIZER.decode(row[:size]) for row, size in zip(samples.inputs["input_ids"], lengths, strict=True)]


def _other_task(samples: ArraySamples) -> ArraySamples:
    """The same prompts with unrelated texts: six digits drawn at random."""
    chance = random.Random(2)
    texts = [";".join(str(chance.randrange(10)) for _ in range(6)) for _ in range(len(samples))]
    return completion_samples(_prompts(samples), texts, TOKENIZER)


def _accuracy(texts: Sequence[str], problems: Sequence[Problem]) -> float:
    right = [answer_of(text) == problem.answer for text, problem in zip(texts, problems, strict=True)]
    return sum(right) / len(right)


def _spaced(text: str) -> str:
    """A solution with spaces between its symbols, so that BLEU counts digits and signs as words."""
    return " ".join(text)


# ---- Claims ----------------------------------------------------------------------------------------------------------


def tables_give_the_statistics(results: Results) -> Judgement:
    """Claim 1: to three digits of what is known of each figure."""
    differences = {}
    for name, expected in EXPECTED.items():
        digits = 3 if len(repr(expected)) > 8 else len(repr(expected).partition(".")[2])
        differences[name] = abs(round(results.facts[name], digits) - round(expected, digits))
    worst = max(differences, key=lambda name: differences[name])
    facts = results.facts
    detail = (
        f"{len(EXPECTED)} statistics, the largest difference {differences[worst]:.4f} ({worst}); mean improvement "
        f"with rows of one student or teacher taken together, 95 %: mathematics "
        f"[{facts['mathematics best clustered low']:.2f}, {facts['mathematics best clustered high']:.2f}], commonsense "
        f"[{facts['commonsense best clustered low']:.2f}, {facts['commonsense best clustered high']:.2f}]"
    )
    return Judgement(differences[worst], differences[worst] < 1e-9, detail=detail)


def bad_signals_destroy(results: Results) -> Judgement:
    """Claim 2."""
    largest = max(_students(results))
    teacher = max(_teachers(results))
    fine_tuned = results.mean(f"SFT {largest}", "accuracy")
    unaware = fine_tuned - results.mean("unaware", "accuracy")
    clean, noisy = results.mean(f"forward KL {teacher} to {largest}", "accuracy"), results.mean("noise 5", "accuracy")
    loss = min(unaware, clean - noisy)
    noise = ", ".join(f"{arm} {results.mean(arm, 'accuracy'):.3f}" for arm in results.arms if arm.startswith("noise"))
    tempered = ", ".join(f"{arm} {results.mean(arm, 'accuracy'):.3f}" for arm in results.arms if " at " in arm)
    detail = (
        f"accuracy: SFT {fine_tuned:.3f}, teacher of another task {results.mean('unaware', 'accuracy'):.3f}; forward "
        f"KL {clean:.3f}, {noise}{'; ' if tempered else ''}{tempered}"
    )
    return Judgement(loss, loss >= 0.1, detail=detail)


def fidelity_rises_and_does_not_explain(results: Results) -> Judgement:
    """Claim 3: the value is the mean rise of BLEU to the teacher's texts."""
    from scipy.stats import spearmanr, ttest_1samp

    rises: list[float] = []
    gains: list[float] = []
    fidelities: list[float] = []
    others: dict[str, list[float]] = {"agreement": [], "step_overlap": [], "style_match": []}
    for teacher, student, method in _pairs(results):
        arm, baseline = f"{method} {teacher} to {student}", f"SFT {student}"
        closer = results.values(arm, f"fidelity_{teacher}") - results.values(baseline, f"fidelity_{teacher}")
        rises += closer.tolist()
        gains += (results.values(arm, "accuracy") - results.values(baseline, "accuracy")).tolist()
        fidelities += results.values(arm, f"fidelity_{teacher}").tolist()
        for name, values in others.items():  # the other measures, for the detail
            change = results.mean(arm, f"{name}_{teacher}") - results.mean(baseline, f"{name}_{teacher}")
            values.append(change)
    test = ttest_1samp(rises, 0, alternative="greater")
    correlation = float(spearmanr(gains, fidelities).statistic)
    interval = bootstrap_interval(
        gains, fidelities, statistic=lambda gain, fidelity: spearmanr(gain, fidelity).statistic, level=0.9
    )
    holds = float(np.mean(rises)) > 0 and test.pvalue < 0.05 and interval.low <= 0 <= interval.high
    detail = (
        f"over {len(rises)} runs; Spearman of accuracy gain and fidelity {correlation:+.2f} "
        f"[{interval.low:+.2f}, {interval.high:+.2f}]; mean change of "
        + ", ".join(f"{name.replace('_', ' ')} {float(np.mean(values)):+.3f}" for name, values in others.items())
    )
    return Judgement(float(np.mean(rises)), holds, float(test.pvalue), detail)


def small_students_gain_more(results: Results) -> Judgement:
    """Claim 4: the value is the mean gain of the smallest student minus that of the largest."""
    gains: dict[int, list[float]] = {}
    rows = []
    for teacher, student, method in _pairs(results):
        arm = f"{method} {teacher} to {student}"
        difference = results.mean(arm, "accuracy") - results.mean(f"SFT {student}", "accuracy")
        gains.setdefault(student, []).append(difference)
        rows.append(f"{arm} {difference:+.3f}")
    means = {student: float(np.mean(values)) for student, values in gains.items()}
    value = means[min(means)] - means[max(means)]
    taught = ", ".join(f"{student}: {mean:+.3f}" for student, mean in means.items())
    fine_tuned = ", ".join(f"{student} {results.mean(f'SFT {student}', 'accuracy'):.3f}" for student in means)
    teachers = ", ".join(f"{width} {results.facts[f'teacher_{width}_accuracy']:.3f}" for width in _teachers(results))
    detail = f"mean gain by width {taught}; SFT {fine_tuned}; teachers {teachers}; {'; '.join(rows)}"
    return Judgement(value, value > 0, detail=detail)


def _students(results: Results) -> list[int]:
    return sorted(int(arm.removeprefix("SFT ")) for arm in results.arms if arm.startswith("SFT "))


def _teachers(results: Results) -> list[int]:
    return sorted(int(name.split("_")[1]) for name in results.facts if name.startswith("teacher_"))


def _pairs(results: Results) -> list[tuple[int, int, str]]:
    return [
        (teacher, student, method)
        for teacher in _teachers(results)
        for student in _students(results)
        for method in METHODS
        if f"{method} {teacher} to {student}" in results.arms
    ]


CLAIMS = (
    Claim(
        "published-statistics",
        "the published tables give the published statistics",
        "every t, p, F and rank correlation that is known, for the best temperature and for T = 1, is recomputed from "
        "the tables to three digits (or to as many as are known; the value is the largest difference)",
        tables_give_the_statistics,
        published="mathematics: t 8.47, ANOVA p 0.12, Spearman with size -0.66, with the teacher's score -0.01",
    ),
    Claim(
        "bad-signals",
        "a teacher of another task, or strong noise on its logits, does harm",
        "accuracy with a task-unaware teacher at least 0.10 below fine-tuning, and with noise of 5 at least 0.10 below "
        "the same distillation without (the value is the smaller of the two)",
        bad_signals_destroy,
        published="mathematics, Qwen2.5-0.5B from 7B: untuned teacher 35.8, fine-tuning 52.8",
    ),
    Claim(
        "fidelity-without-gain",
        "distillation makes texts more like the teacher's, and that does not go with accuracy",
        "BLEU to the teacher rises over fine-tuning in the mean over all pairs, methods and seeds, one-sided t-test "
        "p < 0.05; the 90 % bootstrap interval of the rank correlation of accuracy gain and fidelity contains 0",
        fidelity_rises_and_does_not_explain,
    ),
    Claim(
        "small-students-gain",
        "small students gain more",
        "mean accuracy gain over fine-tuning of the smallest student above that of the largest",
        small_students_gain_more,
        published="Spearman of gain and size: mathematics -0.66, commonsense -0.54",
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def describe(scale: Scale) -> dict[str, str]:
    """Build the models of a scale and count their parameters (at `paper` without weights)."""
    if scale.name == "paper":
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

        with torch.device("meta"):
            student = Qwen2ForCausalLM(
                Qwen2Config(
                    vocab_size=151_936,
                    hidden_size=896,
                    intermediate_size=4864,
                    num_hidden_layers=24,
                    num_attention_heads=14,
                    num_key_value_heads=2,
                    tie_word_embeddings=True,
                )
            )
            teacher = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=128_256,
                    hidden_size=4096,
                    intermediate_size=14_336,
                    num_hidden_layers=32,
                    num_attention_heads=32,
                    num_key_value_heads=8,
                )
            )
        models: dict[str, nn.Module] = {"smallest student": student, "a teacher": teacher}
    else:
        models = {
            "smallest student": _new_model(scale.settings["students"][0], seed=0),
            "largest teacher": _new_model(scale.settings["teachers"][-1], seed=0),
        }
    return {name: f"{type(model).__name__}, {parameter_count(model):,} parameters" for name, model in models.items()}


recipe = Recipe(
    slug="fidelity-paradox",
    scales=SCALES,
    arms=arms,
    run_arm=run_arm,
    claims=CLAIMS,
    prepare=prepare,
    breakages={"teacher": taught_by_nobody},
    describe=describe,
)
