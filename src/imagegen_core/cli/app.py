"""The ``imagegen`` command: its groups, its exit codes, and one sentence per error."""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Annotated

import typer

from imagegen_core.cli import (
    bench,
    cluster,
    config,
    console,
    generate,
    models,
    plugins,
    replay,
    serve,
    streams,
    styles,
    upscale,
)
from imagegen_core.distributions import installed_version, leave_out_broken_distributions
from imagegen_core.errors import (
    DeadlineError,
    EngineClosedError,
    ImagegenError,
    OutOfMemoryError,
    StorageError,
    WriteError,
)
from imagegen_core.importing import unexpected
from imagegen_core.plugins.registry import Registry

_FAILED = 1
_WRONG_INPUT = 2
_INTERRUPTED = 130  # 128 + SIGINT, as in shells
_NOBODY_READS = 1  # the same code as typer's, which may detect it first
_OF_STREAMS = (errno.EBADF, errno.EIO, errno.ENOSPC)
_FAILURES = (DeadlineError, EngineClosedError, OutOfMemoryError, StorageError, WriteError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Args:
        arguments: The words after ``imagegen``; None takes the process's.
    """
    streams.prepare()
    _name_temporary_folder()
    leave_out_broken_distributions()
    logging.basicConfig(handlers=[console.LogHandler()], level=logging.WARNING, format="%(message)s")
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        streams.flush()
    except typer.TyperException as error:
        console.complain(_usage_sentence(error))
        code = error.exit_code
    except BrokenPipeError:  # `head` closes the pipe after enough lines
        code = _NOBODY_READS
    except ImagegenError as error:
        console.complain(str(error))
        code = _FAILED if isinstance(error, _FAILURES) else _WRONG_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except OSError as error:
        console.complain(_system_sentence(error))
        code = _FAILED
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        console.complain(unexpected(error))
        code = _FAILED
    if code == _INTERRUPTED:
        console.complain("Interrupted")
    try:
        streams.flush()
    except (OSError, WriteError):  # reported above
        streams.discard(sys.stdout)
    sys.exit(code)


def _name_temporary_folder() -> None:
    """Name a temporary folder even if none is writable: torch asks `tempfile` for one at import."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - nothing is written there


def _run(words: Sequence[str]) -> int:
    app = build_app()
    if next((word for word in words if not word.startswith("-")), None) not in own_commands(app):
        Registry.discover().add_commands(app)  # imagegen's own commands do not wait for plugins
    code: int = app(args=words, prog_name="imagegen", standalone_mode=False)
    return code


def own_commands(app: typer.Typer) -> list[str]:
    """List the names of the commands and groups from `build_app`."""
    commands = [command.name for command in app.registered_commands]
    return [str(name) for name in (*commands, *(group.name for group in app.registered_groups))]


def build_app() -> typer.Typer:
    """Build the command line with imagegen's own commands; a registry adds those of plugins."""
    app = typer.Typer(rich_markup_mode=None)  # rich takes a third of a command's start time
    app.callback(invoke_without_command=True)(_options)
    app.command("generate")(generate.generate)
    app.command("bench")(bench.bench)
    app.command("serve")(serve.serve)
    app.command("replay")(replay.replay)
    app.command("upscale")(upscale.upscale)
    app.add_typer(config.app, name="config")
    app.add_typer(cluster.app, name="cluster")
    app.add_typer(plugins.app, name="plugins")
    app.add_typer(models.app, name="models")
    app.add_typer(styles.app, name="styles")
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        console.data(f"imagegen {installed_version('imagegen-core') or 'of an unknown version'}")
        raise typer.Exit


def _system_sentence(error: OSError) -> str:
    """Describe a refusal by the system: to use a file, or to write to a stream, whose errors name no file."""
    if error.filename is not None:
        return f"Cannot use {error.filename}: {error.strerror}"
    return str(streams.cannot_write(error)) if error.errno in _OF_STREAMS else unexpected(error)


def _usage_sentence(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    sentence = error.format_message().rstrip(".")
    return f"{sentence}; see `{context.command_path} --help`" if context else sentence


def _options(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Turn prompts into images, with the models you have."""
    if context.invoked_subcommand is None:
        console.data(context.get_help())
