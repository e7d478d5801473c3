"""Correctness-aware calibration: does a loss on correctness, read off transformed copies, calibrate better?

Source: "Optimizing Calibration by Gaining Aware of Prediction Correctness", arXiv 2404.13016.

The question. A classifier that is too sure gets a temperature a sample, from what it says about transformed copies of
the image; the loss is the Brier score of "my prediction is right". Does that calibrate better than one temperature,
also on shifted data (claim 1)? Do the copies know something about correctness (claim 2)? Is the loss what humbles
narrow mistakes (claim 3)? Does it do no harm (claim 4)?

The comparison. Small convolutional networks without batch normalisation learn 600 rendered digits by heart: right in
about 91 % of unseen ones, sure of 96 %. 5 000 further images calibrate, 1 500 test, and as many are turned by 20 to 35
degrees, noisy, blurred, or in unseen fonts. All networks of temperatures have the same features, initial weights,
batches and steps, whatever their loss; a temperature for all samples is fitted to convergence. How strong the copies
are is chosen among three strengths on the calibration part, by the likelihood that cross-entropy reaches there, so that
the choice favours the baseline.

How the size was chosen. With 600 to 800 images to calibrate on, the networks of temperatures over-fitted with every
loss and told right from wrong worse than one temperature does; 5 000 (the paper has 50 000) were taken for all arms
after that was seen. `full` shows what smaller sets do: with 2 000 images the AUROC is still below that of one
temperature.

What does not hold, and why. Out of distribution the calibration error falls by a third, but one temperature does
better (claim 1, second half). The loss is bounded where likelihood is not: it forgives a few sure mistakes, so what is
fitted to it is less cautious and closer to the accuracy in distribution, which is too high for shifted data. The arm
"TS by CA", one temperature fitted to this loss, shows the same without any network, and the network of cross-entropy,
which reads the same copies, is level with one temperature. Weighing right and wrong alike is cautious enough for turned
images only, and wrong everywhere else.

What holds, and how much of it is the loss. The copies tell right from wrong (claim 2), and shuffled they do not; but
with cross-entropy or the Brier score they do so just as well. What the loss itself does is claim 3: narrow mistakes get
a confidence about one point lower than with cross-entropy, with medium and strong copies; with weak ones none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.assessment import (
    classwise_calibration_error,
    confidence_auroc,
    expected_calibration_error,
    kolmogorov_smirnov_calibration_error,
    maximum_calibration_error,
    narrow_misclassification_mask,
    top_label_brier_score,
)
from tutelage.data import ArraySamples, Blur, ColorJitter, Greyscale, Rotation, Samples, corrupt, load_data, subset
from tutelage.data.imagenet import imagenet_images
from tutelage.files import read_json, read_tensors, write_json, write_tensors
from tutelage.models import build_model, call_model, parameter_count
from tutelage.objectives import (
    CrossEntropy,
    SampleTemperatureCalibrator,
    TemperatureScaling,
    fit_calibrator,
    transformation_consistency_features,
)
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.training import Distillation, Trainer, TrainingSettings

# ---- Scales ----------------------------------------------------------------------------------------------------------

SHARED: dict[str, Any] = {
    # Without batch normalisation and trained for long, the network is far too sure of itself.
    "classifier": {"name": "convnet", "arguments": {"channels": (16, 32, 32), "normalization": None}},
    "training": {
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
        "scheduler": "constant",
        "batch_size": 64,
        "epochs": 150,
    },
    "glyphs": {
        "alphabet": "digits",
        "fonts": "dejavu_sans",
        "train_per_class": 60,
        "validation_per_class": 500,  # the calibration set
        "test_per_class": 150,
    },
    "unseen_fonts": "dejavu_serif",
    "severity": 2,
    # Degrees (both ways), width of the blur in pixels, and by what share brightness and contrast fall.
    "copies": {"weak": (4.0, 0.4, 0.1), "medium": (8.0, 0.6, 0.2), "strong": (12.0, 0.8, 0.3)},
    "fit": {"steps": 600, "lr": 1e-2, "batch_size": 1000},
    "num_bins": 25,
    "sweep": False,
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **SHARED,
            "training": {**SHARED["training"], "epochs": 10},
            "glyphs": {**SHARED["glyphs"], "validation_per_class": 20, "test_per_class": 20},
            "fit": {"steps": 10, "lr": 1e-2, "batch_size": 1000},
        },
    ),
    "quick": Scale("quick", seeds=5, settings=SHARED),
    "full": Scale("full", seeds=10, settings={**SHARED, "sweep": True}),
    "paper": Scale(
        "paper",
        seeds=5,  # of halves of ImageNet's validation images: one calibrates, the other is tested
        settings={
            **SHARED,
            "classifier": {"name": "microsoft/resnet-152"},
            "copies": {"default": None},
            "fit": {"steps": 500, "lr": 1e-4, "batch_size": 1000},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("ILSVRC/imagenet-1k", "songweig/imagenet_sketch")),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

CA = "CA"
ARMS = [
    Arm("uncalibrated"),
    Arm("TS", {"one": "nll"}, description="one temperature, by likelihood"),
    Arm("TS by CA", {"one": "correctness_aware"}, description="one temperature, by the correctness-aware loss"),
    Arm("isotonic", {"isotonic": True}, description="isotonic regression on the largest probability"),
    Arm("CE", {"loss": "cross_entropy"}, description="a temperature a sample, by cross-entropy"),
    Arm("MSE", {"loss": "brier"}, description="a temperature a sample, by the Brier score over all classes"),
    Arm(CA, {"loss": "correctness_aware"}, description="a temperature a sample, by the correctness-aware loss"),
    Arm("CA balanced", {"loss": "correctness_aware_balanced"}, description="right and wrong samples weigh the same"),
    Arm("CA shuffled", {"loss": "correctness_aware", "shuffled": True}, description="the features of other samples"),
]
SWEEP = [
    *(
        Arm(f"{name}, {strength} copies", {"loss": loss, "copies": strength})
        for strength in SHARED["copies"]
        for name, loss in (("CE", "cross_entropy"), (CA, "correctness_aware"))
    ),
    *(
        Arm(f"{name}, {samples} samples", {**settings, "samples": samples})
        for samples in (600, 2000)
        for name, settings in (("TS", {"one": "nll"}), (CA, {"loss": "correctness_aware"}))
    ),
]


def arms(scale: Scale) -> list[Arm]:
    """The arms of a scale; `full` adds other strengths of the copies and smaller calibration sets."""
    return ARMS + SWEEP if scale.settings["sweep"] else ARMS


def without_correctness(arm: Arm) -> Arm:
    """An arm whose correctness-aware loss is cross-entropy; other arms stay as they are."""
    aware = str(arm.settings.get("loss")).startswith("correctness_aware")
    return replace(arm, settings={**arm.settings, "loss": "cross_entropy"}) if aware else arm


def without_copies(arm: Arm) -> Arm:
    """An arm that reads the features of other samples; arms without features stay as they are."""
    return replace(arm, settings={**arm.settings, "shuffled": True}) if "loss" in arm.settings else arm


# ---- The data: what a classifier says about every part ---------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What a classifier says about one set of samples: logits of the samples and, by strength, of their copies."""

    logits: Tensor  # [samples, classes]
    target: Tensor  # [samples]
    copies: Mapping[str, Tensor]  # each [copies, samples, classes]

    def features(self, strength: str) -> Tensor:
        """The features of the copies of a strength."""
        return transformation_consistency_features(self.logits, self.copies[strength], top_k=4)


def transforms(strength: tuple[float, float, float] | None) -> list[nn.Module]:
    """The transformed copies: of grey images a blur stands in for greyscale; None is the paper's set."""
    if strength is None:
        return [Rotation(15.0), Greyscale(), ColorJitter(0.8, 0.8)]
    degrees, sigma, jitter = strength
    return [Rotation(degrees), Rotation(-degrees), Blur(sigma), ColorJitter(1 - jitter, 1 - jitter)]


def samples_of(context: Context, seed: int) -> Iterator[tuple[str, Samples]]:
    """The calibration part, the test part in distribution (`ind`), and the shifted ones, by name."""
    generator = torch.Generator().manual_seed(seed)
    if context.scale.name == "paper":
        validation = imagenet_images("imagenet")
        order = torch.randperm(len(validation), generator=generator)
        half = len(order) // 2
        yield "calibration", subset(validation, order[:half])
        yield "ind", subset(validation, order[half:])
        yield "sketch", imagenet_images("imagenet_sketch")
        return
    data = load_data("glyphs", **context["glyphs"], seed=seed)
    yield "calibration", data.validation
    yield "ind", data.test
    test = data.test.batch(torch.arange(len(data.test)))
    images = cast(Tensor, test.inputs)
    yield "rotation", ArraySamples(turned(images, 20, 35, generator), test.target)
    for name, kind in (("noise", "gaussian_noise"), ("blur", "blur")):
        shifted = corrupt(images, kind, severity=context["severity"], generator=generator)
        yield name, ArraySamples(shifted, test.target)
    yield "fonts", load_data("glyphs", **context["glyphs"], test_fonts=context["unseen_fonts"], seed=seed).test


def turned(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Every image turned by an angle of its own: low to high degrees, either way."""
    angle = torch.deg2rad(low + (high - low) * torch.rand(len(images), generator=generator))
    angle = torch.where(torch.rand(len(images), generator=generator) < 0.5, angle, -angle)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(len(images))
    theta = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def classifier(context: Context, seed: int) -> nn.Module:
    """A small network that has learned 600 images by heart, or a pretrained one at `paper`."""
    if context.scale.name == "paper":
        return build_model(context["classifier"]).cuda().eval()
    data = load_data("glyphs", **context["glyphs"], seed=seed)
    torch.manual_seed(seed)
    model = build_model(context["classifier"], num_classes=data.num_classes, input_shape=(1, 12, 12))
    settings = TrainingSettings(seed=seed, **context["training"])
    Trainer(Distillation(None, model, CrossEntropy()), data.train, settings=settings).run()
    return model.cpu().eval()


@torch.no_grad()
def answers(context: Context, model: nn.Module, seed: int, strengths: list[str]) -> dict[str, Tensor]:
    """What the classifier says about every part and its copies, as tensors by `part/name`."""
    told: dict[str, Tensor] = {}
    place = next(model.parameters()).device
    for name, samples in samples_of(context, seed):
        said: dict[str, list[Tensor]] = {}
        for rows in torch.split(torch.arange(len(samples)), 250):
            batch = samples.batch(rows).to(place)
            images, target = cast(Tensor, batch.inputs), cast(Tensor, batch.target)
            said.setdefault("target", []).append(target.cpu())
            said.setdefault("logits", []).append(_logits(model, images))
            for strength in strengths:
                copies = [_logits(model, change(images)) for change in transforms(context["copies"][strength])]
                said.setdefault(strength, []).append(torch.stack(copies, dim=1))
        told |= {f"{name}/{key}": torch.cat(values) for key, values in said.items()}
    return told


def parts_of(told: Mapping[str, Tensor]) -> dict[str, Part]:
    """The parts from their tensors."""
    names = list(dict.fromkeys(key.partition("/")[0] for key in told))
    found = {}
    for name in sorted(names, key=("calibration", "ind", "rotation", "noise", "blur", "fonts", "sketch").index):
        own = {key.partition("/")[2]: value for key, value in told.items() if key.startswith(f"{name}/")}
        logits, target = own.pop("logits"), own.pop("target")
        found[name] = Part(logits, target, {key: value.transpose(0, 1) for key, value in own.items()})
    return found


def prepare(context: Context) -> dict[str, float]:
    """Train the classifiers, ask them about everything, and choose how strong the copies are.

    The choice is made with the first classifier, on its calibration part alone, by the likelihood that the network
    trained with cross-entropy (the baseline, not the method) reaches on a third that it was not fitted to.
    """
    strengths = list(context["copies"])
    facts: dict[str, float] = {}
    chosen = strengths[0]
    for seed in range(context.scale.seeds):
        wanted = strengths if seed == 0 or context["sweep"] else [chosen]
        told = answers(context, classifier(context, seed), seed, wanted)
        parts = parts_of(told)
        if seed == 0:
            losses = {strength: held_out_loss(context, parts["calibration"], strength) for strength in strengths}
            chosen = min(losses, key=losses.__getitem__)
            write_json(context.folder / "copies.json", chosen)
            facts = {f"held_out_loss_{strength}": loss for strength, loss in losses.items()}
            facts["chosen_copies"] = float(strengths.index(chosen))
        write_tensors(context.folder / f"{seed}.safetensors", told)
        for name, part in parts.items():
            right = (part.logits.argmax(dim=1) == part.target).double().mean().item()
            facts[f"accuracy_{name}"] = facts.get(f"accuracy_{name}", 0.0) + right / context.scale.seeds
    return facts


def held_out_loss(context: Context, calibration: Part, strength: str) -> float:
    """The negative log-likelihood, on the last third, of a network fitted to the rest with cross-entropy."""
    cut = 2 * len(calibration.target) // 3
    features = calibration.features(strength)
    fitted = sample_network(
        context, "cross_entropy", calibration.logits[:cut], features[:cut], calibration.target[:cut], 0
    )
    with torch.no_grad():
        logits = fitted(calibration.logits[cut:], features[cut:])
    return F.cross_entropy(logits, calibration.target[cut:]).item()


# ---- The experiment --------------------------------------------------------------------------------------------------


def sample_network(
    context: Context, loss: str, logits: Tensor, features: Tensor, target: Tensor, seed: int
) -> SampleTemperatureCalibrator:
    """The paper's network with the same initial weights, batches and steps for every loss."""
    torch.manual_seed(seed)
    calibrator = SampleTemperatureCalibrator(features.shape[1])
    generator = torch.Generator().manual_seed(seed)
    fit_calibrator(calibrator, logits, features, target, loss=loss, **context["fit"], generator=generator)
    return calibrator.eval()


Calibrated = tuple[Tensor, Tensor | None, Tensor | None]
"""Confidence of the classifier's prediction, probabilities of all classes, and temperature, where there are any."""


def fit(context: Context, arm: Arm, calibration: Part, seed: int) -> Callable[[Part], Calibrated]:
    """Fit the arm's calibrator: a function from a part to its calibrated answers."""
    settings = arm.settings
    if samples := settings.get("samples"):
        rows = torch.randperm(len(calibration.target), generator=torch.Generator().manual_seed(seed))[:samples]
        copies = {name: told[:, rows] for name, told in calibration.copies.items()}
        calibration = Part(calibration.logits[rows], calibration.target[rows], copies)
    if settings.get("isotonic"):
        from sklearn.isotonic import IsotonicRegression

        regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        confidence = calibration.logits.softmax(dim=1).amax(dim=1)
        regression.fit(confidence.numpy(), (calibration.logits.argmax(dim=1) == calibration.target).numpy())

        def mapped(part: Part) -> Calibrated:
            found = regression.predict(part.logits.softmax(dim=1).amax(dim=1).numpy())
            return torch.from_numpy(np.asarray(found, dtype=np.float32)), None, None

        return mapped
    if "loss" in settings:
        strength = settings.get("copies") or read_json(context.folder / "copies.json")
        generator = torch.Generator().manual_seed(seed)

        def features(part: Part) -> Tensor:
            own = part.features(strength)
            return own[torch.randperm(len(own), generator=generator)] if settings.get("shuffled") else own

        network = sample_network(
            context, settings["loss"], calibration.logits, features(calibration), calibration.target, seed
        )

        def by_sample(part: Part) -> Calibrated:
            temperature = network.temperature(features(part))
            probs = (part.logits / temperature[:, None]).softmax(dim=1)
            return probs.amax(dim=1), probs, temperature

        return by_sample
    scaling = TemperatureScaling()
    if "one" in settings:
        loss = cast(Literal["nll", "correctness_aware"], settings["one"])
        scaling.fit(calibration.logits, calibration.target, loss)

    def by_one(part: Part) -> Calibrated:
        probs = scaling(part.logits).softmax(dim=1)
        return probs.amax(dim=1), probs, None

    return by_one


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Fit one calibrator on the calibration part, and measure it on every other part."""
    parts = dict(_told(context, seed))
    calibrated = fit(context, arm, parts.pop("calibration"), seed)
    measured: dict[str, float] = {}
    narrow: list[Tensor] = []
    temperatures: dict[str, list[Tensor]] = {"right": [], "wrong": []}
    for name, part in parts.items():
        with torch.no_grad():
            confidence, probs, temperature = calibrated(part)
        predicted = part.logits.argmax(dim=1)
        correct = predicted == part.target
        bins = {"num_bins": context["num_bins"]}
        found = {
            "accuracy": correct.double().mean().item(),
            "confidence": confidence.double().mean().item(),
            "ece": expected_calibration_error(confidence, correct, **bins),
            "ece_mass": expected_calibration_error(confidence, correct, binning="mass", **bins),
            "mce": maximum_calibration_error(confidence, correct, **bins),
            "ks": kolmogorov_smirnov_calibration_error(confidence, correct),
            "brier": top_label_brier_score(confidence, correct),
            "auroc": confidence_auroc(confidence, correct),
        }
        if probs is not None:
            found["accuracy"] = (probs.argmax(dim=1) == part.target).double().mean().item()
            found["classwise_ece"] = classwise_calibration_error(probs, part.target, **bins)
        if temperature is not None:
            temperatures["right"].append(temperature[correct])
            temperatures["wrong"].append(temperature[~correct])
        measured |= {f"{key}_{name}": value for key, value in found.items()}
        narrow.append(confidence[narrow_misclassification_mask(part.logits.softmax(dim=1), part.target, low=0.3)])
    shifted = [name for name in parts if name != "ind"]
    metrics: Metrics = {
        "ece_ood": float(np.mean([measured[f"ece_{name}"] for name in shifted])),
        "auroc": float(np.mean([measured[f"auroc_{name}"] for name in parts])),
        "narrow_samples": float(sum(map(len, narrow))),
    }
    if metrics["narrow_samples"]:
        metrics["narrow_confidence"] = torch.cat(narrow).double().mean().item()
    metrics |= {key: measured[key] for key in sorted(measured, key=lambda key: not key.startswith("ece_ind"))}
    for kind, values in temperatures.items():
        if values:
            own = torch.cat(values)
            metrics[f"temperature_{kind}"] = own.double().mean().item()
            metrics[f"temperature_histogram_{kind}"] = (own.clamp(max=9.999).histc(20, 0, 10) / len(own)).tolist()
    return metrics


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without reading weights or data)."""
    if scale.name == "paper":
        configuration = {
            "model_type": "resnet",
            "architectures": ["ResNetForImageClassification"],
            "depths": [3, 8, 36, 3],  # ResNet-152
            "num_labels": 1000,
        }
        model = build_model({"name": "resnet", "configuration": configuration})
        copies = 3
    else:
        model = build_model(scale.settings["classifier"], num_classes=10, input_shape=(1, 12, 12))
        copies = 4
    built = {"classifier": model, "calibrator": SampleTemperatureCalibrator(4 * copies)}
    return {role: f"{type(one).__name__}, {parameter_count(one):,} parameters" for role, one in built.items()}


# ---- Claims ----------------------------------------------------------------------------------------------------------


def calibrates_out_of_distribution(results: Results) -> Judgement:
    """Claim 1."""
    before, one, ours = (results.mean(arm, "ece_ood") for arm in ("uncalibrated", "TS", CA))
    detail = f"uncalibrated {before:.3f}, TS {one:.3f}, CA {ours:.3f}, CE {results.mean('CE', 'ece_ood'):.3f}"
    detail += f", CA balanced {results.mean('CA balanced', 'ece_ood'):.3f}"
    return Judgement(1 - ours / before, bool(ours <= 0.7 * before and ours <= one), detail=detail)


def separates_right_from_wrong(results: Results) -> Judgement:
    """Claim 2."""
    test = results.paired(CA, "TS", "auroc")
    shuffled = results.difference("CA shuffled", "TS", "auroc")
    holds = test.difference >= 0.005 and test.p_value < 0.1 and shuffled < 0.005
    means = ", ".join(f"{arm} {results.mean(arm, 'auroc'):.4f}" for arm in ("uncalibrated", "TS", "CE", "MSE", CA))
    return Judgement(test.difference, holds, test.p_value, f"{means}; with shuffled features {shuffled:+.4f}")


def humbles_narrow_errors(results: Results) -> Judgement:
    """Claim 3."""
    arms = ("uncalibrated", "TS", "CE", "MSE", CA, "CA balanced")
    if any("narrow_confidence" not in results.arms[arm] for arm in arms):
        return Judgement(0.0, False, detail="no narrow misclassifications")
    test = results.paired("CE", CA, "narrow_confidence")
    means = ", ".join(f"{arm} {results.mean(arm, 'narrow_confidence'):.3f}" for arm in arms)
    interval = f"90 % interval [{-test.ci_high:.4f}, {-test.ci_low:.4f}]"
    return Judgement(
        -test.difference,
        test.difference > 0,
        detail=f"{interval}; {means}; {results.mean(CA, 'narrow_samples'):.0f} samples a seed",
    )


def keeps_what_was_good(results: Results) -> Judgement:
    """Claim 4."""
    before, ours = results.mean("uncalibrated", "ece_ind"), results.mean(CA, "ece_ind")
    parts = [metric for metric in results.arms[CA] if metric.startswith("accuracy_")]
    same = all(np.array_equal(results.values(CA, part), results.values("uncalibrated", part)) for part in parts)
    detail = f"uncalibrated {before:.4f}, TS {results.mean('TS', 'ece_ind'):.4f}, CA {ours:.4f}, "
    detail += f"CA balanced {results.mean('CA balanced', 'ece_ind'):.4f}; accuracy {'identical' if same else 'changed'}"
    return Judgement(ours - before, bool(ours <= before and same), detail=detail)


CLAIMS = (
    Claim(
        "calibrates-out-of-distribution",
        "out of distribution, it is better calibrated than no calibrator and than temperature scaling",
        "mean ECE over the shifted sets at least 30 % below that without a calibrator, and at most that of TS",
        calibrates_out_of_distribution,
    ),
    Claim(
        "separates-right-from-wrong",
        "the transformed copies say something about correctness: confidence tells right from wrong better",
        "mean AUROC over all test sets at least 0.005 above TS, one-sided paired t-test p < 0.1; "
        "with features shuffled across samples less than 0.005 above",
        separates_right_from_wrong,
    ),
    Claim(
        "humbles-narrow-errors",
        "on narrow misclassifications it is less confident than the same network trained with cross-entropy",
        "mean confidence on wrong predictions whose true class has a probability of at least 0.3 lower than for CE",
        humbles_narrow_errors,
    ),
    Claim(
        "keeps-what-was-good",
        "in distribution it does no harm, and no prediction changes",
        "mean ECE in distribution at most that without a calibrator; accuracy on every set and seed identical",
        keeps_what_was_good,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _cached(path: str) -> dict[str, Part]:
    return parts_of(read_tensors(path))


def _told(context: Context, seed: int) -> dict[str, Part]:
    """What `prepare` left for a seed; a seed that the scale does not count is computed here."""
    file = context.folder / f"{seed}.safetensors"
    if file.exists():
        return _cached(str(file))
    return parts_of(answers(context, classifier(context, seed), seed, list(context["copies"])))


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits = call_model(model, images).logits
    assert logits is not None
    return logits.float().cpu()


recipe = Recipe(
    slug="correctness-calibration",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"cross-entropy": without_correctness, "shuffled": without_copies},
    describe=describe,
)
