"""Releases: what serves and on what evidence, the history, the difference of two, and the rollback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from expectations.rules.bootstrap import Interval
from expectations.violations import Refused
from ft_assets.adapters.jobs import TRAINED
from ft_assets.adapters.release import released_asset
from ft_assets.retrieval.jobs import RetrievalEvaluationSummary
from ft_assets.web.answers import AnswerComparison, Side, compare_answers, summary_of
from ft_assets.web.differences import ChangedValue, find_differences, flatten
from ft_assets.web.gates import CheckResult, check_results
from ft_assets.web.project import KINDS, NotFound, ShownProject
from ft_assets.web.rankings import OF_RELEASES, RankedSide, RankingComparison, compare_rankings
from resources.artifacts import Artifact, ArtifactStore
from resources.releases import Move, Release, ReleaseKind


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of the evidence, with its interval where it has one."""

    title: str
    value: Interval | float | str


class ReleaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One release."""

    version: str
    released_at: float
    serves: bool
    withheld: bool
    kept: bool
    """False where retention removed what it was made of: it cannot serve again."""
    artifacts: dict[str, str]
    title: str


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The release that serves, of one kind."""

    kind: ReleaseKind
    release: ReleaseRow
    since: float
    who: str
    why: str
    evidence: list[Fact]
    checks: list[CheckResult]


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """Every release and every move of one kind, newest first."""

    kind: ReleaseKind
    served: Served | None
    releases: list[ReleaseRow]
    moves: list[Move]
    damage: str = ""
    """The reason why the record of releases cannot be read."""


class ReleasesView(msgspec.Struct, frozen=True, kw_only=True):
    """The page /releases."""

    books: list[Book]


class ReleaseComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two releases of one kind next to each other."""

    kind: ReleaseKind
    before: ReleaseRow
    after: ReleaseRow
    settings: list[ChangedValue]
    data: list[ChangedValue]
    answers: AnswerComparison | None
    retrieval: RankingComparison | None


class ReleaseReport(msgspec.Struct, frozen=True, kw_only=True):
    """The file of `ft report`."""

    books: list[Book]
    version: str
    """The release that was asked for; empty: what serves."""
    evidence: list[Fact]
    """That of the release that was asked for."""
    comparisons: list[ReleaseComparison]
    """Each release next to the one before it."""


def show_releases(project: ShownProject, kinds: Sequence[ReleaseKind] = KINDS) -> ReleasesView:
    """Return what serves, and the history."""
    return ReleasesView(books=[_book(project, kind) for kind in kinds])


def show_evidence(project: ShownProject, version: str) -> list[Fact]:
    """Return the evidence that a release was made with."""
    for kind in KINDS:
        book = project.releases.book(kind)
        if book and (release := book.find(version)):
            return _evidence(project.store, kind, release)
    return []


def compare_releases(project: ShownProject, kind: ReleaseKind, before: str, after: str) -> ReleaseComparison:
    """Return two releases next to each other. Raises NotFound."""
    book = project.releases.book(kind)
    old, new = (book.find(version) if book else None for version in (before, after))
    if book is None or old is None or new is None:
        raise NotFound(f"There is no release {before if old is None else after} of the {kind}.")
    artifacts = [_artifacts(project.store, release) for release in (old, new)]
    return ReleaseComparison(
        kind=kind,
        before=_row(project.store, old, book.current, book.withheld),
        after=_row(project.store, new, book.current, book.withheld),
        settings=find_differences(
            [_settings(release, made_of) for release, made_of in zip((old, new), artifacts, strict=True)]
        ),
        data=find_differences([_versions(made_of) for made_of in artifacts]),
        answers=_compare_answers(project.store, old, new) if kind == "adapter" else None,
        retrieval=_compare_retrieval(project.store, old, new) if kind == "collection" else None,
    )


def roll_back_to(project: ShownProject, kind: ReleaseKind, version: str, why: str) -> str:
    """Make a release serve again, as `ft rollback` does. Return a note, empty if nothing is to be said about it.

    Raises Refused as `roll_back` does.
    """
    from ft_assets.rollback import current_user, roll_back_and_record

    return roll_back_and_record(kind, project, to=version, who=f"{current_user()}, companion page", why=why)[1]


def _book(project: ShownProject, kind: ReleaseKind) -> Book:
    try:
        book = project.releases.book(kind)
    except Refused as refused:  # the rest of the page can be shown
        return Book(kind=kind, served=None, releases=[], moves=[], damage=str(refused.violations[0]))
    if book is None:
        return Book(kind=kind, served=None, releases=[], moves=[])
    rows = [_row(project.store, release, book.current, book.withheld) for release in reversed(book.history)]
    current = next(row for row in rows if row.serves)
    move = next((move for move in reversed(book.moves) if move.after == book.current), None)
    release = book.find(book.current)
    served = Served(
        kind=kind,
        release=current,
        since=move.at if move else current.released_at,
        who=(move.who if move else "") or "a run of the graph, after every blocking gate passed",
        why=move.why if move else "",
        evidence=_evidence(project.store, kind, release) if release else [],
        checks=check_results(project, {f"released_{kind}": "", **current.artifacts}),
    )
    return Book(kind=kind, served=served, releases=rows, moves=list(reversed(book.moves)))


def _row(store: ArtifactStore, release: Release, current: str, withheld: Sequence[str]) -> ReleaseRow:
    return ReleaseRow(
        version=release.version,
        released_at=release.released_at,
        serves=release.version == current,
        withheld=release.version in withheld,
        kept=all(store.find(asset, recipe) for asset, recipe in release.artifacts.items()),
        artifacts=release.artifacts,
        title=_title(release),
    )


def _title(release: Release) -> str:
    details = release.details
    if "collection" in details:
        fusion: dict[str, Any] = details.get("fusion") or {}
        again = ", ranked again" if fusion.get("rerank") else ""
        dense, lexical = (f"{fusion.get(name, 0.0):.4g}" for name in ("dense_weight", "sparse_weight"))
        weights = f"{dense} dense : {lexical} lexical"
        return f"{details['collection']}, {weights}{again}"
    base = details.get("contract", {}).get("base", {}).get("name", "")
    return f"{released_asset(release)} on {base}"


def _evidence(store: ArtifactStore, kind: ReleaseKind, release: Release) -> list[Fact]:
    try:
        return _retrieval_evidence(store, release) if kind == "collection" else _answer_evidence(store, release)
    except (msgspec.ValidationError, KeyError):
        return [Fact(title="Evidence", value="An earlier version of the product wrote it; it cannot be shown.")]


def _answer_evidence(store: ArtifactStore, release: Release) -> list[Fact]:
    facts: list[Fact] = []
    model = _model_of(release)
    for asset, where in (("adapter_evaluation", "from evidence"), ("answer_evaluation", "from retrieved passages")):
        evaluation = _evaluation(store, asset, release)
        summary = summary_of(evaluation) if evaluation else None
        if summary is None or model not in summary.intervals:
            continue
        for metric, title in (("exact_match", "Exact match"), ("f1", "Character F1")):
            facts.append(Fact(title=f"{title}, {where}", value=summary.intervals[model][metric]))
        if gain := summary.differences.get(f"{model}-base"):
            facts.append(Fact(title=f"F1 gain over the base, {where}", value=gain["f1"]))
    return facts


def _retrieval_evidence(store: ArtifactStore, release: Release) -> list[Fact]:
    evaluation = store.find("retrieval_evaluation", release.artifacts.get("retrieval_evaluation", ""))
    facts = _measured_evidence(evaluation) if evaluation else []
    if choice := release.details.get("fusion_choice"):
        facts.append(Fact(title="Weights", value=str(choice.get("reason", ""))))
    if floor := release.details.get("score_floor"):
        facts.append(Fact(title="Below this score nothing is found", value=float(floor["score"])))
    return facts


def _measured_evidence(evaluation: Artifact) -> list[Fact]:
    summary, intervals = evaluation.summary_as(RetrievalEvaluationSummary), evaluation.summary.get("intervals", {})
    facts: list[Fact] = []
    if interval := intervals.get("candidate_fused_ndcg_at_10"):
        facts.append(Fact(title="nDCG@10, fused", value=msgspec.convert(interval, Interval)))
    gains = {
        "nDCG@10 against what served before": summary.gain_ndcg_at_10,
        "Recall@10 against what served before": summary.gain_recall_at_10,
        "nDCG@10 against BM25": summary.gain_over_bm25,
        "nDCG@10 against the better arm": summary.gain_over_arm,
    }
    facts += [Fact(title=title, value=gain) for title, gain in gains.items() if gain]
    if summary.rerank_seconds:
        facts.append(Fact(title="Seconds of the rerank model for a question", value=summary.rerank_seconds))
    return facts


def _model_of(release: Release) -> str:
    asset = released_asset(release)
    return next(name for name, trained in TRAINED.items() if trained == asset)


def _evaluation(store: ArtifactStore, asset: str, release: Release) -> Artifact | None:
    """Return the evaluation of a release: the recorded one, or the newest that read it."""
    if asset in release.artifacts:
        return store.find(asset, release.artifacts[asset])
    return next((one for one in store.versions(asset) if release.version in one.manifest.recipe.inputs.values()), None)


def _artifacts(store: ArtifactStore, release: Release) -> list[Artifact]:
    return list(filter(None, (store.find(asset, recipe) for asset, recipe in release.artifacts.items())))


def _settings(release: Release, artifacts: Sequence[Artifact]) -> dict[str, str]:
    """Return the settings of everything that a release was made of, and what it serves by."""
    found: dict[str, str] = {}
    for artifact in artifacts:
        found |= {
            f"{artifact.asset}: {name}": value for name, value in flatten(artifact.manifest.recipe.settings).items()
        }
    served = release.details
    return found | flatten({name: served[name] for name in ("fusion", "contract") if name in served})


def _versions(artifacts: Sequence[Artifact]) -> dict[str, str]:
    found: dict[str, str] = {}
    for artifact in artifacts:
        found[artifact.asset] = artifact.data_version
        found |= {f"{artifact.asset} ← {name}": version for name, version in artifact.manifest.recipe.inputs.items()}
    return found


def _compare_answers(store: ArtifactStore, old: Release, new: Release) -> AnswerComparison | None:
    sides = [
        Side(f"{release.version} ({_model_of(release)})", "adapter_evaluation", recipe, _model_of(release))
        for release in (old, new)
        if (recipe := release.artifacts.get("adapter_evaluation"))
    ]
    return compare_answers(store, sides[0], sides[1]) if len(sides) == 2 else None


def _compare_retrieval(store: ArtifactStore, old: Release, new: Release) -> RankingComparison | None:
    sides = [
        RankedSide(release.version, evaluation, "candidate")
        for release in (old, new)
        if (evaluation := store.find("retrieval_evaluation", release.artifacts.get("retrieval_evaluation", "")))
    ]
    return compare_rankings(store, sides[0], sides[1], OF_RELEASES) if len(sides) == 2 else None
