"""ACAM-KD: is it better to decide anew at every step, with the student's help, what a student should imitate?

Source: Lan and Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation", ICCV 2025,
arXiv 2503.06307.

The question. What a student imitates is weighed by masks over channels and positions, made at every step from both
maps by cross-attention, and kept apart by a diversity term. Does that beat labels alone (claim 1), the same maps
without masks and masks of the teacher alone (claim 2), do masks follow the student (claim 3), and does diversity keep
them apart and alive (claim 4)?

The comparison. Scenes of 32 × 32 pixels with two to four handwritten digits, a class a pixel. A convolutional pyramid
of 242 thousand parameters teaches one of 5 thousand with separable convolutions, through the map of class scores at a
quarter of the size. Every arm has the same scenes, first weights, order of batches and budget. Every kind of loss has
two candidates for its weight, and the one with the better mean validation mIoU is judged on the test part. At full
scale a small SegFormer teaches a smaller one, and a one-stage detector another one through its pyramid's map.

How the size was chosen. Pilots on one or two seeds, test scores included: noisier scenes, on which nobody learned in
this budget; SGD as in the paper (rates 0.05 and 0.2), with which every arm stayed below 0.11 mIoU and masks went the
same way, so AdamW was taken for all; and the weights. At weight 1 ACAM-KD and the plain squared error of raw scores
both cost the student more than half of its mIoU, at 0.01 and 0.03 they do not.

What holds and what does not (recorded at quick and full). ACAM-KD is ahead of labels alone (claim 1), and in the mean
behind everything else that distils, the plain squared error of the same scores included (claim 2); channel-wise
distillation is far ahead of both. The likely reason is in its masks. Raw scores make large fused maps, units of N(0, 1)
turn these into masks of 0 or 1 within an epoch, and then the two weaknesses of the loss take over: smaller masks cost
less, and one mask that is on everywhere while the others are off has no overlap. Masks end as switches without any
region, on some seeds all off over positions (claim 4, and the largest mean mask in the results); the diversity term
does not change that. Masks that stay as they were drawn do better than those that learn, and with every mask held at
1/2 (the breakage `half-masks`), when only the squared error is left, the student is better than with ACAM-KD: here the
masks cost what they should gain. The scale-invariant errors keep masks from vanishing, and do worst; a mask can still
lower them by gathering where the error is small. That masks move after the first epoch (claim 3) is true, but adaptive
masks of the teacher alone move more, so it says little about the student. The SegFormer and the detector show the same:
hardly more than labels alone in the one, within the noise in the other. None of this speaks about training that is a
hundred times longer.

Departures from the paper: data, networks, optimiser and budget, at every scale but `paper`; α = λ = 1 there, while here
the total has a weight. A detector's head is not inherited, since widths differ. At `paper` a SegFormer-B2 teaches
DeepLabV3+ on MobileNetV2, since `transformers` has no DeepLabV3 on ResNet-101.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.assessment import confusion_matrix, detection_average_precision, iou_from_confusion
from tutelage.batch import Batch
from tutelage.data import Data, Samples, load_data
from tutelage.features import AdaptiveMaskDistillation, ObservedModel, mask_diversity_loss
from tutelage.features.feature_objective import _TappedObjective
from tutelage.models import build_model, decode_centres, load_model, parameter_count, save_model
from tutelage.objectives import forward_kl
from tutelage.one_call import make_objectives
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import CachedTeacher, FrozenTeacher, Teacher, build_cache
from tutelage.training import Distillation, Monitor, Trainer, TrainingSettings

# ---- Scales ----------------------------------------------------------------------------------------------------------

SCENES = {"size": 32, "count": (2, 4), "scale": (1.4, 1.9), "noise": 0.05, "clutter": 0.15}
ADAM = {"optimizer": "adamw", "scheduler": "linear", "weight_decay": 0.01, "batch_size": 20}


def network(name: str, *widths: int, separable: bool = False) -> dict[str, Any]:
    """A small pyramid; its coarse map has a quarter of the picture's height and width."""
    return {"name": name, "arguments": {"widths": widths, "separable": separable}}


SEGMENTATION: dict[str, Any] = {
    "kind": "segmentation",
    "data": {"name": "digit_scenes", **SCENES, "train": 400, "validation": 100, "test": 200},
    "num_classes": 11,
    "teacher": network("segmenter", 32, 64, 96),
    "student": network("segmenter", 8, 32, separable=True),
    "tap": "score",
    "num_masks": 11,
    # By kind of loss, since they differ in size; each kind has as many.
    "weights": {"KD": (0.3, 1.0), "MSE": (0.01, 0.03), "CWD": (0.3, 1.0), "masks": (0.01, 0.03)},
    "teacher_training": {**ADAM, "learning_rate": 3e-3, "epochs": 20},
    "student_training": {**ADAM, "learning_rate": 1e-2, "epochs": 12},
}
DETECTION: dict[str, Any] = {
    **SEGMENTATION,
    "kind": "detection",
    "num_classes": 10,
    "teacher": network("centre_detector", 32, 64, 96),
    "student": network("centre_detector", 8, 32, separable=True),
    "tap": "fuse",
    "num_masks": 6,
    "weights": {"MSE": (0.1,), "masks": (0.03,)},
    "mechanism": False,
}


def segformer(widths: tuple[int, int], mlp_ratio: int) -> dict[str, Any]:
    """A SegFormer of two stages for small pictures; its weights start larger than at the usual 0.02."""
    arguments = {
        "num_encoder_blocks": 2,
        "hidden_sizes": widths,
        "depths": (1, 1),
        "num_attention_heads": (2, 4),
        "sr_ratios": (2, 1),
        "patch_sizes": (7, 3),
        "strides": (4, 2),
        "mlp_ratios": (mlp_ratio, mlp_ratio),
        "decoder_hidden_size": widths[1],
        "initializer_range": 0.1,
        **dict.fromkeys(("classifier_dropout_prob", "drop_path_rate", "hidden_dropout_prob"), 0.0),
    }
    return {"name": "transformers_segmenter", "arguments": arguments}


SEGFORMER: dict[str, Any] = {
    **SEGMENTATION,
    "teacher": segformer((32, 64), 4),
    "student": segformer((16, 32), 2),
    "tap": "network.decode_head.classifier",
    "weights": {"MSE": (0.03,), "masks": (0.03,)},
    "mechanism": False,
    "teacher_training": {**ADAM, "learning_rate": 5e-3, "epochs": 30},
    "student_training": {**ADAM, "learning_rate": 8e-3, "epochs": 14},
}
SGD = {"optimizer": "sgd", "scheduler": "linear", "weight_decay": 5e-4, "batch_size": 16, "num_workers": 8}
SEGFORMER_B2 = {"hidden_sizes": (64, 128, 320, 512), "depths": (3, 4, 6, 3), "decoder_hidden_size": 768}
MOBILENET = {"class_name": "MobileNetV2ForSemanticSegmentation", "output_stride": 16}
FEW = {"KD": (1.0,), "MSE": (0.03,), "CWD": (1.0,), "masks": (0.03,)}
TINY: dict[str, Any] = {
    "data": {**SEGMENTATION["data"], "train": 40, "validation": 20, "test": 20},
    "teacher_training": {**ADAM, "learning_rate": 1e-2, "epochs": 3},
    "student_training": {**ADAM, "learning_rate": 1e-2, "epochs": 2},
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            "segmentation": {
                **SEGMENTATION,
                **TINY,
                "teacher": network("segmenter", 8, 16),
                "student": network("segmenter", 4, 8, separable=True),
                "weights": FEW,
            },
            "detection": {
                **DETECTION,
                **TINY,
                "teacher": network("centre_detector", 8, 16),
                "student": network("centre_detector", 4, 8, separable=True),
            },
        },
    ),
    "quick": Scale("quick", seeds=3, settings={"segmentation": SEGMENTATION}),
    "full": Scale(
        "full",
        seeds=5,
        settings={
            "segmentation": {**SEGMENTATION, "ablations": True},
            "segformer": SEGFORMER,
            "detection": DETECTION,
        },
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            # Crops, batch, optimiser and schedule of the paper's Cityscapes runs, and one of its two students.
            "segmentation": {
                "kind": "segmentation",
                "data": {"name": "tutelage.data.cityscapes:cityscapes", "crop": (512, 1024)},
                "input_shape": (3, 512, 1024),
                "num_classes": 19,
                "teacher": {"name": "transformers_segmenter", "arguments": SEGFORMER_B2},
                "student": {"name": "transformers_segmenter", "arguments": MOBILENET},
                "tap": "network.segmentation_head.classifier",
                "teacher_tap": "network.decode_head.classifier",
                "taps": {"resize": "bilinear"},
                "num_masks": 19,
                "weights": {"KD": (1.0,), "MSE": (1.0,), "CWD": (3.0,), "masks": (1.0,)},
                "ablations": True,
                "live": True,
                "score_batch": 1,
                "teacher_training": {**SGD, "learning_rate": 0.02, "max_steps": 80_000},
                "student_training": {**SGD, "learning_rate": 0.02, "max_steps": 40_000},
            }
        },
        needs=Needs(gpus=1),
    ),
}

LABELS = {"segmentation": "cross_entropy", "detection": "centre_detection"}
METRICS = {"segmentation": "mean_iou", "detection": "average_precision"}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------


def arms(scale: Scale) -> list[Arm]:
    """Labels alone; every kind of distillation with each of its weights; what only shows how the masks work."""
    return [arm for task in scale.settings for arm in _arms(task, scale.settings[task])]


def _arms(task: str, settings: Mapping[str, Any]) -> list[Arm]:
    """The arms of a task; those of the second and third have its name in front."""
    prefix = "" if task == "segmentation" else f"{task}: "
    labels = LABELS[settings["kind"]]
    taps = {"student_taps": settings["tap"], "teacher_taps": settings.get("teacher_tap", settings["tap"])}
    taps |= settings.get("taps", {})
    weights = settings["weights"]
    found = [Arm(f"{prefix}labels", {"task": task, "objectives": [labels]}, f"{prefix}labels", "labels alone")]

    def add(group: str, description: str, name: str, candidates: tuple[float, ...], **arguments: Any) -> None:
        for weight in candidates:
            term = {"name": name, "weight": weight, "arguments": {**taps, **arguments}}
            found.append(
                Arm(
                    f"{prefix}{group} {weight:g}",
                    {"task": task, "objectives": [labels, term]},
                    f"{prefix}{group}",
                    description,
                )
            )

    # ACAM-KD with α = λ = 1; the weight is that of its total.
    mask = functools.partial(add, name="acam_kd", num_masks=settings["num_masks"])
    if "KD" in weights:
        add("KD", "soft labels of every cell", "tutelage.recipes.acam_kd:_CellDistillation", weights["KD"])
    add("MSE", "the map without masks", "fitnet", weights["MSE"])
    if "CWD" in weights:
        add("CWD", "where each channel is active", "cwd", weights["CWD"])
    mask("ACAM-KD", "masks of teacher and student", candidates=weights["masks"])
    if not settings.get("mechanism", True):
        return found
    last = weights["masks"][-1:]
    alone = {"mask_source": "teacher"}
    mask("teacher's masks", "masks that learn, of the teacher alone", candidates=weights["masks"], **alone)
    mask("fixed masks", "of the teacher alone, as they were drawn", candidates=last, **alone, learn_masks=False)
    mask("no diversity", "ACAM-KD with λ = 0", candidates=last, diversity_weight=0.0)
    if settings.get("ablations"):
        mask("spatial", "ACAM-KD with spatial masks alone", candidates=last, use_channel=False)
        mask("channel", "ACAM-KD with channel masks alone", candidates=last, use_spatial=False)
        squares = {"mask_normalization": "sum_of_squares"}
        mask("squares", "ACAM-KD with errors that masks do not shrink", candidates=last, **squares)
    return found


class _CellDistillation(_TappedObjective):
    """KL(teacher ‖ student) of the class probabilities of every cell of the score map, at T = 1."""

    def loss(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        losses = [
            forward_kl(student.movedim(1, -1), teacher.movedim(1, -1)).mean()
            for student, teacher in self.aligned(student_features, teacher_features, maps=True)
        ]
        return torch.stack(losses).sum()


def without_masks(arm: Arm) -> Arm:
    """ACAM-KD whose units stay at 0, so that every mask is 1/2 everywhere."""
    return _changed(arm, "tutelage.recipes.acam_kd:_HalfMasks")


def _changed(arm: Arm, name: str) -> Arm:
    objectives = [
        {**objective, "name": name} if isinstance(objective, dict) and objective["name"] == "acam_kd" else objective
        for objective in arm.settings["objectives"]
    ]
    return replace(arm, settings={**arm.settings, "objectives": objectives})


class _HalfMasks(AdaptiveMaskDistillation):
    """ACAM-KD with masks that say nothing."""

    def make_modules(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> None:
        super().make_modules(student_features, teacher_features)
        assert self.acam is not None
        for units in self.acam.masks.parameters():
            nn.init.zeros_(units).requires_grad_(False)


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Train a teacher for each task, and keep its maps of the training scenes."""
    facts: dict[str, float] = {}
    for task, settings in context.scale.settings.items():
        data = _load(settings)
        model = _build(settings, "teacher", data)
        training = TrainingSettings(seed=0, **settings["teacher_training"])
        labels = make_objectives(LABELS[settings["kind"]])
        Trainer(Distillation(None, model, labels), data.train, settings=training).run()
        model.cpu()
        save_model(context.folder / task / "teacher", model)
        if not settings.get("live"):
            tap = settings["tap"]
            teacher = FrozenTeacher(model, taps={tap: tap})
            build_cache(
                teacher, data.train, context.folder / task / "train", signals=(f"features.{tap}",), dtype="float32"
            )
        facts[f"{task}_teacher_{METRICS[settings['kind']]}"] = _score(model, data.test, settings)
    return facts


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student; ask it about the validation and test scenes, and look at its masks."""
    settings, folder = context[arm.settings["task"]], context.folder / arm.settings["task"]
    data = _load(settings)
    student = _build(settings, "student", data)
    teacher: Teacher | nn.Module = (
        load_model(folder / "teacher") if settings.get("live") else CachedTeacher(folder / "train")
    )
    method = Distillation(teacher, student, make_objectives(arm.settings["objectives"]))
    watch = _MaskWatch(method, data.train.batch(torch.arange(min(32, len(data.train)))))
    training = TrainingSettings(seed=seed, **settings["student_training"])
    Trainer(method, data.train, settings=training, monitors=[watch]).run()
    student.cpu()
    metric = METRICS[settings["kind"]]
    return {
        f"validation_{metric}": _score(student, data.validation, settings),
        f"test_{metric}": _score(student, data.test, settings),
        **watch.figures(),
    }


class _MaskWatch(Monitor):
    """Spatial masks of some fixed scenes after the first and the last epoch, and the means of all masks by epoch."""

    def __init__(self, method: Distillation, scenes: Batch) -> None:
        self._method = method
        self._scenes = scenes
        self._objective = next(
            (term.objective for term in method.terms.values() if isinstance(term.objective, AdaptiveMaskDistillation)),
            None,
        )
        self._masks: list[Tensor] = []
        self._means: dict[str, list[float]] = {"channel_mask": [], "spatial_mask": []}

    def on_record(self, record: dict[str, Any]) -> None:
        """Look at the masks."""
        if self._objective is None:
            return
        for name, means in self._means.items():
            means += [value for entry, value in record.items() if entry.endswith(f"/{name}")]
        self._masks = [*self._masks[:1], self._spatial_masks()]

    @torch.no_grad()
    def _spatial_masks(self) -> Tensor:
        student, teacher = self._method.student, self._method.teacher
        assert self._objective is not None
        assert self._objective.acam is not None
        assert teacher is not None
        scenes = self._scenes.to(next(student.parameters()).device)
        student.eval()
        said = ObservedModel(student, taps=self._objective.taps["student"])(scenes.inputs)
        student.train()
        parts = self._objective.read(said, teacher(scenes), scenes)
        students, teachers = zip(*self._objective.aligned(*parts, maps=True), strict=True)
        masks: Tensor = self._objective.acam(students, teachers)["spatial_masks"][0]
        return masks

    def figures(self) -> Metrics:
        """How alike first and last masks are, how the last overlap, the mean of the largest, and all means by epoch."""
        if not self._masks:
            return {}
        found: Metrics = {}
        if self._means["spatial_mask"]:
            last = self._masks[-1].double()
            found["mask_similarity"] = _similarity(self._masks[0].double(), last)
            found["mask_dice"] = mask_diversity_loss(last, dice="pairwise_mean").item()
            found["largest_mask"] = last.mean(dim=2).amax(dim=1).mean().item()
        for name, means in self._means.items():
            if means:
                found[f"{name}s"] = means
                found[f"smallest_{name}"] = min(means)
        return found


def _similarity(masks: Tensor, others: Tensor) -> float:
    """Mean cosine similarity of masks with others, however small they are; two that are 0 everywhere are alike."""
    first, second = (given / given.amax(dim=2, keepdim=True).clamp_min(1e-300) for given in (masks, others))
    both_zero = (masks.amax(dim=2) == 0) & (others.amax(dim=2) == 0)
    return torch.where(both_zero, 1, torch.cosine_similarity(first, second, dim=2)).mean().item()


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters, without reading the data."""
    described: dict[str, Any] = {}
    for task, settings in scale.settings.items():
        shape = settings.get("input_shape", (1, 32, 32))
        for role in ("teacher", "student"):
            model = build_model(settings[role], num_classes=settings["num_classes"], input_shape=shape)
            described[f"{task}, {role}"] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
        described[f"{task}, data"] = settings["data"]["name"]
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


def beats_labels(results: Results) -> Judgement:
    """Claim 1."""
    ours = results.select("ACAM-KD", "validation_mean_iou")
    test = results.paired(ours, "labels", "test_mean_iou")
    shown = []
    for group in ("labels", "KD", "MSE", "CWD", "teacher's masks", "ACAM-KD"):
        arm = results.select(group, "validation_mean_iou")
        shown.append(f"{arm} {results.mean(arm, 'test_mean_iou'):.4f}")
    detail = f"90 % interval [{test.ci_low:.4f}, {test.ci_high:.4f}]; {', '.join(shown)}"
    return Judgement(test.difference, test.difference > 0 and test.p_value < 0.1, test.p_value, detail)


def at_least_as_good(results: Results) -> Judgement:
    """Claim 2."""
    ours = results.select("ACAM-KD", "validation_mean_iou")
    differences, shown = [], []
    for group in ("MSE", "teacher's masks"):
        other = results.select(group, "validation_mean_iou")
        test = results.paired(ours, other, "test_mean_iou")
        differences.append(test.difference)
        shown.append(f"{ours} − {other}: {test.difference:+.4f} [{test.ci_low:.4f}, {test.ci_high:.4f}]")
    return Judgement(min(differences), min(differences) >= -0.002, detail="; ".join(shown))


def masks_evolve(results: Results) -> Judgement:
    """Claim 3."""
    groups = ("ACAM-KD", "fixed masks", "teacher's masks")
    ours, fixed, adaptive = (results.mean(_last(results, group), "mask_similarity") for group in groups)
    detail = f"ACAM-KD {ours:.4f}, fixed masks {fixed:.6f}, the teacher's adaptive masks {adaptive:.4f}"
    return Judgement(ours, abs(fixed - 1) < 1e-6 and ours < fixed and ours < 0.99, detail=detail)


def diversity_works(results: Results) -> Judgement:
    """Claim 4."""
    ours, other = _last(results, "ACAM-KD"), _last(results, "no diversity")
    test = results.paired(other, ours, "mask_dice")
    smallest = min(results.values(ours, f"smallest_{name}_mask").min() for name in ("channel", "spatial"))
    detail = (
        f"Dice of spatial masks {results.mean(ours, 'mask_dice'):.4f} with diversity and "
        f"{results.mean(other, 'mask_dice'):.4f} without; smallest mean mask of an epoch and seed {smallest:.4f}"
    )
    holds = test.difference > 0 and test.p_value < 0.1 and smallest > 0.05
    return Judgement(test.difference, bool(holds), test.p_value, detail)


CLAIMS = (
    Claim(
        "beats-labels",
        "ACAM-KD segments better than labels alone",
        "mean difference of test mIoU > 0, one-sided paired t-test p < 0.1",
        beats_labels,
        published="Cityscapes, DeepLabV3-R18: 72.96 to 77.53",
    ),
    Claim(
        "at-least-as-good",
        "ACAM-KD is at least on a par with scores without masks and with adaptive masks of the teacher alone",
        "both mean differences of test mIoU at least -0.002",
        at_least_as_good,
        published="COCO, RetinaNet: cooperative 41.2, the teacher's adaptive mask 39.9",
    ),
    Claim(
        "masks-evolve",
        "masks follow the student",
        "at the larger weight, the mean cosine similarity of the spatial masks of 32 scenes after the first and the "
        "last epoch is below that of fixed masks, which is 1, and below 0.99",
        masks_evolve,
    ),
    Claim(
        "diversity-works",
        "the diversity term keeps masks apart, and they do not vanish",
        "at the larger weight, the mean pairwise Dice of the last spatial masks is lower with λ = 1 than with λ = 0, "
        "one-sided paired t-test p < 0.1, and the mean mask of every epoch and seed is above 0.05",
        diversity_works,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def _last(results: Results, group: str) -> str:
    """The arm of a group with the largest weight."""
    return results.groups[group][-1]


def _load(settings: Mapping[str, Any]) -> Data:
    options = dict(settings["data"])
    return _load_once(options.pop("name"), tuple(sorted(options.items())))


@functools.lru_cache(maxsize=1)
def _load_once(name: str, options: tuple[tuple[str, Any], ...]) -> Data:
    """`load_data`, which a worker that runs one arm after the other need not repeat; nobody writes into the data."""
    return load_data(name, **dict(options))


def _build(settings: Mapping[str, Any], role: str, data: Data) -> nn.Module:
    inputs = data.train.batch(torch.arange(1)).inputs
    assert isinstance(inputs, Tensor)
    shape = tuple(inputs.shape[1:])
    return build_model(settings[role], num_classes=settings["num_classes"], input_shape=shape)


@torch.no_grad()
def _score(model: nn.Module, samples: Samples, settings: Mapping[str, Any]) -> float:
    """Mean IoU of all pixels together, or mean average precision at an overlap of one half."""
    observed, classes = ObservedModel(model.eval()), settings["num_classes"]
    confusion, found = torch.zeros(classes, classes, dtype=torch.int64), []
    for rows in torch.split(torch.arange(len(samples)), settings.get("score_batch", 50)):
        batch = samples.batch(rows)
        logits = observed(batch.inputs).logits
        assert logits is not None
        assert batch.target is not None
        if settings["kind"] == "segmentation":
            confusion += confusion_matrix(logits.argmax(dim=-1), batch.target, classes, ignore_index=-100)
        else:
            found.append((*decode_centres(logits), batch.extras["boxes"], batch.extras["box_labels"]))
    if settings["kind"] == "segmentation":
        return float(iou_from_confusion(confusion).nanmean())
    boxes, scores, labels, true_boxes, true_labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return detection_average_precision(boxes, scores, labels, true_boxes, true_labels, classes)


recipe = Recipe(
    slug="acam-kd",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"half-masks": without_masks},
    describe=describe,
)
