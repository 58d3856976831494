"""Reports of a validation: a self-contained HTML page, and the Markdown table that Dagster's UI shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from html import escape

from expectations.markdown import markdown_table
from expectations.tables.gate import FailingRow, Judgement, Validation

_ROWS_IN_MARKDOWN = 5
_LONGEST = 400  # characters of a value
_MARK = {"passed": "✓", "failed": "✗", "broken": "!"}
_STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --soft: #5c6675; --line: #dde2ea; --page: #f5f7fa; --card: #fff;
  --passed: #18794e; --failed: #c62a2f; --broken: #a35200; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ef; --soft: #9aa4b4; --line: #303846; --page: #12161d;
  --card: #1a2029; --passed: #4cc38a; --failed: #ff8389; --broken: #ffb224; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 72rem; color: var(--text); background: var(--page);
  font: 15px/1.55 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.5rem; }
h1 small, .soft { color: var(--soft); font-weight: 400; }
code { font: .87em/1.5 ui-monospace, Menlo, Consolas, "Noto Sans Mono CJK SC", monospace; overflow-wrap: anywhere; }
.verdict { margin: 1rem 0; padding: .8rem 1rem; border-left: .35rem solid; border-radius: .4rem; font-weight: 600;
  background: var(--card); }
.passed { color: var(--passed); } .failed { color: var(--failed); } .broken { color: var(--broken); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0 1.5rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; background: var(--card); border-radius: .5rem; overflow: hidden; }
th, td { padding: .55rem .75rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
th { color: var(--soft); font-size: .8rem; font-weight: 600; border-top: 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td:first-child { white-space: nowrap; font-weight: 600; }
td[data-name=Column] code { white-space: nowrap; }
ul { margin: .4rem 0 0; padding: 0; list-style: none; }
.fix { display: block; font-size: .9em; }
@media (max-width: 44rem) { thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  tr { padding: .5rem 0; border-top: 1px solid var(--line); } td, td.number { border: 0; padding: .15rem .8rem;
  text-align: left; } td:empty { display: none; } td[data-name]::before { content: attr(data-name) ": ";
  color: var(--soft); } }
"""


def render_report(validation: Validation, table: str, judged_at: datetime, facts: Mapping[str, str]) -> str:
    """Return one HTML page that needs no network and runs no script. `facts` (versions, ids) are below the verdict."""
    shown = {
        "table": table,
        "suite": validation.suite,
        "rows judged": f"{validation.rows:,}",
        "judged at": judged_at.isoformat(sep=" ", timespec="seconds"),
        **facts,
    }
    passed = not validation.violations
    title = f"{table}: {'passed' if passed else 'failed'}"
    terms = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in shown.items())
    faults = "".join(f"<p class='broken'>{_text(fault)}</p>" for fault in validation.faults)
    rows = "\n".join(map(_row, _worst_first(validation)))
    heads = "".join(f"<th>{name}</th>" for name in ("", "Rule", "Column", "Expected", "Observed", "Failing rows"))
    body = f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>" if rows else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(title)}</title><style>{_STYLE}</style></head>
<body><h1>{_text(table)} <small>table gate</small></h1>
<p class="verdict {"passed" if passed else "failed"}">{_text(outcome_in_words(validation))}</p>
{faults}<dl>{terms}</dl>
{body}
</body></html>
"""


def render_markdown(validation: Validation) -> str:
    """Return the judgements as a Markdown table, failed ones first, with the first failing lines of each."""
    lines: list[list[str]] = []
    for judgement in _worst_first(validation):
        rows = judgement.rows[:_ROWS_IN_MARKDOWN]
        places = ", ".join(map(_place, rows)) + (" …" if judgement.failing > len(rows) else "")
        cells = [judgement.rule, judgement.column, expected_in_words(judgement), observed_in_words(judgement), places]
        lines.append([_MARK[judgement.outcome], *map(_cell, cells)])
    lines += [["!", _cell(str(fault)), "", "", "", ""] for fault in validation.faults]
    return markdown_table(["", "rule", "column", "expected", "observed", "failing lines"], lines)


def outcome_in_words(validation: Validation) -> str:
    """Return the outcome in one sentence."""
    failed, broken = (sum(j.outcome == outcome for j in validation.judgements) for outcome in ("failed", "broken"))
    if validation.faults:
        return "Failed: the table was not judged"
    if broken:
        return f"Failed: {broken} of {len(validation.judgements)} checks are broken, {failed} rules failed"
    if failed:
        return f"Failed: {failed} of {len(validation.judgements)} rules failed"
    return f"Passed: all {len(validation.judgements)} rules pass for {validation.rows:,} rows"


def expected_in_words(judgement: Judgement) -> str:
    """Return the arguments of an expectation in words."""
    others = dict(judgement.expected)
    low, high, members, mostly = (others.pop(key, None) for key in ("min_value", "max_value", "value_set", "mostly"))
    words: list[str] = []
    if low is not None or high is not None:
        words.append(
            f"at least {low:,}" if high is None else f"at most {high:,}" if low is None else f"{low:,}–{high:,}"
        )
    if members is not None:
        words.append("one of " + ", ".join(map(str, members)))
    words += [f"{key}: {value}" for key, value in others.items()]
    return "; ".join([*words, *([f"in {mostly * 100:.6g}% of the rows or more"] if mostly is not None else [])])


def observed_in_words(judgement: Judgement) -> str:
    """Return the observed value, or how many of the rows that have a value pass the rule."""
    if judgement.observed is not None:
        number = isinstance(judgement.observed, int | float)
        return f"{judgement.observed:,}" if number else str(judgement.observed)
    if not judgement.judged:
        return "no row has a value"
    return f"{judgement.judged - judgement.failing:,} of {judgement.judged:,} rows pass"


def _worst_first(validation: Validation) -> list[Judgement]:
    return sorted(validation.judgements, key=lambda judgement: ("broken", "failed", "passed").index(judgement.outcome))


def _row(judgement: Judgement) -> str:
    failed = judgement.outcome != "passed"
    fix = f"<span class='fix soft'>{_text(judgement.fix)}</span>" if judgement.fix and failed else ""
    listed = "".join(
        f"<li><code>{_text(row.place)}</code> <code class='failed'>{_text(row.value)}</code></li>"
        for row in judgement.rows
    )
    hidden = judgement.failing - len(judgement.rows)
    listed += f"<li class='soft'>and {hidden:,} more</li>" if judgement.rows and hidden else ""
    column = f"<code>{_text(judgement.column)}</code>" if judgement.column else ""
    return (
        f"<tr><td class='{judgement.outcome}'>{_MARK[judgement.outcome]} {judgement.outcome}</td>"
        f"<td>{_text(judgement.rule)}{fix}{f'<ul>{listed}</ul>' if listed else ''}</td>"
        f"<td data-name='Column'>{column}</td><td data-name='Expected'>{_text(expected_in_words(judgement))}</td>"
        f"<td data-name='Observed'>{_text(observed_in_words(judgement))}</td>"
        f"<td class='number' data-name='Failing rows'>{judgement.failing:,}</td></tr>"
    )


def _place(row: FailingRow) -> str:
    return f"{row.place} ({_visible(row.value)})"


def _text(value: object) -> str:
    return escape(_visible(value))


def _visible(value: object) -> str:
    """Return text that is short enough to read and all visible: control characters and bidi marks become escapes."""
    text = "missing" if value is None else str(value)
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cell(text: str) -> str:
    """Return text for a Markdown table: it makes no markup and no new cell."""
    escaped = escape(_visible(text), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|~#!" else c for c in escaped)
