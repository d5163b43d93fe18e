"""The ``imagegen`` command: its groups, its exit codes, and one sentence for whatever goes wrong."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from imagegen_core.cli import bench, cluster, config, console, generate, models, plugins, replay, serve, styles, upscale
from imagegen_core.errors import ImagegenError
from imagegen_core.plugins.registry import Registry

_WRONG_INPUT = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Args:
        arguments: The words after ``imagegen``; None takes the process's.
    """
    logging.basicConfig(handlers=[console.LogHandler()], level=logging.WARNING, format="%(message)s")
    try:
        app = build_app()
        words = sys.argv[1:] if arguments is None else arguments
        if next((word for word in words if not word.startswith("-")), None) not in own_commands(app):
            Registry.discover().add_commands(app)  # imagegen's own commands do not wait for plugins they do not need
        code = app(args=arguments, prog_name="imagegen", standalone_mode=False)
    except typer.TyperException as error:
        console.complain(_usage_sentence(error))
        code = error.exit_code
    except ImagegenError as error:
        console.complain(str(error))
        code = _WRONG_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        console.complain("Interrupted")
    sys.exit(code)


def own_commands(app: typer.Typer) -> list[str]:
    """The names of the commands and groups that `build_app` made."""
    commands = [command.name for command in app.registered_commands]
    return [str(name) for name in (*commands, *(group.name for group in app.registered_groups))]


def build_app() -> typer.Typer:
    """The command line with imagegen's own commands; a registry adds its plugins'."""
    app = typer.Typer(rich_markup_mode=None)  # rich takes a third of the time that a command needs to start
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
        console.data(f"imagegen {version('imagegen-core')}")
        raise typer.Exit


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
