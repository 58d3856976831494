"""`ft verify`: a file in, a report out. Needs only the base install, so that any repository's CI can call it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from expectations.violations import Refused


@click.command("verify")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--format", "format_name", metavar="NAME", help="Hold the files against this format (default: detect it)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, files: tuple[Path, ...], format_name: str | None, as_json: bool) -> None:
    """Verify files against the record formats: what each is, what it becomes, which rows fail and why.

    \b
    Exit code: 0 clean, 1 rows fail, 2 unreadable (the worst of all files).
    Example:   ft verify data/ddr.jsonl --format preference
    """
    from expectations.verify import report_json, report_table, verify_file

    try:
        reports = [verify_file(path, format_name) for path in files]
    except Refused as refusal:  # only an unknown --format is; exit 1 would mean that rows fail
        raise click.UsageError("; ".join(map(str, refusal.violations))) from refusal
    if as_json:
        click.echo(json.dumps([report_json(report) for report in reports], ensure_ascii=False, indent=2))
    else:
        click.echo("\n\n".join(report_table(report).rstrip() for report in reports))
    ctx.exit(max(report.exit_code for report in reports))
