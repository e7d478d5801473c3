"""Random teachers: does a student learn features from a teacher that was never trained, without any label?

Source: "Random Teachers are Good Teachers", ICML 2023, arXiv 2302.12091; public code safelix/dinopl.

The question. Teacher and student are one encoder and head; the teacher keeps its initial weights and the student
imitates what it says about unlabelled inputs. Nothing but the dynamics of distillation can teach it. Is its encoder
easier to read than the teacher's (claim 1)? Only if it sees real inputs (claim 2)? Best when it starts near the teacher
(claim 3)? And is one round enough (claim 4)?

The comparison. MNIST-1D signals; the encoder is VGG11 in one dimension, without norms and at most 32 channels wide; the
head has a bottleneck of length 1 and cosines for logits. A probe is a logistic regression of standardised features,
trained until it has converged, on the same labelled samples for every encoder. All arms of a seed share the teacher,
the fresh network that a start is mixed with, the data, their order and the number of steps. Arms differ in where the
student starts, what it sees, and how much of it; "no steps" stays where the student starts, and "second round" distils
the first student again. `full` adds sample sizes, more steps, norms, and asks whether two supervised runs from the
student end linearly connected, and two from the teacher do not.

What was found on the way. An encoder of three layers with batch normalisation came first (400 steps, learning rate
1e-3): its student read 6.7 points better than its teacher, as published, and so did a student with steps of length 0.
The teacher's norms have their initial statistics, the student's those of the data, or of noise, and that alone was the
gain. Tried on a few seeds since, against that control: deeper encoders with norms, where the data's statistics cost 6
to 9 points and learning brings back no more than the teacher has; learning rates up to 1.2e-2 with norms; dense
encoders without norms. None learned. Encoders without norms need no such control. In them the narrow head mattered:
with the paper's deviation of 0.02, made for 2048 units, so little passes 64 units that the biases drown it within
steps; here its weights are scaled to pass on as much as the paper's. Learning rates of 1e-3 and 3e-4 then move the
student too little, 8e-3 and more destroy it; 4e-3 was chosen, and alpha = 0.3 as the main start, on seeds that no
result is reported of. More steps bring a student that starts at its teacher back to it.

What holds (`quick` and `full`, the same ten seeds): everything that was asked. The student reads 3.6 points better than
its teacher, and 2.8 points better than it did before its first step; from alpha = 1e-3 the gain is 2.6 points (p =
0.001); noise brings 0.4, a second round nothing. At `full`, 250 signals bring 2.6 points, 1000 as much as all, three
times as many steps 4.3. The barrier between two supervised runs is lower from the student than from the teacher (16
against 29 points of error), though not gone. With norms 5.5 points come from learning and norms, 5.2 from norms alone:
no difference that chance does not explain. The effect is much smaller than the published 10 to 15 points, and one seed
in ten loses. With steps of length 0 (`--break no-learning`) the first three claims fail.

Departures from the paper: data, networks and head (256 cosines in place of 65 536) are ours at every scale but `paper`;
the main start is alpha = 0.3, inside the range [0, 0.6] in which the paper finds no difference, with alpha = 1e-3
beside it: exactly at the teacher the loss of an encoder without norms has its minimum. Weights of norms are
interpolated like all others.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tutelage.assessment import linear_mode_connectivity, probe_encoder
from tutelage.data import load_data
from tutelage.models import parameter_count
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import L2BottleneckHead, distill_random_teacher

# ---- Scales ----------------------------------------------------------------------------------------------------------

LAPTOP: dict[str, Any] = {
    "data": "mnist1d",
    "samples": 2000,
    "test": 3000,
    "encoder": "vgg11-1d",
    "channels": (8, 16, 32, 32, 32, 32, 32, 32),
    "head": {"hidden_dims": (64, 64), "bottleneck_dim": 32, "out_dim": 256},
    "steps": 100,
    "batch_size": 128,
    "learning_rate": 4e-3,
    "supervised_steps": 200,
}
SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **LAPTOP,
            "samples": 200,
            "test": 100,
            "channels": (4, 8),
            "head": {"hidden_dims": (16,), "bottleneck_dim": 8, "out_dim": 32},
            "steps": 6,
            "batch_size": 64,
            "arms": "quick",
        },
    ),
    "quick": Scale("quick", seeds=10, settings={**LAPTOP, "arms": "quick"}),
    "full": Scale("full", seeds=10, settings={**LAPTOP, "arms": "full"}),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": "tutelage.data.cifar:cifar100",
            "samples": 45_000,
            "test": 10_000,
            "encoder": "vgg11",
            "channels": (64, 128, 256, 256, 512, 512, 512, 512),
            "head": {"hidden_dims": (2048, 2048), "bottleneck_dim": 256, "out_dim": 65_536},
            "steps": 19_500,
            "batch_size": 256,
            "learning_rate": 1e-3,
            "supervised_steps": 31_000,
            "arms": "full",
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("uoft-cs/cifar100",)),
    ),
}

# ---- Arms: where the student starts, and what it sees ----------------------------------------------------------------

START = 0.3  # within [0, 0.6], where the paper's results are alike
QUICK = (
    Arm("student", {"alpha": START}, description="starts between its teacher and a fresh network, 3 to 7"),
    Arm("alpha 0", {"alpha": 1e-3}, description="starts at the teacher; exactly there the loss is at its minimum"),
    Arm("alpha 1", {"alpha": 1.0}, description="starts anywhere"),
    Arm(
        "noise",
        {"alpha": START, "inputs": "noise"},
        description="sees Gaussian noise with the inputs' mean and deviation",
    ),
    Arm("no steps", {"alpha": START, "frozen": True}, description="stays where the student starts"),
    Arm("second round", {"alpha": START, "rounds": 2}, description="the first student teaches a second one"),
)
NORMS = {"alpha": 0.0, "norm": True, "channels": (16, 32, 64)}
FULL = (
    Arm("alpha 0.6", {"alpha": 0.6}),
    Arm("250 inputs", {"alpha": START, "inputs": 250}, description="sees 250 signals, as often in all"),
    Arm("1000 inputs", {"alpha": START, "inputs": 1000}, description="sees 1000 signals, as often in all"),
    Arm("longer", {"alpha": START, "longer": 3}, description="three times as many steps"),
    Arm("norms", NORMS, description="three layers with batch normalisation, from exactly the teacher"),
    Arm("norms, no steps", {**NORMS, "frozen": True}, description="its norms see the data, and nothing is learned"),
    Arm(
        "connected", {"alpha": START, "connect": True}, description="two supervised runs from student and from teacher"
    ),
)


def arms(scale: Scale) -> list[Arm]:
    """The arms that claims read, and more of them at the larger scales."""
    return [*QUICK, *(FULL if scale.settings["arms"] == "full" else ())]


def without_learning(arm: Arm) -> Arm:
    """An arm whose student takes steps of length 0."""
    return replace(arm, settings={**arm.settings, "frozen": True})


# ---- The experiment --------------------------------------------------------------------------------------------------


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Distil a student from the seed's random teacher, and probe teacher, student and raw inputs."""
    settings, choice = context.scale.settings, arm.settings
    seed += 100  # settings were chosen on seeds below: none that is reported has been looked at before
    parts = signals(settings["data"], settings["samples"], settings["test"], seed)
    torch.manual_seed(seed)
    networks = [_networks({**settings, **choice}, norm=choice.get("norm", False)) for _ in range(2)]
    seen = _seen(parts[0][0], choice.get("inputs"), seed)
    teacher = networks[0]
    still = choice.get("frozen", False) and not choice.get("norm", False)  # norms take steps to see the data
    probes: list[float] = []
    losses: list[float] = []
    probes.append(_probe(teacher[0], parts))
    for _ in range(choice.get("rounds", 1)):
        torch.manual_seed(1000 + seed)  # every arm sees its inputs in the same order
        result = distill_random_teacher(
            *teacher,
            _Batches(seen, settings["batch_size"]),
            alpha=choice["alpha"],
            steps=1 if still else settings["steps"] * choice.get("longer", 1),
            optimizer=functools.partial(
                torch.optim.Adam, lr=0.0 if choice.get("frozen") else settings["learning_rate"]
            ),
            fresh=networks[1],
        )
        probes.append(_probe(result.student[0], parts))
        losses.append(result.history[-1])
        teacher = (result.student[0], result.student[1])
    metrics: Metrics = {
        "teacher_accuracy": probes[0],
        "accuracy": probes[-1],
        "gain": probes[-1] - probes[0],
        "first_gain": probes[1] - probes[0],
        "raw_accuracy": _raw_accuracy(settings["data"], settings["samples"], settings["test"], seed),
        "divergence": losses[0],
    }
    if choice.get("connect"):
        metrics |= {
            f"barrier_{name}": _barrier(encoder, parts, settings, seed)
            for name, encoder in (("student", teacher[0]), ("teacher", networks[0][0]))
        }
    return metrics


def _barrier(encoder: nn.Module, parts: Any, settings: Mapping[str, Any], seed: int) -> float:
    """The rise of the test error between two supervised runs from one encoder, which differ in their batches."""
    (x, y), (x_test, y_test) = parts
    torch.manual_seed(seed)
    width, classes = encoder(x[:2]).shape[1], int(y.max()) + 1
    start = nn.Sequential(copy.deepcopy(encoder), nn.Linear(width, classes)).requires_grad_(True)
    ends = []
    for order in range(2):
        model = copy.deepcopy(start).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        generator = torch.Generator().manual_seed(order)
        for _ in range(settings["supervised_steps"]):
            rows = torch.randint(len(x), (128,), generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ends.append(model.eval())

    @torch.no_grad()
    def error(model: nn.Module) -> float:
        return float((model(x_test).argmax(dim=1) != y_test).float().mean())

    return linear_mode_connectivity(ends[0], ends[1], error, points=7).barrier


# ---- Claims ----------------------------------------------------------------------------------------------------------


def student_beats_teacher(results: Results) -> Judgement:
    """Claim 1: paired over seeds, in one arm."""
    from scipy.stats import ttest_1samp

    gains = results.values("student", "gain")
    if len(gains) < 2 or gains.std() == 0:
        return Judgement(float(gains.mean()), False, float("nan"), "one seed, or no spread")
    p_value = float(ttest_1samp(gains, 0.0, alternative="greater").pvalue)
    detail = (
        f"teacher {results.mean('student', 'teacher_accuracy'):.4f}, "
        f"student {results.mean('student', 'accuracy'):.4f}, raw signals {results.mean('student', 'raw_accuracy'):.4f}"
    )
    return Judgement(float(gains.mean()), bool(gains.mean() > 0 and p_value < 0.05), p_value, detail)


def learning_is_what_helps(results: Results) -> Judgement:
    """Our own claim: where the student starts, and what its norms see, does not explain its gain."""
    test = results.paired("student", "no steps", "gain")
    shown = ("student", "no steps", "longer", "norms", "norms, no steps")
    detail = ", ".join(f"{arm} {results.mean(arm, 'gain'):+.4f}" for arm in shown if arm in results.arms)
    return Judgement(test.difference, test.difference > 0 and test.p_value < 0.05, test.p_value, detail)


def noise_teaches_little(results: Results) -> Judgement:
    """Claim 2."""
    noise, real = results.mean("noise", "gain"), results.mean("student", "gain")
    shown = ("250 inputs", "1000 inputs", "student")
    sizes = "".join(f", {arm} {results.mean(arm, 'gain'):+.4f}" for arm in shown if arm in results.arms)
    return Judgement(noise, noise <= real / 3, detail=f"from noise {noise:+.4f}{sizes}")


def near_starts_gain_more(results: Results) -> Judgement:
    """Claim 3: the mean over both near starts."""
    near = (results.mean("student", "gain") + results.mean("alpha 0", "gain")) / 2
    far = results.mean("alpha 1", "gain")
    shown = {"alpha 0": "alpha 0", "student": "alpha 0.3", "alpha 0.6": "alpha 0.6", "alpha 1": "alpha 1"}
    detail = ", ".join(f"{name} {results.mean(arm, 'gain'):+.4f}" for arm, name in shown.items() if arm in results.arms)
    return Judgement(near - far, near >= far, detail=detail)


def one_round_is_enough(results: Results) -> Judgement:
    """Claim 4."""
    first = results.mean("second round", "first_gain")
    second = results.mean("second round", "gain") - first
    return Judgement(second, second < first / 2, detail=f"first round {first:+.4f}, second {second:+.4f}")


CLAIMS = (
    Claim(
        "student-beats-teacher",
        "The student's features are easier to read than its random teacher's",
        "probe accuracy of the student (alpha 0.3) above the teacher's, one-sided paired t-test over seeds p < 0.05",
        student_beats_teacher,
        published="CIFAR10 linear probe: ResNet18 35.50 → 46.02, VGG11 36.55 → 51.98",
    ),
    Claim(
        "learning",
        "It is learning that makes them so",
        "gain of the student above that of one that takes steps of length 0, one-sided paired t-test p < 0.05 (ours)",
        learning_is_what_helps,
    ),
    Claim(
        "data-matter",
        "Noise in place of data teaches little",
        "mean gain of the student on noise at most a third of the gain on signals",
        noise_teaches_little,
        published="no gain from Gaussian noise",
    ),
    Claim(
        "locality",
        "Starts near the teacher gain at least as much as any start",
        "mean gain at alpha ≤ 0.3 at least that at alpha = 1",
        near_starts_gain_more,
        published="alike for alpha in [0, 0.6], then falling",
    ),
    Claim(
        "one-round",
        "A second round adds little",
        "gain of the second student over the first below half of the first one's gain",
        one_round_is_enough,
        published="a second round gives nothing",
    ),
)

# ---- Networks and data -----------------------------------------------------------------------------------------------


PAPER_WIDTHS = (512, 2048, 2048)  # what the layers of the paper's head read


def _networks(settings: Mapping[str, Any], *, norm: bool) -> tuple[nn.Module, nn.Module]:
    """An encoder and a head with fresh weights."""
    two_dimensional = settings["encoder"] == "vgg11"
    encoder, pooled = _convolutions(settings["channels"], two_dimensional=two_dimensional, norm=norm)
    width = settings["channels"][-1] * (1 if two_dimensional else 40 >> pooled)
    head = L2BottleneckHead(width, **settings["head"])
    layers = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():  # a narrow head drawn as the paper's would pass on so little that biases soon drown it
        for layer, wide in zip([*layers, head.bottleneck], PAPER_WIDTHS, strict=False):
            layer.weight *= (wide / layer.in_features) ** 0.5
    return encoder, head


def _convolutions(channels: tuple[int, ...], *, two_dimensional: bool, norm: bool) -> tuple[nn.Sequential, int]:
    """3-wide convolutions with ReLU, pooled at VGG11's five places, or after each where there are fewer of them."""
    layers: list[nn.Module] = [] if two_dimensional else [nn.Unflatten(1, (1, 40))]
    before = 3 if two_dimensional else 1
    pooled = (0, 1, 3, 5, 7) if len(channels) == 8 else tuple(range(len(channels)))
    for place, width in enumerate(channels):
        convolution = nn.Conv2d if two_dimensional else nn.Conv1d
        layers.append(convolution(before, width, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(width) if two_dimensional else nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if place in pooled:
            layers.append(nn.MaxPool2d(2) if two_dimensional else nn.MaxPool1d(2))
        before = width
    for module in layers:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return nn.Sequential(*layers, nn.Flatten()), len(pooled)


@functools.lru_cache(maxsize=2)
def signals(name: str, samples: int, test: int, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test inputs with their classes; nobody writes into them."""
    if name == "mnist1d":
        data = load_data(name, train=samples, validation=10, test=test, seed=seed)
    else:
        data = load_data(name)
    parts = [
        part.batch(torch.arange(min(len(part), most))) for part, most in ((data.train, samples), (data.test, test))
    ]
    (x, y), (x_test, y_test) = ((part.inputs, part.target) for part in parts)
    assert isinstance(x, Tensor)
    assert isinstance(x_test, Tensor)
    assert y is not None
    assert y_test is not None
    return (x, y), (x_test, y_test)


def _seen(x: Tensor, inputs: Any, seed: int) -> Tensor:
    """What the student sees: signals, some of them, or noise that is as large."""
    if inputs == "noise":
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        return x.mean() + x.std() * noise
    return x if inputs is None else x[: int(inputs)]


class _Batches:
    """Batches of random rows, without an end; the order follows PyTorch's global generator."""

    def __init__(self, x: Tensor, size: int) -> None:
        self.x, self.size = x, size

    def __iter__(self) -> Any:
        while True:
            yield self.x[torch.randint(len(self.x), (self.size,))]


@functools.lru_cache(maxsize=2)
def _raw_accuracy(name: str, samples: int, test: int, seed: int) -> float:
    return _probe(nn.Flatten(), signals(name, samples, test, seed))


def _probe(encoder: nn.Module, parts: Any) -> float:
    return probe_encoder(encoder, ([parts[0]], [parts[1]]), probe="logistic", max_iter=1000)


def describe(scale: Scale) -> dict[str, Any]:
    """Build encoder and head of a scale and count their parameters."""
    with torch.device("meta"):
        encoder, head = _networks(scale.settings, norm=False)
    return {
        "encoder": f"{parameter_count(encoder):,} parameters",
        "head": f"{parameter_count(head):,} parameters",
        "data": scale.settings["data"],
    }


recipe = Recipe(
    slug="random-teachers",
    scales=SCALES,
    arms=arms,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"no-learning": without_learning},
    describe=describe,
)
