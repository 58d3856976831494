"""Answers of several models to the same questions: asked, scored, compared question by question, shown side by side."""

# pyarrow is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.answers import Scores, score
from expectations.statistics import bootstrap, paired_bootstrap
from ft_assets.settings.model import AnswerSettings
from resources.generator import BASE, Generator, Message
from resources.telemetry import Metrics

ANSWERS_FILE = "answers.parquet"
_METRICS = ("exact_match", "f1", "rouge_l")
_SAMPLES = 8
_CELL_CHARS = 160


def ask_all(
    generator: Generator, chats: Sequence[Sequence[Message]], settings: AnswerSettings, metrics: Metrics
) -> dict[str, list[str]]:
    """Every model's answer to every chat, with progress over all of them."""
    total = len(generator.names) * len(chats)
    answers: dict[str, list[str]] = {}
    for number, name in enumerate(generator.names):

        def report(done: int, _: int, number: int = number) -> None:
            metrics.log("generate", number * len(chats) + done, total)

        answers[name] = generator.answer(name, chats, settings.max_new_tokens, settings.batch_size, report)
    return answers


def summarise(answers: Mapping[str, Sequence[str]], golds: Sequence[str], seed: int) -> dict[str, Any]:
    """Means for one line, intervals for each model, and paired F1 differences (`dpo-base`: DPO minus base)."""
    scores = {name: _score_all(given, golds) for name, given in answers.items()}
    summary: dict[str, Any] = {"questions": len(golds)}
    intervals: dict[str, Any] = {}
    for name, found in scores.items():
        for metric in _METRICS:
            interval = bootstrap([getattr(item, metric) for item in found], seed=seed)
            intervals.setdefault(name, {})[metric] = msgspec.to_builtins(interval)
            summary[f"{metric}_{name}"] = interval.mean
        summary[f"answer_chars_{name}"] = sum(map(len, answers[name])) / len(golds)
    f1 = {name: [item.f1 for item in found] for name, found in scores.items()}
    pairs = [(name, BASE) for name in f1 if name != BASE] + [("dpo", "released")] * ("released" in f1)
    deltas = {f"{a}-{b}": msgspec.to_builtins(paired_bootstrap(f1[a], f1[b], seed=seed)) for a, b in pairs}
    return {**summary, "intervals": intervals, "f1_differences": deltas}


def write_answers(
    folder: Path, rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], golds: Sequence[str]
) -> None:
    """One row a question: `rows` as they are, then each model's answer with its three scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = {name: _score_all(given, golds) for name, given in answers.items()}
    table = [
        {
            **row,
            "gold": golds[n],
            **{f"answer_{name}": given[n] for name, given in answers.items()},
            **{f"{metric}_{name}": getattr(scores[name][n], metric) for name in answers for metric in _METRICS},
        }
        for n, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table), folder / ANSWERS_FILE)


def show_samples(path: Path) -> str:
    """Some of an answers.parquet as a Markdown table, the models side by side."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).slice(0, _SAMPLES).to_pylist()
    names = [name for name in rows[0] if name in {"question", "gold"} or name.startswith("answer_")]
    titles = [name.removeprefix("answer_") for name in names]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines)


def show_scores(summary: Mapping[str, Any]) -> str:
    """Each model's scores with their 95 % intervals, as a Markdown table."""
    lines = ["| model | exact match | F1 | ROUGE-L |", "|---|---|---|---|"]
    for name, intervals in summary["intervals"].items():
        cells = [f"{i['mean']:.3f} ({i['low']:.3f} … {i['high']:.3f})" for i in (intervals[m] for m in _METRICS)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _score_all(given: Sequence[str], golds: Sequence[str]) -> list[Scores]:
    return [score(answer, gold) for answer, gold in zip(given, golds, strict=True)]


def _cell(text: str) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= _CELL_CHARS else f"{flat[:_CELL_CHARS]}…"
