"""DSE / DSMI: can the spectrum of a diffusion tell what a network's representations hold, while it learns?

Source: "Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion Spectral Entropy",
CISS 2024, arXiv 2312.04823. The experiment code was withdrawn by its authors; formulas and settings are the paper's and
those of the two functions that remain.

The question. Entropy and mutual information of hundreds of dimensions can not be had from histograms: every sample is
alone in its cell. Diffusion spectral entropy (DSE) takes the eigenvalues of a diffusion matrix instead, and the mutual
information (DSMI) is built from it. Four checks, in the order of the claims.

A. Spheres. Unit spheres of 1 to 8 dimensions, turned at random into 32 or 256 dimensions, with noise of norm 0, 0.1 and
0.3: does DSE (σ = 0.5, t = 2) follow the dimension? Beside it the histogram entropy (CSE), the nearest-neighbour
estimate of the dimension itself (TwoNN), and at `full` also 2 000 samples.

B. Labels of digits, 0 to 100 % of them drawn anew: does DSMI fall with what is drawn, to 0 at the end? Beside it the
same from histograms (CSMI), and at `full` a small MINE, a network that bounds the Shannon information from below.

C. Training. A multi-layer perceptron (256-128-64) and a small convolutional network learn digits or signals from true
labels or from random ones. The penultimate layer of held-out inputs is looked at before the first step and ten times
more, by the monitor that any run can have. σ is half the median distance before the first step; and, beside it, half
the median distance at each look.

D. Thirty networks of different width, depth, learning rate and length of training: does DSMI with the labels of the
validation part go with accuracy on the test part, and better than CSMI, the silhouette score or the number of
parameters? σ is half the median distance of each network's own representations.

A seed draws points, noise, labels and weights. Nothing is tuned.

What does not hold, and why. Two claims, at `quick` and at `full`.

Information does not rise more under true labels at a σ that stays as it was before the first step. Networks spread
their representations in training, 14 to 170 times, on true and on random labels. At the fixed σ all samples are far
apart from each other within the first looks: DSE is log₂ N and DSMI is 0 for every network, at 2 times the median
distance too. DSE rises with that, whatever was learned, so the claim that it rises holds for a poor reason. With σ at
half the median distance of each look (the claim that is ours, and the monitor's default) DSMI more than doubles under
true labels and falls under random ones, for every network and seed; at the other three factors it rises by more under
true labels, too. DSE then mostly falls under true labels, since classes gather.

The histogram is not blind to clean curves: a circle that is cut by 256 dimensions falls into some 512 arcs, which its
500 points share (7.8 bits of 9.0; at 2 000 points 8.2 of 11.0). With the least noise every point is alone in its cell,
in any dimension.

DSMI ranks networks (0.86), but accuracy on the same validation samples (0.99) and the silhouette score (0.92) do it
better. Some 40 % of the networks have hardly learned anything; with all of them good, less would be left to rank. At
`full` MINE, too, falls with the corruption of labels, from 2.3 bits where DSMI has 1.1: their scales differ.

Departures from the paper: data and networks are ours at every scale but `paper`; there it is supervised and random
labels on MNIST, CIFAR-10 and STL-10 with the networks that this package builds (no XCiT, no ResNeXt, and no
contrastive training). The correlation over 962 ImageNet models is not attempted: its features have to be downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from tutelage.assessment import (
    diffusion_spectral_entropy,
    diffusion_spectral_mutual_information,
    median_bandwidth,
    shannon_histogram_entropy,
    two_nearest_neighbour_dimension,
)
from tutelage.data import ArraySamples, Data, Samples, add_uniform_label_noise, load_data
from tutelage.data.parts import assemble
from tutelage.data.subsets import subset, targets_of
from tutelage.features import ObservedModel
from tutelage.models import build_model, parameter_count
from tutelage.objectives import CrossEntropy
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.training import Distillation, RepresentationTracker, Trainer, TrainingSettings, evaluate_model

# ---- Scales ----------------------------------------------------------------------------------------------------------

DIMENSIONS = tuple(range(1, 9))
NOISES = (0.0, 0.1, 0.3)
CORRUPTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
PIXEL_NOISES = (0.0, 0.1)
SENSITIVITY = (0.25, 0.5, 1.0, 2.0)  # σ over the median distance
LOOKS = 10

DIGITS = {"name": "digits", "options": {"fractions": (797, 500, 500)}}
SIGNALS = {"name": "mnist1d", "options": {"channel": True, "train": 1000, "validation": 500, "test": 500}}
NETWORKS = {
    "mlp": {"name": "mlp", "arguments": {"hidden": (256, 128, 64)}},
    "cnn": {"name": "convnet", "arguments": {"channels": (16, 32, 64)}},
}
TRAINING = {"learning_rate": 1e-3, "batch_size": 64, "epochs": 30, "weight_decay": 0.0, "scheduler": "constant"}
SPHERES = {"widths": {32: 500, 256: 500}, "bandwidth": 0.5, "time": 2}

PUBLISHED_NETWORKS = {
    name: {"name": kind, "arguments": arguments}
    for name, kind, arguments in (
        ("resnet50", "resnet", {"widths": (256, 512, 1024, 2048), "depths": (3, 4, 6, 3), "layer_type": "bottleneck"}),
        ("resnet18", "resnet", {"widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2)}),
        ("convnext", "convnext", {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3)}),
        ("vit small", "vit", {"hidden_size": 384, "num_layers": 12, "num_heads": 6}),
        ("vit tiny", "vit", {"hidden_size": 192, "num_layers": 12, "num_heads": 3}),
        ("swin", "swin", {"hidden_size": 96, "depths": (2, 6), "num_heads": (3, 6), "window_size": 4}),
    )
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=1,
        settings={
            "spheres": {**SPHERES, "widths": {32: 100, 256: 100}},
            "digits": 200,
            "mine": 0,
            "training": {
                "data": {"digits": {"name": "digits", "options": {"fractions": (120, 60, 60)}}},
                "networks": {"mlp": {"name": "mlp", "arguments": {"hidden": (16,)}}},
                "settings": {**TRAINING, "epochs": 5},
            },
            "nets": {"count": 5, "data": {"name": "digits", "options": {"fractions": (120, 60, 60)}}},
        },
    ),
    "quick": Scale(
        "quick",
        seeds=3,
        settings={
            "spheres": SPHERES,
            "digits": 600,
            "mine": 0,
            "training": {"data": {"digits": DIGITS, "mnist1d": SIGNALS}, "networks": NETWORKS, "settings": TRAINING},
            "nets": {"count": 30, "data": DIGITS},
        },
    ),
    "full": Scale(
        "full",
        seeds=4,
        settings={
            "spheres": {**SPHERES, "widths": {32: 500, 256: 500, "256 of 2000": 2000}},
            "digits": 600,
            "mine": 300,
            "training": {"data": {"digits": DIGITS, "mnist1d": SIGNALS}, "networks": NETWORKS, "settings": TRAINING},
            "nets": {"count": 30, "data": DIGITS},
        },
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "spheres": SPHERES,
            "digits": 600,
            "mine": 300,
            "training": {
                "data": {
                    name: {"name": "tutelage.recipes.dse:published_images", "options": {"repository": repository}}
                    for name, repository in (
                        ("MNIST", "ylecun/mnist"),
                        ("CIFAR-10", "uoft-cs/cifar10"),
                        ("STL-10", "tanganke/stl10"),
                    )
                },
                "networks": PUBLISHED_NETWORKS,
                "settings": {"learning_rate": 1e-3, "batch_size": 256, "epochs": 200, "weight_decay": 0.01},
                "looked_at": 10_000,
            },
            "nets": {"count": 30, "data": DIGITS},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("ylecun/mnist", "uoft-cs/cifar10", "tanganke/stl10")),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------


def arms(scale: Scale) -> list[Arm]:
    """Spheres, corrupted labels, one arm a training (true and random labels alike), and the thirty networks."""
    trainings = scale.settings["training"]
    return [
        Arm("spheres", {"part": "spheres"}, description="entropies by intrinsic dimension"),
        Arm("labels", {"part": "labels"}, description="mutual information by share of corrupted labels"),
        *(
            Arm(f"{data} {network} {labels}", {"part": "training", "data": data, "network": network, "labels": labels})
            for data in trainings["data"]
            for network in trainings["networks"]
            for labels in ("true", "random")
        ),
        Arm("nets", {"part": "nets"}, description="different networks, ranked without their test accuracy"),
    ]


def with_a_wide_kernel(arm: Arm) -> Arm:
    """σ = 1, as wide as the spheres themselves: DSE at t = 2 then falls with the dimension."""
    return replace(arm, settings={**arm.settings, "bandwidth": 1.0}) if arm.name == "spheres" else arm


def without_size_matching(arm: Arm) -> Arm:
    """DSMI that compares a category with all samples in place of as many as it has."""
    return replace(arm, settings={**arm.settings, "matched": False}) if arm.name == "labels" else arm


# ---- A. Spheres ------------------------------------------------------------------------------------------------------


def measure_spheres(context: Context, arm: Arm, seed: int) -> Metrics:
    """Entropies and the TwoNN estimate, one value a dimension, for every width and noise."""
    settings = context["spheres"]
    bandwidth = arm.settings.get("bandwidth", settings["bandwidth"])
    generator = torch.Generator().manual_seed(seed)
    metrics: Metrics = {}
    for name, samples in settings["widths"].items():
        width = int(str(name).partition(" ")[0])
        clouds = [noisy_sphere(dimension, width, samples, generator) for dimension in DIMENSIONS]
        for noise in NOISES:
            points = [sphere + noise * direction for sphere, direction in clouds]
            case = f"{name} noise {noise:g}"
            metrics[f"dse {case}"] = [
                diffusion_spectral_entropy(x, bandwidth=bandwidth, time=settings["time"]).item() for x in points
            ]
            metrics[f"cse {case}"] = [shannon_histogram_entropy(x).item() for x in points]
            metrics[f"twonn {case}"] = [two_nearest_neighbour_dimension(x) for x in points]
    return metrics


def noisy_sphere(dimension: int, width: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points on a unit sphere of that dimension, turned at random into `width`, and noise of norm 1 on average."""
    points = torch.randn(samples, dimension + 1, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    turn = torch.linalg.qr(torch.randn(width, dimension + 1, generator=generator, dtype=torch.float64)).Q
    noise = torch.randn(samples, width, generator=generator, dtype=torch.float64) / width**0.5
    return points @ turn.T, noise


# ---- B. Corrupted labels ---------------------------------------------------------------------------------------------


def measure_labels(context: Context, arm: Arm, seed: int) -> Metrics:
    """Information that digits have about labels, one value a share of labels that are drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    images, target = _all_digits()
    rows = torch.randperm(len(target), generator=generator)[: context["digits"]]
    clean, target = images[rows], target[rows]
    labels = [add_uniform_label_noise(target, 10, rate, generator=generator) for rate in CORRUPTIONS]
    metrics: Metrics = {}
    for noise in PIXEL_NOISES:
        x = clean + noise * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        bandwidth = median_bandwidth(clean, factor=0.5)
        information = functools.partial(diffusion_spectral_mutual_information, x, generator=generator)
        for kind, options in (("dsmi", {"bandwidth": bandwidth}), ("csmi", {"entropy": "histogram"})):
            if not arm.settings.get("matched", True) and kind == "dsmi":
                found = [unmatched_information(x, y, bandwidth) for y in labels]
            else:
                found = [float(information(y, **options)) for y in labels]  # type: ignore[arg-type]
            metrics[f"{kind} noise {noise:g}"] = found
        if context["mine"]:
            metrics[f"mine noise {noise:g}"] = [mine(x, y, steps=context["mine"], seed=seed) for y in labels]
    return metrics


def unmatched_information(x: Tensor, labels: Tensor, bandwidth: float) -> float:
    """DSMI without its key: H(Z) − Σ p(y) H(Z_y), with all samples in the first term."""
    own = 0.0
    for category in torch.unique(labels):
        members = x[labels == category]
        own += len(members) / len(x) * diffusion_spectral_entropy(members, bandwidth=bandwidth).item()
    return diffusion_spectral_entropy(x, bandwidth=bandwidth).item() - own


def mine(x: Tensor, labels: Tensor, *, steps: int, seed: int, hidden: int = 64) -> float:
    """A neural lower bound of the Shannon information in bits (Belghazi et al. 2018, equation 10), on held-out halves.

    A critic learns to tell pairs from shuffled pairs on one half of the samples; the bound is taken on the other half.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = nn.Sequential(nn.Linear(x.shape[1] + 10, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    pairs = torch.cat([x.float(), nn.functional.one_hot(labels, 10).float()], dim=1)
    learn, judge = pairs.chunk(2)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)

    def bound(part: Tensor) -> Any:
        shuffled = part.clone()
        shuffled[:, -10:] = part[torch.randperm(len(part), generator=generator), -10:]
        log_mean = critic(shuffled).flatten().logsumexp(dim=0) - np.log(len(part))
        return critic(part).mean() - log_mean

    for _ in range(steps):
        optimizer.zero_grad()
        (-bound(learn)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return float(np.mean([bound(judge).item() for _ in range(10)]) / np.log(2))


@functools.lru_cache(maxsize=1)
def _all_digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    return torch.from_numpy(images / 16), torch.from_numpy(target)


# ---- C. Training -----------------------------------------------------------------------------------------------------


def measure_training(context: Context, arm: Arm, seed: int) -> Metrics:
    """Train one network under the monitor; what its penultimate layer holds from before the first step to the end."""
    settings = context["training"]
    data = _load(arm.settings["data"], settings["data"][arm.settings["data"]])
    train: Samples = data.train
    if arm.settings["labels"] == "random":
        train = _with_random_labels(train, data.num_classes, seed)
    network = _build(settings["networks"][arm.settings["network"]], data, seed)
    held_out = subset(data.test, torch.arange(min(settings.get("looked_at", 500), len(data.test))))
    before = embeddings(network, held_out)
    trackers = {
        "": RepresentationTracker("embedding", samples=held_out, seed=seed, fixed_bandwidth=True),
        "rescaled ": RepresentationTracker("embedding", samples=held_out, seed=seed),
    }
    _train(network, train, {**settings["settings"], "seed": seed}, *trackers.values())
    metrics: Metrics = {
        "train_accuracy": evaluate_model(network, train)["validation_accuracy"],
        "test_accuracy": evaluate_model(network, data.test)["validation_accuracy"],
    }
    for kind, tracker in trackers.items():
        for name in ("entropy", "label_information", "input_information"):
            curve = [look[f"representation/embedding/{name}"] for look in tracker.curve]
            metrics[f"{kind}{name}"] = curve
            metrics[f"{kind}{name}_rise"] = curve[-1] - curve[0]
    after, labels = embeddings(network, held_out), targets_of(held_out)
    metrics["scale"] = median_bandwidth(after) / median_bandwidth(before)
    for factor in SENSITIVITY:
        fixed, current = (median_bandwidth(x, factor=factor) for x in (before, after))
        start = _look(before, labels, fixed, seed)
        for kind, end in (("", _look(after, labels, fixed, seed)), ("rescaled ", _look(after, labels, current, seed))):
            metrics[f"{kind}entropy_rise at {factor:g}"] = end[0] - start[0]
            metrics[f"{kind}label_information_rise at {factor:g}"] = end[1] - start[1]
    return metrics


def _look(x: Tensor, labels: Tensor, bandwidth: float, seed: int) -> tuple[float, float]:
    """DSE, and DSMI with the labels."""
    information = diffusion_spectral_mutual_information(
        x, labels, bandwidth=bandwidth, generator=torch.Generator().manual_seed(seed)
    )
    return diffusion_spectral_entropy(x, bandwidth=bandwidth).item(), float(information)  # type: ignore[arg-type]


@torch.no_grad()
def embeddings(network: nn.Module, samples: Samples) -> Tensor:
    """`[samples, width]`: what the output layer reads, in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    observed = ObservedModel(network, embedding=True)
    found = [
        observed(samples.batch(rows).to(device).inputs).embedding
        for rows in torch.split(torch.arange(len(samples)), 512)
    ]
    return torch.cat([part.flatten(1).cpu() for part in found if part is not None])


def _with_random_labels(samples: Samples, classes: int, seed: int) -> ArraySamples:
    whole = samples.batch(torch.arange(len(samples)))
    drawn = torch.randint(classes, (len(samples),), generator=torch.Generator().manual_seed(1000 + seed))
    return ArraySamples(whole.inputs, drawn, index=whole.index)


def _train(network: nn.Module, train: Samples, settings: Mapping[str, Any], *monitors: RepresentationTracker) -> None:
    steps = settings["epochs"] * -(-len(train) // settings["batch_size"])
    every = -(-steps // LOOKS)
    chosen = TrainingSettings(**{**settings, "log_every": every, "evaluate_every": every})
    Trainer(Distillation(None, network, CrossEntropy()), train, settings=chosen, monitors=monitors).run()


# ---- D. Thirty networks ----------------------------------------------------------------------------------------------


def draw_nets(count: int) -> list[dict[str, Any]]:
    """Networks and their training, the same for all seeds: half perceptrons, half convolutional networks."""
    chance = np.random.default_rng(0)
    drawn = []
    for number in range(count):
        width, depth = int(chance.choice([4, 8, 16, 32, 64])), int(chance.integers(1, 4))
        model: dict[str, Any] = {"name": "mlp", "arguments": {"hidden": (width,) * depth}}
        if number % 2:
            model = {"name": "convnet", "arguments": {"channels": (min(width, 32),) * depth}}
        rate = float(10 ** chance.uniform(-4, -2))
        drawn.append({"model": model, "learning_rate": rate, "epochs": int(chance.choice([1, 2, 5, 10, 20]))})
    return drawn


def measure_nets(context: Context, arm: Arm, seed: int) -> Metrics:
    """One value a network: test accuracy, and what would rank it from the validation part."""
    from sklearn.metrics import silhouette_score

    settings = context["nets"]
    data = _load("digits", settings["data"])
    labels = targets_of(data.validation)
    metrics: dict[str, list[float]] = {
        name: [] for name in ("test_accuracy", "validation_accuracy", "dsmi", "csmi", "dse", "silhouette", "parameters")
    }
    for net in draw_nets(settings["count"]):
        network = _build(net["model"], data, seed)
        rates = {"learning_rate": net["learning_rate"], "epochs": net["epochs"], "seed": seed}
        _train(network, data.train, {**TRAINING, **rates})
        x = embeddings(network, data.validation).double()
        information = functools.partial(
            diffusion_spectral_mutual_information, x, labels, generator=torch.Generator().manual_seed(seed)
        )
        bandwidth = median_bandwidth(x, factor=0.5)
        metrics["dsmi"].append(float(information(bandwidth=bandwidth)))  # type: ignore[arg-type]
        metrics["csmi"].append(float(information(entropy="histogram")))  # type: ignore[arg-type]
        metrics["dse"].append(diffusion_spectral_entropy(x, bandwidth=bandwidth).item())
        metrics["silhouette"].append(float(silhouette_score(x.numpy(), labels.numpy())))
        metrics["parameters"].append(float(parameter_count(network)))
        for part in ("validation", "test"):
            accuracy = evaluate_model(network, getattr(data, part))["validation_accuracy"]
            metrics[f"{part}_accuracy"].append(accuracy)
    return dict(metrics)


# ---- Data and networks -----------------------------------------------------------------------------------------------

MEASURES = {
    "spheres": measure_spheres,
    "labels": measure_labels,
    "training": measure_training,
    "nets": measure_nets,
}


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Measure what an arm is about."""
    return MEASURES[arm.settings["part"]](context, arm, seed)


@functools.lru_cache(maxsize=4)
def _loaded(name: str, options: tuple[tuple[str, Any], ...]) -> Data:
    return load_data(name, **dict(options))


def _load(name: str, settings: Mapping[str, Any]) -> Data:
    return _loaded(settings.get("name", name), tuple(settings["options"].items()))


def _build(settings: Mapping[str, Any], data: Data, seed: int) -> nn.Module:
    inputs = data.train.batch(torch.zeros(1, dtype=torch.int64)).inputs
    assert isinstance(inputs, Tensor)
    torch.manual_seed(seed)
    return build_model(settings, num_classes=data.num_classes, input_shape=tuple(inputs.shape[1:]))


def published_images(repository: str) -> Data:
    """MNIST, CIFAR-10 or STL-10 from the local Hugging Face cache, in [0, 1]; a tenth of the training part validates.

    Raises:
        ImportError: The package `datasets` is not installed.
    """
    import datasets

    parts = {}
    for part in ("train", "test"):
        read = datasets.load_dataset(repository, split=part)
        column = next(name for name in ("img", "image") if name in read.column_names)
        images = np.stack([np.asarray(image) for image in read[column]])
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        parts[part] = ArraySamples((images / 255).astype(np.float32), np.asarray(read["label"]))
    return assemble(repository.partition("/")[2], parts, fractions=(0.9, 0.1), num_classes=10)


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without reading the data)."""
    shapes = {"digits": (1, 8, 8), "mnist1d": (1, 40), "MNIST": (1, 28, 28), "CIFAR-10": (3, 32, 32)}
    described = {}
    for data in scale.settings["training"]["data"]:
        for name, settings in scale.settings["training"]["networks"].items():
            with torch.device("meta" if scale.name == "paper" else "cpu"):
                model = build_model(settings, num_classes=10, input_shape=shapes.get(data, (3, 96, 96)))
            described[f"{data}, {name}"] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


def _cases(results: Results, kind: str) -> list[str]:
    return [name for name in results.arms["spheres"] if name.startswith(f"{kind} ")]


def follows_the_dimension(results: Results) -> Judgement:
    """Claim 1, what DSE does."""
    steps = {case: float(np.diff(results.values("spheres", case), axis=1).min()) for case in _cases(results, "dse")}
    worst = min(steps, key=steps.__getitem__)
    moved = max(
        float(np.abs(results.values("spheres", case) - results.values("spheres", case[:-3] + "0")).max())
        for case in _cases(results, "dse")
        if case.endswith(" 0.1")
    )
    twonn = ", ".join(
        f"{case[6:]}: {results.values('spheres', case).mean(axis=0)[0]:.1f}" for case in _cases(results, "twonn")
    )
    detail = f"smallest step at {worst[4:]}; noise 0.1 moves it by {moved:.3f}; what TwoNN takes a circle for: {twonn}"
    return Judgement(steps[worst], steps[worst] > 0 and moved < 0.15, detail=detail)


def histogram_is_blind(results: Results) -> Judgement:
    """Claim 1, what the histogram does."""
    ranges = {
        case[4:]: float(np.ptp(results.values("spheres", case), axis=1).max())
        for case in _cases(results, "cse")
        if case.startswith("cse 256")
    }
    detail = "; ".join(f"{case}: {value:.3f}" for case, value in ranges.items())
    return Judgement(max(ranges.values()), max(ranges.values()) < 0.01, detail=f"range over d: {detail}")


def falls_with_corruption(results: Results) -> Judgement:
    """Claim 2."""
    curves = {noise: results.values("labels", f"dsmi noise {noise:g}") for noise in PIXEL_NOISES}
    falling = all(bool((np.diff(curve, axis=1) < 0).all()) for curve in curves.values())
    at_the_end = max(float(np.abs(curve[:, -1]).max()) for curve in curves.values())
    histogram = max(float(np.abs(results.values("labels", f"csmi noise {noise:g}")).max()) for noise in PIXEL_NOISES)
    means = "; ".join(
        f"noise {noise:g}: " + " ".join(f"{value:.2f}" for value in curve.mean(axis=0))
        for noise, curve in curves.items()
    )
    detail = f"{means}; at 100 % within {at_the_end:.3f} of 0; largest CSMI {histogram:.3f}"
    smallest = min(float(-np.diff(curve, axis=1).max()) for curve in curves.values())
    return Judgement(smallest, falling and at_the_end <= 0.05 and histogram < 0.05, detail=detail)


def entropy_rises(results: Results) -> Judgement:
    """Claim 3, first part."""
    trainings = [name for name in results.arms if name.endswith((" true", " random"))]
    shares = {name: float((results.values(name, "entropy_rise") > 0).mean()) for name in trainings}
    worst = min(shares, key=shares.__getitem__)
    return Judgement(shares[worst], shares[worst] >= 2 / 3 - 1e-9, detail=_sensitivity(results, trainings, "entropy"))


def information_rises_with_true_labels(results: Results, kind: str = "") -> Judgement:
    """Claim 3, second part; with `rescaled `, at bandwidths that follow the layer's scale."""
    name = f"{kind}label_information"
    pairs = [(arm, arm[:-5] + " random") for arm in results.arms if arm.endswith(" true")]
    smallest = min(
        float((results.values(true, f"{name}_rise") - results.values(random, f"{name}_rise")).min())
        for true, random in pairs
    )
    detail = _sensitivity(results, [arm for pair in pairs for arm in pair], name)
    return Judgement(smallest, smallest > 0, detail=detail)


def _sensitivity(results: Results, trainings: Sequence[str], name: str) -> str:
    """Mean rises by training, for every bandwidth, and how many times as far apart samples are in the end."""
    factors = ", ".join(f"{factor:g}" for factor in SENSITIVITY)
    rises = "; ".join(
        f"{training} (scale × {results.mean(training, 'scale'):.0f}): "
        + " ".join(f"{results.mean(training, f'{name}_rise at {factor:g}'):+.2f}" for factor in SENSITIVITY)
        for training in trainings
    )
    return f"mean rise at σ = {factors} × the median distance: {rises}"


def ranks_networks(results: Results) -> Judgement:
    """Claim 4."""
    accuracy = results.values("nets", "test_accuracy")
    correlations = {
        name: [float(spearmanr(*pair).statistic) for pair in zip(results.values("nets", name), accuracy, strict=True)]
        for name in ("dsmi", "csmi", "silhouette", "parameters", "dse", "validation_accuracy")
    }
    means = {name: float(np.mean(np.nan_to_num(values))) for name, values in correlations.items()}
    detail = "rank correlation with test accuracy: " + ", ".join(f"{name} {value:.2f}" for name, value in means.items())
    return Judgement(means["dsmi"], means["dsmi"] > 0.5, detail=detail)


CLAIMS = (
    Claim(
        "intrinsic-dimension",
        "DSE follows the intrinsic dimension of noisy data in many dimensions",
        "for every width, noise and seed DSE (t = 2) strictly increases over d = 1 … 8; noise 0.1 changes it by less "
        "than 0.15 bit",
        follows_the_dimension,
        published="abstract: DSE tracks intrinsic dimension under noise",
    ),
    Claim(
        "histogram-is-blind",
        "The histogram entropy in many dimensions says nothing about the intrinsic one",
        "CSE with 2 bins at width 256 varies by less than 0.01 bit over d, for every noise and seed",
        histogram_is_blind,
    ),
    Claim(
        "label-corruption",
        "DSMI with labels falls with the share of them that is corrupted, where the histogram's sees nothing",
        "for every noise and seed DSMI strictly decreases over 0, 25, 50, 75, 100 % and is within 0.05 bit of 0 at the "
        "end; CSMI is below 0.05 bit everywhere",
        falls_with_corruption,
        published="abstract: DSMI tracks the strength of a relationship under noise",
    ),
    Claim(
        "entropy-rises",
        "DSE of a network's representations rises during training",
        "DSE of the penultimate layer is higher at the end than before the first step in at least 2 of 3 seeds, for "
        "every network, data set and kind of label",
        entropy_rises,
        published="figures 3 and 4: DSE rises in all three training conditions",
    ),
    Claim(
        "information-rises",
        "DSMI with the labels rises when a network generalises, and not when it learns random labels by heart",
        "DSMI(Z;Y) on held-out data rises by more under true than under random labels, for every network, data set and "
        "seed",
        information_rises_with_true_labels,
        published="DSMI(Z;Y) rises when the network generalises and stays flat when it overfits",
    ),
    Claim(
        "information-rises-rescaled",
        "The same, where the bandwidth follows the scale of the layer (ours)",
        "as above, with σ half the median distance at each look in place of the one before the first step",
        functools.partial(information_rises_with_true_labels, kind="rescaled "),
    ),
    Claim(
        "model-selection",
        "DSMI with the labels goes with the accuracy of different networks",
        "the mean over seeds of Spearman's correlation of DSMI(Z;Y) on validation data with test accuracy, over the "
        "networks, is above 0.5",
        ranks_networks,
        published="abstract: DSMI correlates with ImageNet accuracy over 962 models",
    ),
)

recipe = Recipe(
    slug="dse",
    scales=SCALES,
    arms=arms,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"bandwidth": with_a_wide_kernel, "size-matching": without_size_matching},
    describe=describe,
)
