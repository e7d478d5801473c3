"""Alignment of two tokenizations: bytes of text a second on one core, for whole documents and for short windows.

The bar is 1 MB/s: above it, a training step waits for its models and not for the alignment. Subjects: `align_tokens`
(which also compares the texts) from tokens that are spelled as bytes already, and the same chunks as the intersection
of the byte positions at which tokens end, by NumPy, unchecked. Then, for samples as they are trained on, the whole way
from texts to padded ids and chunk numbers (`ApproximateLikelihoodMatching.samples`), which is mostly the tokenizers.
CPU time of this process, on one thread.

Run `python -m benchmarks.alignment`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.harness import record, side_by_side
from tutelage.data import ByteTokenizer, train_bpe
from tutelage.data.byte_level import byte_level_tokens
from tutelage.data.topics_text import read_topics
from tutelage.objectives import ApproximateLikelihoodMatching, align_tokens

BAR = 1e6
WINDOW = 192
PAIRS = [("1024 pairs", "512 pairs"), ("1024 pairs", "bytes"), ("4096 pairs", "1024 pairs")]


def intersection(teacher: Sequence[bytes], student: Sequence[bytes]) -> list[tuple[int, int, int, int]]:
    """Chunks end where a token ends on either side."""
    ends = [np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens))) for tokens in (teacher, student)]
    _, last_i, last_j = np.intersect1d(ends[0], ends[1], assume_unique=True, return_indices=True)
    edges = [np.concatenate([[0], last + 1]).tolist() for last in (last_i, last_j)]
    return [(i0, i1, j0, j1) for (i0, i1), (j0, j1) in zip(*map(itertools.pairwise, edges), strict=True)]


def spelled(tokenizer: Any, text: str) -> list[bytes]:
    ids = tokenizer.encode(text) if isinstance(tokenizer, ByteTokenizer) else tokenizer(text)["input_ids"]
    return byte_level_tokens(tokenizer, ids)


def align_all(align: Callable[..., Any], pairs: Sequence[tuple[list[bytes], list[bytes]]]) -> None:
    for pair in pairs:
        align(*pair)


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record; quickly, only what `make bench-check` compares."""
    torch.set_num_threads(1)
    text = read_topics()
    cut = [text[start : start + WINDOW] for start in range(0, len(text), WINDOW)]
    lines = text.splitlines(True)
    tokenizers = {"1024 pairs": train_bpe(lines[::2], 1024), "512 pairs": train_bpe(lines[1::2], 512)}
    if not quick:
        tokenizers |= {"4096 pairs": train_bpe(lines, 4096), "bytes": ByteTokenizer()}
    size = len(text.encode())
    rows: list[dict[str, Any]] = []
    found: list[float] = []
    for first, second in PAIRS[:1] if quick else PAIRS:
        one, other = tokenizers[first], tokenizers[second]
        for name, texts in (("documents", [text]), ("windows", cut)):
            pairs = [(spelled(one, piece), spelled(other, piece)) for piece in texts]
            if any(align_tokens(*pair) != intersection(*pair) for pair in pairs):
                raise AssertionError(f"Expected the same chunks, but {first} to {second} gives others.")
            timings = side_by_side(
                {
                    "align_tokens": partial(align_all, align_tokens, pairs),
                    "intersection": partial(align_all, intersection, pairs),
                },
                turns=9,
                warm_up=1,
                clock=time.process_time,
            )
            speed = {subject: size / timings.of(subject).median for subject in timings.seconds}
            ratio = timings.ratio("intersection", "align_tokens")
            rows.append(
                {
                    "teacher": first,
                    "student": second,
                    "texts": name,
                    "megabytes_per_second": {subject: round(value / 1e6, 2) for subject, value in speed.items()},
                    "times_ours": ratio.record(),
                    "above_the_bar": speed["align_tokens"] >= BAR,
                }
            )
            found.append(speed["align_tokens"] / 1e6)
            shown = ", ".join(f"{subject} {value / 1e6:.2f} MB/s" for subject, value in speed.items())
            print(f"{first} to {second}, {name}: {shown}; intersection / ours {ratio}", flush=True)
    if quick:
        return {"rows": rows}
    alm = ApproximateLikelihoodMatching(tokenizers["1024 pairs"], tokenizers["512 pairs"])
    timings = side_by_side({"samples": lambda: alm.samples(cut)}, turns=5, warm_up=1, clock=time.process_time)
    whole = size / timings.of("samples").median / 1e6
    slowest = round(min(found), 2)
    print(f"Slowest {slowest} MB/s; texts to samples {whole:.2f} MB/s.")
    return {
        "bytes": size,
        "window": WINDOW,
        "bar_megabytes_per_second": BAR / 1e6,
        "slowest_megabytes_per_second": slowest,
        "texts_to_samples_megabytes_per_second": round(whole, 2),
        "rows": rows,
    }


def main() -> None:
    """Measure, print, and write the result."""
    path = record("alignment", measure())
    print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
