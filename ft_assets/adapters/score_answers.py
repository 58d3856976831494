"""Answers of several models to the same questions: asked, scored, compared question by question, shown side by side."""

# pyarrow is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.markdown import markdown_cell, markdown_table
from expectations.rules.answer_scores import Reply, read_reply, score
from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from ft_assets.config.model import AnswerSettings
from resources.generator import BASE, ChatMessage, Generator
from resources.telemetry import Metrics

ANSWERS_FILE = "answers.parquet"
_TITLES = {
    "exact_match": "exact match", "f1": "F1", "rouge_l": "ROUGE-L", "closed_thinking": "closed thinking",
    "answer_chars": "answer chars", "tokens": "tokens", "cut": "cut by max_new_tokens",
}  # fmt: skip
_SAMPLES = 8
_CELL_CHARS = 160


def ask_all(
    generator: Generator, chats: Sequence[Sequence[ChatMessage]], settings: AnswerSettings, metrics: Metrics
) -> dict[str, list[Reply]]:
    """Every model's reply to every chat, thought and answer apart, with progress over all of them."""
    total = len(generator.names) * len(chats)
    replies: dict[str, list[Reply]] = {}
    for number, name in enumerate(generator.names):

        def report(done: int, _: int, number: int = number) -> None:
            metrics.log("generate", number * len(chats) + done, total)

        made = generator.generate(name, chats, settings.max_new_tokens, settings.batch_size, report)
        replies[name] = [
            read_reply(one.text, opens_thought=one.opens_thought, tokens=one.tokens, cut=one.cut) for one in made
        ]
    return replies


def summarise(replies: Mapping[str, Sequence[Reply]], golds: Sequence[str], seed: int) -> dict[str, Any]:
    """Means for one line, 95 % intervals for each model, and paired differences (`dpo-base`: DPO minus base)."""
    figures = _measure(replies, golds)
    means: dict[str, float] = {}
    intervals: dict[str, Any] = {}
    for name, metrics in figures.items():
        for metric, values in metrics.items():
            interval = bootstrap(values, seed=seed)
            intervals.setdefault(name, {})[metric] = msgspec.to_builtins(interval)
            means[f"{metric}_{name}"] = interval.mean
    pairs = [(name, BASE) for name in figures if name != BASE]
    pairs += [("dpo", name) for name in ("sft", "released") if {"dpo", name} <= figures.keys()]
    differences = {
        f"{a}-{b}": {
            metric: msgspec.to_builtins(paired_bootstrap(values, figures[b][metric], seed=seed))
            for metric, values in figures[a].items()
        }
        for a, b in pairs
    }
    return {"questions": len(golds), **means, "intervals": intervals, "differences": differences}


def write_answers(
    folder: Path, rows: Sequence[Mapping[str, Any]], replies: Mapping[str, Sequence[Reply]], golds: Sequence[str]
) -> None:
    """One row a question: `rows` as they are, then each model's answer, its thought where it has one, its figures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    figures = _measure(replies, golds)
    table = [
        {
            **row,
            "gold": golds[n],
            **{f"answer_{name}": given[n].answer for name, given in replies.items()},
            **{f"thought_{name}": given[n].thought for name, given in replies.items() if _thinks(replies)},
            **{f"{metric}_{name}": values[n] for name in replies for metric, values in figures[name].items()},
        }
        for n, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table), folder / ANSWERS_FILE)


def show_samples(path: Path) -> str:
    """Some of an answers.parquet as a Markdown table, the models side by side."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).slice(0, _SAMPLES).to_pylist()
    models = [name.removeprefix("exact_match_") for name in rows[0] if name.startswith("exact_match_")]
    lines: list[list[str]] = []
    for row in rows:
        said = [row[f"answer_{name}"] or _thought_alone(row.get(f"thought_{name}")) for name in models]
        lines.append([_cell(text) for text in (row["question"], row["gold"], *said)])
    return markdown_table(["question", "gold", *models], lines)


def show_scores(summary: Mapping[str, Any]) -> str:
    """Two Markdown tables: each model's figures, then the paired differences; both with their 95 % intervals."""
    tables = [_table("model", summary["intervals"])]
    if summary["differences"]:
        tables.append(_table("difference", summary["differences"], sign="+"))
    return "\n\n".join(tables)


def _table(title: str, rows: Mapping[str, Mapping[str, Mapping[str, float]]], sign: str = "") -> str:
    metrics = [metric for metric in _TITLES if metric in next(iter(rows.values()))]
    lines: list[list[str]] = []
    for name, intervals in rows.items():
        found = [intervals[metric] for metric in metrics]
        cells = [f"{i['mean']:{sign}.3f} ({i['low']:{sign}.3f} … {i['high']:{sign}.3f})" for i in found]
        lines.append([name, *cells])
    return markdown_table([title, *(_TITLES[metric] for metric in metrics)], lines)


def _measure(replies: Mapping[str, Sequence[Reply]], golds: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """model -> metric -> one value a question. A thought that was never closed leaves no answer to score.

    closed_thinking is 1 where no thought is open at the end and an answer follows; only where any model thinks.
    """
    thinks = _thinks(replies)
    figures: dict[str, dict[str, list[float]]] = {}
    for name, given in replies.items():
        scores = [score(reply.answer, gold) for reply, gold in zip(given, golds, strict=True)]
        closed = [float(reply.closed and bool(reply.answer)) for reply in given]
        figures[name] = {
            "exact_match": [one.exact_match for one in scores],
            "f1": [one.f1 for one in scores],
            "rouge_l": [one.rouge_l for one in scores],
            **({"closed_thinking": closed} if thinks else {}),
            "answer_chars": [float(len(reply.answer)) for reply in given],
            "tokens": [float(reply.tokens) for reply in given],
            "cut": [float(reply.cut) for reply in given],
        }
    return figures


def _thinks(replies: Mapping[str, Sequence[Reply]]) -> bool:
    return any(reply.thought is not None for given in replies.values() for reply in given)


def _thought_alone(thought: str | None) -> str:
    return "" if thought is None else f"(a thought only) {thought}"


def _cell(text: str) -> str:
    flat = markdown_cell(text)
    return flat if len(flat) <= _CELL_CHARS else f"{flat[:_CELL_CHARS]}…"
