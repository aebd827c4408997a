"""The same work without a window.

Exit codes: 0 done, 1 the work failed (one sentence on standard error), 2 wrong usage, 3 refused for
safety, 130 cancelled. With ``--json`` standard output holds exactly one JSON object.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from napari_medseg import __version__
from napari_medseg.case import CancelledError, MedsegError
from napari_medseg.cli import commands, comparing, evaluating, segmenting

app = typer.Typer(
    name="napari-medseg",
    help="Segment medical images, see where models are wrong, put labels right. Research use, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


for _command in (
    commands.demo,
    commands.doctor,
    commands.info,
    commands.models,
    commands.add,
    segmenting.segment,
    evaluating.evaluate,
    comparing.compare,
    commands.export,
):
    app.command()(_command)

# typer brings click along in some versions and uses the installed one in others; its base of all usage errors:
_UsageProblem: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"napari-medseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options of every command."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    # processors that wait for each other by spinning starve whatever else runs here; read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    # --debug is understood anywhere, so that it can simply be added to a command that failed
    debug = "--debug" in given
    given = [a for a in given if a != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")
    for name in ("SIGTERM", "SIGHUP"):
        if threading.current_thread() is threading.main_thread() and hasattr(signal, name):
            # schedulers and closed terminals end work so; it then cleans up as after Ctrl-C
            signal.signal(getattr(signal, name), signal.default_int_handler)
    sys.exit(_run(given, debug))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        code = app(arguments, prog_name="napari-medseg", standalone_mode=False)
    except _UsageProblem as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = CancelledError.exit_code
    except Exception as error:
        if debug:
            raise
        typer.echo(_sentence(error), err=True)
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        return error.exit_code if isinstance(error, MedsegError) else 1
    if code == CancelledError.exit_code:
        typer.echo("Cancelled.", err=True)
    return int(code or 0)


def _sentence(error: Exception) -> str:
    if isinstance(error, MedsegError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        name = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        return f"The system refused: {error.strerror}{name}. Free space or choose another place, then run again."
    return f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the details."
