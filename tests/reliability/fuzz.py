"""Coverage-guided fuzzing of configs and cache manifests by Atheris: `python -m tests.reliability.fuzz WHAT SECONDS`.

Atheris watches which branches an input reaches and goes on from those that reach new ones. It ends with an error at the
first input that gives anything else than a clear line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import atheris

WATCHED = ["yaml", "json", "pydantic", "tutelage.config", "tutelage.files", "tutelage.teachers.cache_manifest"]

with atheris.instrument_imports(include=WATCHED):
    import tutelage.config
    import tutelage.files
    import tutelage.teachers.cache_manifest  # noqa: F401

from tests.reliability.readers import readers  # noqa: E402
from tests.reliability.test_damage import check  # noqa: E402
from tutelage.files import write_sealed_json  # noqa: E402

FILES = {"config": "config.yaml", "teacher cache": "manifest.json"}


def main() -> None:
    """Fuzz one reader for so many seconds."""
    what, seconds = sys.argv[1:]
    reader, folder = readers()[what], Path(tempfile.mkdtemp())
    place, corpus = folder / "given" / FILES[what], folder / "corpus"
    for one in (place.parent, corpus):
        one.mkdir()
    reader.make(place.parent)
    good = reader.read(place.parent)
    (corpus / "good").write_bytes(place.read_bytes())

    def one_input(content: bytes) -> None:
        place.write_bytes(content)
        if what == "teacher cache":  # its checksum would stop nearly all, so it is made to fit
            with contextlib.suppress(ValueError, AttributeError, RecursionError):
                found = json.loads(content)
                found.pop("seal", None)
                write_sealed_json(place, found)
        check(dataclasses.replace(reader, sealed=False), place.parent, good, repr(content[:500]))

    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/"]
    options += ["-max_len=4096", "-timeout=20", "-rss_limit_mb=4096", "-seed=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
