"""CCE (cut cross-entropy): is the loss of a large vocabulary without its logits exact, small and fast?

Source: "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025, arXiv 2411.09009.

The question. Cross-entropy needs one number for each pair of token and vocabulary entry only to sum them up. CCE makes
them in tiles and throws them away. The paper shows it on a GPU, by kernels that make every tile twice; on a CPU our
default is `fused`: blocks of tokens, whose logits become gradients in place.

The comparison has three parts. Memory and time of the loss alone, against PyTorch's dense loss and its own loss in
chunks, each in a fresh process (time: two threads that wait without spinning, subjects in turns). Then a small GPT-2
with a BPE vocabulary learns Python's help texts; arms differ in how the loss is computed and in nothing else: weights,
batches and steps are those of the seed. At the end each arm's loss and gradients are held against dense ones in float32
and float64, and the gradient filter is judged on the trained head.

Departures from the paper: text, model and machine are ours at every scale but `paper`, where the model is Gemma 2 2B
and the texts are Alpaca's, and memory and time are measured on one GPU with PyTorch operations in blocks (the Triton
kernels are tested in the interpreter only and are not what is timed).

What does not hold. Convergence, at both scales: losses at the end differ from those of dense by 2e-3 to 3e-3, where
1e-3 is asked. PyTorch's own loss in chunks differs more (5.6e-3 at `full`), so the likely reason is that training
enlarges rounding of any kind; gradients agree to 3e-7. Filtering: at `full` the gradient of the hidden states is off by
4.9 % where 1 % is asked, at `quick` just over half of the tiles are kept; the likely reason is a head that is trained
too shortly to be as sure as the paper's. Speed at `quick`, on a quiet machine: 0.90 times dense, but PyTorch's own loss
in chunks takes less (246 ms against 324 ms): at this size (1024 tokens, width 256) products are short, and the passes
over tiles between them count; at 2048 tokens, width 512 and a vocabulary of 65 536 (`benchmarks`) ours is ahead. The
record at `full` was made on a busy machine with an older kernel, where ours was just ahead at this size too.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data import load_data
from tutelage.kernels import CausalHead, linear_cross_entropy
from tutelage.models import causal_lm, parameter_count
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale

# ---- Scales ----------------------------------------------------------------------------------------------------------

EPSILON = 2.0**-12
GPT2 = {"hidden_size": 64, "num_layers": 2, "num_heads": 2}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=1,
        settings={
            "vocabulary": 320,
            "length": 32,
            "batch": 4,
            "steps": 8,
            "model": {"hidden_size": 16, "num_layers": 1, "num_heads": 2},
            "arms": ("dense", "fused", "filtered"),
            "tile": (64, 32),
            "memory": {"tokens": 512, "vocabulary": 16384, "width": 16},
            "time": {"tokens": 64, "vocabulary": 1024, "width": 16, "turns": 2},
        },
    ),
    "quick": Scale(
        "quick",
        seeds=3,
        settings={
            "vocabulary": 8192,
            "length": 64,
            "batch": 4,
            "steps": 300,
            "model": GPT2,
            "arms": ("dense", "fused", "filtered"),
            "tile": (128, 64),
            "memory": {"tokens": 4096, "vocabulary": 65536, "width": 128},
            "time": {"tokens": 1024, "vocabulary": 16384, "width": 256, "turns": 5},
        },
    ),
    "full": Scale(
        "full",
        seeds=4,
        settings={
            "vocabulary": 8192,
            "length": 64,
            "batch": 4,
            "steps": 300,
            "model": GPT2,
            "arms": ("dense", "pytorch", "fused", "recompute", "filtered", "filtered, full C"),
            "tile": (128, 64),
            "memory": {"tokens": 4096, "vocabulary": 65536, "width": 128},
            "time": {"tokens": 1024, "vocabulary": 16384, "width": 256, "turns": 11},
        },
    ),
    "paper": Scale(
        "paper",
        seeds=5,
        settings={
            "pretrained": "google/gemma-2-2b",
            "texts": "yahma/alpaca-cleaned",
            "vocabulary": 256000,
            "length": 1024,
            "batch": 8,
            "steps": 1000,
            "learning_rate": 1e-5,
            "arms": ("dense", "fused", "recompute", "filtered", "filtered, unsorted", "filtered, full C"),
            "tile": (128, 128),
            "memory": {"tokens": 8192, "vocabulary": 256000, "width": 2304},
            "time": {"tokens": 8192, "vocabulary": 256000, "width": 2304, "turns": 50},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("yahma/alpaca-cleaned",)),
    ),
}

# ---- Arms: how the loss is computed ----------------------------------------------------------------------------------

FILTERED: dict[str, Any] = {"mode": "recompute", "filter_eps": EPSILON}
ARMS = [
    Arm("dense", {"backend": "dense"}, description="logits are stored"),
    Arm("pytorch", {"pytorch": True}, description="PyTorch's own, in chunks of 64 tokens"),
    Arm("fused", {"mode": "fused", "filter_eps": None}, description="exact, gradients with the loss"),
    Arm("recompute", {"mode": "recompute", "filter_eps": None}, description="exact, tiles made twice"),
    Arm("filtered", FILTERED, description="as in the paper: small tiles skipped, sorted vocabulary"),
    Arm("filtered, unsorted", {**FILTERED, "sort_vocabulary": False}, description="without sorting"),
    Arm("filtered, full C", {**FILTERED, "filter_classifier_grad": False}, description="the head's gradient exact"),
]


def arms(scale: Scale) -> list[Arm]:
    """The arms of a scale; those that filter do so by its tiles."""
    chosen = [arm for arm in ARMS if arm.name in scale.settings["arms"]]
    return [
        replace(arm, settings={**arm.settings, "block_size": scale.settings["tile"]})
        if arm.name.startswith("filtered")
        else arm
        for arm in chosen
    ]


def with_a_coarse_filter(arm: Arm) -> Arm:
    """Our arms with a filter that skips what matters; the references stay as they are."""
    if "mode" not in arm.settings:
        return arm
    return replace(arm, settings={**arm.settings, "filter_eps": 0.25})


def loss_of(settings: Mapping[str, Any], softcap: float | None = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """From hidden states `[tokens, width]`, head and labels to the mean loss; PyTorch's own knows no soft-cap."""
    if settings.get("pytorch"):
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=settings.get("chunk", 64))
        return functools.partial(F.linear_cross_entropy, options=chunks)  # type: ignore[arg-type]
    return functools.partial(linear_cross_entropy, softcap=softcap, **settings)  # type: ignore[return-value]


# ---- Memory and time of the loss alone -------------------------------------------------------------------------------

MEASURED: dict[str, dict[str, Any]] = {
    "dense": {"backend": "dense"},
    "pytorch": {"pytorch": True, "chunk": 128},
    "fused": {"mode": "fused", "filter_eps": None},
    "recompute": {"mode": "recompute", "filter_eps": None},
}


def prepare(context: Context) -> dict[str, float]:
    """Measure memory and time of the loss alone, in a process that does nothing else."""
    # A fixed threshold makes glibc give back what is freed; waiting threads that spin would slow what others do.
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "2",
    }
    code = "from tutelage.recipes.cce import _measure; _measure()"
    command = [sys.executable, "-c", code, json.dumps({key: context[key] for key in ("memory", "time")})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"Measuring memory and time failed:\n{done.stderr[-2000:]}")
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _measure() -> None:
    sizes = json.loads(sys.argv[1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(2)

    def subject(name: str, tokens: int, vocabulary: int, width: int) -> Callable[[], object]:
        generator = torch.Generator().manual_seed(0)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        hidden, weight = (
            torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
            for shape in ((tokens, width), (vocabulary, width))
        )
        target = torch.randint(vocabulary, (tokens,), generator=generator).to(device)
        loss = loss_of(MEASURED[name])
        return lambda: torch.autograd.grad(loss(hidden, weight, target), (hidden, weight))

    memory, timing = sizes["memory"], sizes["time"]
    subject("fused", 2, 2, 2)()  # what is loaded with the first call is not the loss's
    facts = {"head_gradient_mib": 4 * memory["vocabulary"] * memory["width"] / 2**20}
    for name in ("fused", "recompute", "dense"):
        for text, factor in (("", 1), ("_twice_the_vocabulary", 2)):
            if name == "fused" or factor == 1:
                run = subject(name, memory["tokens"], factor * memory["vocabulary"], memory["width"])
                before = _peak(device, anew=True)
                run()
                facts[f"memory_mib_{name}{text}"] = (_peak(device) - before) / 2**20
    runs = {name: subject(name, timing["tokens"], timing["vocabulary"], timing["width"]) for name in MEASURED}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(timing["turns"] + 1):  # the first is for warming up
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                taken[name].append(1e3 * (time.perf_counter() - started))
    facts |= {f"milliseconds_{name}": median(values) for name, values in taken.items()}
    print(json.dumps(facts))


def _peak(device: torch.device, *, anew: bool = False) -> int:
    """Peak memory in bytes: of the GPU, or of this process (since `anew`, where the system can tell)."""
    if device.type == "cuda":
        if anew:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# ---- Training --------------------------------------------------------------------------------------------------------


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Train one model with one loss; hold loss, gradients and filter against dense ones on what it has learned."""
    device = torch.device("cuda" if context.scale.name == "paper" else "cpu")
    train, test, vocabulary = _windows(context.scale)
    model = _model(context.scale, vocabulary).to(device)
    softcap = CausalHead.of(model).softcap
    loss = loss_of(arm.settings, softcap)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=context.scale.settings.get("learning_rate", 3e-3))
    values = []
    for _ in range(context["steps"]):
        batch = train[torch.randint(len(train), (context["batch"],), generator=generator)].to(device)
        value = loss(_hidden(model, batch), _head(model), batch[:, 1:].flatten())
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(value.item())
    last = values[-max(1, len(values) // 10) :]
    model.eval()
    with torch.no_grad():
        rows = test[:16].to(device)
        states, labels = _hidden(model, rows), rows[:, 1:].flatten()
        test_loss = loss_of(MEASURED["dense"], softcap)(states, _head(model), labels)
    found: Metrics = {"final_loss": sum(last) / len(last), "test_loss": test_loss.item()}
    checked = states[:512].detach().float(), _head(model).detach().float(), labels[:512]
    for dtype in (torch.float32, torch.float64):
        found[f"error_{str(dtype)[6:]}"] = _error(loss, loss_of(MEASURED["dense"], softcap), *checked, dtype)
    if arm.name == "dense":
        found |= filter_facts(*checked, tile=context["tile"])
    return found


def _hidden(model: Any, tokens: Tensor) -> Tensor:
    """Hidden states of all tokens of a window but the last, `[tokens, width]`."""
    return model.base_model(input_ids=tokens[:, :-1]).last_hidden_state.flatten(0, 1)  # type: ignore[no-any-return]


def _head(model: Any) -> Tensor:
    return CausalHead.of(model).layer.weight


def _gradients(loss: Callable[..., Any], hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    value = loss(*leaves, target)
    return (value.detach(), *torch.autograd.grad(value, leaves))


def _error(
    loss: Callable[..., Any],
    dense: Callable[..., Any],
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    dtype: torch.dtype,
) -> float:
    """The largest relative error of loss and both gradients (in norm) against the dense ones of the same dtype."""
    mine, theirs = (_gradients(one, hidden.to(dtype), weight.to(dtype), target) for one in (loss, dense))
    return max(float((one - other).norm() / other.norm()) for one, other in zip(mine, theirs, strict=True))


def filter_facts(hidden: Tensor, weight: Tensor, target: Tensor, *, tile: tuple[int, int]) -> dict[str, float]:
    """What the filter keeps in each order of the vocabulary, and what it does to the gradients.

    Args:
        hidden: `[tokens, width]`.
        weight: `[vocabulary, width]`.
        target: `[tokens]`.
        tile: Tokens and vocabulary entries of a tile.

    >>> generator = torch.Generator().manual_seed(0)
    >>> hidden, weight = torch.randn(2, 8, 4, generator=generator)
    >>> filter_facts(hidden, weight, torch.arange(8), tile=(4, 2))["kept_natural"]
    1.0
    """
    logits = hidden @ weight.t()
    vocabulary = len(weight)
    difference = logits.softmax(dim=1)
    difference[torch.arange(len(target)), target] -= 1
    orders = {
        "natural": torch.arange(vocabulary),
        "sorted": logits.mean(dim=0).argsort(stable=True),
        "random": torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0)),
    }
    found = {f"kept_{name}": _kept_share(difference[:, order], tile) for name, order in orders.items()}
    exact = _gradients(loss_of(MEASURED["recompute"]), hidden, weight, target)
    options = {**FILTERED, "block_size": tile}
    cut = _gradients(loss_of(options), hidden, weight, target)
    full = _gradients(loss_of({**options, "filter_classifier_grad": False}), hidden, weight, target)
    found["hidden_gradient_error"] = float((cut[1] - exact[1]).norm() / exact[1].norm())
    found["classifier_rows_of_zeros"] = float((cut[2].abs().amax(dim=1) == 0).float().mean())
    found["full_classifier_gradient_error"] = float((full[2] - exact[2]).norm() / exact[2].norm())
    return found


def _kept_share(difference: Tensor, tile: tuple[int, int]) -> float:
    kept = [
        bool((columns.abs() >= EPSILON).any())
        for rows in torch.split(difference, tile[0])
        for columns in torch.split(rows, tile[1], dim=1)
    ]
    return sum(kept) / len(kept)


@functools.cache
def _topics(vocabulary: int, length: int) -> tuple[Tensor, Tensor, int]:
    data = load_data("topics_text", tokenizer="bpe", vocab_size=vocabulary, length=length)
    batches = [part.batch(torch.arange(len(part))) for part in (data.train, data.test)]
    parts = []
    for batch in batches:
        inputs: Any = batch.inputs
        assert batch.target is not None
        parts.append(torch.cat([inputs["input_ids"], batch.target[:, -1:]], dim=1))
    return parts[0], parts[1], len(data.extras["tokenizer"])


def _windows(scale: Scale) -> tuple[Tensor, Tensor, int]:
    """Windows of tokens `[windows, length + 1]` to learn from and to test on, and the number of tokens there are."""
    settings = scale.settings
    if "texts" not in settings:
        return _topics(settings["vocabulary"], settings["length"])
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["pretrained"])
    rows = load_dataset(settings["texts"], split="train")
    text = "\n\n".join("\n".join(row[key] for key in ("instruction", "input", "output")) for row in rows)
    tokens = torch.tensor(tokenizer(text).input_ids)
    windows = tokens.unfold(0, settings["length"] + 1, settings["length"])
    return windows[:-16], windows[-16:], len(tokenizer)


def _model(scale: Scale, vocabulary: int) -> nn.Module:
    settings = scale.settings
    if "pretrained" not in settings:
        return causal_lm(vocabulary, max_length=settings["length"], **settings["model"])
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(settings["pretrained"], dtype=torch.bfloat16)
    return model


def describe(scale: Scale) -> dict[str, Any]:
    """Build the model of a scale (at `paper` without weights) and say how large head and logits are."""
    settings = scale.settings
    if "pretrained" in settings:
        from transformers import Gemma2Config, Gemma2ForCausalLM

        with torch.device("meta"):
            model: nn.Module = Gemma2ForCausalLM(Gemma2Config())  # the defaults are the 2B model's, but for its depth
    else:
        model = _model(scale, settings["vocabulary"])
    weight = _head(model)
    tokens = settings["batch"] * settings["length"]
    return {
        "model": f"{type(model).__name__}, {parameter_count(model):,} parameters",
        "head": f"{weight.shape[0]:,} × {weight.shape[1]:,}",
        "logits of a batch": f"{4 * tokens * weight.shape[0] / 2**20:,.0f} MiB in float32",
        "texts": settings.get("texts", "topics_text"),
    }


# ---- Claims ----------------------------------------------------------------------------------------------------------


def is_small(results: Results) -> Judgement:
    """Claim 1."""
    facts = results.facts
    share = facts["memory_mib_fused"] / facts["memory_mib_dense"]
    head = facts["head_gradient_mib"]
    growth = (facts["memory_mib_fused_twice_the_vocabulary"] - head) / facts["memory_mib_fused"]
    detail = (
        f"fused {facts['memory_mib_fused']:.0f} MiB, recompute {facts['memory_mib_recompute']:.0f}, dense "
        f"{facts['memory_mib_dense']:.0f}; growth of fused beyond the head's gradient {growth:.2f} times"
    )
    return Judgement(share, share <= 0.1 and growth < 1.2, detail=detail)


def is_fast(results: Results) -> Judgement:
    """Claim 2."""
    facts = results.facts
    ratio = facts["milliseconds_fused"] / facts["milliseconds_dense"]
    holds = ratio <= 1.15 and facts["milliseconds_fused"] < facts["milliseconds_pytorch"]
    names = ("fused", "recompute", "dense", "pytorch")
    detail = "2 threads; " + ", ".join(f"{name} {facts[f'milliseconds_{name}']:.0f} ms" for name in names)
    return Judgement(ratio, holds, detail=detail)


def is_exact(results: Results) -> Judgement:
    """Claim 3."""
    exact = [name for name in ("fused", "recompute") if name in results.arms]

    def most(kind: str) -> float:
        return max(float(results.values(name, f"error_{kind}").max()) for name in exact)

    single, double = most("float32"), most("float64")
    return Judgement(single, single <= 1e-5 and double <= 1e-10, detail=f"float64: {double:.1e}")


def filter_keeps_what_matters(results: Results) -> Judgement:
    """Claim 4."""

    def most(metric: str) -> float:
        return float(results.values("dense", metric).max())

    kept = {order: results.mean("dense", f"kept_{order}") for order in ("sorted", "natural", "random")}
    zeros = float(results.values("dense", "classifier_rows_of_zeros").min())
    error, full = most("hidden_gradient_error"), most("full_classifier_gradient_error")
    ordered = kept["sorted"] < min(kept["natural"], kept["random"])
    holds = ordered and kept["sorted"] < 0.5 and error < 0.01 and zeros > 0 and full <= 1e-5
    detail = (
        ", ".join(f"{order} {share:.0%}" for order, share in kept.items())
        + f" of the tiles; error of the hidden states' gradient {error:.1e}; rows of zeros {zeros:.0%}; "
        f"full C {full:.0e}"
    )
    return Judgement(kept["sorted"], holds, detail=detail)


def converges_alike(results: Results) -> Judgement:
    """Claim 5."""
    dense = results.values("dense", "final_loss")

    def distance(name: str) -> float:
        return float((abs(results.values(name, "final_loss") - dense) / dense).max())

    ours = {name: distance(name) for name in results.arms if name != "dense"}
    worst = max(value for name, value in ours.items() if name in ("fused", "recompute"))
    return Judgement(worst, worst < 1e-3, detail=", ".join(f"{name} {value:.1e}" for name, value in ours.items()))


recipe = Recipe(
    slug="cce",
    scales=SCALES,
    arms=arms,
    run_arm=run_arm,
    prepare=prepare,
    describe=describe,
    breakages={"coarse-filter": with_a_coarse_filter},
    claims=(
        Claim(
            "memory",
            "The loss with its gradients takes a small part of the memory of the dense one, and no more when the "
            "vocabulary doubles.",
            "peak memory of fused ≤ 10 % of dense, and growth < 1.2 times when the vocabulary doubles, beyond that of "
            "the head's gradient",
            is_small,
            published="28 GB → 1 GB (Gemma 2 2B, A100)",
        ),
        Claim(
            "speed",
            "It is not slower.",
            "median time of fused ≤ 1.15 × dense and < PyTorch's chunked loss, in turns in one process with 2 threads",
            is_fast,
            published="145 ms against 143 ms compiled and 208 ms plain",
        ),
        Claim(
            "exactness",
            "It is the same loss with the same gradients.",
            "relative error of loss and gradients ≤ 1e-5 in float32 and ≤ 1e-10 in float64, on the trained head, at "
            "most over seeds",
            is_exact,
        ),
        Claim(
            "filtering",
            "Skipping tiles of small gradients keeps what matters, and sorting the vocabulary skips more.",
            "at 2⁻¹², sorted order keeps fewer tiles than natural and random order, and < 50 %; error of the hidden "
            "states' gradient < 1 %; some rows of the head's gradient are exactly zero; with the head's gradient "
            "unfiltered its error is ≤ 1e-5",
            filter_keeps_what_matters,
            published="fewer than 0.02 % of probabilities reach 2⁻¹²; backward 3.5 times as fast, 15 % more by sorting",
        ),
        Claim(
            "convergence",
            "Training is the same.",
            "final training losses of fused and recompute (each the mean of the last tenth of the steps) differ from "
            "dense by < 1e-3 relative, at most over seeds",
            converges_alike,
            published="curves coincide (4 models, 5 seeds)",
        ),
    ),
)
