"""Start-up: `import tutelage` over `import torch`, and `tutelage --help`.

Targets: at most 0.25 s more than `import torch` alone; help in under a second. Every measurement is a fresh process;
imports are timed inside it, once torch is there. Importing the package loads no room, so what a user pays when a name
is first used is shown beside it, without a target.

Run `python -m benchmarks.import_time`.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.harness import record
from benchmarks.records import Spread

OVER_TORCH, HELP, TURNS = 0.25, 1.0, 7

IMPORTS = {
    "import tutelage": "import tutelage",
    "a first objective": "from tutelage.objectives import knowledge_distillation",
    "tutelage.distill": "from tutelage import distill",
}


def seconds_over_torch(statement: str) -> float:
    """Seconds that a statement takes in a fresh process that has imported torch."""
    code = f"import time, torch; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def seconds_of_help() -> float:
    """Seconds from the call of `tutelage --help` to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tutelage", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, record; exit with 1 when a target is missed."""
    seconds_of_help(), seconds_over_torch("import tutelage")  # files come from the disk the first time
    help_seconds: list[float] = []
    imports: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(TURNS):
        help_seconds.append(seconds_of_help())
        for name, statement in IMPORTS.items():
            imports[name].append(seconds_over_torch(statement))
    over_torch = {name: Spread.of(values) for name, values in imports.items()}
    shown = Spread.of(help_seconds)
    for name, spread in over_torch.items():
        print(f"{name:20}{spread!s:>32} s over import torch")
    print(f"{'tutelage --help':20}{shown!s:>32} s")
    met = {"import": over_torch["import tutelage"].median <= OVER_TORCH, "help": shown.median < HELP}
    print(f"import tutelage at most {OVER_TORCH} s over torch: {'met' if met['import'] else 'MISSED'}")
    print(f"tutelage --help in under {HELP} s: {'met' if met['help'] else 'MISSED'}")
    record(
        "import_time",
        {
            "seconds_over_torch": {name: spread.record() for name, spread in over_torch.items()},
            "help_seconds": shown.record(),
            "targets": {"seconds_over_torch": OVER_TORCH, "help_seconds": HELP},
            "met": met,
        },
    )
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
