"""Answers of two models to the same questions: scores with paired intervals, questions won and lost, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from expectations.rules.bootstrap import Interval, bootstrap, paired_bootstrap
from ft_assets.adapters.evaluate import passage_texts
from ft_assets.adapters.jobs import AnswerSummary
from ft_assets.adapters.score_answers import ANSWERS_FILE
from ft_assets.datasets.split import split_file
from ft_assets.web.data import find_artifact
from ft_assets.web.project import NotFound
from resources.artifacts import Artifact, ArtifactStore
from resources.memo import Memo
from resources.parquet import read_rows

EVALUATIONS = ("answer_evaluation", "adapter_evaluation")
Outcome = Literal["won", "lost", "equal"]
_METRICS = {"exact_match": "Exact match", "f1": "Character F1", "rouge_l": "ROUGE-L"}
_DEFAULT_SEED = 42  # of an evaluation whose recipe has none
_CHOSEN_ON = (
    "There were no test questions: these are the ones that the candidate was chosen on, so the figures flatter it."
)
_LONGEST = 1500  # characters of a passage on a page
# rows and passages of artifacts, which never change, by recipe
_rows: Memo[list[dict[str, Any]]] = Memo(8)
_records: Memo[dict[str, dict[str, Any]]] = Memo(8)
_passages: Memo[dict[str, str]] = Memo(2)


class Side(msgspec.Struct, frozen=True):
    """A model in an evaluation."""

    label: str
    asset: str
    recipe: str
    model: str


class _Answers(NamedTuple):
    """The answers of one evaluation: record id -> row."""

    evaluation: Artifact
    rows: dict[str, dict[str, Any]]
    are_tests: bool
    """False if there are validation questions alone."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of both sides on the questions that both answered."""

    title: str
    before: Interval
    after: Interval
    difference: Interval


class ShownPassage(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that the models read."""

    id: str
    text: str


class AnsweredTwice(msgspec.Struct, frozen=True, kw_only=True):
    """One question with both answers."""

    record: str
    question: str
    gold: str
    before: str
    after: str
    before_right: bool
    after_right: bool
    before_f1: float
    after_f1: float
    outcome: Outcome
    passages: list[ShownPassage]


class AnswerComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two models on the same held-out questions; `before` and `after` name the sides."""

    before: Side
    after: Side
    scores: list[Score]
    questions: list[AnsweredTwice]
    """Lost ones first, then won ones."""
    verdict: str
    note: str = ""
    """A reason to trust the figures less."""

    def count(self, outcome: Outcome) -> int:
        return sum(question.outcome == outcome for question in self.questions)


def compare_answers(store: ArtifactStore, before: Side, after: Side) -> AnswerComparison | None:
    """Return two sides on the held-out questions that both answered; None where there are none."""
    left, right = (_answers(store, side) for side in (before, after))
    if left is None or right is None:
        return None
    shared = [record for record in left.rows if record in right.rows]
    if not shared:
        return None
    evaluation, seed = right.evaluation, _seed(right.evaluation)
    evidence = passages_read(store, evaluation, [right.rows[record] for record in shared])
    pairs = [
        _pair(record, left.rows[record], right.rows[record], (before, after), evidence.get(record, []))
        for record in shared
    ]
    scores: list[Score] = []
    for metric, title in _METRICS.items():
        values = [float(left.rows[record][f"{metric}_{before.model}"]) for record in shared]
        others = [float(right.rows[record][f"{metric}_{after.model}"]) for record in shared]
        score = Score(
            title=title,
            before=bootstrap(values, seed=seed),
            after=bootstrap(others, seed=seed),
            difference=paired_bootstrap(others, values, seed=seed),
        )
        scores.append(score)
    order: dict[Outcome, int] = {"lost": 0, "won": 1, "equal": 2}
    return AnswerComparison(
        before=before,
        after=after,
        scores=scores,
        questions=sorted(pairs, key=lambda pair: order[pair.outcome]),
        verdict=describe_difference(scores[1].difference, after.label, before.label, "character F1"),
        note="" if left.are_tests and right.are_tests else _CHOSEN_ON,
    )


def summary_of(evaluation: Artifact) -> AnswerSummary | None:
    """Return the figures of an evaluation; None of one that an earlier version of the product made."""
    try:
        return evaluation.summary_as(AnswerSummary)
    except msgspec.ValidationError:
        return None


def describe_difference(better: Interval, after: str, before: str, metric: str) -> str:
    """Return one sentence about a paired difference: whether it can be chance."""
    figures = (
        f"{better.mean:+.3f} {metric} on {better.n} questions, 95 % interval {better.low:+.3f} to {better.high:+.3f}"
    )
    if better.low > 0:
        return f"{after} is better than {before}: {figures}."
    if better.high < 0:
        return f"{after} is worse than {before}: {figures}."
    return f"No difference between {after} and {before} is proven: {figures}. It includes 0."


def _answers(store: ArtifactStore, side: Side) -> _Answers | None:
    """Return the test questions; the candidate was chosen on those of validation."""
    evaluation = store.find(side.asset, side.recipe)
    if evaluation is None or ANSWERS_FILE not in evaluation.manifest.files:
        return None
    rows = rows_of(evaluation)
    if not rows or f"answer_{side.model}" not in rows[0]:
        return None
    tested = tests_of(evaluation)
    return _Answers(evaluation, {row["record_id"]: row for row in tested or rows}, bool(tested))


def rows_of(evaluation: Artifact) -> list[dict[str, Any]]:
    """Return the questions of an evaluation with their answers: those of validation first, then the test questions."""
    return _rows.get(evaluation.path, lambda: list(read_rows(evaluation.file(ANSWERS_FILE))))


def tests_of(evaluation: Artifact) -> list[dict[str, Any]]:
    """Return the rows of the test questions."""
    return rows_of(evaluation)[int(evaluation.summary.get("validation_questions", 0)) :]


def find_evaluation(store: ArtifactStore, name: str, recipe: str) -> Artifact:
    """Return an evaluation that has answers; the current one without a recipe. Raises NotFound."""
    evaluation = find_artifact(store, name, recipe)
    if ANSWERS_FILE not in evaluation.manifest.files:
        raise NotFound(f"{name} asks no questions. {' and '.join(EVALUATIONS)} do.")
    return evaluation


def _seed(evaluation: Artifact) -> int:
    """Return the seed of an evaluation, so that the intervals here are its own."""
    settings = evaluation.manifest.recipe.settings
    return int(settings.get("answers", settings).get("seed", _DEFAULT_SEED))


def _pair(
    record: str, left: dict[str, Any], right: dict[str, Any], sides: tuple[Side, Side], passages: list[ShownPassage]
) -> AnsweredTwice:
    names = [side.model for side in sides]
    before, after = float(left[f"f1_{names[0]}"]), float(right[f"f1_{names[1]}"])
    return AnsweredTwice(
        record=record,
        question=right["question"],
        gold=right["gold"],
        before=left[f"answer_{names[0]}"] or "",
        after=right[f"answer_{names[1]}"] or "",
        before_right=left[f"exact_match_{names[0]}"] == 1,
        after_right=right[f"exact_match_{names[1]}"] == 1,
        before_f1=before,
        after_f1=after,
        outcome="won" if after > before else "lost" if after < before else "equal",
        passages=passages,
    )


def passages_read(
    store: ArtifactStore, evaluation: Artifact, rows: Sequence[dict[str, Any]]
) -> dict[str, list[ShownPassage]]:
    """Return record id -> the passages that the models read: the retrieved ones, or the evidence of the record."""
    texts = passages_of(store, evaluation)
    records = records_of(store, evaluation)
    shown: dict[str, list[ShownPassage]] = {}
    for row in rows:
        record = records.get(row["record_id"], {})
        names: list[str] = row.get("retrieved") or record.get("evidence") or []
        context: list[str] = record.get("context") or []
        found = [ShownPassage(id=name, text=texts[name][:_LONGEST]) for name in names if name in texts]
        own = [ShownPassage(id="", text=text[:_LONGEST]) for text in context]
        shown[row["record_id"]] = own or found
    return shown


def records_of(store: ArtifactStore, evaluation: Artifact) -> dict[str, dict[str, Any]]:
    """Return record id -> row of the held-out records that an evaluation asked."""
    found: dict[str, dict[str, Any]] = {}
    for splits in _inputs(store, evaluation, "_splits"):
        for part in ("validation", "test"):
            name = split_file(part)
            found |= _records.get((splits.path, part), lambda: _by_id(read_rows(splits.file(name))))  # noqa: B023
    return found


def passages_of(store: ArtifactStore, artifact: Artifact) -> dict[str, str]:
    """Return passage id -> text of the passages that an artifact was made from."""
    passages = next(iter(_inputs(store, artifact, "passages")), None)
    return _passages.get(passages.path, lambda: passage_texts(passages)) if passages else {}


def _by_id(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row.get("record_id") or row.get("query_id") or "": row for row in rows}


def _inputs(store: ArtifactStore, artifact: Artifact, ending: str) -> list[Artifact]:
    versions = {name: v for name, v in artifact.manifest.recipe.inputs.items() if name.endswith(ending)}
    return list(filter(None, (store.find_version(name, version) for name, version in versions.items())))
