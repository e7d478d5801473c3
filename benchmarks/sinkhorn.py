"""Sinkhorn plans: forward and backward against POT's and GeomLoss's PyTorch back-ends, at equal accuracy.

All get the same cost matrices (L1 distances between predictions of B samples over C classes), uniform masses, ε = 0.1
and float32, and as many iterations as each needs for a marginal error Σ_i |Σ_j P_ij − a_i| of at most 1e-6. What is
timed is Σ P·W and its gradient with respect to W: through the iterations for POT and us (`plan`), and with the plan
taken as given for GeomLoss, which knows no other, and us (`given`). GeomLoss lowers ε step by step, which pays for
small ε; here it hinders, so its loop is also run with ε as it is. Then what the whole loss costs, and its peak memory
beside the [B, B, C] that it must not build.

Run `python -m benchmarks.sinkhorn`. GeomLoss is no dependency of this project; where it is not installed it is skipped
(`pip install --no-deps geomloss` into a copy of the environment).
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import ot
import torch
from torch import Tensor

from benchmarks.harness import peak_memory, record, side_by_side
from tutelage.objectives import pairwise_l1_distance, sinkhorn_distillation, sinkhorn_plan

THREADS, EPSILON, TOLERANCE = 2, 0.1, 1e-6
SIZES = [(batch, classes) for batch in (64, 128, 256, 512) for classes in (10, 100, 1000)]
MOST_ITERATIONS = 2000
GEOMLOSS = importlib.util.find_spec("geomloss") is not None

Solver = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""From cost, masses and iterations: the plan, and the value whose gradient is taken."""


def ours_plan(cost: Tensor, masses: Tensor, n_iters: int) -> tuple[Tensor, Tensor]:
    plan = sinkhorn_plan(cost, epsilon=EPSILON, n_iters=n_iters, a=masses, b=masses)
    return plan, (plan * cost).sum()


def ours_given(cost: Tensor, masses: Tensor, n_iters: int) -> tuple[Tensor, Tensor]:
    plan = sinkhorn_plan(cost.detach(), epsilon=EPSILON, n_iters=n_iters, a=masses, b=masses)
    return plan, (plan * cost).sum()


def pot(method: str) -> Solver:
    def solve(cost: Tensor, masses: Tensor, n_iters: int) -> tuple[Tensor, Tensor]:
        plan = ot.sinkhorn(masses, masses, cost, EPSILON, method=method, numItermax=n_iters, stopThr=0, warn=False)
        return plan, (plan * cost).sum()

    return solve


def geomloss(*, annealed: bool) -> Solver:
    def solve(cost: Tensor, masses: Tensor, n_iters: int) -> tuple[Tensor, Tensor]:
        from geomloss.ot._implementations import matrix

        parameters = matrix.annealing_parameters
        if not annealed:  # no public option
            matrix.annealing_parameters = partial(parameters, scaling=1.0)
        try:
            solution = matrix.solve(cost, reg=EPSILON, a=masses, b=masses, max_iter=n_iters)
        finally:
            matrix.annealing_parameters = parameters
        return solution.plan, solution.value

    return solve


SOLVERS: dict[str, Solver] = {
    "ours, plan": ours_plan,
    "ours, given": ours_given,
    "POT": pot("sinkhorn"),
    "POT, logarithms": pot("sinkhorn_log"),
    **({"GeomLoss": geomloss(annealed=True), "GeomLoss, ε as it is": geomloss(annealed=False)} if GEOMLOSS else {}),
}


def problem(batch: int, classes: int) -> tuple[Tensor, Tensor]:
    """A cost and uniform masses: a teacher that gives its class about 0.9 at temperature 2, a student half as far."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch, classes, generator=generator)
    target = torch.randint(classes, (batch, 1), generator=generator)
    teacher = teacher.scatter_add(1, target, torch.full(target.shape, 2 * math.log(9 * classes)))
    student = 0.5 * student + 0.5 * teacher
    cost = pairwise_l1_distance((student / 2).softmax(dim=1), (teacher / 2).softmax(dim=1))
    return cost, torch.full((batch,), 1 / batch)


def iterations_needed(solver: Solver, cost: Tensor, masses: Tensor) -> int | None:
    """The fewest iterations, within a tenth, that reach the tolerance; None when `MOST_ITERATIONS` do not."""

    def reached(n_iters: int) -> bool:
        return marginal_error(solver(cost, masses, n_iters)[0], masses) <= TOLERANCE

    too_few, enough = 1, MOST_ITERATIONS
    if not reached(enough):
        return None
    while enough > 1.1 * too_few and enough > too_few + 1:
        middle = round((too_few * enough) ** 0.5)
        too_few, enough = (too_few, middle) if reached(middle) else (middle, enough)
    return enough


def marginal_error(plan: Tensor, masses: Tensor) -> float:
    plan, masses = plan.detach().double(), masses.double()
    return max((plan.sum(dim=dim) - masses).abs().sum().item() for dim in (0, 1))


def forward_and_backward(solver: Solver, cost: Tensor, masses: Tensor, n_iters: int) -> Callable[[], object]:
    def run() -> None:
        leaf = cost.detach().requires_grad_()
        torch.autograd.grad(solver(leaf, masses, n_iters)[1], leaf)

    return run


def loss(name: str, batch: str, classes: str) -> Callable[[], object]:
    """Forward and backward of the whole loss, as it is or with all differences at once, for a process of its own."""
    torch.set_num_threads(THREADS)
    student, teacher = torch.randn(2, int(batch), int(classes))

    def naive(logits: Tensor) -> Tensor:
        x, y = (logits / 2).softmax(dim=1), (teacher / 2).softmax(dim=1)
        cost = (x[:, None] - y).abs().sum(dim=-1)
        plan = (-cost / EPSILON).exp()
        for _ in range(20):
            plan = plan / plan.sum(dim=1, keepdim=True)
            plan = plan / plan.sum(dim=0, keepdim=True)
        return (plan * cost).sum()

    def run() -> None:
        logits = student.detach().requires_grad_()
        value = naive(logits) if name == "naive" else sinkhorn_distillation(logits, teacher)
        torch.autograd.grad(value, logits)

    return run


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, only what `make bench-check` compares."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(THREADS)
    if not GEOMLOSS:
        print("GeomLoss is not installed and is skipped.")
    sizes, solvers, losses = SIZES, SOLVERS, [(64, 1000), (512, 100), (512, 1000)]
    if quick:
        sizes, losses = [(64, 100), (256, 100)], losses[:1]
        solvers = {name: SOLVERS[name] for name in ("ours, plan", "POT", "POT, logarithms")}
    rows = []
    for batch, classes in sizes:
        cost, masses = problem(batch, classes)
        needed = {name: iterations_needed(solver, cost, masses) for name, solver in solvers.items()}
        subjects = {
            name: forward_and_backward(SOLVERS[name], cost, masses, n_iters)
            for name, n_iters in needed.items()
            if n_iters is not None
        }
        # What comes first in a turn finds cold caches, so neither end of it is judged.
        judged = {"first": subjects["POT"], **subjects, "last": subjects["POT"]}
        timings = side_by_side(judged, turns=31, warm_up=2)
        row = {"batch": batch, "classes": classes, "iterations": needed, "milliseconds": {}, "times_ours": {}}
        for name in subjects:
            ours = "ours, plan" if name.startswith("POT") else "ours, given"
            row["milliseconds"][name] = round(1e3 * timings.of(name).median, 2)
            if name not in ("ours, plan", "ours, given"):
                row["times_ours"][name] = timings.ratio(name, ours).record()
        rows.append(row)
        shown = ", ".join(f"{name} {needed[name]} × → {row['milliseconds'].get(name)} ms" for name in solvers)
        print(f"B {batch:4} C {classes:5}: {shown}", flush=True)
    ratios = [ratio["median"] for row in rows for ratio in row["times_ours"].values()]
    unreached = [name for row in rows for name, n_iters in row["iterations"].items() if n_iters is None]
    whole: list[dict[str, Any]] = []
    for batch, classes in losses:
        run = {name: loss(name, str(batch), str(classes)) for name in ("ours", "naive")}
        timings = side_by_side(run, turns=5, warm_up=1)
        whole.append(
            {
                "batch": batch,
                "classes": classes,
                "naive_over_ours": timings.ratio("naive", "ours").record(),
                "milliseconds": {name: round(1e3 * timings.of(name).median, 1) for name in run},
            }
        )
        if not quick:
            arguments = str(batch), str(classes)
            peak = {name: peak_memory("benchmarks.sinkhorn:loss", name, *arguments) / 2**20 for name in run}
            whole[-1]["peak_mib"] = {name: round(value, 1) for name, value in peak.items()}
            whole[-1]["differences_mib"] = round(4 * batch * batch * classes / 2**20, 1)
        print(f"whole loss: {whole[-1]}", flush=True)
    print(f"The smallest ratio is {min(ratios):.2f}.")
    return {
        "epsilon": EPSILON,
        "tolerance": TOLERANCE,
        "versions": {"POT": version("POT"), "GeomLoss": version("geomloss") if GEOMLOSS else None},
        "faster_than_all_everywhere": min(ratios) > 1,
        "smallest_ratio": min(ratios),
        "never_reached_the_tolerance": sorted(set(unreached)),
        "plans": rows,
        "whole_loss": whole,
    }


def main() -> None:
    """Measure, print, and write the result."""
    path = record("sinkhorn", measure())
    print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
