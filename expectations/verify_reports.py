"""Write the reports of `verify`: for a terminal, a program, a pull request, a CI's test page."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import msgspec

from expectations.codes import CODES
from expectations.formats.unread import describe_unread
from expectations.markdown import markdown_table
from expectations.reading import escape
from expectations.verify import REPORT_VERSION, Failing, Report
from expectations.violations import Violation

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_PER_CODE = 3
MAX_ANNOTATIONS = 10
"""The number of errors that GitHub shows of one step."""

_SHOWN_CHARS = 400
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OBEYED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_COMMAND = re.compile(r"^(\s*):(?=:)")
_MARKDOWN = str.maketrans({character: f"&#{ord(character)};" for character in "*_[]()`|~\\#@\n"})


def report_json(report: Report) -> dict[str, Any]:
    """Return the report as plain JSON values; `dump_json` prints them."""
    return {"report_version": REPORT_VERSION, **msgspec.to_builtins(report), "exit_code": report.exit_code}


def dump_json(reports: Sequence[Report]) -> str:
    """Return the reports as JSON text, in which no terminal finds a control character."""
    text = json.dumps([report_json(report) for report in reports], ensure_ascii=False, indent=2)
    return _OBEYED.sub(lambda match: f"\\u{ord(match.group()):04x}", text).replace("##[", r"#\u0023[")


def report_line(report: Report) -> str:
    """Return one line: the file's format and its numbers of rows."""
    what = f"{report.format} ({report.dialect})" if report.format else "not recognised"
    line = f"{report.file}: {what}, {report.rows} rows, {report.clean} clean, {report.failed} rejected"
    if report.counts and not report.unreadable and report.failed <= report.max_quarantined * report.rows:
        line += f" (at most {report.max_quarantined:.2%} may be rejected)"
    return line


def report_table(report: Report) -> str:
    """Return the report for a terminal: the format, each code with its first rows, conflicts, the first record."""
    from rich.console import Console

    output = StringIO()
    console = Console(file=output, width=120, highlight=False, markup=False, emoji=False)
    console.print(report_line(report))
    if report.unreadable:
        console.print(f"  unreadable: [{report.unreadable_code}] {report.unreadable}")
    for violation in report.violations:
        console.print(f"  {violation}")
    for note in report.notes:
        console.print(f"  note: {note}")
    if report.not_read:
        console.print(f"  not read: {_not_read(report)}", soft_wrap=True)
    for remark in _policy_remarks(report):
        console.print(f"  {remark}")
    if report.counts:
        console.print(_code_table(report))
    for conflict in report.conflicts:
        console.print(f"  FT-DUP-003 different answers to: {conflict.question}")
        for line, answer in zip(conflict.lines, conflict.answers, strict=True):
            console.print(f"    {line}: {answer}")
    if report.first:
        console.print("  first record:")
        for name, value in report.first.items():
            console.print(f"    {name}: {_short(repr(value))}")
    for line in _training_lines(report):
        console.print(f"  {line}", soft_wrap=True)
    return guard_lines(output.getvalue())


def _code_table(report: Report) -> Table:
    """Return the table of rejected rows: each code with its first rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table("code", "rows", "what", "first lines")
    for code, count in report.counts.items():
        title, fix = _meaning(code)
        lines = [f"{_place(row)}: {row.reason}\n  {_offending(row)}" for row in _first_of(report, code)]
        table.add_row(code, str(count), Text(f"{title}\nFix: {fix}"), Text("\n".join(lines)))
    return table


def report_github(reports: Sequence[Report]) -> str:
    """Return workflow commands of GitHub Actions: annotations of the first problems, then a line that counts all."""
    annotations: list[str] = []
    total = 0
    for report in reports:
        if report.unreadable:
            total += 1
            annotations.append(_annotation("error", report.file, 0, report.unreadable_code, report.unreadable))
        for violation in report.violations:
            total += 1
            annotations.append(_annotation("error", report.file, 0, violation.code, _contract_text(violation)))
        if report.not_read:
            total += 1
            level = "error" if report.strict else "warning"
            annotations.append(_annotation(level, report.file, 0, "not read", _not_read(report)))
        if not report.unreadable:
            total += sum(report.counts.values())
            level = "error" if report.exit_code else "warning"
            for code in report.counts:
                for row in _first_of(report, code):
                    fix = f"\nFix: {row.suggestion}"
                    text = f"{row.path}: {row.reason}\n{_offending(row)}{fix}"
                    annotations.append(_annotation(level, report.file, row.line, row.code, text))
    shown = annotations[:MAX_ANNOTATIONS]
    left = total - len(shown)
    more = f"; {left} more are not annotated, `ft verify` lists them" if left else ""
    clean = sum(not report.exit_code for report in reports)
    summary = f"{clean} of {len(reports)} files pass, {sum(r.failed for r in reports)} rows rejected{more}"
    return "\n".join([*shown, f"::notice title=ft verify::{_message(summary)}"])


def report_junit(reports: Sequence[Report]) -> bytes:
    """Return JUnit XML: a suite for each file, a test case for each code; a clean file has the one case `rows`."""
    root = ElementTree.Element("testsuites", name="ft verify")
    for report in reports:
        suite = ElementTree.SubElement(root, "testsuite", name=_xml(report.file))
        tests = failures = errors = 0
        for name, kind, text in _cases(report):
            tests += 1
            case = ElementTree.SubElement(
                suite, "testcase", classname=_xml(report.file), name=name, file=_xml(report.file)
            )
            if kind:
                message = text.partition("\n")[0]
                ElementTree.SubElement(case, kind, type=name, message=_xml(message)).text = _xml(text)
                failures += kind == "failure"
                errors += kind == "error"
        suite.attrib.update(tests=str(tests), failures=str(failures), errors=str(errors))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def report_markdown(reports: Sequence[Report]) -> str:
    """Return tables for a pull request or `$GITHUB_STEP_SUMMARY`; texts of the files are shown as code."""
    numbers = ("rows", "clean", "rejected")
    rows = [_markdown_row(report) for report in reports]
    lines = [markdown_table(["file", "what", "rows", "clean", "rejected", "result"], rows, numbers)]
    for report in reports:
        remarks = _markdown_remarks(report)
        if remarks or report.counts:
            lines += ["", f"**{_code(report.file)}**", "", *remarks]
        if report.counts:
            codes = [_markdown_code(report, code, count) for code, count in report.counts.items()]
            lines += ["", markdown_table(["code", "rows", "what", "first lines", "fix"], codes, numbers=["rows"])]
    return guard_lines("\n".join(lines) + "\n")


def _markdown_row(report: Report) -> tuple[object, ...]:
    """Return the cells of a file in the first table."""
    what = f"{report.format} ({report.dialect})" if report.format else "not recognised"
    result = ("pass", "rows fail", "unreadable")[report.exit_code]
    if report.exit_code and not report.failed:
        result = "contract broken" if report.violations else "keys are not read"
    if report.unreadable:
        result = "unreadable"
    return _code(report.file), what, report.rows, report.clean, report.failed, result


def _markdown_remarks(report: Report) -> list[str]:
    """Return the list of everything but rejected rows."""
    remarks: list[str] = []
    if report.unreadable:
        remarks.append(f"- unreadable: {report.unreadable_code} {_code(report.unreadable)}")
    remarks += [f"- {violation.code}: {_plain(_contract_text(violation))}" for violation in report.violations]
    remarks += [f"- note: {_plain(note)}" for note in report.notes]
    if report.not_read:
        remarks.append(f"- not read: {_plain(_not_read(report))}")
    remarks += [f"- {remark}" for remark in _policy_remarks(report)]
    for conflict in report.conflicts[:SHOWN_PER_CODE]:
        places = _plain(", ".join(conflict.lines))
        remarks.append(f"- FT-DUP-003 different answers to {_code(conflict.question)}: {places}")
    return remarks


def _markdown_code(report: Report, code: str, count: int) -> tuple[object, ...]:
    """Return the cells of a code in the table of rejected rows."""
    title, fix = _meaning(code)
    first = "<br>".join(
        f"{_plain(f'{_place(row)}: {row.reason}')} {_code(_offending(row))}" for row in _first_of(report, code)
    )
    return code, count, _plain(title), first, _plain(fix)


def _cases(report: Report) -> list[tuple[str, str, str]]:
    """Return (name, kind of failure or empty when passed, text) of each test case of a file."""
    cases = [(violation.code, "failure", str(violation)) for violation in report.violations]
    if report.unreadable:
        return [*cases, (report.unreadable_code or "unreadable", "error", report.unreadable)]
    tolerated = report.failed <= report.max_quarantined * report.rows
    for code, count in report.counts.items():
        title, fix = _meaning(code)
        rows = [f"{_place(row)}: {row.reason} {_offending(row)}" for row in _first_of(report, code)]
        text = "\n".join([f"{title}: {count} of {report.rows} rows", *rows, f"Fix: {fix}"])
        cases.append((code, "skipped" if tolerated else "failure", text))
    if report.not_read:
        cases.append(("keys", "failure" if report.strict else "skipped", f"not read: {_not_read(report)}"))
    return cases or [("rows", "", "")]


def _training_lines(report: Report) -> list[str]:
    training = report.training
    if training is None:
        return []
    lines = [f"as a model is trained on it (prompt from {training.prompt_from}):"]
    if training.rendered:
        for name, text in training.rendered.items():
            lines += [f"  {name}, {training.tokens[name]} tokens:", *(f"    {line}" for line in _printable(text))]
        return lines
    for message in training.messages:
        lines += [f"  {message['role']}:", *(f"    {line}" for line in _printable(message["content"]))]
    for name, text in training.targets.items():
        how = "made less likely" if name in ("rejected", "undesirable") else "learned"
        lines += [f"  assistant ({name}, {how}):", *(f"    {line}" for line in _printable(text))]
    return [*lines, "  --tokenizer NAME_OR_FOLDER shows the chat template's text and counts the tokens"]


def _printable(text: str) -> list[str]:
    """Return the lines of a text, with characters that a terminal would obey escaped."""
    return ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.split("\n")]


def _first_of(report: Report, code: str) -> list[Failing]:
    return [row for row in report.rejected if row.code == code][:SHOWN_PER_CODE]


def _place(row: Failing) -> str:
    return f"line {row.line} {row.path}"


def _offending(row: Failing) -> str:
    """Return the wrong value; without one the start of the row."""
    return row.value or _short(row.raw, 80)


def _short(text: str, chars: int = _SHOWN_CHARS) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def _meaning(code: str) -> tuple[str, str]:
    title, _, fix = CODES[code]
    return title, fix


def _not_read(report: Report) -> str:
    return describe_unread({escape(name): rows for name, rows in report.not_read.items()}, report.typos)


def _thinking(report: Report) -> str:
    if report.thinking == "strip":
        return f"reasoning is removed from all {report.clean} rows (policy strip)"
    return f"{report.with_reasoning} rows with reasoning, {report.without_reasoning} without (policy {report.thinking})"


def _policy_remarks(report: Report) -> list[str]:
    """Return what the policy made of the rows: reasoning, turns, and rules that rows break and are allowed to."""
    remarks: list[str] = []
    if report.thinking:
        remarks.append(f"thinking: {_thinking(report)}")
    if turns := _turns(report):
        remarks.append(f"turns: {turns}")
    if report.verdicts:
        remarks.append(f"verdicts: {', '.join(f'{count} {name}' for name, count in report.verdicts.items())}")
    if report.allowed:
        rows = [f"{code} ({count} row{'' if count == 1 else 's'})" for code, count in report.allowed.items()]
        remarks.append(f"allowed: {', '.join(rows)}")
    return remarks


def _turns(report: Report) -> str:
    """Return which answers are not learned; empty where each is, or no row is a dialogue."""
    answers = f"{report.not_learned} earlier answer{'s are' if report.not_learned > 1 else ' is'} history"
    if report.turns == "last" and report.not_learned:
        return f"{answers} and not learned; `turns: all` (--turns all) learns them too"
    if report.turns == "all":
        marked = f"; {report.not_learned} marked as not to be learned" if report.not_learned else ""
        return f"every answer is learned, as a row of its own{marked} (policy all)"
    return ""


def _contract_text(violation: Violation) -> str:
    return (
        f"{violation.message} ({violation.field}: found {violation.found}, expected {violation.expected}) "
        f"Fix: {violation.fix}"
    )


def _annotation(level: str, file: str, line: int, title: str, message: str) -> str:
    at = f",line={line}" if line > 0 else ""
    return f"::{level} file={_property(file)}{at},title={_property(title)}::{_message(message)}"


def _message(text: str) -> str:
    return _visible(text).replace("##[", "# #[").replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def guard_lines(text: str) -> str:
    """Return a text that no terminal and no CI log obeys: no control characters, no line that is a workflow command.

    GitHub's runner takes a line for a command that begins with `::`, blanks before it or not, or holds `##[`.
    """
    lines = _visible(text).replace("##[", "# #[").split("\n")
    return "\n".join(_COMMAND.sub(r"\1:\\:", line) for line in lines)


def _visible(text: str) -> str:
    """Return a text with all but its line ends and printable characters escaped."""
    if text.isprintable():
        return text
    return "\n".join(
        line if line.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in line)
        for line in text.split("\n")
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def _xml(text: str) -> str:
    """Return a text without characters that XML 1.0 does not allow: control characters, halves of surrogate pairs."""
    return _NOT_XML.sub("\ufffd", guard_lines(text))


def _plain(text: str) -> str:
    """Return a text in which Markdown finds no markup."""
    return html.escape(text, quote=False).translate(_MARKDOWN)


def _code(text: str) -> str:
    return f"<code>{_plain(text)}</code>"
