"""`ft convert`: convert a file of any dialect to canonical records. Needs the base install, for Parquet its extra."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from expectations.formats.dialect import Thinking
from expectations.text.traditional import Traditional
from expectations.violations import Refused
from ft_assets.commands.verify import allow_option, columns_option, read_map, read_policy, roles_option, turns_option

if TYPE_CHECKING:
    from expectations.records.convert import Writer


@click.command("convert")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    metavar="FORMAT",
    help="instruction, preference, qa, retrieval_pair, passage, …; beir for a folder.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Output: .jsonl or .parquet (default FILE.FORMAT.jsonl); for beir a folder (default FILE.beir).",
)
@click.option(
    "--quarantine", type=click.Path(path_type=Path), help="File for rejected rows (default OUT.quarantine.jsonl)."
)
@click.option("--format", "format_name", metavar="NAME", help="Format of the file (default: detect it).")
@columns_option
@roles_option
@click.option(
    "--thinking",
    type=click.Choice(get_args(Thinking)),
    default="allow_empty",
    help="How to treat reasoning in answers.",
)
@click.option(
    "--min-margin", type=click.FloatRange(min=0), default=0.0, help="Reject pairs whose score margin is not above this."
)
@turns_option
@click.option(
    "--traditional",
    type=click.Choice(get_args(Traditional)),
    default="keep",
    help="How to convert traditional Chinese.",
)
@allow_option
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(  # noqa: PLR0917 - one for each option
    ctx: click.Context,
    file: Path,
    to: str,
    out: Path | None,
    quarantine: Path | None,
    format_name: str | None,
    columns: tuple[str, ...],
    roles: tuple[str, ...],
    thinking: str,
    min_margin: float,
    turns: str,
    traditional: str,
    allow: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Convert a file to canonical records of one format, each row with its version. Rejected rows go to another file.

    \b
    Exit code: 0 every row was converted, 1 some are in the quarantine file, 2 unreadable or no such conversion.
    Example:   ft convert data/ddr.jsonl --to preference --out build/pairs.parquet
    """
    import msgspec

    from expectations.formats.pairs import explain_not_trained_on
    from expectations.records.convert import BEIR, JsonlWriter, convert_file

    target = out or file.with_name(f"{file.name.partition('.')[0]}.{to}{'' if to == BEIR else '.jsonl'}")
    if to != BEIR and target.suffix not in {".jsonl", ".parquet"}:
        raise click.UsageError(f"--out must end with .jsonl or .parquet, not {target.name}")
    policy = read_policy(thinking, min_margin, traditional, turns, allow)
    mapping = read_map(columns, roles)
    try:
        conversion = convert_file(
            file,
            to,
            target,
            quarantine=quarantine or target.with_name(f"{target.name}.quarantine.jsonl"),
            format=format_name,
            policy=policy,
            mapping=mapping,
            force=force,
            open_writer=_open_parquet if target.suffix == ".parquet" else JsonlWriter,
        )
    except FileExistsError as error:
        raise click.UsageError(f"{error}; --force overwrites what was written before") from error
    except Refused as refusal:  # exit 1 would mean that rows are quarantined
        raise click.UsageError("; ".join(map(str, refusal.violations))) from refusal
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(conversion), ensure_ascii=False, indent=2))
    else:
        click.echo(f"{conversion.file}: {conversion.format} ({conversion.dialect})")
        what = (
            "queries with their texts and judgements"
            if to == BEIR
            else f"rows of {conversion.to}, version {conversion.version}"
        )
        click.echo(f"{conversion.out}: {conversion.written} {what}")
        if conversion.left_out:
            click.echo(f"note: {explain_not_trained_on(conversion.left_out)}")
        if conversion.quarantined:
            counts = ", ".join(f"{count} {code}" for code, count in conversion.counts.items())
            click.echo(f"{conversion.quarantine}: {conversion.quarantined} rows ({counts})")
    ctx.exit(1 if conversion.quarantined else 0)


def _open_parquet(path: Path, format: str) -> AbstractContextManager[Writer]:
    """Open a Parquet file that names the format and the version of its rows in its metadata."""
    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except ModuleNotFoundError as error:
        raise click.UsageError('Parquet is written with pyarrow: pip install "ft-assets[parquet]"') from error
    from expectations.formats.registry import FORMATS
    from expectations.reading.columns import FORMAT_KEY, VERSION_KEY
    from resources.parquet import TableWriter, arrow_schema

    schema: Any = arrow_schema(FORMATS[format].record)
    return TableWriter(
        path, schema.with_metadata({FORMAT_KEY: format.encode(), VERSION_KEY: str(FORMATS[format].version).encode()})
    )
