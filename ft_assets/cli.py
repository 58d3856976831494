"""`ft`: the command line. Thin: each command is a file below commands/, imported when it is called."""

from __future__ import annotations

import gc
import importlib
import sys
import traceback
from collections.abc import Mapping

import click

# command -> what it does; the text stands here so that `ft --help` imports none of them
COMMANDS: Mapping[str, str] = {
    "doctor": "What hardware, libraries, models and services are here.",
    "estimate": "Memory, disk and time of a fine-tuning, before it starts.",
    "run": "Make assets, with progress.",
    "status": "Each asset: version, in sync or stale and why, checks.",
    "summary": "What stands and how good it is.",
    "gate": "Run every check as a CI gate.",
    "verify": "Verify files against the record formats.",
    "convert": "Convert a file to canonical records of one format.",
    "search": "Query the released collection.",
    "export": "Write an adapter to a folder: as it is, merged, as GGUF.",
    "rollback": "Move a release pointer back.",
    "migrate": "Move what is released to another engine, and prove it.",
    "ui": "Open Dagster's UI on this state.",
}

OVERVIEW = """Fine-tune a RAG system's generator and embedding model, serve retrieval from Qdrant, and release
nothing incompatible. Every step is a Dagster asset; every rule between them is a check.

\b
First commands, in this order:
  ft doctor                 is everything here that the configuration needs?
  ft estimate               does the fine-tuning fit, and how long does it take?
  ft run --all              make the whole graph; what is unchanged is reused
  ft summary                what was made and how good it is
  ft search "a question"    ask the released collection
  ft ui                     the same in the browser

\b
In the CI of a module around it:
  ft verify FILE...         0 clean, 1 rows fail, 2 unreadable
  ft convert FILE --to ...  0 all rows, 1 some are quarantined, 2 unreadable
  ft gate                   0 pass, 1 a check failed, 2 a check could not run

\b
Configuration: config.yaml (FT_CONFIG), profile FT_PROFILE, any key as FT__SECTION__KEY=value.
State: FT_STATE_DIR (default .ft beside config.yaml); nothing else is written to.
"""


class LazyGroup(click.Group):
    """Imports a command when it is called, and says every error in one paragraph."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            return importlib.import_module(f"ft_assets.commands.{cmd_name}").command
        except ModuleNotFoundError as error:
            if ctx.params.get("debug"):
                raise
            ctx.exit(_fail(_missing_library(cmd_name, error)))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(_fail("interrupted. What was published stays; run the same command to go on.", code=130))
        except Exception as error:  # the outermost one: whatever went wrong becomes a paragraph and an exit code
            if ctx.params.get("debug"):
                traceback.print_exc()
            ctx.exit(_explain(error, str(ctx.invoked_subcommand), bool(ctx.params.get("debug"))))


@click.group(
    cls=LazyGroup, help=OVERVIEW, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error: `ft --debug run ...`.")
@click.version_option(package_name="ft-assets", prog_name="ft")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    del debug  # read from the context where errors are shown
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of `ft`."""
    # a million rows pass by without one reference cycle: looking for them every 700 objects costs 7 %
    gc.set_threshold(20_000, 50, 100)
    cli(prog_name="ft")


def _explain(error: Exception, command: str, debug: bool) -> int:
    """Print one paragraph for an error and return the exit code: 1 when work was refused, else 2."""
    from expectations.violations import Refused
    from ft_assets.config.load import SettingsError

    if isinstance(error, Refused):
        return _fail(str(error), code=1)
    if isinstance(error, SettingsError):
        return _fail(str(error))
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("ft_assets"):
        return _fail(_missing_library(command, error))
    hint = "" if debug else f" Run `ft --debug {command} ...` for the traceback."
    return _fail(f"{command} could not run: {type(error).__name__}: {error}{hint}")


def _missing_library(command: str, error: ModuleNotFoundError) -> str:
    return f"`ft {command}` needs {error.name}, which is not installed. Run: pip install 'ft-assets[platform]'"


def _fail(text: str, code: int = 2) -> int:
    click.echo(f"ft: {text}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
