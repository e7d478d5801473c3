"""Every command says what each of its arguments and options is for."""

from __future__ import annotations

import typer.main
from click import Command, Context
from typer.testing import CliRunner

from tutelage.cli import app

COMMANDS: dict[str, Command] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_parameter_is_explained_where_a_user_sees_it() -> None:
    for name, command in COMMANDS.items():
        shown = " ".join(CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "400"}).output.split())
        with Context(command) as context:
            for parameter in command.get_params(context):
                text = getattr(parameter, "help", None)
                assert text, f"`tutelage {name}` does not explain {parameter.name}"
                assert " ".join(text.replace("`", "").split()[:4]) in shown.replace("`", ""), (name, parameter.name)
