"""Runs the demo and puts what it printed, and a picture of its report, into README.md: `make refresh-demo`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- demo output: begin -->", "<!-- demo output: end -->"


def with_output(text: str, output: str) -> str:
    """A page with what stands between its two marks replaced by a block of output."""
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"Expected the page to hold {BEGIN} and, after it, {END}.")
    return f"{head}{BEGIN}\n\n```text\n{output.strip()}\n```\n\n{END}{tail}"


def last_table(printed: str) -> str:
    """What the demo ends with: the results table and the closing lines."""
    lines = printed.splitlines()
    start = max(number for number, line in enumerate(lines) if line.startswith("Model "))
    return "\n".join(line.rstrip() for line in lines[start:])


def picture_of(page: Path, picture: Path) -> None:
    """The first screen of a page, as headless Chromium draws it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("No Chromium here: the picture stays as it is.")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,1400"]
    subprocess.run([browser, *options, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Run, write, draw."""
    with tempfile.TemporaryDirectory() as place:
        command = [str(Path(sys.executable).with_name("tutelage")), "distill"]
        ran = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
        readme = ROOT / "README.md"
        readme.write_text(with_output(readme.read_text(), last_table(ran.stdout)))
        page = next(Path(place).glob("runs/*/report.html"))
        picture_of(page, ROOT / "docs" / "assets" / "report-card.png")


if __name__ == "__main__":
    main()
