"""`ft`: the command line. Each command is a file below commands/, imported when it is called."""

from __future__ import annotations

import gc
import importlib
import sys
import traceback
from collections.abc import Mapping

import click

# command -> its help text, which is here so that `ft --help` imports no command
COMMANDS: Mapping[str, str] = {
    "doctor": "Check hardware, libraries, models and services.",
    "estimate": "Estimate memory, disk and time of a fine-tuning before it starts.",
    "run": "Make assets and show the progress.",
    "status": "Show each asset: version, in sync or stale and why, checks.",
    "summary": "Show the current artifacts and how good they are.",
    "gate": "Run every check as a CI gate.",
    "verify": "Verify files against the record formats.",
    "convert": "Convert a file to canonical records of one format.",
    "report": "Write a release's evidence and history as one HTML file.",
    "compare": "Write two trainings or releases next to each other as one HTML file.",
    "search": "Query the released collection.",
    "add-tokens": "Write a base model with more tokens to a folder.",
    "export": "Write an adapter to a folder: as it is, merged, or as GGUF.",
    "rollback": "Release an earlier version again.",
    "migrate": "Copy the released collection to another engine and verify it.",
    "ui": "Start Dagster's UI on this state.",
}

OVERVIEW = """Fine-tune a RAG system's generator and embedding model, serve retrieval from Qdrant, and release
nothing incompatible. Every step is a Dagster asset; every rule between them is a check.

\b
First commands, in this order:
  ft doctor                 check that everything the configuration needs is here
  ft estimate               check that the fine-tuning fits, and how long it takes
  ft run --all              make the whole graph; unchanged assets are reused
  ft summary                show the current artifacts and how good they are
  ft search "a question"    query the released collection
  ft ui                     show the same in the browser

\b
In the CI of a module that reads or writes the same data:
  ft verify FILE...         0 clean, 1 rows fail, 2 unreadable
  ft convert FILE --to ...  0 all rows, 1 some are quarantined, 2 unreadable
  ft gate                   0 pass, 1 a check failed, 2 a check could not run

\b
Configuration: config.yaml (FT_CONFIG), profile FT_PROFILE, any key as FT__SECTION__KEY=value.
State: FT_STATE_DIR (default .ft next to config.yaml); no other folder is written to.
"""


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and prints every error as one paragraph."""

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
            ctx.exit(_fail("interrupted. Published artifacts stay; run the same command again to continue.", code=130))
        except Exception as error:  # the outermost handler: every error becomes a paragraph and an exit code
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
    del debug  # read from the context when an error is shown
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of `ft`."""
    # a million rows have no reference cycle, and looking for cycles every 700 objects costs 7 %
    gc.set_threshold(20_000, 50, 100)
    cli(prog_name="ft")


def _explain(error: Exception, command: str, debug: bool) -> int:
    """Print one paragraph for an error; return the exit code: 1 if work was refused, else 2."""
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
