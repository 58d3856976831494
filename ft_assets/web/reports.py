"""Reports: the pages of the table gates, model cards, and where one answer comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from expectations.violations import Refused
from ft_assets.adapters.jobs import TRAINED
from ft_assets.adapters.score_answers import ANSWERS_FILE, models_of
from ft_assets.corpus.collect import PASSAGES
from ft_assets.web.answers import EVALUATIONS, find_evaluation, records_of
from ft_assets.web.data import find_artifact
from ft_assets.web.project import NotFound, ShownProject
from ft_assets.web.trainings import ShownTraining, list_trainings
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import read_rows

CARD = "README.md"
_SHOWN_ANSWERS = 20


class TableReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a table gate."""

    asset: str
    name: str
    written_at: float


class AskedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A question of an evaluation, for the list of those whose answer can be followed back."""

    evaluation: str
    recipe: str
    record: str
    question: str


class ReportsView(msgspec.Struct, frozen=True, kw_only=True):
    """The page /reports."""

    tables: list[TableReport]
    cards: list[ShownTraining]
    answers: list[AskedRecord]
    damage: list[str]
    """The reasons why an evaluation cannot be read."""


class CardView(msgspec.Struct, frozen=True, kw_only=True):
    """A model card."""

    asset: str
    recipe: str
    text: str


class LineageStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step from a metric back to a file."""

    title: str
    text: str = ""
    link: str = ""
    facts: dict[str, str] = {}


class LineageView(msgspec.Struct, frozen=True, kw_only=True):
    """The steps from one answer back to the files."""

    question: str
    gold: str
    steps: list[LineageStep]


def list_reports(project: ShownProject) -> ReportsView:
    """Return every report, model card, and the first questions of the current evaluations."""
    finished = [row for row in list_trainings(project) if row.state == "finished"]
    answers, damage = list[AskedRecord](), list[str]()
    for name in EVALUATIONS:
        try:
            answers += _asked(project.store, name)
        except Refused as refused:  # the other reports can be shown
            damage.append(str(refused.violations[0]))
    return ReportsView(
        tables=[
            TableReport(asset=path.parent.name, name=path.stem, written_at=path.stat().st_mtime)
            for path in _table_reports(project.state)
        ],
        cards=[row for row in finished if CARD in _manifest(project.store, row)],
        answers=answers,
        damage=damage,
    )


def _asked(store: ArtifactStore, name: str) -> list[AskedRecord]:
    """Return the first questions of the current evaluation `name`."""
    evaluation = store.current(name)
    if evaluation is None:
        return []
    rows = islice(read_rows(evaluation.file(ANSWERS_FILE), ["record_id", "question"]), _SHOWN_ANSWERS)
    recipe = evaluation.recipe_id
    return [
        AskedRecord(evaluation=name, recipe=recipe, record=row["record_id"], question=row["question"]) for row in rows
    ]


def _manifest(store: ArtifactStore, row: ShownTraining) -> Mapping[str, object]:
    artifact = store.find(row.asset, row.recipe)
    return artifact.manifest.files if artifact else {}


def find_table_report(project: ShownProject, asset: str, name: str) -> Path:
    """Return the file of a report by names that exist. Raises NotFound."""
    for path in _table_reports(project.state):
        if (path.parent.name, path.stem) == (asset, name):
            return path
    raise NotFound(f"There is no report {name} of {asset}: retention keeps the newest of each asset.")


def _table_reports(state: Path) -> list[Path]:
    found = [path for path in (state / "reports").glob("*/[!.]*.html") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def show_card(project: ShownProject, asset: str, recipe: str) -> CardView:
    """Return the model card of a training. Raises NotFound."""
    artifact = find_artifact(project.store, asset, recipe)
    if CARD not in artifact.manifest.files:
        raise NotFound(f"{asset}/{recipe} has no model card.")
    return CardView(asset=asset, recipe=recipe, text=artifact.file(CARD).read_text("utf-8"))


def show_lineage(project: ShownProject, asset: str, recipe: str, record: str) -> LineageView:
    """Return where the answers to one question come from. Raises NotFound."""
    evaluation = find_evaluation(project.store, asset, recipe)
    row = next((row for row in read_rows(evaluation.file(ANSWERS_FILE)) if row["record_id"] == record), None)
    if row is None:
        raise NotFound(f"{asset}/{recipe} did not ask the record {record}.")
    asked = records_of(project.store, evaluation).get(record, {})
    steps = [
        _metric(evaluation, row),
        *_adapters(project, evaluation),
        _record(evaluation, record, asked),
        *_passages(project.store, evaluation, row, asked),
    ]
    return LineageView(question=row["question"], gold=row["gold"], steps=steps)


def _metric(evaluation: Artifact, row: Mapping[str, Any]) -> LineageStep:
    models = models_of(row)
    facts = {model: f"F1 {row[f'f1_{model}']:.3f} · {row[f'answer_{model}']}" for model in models}
    title = f"Metric: {evaluation.asset} {evaluation.recipe_id[:8]}"
    return LineageStep(title=title, text="Each model's answer to this question.", facts=facts)


def _adapters(project: ShownProject, evaluation: Artifact) -> list[LineageStep]:
    """Return a step for each adapter that answered: those in the recipe, or those of the release in the recipe."""
    inputs, store = evaluation.manifest.recipe.inputs, project.store
    book = project.releases.book("adapter")
    release = book.find(inputs.get("released_adapter", "")) if book else None
    steps: list[LineageStep] = []
    for asset in TRAINED.values():
        if asset in inputs:
            artifact = store.find_version(asset, inputs[asset])
        else:
            artifact = store.find(asset, release.artifacts[asset]) if release and asset in release.artifacts else None
        if artifact:
            made_from = artifact.manifest.recipe.inputs
            by = f"released as {release.version}, " if release else ""
            steps.append(
                LineageStep(
                    title=f"Adapter: {asset} {artifact.recipe_id[:8]}",
                    text=f"{by}trained on " + ", ".join(f"{name} {data}" for name, data in made_from.items()),
                    link=f"/trainings/{asset}/{artifact.recipe_id}",
                )
            )
    return steps


def _record(evaluation: Artifact, record: str, asked: Mapping[str, Any]) -> LineageStep:
    splits = next((name for name in evaluation.manifest.recipe.inputs if name.endswith("_splits")), "")
    facts = {"id": record}
    if asked:
        facts |= {"file": f"{asked['source']}:{asked['line_no']}"}
    base = splits.removesuffix("_splits") + "_records"
    link = f"/data/{base}?column=record_id&exact=1&q={_quoted(record)}" if splits else ""
    return LineageStep(title="Record: held out, so that no training saw it", link=link, facts=facts)


def _passages(
    store: ArtifactStore, evaluation: Artifact, row: Mapping[str, Any], asked: Mapping[str, Any]
) -> list[LineageStep]:
    names: Sequence[str] = row.get("retrieved") or asked.get("evidence") or []
    version = evaluation.manifest.recipe.inputs.get("passages")
    passages = store.find_version("passages", version) if version else None
    if passages is None or not names:
        return []
    evidence: Sequence[str] = asked.get("evidence") or []
    columns = ["passage_id", "content", "source", "start", "end"]
    found = {
        one["passage_id"]: one for one in read_rows(passages.table(PASSAGES), columns) if one["passage_id"] in names
    }
    return [
        LineageStep(
            title=f"Passage: {name}",
            text=found[name]["content"],
            link=f"/data/passages?recipe={passages.recipe_id}&column=passage_id&exact=1&q={_quoted(name)}",
            facts={
                "file": f"{found[name]['source']}, characters {found[name]['start']} to {found[name]['end']}",
                "evidence": "yes" if name in evidence else "no",
            },
        )
        for name in names
        if name in found
    ]


def _quoted(text: str) -> str:
    return quote(text, safe="")
