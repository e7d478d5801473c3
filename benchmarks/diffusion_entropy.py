"""Diffusion spectral entropy of many samples: the estimate against the plain dense eigen-decomposition.

The dense path builds the N × N matrix in float64 and takes all eigenvalues by `torch.linalg.eigvalsh`. The samples are
what layers give: rectified random features of Gaussian points in 10 dimensions, with noise, 64 wide. Bandwidths are 0.5
and 1 times the median distance, times 1, 2 and 4. For each case: how many times as fast as the dense path the estimate
is, with the matrix kept and with its rows computed anew, its error and the bound that it gives. Then the peak memory of
both forms beside that of the N × N matrix in float64, and what N = 10 000 takes.

Run `python -m benchmarks.diffusion_entropy`; with `--size 1000` a small trial that writes nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import peak_memory, record, side_by_side
from tutelage.assessment import (
    EntropyEstimate,
    diffusion_spectrum,
    estimate_diffusion_spectral_entropy,
    median_bandwidth,
)
from tutelage.assessment.diffusion_entropy import spectral_entropy

SAMPLES, THREADS, WIDTH, TURNS = 5000, 2, 64, 3
BANDWIDTHS, TIMES, FORMS = (1.0, 0.5), (2, 4, 1), ("kept", "computed anew")
CLAIMED = (1.0, 2)  # the bandwidth over the median distance, and the time, at which the claim is judged


def samples(count: int) -> Tensor:
    """`[count, 64]` float32."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, 10, generator=generator)
    turned = points @ torch.randn(10, WIDTH, generator=generator)
    return (turned + 0.3 * torch.randn(count, WIDTH, generator=generator)).relu()


def dense(x: Tensor, factor: float) -> Callable[[], object]:
    bandwidth = median_bandwidth(x[:1000], factor=factor)
    return lambda: spectral_entropy(diffusion_spectrum(x, bandwidth=bandwidth))


def estimate(
    x: Tensor, factor: float, steps: int, *, store: bool = True, seed: int = 0
) -> Callable[[], EntropyEstimate]:
    bandwidth = median_bandwidth(x[:1000], factor=factor)
    return lambda: estimate_diffusion_spectral_entropy(
        x,
        bandwidth=bandwidth,
        time=steps,
        store_matrix=store,
        generator=torch.Generator().manual_seed(seed),
    )


def peak(form: str, count: str) -> Callable[[], object]:
    """For a process of its own."""
    torch.set_num_threads(THREADS)
    x = samples(int(count))
    estimate(x[:800], *CLAIMED, store=False)()  # what is set up once is no part of it
    if form == "dense":
        return dense(x, CLAIMED[0])
    return estimate(x, *CLAIMED, store=form == "kept")


def measure(size: int = SAMPLES, *, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, only what `make bench-check` compares."""
    torch.set_num_threads(THREADS)
    x = samples(size)
    times = CLAIMED[1:] if quick else TIMES
    rows = []
    for factor in CLAIMED[:1] if quick else BANDWIDTHS:
        spectrum = diffusion_spectrum(x, bandwidth=median_bandwidth(x[:1000], factor=factor))
        subjects = {
            f"{form} {steps}": estimate(x, factor, steps, store=form == "kept") for steps in times for form in FORMS
        }
        timings = side_by_side({"dense": dense(x, factor), **subjects}, turns=TURNS, warm_up=1)
        for steps in times:
            exact = spectral_entropy(spectrum, time=steps).item()
            found = [estimate(x, factor, steps, seed=seed)() for seed in range(3)]  # of the random block
            rows.append(
                {
                    "bandwidth_over_median": factor,
                    "time": steps,
                    "entropy_bits": round(exact, 4),
                    "seconds": {name: round(timings.of(f"{name} {steps}").median, 3) for name in FORMS}
                    | {"dense": round(timings.of("dense").median, 3)},
                    "dense_over_estimate": {name: timings.ratio("dense", f"{name} {steps}").record() for name in FORMS},
                    "largest_relative_error": float(f"{max(abs(one.value - exact) for one in found) / exact:.2g}"),
                    "largest_relative_bound": float(f"{max(one.error_bound for one in found) / exact:.2g}"),
                    "within_bounds": all(one.low <= exact <= one.high for one in found),
                    "rank": max(one.rank for one in found),
                }
            )
            print(rows[-1], flush=True)
    if quick:
        return {"cases": rows}
    memory = {
        form: round(peak_memory("benchmarks.diffusion_entropy:peak", form, str(size)) / 2**20, 1)
        for form in ("dense", *FORMS)
    }
    memory["matrix, float64"] = round(8 * size**2 / 2**20, 1)
    print(memory, flush=True)
    many = samples(2 * size)
    seconds = {}
    for form in FORMS:
        run = estimate(many, *CLAIMED, store=form == "kept")
        started = time.perf_counter()
        run()
        seconds[form] = round(time.perf_counter() - started, 2)
    print(f"N = {2 * size}: {seconds}", flush=True)
    claimed = next(row for row in rows if (row["bandwidth_over_median"], row["time"]) == CLAIMED)
    ratio = claimed["dense_over_estimate"]["kept"]["median"]
    error = claimed["largest_relative_error"]
    print(f"At {CLAIMED}: {ratio:.1f} times as fast, error {error}.")
    return {
        "samples": size,
        "claimed_case": {"bandwidth_over_median": CLAIMED[0], "time": CLAIMED[1]},
        "ten_times_as_fast_within_a_thousandth": ratio >= 10 and error <= 1e-3,
        "less_memory_than_the_matrix": memory["computed anew"] < memory["matrix, float64"],
        "cases": rows,
        "peak_mib": memory,
        "seconds_for_twice_as_many": seconds,
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=SAMPLES)
    size = parser.parse_args().size
    results = measure(size)
    if size == SAMPLES:
        record("diffusion_entropy", results)


if __name__ == "__main__":
    main()
