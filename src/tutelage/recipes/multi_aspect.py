"""MaKD: does a student classify better when it also learns to answer questions about what it sees?

Source: "Multi-aspect Knowledge Distillation with Large Language Model", CVPR workshop FGVC12 2025, arXiv 2501.13341.

The question. A language model writes yes/no questions about a data set's classes, a multimodal language model answers
them for every training image as probabilities, and the student predicts the answers with outputs beside its classes. Is
the student better for it (claim 1), because of what the answers say (claims 2, 5 and 6) and because there are many
(claim 3), and does it learn them (claim 4)?

The comparison. 62 rendered letters and digits, twelve training images a class, test images in fonts of families that
training never shows. 26 questions are answered from what is known of the character ("is it a vowel?"), of the font ("is
it bold?") and of the character as this font draws it ("does it enclose a hole?"). An oracle answers as an imperfect
model would: unsure by a noise on its logit, and wrong in every tenth answer. Every seed has data, answers and initial
weights of its own; all arms of a seed share them, with the order of batches and the budget. No arm has a setting that
is tuned: the weight of the answers is the 4 of the released configuration for all, so weaker controls are not
due to a worse choice. The controls that could explain a gain without knowledge: label smoothing, random answers, and
random codes of the classes.

How the size was chosen. Eight pilot settings with one or two seeds were looked at, on test accuracy and AUROC. Where
cross-entropy had not learned what it could (18 to 33 % right: low rate, distorted images), MaKD was one to four points
ahead, and mostly so were random answers and codes of the classes; where it had, the sign varied. The setting was taken
for being learnable (answers at an AUROC of 0.8 are out of reach otherwise), before any arm was run in it.

What holds and what does not (recorded at quick and full). The students learn the answers, the better the cleaner they
are. The residual network gains a good point (p = 0.06 and 0.04). The smaller network gains nothing beyond the noise, at
6 and 24 images a class as little, so claim 1 fails; random answers are as good for it. Likely reasons: 77 % of the true
answers are the same for all images of a class, so most questions say what the label says; a tenth is wrong; and 7,000
parameters have little room for more outputs. Five questions cost two points, likely since few share the whole weight:
claim 3 fails at quick, and holds at full with 0.3 points between none and all. Claim 6 fails at full, p just below 0.1:
half-wrong answers, which are sure of themselves, are a point worse than uniform numbers, which are not.

Departures from the paper: data, networks, schedule and answers are ours at every scale but `paper`. Images have 12 × 12
pixels and half of the default distortion of `glyphs`. At `paper` scale the model that answers writes the questions too
(the paper asks GPT-4o), and the test part is looked at once (the released code reports the best epoch).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn

from tutelage.data import ArraySamples, Data, Samples, load_data
from tutelage.data.glyph_attributes import QUESTIONS, glyph_attributes
from tutelage.data.glyphs import ALPHABETS, FONT_SETS
from tutelage.data.random_crops import RandomResizedCrops
from tutelage.data.subsets import targets_of
from tutelage.features import AspectDistillation, ObservedModel
from tutelage.files import read_tensors, write_tensors
from tutelage.models import build_model, parameter_count
from tutelage.models.pretrained import new_model
from tutelage.models.specification import described
from tutelage.objectives import CrossEntropy, KnowledgeDistillation
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import (
    AnsweredSamples,
    AspectQuestionSet,
    AttributeOracle,
    CachedAnswers,
    FrozenTeacher,
    RecordedTeacher,
    TransformersAnswerer,
    build_question_prompts,
    generate_questions,
    record_logits,
)
from tutelage.training import Distillation, Trainer, TrainingSettings
from tutelage.training.distillation import Objectives

# ---- Networks --------------------------------------------------------------------------------------------------------

RESNET = {"name": "resnet", "arguments": {"widths": (8, 16, 32)}}


@described
def separable_convnet(
    input_shape: tuple[int, ...], num_classes: int, *, channels: tuple[int, ...] = (16, 32, 64)
) -> nn.Module:
    """A small network in the manner of MobileNet: a convolution, then depthwise and pointwise ones in turn."""

    def block(convolution: nn.Module, width: int) -> list[nn.Module]:
        return [convolution, nn.BatchNorm2d(width), nn.ReLU()]

    width = channels[0]
    layers = block(nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False), width)
    for following in channels[1:]:
        layers += block(nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False), width)
        layers += block(nn.Conv2d(width, following, 1, bias=False), following)
        width = following
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


@described
def transformers_classifier(
    input_shape: tuple[int, ...], num_classes: int, *, class_name: str, settings: Mapping[str, Any]
) -> nn.Module:
    """A classifier of `transformers` with random weights."""
    return new_model(class_name, num_channels=input_shape[0], num_labels=num_classes, **settings)


def _own(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": f"tutelage.recipes.multi_aspect:{name}", "arguments": arguments}


MOBILE = _own("separable_convnet")
RESNET_18 = {"widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2), "stem": "standard"}
PAPER_STUDENTS = {
    "ResNet18": {"name": "resnet", "arguments": RESNET_18},
    "ResNet34": {"name": "resnet", "arguments": {**RESNET_18, "depths": (3, 4, 6, 3)}},
    "MobileNet-V1": _own(
        "transformers_classifier",
        class_name="MobileNetV1ForImageClassification",
        settings={"tf_padding": False, "classifier_dropout_prob": 0.001},
    ),
    "EfficientNet": _own(
        "transformers_classifier",
        class_name="EfficientNetForImageClassification",
        settings={"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280},
    ),
}

# ---- Scales ----------------------------------------------------------------------------------------------------------

# Families: DejaVu Sans, DejaVu Serif and STIX for training; DejaVu Sans Mono and Computer Modern for the test.
FONTS = (*FONT_SETS["dejavu_sans"], *FONT_SETS["dejavu_serif"], *FONT_SETS["stix"])
TEST_FONTS = (*FONT_SETS["dejavu_mono"], *FONT_SETS["computer_modern"])
GLYPHS = {
    "fonts": FONTS,
    "test_fonts": TEST_FONTS,
    "train_per_class": 12,
    "validation_per_class": 10,
    "affine": 0.5,
    "noise": 0.05,
}
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "batch_size": 64}
# Folders of images, in the working directory.
PAPER_DATA = ("oxfordpets", "stanfordcars", "dtd", "flowers102", "cub200", "fgvcaircraft", "caltech101", "miniimagenet")

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            "data": {"glyphs": {**GLYPHS, "alphabet": "0123456789", "test_per_class": 10}},
            "students": {"MobileNet": _own("separable_convnet", channels=(8, 16)), "ResNet": MOBILE},
            "training": {**SGD, "batch_size": 32, "epochs": 5},
            "aspect_weight": 4.0,
        },
    ),
    "quick": Scale(
        "quick",
        seeds=5,
        settings={
            "data": {"glyphs": GLYPHS},
            "students": {"MobileNet": MOBILE, "ResNet": RESNET},
            "training": {**SGD, "epochs": 30},
            "aspect_weight": 4.0,
        },
    ),
    "full": Scale(
        "full",
        seeds=6,
        settings={
            "data": {
                "glyphs": GLYPHS,
                "6 a class": {**GLYPHS, "source": "glyphs", "train_per_class": 6},
                "24 a class": {**GLYPHS, "source": "glyphs", "train_per_class": 24},
            },
            "students": {"MobileNet": MOBILE, "ResNet": RESNET},
            "training": {**SGD, "epochs": 30},
            "aspect_weight": 4.0,
            "further_flip_rates": (0.25,),
            "teacher": RESNET,
        },
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": {name: {"size": 256} for name in PAPER_DATA},
            "students": PAPER_STUDENTS,
            "training": {
                **SGD,
                "learning_rate": 0.01,
                "weight_decay": 1e-4,
                "batch_size": 16,
                "epochs": 240,
                "scheduler": "step",
                "milestones": (150 / 240, 180 / 240, 210 / 240),
            },
            "crop": 224,
            "aspect_weight": 4.0,
            "answerer": "OpenGVLab/InternVL2_5-8B",
            "questions": {"n": 100, "q": 50},
        },
        needs=Needs(gpus=1),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

NOISY = {"noise": 1.0, "flip_rate": 0.1}


def arms(scale: Scale) -> list[Arm]:
    """All arms for the first student on the first data; CE and MaKD for other students and on other data."""
    answers = "model" if "answerer" in scale.settings else NOISY
    first, *other_students = scale.settings["students"]
    found = [
        Arm("CE", description="labels alone"),
        Arm("CE smoothed", {"label_smoothing": 0.1}, description="labels, smoothed by 0.1"),
        Arm("random answers", {"answers": "random"}, description="uniform in [0, 1], fixed for every image"),
        Arm("class codes", {"answers": "codes"}, description="random answers, the same for all images of a class"),
        Arm("MaKD", {"answers": answers}, description="noisy answers to all questions"),
        Arm("MaKD, 5 questions", {"answers": answers, "questions": 5}, description="five of them, drawn for the seed"),
        Arm("MaKD, 15 questions", {"answers": answers, "questions": 15}, description="fifteen, among them these five"),
    ]
    if answers is NOISY:
        found.append(
            Arm("MaKD, clean", {"answers": {"noise": 0.0, "flip_rate": 0.0}}, description="no answer is wrong")
        )
        for rate in (*scale.settings.get("further_flip_rates", ()), 0.5):
            name = f"MaKD, {rate:.0%} flipped"
            found.append(Arm(name, {"answers": {**NOISY, "flip_rate": rate}}, description="more wrong answers"))
    if "teacher" in scale.settings:
        found.append(Arm("KD", {"teacher": True}, description="distillation from a larger network"))
        found.append(Arm("MaKD + KD", {"teacher": True, "answers": answers}, description="both"))
    data, *other_data = scale.settings["data"]
    found = [replace(arm, settings={"data": data, "student": first, **arm.settings}) for arm in found]
    others = [(name, data, name) for name in other_students] + [(name, name, first) for name in other_data]
    for prefix, place, student in others:
        for name, settings in (("CE", {}), ("MaKD", {"answers": answers})):
            found.append(Arm(f"{prefix}: {name}", {"data": place, "student": student, **settings}))
    return found


def without_answers(arm: Arm) -> Arm:
    """An arm whose answers have no weight."""
    return replace(arm, settings={**arm.settings, "aspect_weight": 0.0})


def with_others_answers(arm: Arm) -> Arm:
    """An arm whose images carry the answers about other images."""
    return replace(arm, settings={**arm.settings, "shuffled": True})


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Find out what is true of every character; at `paper`, let a model write questions and answer them."""
    if "answerer" in context.scale.settings:
        return _ask_model(context)
    attributes = glyph_attributes((*FONTS, *TEST_FONTS))
    write_tensors(context.folder / "attributes.safetensors", {"attributes": attributes})
    seen = attributes[: len(FONTS)]
    return {
        "questions": len(QUESTIONS),
        # Questions with one answer for all images of each class only code the label.
        "questions_that_code_the_label": (seen == seen[:1]).all(dim=(0, 1)).sum().item(),
        "answers_constant_in_a_class": (seen == seen[:1]).all(dim=0).double().mean().item(),
        "share_of_yes": seen.double().mean().item(),
    }


def _ask_model(context: Context) -> dict[str, float]:
    """The paper's first two steps, once a data set: questions, then an answer to each for every training image."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    answerer = TransformersAnswerer.from_pretrained(context["answerer"], device=device, dtype="auto")
    facts: dict[str, float] = {}
    for name in context["data"]:
        data, wanted = _load(context, name, 0), context["questions"]
        if isinstance(wanted, str):  # questions that somebody wrote
            questions = AspectQuestionSet.load(wanted)
        else:
            questions = generate_questions(answerer.reply, data.class_names, len(data.train), **wanted)
        answers = CachedAnswers.collect(answerer, data.train, questions)
        answers.save(_answers_file(context, name))
        facts[f"{Path(name).name}_questions"] = len(questions)
        facts[f"{Path(name).name}_share_of_yes"] = answers.table.double().mean().item()
    return facts


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student; ask it for classes on the validation and test parts, and for answers on the test part."""
    settings, data = arm.settings, _load(context, arm.settings["data"], seed)
    lessons, teacher = data.train, None
    objectives: list[Any] = []
    if settings.get("teacher"):
        assert isinstance(lessons, ArraySamples)
        lessons, teacher = record_logits(_larger_network(context, data, seed), lessons), RecordedTeacher()
        objectives.append(KnowledgeDistillation(alpha=1.0, temperature=4.0))
    answers: AspectDistillation | None = None
    if "answers" in settings:
        lessons = _answered(context, arm, data, lessons, seed)
        answers = AspectDistillation(aspect_weight=settings.get("aspect_weight", context["aspect_weight"]))
        objectives.append(answers)  # it holds the cross-entropy, too
    else:
        objectives.append(CrossEntropy(label_smoothing=settings.get("label_smoothing", 0.0)))
    side = context.scale.settings.get("crop")
    if side is not None:
        lessons = RandomResizedCrops(lessons, side)
    student = _build(context["students"][settings["student"]], data, side)
    _train(student, teacher, lessons, objectives, context["training"], seed=seed)
    logits, embedding = _ask(student, data.test, side)
    metrics: Metrics = {
        "validation_accuracy": _accuracy(_ask(student, data.validation, side)[0], data.validation),
        "test_accuracy": _accuracy(logits, data.test),
    }
    if answers is not None and isinstance(settings["answers"], Mapping):
        truth = _truth(context, data, data.test)[:, _chosen(arm, len(QUESTIONS), seed)]
        metrics["aspect_auroc"] = mean_auroc(answers.cpu().answers(embedding), truth)
    return metrics


def _answered(context: Context, arm: Arm, data: Data, lessons: Samples, seed: int) -> Samples:
    """The training images with their answers; nobody is asked about any other image."""
    kind, generator = arm.settings["answers"], torch.Generator().manual_seed(seed)
    asked = "answerer" in context.scale.settings
    kept = CachedAnswers.load(_answers_file(context, arm.settings["data"])) if asked else None
    questions = QUESTIONS if kept is None else tuple(kept.questions)
    chosen = _chosen(arm, len(questions), seed)
    names = [questions[column] for column in chosen]
    if kind == "model":
        assert kept is not None
        return AnsweredSamples(lessons, kept, names)
    if kind == "random":
        aspects = torch.rand(len(lessons), len(chosen), generator=generator)
    elif kind == "codes":
        codes = torch.rand(data.num_classes, len(chosen), generator=generator) < 0.5
        aspects = AttributeOracle(noise=0.0, flip_rate=0.0).answer(codes[targets_of(lessons)], names)
    else:
        aspects = AttributeOracle(**kind, seed=seed).answer(_truth(context, data, data.train)[:, chosen], names)
    if arm.settings.get("shuffled"):
        aspects = aspects[torch.randperm(len(aspects), generator=generator)]
    ids = lessons.batch(torch.arange(len(lessons))).index.tolist() if kept is None else kept.sample_ids
    return AnsweredSamples(lessons, CachedAnswers(dict(zip(ids, aspects, strict=True)), names))


def _chosen(arm: Arm, count: int, seed: int) -> list[int]:
    """The columns of an arm's questions: fewer questions are a part of more, in an order that the seed draws."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: list[int] = order[: arm.settings.get("questions", count)]
    return chosen


def _truth(context: Context, data: Data, samples: Samples) -> Tensor:
    """What is true of every sample, `[samples, questions]`."""
    batch = samples.batch(torch.arange(len(samples)))
    assert batch.target is not None
    attributes = read_tensors(context.folder / "attributes.safetensors")["attributes"]
    characters = torch.tensor([ALPHABETS["alphanumeric"].index(name) for name in data.class_names])
    return attributes[batch.extras["font"], characters[batch.target]]


def mean_auroc(scores: Tensor, truth: Tensor) -> float:
    """The mean over questions of the area under the ROC curve; questions with one true answer are left out.

    Args:
        scores: `[samples, questions]`.
        truth: `[samples, questions]` booleans.

    >>> mean_auroc(torch.tensor([[0.1], [0.4], [0.35], [0.8]]), torch.tensor([[False], [False], [True], [True]]))
    0.75
    """
    ranks = rankdata(scores.detach().double().numpy(), axis=0)  # of equal scores, the mean rank
    yes = truth.numpy()
    positive, negative = yes.sum(axis=0), (~yes).sum(axis=0)
    both = (positive > 0) & (negative > 0)
    area = ((ranks * yes).sum(axis=0) - positive * (positive + 1) / 2)[both] / (positive * negative)[both]
    return float(area.mean())


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale, the model that answers (without its weights) and the prompts; read no data."""
    paper = scale.name == "paper"
    pets = [name.strip() for name in PETS.split(",")]
    shape, classes = ((3, 224, 224), len(pets)) if paper else ((1, 12, 12), 62)
    described: dict[str, Any] = {}
    with torch.device("meta" if paper else "cpu"):
        for name, specification in scale.settings["students"].items():
            model = build_model(specification, num_classes=classes, input_shape=shape)
            described[name] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    if paper:
        model = answering_model()
        described["answers by"] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
        described["data"] = f"folders of images: {', '.join(scale.settings['data'])}"
        prompts = build_question_prompts(pets, num_images=3680, **scale.settings["questions"])
        described["questions for oxfordpets"], described["choice of questions"] = prompts
    return described


PETS = """
Abyssinian, American Bulldog, American Pit Bull Terrier, Basset Hound, Beagle, Bengal, Birman, Bombay, Boxer,
British Shorthair, Chihuahua, Egyptian Mau, English Cocker Spaniel, English Setter, German Shorthaired, Great Pyrenees,
Havanese, Japanese Chin, Keeshond, Leonberger, Maine Coon, Miniature Pinscher, Newfoundland, Persian, Pomeranian, Pug,
Ragdoll, Russian Blue, Saint Bernard, Samoyed, Scottish Terrier, Shiba Inu, Siamese, Sphynx, Staffordshire Bull Terrier,
Wheaten Terrier, Yorkshire Terrier
"""


def answering_model() -> nn.Module:
    """InternVL2.5 8B as `transformers` builds it, with weights that take no memory and hold nothing."""
    from transformers import AutoModelForImageTextToText, InternVLConfig, LlamaConfig

    language = LlamaConfig(
        vocab_size=92_553,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    models: Any = AutoModelForImageTextToText
    config = InternVLConfig(text_config=language, image_token_id=92_546, tie_word_embeddings=False)
    with torch.device("meta"):
        model: nn.Module = models.from_config(config)
    return model


# ---- Claims ----------------------------------------------------------------------------------------------------------

POINTS = 0.003  # the 0.3 points of accuracy that count as equal
NOT_MEASURED = Judgement(float("nan"), False, detail="not measured: it needs known attributes")


def beats_cross_entropy(results: Results) -> Judgement:
    """Claim 1: of all students, the smallest difference and the largest p."""
    every = [(name, name.removesuffix("MaKD") + "CE") for name in results.arms if name.endswith("MaKD")]
    pairs = [pair for pair in every if " a class" not in pair[0]]
    tests = [results.paired(ours, theirs, "test_accuracy") for ours, theirs in pairs]
    value, p_value = min(test.difference for test in tests), max(test.p_value for test in tests)
    shown = [f"{ours} {_shown(results, ours)} against {_shown(results, theirs)}" for ours, theirs in every]
    shown += [f"{name} {_shown(results, name)}" for name in ("CE smoothed", "class codes")]
    return Judgement(value, value > 0 and p_value < 0.1, p_value, "; ".join(shown))


def beats_random_answers(results: Results) -> Judgement:
    """Claim 2."""
    test = results.paired("MaKD", "random answers", "test_accuracy")
    detail = f"{_shown(results, 'MaKD')} against {_shown(results, 'random answers')}"
    detail += f", 90 % interval [{test.ci_low:.4f}, {test.ci_high:.4f}]"
    return Judgement(test.difference, test.difference >= 0, test.p_value, detail)


def more_questions_help(results: Results) -> Judgement:
    """Claim 3."""
    names = ("CE", "MaKD, 5 questions", "MaKD, 15 questions", "MaKD")
    means = [results.mean(name, "test_accuracy") for name in names]
    correlation = float(spearmanr(range(4), means).statistic) if len(set(means)) > 1 else 0.0
    holds = correlation > 0 and means[3] >= means[1] - POINTS
    return Judgement(correlation, holds, detail=", ".join(f"{name} {_shown(results, name)}" for name in names))


def answers_are_learnt(results: Results) -> Judgement:
    """Claim 4."""
    if "aspect_auroc" not in results.arms["MaKD"]:
        return NOT_MEASURED
    value = results.mean("MaKD", "aspect_auroc")
    learnt = [name for name, metrics in results.arms.items() if "aspect_auroc" in metrics]
    detail = ", ".join(f"{name} {results.mean(name, 'aspect_auroc'):.3f}" for name in learnt)
    return Judgement(value, value >= 0.8, detail=detail)


def quality_matters(results: Results) -> Judgement:
    """Claim 5."""
    if "MaKD, clean" not in results.arms:
        return NOT_MEASURED
    value = results.difference("MaKD, clean", "MaKD", "test_accuracy")
    curve = ["MaKD, clean", "MaKD", *(name for name in results.arms if name.endswith("flipped"))]
    detail = ", ".join(f"{name} {_shown(results, name)}" for name in curve)
    return Judgement(value, value >= -POINTS, detail=detail)


def half_wrong_is_random(results: Results) -> Judgement:
    """Claim 6."""
    half = "MaKD, 50% flipped"
    if half not in results.arms:
        return NOT_MEASURED
    test = results.paired(half, "random answers", "test_accuracy", alternative="two-sided")
    detail = f"{_shown(results, half)} against {_shown(results, 'random answers')}"
    return Judgement(test.difference, test.p_value >= 0.1, test.p_value, detail)


def _shown(results: Results, arm: str) -> str:
    return f"{100 * results.mean(arm, 'test_accuracy'):.1f} %"


CLAIMS = (
    Claim(
        "beats-cross-entropy",
        "MaKD beats cross-entropy, for both students",
        "mean difference of test accuracy > 0, one-sided paired t-test p < 0.1, for each student",
        beats_cross_entropy,
        published="ResNet18: StanfordCars +5.85 points, OxfordPets +5.17, Mini-ImageNet +0.86",
    ),
    Claim(
        "beats-random-answers",
        "answers help more than random numbers",
        "mean difference of test accuracy to random answers at least 0",
        beats_random_answers,
        published="random targets give some gain, answers more (ablation)",
    ),
    Claim(
        "more-questions-help",
        "more questions help",
        "Spearman correlation of mean test accuracy with 0, 5, 15, all questions > 0, and all at least 5 minus 0.003",
        more_questions_help,
    ),
    Claim(
        "answers-are-learnt",
        "the student learns the answers",
        "mean over questions of the AUROC of its answers on the test part at least 0.80",
        answers_are_learnt,
    ),
    Claim(
        "quality-matters",
        "the quality of answers matters: clean ones are at least as good",
        "mean test accuracy with clean answers at least that with noisy ones minus 0.003",
        quality_matters,
    ),
    Claim(
        "half-wrong-is-random",
        "with half of the answers wrong the gain is that of random numbers",
        "two-sided paired t-test of test accuracy against random answers, p at least 0.1",
        half_wrong_is_random,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def _load(context: Context, name: str, seed: int) -> Data:
    """Glyphs of a seed; a folder of images is the same for all."""
    options = dict(context["data"][name])
    source = options.pop("source", name)
    if source == "glyphs":
        options["seed"] = seed
    return _loaded(source, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=2)
def _loaded(name: str, options: tuple[tuple[str, Any], ...]) -> Data:
    """`load_data`, which a worker that runs one arm after the other need not repeat; nobody writes into the data."""
    return load_data(name, **dict(options))


def _answers_file(context: Context, data: str) -> Path:
    return context.folder / f"{Path(data).name}.json"


def _larger_network(context: Context, data: Data, seed: int) -> FrozenTeacher:
    """A larger network that learned the labels of the same training part."""
    model = _build(context["teacher"], data, None)
    _train(model, None, data.train, [CrossEntropy()], context["training"], seed=seed)
    return FrozenTeacher(model.cpu())


def _build(specification: Mapping[str, Any], data: Data, side: int | None) -> nn.Module:
    inputs = data.train.batch(torch.arange(1)).inputs
    assert isinstance(inputs, Tensor)
    shape = tuple(inputs.shape[1:]) if side is None else (inputs.shape[1], side, side)
    return build_model(specification, num_classes=data.num_classes, input_shape=shape)


def _train(
    model: nn.Module,
    teacher: RecordedTeacher | None,
    samples: Samples,
    objectives: Objectives,
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> None:
    chosen = TrainingSettings(seed=seed, **settings)
    Trainer(Distillation(teacher, model, objectives), samples, settings=chosen).run()


@torch.no_grad()
def _ask(student: nn.Module, samples: Samples, side: int | None) -> tuple[Tensor, Tensor]:
    """Logits `[samples, classes]` and embeddings `[samples, width]`, on the CPU."""
    observed = ObservedModel(student.eval(), embedding=True)
    device = next(student.parameters()).device
    logits, embeddings = [], []
    for rows in torch.split(torch.arange(len(samples)), 256):
        images = samples.batch(rows).inputs
        assert isinstance(images, Tensor)
        if side is not None:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        outputs = observed(images.to(device))
        assert outputs.logits is not None
        assert outputs.embedding is not None
        logits.append(outputs.logits.cpu())
        embeddings.append(outputs.embedding.cpu())
    return torch.cat(logits), torch.cat(embeddings)


def _accuracy(logits: Tensor, samples: Samples) -> float:
    return (logits.argmax(dim=1) == targets_of(samples)).double().mean().item()


recipe = Recipe(
    slug="multi-aspect",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"no-answers": without_answers, "others-answers": with_others_answers},
    describe=describe,
)
