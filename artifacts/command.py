"""The command layer shared by every ``python -m PACKAGE.VERB``: parse, run, say, exit.

A command is a frozen dataclass with ``run()``; help is the text under each field. Only this module
and the command modules print. Nothing here imports torch, so ``--help`` stays fast.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

import tyro

from artifacts.errors import TheodoliteError

if TYPE_CHECKING:
    JsonValue = str | int | float | bool | None | Mapping[str, "JsonValue"] | Sequence["JsonValue"]
else:
    JsonValue = object  # run-time type checkers cannot resolve a recursive alias


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command talks."""

    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Show the traceback of an error."""


OutputFlags = Annotated[Output, tyro.conf.arg(name="")]
"""Annotation for a command's ``output`` field: gives the flat flags --json --quiet --debug."""


@runtime_checkable
class Command(Protocol):
    """A parsed command."""

    def run(self) -> int | None:
        """Do the work; None means exit code 0."""
        ...


def main(command_class: type[Command], argv: Sequence[str] | None = None) -> int:
    """Parse ``argv`` into ``command_class``, run it and return the exit code.

    Exit codes: 0 done; 2 the user's input; 3 environment or I/O; 4 the result did not beat its
    control; 130 interrupted. Errors are one line on stderr; ``--debug`` adds the traceback.

    Args:
        command_class: a frozen dataclass with ``run()``.
        argv: arguments without the program name; None takes them from ``sys.argv``.

    Returns:
        The exit code. Usage errors and ``--help`` raise ``SystemExit`` from the parser.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        # Options refuse values of their own when the parser makes them.
        command = tyro.cli(
            command_class,
            args=arguments,
            prog=_program(command_class),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        code = command.run() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except TheodoliteError as error:
        return _fail(str(error), error.exit_code, debug=debug)
    except OSError as error:
        return _fail(str(error), 3, debug=debug)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to resume", 130, debug=debug)


def emit_json(value: Mapping[str, JsonValue]) -> None:
    """Print ``value`` as one JSON object on one line of stdout; NaN is refused."""
    print(json.dumps(value, allow_nan=False, ensure_ascii=False))  # noqa: T201 - command layer


def emit_line(text: str = "") -> None:
    """Print one line of text on stdout, exactly as given."""
    print(text)  # noqa: T201 - command layer


def emit_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; cells are text, never markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    class Console(RichConsole):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # main() ends quietly; rich would exit with code 1

    headed = any(columns)
    table = Table(
        title=Text(title), title_justify="left", box=SIMPLE_HEAD, show_header=headed, pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _program(command_class: type[Command]) -> str | None:
    module = sys.modules[command_class.__module__]
    spec = getattr(module, "__spec__", None)
    return None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    line = " ".join(message.split()) or "unknown failure; run again with --debug"
    print(f"error: {line}", file=sys.stderr)  # noqa: T201 - command layer
    return code
