"""What the children do with strangers' files: read them with little memory and time; one line says what is wrong."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def read(name: str, folder: str, megabytes: int = 1024, seconds: int = 60) -> None:
    """Read what lies in a folder; exit status 3 and one line stand for an error that a person can mend."""
    from tests.reliability.readers import readers

    reader = readers()[name]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds))
    try:
        print(reader.read(Path(folder)))
    except (ValueError, OSError) as error:
        print(error)
        sys.exit(3)
