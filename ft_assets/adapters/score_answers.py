"""Answers of several models to the same questions: generate, score, compare question by question, show in one table."""

# pyarrow is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path

import msgspec

from expectations.markdown import Markdown, markdown_cell, markdown_table
from expectations.rules.answer_scores import Reply, read_reply, score
from expectations.rules.bootstrap import Interval, bootstrap, paired_bootstrap
from expectations.violations import Refused, violation
from ft_assets.adapters.jobs import TRAINED, AnswerSummary, Intervals
from resources.artifacts import Artifact
from resources.asker import Asker
from resources.parquet import read_rows
from resources.text_source import BASE, Call, ChatMessage, ModelReply, NoReply, Sampling

ANSWERS_FILE = "answers.parquet"
_TITLES = {
    "exact_match": "exact match", "f1": "F1", "rouge_l": "ROUGE-L", "closed_thinking": "closed thinking",
    "answer_chars": "answer chars", "tokens": "tokens", "cut": "cut by max_new_tokens",
}  # fmt: skip
_SAMPLES = 8
_CELL_CHARS = 160

Replies = Mapping[str, Sequence[Reply]]
"""Model -> one reply to each question."""
Values = dict[str, list[float]]
"""Metric -> one value for each question."""


def ask_all(
    asker: Asker, models: Sequence[str], chats: Sequence[Sequence[ChatMessage]], max_new_tokens: int
) -> dict[str, list[Reply]]:
    """Return every model's greedy reply to every chat, split into reasoning and answer. Raises Refused where a chat has
    none, because a mean over the others could not be compared."""
    sampling = Sampling(max_new_tokens=max_new_tokens)
    calls = [Call(messages=list(chat), sampling=sampling, model=name) for name, chat in product(models, chats)]
    outcomes = list(asker.ask(calls, total=len(calls)))
    faults = {(one.code, one.reason) for one in outcomes if isinstance(one, NoReply)}
    if faults:
        missing = [violation(code, where="the held-out questions", message=reason) for code, reason in sorted(faults)]
        raise Refused("answering", missing)
    replies = [
        read_reply(one.text, opens_thought=one.opens_thought, tokens=one.tokens, cut=one.finish == "length")
        for one in outcomes
        if isinstance(one, ModelReply)
    ]
    return {name: replies[n * len(chats) : (n + 1) * len(chats)] for n, name in enumerate(models)}


def summarise(values: Mapping[str, Values], seed: int) -> AnswerSummary:
    """Return each model's means with 95 % intervals, and the paired differences between models.

    `values`: of `measure`, or of `read_values`.
    """
    return AnswerSummary(
        questions=_count(values),
        intervals={model: _intervals(metrics, seed) for model, metrics in values.items()},
        differences={
            f"{candidate}-{baseline}": _paired_intervals(values[candidate], values[baseline], seed)
            for candidate, baseline in _pairs(values)
        },
    )


def summarise_parts(values: Mapping[str, Values], chosen_on: int, seed: int) -> AnswerSummary:
    """Return the scores on the questions after the first `chosen_on`, and the best candidate on these first ones. Where
    either part has no questions, the other one serves for both."""
    questions = _count(values)
    tested, first = chosen_on if chosen_on < questions else 0, chosen_on or questions
    validation = summarise(_cut(values, slice(first)), seed)
    return msgspec.structs.replace(
        summarise(_cut(values, slice(tested, None)), seed),
        validation=validation.intervals,
        validation_questions=validation.questions,
        proposed=propose(validation.intervals),
    )


def _count(values: Mapping[str, Values]) -> int:
    """Return the number of questions, which is the same for each model and metric."""
    return len(next(iter(values[BASE].values())))


def _cut(values: Mapping[str, Values], part: slice) -> dict[str, Values]:
    """Return the values of a part of the questions."""
    return {model: {metric: each[part] for metric, each in metrics.items()} for model, metrics in values.items()}


def compare_readings(
    readings: Mapping[str, Replies], golds: Sequence[str], seed: int
) -> tuple[dict[str, dict[str, Intervals]], dict[str, dict[str, Intervals]]]:
    """Return each model's figures by the passages that it read, and the paired differences of one reading and the one
    before it. `readings`: in the order from no passages to the right ones, each on the same questions."""
    values = {reading: measure(replies, golds) for reading, replies in readings.items()}
    figures = {
        reading: {model: _intervals(each, seed) for model, each in models.items()} for reading, models in values.items()
    }
    gains = {
        f"{after}-{before}": {
            model: _paired_intervals(values[after][model], values[before][model], seed) for model in values[after]
        }
        for before, after in pairwise(values)
    }
    return figures, gains


def propose(validation: Mapping[str, Intervals]) -> str:
    """Return the trained adapter with the highest F1, then the highest exact match. Of equal ones the one that was
    trained first: a later training must be better than the one that it continues."""
    # in the order of TRAINED, because a job file sorts the names of the models
    candidates = [name for name in TRAINED if name in validation]
    return max(candidates, key=lambda name: (validation[name]["f1"].mean, validation[name]["exact_match"].mean))


def _pairs(models: Iterable[str]) -> list[tuple[str, str]]:
    """Return the models to compare: each with the base, the candidates with the released model, and DPO with SFT."""
    names = list(models)
    with_base = [(name, BASE) for name in names if name != BASE]
    others = [("dpo", "sft"), ("dpo", "released"), ("sft", "released")]
    return with_base + [pair for pair in others if set(pair) <= set(names)]


def _intervals(values: Values, seed: int) -> Intervals:
    return {metric: bootstrap(each, seed=seed) for metric, each in values.items()}


def _paired_intervals(candidate: Values, baseline: Values, seed: int) -> Intervals:
    return {metric: paired_bootstrap(each, baseline[metric], seed=seed) for metric, each in candidate.items()}


def write_answers(folder: Path, rows: Sequence[Mapping[str, object]], replies: Replies, golds: Sequence[str]) -> None:
    """Write answers.parquet, one row for each question: the columns of `rows`, then for each model its answer, its
    reasoning (where any model reasons), and its figures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = measure(replies, golds)
    reasons = _reasons(replies)
    table: list[dict[str, object]] = []
    for n, row in enumerate(rows):
        line: dict[str, object] = {**row, "gold": golds[n]}
        line |= {f"answer_{model}": given[n].answer for model, given in replies.items()}
        if reasons:
            line |= {f"thought_{model}": given[n].thought for model, given in replies.items()}
        for model in replies:
            line |= {f"{metric}_{model}": each[n] for metric, each in values[model].items()}
        table.append(line)
    pq.write_table(pa.Table.from_pylist(table), folder / ANSWERS_FILE)


def read_values(evaluation: Artifact) -> dict[str, Values]:
    """Return the values that an evaluation wrote into its answers.parquet, as `measure` gave them."""
    rows = list(read_rows(evaluation.file(ANSWERS_FILE)))
    return {
        model: {
            metric: [row[f"{metric}_{model}"] for row in rows] for metric in _TITLES if f"{metric}_{model}" in rows[0]
        }
        for model in models_of(rows[0])
    }


def models_of(row: Mapping[str, object]) -> list[str]:
    """Return the models that answered, by the columns of a row of answers.parquet."""
    return [name.removeprefix("exact_match_") for name in row if name.startswith("exact_match_")]


def show_samples(path: Path) -> str:
    """Return the first rows of an answers.parquet as a Markdown table with one column for each model."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).slice(0, _SAMPLES).to_pylist()
    models = models_of(rows[0])
    lines: list[list[str]] = []
    for row in rows:
        answers = [row[f"answer_{name}"] or _reasoning_alone(row.get(f"thought_{name}")) for name in models]
        lines.append([markdown_cell(text, _CELL_CHARS) for text in (row["question"], row["gold"], *answers)])
    return markdown_table(["question", "gold", *models], lines)


def show_scores(summary: AnswerSummary) -> str:
    """Return Markdown tables with 95 % intervals: each model's figures, the paired differences, and the figures on the
    validation questions, on which the candidate is chosen."""
    tables = [_table("model", summary.intervals)]
    if summary.differences:
        tables.append(_table("difference", summary.differences, sign="+"))
    if summary.validation:
        tables.append(_table("model (validation)", summary.validation))
    if summary.readings and summary.reading_gains:
        tables.append(_show_readings(summary.readings, summary.reading_gains))
    return Markdown("\n\n".join(tables))


def _show_readings(
    readings: Mapping[str, Mapping[str, Intervals]], gains: Mapping[str, Mapping[str, Intervals]]
) -> str:
    """Return the F1 of each model by the passages that it read: the part of retrieval and the part of the model."""
    models = next(iter(readings.values()))
    columns = [f"F1 with passages: {reading}" for reading in readings]
    columns += [f"{' minus '.join(pair.split('-'))}" for pair in gains]
    lines = [
        [
            model,
            *(_interval(figures[model]["f1"]) for figures in readings.values()),
            *(_interval(figures[model]["f1"], "+") for figures in gains.values()),
        ]
        for model in models
    ]
    return markdown_table([f"model ({next(iter(models.values()))['f1'].n} questions with evidence)", *columns], lines)


def _interval(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.3f} ({interval.low:{sign}.3f} … {interval.high:{sign}.3f})"


def _table(title: str, rows: Mapping[str, Intervals], sign: str = "") -> str:
    metrics = [metric for metric in _TITLES if metric in next(iter(rows.values()))]
    lines: list[list[str]] = []
    for name, intervals in rows.items():
        shown = [intervals[metric] for metric in metrics]
        cells = [_interval(each, sign) for each in shown]
        lines.append([name, *cells])
    return markdown_table([title, *(_TITLES[metric] for metric in metrics)], lines)


def measure(replies: Replies, golds: Sequence[str]) -> dict[str, Values]:
    """Return model -> metric -> one value for each question. A reply that never closes its reasoning has no answer.

    closed_thinking is 1 where the reasoning is closed and an answer follows; it is there only if any model reasons.
    """
    reasons = _reasons(replies)
    values: dict[str, Values] = {}
    for name, given in replies.items():
        scores = [score(reply.answer, gold) for reply, gold in zip(given, golds, strict=True)]
        closed = [float(reply.closed and bool(reply.answer)) for reply in given]
        values[name] = {
            "exact_match": [each.exact_match for each in scores],
            "f1": [each.f1 for each in scores],
            "rouge_l": [each.rouge_l for each in scores],
            **({"closed_thinking": closed} if reasons else {}),
            "answer_chars": [float(len(reply.answer)) for reply in given],
            "tokens": [float(reply.tokens) for reply in given],
            "cut": [float(reply.cut) for reply in given],
        }
    return values


def _reasons(replies: Replies) -> bool:
    """Return whether any model opened its reasoning in any reply."""
    return any(_has_reasoning(given) for given in replies.values())


def _has_reasoning(given: Sequence[Reply]) -> bool:
    return any(reply.thought is not None for reply in given)


def _reasoning_alone(reasoning: str | None) -> str:
    return "" if reasoning is None else f"(reasoning only) {reasoning}"
