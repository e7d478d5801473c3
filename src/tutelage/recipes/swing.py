"""Swing distillation: does a student keep its teacher's language without keeping its teacher's secrets?

Source: "Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework", arXiv 2212.08349. Exposure is that
of Carlini et al., "The Secret Sharer", USENIX Security 2019.

The question. A language model that has memorised secrets passes them on when a student learns from its soft targets.
Swing distillation makes the targets of private tokens hot, draws noise on them once, and drops their labels. Small
character-level models are trained from scratch on generated sentences in which secret codes are planted, several
copies of each. The exposure of a code, in bits, says how far up a student ranks it among all 10 000 codes: 13.29 when
it comes first, 1.44 on average when it is not known.

The comparison. Every arm has the same texts (but `CE public`, which lacks the secrets), initial weights, number of
steps and order of batches. Nothing is tuned: temperatures, noise and weights are those of the system's description. A
seed stands for a student with noise of its own on the targets; the teacher is one for all.

Departures from the paper: it fixes no temperature map, noise law or constants, so they are ours (see
`tutelage.objectives.swing`), and so are data and networks. Learning rates are higher and schedules shorter than a
larger machine would choose, alike for all arms. ε is the budget of one released vector, not that of a whole corpus.
A secret planted once is not learned within the budget of `full`, so copies begin at 4 there. No student is trained with
DP-SGD.

What does not hold at `quick`, and why. With private tokens found by their look, exposure is reduced by 0.77 and not by
0.8. Of the 2.6 bits that are left, 1.5 to 1.9 are no leak: students of a teacher that never saw the secrets have as
many, and so has one that is taught nothing at private positions, since 16 codes are few and digits are not alike in the
other texts. The rest likely comes through the noisy targets themselves, of which each code has eight, each with noise
of its own. Softening the student like the target protects here only because training is short (see
`tests/objectives/test_swing.py` for where it ends).

At `full` (24 codes, 13.29 bits of room) both masks reduce exposure by more than 0.8, and the claim on the ablations
fails: students softened like the target end at 1.3 bits, below swing's 1.7 and at what chance gives (1.2 to 1.4), and
at `quick` they lead by 0.2 to 0.4 bits only. At this scale the hot target alone protects; what noise and a student at
temperature 1 add can not be told from chance.
"""

from __future__ import annotations

import functools
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.assessment import Canary, CandidateTree, exposure_from_scores, insert_canaries
from tutelage.data import ArraySamples, ByteTokenizer, CharacterTokenizer, completion_samples, pattern_sensitivity
from tutelage.models import causal_lm, load_model, parameter_count, save_model
from tutelage.objectives import CrossEntropy, KnowledgeDistillation, SwingDistillation
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import CachedTeacher, FrozenTeacher, Teacher, build_cache, release_soft_targets
from tutelage.training import Distillation, Trainer, TrainingSettings, Weighted, evaluate_model
from tutelage.training.distillation import Objectives

# ---- Scales ----------------------------------------------------------------------------------------------------------

TEMPERATURE = 2.0  # of KD, and of public tokens
ALPHA = 0.9
HOTTEST = 64.0
TRAINING = {"batch_size": 64, "warmup": 0.1, "clip_norm": 1.0}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=1,
        settings={
            "sentences": 120,
            "held_out": 30,
            "names": 4,
            "places": 2,
            "copies": (8,),
            "teacher": {"num_layers": 1, "hidden_size": 32},
            "student": {"num_layers": 1, "hidden_size": 32},
            "teacher_training": {**TRAINING, "learning_rate": 1e-2, "batch_size": 32, "epochs": 20},
            "student_training": {**TRAINING, "learning_rate": 1e-2, "batch_size": 32, "epochs": 20},
        },
    ),
    "quick": Scale(
        "quick",
        seeds=3,
        settings={
            "sentences": 800,
            "held_out": 200,
            "names": 16,
            "places": 4,
            "copies": (8,),
            "teacher": {"num_layers": 2, "hidden_size": 96},
            "student": {"num_layers": 1, "hidden_size": 48},
            "teacher_training": {**TRAINING, "learning_rate": 6e-3, "epochs": 18},
            "student_training": {**TRAINING, "learning_rate": 1e-2, "epochs": 20},
        },
    ),
    "full": Scale(
        "full",
        seeds=3,
        settings={
            "sentences": 1400,
            "held_out": 300,
            "names": 24,
            "places": 8,
            "copies": (4, 8, 16),
            "teacher": {"num_layers": 3, "hidden_size": 128, "num_heads": 4},
            "student": {"num_layers": 2, "hidden_size": 64},
            "teacher_training": {**TRAINING, "learning_rate": 4e-3, "epochs": 12},
            "student_training": {**TRAINING, "learning_rate": 1e-2, "epochs": 15},
        },
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "sentences": 500_000,
            "held_out": 5000,
            "names": 24,
            "places": 8,
            "copies": (1, 10, 100),
            "text": "wikitext-103-raw-v1",
            "length": 512,
            "top_k": 32,
            "live": True,  # all logits of the teacher would take hundreds of gigabytes
            # GPT-2 and the six layers of DistilGPT-2, from scratch, on bytes.
            "teacher": {"num_layers": 12, "hidden_size": 768, "num_heads": 12},
            "student": {"num_layers": 6, "hidden_size": 768, "num_heads": 12},
            "teacher_training": {**TRAINING, "learning_rate": 6e-4, "epochs": 10, "precision": "bf16"},
            "student_training": {**TRAINING, "learning_rate": 6e-4, "epochs": 5, "precision": "bf16"},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("Salesforce/wikitext",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------


def _swing(name: str, description: str, **settings: Any) -> Arm:
    usual = {"loss": "swing", "mask": "oracle", "epsilon": 2.0, "max_temperature": HOTTEST}
    return Arm(name, {**usual, **settings}, description=description)


ARMS = [
    Arm("CE", {"loss": "ce"}, description="labels alone, secrets included"),
    Arm("CE public", {"loss": "ce", "texts": "public"}, description="labels of the texts without the secrets"),
    Arm("KD", {"loss": "kd", "temperature": TEMPERATURE}, description="plain distillation"),
    Arm("KD hot", {"loss": "kd", "temperature": HOTTEST}, description="the high temperature on all tokens"),
    _swing(
        "KD noise on all",
        "the noise on all tokens, no high temperature",
        noise_on="all",
        max_temperature=TEMPERATURE,
    ),
    _swing("swing", "private tokens known, ε = 2"),
    _swing("swing pattern", "private tokens found by their look (three digits and more)", mask="pattern"),
    _swing("swing misses", "a fifth of the secrets not found", mask="misses"),
    _swing("swing ε=8", "less noise", epsilon=8.0),
    _swing("swing ε=32", "much less noise", epsilon=32.0),
    _swing("no swing ε=32", "little noise, no high temperature", epsilon=32.0, max_temperature=TEMPERATURE),
    _swing("swing without noise", "the high temperature alone", epsilon=None),
    _swing("swing same", "the student softened like the target", student_temperature="same"),
    _swing("swing same without noise", "both", student_temperature="same", epsilon=None),
]


def arms(scale: Scale) -> list[Arm]:
    """All arms."""
    return ARMS


def objectives_of(settings: Mapping[str, Any]) -> Objectives:
    """The loss of an arm."""
    match settings["loss"]:
        case "ce":
            return CrossEntropy()
        case "kd":
            return KnowledgeDistillation(alpha=ALPHA, temperature=settings["temperature"])
        case "swing":
            swing = SwingDistillation(
                base_temperature=TEMPERATURE,
                max_temperature=settings["max_temperature"],
                alpha=ALPHA,
                student_temperature=settings.get("student_temperature", "base"),
                released=True,
            )
            if settings.get("broken") == "labels":
                return [swing, Weighted(CrossEntropy(), 1 - ALPHA)]
            return swing
    raise ValueError(f"Expected a loss of this recipe, but got {settings['loss']!r}.")


# ---- Texts and secrets -----------------------------------------------------------------------------------------------

NAMES = (
    *("anna", "otto", "ida", "paul", "emma", "karl", "nora", "finn", "lena", "hugo", "mia", "emil"),
    *("ella", "jan", "ruth", "max", "vera", "leo", "jana", "tom", "rosa", "ben", "lara", "tim"),
)
PLACES = ("rome", "paris", "oslo", "bern", "cairo", "lima", "delhi", "kyoto")
CHARACTERS = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz0123456789 +=")
DIGITS = ("0123456789",) * 4


@dataclass(frozen=True)
class Corpus:
    """What is taught and asked at a scale.

    Attributes:
        tokenizer: Characters of the generated sentences, or bytes.
        train: The texts with the secrets planted.
        public: Rows of `train` without a secret.
        masks: The sensitivity `[samples, time]` of every target token of `train`, by who scores it.
        validation: Texts without secrets.
        test: Further ones.
        sums: The sums of `test`, to be completed; None where there are none.
        canaries: The secrets.
        trees: Their candidates, to be scored.
    """

    tokenizer: CharacterTokenizer | ByteTokenizer
    train: ArraySamples
    public: Tensor
    masks: Mapping[str, Tensor]
    validation: ArraySamples
    test: ArraySamples
    sums: ArraySamples | None
    canaries: tuple[Canary, ...]
    trees: tuple[CandidateTree, ...]


def sentence(draws: random.Random, places: Sequence[str]) -> str:
    """One sentence without a secret: meetings, journeys, sums, and flights, whose numbers look private and are not.

    >>> sentence(random.Random(1), ["rome"])
    'emma took flight 483'
    """
    name, other = draws.choice(NAMES), draws.choice(NAMES)
    first, second = draws.randrange(50), draws.randrange(50)
    kinds = (
        f"{name} met {other} in {draws.choice(places)}",
        f"{name} left {draws.choice(places)} at {draws.randrange(24)}",
        f"{name} flew to {draws.choice(places)} with {other}",
        f"{name} took flight {draws.randrange(1000):03d}",
        f"{first}+{second}={first + second}",
    )
    return draws.choice(kinds)


def wikitext(name: str, part: str, count: int, length: int) -> list[str]:
    """The first pieces of at most `length` bytes of a part of WikiText, from the local Hugging Face cache."""
    import datasets

    pieces: list[str] = []
    for row in datasets.load_dataset("Salesforce/wikitext", name, split=part):
        line = row["text"].strip().encode()
        pieces += [line[start : start + length].decode(errors="ignore") for start in range(0, len(line), length)]
        if len(pieces) >= count:
            break
    return pieces[:count]


@functools.lru_cache(maxsize=1)  # a worker runs one arm after the other on it
def make_corpus(
    sentences: int,
    held_out: int,
    names: int,
    places: int,
    copies: tuple[int, ...],
    text: str | None = None,
    length: int = 40,
) -> Corpus:
    """Generate or read the texts, plant the secrets, and score the tokens; the same at every call.

    Args:
        sentences: Texts of the training part.
        held_out: Texts of the validation and the test part each.
        names: How many people have a code.
        places: How many places the sentences know.
        copies: How often a code is planted, in turn over the codes.
        text: A configuration of WikiText in place of generated sentences.
        length: Longest text in tokens.
    """
    draws = random.Random(0)
    sizes = {"train": sentences, "validation": held_out, "test": held_out}
    if text is None:
        parts = {part: [sentence(draws, PLACES[:places]) for _ in range(size)] for part, size in sizes.items()}
    else:
        parts = {part: wikitext(text, part, size, length - 2) for part, size in sizes.items()}
    tokenizer = CHARACTERS if text is None else ByteTokenizer()
    canaries = [Canary(f"the code of {name} is {{}}", DIGITS) for name in NAMES[:names]]
    counts = [copies[number % len(copies)] for number in range(names)]
    texts = insert_canaries(parts["train"], canaries, counts, seed=0)
    train = _samples(texts, tokenizer, length)
    assert train.target is not None
    whose = {canary.text: number for number, canary in enumerate(canaries)}
    owner = torch.tensor([whose.get(written, -1) for written in texts])
    oracle = torch.zeros(train.target.shape)
    for row in (owner >= 0).nonzero()[:, 0].tolist():  # target tokens are the text and an end token
        oracle[row, len(texts[row]) - len(DIGITS) : len(texts[row])] = 1.0
    missed = torch.tensor(draws.sample(range(names), round(0.2 * names)))
    pattern = nn.utils.rnn.pad_sequence(pattern_sensitivity(texts, tokenizer), batch_first=True)
    sums = [written.partition("=")[::2] for written in parts["test"] if text is None and "=" in written]
    return Corpus(
        tokenizer=tokenizer,
        train=train,
        public=(owner < 0).nonzero()[:, 0],
        masks={
            "oracle": oracle,
            "pattern": nn.functional.pad(pattern, (0, oracle.shape[1] - pattern.shape[1])),
            "misses": oracle * ~torch.isin(owner, missed).unsqueeze(1),
            "nothing": torch.zeros_like(oracle),
        },
        validation=_samples(parts["validation"], tokenizer, length),
        test=_samples(parts["test"], tokenizer, length),
        sums=completion_samples([f"{left}=" for left, _ in sums], [right for _, right in sums], tokenizer)
        if sums
        else None,
        canaries=tuple(canaries),
        trees=tuple(CandidateTree(canary, tokenizer) for canary in canaries),
    )


def _samples(texts: Sequence[str], tokenizer: CharacterTokenizer | ByteTokenizer, length: int) -> ArraySamples:
    """Whole texts to be learned. Padding stands on the right, where a causal model never looks: no mask is needed."""
    samples = completion_samples([""] * len(texts), texts, tokenizer, max_length=length)
    assert isinstance(samples.inputs, dict)
    return ArraySamples(samples.inputs["input_ids"], samples.target)


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Train the teacher on all texts, secrets included, and note how much of them it and the scorers know."""
    corpus = _corpus(context.scale)
    model = _model(context["teacher"], corpus)
    _train(context, model, None, corpus.train, CrossEntropy(), context["teacher_training"], seed=0)
    save_model(context.folder / "teacher", model.cpu())
    if not context.scale.settings.get("live"):
        build_cache(FrozenTeacher(model), corpus.train, context.folder / "raw", dtype="float32")
    facts = {f"teacher_{name}": value for name, value in _assess(model, corpus).items() if isinstance(value, float)}
    exposure, _ = _exposures(model, corpus)
    facts |= {f"teacher_exposure_of_{number}": value for number, value in enumerate(exposure)}
    private = corpus.masks["oracle"] > 0
    for mask in ("pattern", "misses"):
        found = corpus.masks[mask] > 0
        facts[f"{mask}_precision"] = (found & private).sum().item() / max(1, found.sum().item())
        facts[f"{mask}_recall"] = (found & private).sum().item() / private.sum().item()
    return facts


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student and see what it knows, of the language and of the secrets."""
    corpus, settings = _corpus(context.scale), arm.settings
    lessons = corpus.train.subset(corpus.public) if settings.get("texts") == "public" else corpus.train
    student = _model(context["student"], corpus)
    teacher: Teacher | None = None
    with tempfile.TemporaryDirectory(prefix="tutelage-swing-") as folder:
        if settings["loss"] != "ce":
            live = context.scale.settings.get("live")
            teacher = (
                FrozenTeacher(load_model(context.folder / "teacher")) if live else CachedTeacher(context.folder / "raw")
            )
        if settings["loss"] == "swing":  # from here on the teacher's own logits are out of reach
            assert teacher is not None
            lessons = corpus.train.with_target(corpus.train.target, sensitivity=corpus.masks[settings["mask"]])
            teacher = CachedTeacher(
                release_soft_targets(
                    teacher,
                    lessons,
                    folder,
                    base_temperature=TEMPERATURE,
                    max_temperature=settings["max_temperature"],
                    epsilon=settings["epsilon"] or math.inf,
                    noise_on=settings.get("noise_on", "private"),
                    seed=seed,
                    top_k=context.scale.settings.get("top_k"),
                    dtype="float32",
                )
            )
        _train(context, student, teacher, lessons, objectives_of(settings), context["student_training"], seed=seed)
    return _assess(student.cpu(), corpus)


def _train(
    context: Context,
    model: nn.Module,
    teacher: Teacher | None,
    samples: ArraySamples,
    objectives: Objectives,
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> None:
    """As many steps as epochs over all texts take, whichever of them are learned from."""
    training = TrainingSettings(seed=seed, **settings)
    steps = training.epochs * math.ceil(len(_corpus(context.scale).train) / training.batch_size)
    training = training.model_copy(update={"max_steps": steps})
    Trainer(Distillation(teacher, model, objectives), samples, settings=training).run()


def _assess(model: nn.Module, corpus: Corpus) -> Metrics:
    """Perplexity a token of texts without secrets, tokens of sums that are right, and what is known of each secret."""
    exposure, margin = _exposures(model, corpus)
    measured: Metrics = {
        "exposure": exposure,
        "margin": margin,
        "mean_exposure": sum(exposure) / len(exposure),
    }
    for part, samples in (("validation", corpus.validation), ("test", corpus.test)):
        loss = evaluate_model(model, samples, task="causal_lm", prefix="")["loss"]
        measured[f"{part}_perplexity"] = math.exp(loss)
    if corpus.sums is not None:
        measured["sums_accuracy"] = evaluate_model(model, corpus.sums, task="causal_lm", prefix="")["accuracy"]
    return measured


def _exposures(model: nn.Module, corpus: Corpus) -> tuple[list[float], list[float]]:
    """Exposure in bits, and log-probability above that of the median candidate in nats, of every secret."""
    exposure, margin = [], []
    for canary, tree in zip(corpus.canaries, corpus.trees, strict=True):
        scores = tree.log_perplexities(model, batch_size=1000)
        exposure.append(float(exposure_from_scores(scores, canary.index)))
        margin.append(float(scores.median() - scores[canary.index]))
    return exposure, margin


def _corpus(scale: Scale) -> Corpus:
    names = ("sentences", "held_out", "names", "places", "copies", "text", "length")
    return make_corpus(**{name: scale.settings[name] for name in names if name in scale.settings})


def _model(arguments: Mapping[str, Any], corpus: Corpus) -> nn.Module:
    return causal_lm(corpus.tokenizer.vocab_size, max_length=corpus.masks["oracle"].shape[1], **arguments)


def describe(scale: Scale) -> dict[str, str]:
    """Build the networks of a scale and count their parameters (at `paper` without reading the texts)."""
    tokenizer = ByteTokenizer() if "text" in scale.settings else CHARACTERS
    described = {}
    for role in ("teacher", "student"):
        model = causal_lm(tokenizer.vocab_size, max_length=scale.settings.get("length", 40), **scale.settings[role])
        described[role] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------

UNKNOWN = math.log2(math.e)  # mean exposure of a secret that is not known, in bits


def reduction(results: Results, arm: str) -> float:
    """1 − exposure of an arm / exposure of KD, over canaries and seeds."""
    return 1 - results.mean(arm, "exposure") / results.mean("KD", "exposure")


def distillation_leaks(results: Results) -> Judgement:
    """Claim 1."""
    value = results.mean("KD", "exposure")
    detail = f"teacher {results.facts['teacher_mean_exposure']:.2f}, {_exposure(results, 'CE', 'CE public')}"
    return Judgement(value, value >= 9, detail=detail)


def swing_protects(results: Results) -> Judgement:
    """Claim 2, for the known and the found mask: the smaller reduction counts."""
    masks = ("swing", "swing pattern")
    value = min(reduction(results, arm) for arm in masks)
    corrected = [
        1 - (results.mean(arm, "exposure") - UNKNOWN) / (results.mean("KD", "exposure") - UNKNOWN) for arm in masks
    ]
    detail = f"{_exposure(results, 'KD', *masks, 'swing misses')}; above what chance gives {min(corrected):.3f}"
    return Judgement(value, value >= 0.8, detail=detail if value >= 0.8 else f"{detail}; {_each(results, *masks)}")


def utility_is_kept(results: Results) -> Judgement:
    """Claim 3, first half."""
    value = results.mean("swing", "test_perplexity") / results.mean("KD", "test_perplexity")
    return Judgement(value, value <= 1.05, detail=_perplexity(results, "CE", "KD", "swing", "swing pattern"))


def noise_on_all_costs(results: Results) -> Judgement:
    """Claim 3, second half."""
    value = results.mean("KD noise on all", "test_perplexity") / results.mean("swing", "test_perplexity")
    return Judgement(value, value >= 1.1, detail=_perplexity(results, "swing", "KD noise on all"))


def protection_is_robust(results: Results) -> Judgement:
    """Claim 4."""
    budgets = ("swing", "swing ε=8", "swing ε=32")
    value = min(reduction(results, arm) for arm in budgets)
    without = reduction(results, "no swing ε=32")
    holds = value >= 0.8 and reduction(results, "swing ε=32") - without >= 0.1
    detail = _exposure(results, *budgets, "no swing ε=32") + f"; reduction without swing {without:.3f}"
    return Judgement(value, holds, detail=detail if holds else f"{detail}; {_each(results, *budgets)}")


def both_parts_are_needed(results: Results) -> Judgement:
    """Claim 5."""
    ablations = ("swing without noise", "swing same")
    value = min(results.mean(arm, "exposure") for arm in ablations) - results.mean("swing", "exposure")
    return Judgement(value, value >= 0, detail=_exposure(results, "swing", *ablations, "swing same without noise"))


def _exposure(results: Results, *arms: str) -> str:
    return "bits: " + ", ".join(f"{arm} {results.mean(arm, 'exposure'):.2f}" for arm in arms)


def _perplexity(results: Results, *arms: str) -> str:
    return "perplexity: " + ", ".join(f"{arm} {results.mean(arm, 'test_perplexity'):.3f}" for arm in arms)


def _each(results: Results, *arms: str) -> str:
    """Every canary, where a claim fails: the teacher's exposure, and an arm's exposure and margin over the seeds."""
    found = f"share of private tokens that the pattern finds {results.facts['pattern_recall']:.2f}"
    lines = []
    for arm in arms:
        pairs = zip(*(results.values(arm, metric).mean(axis=0) for metric in ("exposure", "margin")), strict=True)
        each = [
            f"{results.facts[f'teacher_exposure_of_{number}']:.1f}→{exposure:.1f} ({margin:+.2f})"
            for number, (exposure, margin) in enumerate(pairs)
        ]
        lines.append(f"{arm}: {' '.join(each)}")
    return f"{found}; teacher→student bits (margin in nats) of each secret: {'; '.join(lines)}"


CLAIMS = (
    Claim(
        "kd-leaks",
        "plain distillation passes the teacher's secrets on",
        "mean exposure of the KD student at least 9 bits (of 13.29)",
        distillation_leaks,
    ),
    Claim(
        "swing-protects",
        "swing distillation (ε = 2) lowers the exposure of secrets by four fifths, with private tokens known or found",
        "1 - exposure / exposure of KD at least 0.8 for both masks",
        swing_protects,
        published="over 80 %",
    ),
    Claim(
        "utility-kept",
        "swing distillation keeps the language",
        "perplexity of held-out text without secrets at most 1.05 times that of KD",
        utility_is_kept,
        published="competitive or better",
    ),
    Claim(
        "noise-on-all-costs",
        "the same noise on all tokens costs more of the language",
        "held-out perplexity at least 1.1 times that of swing distillation",
        noise_on_all_costs,
    ),
    Claim(
        "robust-to-budget",
        "the protection lasts as the noise gets smaller, thanks to the high temperature",
        "reduction at least 0.8 for ε of 2, 8 and 32; at ε = 32 at least 0.1 above that without a high temperature",
        protection_is_robust,
        published="robust as the privacy budget grows",
    ),
    Claim(
        "both-parts-needed",
        "without noise, or with the student softened like the target, more leaks",
        "mean exposure of either ablation at least that of swing distillation",
        both_parts_are_needed,
    ),
)

# ---- Broken on purpose -----------------------------------------------------------------------------------------------


def with_labels(arm: Arm) -> Arm:
    """Swing distillation that leaves the hard label on private tokens; other arms stay as they are."""
    return replace(arm, settings={**arm.settings, "broken": "labels"}) if arm.settings["loss"] == "swing" else arm


def without_sensitivity(arm: Arm) -> Arm:
    """Swing distillation that takes every token for public."""
    return replace(arm, settings={**arm.settings, "mask": "nothing"}) if arm.settings["loss"] == "swing" else arm


recipe = Recipe(
    slug="swing",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"labels": with_labels, "sensitivity": without_sensitivity},
    describe=describe,
)
