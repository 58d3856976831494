"""`ft verify`: report what is wrong with files. Needs only the base install, so any repository's CI can call it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from expectations.formats.dialect import ReadPolicy, Thinking, Turns, explain_not_allowed
from expectations.text.traditional import Traditional
from expectations.violations import Refused
from ft_assets.commands.find_files import find_files

if TYPE_CHECKING:
    from expectations.contracts.adapter import RagPrompt
    from expectations.formats.column_map import ColumnMap
    from expectations.verify import Report, Training

_STDOUT = "-"
columns_option = click.option(
    "--columns",
    multiple=True,
    metavar="KEY=COLUMN,…",
    help="The files' names for keys: question=query,answer=response.",
)
roles_option = click.option(
    "--roles",
    multiple=True,
    metavar="ROLE=OURS,…",
    help="The files' names for the roles system, user and assistant: bot=assistant.",
)


def read_map(columns: tuple[str, ...], roles: tuple[str, ...]) -> ColumnMap:
    """Return the map that `--columns` and `--roles` give. UsageError for a pair without `=`, a key twice, no role."""
    from expectations.formats.column_map import ColumnMap, Role

    named = _read_pairs("--columns", columns)
    renamed = _read_pairs("--roles", roles)
    for role, own in renamed.items():
        if own not in get_args(Role):
            raise click.UsageError(f"--roles: {role}={own} must name one of {', '.join(get_args(Role))} after the `=`")
    return ColumnMap(columns=named, roles=cast("dict[str, Role]", renamed))


def read_policy(thinking: str, min_margin: float, traditional: str, turns: str, allow: tuple[str, ...]) -> ReadPolicy:
    """Return the policy that the options of `ft verify` and `ft convert` give; click has checked their values."""
    return ReadPolicy(
        thinking=cast("Thinking", thinking),
        min_margin=min_margin,
        traditional=cast("Traditional", traditional),
        turns=cast("Turns", turns),
        allow=allow,
    )


def read_codes(_ctx: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the codes that `--allow` gives, each once. BadParameter for one that cannot be allowed."""
    codes = {code.strip() for code in ",".join(values).split(",")} if values else set[str]()
    if wrong := explain_not_allowed(sorted(codes)):
        raise click.BadParameter(wrong)
    return tuple(sorted(codes))


def _read_pairs(option: str, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in ",".join(values).split(",") if values else ():
        left, equals, right = (part.strip() for part in pair.partition("="))
        if not (left and equals and right):
            raise click.UsageError(f"{option}: {pair!r} is no pair of names with `=` between them")
        if left in pairs:
            raise click.UsageError(f"{option}: {left} is both {pairs[left]} and {right}")
        pairs[left] = right
    return pairs


turns_option = click.option(
    "--turns",
    type=click.Choice(get_args(Turns)),
    default="last",
    help="Answers of a dialogue that are learned; all: each as a row of its own.",
)
allow_option = click.option(
    "--allow", multiple=True, callback=read_codes, metavar="CODE,…", help="Use rows that break this rule on texts."
)


@click.command("verify")
@click.argument("files", nargs=-1, required=True, metavar="FILE|FOLDER|GLOB...")
@click.option(
    "--format", "format_name", metavar="NAME", help="Check the files against this format (default: detect it)."
)
@columns_option
@roles_option
@click.option("--against", metavar="CONTRACT", help="A consumer's contract, by name or as a YAML file.")
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
@click.option(
    "--max-quarantined", type=click.FloatRange(0, 1), default=0.0, help="Share of rows (0 to 1) that may fail."
)
@allow_option
@click.option("--strict", is_flag=True, help="Fail a file with keys that are not read.")
@click.option("--tokenizer", metavar="NAME_OR_FOLDER", help="Show the first record as tokens (needs transformers).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--junit", "junit", is_flag=False, flag_value=_STDOUT, metavar="[PATH]", help="Print or write JUnit XML.")
@click.option("--github", is_flag=True, help="Print annotations for GitHub Actions.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option(
    "--summary", type=click.Path(path_type=Path), metavar="PATH", help="Append Markdown to $GITHUB_STEP_SUMMARY."
)
@click.option("--quiet", "-q", is_flag=True, help="Print only the files that fail.")
@click.pass_context
def command(  # noqa: PLR0917 - one for each option
    ctx: click.Context,
    files: tuple[str, ...],
    format_name: str | None,
    columns: tuple[str, ...],
    roles: tuple[str, ...],
    against: str | None,
    thinking: str,
    min_margin: float,
    turns: str,
    traditional: str,
    max_quarantined: float,
    allow: tuple[str, ...],
    strict: bool,
    tokenizer: str | None,
    as_json: bool,
    junit: str | None,
    github: bool,
    markdown: bool,
    summary: Path | None,
    quiet: bool,
) -> None:
    """Verify files against the record formats: report each file's format, its records, and which rows fail and why.

    \b
    Exit code: 0 clean, 1 rows fail or the contract is broken, 2 unreadable (the worst of all files).
    Example:   ft verify data/ddr.jsonl --format preference
               ft verify exports/ --quiet
               ft verify "exports/**/*.jsonl" --against ddr --github
               ft verify chats.csv --columns question=query,answer=response
    """
    if sum((as_json, junit == _STDOUT, github, markdown)) > 1:
        raise click.UsageError("choose one of --json, --junit, --github, --markdown; --junit PATH goes with any.")
    from expectations.contracts.consumer import find_consumer
    from expectations.verify import verify_file

    policy = read_policy(thinking, min_margin, traditional, turns, allow)
    mapping = read_map(columns, roles)
    try:
        consumer = find_consumer(against) if against else None
        reports = [
            verify_file(
                path,
                format_name,
                policy=policy,
                against=consumer,
                max_quarantined=max_quarantined,
                strict=strict,
                mapping=mapping,
            )
            for path in find_files(files)
        ]
        show_training(reports, tokenizer, thinking)
    except Refused as refusal:  # of a wrong option; exit 1 would mean that rows fail
        raise click.UsageError("; ".join(map(str, refusal.violations))) from refusal
    if junit is not None and junit != _STDOUT:
        from expectations.verify_reports import report_junit

        target = Path(junit)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(report_junit(reports))
    if summary is not None:
        from expectations.verify_reports import report_markdown

        with summary.open("a", encoding="utf-8") as file:
            file.write(report_markdown(reports))
    printed = [report for report in reports if report.exit_code] if quiet else reports
    if printed or not quiet:
        click.echo(_render(printed, as_json=as_json, junit=junit == _STDOUT, github=github, markdown=markdown))
    ctx.exit(max(report.exit_code for report in reports))


def _render(reports: list[Report], *, as_json: bool, junit: bool, github: bool, markdown: bool) -> str:
    from expectations import verify_reports as to

    if as_json:
        return to.dump_json(reports)
    if junit:
        return to.report_junit(reports).decode()
    if github:
        return to.report_github(reports)
    if markdown:
        return to.report_markdown(reports).rstrip()
    return "\n\n".join(to.report_table(report).rstrip() for report in reports)


def show_training(reports: list[Report], tokenizer_name: str | None, thinking: str) -> None:
    """Add to each report the text that a model is trained on for the first record, if its format is trained on."""
    import msgspec

    from expectations.formats.dialect import RowError
    from expectations.formats.registry import FORMATS

    tokenizer: Any = None
    for report in reports:
        row = report.first
        if row is None:
            continue
        format = FORMATS[report.format]
        if not format.trained:
            bridge = format.bridges.get("instruction")
            if bridge is None:
                continue
            row = cast("dict[str, Any]", msgspec.to_builtins(bridge(msgspec.convert(row, format.record))))
        if tokenizer_name and tokenizer is None:
            tokenizer = _load_tokenizer(tokenizer_name)
        with suppress(RowError):  # a record without a target to show must not take the other files' reports
            report.training = _training_of(row, tokenizer, thinking)


def _training_of(row: dict[str, Any], tokenizer: Any, thinking: str) -> Training:
    """Return the chat and the target of a row, from the functions that training calls."""
    from expectations.verify import Training
    from ft_assets.adapters.rows.tokenise import answer_message, answers_of, prompt_messages

    source, prompt = _prompt()
    chat = prompt_messages(row, prompt)
    targets = {answer.side: answer_message(answer)["content"] for answer in answers_of(row, thinking)}
    training = Training(
        prompt_from=source,
        messages=[{"role": message["role"], "content": message["content"]} for message in chat],
        targets=targets,
    )
    if tokenizer is not None:
        for name, ids in _tokens(tokenizer, row, prompt, thinking).items():
            training.rendered[name] = tokenizer.decode(ids, skip_special_tokens=False)
            training.tokens[name] = len(ids)
    return training


def _tokens(tokenizer: Any, row: dict[str, Any], prompt: RagPrompt, thinking: str) -> dict[str, list[int]]:
    """Return the token ids of the prompt and of each target."""
    from ft_assets.adapters.rows.tokenise import tokenise

    (sides,) = tokenise(tokenizer, [row], prompt, thinking)
    return {"prompt": list(sides[0].serving), **{side.side: side.trained for side in sides}}


def _prompt() -> tuple[str, RagPrompt]:
    """Return the prompt of this project's config.yaml; outside of a project the default one."""
    from ft_assets.adapters.prompt import prompt_of
    from ft_assets.config.load import SettingsError, config_path, load_settings
    from ft_assets.config.model import AnswerSettings

    path = config_path()
    if path.is_file():
        try:
            return str(path), prompt_of(load_settings(path).answers)
        except SettingsError as error:  # another tool's config.yaml must not stop the check of the rows
            return f"the defaults; {path} is not ours: {error.errors[0]}", prompt_of(AnswerSettings())
    return "the defaults", prompt_of(AnswerSettings())


def _load_tokenizer(name: str) -> Any:
    from ft_assets.config.load import state_dir
    from resources import models

    folder = models.locate(name, state_dir())
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer
    return loaded.from_pretrained(folder, trust_remote_code=False)
