"""Linear losses against bare matrix products, dense losses, PyTorch's own, TRL's and Liger-Kernel's.

N tokens, width D, vocabulary V, float32, forward and backward, 2 threads. Hidden states are of two kinds: `peaked`,
made so that about as many probabilities reach 2⁻¹² as in a trained language model (the mean sorted probability falls
below it near rank 50; arXiv 2411.09009), and `random`.

The lower bound is three matrix products in the same blocks of tokens × vocabulary and nothing else (four for a
distillation), into buffers that are there already. Everything takes turns in one process. Both the ratio of times and
the ratio of CPU seconds are recorded, as other programs share the machine: threads that wait do so without spinning
(`OMP_WAIT_POLICY=passive`, for every subject alike), so CPU seconds are those of the work. Memory is the growth of a
fresh process beyond the gradients that are asked for, after one small call.

Run `python -m benchmarks.linear_cross_entropy`. Liger-Kernel is no dependency of this project; where it is not
installed it is skipped (`pip install --no-deps liger-kernel` into a copy of the environment).
"""

from __future__ import annotations

import os
import sys

if os.environ.get("OMP_WAIT_POLICY") != "passive":  # read when OpenMP starts, so before PyTorch is imported
    os.environ["OMP_WAIT_POLICY"] = "passive"
    if __name__ == "__main__":
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.linear_cross_entropy", *sys.argv[1:]])

import importlib.util
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Timings, peak_memory, record, side_by_side
from tutelage.kernels import linear_cross_entropy, linear_distillation
from tutelage.kernels.blocks import choose_blocks, row_blocks

THREADS, N, D, V = 2, 2048, 512, 65536
FEWER = 768
"""Tokens of a distillation, whose peers take many times as long."""

EPSILON = 2.0**-12
LIGER = importlib.util.find_spec("liger_kernel") is not None
TRL = importlib.util.find_spec("trl") is not None and importlib.util.find_spec("trl.kernels.chunked_divergence")

Loss = Callable[[Tensor, Tensor, Tensor], Any]


def problem(kind: str, tokens: int = N, width: int = D, vocabulary: int = V) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and labels; `peaked` adds Zipf's law and a multiple of the label's own row."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, width, generator=generator) / width**0.5
    frequency = 1 / torch.arange(1, vocabulary + 1)
    target = torch.multinomial(frequency, tokens, replacement=True, generator=generator)
    hidden = torch.randn(tokens, width, generator=generator)
    if kind == "random":
        return hidden, weight, target
    common = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    weight -= (weight @ common)[:, None] * common
    pull = 10 + 10 * torch.rand(tokens, 1, generator=generator)
    hidden = 2 * (hidden - (hidden @ common)[:, None] * common) + common + pull * weight[target]
    weight += (frequency.log() - frequency.log().mean())[:, None] * common
    return hidden, weight, target


def products(tokens: int, width: int, vocabulary: int, *, teacher: bool = False) -> Callable[[], object]:
    """The matrix products of a fused loss in its blocks; with a teacher's logits, four."""
    rows, columns = choose_blocks(None, tokens, vocabulary, torch.device("cpu"), buffers=2 if teacher else 1)
    hidden, weight = torch.randn(tokens, width), torch.randn(vocabulary, width)
    buffer, second = (
        (torch.rand(rows * vocabulary) for _ in range(2)) if teacher else [torch.rand(rows * vocabulary)] * 2
    )
    spans = [(start, min(start + columns, vocabulary)) for start in range(0, vocabulary, columns)]

    def run() -> tuple[Tensor, Tensor]:
        by_hidden, by_weight = torch.zeros_like(hidden), torch.empty_like(weight)
        for first, last in row_blocks(tokens, rows):
            states, part, count = hidden[first:last], by_hidden[first:last], last - first
            for start, stop in spans:
                tile = buffer[start * count : stop * count].view(count, stop - start)
                torch.mm(states, weight[start:stop].t(), out=tile)
                if teacher:
                    other = second[start * count : stop * count].view(count, stop - start)
                    torch.mm(states, weight[start:stop].t(), out=other)
            for start, stop in spans:
                tile = buffer[start * count : stop * count].view(count, stop - start)
                part.addmm_(tile, weight[start:stop])
                by_weight[start:stop].addmm_(tile.t(), states, beta=float(first > 0))
        return by_hidden, by_weight

    return run


def dense(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.t(), target)


def pytorch_in_chunks(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=128)
    return F.linear_cross_entropy(hidden, weight, target, options=options)


LOSSES: dict[str, Loss] = {
    "fused": linear_cross_entropy,
    "recompute": partial(linear_cross_entropy, mode="recompute"),
    "filtered": partial(linear_cross_entropy, filter_eps=EPSILON),
    "dense": dense,
    "pytorch": F.linear_cross_entropy,
    "pytorch in chunks": pytorch_in_chunks,
    "half the memory": partial(linear_cross_entropy, block_size=(96, 2048)),
}


def trl_divergence(beta: float, hidden: Tensor, weight: Tensor, other: Tensor, teacher: Tensor) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    found: Any = ChunkedDivergenceFunction.apply(hidden, weight, None, other, teacher, None, beta)  # type: ignore[no-untyped-call]
    value: Tensor = found[0].mean()
    return value


def liger_divergence(hidden: Tensor, weight: Tensor, other: Tensor, teacher: Tensor) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # type: ignore[import-not-found]

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=False)
    value: Tensor = loss(hidden, weight, other, teacher, torch.zeros(len(hidden), dtype=torch.int64))
    return value


DIVERGENCES: dict[str, Callable[..., Any]] = {
    **{kind: partial(linear_distillation, divergence=kind) for kind in ("forward_kl", "reverse_kl", "jsd")},
    **({"TRL jsd": partial(trl_divergence, 0.5), "TRL forward_kl": partial(trl_divergence, 0.0)} if TRL else {}),
    **({"Liger jsd": liger_divergence} if LIGER else {}),
}


def backward(loss: Callable[..., Any], leaves: tuple[Tensor, Tensor], *rest: Tensor) -> Callable[[], object]:
    """Forward and backward into fresh `.grad`s, which stay until the next turn, as in training."""

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss(*leaves, *rest).backward()

    return run


def cross_entropy_run(name: str, kind: str = "peaked", sizes: tuple[int, int, int] = (N, D, V)) -> Callable[[], object]:
    torch.set_num_threads(THREADS)
    small_head, labels = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, dtype=torch.int64)
    backward(LOSSES[name], (torch.zeros(2, 2, requires_grad=True), small_head), labels)()  # loads what it loads
    hidden, weight, target = problem(kind, *sizes)
    return backward(LOSSES[name], (hidden.requires_grad_(), weight.requires_grad_()), target)


def distillation_run(name: str) -> Callable[[], object]:
    torch.set_num_threads(THREADS)
    small = torch.zeros(2, 2)
    leaves = small.clone().requires_grad_(), small.clone().requires_grad_()
    backward(DIVERGENCES[name], leaves, small, small)()  # loads what it loads
    hidden, weight, _ = problem("peaked", FEWER)
    other, teacher = hidden + 0.3 * torch.randn_like(hidden), weight + 0.01 * torch.randn_like(weight)
    return backward(DIVERGENCES[name], (hidden.requires_grad_(), weight.requires_grad_()), other, teacher)


def both_clocks(subjects: Mapping[str, Callable[[], object]], turns: int) -> tuple[Timings, Timings]:
    """Seconds and CPU seconds of subjects that take turns."""
    spent: dict[str, list[float]] = {name: [] for name in subjects}

    def timed(name: str, subject: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            start = time.process_time()
            subject()
            spent[name].append(time.process_time() - start)

        return run

    timings = side_by_side({name: timed(name, subject) for name, subject in subjects.items()}, turns=turns, warm_up=1)
    return timings, Timings({name: values[1:] for name, values in spent.items()})


def ratios(timings: tuple[Timings, Timings], pairs: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Ratios of times and of CPU seconds, each with its spread, by what they say."""
    found = {}
    for text, (subject, reference) in pairs.items():
        time_ratio, work_ratio = (one.ratio(subject, reference) for one in timings)
        found[text] = {"time": time_ratio.record(), "cpu": work_ratio.record()}
        print(f"  {text}: {time_ratio} (CPU seconds {work_ratio})", flush=True)
    return found


def seconds(timings: tuple[Timings, Timings]) -> dict[str, Any]:
    return {
        name: {"time": round(timings[0].of(name).median, 3), "cpu": round(timings[1].of(name).median, 3)}
        for name in timings[0].seconds
    }


def cross_entropy_times(*, quick: bool = False) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    bound = products(N, D, V)
    pairs = {
        "fused over three products": ("fused", "products"),
        "fused over pytorch": ("fused", "pytorch"),
        "fused over dense": ("fused", "dense"),
        "recompute over dense": ("recompute", "dense"),
        "filtered over dense": ("filtered", "dense"),
        "filtered over three products": ("filtered", "products"),
    }
    results = {}
    measured = [
        ("peaked", ("fused", "recompute", "filtered", "dense", "pytorch"), 4),
        ("random", ("fused", "pytorch"), 2),
    ]
    for kind, names, turns in [("peaked", ("fused", "filtered", "pytorch"), 2)] if quick else measured:
        print(f"{kind}:", flush=True)
        timings = both_clocks({"products": bound, **{name: cross_entropy_run(name, kind) for name in names}}, turns)
        shown = {text: pair for text, pair in pairs.items() if {*pair} <= {"products", *names}}
        results[kind] = {"ratios": ratios(timings, shown), "seconds": seconds(timings)}
    if quick:
        return results
    timings = both_clocks(
        {name: cross_entropy_run(name, "random", (256, D, V)) for name in ("fused", "pytorch in chunks")}, 2
    )
    results["random, 256 tokens"] = {
        "ratios": ratios(timings, {"fused over pytorch in chunks": ("fused", "pytorch in chunks")})
    }
    return results


def filtered_gradients() -> dict[str, float]:
    """How peaked the peaked case is, and what filtering does to its gradients."""
    hidden, weight, target = problem("peaked", 512)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    exact, cut = (
        torch.autograd.grad(linear_cross_entropy(*leaves, target, filter_eps=epsilon), leaves)
        for epsilon in (None, EPSILON)
    )
    with torch.no_grad():
        probability = (hidden @ weight.t()).softmax(dim=1)
        rank = int((probability.sort(dim=1, descending=True).values.mean(dim=0) >= EPSILON).sum())
    return {
        "share_of_probabilities_that_reach_epsilon": float((probability >= EPSILON).float().mean()),
        "rank_at_which_the_mean_sorted_probability_falls_below_it": rank,
        "relative_error_of_hidden_gradient": float((exact[0] - cut[0]).norm() / exact[0].norm()),
        "relative_error_of_weight_gradient": float((exact[1] - cut[1]).norm() / exact[1].norm()),
        "share_of_weight_rows_without_gradient": float((cut[1].abs().amax(dim=1) == 0).float().mean()),
    }


def memory() -> dict[str, Any]:
    """Growth of a fresh process beyond the two gradients, as a share of the logits."""
    results: dict[str, Any] = {}
    here = "benchmarks.linear_cross_entropy"
    for name in ("fused", "half the memory", "recompute", "dense", "pytorch"):
        extra = peak_memory(f"{here}:cross_entropy_run", name) - 4 * (N + V) * D
        results[name] = {"extra_mib": round(extra / 2**20, 1), "share_of_logits": round(extra / (4 * N * V), 4)}
        print(f"  {name}: {results[name]}", flush=True)
    for name in ("jsd", "TRL jsd", "Liger jsd"):
        if name in DIVERGENCES:
            extra = peak_memory(f"{here}:distillation_run", name) - 4 * (FEWER + V) * D
            results[f"distillation, {name}"] = {
                "extra_mib": round(extra / 2**20, 1),
                "share_of_logits": round(extra / (4 * FEWER * V), 4),
            }
            print(f"  distillation, {name}: {results[f'distillation, {name}']}", flush=True)
    return results


def distillation_times(*, quick: bool = False) -> dict[str, Any]:
    names = [name for name in DIVERGENCES if name.endswith("forward_kl")] if quick else list(DIVERGENCES)
    subjects = {"products": products(FEWER, D, V, teacher=True)}
    subjects |= {name: distillation_run(name) for name in names}
    timings = both_clocks(subjects, 2 if quick else 3)
    pairs = {f"{kind} over four products": (kind, "products") for kind in names if " " not in kind}
    pairs |= {f"{peer} over ours": (peer, peer.split()[1]) for peer in names if " " in peer}
    return {"ratios": ratios(timings, pairs), "seconds": seconds(timings)}


def growth() -> dict[str, list[dict[str, float]]]:
    """CPU seconds and products as tokens, vocabulary and width double."""
    base, found = {"tokens": 256, "width": 128, "vocabulary": 16384}, {}
    for name in base:
        rows = []
        for factor in (1, 2, 4, 8):
            sizes = {**base, name: round(base[name] * factor)}
            shape = (sizes["tokens"], sizes["width"], sizes["vocabulary"])
            subjects = {loss: cross_entropy_run(loss, "random", shape) for loss in ("fused", "recompute", "dense")}
            _, work = both_clocks(subjects, 2)
            rows.append({name: sizes[name], **{loss: round(work.of(loss).median, 4) for loss in subjects}})
        found[name] = rows
        print(f"  {name}: {rows}", flush=True)
    return found


def draw(found: Mapping[str, list[dict[str, float]]]) -> Path:
    """Growth as a picture for the documentation."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tutelage"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(9, 2.8), sharey=True)
    for axis, (name, rows) in zip(axes, found.items(), strict=True):
        for loss, style in (("fused", "o-"), ("recompute", "s--"), ("dense", "^:")):
            axis.loglog([row[name] for row in rows], [row[loss] for row in rows], style, label=loss)
        axis.set_xlabel(name)
    axes[0].set_ylabel("CPU seconds")
    axes[0].legend()
    path = Path(__file__).parents[1] / "docs" / "assets" / "linear_cross_entropy_growth.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    return path


def half_precision() -> dict[str, Any]:
    hidden, weight, target = problem("peaked", 256)
    leaves = hidden.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_()
    subjects: dict[str, Loss] = {
        "exact": partial(linear_cross_entropy, filter_eps=None),
        "filtered": linear_cross_entropy,
        "dense": lambda hidden, weight, target: F.cross_entropy((hidden @ weight.t()).float(), target),
    }
    timings = both_clocks({name: backward(loss, leaves, target) for name, loss in subjects.items()}, 3)
    return ratios(timings, {f"{name} over dense": (name, "dense") for name in ("exact", "filtered")})


def judged(ratio: Mapping[str, Any], most: float) -> dict[str, Any]:
    """A figure by the median ratio of times; that of CPU seconds beside it, for a machine that others use too."""
    time_ratio, work_ratio = ratio["time"]["median"], ratio["cpu"]["median"]
    return {
        "found": time_ratio,
        "at_most": most,
        "holds": time_ratio <= most,
        "cpu": work_ratio,
        "holds_in_cpu_seconds": work_ratio <= most,
    }


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, only what `make bench-check` compares, in fewer turns."""
    warnings.filterwarnings("ignore")
    if quick:
        return {"cross_entropy": cross_entropy_times(quick=True), "distillation": distillation_times(quick=True)}
    if not LIGER:
        print("Liger-Kernel is not installed and is skipped.")
    if not TRL:
        print("TRL is not installed, or has no chunked divergence, and is skipped.")
    results: dict[str, Any] = {"tokens": N, "width": D, "vocabulary": V, "waiting": "passive"}
    for title, measure in (
        ("cross_entropy", cross_entropy_times),
        ("filtered_gradients", filtered_gradients),
        ("distillation", distillation_times),
        ("bfloat16", half_precision),
        ("growth", growth),
        ("memory", memory),
    ):
        print(f"{title}:", flush=True)
        results[title] = measure()
    path_of = {
        "fused at most 1.10 of three products": ("cross_entropy", "peaked", "fused over three products", 1.10),
        "fused at most 0.90 of PyTorch's own": ("cross_entropy", "peaked", "fused over pytorch", 0.90),
        "filtered at most 0.45 of dense": ("cross_entropy", "peaked", "filtered over dense", 0.45),
    }
    figures = {}
    for text, (part, kind, ratio, most) in path_of.items():
        figures[text] = judged(results[part][kind]["ratios"][ratio], most)
    for kind in ("forward_kl", "reverse_kl", "jsd"):
        ratio = results["distillation"]["ratios"][f"{kind} over four products"]
        figures[f"{kind} at most 1.15 of four products"] = judged(ratio, 1.15)
    for text, name, most in (
        ("at most 12.5 % of the logits by default", "fused", 0.125),
        ("at most 2 % of the logits in recompute", "recompute", 0.02),
    ):
        share = results["memory"][name]["share_of_logits"]
        figures[text] = {"found": share, "at_most": most, "holds": share <= most}
    return {**results, "figures": figures}


def main() -> None:
    """Measure, print, draw, and write the result."""
    results = measure()
    draw(results["growth"])
    path = record("linear_cross_entropy", results)
    for text, figure in results["figures"].items():
        print(f"{'holds' if figure['holds'] else 'MISSED'}: {text} ({figure})")
    print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
