"""ALM: does matching the likelihoods of text chunks teach a model a new tokenizer better than labels alone?

Source: "Cross-Tokenizer Distillation via Approximate Likelihood Matching", NeurIPS 2025, arXiv 2503.20083.

The question. A teacher learns Python's help texts with a vocabulary of 1024 byte pairs. A copy of it is given another
vocabulary (512 byte pairs of other texts, or bytes) and is taught to use it on texts that the teacher has not seen:
from the texts alone (SFT), from the teacher's predictions where both vocabularies agree (MinED, ULD), or from the
likelihoods that the teacher gives to chunks of the texts (ALM). All are measured in bits per byte of held-out
documents, which mean the same for every vocabulary, and by the word that goes on a text among four. Every mixture is
balanced by its gradients (GradMag), so none has a weight to tune; the learning rate of the arms of the first two claims
is picked on validation documents among the same candidates. Each seed draws its own texts and their order.

What to expect. Likelihoods and labels together beat labels alone. Likelihoods alone do not: the likely reason is the
task. In the paper labels make a good model forget; here the texts are of the very kind that is tested, and labels are
the truth that a small teacher only guesses (it finds a chunk with a probability of 0.13 in the mean). MinED comes close
to ALM, since both vocabularies are of the same kind of texts: 72 % of the student's tokens are chunks by themselves,
and there MinED learns whole distributions. Debiasing by itself makes bytes worse, and together with merging better than
neither. The likely reason: with 1024 byte pairs most chunks end inside a word, where "the word ends here" is a rare
event that counts as much as the chunk; merging leaves only ends that the teacher finds likely.

Departures from the paper. Two rotary (Llama) layers of width 64 in place of the paper's models, and of GPT-2, whose
table of positions would know nothing of the longer texts in bytes; paragraphs that stand twice in the help texts are
kept once, or held-out documents would not be new. A batch is 8 windows of 192 bytes, for bytes as well. MinED and ULD
compare predictions where both models have read the same bytes. Full fine-tuning everywhere. `paper` measures bits per
byte and no benchmarks; those are lm-eval's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.data import ArraySamples, ByteTokenizer, train_bpe
from tutelage.data.characters import completion_samples
from tutelage.data.windows import cloze_items, windows
from tutelage.files import read_tensors, write_json, write_tensors
from tutelage.models import (
    call_model,
    causal_lm,
    expand_byte_inputs,
    load_pretrained,
    parameter_count,
    transfer_vocabulary,
)
from tutelage.objectives import (
    AlignedUniversalLogitDistance,
    ApproximateLikelihoodMatching,
    ChunkHiddenStates,
    CrossEntropy,
    MinimumEditDistanceDistillation,
    Objective,
    chunk_log_probs,
)
from tutelage.outputs import Outputs
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import FrozenTeacher
from tutelage.teachers.teacher import Teacher
from tutelage.training import Distillation, GradientBalancedDistillation, Trainer, TrainingSettings

# ---- Scales ----------------------------------------------------------------------------------------------------------

SCHEDULE = {
    "optimizer": "adam",
    "betas": (0.9, 0.95),
    "weight_decay": 0.0,
    "scheduler": "linear",
    "warmup": 0.1,
    "clip_norm": 1.0,
}
LAPTOP = {
    "window": 192,  # bytes
    "parts": {"teacher": 0.6, "transfer": 0.2, "validation": 0.1, "test": 0.1},
    "texts": 320,  # windows of the transfer part that a seed draws
    "limit": None,
    "vocabularies": {"teacher": 1024, "student": 512},
    "model": {"architecture": "llama", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_length": 256},
    "teacher_training": {**SCHEDULE, "learning_rate": 4e-3, "batch_size": 16, "epochs": 6},
    "training": {**SCHEDULE, "batch_size": 8, "max_steps": 160},
    "rates": (1e-3, 4e-3),
    "further_rate": 4e-3,  # of arms that no claim compares with tuned ones
    "cloze": 150,
}
PACKAGES = Needs(packages=("tokenizers",))
SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **LAPTOP,
            "texts": 16,
            "limit": 24,
            "vocabularies": {"teacher": 320, "student": 290},
            "model": {**LAPTOP["model"], "hidden_size": 16, "num_layers": 1, "num_heads": 1},  # type: ignore[dict-item]
            "teacher_training": {**SCHEDULE, "learning_rate": 1e-2, "batch_size": 8, "epochs": 2},
            "training": {**SCHEDULE, "batch_size": 4, "max_steps": 4},
            "rates": (1e-3,),
            "cloze": 8,
        },
        needs=PACKAGES,
    ),
    "quick": Scale("quick", seeds=3, settings=LAPTOP, needs=PACKAGES),
    "full": Scale("full", seeds=5, settings=LAPTOP, needs=PACKAGES),
    "paper": Scale(
        "paper",
        seeds=1,
        settings={
            "data": "allenai/tulu-3-sft-mixture",
            "window": 2048,
            "parts": {"transfer": 0.98, "validation": 0.01, "test": 0.01},
            "texts": 900_000,
            "limit": None,
            "teacher": "google/gemma-2-2b-it",  # also meta-llama/Llama-3.2-3B-Instruct
            "student": "Qwen/Qwen2.5-1.5B",  # only its tokenizer
            "training": {**SCHEDULE, "batch_size": 64, "max_steps": 20_000, "precision": "bf16"},
            "rates": (1e-5,),
            "further_rate": 3e-5,
            "cloze": 1000,
        },
        needs=Needs(gpus=1, packages=("datasets", "tokenizers"), datasets=("allenai/tulu-3-sft-mixture",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

COMPARED = {"SFT": ("SFT",), "MinED + SFT": ("SFT", "MinED"), "ALM": ("ALM",), "ALM + SFT": ("SFT", "ALM")}
FURTHER = [
    Arm("ALM, no debiasing", {"terms": ("ALM",), "options": {"debias": False}}),
    Arm("ALM, no merging", {"terms": ("ALM",), "options": {"merge_threshold": None}}),
    Arm("ALM, τ=1", {"terms": ("ALM",), "options": {"temperature": 1.0}}),
    Arm("ALM, τ=5", {"terms": ("ALM",), "options": {"temperature": 5.0}}),
    Arm("one layer: SFT", {"terms": ("SFT",), "layers": 1}, description="half of the teacher's layers"),
    Arm("one layer: ALM + SFT", {"terms": ("SFT", "ALM"), "layers": 1}),
    Arm("bytes: SFT", {"terms": ("SFT",), "to": "byte"}),
    Arm("bytes: ALM + states", {"terms": ("ALM", "states"), "to": "byte"}),
]
BYTES = [
    Arm("bytes: ALM", {"terms": ("ALM",), "to": "byte"}),
    Arm("bytes: ALM, no merging", {"terms": ("ALM",), "to": "byte", "options": {"merge_threshold": None}}),
    Arm(
        "bytes: ALM, no debiasing",
        {"terms": ("ALM",), "to": "byte", "options": {"debias": False}},
        description="nor merging, which needs to know where words end",
    ),
]
SANITY = Arm("same tokenizer", {"sanity": True}, description="the teacher with noise, taught by τ = 1 token by token")


def arms(scale: Scale) -> list[Arm]:
    """The arms that claims compare, with every candidate rate; the others at `full` and `paper` only."""
    large = scale.name in ("full", "paper")
    compared = {**COMPARED, **({"ULD + SFT": ("SFT", "ULD")} if large else {})}
    tuned = [
        Arm(f"{name}, {rate:g}", {"terms": terms, "rate": rate}, group=name)
        for name, terms in compared.items()
        for rate in scale.settings["rates"]
    ]
    return [*tuned, *BYTES, SANITY, *(FURTHER if large else [])]


def objectives_of(settings: Mapping[str, Any], teacher: Any, student: Any) -> list[Objective]:
    """The losses of an arm between two tokenizers."""
    made: dict[str, Any] = {
        "SFT": CrossEntropy,
        "MinED": lambda: MinimumEditDistanceDistillation(teacher, student),
        "ULD": AlignedUniversalLogitDistance,
        "states": ChunkHiddenStates,
        "ALM": lambda: ApproximateLikelihoodMatching(teacher, student, **settings.get("options", {})),
    }
    return [made[term]() for term in settings["terms"]]


def blind_teacher(arm: Arm) -> Arm:
    """An arm whose teacher finds every token equally likely."""
    return replace(arm, settings={**arm.settings, "blind": True})


def without_debiasing(arm: Arm) -> Arm:
    """An arm whose likelihood matching does not know where words end."""
    return replace(arm, settings={**arm.settings, "options": {"debias": False}})


# ---- Texts -----------------------------------------------------------------------------------------------------------


def documents() -> list[str]:
    """The help texts of Python, each without the paragraphs that stand in an earlier one too."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    texts = []
    for name in sorted(topics):
        fresh = []
        for paragraph in topics[name].strip().split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                fresh.append(paragraph)
            seen.add(words)
        texts.append("\n\n".join(fresh))
    return [text for text in texts if text]


def divided(texts: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Whole documents in parts of about these shares of the bytes, drawn once."""
    order = np.random.default_rng(0).permutation(len(texts))
    total = sum(len(text) for text in texts)
    parts: dict[str, list[str]] = {name: [] for name in shares}
    for number in order:
        lacking = {name: share - sum(map(len, parts[name])) / total for name, share in shares.items()}
        parts[max(lacking, key=lacking.__getitem__)].append(texts[number])
    return parts


# ---- What all arms share ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What `prepare` left: texts by part, questions, tokenizers, and the teacher."""

    texts: Mapping[str, list[str]]
    cloze: list[tuple[str, list[str]]]
    tokenizers: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]

    def network(self) -> Any:
        """The teacher's network, with its weights."""
        if "data" in self.settings:
            return load_pretrained(self.settings["teacher"])
        model = causal_lm(len(self.tokenizers["teacher"]), tie_word_embeddings=False, **self.settings["model"])
        model.load_state_dict({name: value for name, value in self.tensors.items() if name != "states"})
        return model

    def teacher(self, *, blind: bool = False) -> Teacher:
        """The teacher. Where its last states on the transfer texts were kept, it is not asked again."""
        if "data" in self.settings:
            return FrozenTeacher(self.network(), embedding=True)
        head, states = self.tensors["lm_head.weight"], self.tensors["states"]

        def lesson(batch: Batch) -> Outputs:
            read = states[batch.index, : batch.extras["teacher_chunk"].shape[1]]
            return Outputs(logits=F.linear(read, 0.0 * head if blind else head), embedding=read)

        return lesson

    def student(self, kind: str, layers: int | None) -> Any:
        """The teacher's network under another vocabulary; bytes also read the longest old token that ends at them."""
        model = self.network()
        if layers is not None:
            model.model.layers = model.model.layers[:layers]
            model.config.num_hidden_layers = layers
        table = model.get_input_embeddings().weight.detach().clone()
        if kind == "byte" and model.config.tie_word_embeddings:
            model.config.tie_word_embeddings = False
            model.get_output_embeddings().weight = nn.Parameter(table.clone())
        model = transfer_vocabulary(model, self.tokenizers["teacher"], self.tokenizers[kind])
        if kind == "byte":
            expand_byte_inputs(model, self.tokenizers[kind], self.tokenizers["teacher"], table)
        return model


def prepare(context: Context) -> dict[str, float]:
    """Divide the texts, train two tokenizers and the teacher, and keep its last states on the transfer texts."""
    settings, folder = context.scale.settings, context.folder
    parts = divided(dialogues(settings["data"]) if "data" in settings else documents(), settings["parts"])
    texts = {
        name: [piece for text in part for piece in windows(text, settings["window"])][: settings["limit"]]
        for name, part in parts.items()
    }
    write_json(folder / "texts.json", {"parts": texts, "cloze": cloze_items(texts["test"], settings["cloze"])})
    if "data" in settings:
        return {}
    halves = texts["teacher"][::2], texts["teacher"][1::2]
    for name, half in zip(("teacher", "student"), halves, strict=True):
        train_bpe(half, settings["vocabularies"][name]).save_pretrained(folder / name)
    tokenizers = tokenizers_of(settings, folder)
    torch.manual_seed(0)
    teacher: Any = causal_lm(len(tokenizers["teacher"]), tie_word_embeddings=False, **settings["model"])
    lessons = whole_texts(texts["teacher"], tokenizers["teacher"])
    train(teacher, None, lessons, [CrossEntropy()], settings["teacher_training"], seed=0)
    teacher.eval()
    alm = ApproximateLikelihoodMatching(tokenizers["teacher"], tokenizers["student"])
    samples, states = alm.samples(texts["transfer"]), []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(samples)), 64):
            inputs: Any = samples.batch(rows).teacher_inputs
            states.append(teacher.model(**inputs).last_hidden_state)
    write_tensors(folder / "teacher.safetensors", {**teacher.state_dict(), "states": torch.cat(states)})
    world = load(context)
    facts = {f"teacher: {name}": value for name, value in scores(teacher, "teacher", world).items()}
    for kind in ("student", "byte"):
        other = ApproximateLikelihoodMatching(tokenizers["teacher"], tokenizers[kind])
        facts |= {f"{kind}: {name}": value for name, value in chunk_figures(world, other).items()}
    return facts


def chunk_figures(world: World, alm: ApproximateLikelihoodMatching) -> dict[str, float]:
    """How fine the chunks of the transfer texts are, and how likely the teacher finds them."""
    batch = alm.samples(world.texts["transfer"]).batch(slice(0, 200))
    teacher_chunk, student_chunk = batch.extras["teacher_chunk"], batch.extras["student_chunk"]
    chunks = teacher_chunk.unsqueeze(-1) == torch.arange(int(teacher_chunk.max()) + 1)
    logits, inputs = world.teacher()(batch).logits, batch.teacher_inputs
    assert logits is not None
    assert isinstance(inputs, dict)
    likely = chunk_log_probs(logits, inputs["input_ids"], chunks)[chunks[:, 1:].any(dim=1)]
    count = chunks.any(dim=1).sum().item()
    return {
        "chunks a teacher token": count / (teacher_chunk >= 0).sum().item(),
        "chunks a student token": count / (student_chunk >= 0).sum().item(),
        "mean chunk probability": likely.exp().mean().item(),
    }


def load(context: Context) -> World:
    """What `prepare` left in its folder."""
    told = json.loads((context.folder / "texts.json").read_text())
    weights = context.folder / "teacher.safetensors"
    tensors = read_tensors(weights) if weights.exists() else {}
    settings = context.scale.settings
    items = [(beginning, words) for beginning, words in told["cloze"]]
    return World(told["parts"], items, tokenizers_of(settings, context.folder), tensors, settings)


def tokenizers_of(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The teacher's tokenizer, the students', and bytes."""
    from transformers import AutoTokenizer

    names = {name: settings[name] if "data" in settings else str(folder / name) for name in ("teacher", "student")}
    found = {name: AutoTokenizer.from_pretrained(place) for name, place in names.items()}
    return {**found, "byte": ByteTokenizer()}


# ---- The experiment --------------------------------------------------------------------------------------------------


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student, and score it on validation and test documents."""
    world = load(context)
    if arm.settings.get("sanity"):
        return teach_itself(world, seed, blind=arm.settings.get("blind", False))
    kind = arm.settings.get("to", "student")
    tokenizers = world.tokenizers["teacher"], world.tokenizers[kind]
    samples = ApproximateLikelihoodMatching(*tokenizers).samples(world.texts["transfer"])
    drawn = np.random.default_rng(seed).permutation(len(samples))[: context["texts"]]
    student = world.student(kind, arm.settings.get("layers"))
    settings = {**context["training"], "learning_rate": arm.settings.get("rate", context["further_rate"])}
    teacher = world.teacher(blind=arm.settings.get("blind", False))
    train(
        student,
        teacher,
        samples.subset(torch.from_numpy(drawn)),
        objectives_of(arm.settings, *tokenizers),
        settings,
        seed,
    )
    validation = bits_per_byte(student, tokenizers[1], world.texts["validation"])
    return {"validation_bits": validation, **scores(student, kind, world)}


def teach_itself(world: World, seed: int, *, blind: bool) -> Metrics:
    """Claim 4, on 16 texts: no gradient at the teacher itself; a teacher with noise is led back to it, by tokens."""
    tokenizer = world.tokenizers["teacher"]
    alm = ApproximateLikelihoodMatching(tokenizer, tokenizer, debias=False, kind="kl", temperature=1.0)
    samples, teacher = alm.samples(world.texts["transfer"]).subset(slice(0, 16)), world.teacher(blind=blind)
    student = world.network()
    batch = samples.batch(slice(0, 8))
    alm(call_model(student, batch.inputs), teacher(batch), batch).backward()
    gradients = [value.grad.norm() for value in student.parameters() if value.grad is not None]
    student.zero_grad()
    with torch.no_grad():
        for value in student.parameters():
            value.add_(torch.randn_like(value), alpha=0.1 * float(value.std()))
    before = distance_of_tokens(student, teacher, samples)
    settings = {**world.settings["training"], "learning_rate": 2e-3}
    train(student, teacher, samples, [alm], settings, seed)
    after = distance_of_tokens(student, teacher, samples)
    return {"gradient": torch.stack(gradients).norm().item(), "before": before, "after": after}


@torch.no_grad()
def distance_of_tokens(student: nn.Module, teacher: Teacher, samples: ArraySamples) -> float:
    """The mean |A − B| over tokens, in nats."""
    student.eval()
    distances = []
    for rows in torch.split(torch.arange(len(samples)), 64):
        batch = samples.batch(rows)
        assert batch.target is not None
        kept = batch.target != -100
        learned, told = (outputs.logits for outputs in (call_model(student, batch.inputs), teacher(batch)))
        assert learned is not None
        assert told is not None
        both = [
            -F.cross_entropy(logits.transpose(1, 2), batch.target, ignore_index=-100, reduction="none")[kept]
            for logits in (learned, told)
        ]
        distances.append((both[0] - both[1]).abs())
    return torch.cat(distances).mean().item()


def train(
    model: nn.Module,
    teacher: Teacher | None,
    samples: ArraySamples,
    objectives: list[Objective],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """One loss as it is, several balanced by their gradients."""
    kind = Distillation if len(objectives) == 1 else GradientBalancedDistillation
    Trainer(kind(teacher, model, objectives), samples, settings=TrainingSettings(seed=seed, **settings)).run()


# ---- Scores that mean the same for every vocabulary ------------------------------------------------------------------


def whole_texts(texts: Sequence[str], tokenizer: Any, beginnings: Sequence[str] | None = None) -> ArraySamples:
    """Texts to learn or to score, after beginnings that are given; the end token is no part of a text."""
    samples = completion_samples(beginnings or [""] * len(texts), texts, tokenizer)
    assert samples.target is not None
    return samples.with_target(samples.target.masked_fill(samples.target == tokenizer.eos_token_id, -100))


@torch.no_grad()
def log_likelihoods(model: nn.Module, samples: ArraySamples) -> Tensor:
    """Of every text, in nats: `[samples]`."""
    model.eval()
    device, sums = next(model.parameters()).device, []
    for rows in torch.split(torch.arange(len(samples)), 64):
        batch = samples.batch(rows).to(device)
        logits = call_model(model, batch.inputs).logits
        assert logits is not None
        assert batch.target is not None
        losses = F.cross_entropy(logits.float().transpose(1, 2), batch.target, ignore_index=-100, reduction="none")
        sums.append(-losses.double().sum(dim=1).cpu())
    return torch.cat(sums)


def bits_per_byte(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> float:
    """−log2 of the texts' probabilities, over their bytes."""
    count = sum(len(text.encode()) for text in texts)
    return -log_likelihoods(model, whole_texts(texts, tokenizer)).sum().item() / count / math.log(2)


def cloze_accuracy(model: nn.Module, tokenizer: Any, items: Sequence[tuple[str, list[str]]]) -> float:
    """How often the true word is the likeliest of four."""
    words = [word for _, choices in items for word in choices]
    beginnings = [beginning for beginning, choices in items for _ in choices]
    likely = log_likelihoods(model, whole_texts(words, tokenizer, beginnings)).view(len(items), -1)
    return (likely.argmax(dim=1) == 0).double().mean().item()


def scores(model: nn.Module, kind: str, world: World) -> dict[str, float]:
    """Both scores on the test documents."""
    tokenizer = world.tokenizers[kind]
    bits = bits_per_byte(model, tokenizer, world.texts["test"])
    return {"bits": bits, "cloze": cloze_accuracy(model, tokenizer, world.cloze)}


# ---- Claims ----------------------------------------------------------------------------------------------------------


def picked(results: Results, *groups: str) -> str:
    """The arm of some groups with the fewest bits on validation documents."""
    return min(
        (results.select(group, "validation_bits", lower_is_better=True) for group in groups),
        key=lambda arm: results.mean(arm, "validation_bits"),
    )


def _bits(results: Results, *names: str) -> str:
    return ", ".join(f"{name} {results.mean(name, 'bits'):.3f}" for name in names)


def better_than_labels(results: Results) -> Judgement:
    """Claim 1."""
    alm, sft, mined = picked(results, "ALM", "ALM + SFT"), picked(results, "SFT"), picked(results, "MinED + SFT")
    against = results.paired(alm, sft, "bits", alternative="less")
    worse = results.difference(alm, mined, "bits")
    facts = ", ".join(f"{name} {value:.2f}" for name, value in results.facts.items() if "chunk" in name)
    detail = (
        f"{_bits(results, alm, sft, mined)}; minus SFT {against.difference:+.3f}, minus MinED {worse:+.3f}; all: "
        f"{_bits(results, *[arm for group in results.groups.values() for arm in group])}; {facts}"
    )
    return Judgement(
        against.difference, against.difference < 0 and against.p_value < 0.1 and worse <= 0, against.p_value, detail
    )


def closes_the_gap(results: Results) -> Judgement:
    """Claim 2."""
    alm, sft, teacher = picked(results, "ALM"), picked(results, "SFT"), results.facts["teacher: bits"]
    gap = results.mean(sft, "bits") - teacher
    closed = (results.mean(sft, "bits") - results.mean(alm, "bits")) / gap if gap > 0 else 0.0
    return Judgement(closed, closed >= 0.25, detail=f"teacher {teacher:.3f}, {_bits(results, alm, sft)}")


def debiasing_helps(results: Results) -> Judgement:
    """Claim 3, over the same chunks: merging, which only debiased chunks can have, is left out on both sides."""
    names = "bytes: ALM, no merging", "bytes: ALM, no debiasing"
    against = results.paired(*names, "bits", alternative="less")
    merged = results.paired("bytes: ALM", names[1], "bits", alternative="less")
    further = [name for name in results.arms if name.startswith("bytes: ") and name not in names]
    detail = (
        f"{_bits(results, *names, *further)} bits per byte; debiased and merged minus neither "
        f"{merged.difference:+.3f} (p = {merged.p_value:.3f})"
    )
    return Judgement(against.difference, against.difference < 0 and against.p_value < 0.1, against.p_value, detail)


def nothing_to_learn_from_itself(results: Results) -> Judgement:
    """Claim 4."""
    gradient, before, after = (results.values("same tokenizer", name).max() for name in ("gradient", "before", "after"))
    detail = f"gradient at the teacher {gradient:.1e}; mean |A − B| {before:.3f} before, {after:.3f} after"
    return Judgement(float(after), bool(gradient < 1e-5 and after < 0.05), detail=detail)


CLAIMS = (
    Claim(
        "better-than-labels",
        "a new tokenizer is learned better from chunk likelihoods (with or without labels) than from labels alone, and "
        "not worse than by MinED",
        "bits per byte: ALM or ALM + SFT (picked on validation) below SFT, paired over seeds, one-sided p < 0.1; and "
        "at most MinED + SFT",
        better_than_labels,
        published="Gemma2 2B to the Qwen2 tokenizer, mean of 7 benchmarks: ALM 55.1, MinED 53.0, SFT 51.6",
    ),
    Claim(
        "closes-the-gap",
        "chunk likelihoods suffice without labels",
        "ALM alone closes at least 25 % of the gap in bits per byte between SFT and the teacher",
        closes_the_gap,
        published="ALM 55.1 between SFT 51.6 and the original model 58.0 (54 %)",
    ),
    Claim(
        "debiasing",
        "from subwords to bytes, it helps to count the probability that a word ends",
        "bits per byte: ALM below ALM without debiasing, over the same chunks (neither merged), paired over seeds, "
        "one-sided p < 0.1",
        debiasing_helps,
        published="Llama to bytes: 43.2 without, 45.3 with debiasing",
    ),
    Claim(
        "same-tokenizer",
        "with one tokenizer and τ = 1 the teacher itself is where nothing is left to learn, and training leads there",
        "gradient norm at the teacher below 1e-5; a teacher with noise ends with a mean |A − B| below 0.05, every seed",
        nothing_to_learn_from_itself,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def dialogues(name: str) -> list[str]:
    """The conversations of an instruction data set, as plain texts."""
    import datasets

    rows: Iterable[Any] = datasets.load_dataset(name, split="train")
    return ["\n".join(message["content"] for message in row["messages"]) for row in rows]


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without weights and without data)."""
    if scale.name != "paper":
        model = causal_lm(scale.settings["vocabularies"]["teacher"], **scale.settings["model"])
        return {"teacher": f"{type(model).__name__}, {parameter_count(model):,} parameters"}
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    llama = LlamaConfig(
        vocab_size=128_256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):  # Gemma2Config's defaults are Gemma 2 9B's; these are 2B's
        gemma = Gemma2ForCausalLM(
            Gemma2Config(
                hidden_size=2304,
                intermediate_size=9216,
                num_hidden_layers=26,
                num_attention_heads=8,
                num_key_value_heads=4,
            )
        )
        other = LlamaForCausalLM(llama)
    names = {"google/gemma-2-2b-it": gemma, "meta-llama/Llama-3.2-3B-Instruct": other}
    built = {name: f"{type(model).__name__}, {parameter_count(model):,} parameters" for name, model in names.items()}
    return {"data": scale.settings["data"], "new tokenizer": scale.settings["student"], **built}


recipe = Recipe(
    slug="alm",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"blind-teacher": blind_teacher, "no-debiasing": without_debiasing},
    describe=describe,
)
