"""`ft summary`: the current artifacts and how good they are, read from the artifacts alone (no Dagster)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from statistics import fmean
from typing import Literal, cast

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expectations.rules.bootstrap import paired_bootstrap
from expectations.violations import Refused
from ft_assets.adapters.release import released_asset
from ft_assets.commands.project import Project
from ft_assets.commands.terminal import make_console
from ft_assets.embedding.jobs import FactorsSummary
from ft_assets.embedding.scores import BM25, Scores, read_scores
from resources.artifacts import ArtifactStore
from resources.releases import ReleaseKind, Releases

_KINDS: tuple[ReleaseKind, ...] = ("adapter", "collection")
_ARMS = ("dense", "sparse", "fused")
# The keys of the figures in the summary of the evaluation: `<metric>_<model>`, those of a nested summary joined.
_ANSWERS = ("answer_evaluation", ("base", "sft", "dpo"), ("exact_match", "f1"))


@click.command("summary")
def command() -> None:
    """Show every asset with its version and figures, retrieval before and after training, answers, and releases.

    \b
    Example: ft summary
    """
    project, console = Project.here(), make_console()
    console.print("[bold]Current artifacts[/]")
    console.print(_assets(project.store))
    print_report(project, console)


def print_report(project: Project, console: Console | None = None) -> None:
    """Print the results of the current evaluations, and the releases."""
    console, store = console or make_console(), project.store

    @cache
    def scores() -> Scores:
        evaluation = store.current("embedding_evaluation")
        return read_scores(evaluation) if evaluation else {}

    for title, make_table in (
        ("Retrieval before and after training, by passage", lambda: retrieval_table(scores())),
        ("Retrieval before and after training, by document", lambda: retrieval_table(scores(), "document_")),
        ("Answers to held-out questions, with retrieved passages", lambda: answers_table(store)),
        ("Their char-F1 by the passages that a model reads", lambda: readings_table(store)),
    ):
        try:
            table = make_table()
        except Refused as damaged:  # the other results are shown
            console.print(f"\n[bold]{title}[/] [red]{escape(str(damaged.violations[0]))}[/]", soft_wrap=True)
            continue
        if table.row_count:
            console.print(f"\n[bold]{title}[/]")
            console.print(table)
    if line := _factors_line(project.store):
        console.print(f"\n[bold]Learned factors[/] {line}", highlight=False)
    if line := _rerank_line(_summary(project.store, "retrieval_evaluation")):
        console.print(f"\n[bold]Rerank[/] {line}", highlight=False)
    if sweep := project.store.current("fusion_sweep"):
        console.print(f"\n[bold]Fusion[/] {sweep.summary['advice']}", highlight=False)
        if floor := sweep.summary.get("floor"):
            console.print(f"[bold]Lowest score of a finding[/] {floor}", highlight=False)
    console.print("\n[bold]Released[/]")
    for kind in _KINDS:
        console.print(f"  {_released(project.releases, kind)}")
    if project.releases.current("collection"):
        following = "[bold]make ui[/] shows all of this in the browser, `ft search TEXT` queries the collection."
    else:
        following = "`ft run --all` makes and releases what is missing."
    console.print(f"\nNext: {following}")


def retrieval_table(scores: Scores, by: Literal["", "document_"] = "") -> Table:
    """Return nDCG@10 and Recall@10 of BM25 and of each arm, before and after training.

    Differences are in pairs on the test questions, with 95 % intervals. `by`: "document_" counts documents.
    """
    ndcg, recall = f"{by}ndcg_at_10", f"{by}recall_at_10"
    table = _table("arm", "nDCG@10 before", "after", "after - before", "after - BM25", "Recall@10 before", "after")
    for title, before, after in (
        ("BM25", (BM25, "sparse"), (BM25, "sparse")),
        *((arm, ("base", arm), ("trained", arm)) for arm in _ARMS),
    ):
        cells = (
            *(_mean(scores, system, ndcg) for system in (before, after)),
            *(_gain(scores, after, system, ndcg) for system in (before, (BM25, "sparse"))),
            *(_mean(scores, system, recall) for system in (before, after)),
        )
        is_bm25 = title == "sparse" and scores.get(before) == scores.get(after) == scores.get((BM25, "sparse"))
        if not is_bm25 and any(cell != "-" for cell in cells):
            table.add_row(title, *cells)
    return table


def _mean(scores: Scores, system: tuple[str, str], metric: str) -> str:
    return _figure(fmean(scores[system][metric])) if system in scores else "-"


def _gain(scores: Scores, after: tuple[str, str], before: tuple[str, str], metric: str) -> str:
    if after == before or not {after, before} <= scores.keys():
        return "-"
    gain = paired_bootstrap(scores[after][metric], scores[before][metric])
    return f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def answers_table(store: ArtifactStore) -> Table:
    """Return exact match and character F1 of the base model and of each adapter, with 95 % intervals."""
    asset, models, metrics = _ANSWERS
    table = _table("model", *(_title(metric) for metric in metrics))
    values = _summary(store, asset)
    for model in models:
        cells = [
            _with_interval(values.get(f"{metric}_{model}"), values, f"intervals_{model}_{metric}") for metric in metrics
        ]
        if any(cell != "-" for cell in cells):
            table.add_row(model, *cells)
    return table


def readings_table(store: ArtifactStore) -> Table:
    """Return the F1 of each model without passages, with retrieved ones and with the right ones, and both gains."""
    asset, models, _ = _ANSWERS
    values = _summary(store, asset)
    readings = {name: f"readings_{name}" for name in ("none", "retrieved", "evidence")}
    gains = {
        "gain by retrieval": "reading_gains_retrieved-none",
        "left for retrieval": "reading_gains_evidence-retrieved",
    }
    table = _table("model", *readings, *gains)
    for model in models:
        names = [f"{prefix}_{model}_f1" for prefix in (*readings.values(), *gains.values())]
        cells = [_with_interval(values.get(f"{name}_mean"), values, name) for name in names]
        if any(cell != "-" for cell in cells):
            table.add_row(model, *cells)
    return table


def _factors_line(store: ArtifactStore) -> str:
    """Return whether the model's factors of BM25 were taken, and why; empty where none were learned."""
    model = store.current("embedding_model")
    factors = model.summary.get("factors") if model else None
    return msgspec.convert(factors, FactorsSummary).sentence if factors else ""


def _rerank_line(values: Mapping[str, object]) -> str:
    """Return the gain by the rerank model and its price; empty without one."""
    if values.get("gain_by_rerank_mean") is None:
        return ""
    gains = [
        f"{_title(metric)} {_with_interval(values.get(f'{name}_mean'), values, name)}"
        for metric, name in (("ndcg_at_10", "gain_by_rerank"), ("document_ndcg_at_10", "gain_by_rerank_by_document"))
    ]
    return f"gains {', '.join(gains)}, and takes {values.get('rerank_seconds')} s a question"


def flatten(summary: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a nested summary flat: `{"base": {"fused": {"ndcg@10": 0.5}}}` -> `{"base_fused_ndcg_at_10": 0.5}`."""
    flat: dict[str, object] = {}
    for key, value in summary.items():
        name = prefix + key.replace("@", "_at_").replace(".", "_")
        if isinstance(value, Mapping):
            flat |= flatten(cast("Mapping[str, object]", value), f"{name}_")
        else:
            flat[name] = value
    return flat


def _assets(store: ArtifactStore) -> Table:
    table = _table("asset", "version", "figures")
    for name in store.assets():
        artifact = store.current(name)
        if artifact is None:
            continue
        plain = {k: v for k, v in artifact.summary.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        figures = ", ".join(f"{name} {_figure(value)}" for name, value in list(plain.items())[:5])
        table.add_row(artifact.asset, artifact.data_version[:12], figures)
    return table


def _released(releases: Releases, kind: ReleaseKind) -> str:
    release = releases.current(kind)
    if release is None:
        return f"{kind}: nothing yet"
    if kind == "collection":
        fusion = release.details["fusion"]
        served = (
            f"{release.details['collection']}, {fusion['fusion']} {fusion['dense_weight']} / {fusion['sparse_weight']}"
        )
        if rerank := fusion.get("rerank"):
            served += f", the first {rerank['top_n']} ranked again by {rerank['model']}"
        if choice := release.details.get("fusion_choice"):
            served += f" ({choice['by']}, {choice['questions']} questions)"
    else:
        asset = released_asset(release)
        served = f"{asset} {release.artifacts[asset]} on {release.details['contract']['base']['name']}"
    return f"{kind}: {release.version} = {served}"


def _summary(store: ArtifactStore, asset: str) -> dict[str, object]:
    artifact = store.current(asset)
    return flatten(artifact.summary) if artifact else {}


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index == 0 or title in {"version", "figures"} else "right")
    return table


def _title(metric: str) -> str:
    names = {
        "ndcg_at_10": "nDCG@10",
        "recall_at_10": "Recall@10",
        "document_ndcg_at_10": "nDCG@10 by document",
        "exact_match": "exact match",
        "f1": "char-F1",
    }
    return names.get(metric, metric)


def _with_interval(value: object, values: Mapping[str, object], name: str) -> str:
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return f"{_figure(value)} [{_figure(low)}, {_figure(high)}]" if low is not None else _figure(value)


def _figure(value: object) -> str:
    match value:
        case bool() | None:
            return "-"
        case int():
            return str(value)
        case float():
            return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
        case _:
            return "-"
