"""`tutelage systems`."""

from __future__ import annotations

from typing import Annotated

import typer


def systems(
    search: Annotated[str, typer.Option(help="Only systems that these words are about, best first.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything the catalogue holds.")] = False,
) -> None:
    """List the 57 published systems: what each does, and whether it works here yet."""
    import json

    from tutelage.reproduction import catalogue
    from tutelage.reproduction.presentation import print_table, system_table

    listed = catalogue.search(search) if search else list(catalogue.systems())
    if as_json:
        print(json.dumps([system.to_dict() for system in listed], ensure_ascii=False, indent=2))
    elif not listed:
        print(f"No system is about {search!r}.")
    else:
        print_table(system_table(listed))
