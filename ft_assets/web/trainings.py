"""Trainings: finished ones from their artifacts, others from their run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from shlex import quote
from typing import Any, Literal, TypeVar

import msgspec

from expectations.rules.bootstrap import Interval
from expectations.violations import Refused
from ft_assets.adapters.jobs import TRAINED
from ft_assets.adapters.trainer.control import CONTROL_FILE, ControlFile, Requests
from ft_assets.adapters.trainer.trackers import read_trackers
from ft_assets.graph.automation import TRAININGS
from ft_assets.web.answers import AnswerComparison, Side, compare_answers, summary_of
from ft_assets.web.differences import ChangedValue, find_differences, flatten
from ft_assets.web.gates import CheckResult, check_results
from ft_assets.web.project import KINDS, NotFound, ShownProject
from ft_assets.web.rankings import (
    ENCODER,
    RankingComparison,
    compare_encoders,
    compare_with_base,
    evaluations_of,
)
from resources.artifacts import MANIFEST, Artifact, ArtifactStore, Recipe
from resources.files import is_locked
from resources.telemetry import METRICS_FILE, read_events, read_metrics, read_points
from resources.training_run import LOCK_FILE, was_published

State = Literal["finished", "running", "stopped"]
_BASE = "base"
_EVALUATIONS = {**dict.fromkeys(TRAINED.values(), "adapter_evaluation"), ENCODER: "embedding_evaluation"}
"""The evaluation that compares two trainings of an asset."""
# figure of metrics.jsonl -> title and unit; a chart is drawn where any training has a figure of it
_CHARTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("loss", "Training loss", "loss (nats)", ("loss",)),
    ("eval_loss", "Validation loss", "loss (nats)", ("eval_loss",)),
    ("answers", "Answers to validation questions", "share", ("eval_exact_match", "eval_f1")),
    ("margins", "Reward margin (validation)", "chosen − rejected", ("eval_rewards/margins",)),
    ("accuracies", "Reward accuracy (validation)", "share of pairs", ("eval_rewards/accuracies",)),
    ("rewards", "Rewards (training)", "reward", ("rewards/chosen", "rewards/rejected")),
    ("ndcg", "Retrieval on validation questions", "nDCG@10", ("fused_ndcg_at_10", "dense_ndcg_at_10")),
    ("learning_rate", "Learning rate", "rate", ("learning_rate",)),
    ("tokens", "Throughput", "tokens / s", ("tokens_per_second",)),
    ("grad_norm", "Gradient norm", "norm", ("grad_norm", "gradient_norm")),
    ("memory", "Memory", "GiB", ("gpu_used_gib", "rss_gib")),
)
SORTS = ("created_at", "asset", "method", "base", "rows", "loss", "eval_loss", "exact_match", "f1", "seconds", "device")


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of one training by step."""

    name: str
    points: list[tuple[int, float]]
    color: int
    """One for each training and figure, on all charts."""


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Curves with one unit."""

    id: str
    title: str
    unit: str
    curves: list[Curve]


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a training that is not finished."""

    phase: str
    step: int
    total: int
    figures: dict[str, float]
    seconds_left: float | None
    updated_at: float
    why: list[str] = []
    """The reasons why it ended before its last step."""
    can_stop: bool = False
    stop_requested: bool = False


class TrainingScore(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a training on held-out questions."""

    evaluation: str
    """Recipe id of the `adapter_evaluation`."""
    model: str
    exact_match: Interval
    f1: Interval


class ShownTraining(msgspec.Struct, frozen=True, kw_only=True):
    """One training."""

    asset: str
    recipe: str
    state: State
    created_at: float
    is_current: bool = False
    released: list[str] = []
    """Versions of the releases that it is part of."""
    method: str = ""
    base: str = ""
    rows: int | None = None
    seconds: float | None = None
    device: str = ""
    loss: float | None = None
    eval_loss: float | None = None
    best_ndcg: float | None = None
    score: TrainingScore | None = None
    settings: dict[str, str] = {}
    inputs: dict[str, str] = {}
    differs: dict[str, str] = {}
    """The settings in which it differs from the training of this asset before it."""
    live: Live | None = None
    damage: str = ""
    """The reason why its files cannot be read; such a row has no figures."""

    @property
    def name(self) -> str:
        return f"{self.asset} {self.recipe[:8]}"


class TrainingsView(msgspec.Struct, frozen=True, kw_only=True):
    """The page /trainings without a choice."""

    trainings: list[ShownTraining]
    sort: str
    descending: bool


class PreflightGate(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one gate that judged a training before its first step."""

    name: str
    passed: bool
    figures: dict[str, Any] = {}
    violations: list[str] = []


class JudgedTraining(msgspec.Struct, frozen=True, kw_only=True):
    """The gates of one training."""

    training: str
    gates: list[PreflightGate]
    checks: list[CheckResult]
    """The last results of the gates of the asset; empty for a training that is not the current one."""


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """A reason why two trainings are not compared, and the command that changes it."""

    why: str
    command: str = ""


class ComparisonView(msgspec.Struct, frozen=True, kw_only=True):
    """Several trainings next to each other."""

    trainings: list[ShownTraining]
    charts: list[Chart]
    settings: list[ChangedValue]
    data: list[ChangedValue]
    judged: list[JudgedTraining]
    answers: AnswerComparison | None = None
    rankings: RankingComparison | None = None
    advice: list[Advice] = []
    """The reasons why two trainings are not compared."""


class Tracker(msgspec.Struct, frozen=True, kw_only=True):
    """A tracker that has this training: its page, or the command that shows it."""

    name: str
    link: str = ""
    command: str = ""


class TrainingView(msgspec.Struct, frozen=True, kw_only=True):
    """The page of one training."""

    training: ShownTraining
    charts: list[Chart]
    gates: list[PreflightGate]
    checks: list[CheckResult]
    """As in `JudgedTraining`."""
    events: list[str]
    figures: dict[str, str]
    files: dict[str, int]
    log: list[str]
    has_card: bool
    trackers: list[Tracker]
    """The places that `telemetry.report_to` has written it to."""
    answers: AnswerComparison | None = None
    rankings: RankingComparison | None = None


class _Failure(msgspec.Struct):
    violations: list[dict[str, Any]] = []


class _Job(msgspec.Struct):
    recipe: Recipe
    params: dict[str, Any] = {}


class _Preflight(msgspec.Struct):
    gates: list[dict[str, Any]] = []


_Document = TypeVar("_Document")


def list_trainings(project: ShownProject) -> list[ShownTraining]:
    """Return every training, newest first: finished, running, and ended before their last step."""
    store = project.store
    finished = list(chain.from_iterable(trained_versions(store, asset) for asset in sorted(TRAININGS)))
    released = _released(project)
    rows = [_finished(store, artifact, released) for artifact in finished]
    done = {(row.asset, row.recipe) for row in rows}
    rows += [run for run in _runs(project.state) if (run.asset, run.recipe) not in done]
    return sorted(_with_differences(rows), key=lambda row: row.created_at, reverse=True)


def trained_versions(store: ArtifactStore, asset: str) -> list[Artifact]:
    """Return the artifacts of an asset that a training made, newest first."""
    return [artifact for artifact in store.versions(asset) if METRICS_FILE in artifact.manifest.files]


def sort_trainings(rows: Sequence[ShownTraining], by: str, descending: bool) -> TrainingsView:
    """Return the trainings in the order of one column; those without a value come last."""
    by = by if by in SORTS else "created_at"

    def value(row: ShownTraining) -> Any:
        if by in {"exact_match", "f1"}:
            return getattr(row.score, by).mean if row.score else None
        return getattr(row, by)

    known = [row for row in rows if value(row) not in (None, "")]
    unknown = [row for row in rows if value(row) in (None, "")]
    ordered = sorted(known, key=value, reverse=descending)
    return TrainingsView(trainings=[*ordered, *unknown], sort=by, descending=descending)


def show_training(project: ShownProject, recipe: str, asset: str = "") -> TrainingView:
    """Return the page of one training. Without `asset`: whatever was trained by this recipe. Raises NotFound."""
    training = _find(project, [recipe], asset)[0]
    folder = folder_of(project, training)
    artifact = project.store.find(training.asset, recipe) if training.state == "finished" else None
    run = project.state / "runs" / training.asset / recipe
    log = folder / "training.log"
    return TrainingView(
        training=training,
        charts=_charts(project, [training]),
        gates=_gates(folder),
        checks=_checks(project, [training]),
        events=read_events(folder / METRICS_FILE),
        figures=flatten(artifact.summary) if artifact else {},
        files={name: seal.size for name, seal in artifact.manifest.files.items()} if artifact else {},
        log=_tail(log),
        has_card=(folder / "README.md").is_file(),
        trackers=_trackers(run, project.state),
        answers=_answers(project.store, [training]),
        rankings=_rankings(project.store, [training]),
    )


def _trackers(run: Path, state: Path) -> list[Tracker]:
    """Return the trackers of a run: links to servers, commands for what is on this disk."""
    found = [Tracker(name="TensorBoard", command=f"tensorboard --logdir {quote(str(run / 'tensorboard'))}")]
    found = found if (run / "tensorboard").is_dir() else []
    local = {"wandb": ("W&B", "wandb sync {}"), "mlflow": ("MLflow", "mlflow ui --backend-store-uri sqlite:///{}")}
    for name, place in sorted(read_trackers(run).items()):
        title, command = local.get(name, (name, "{}"))
        if place.startswith(("https://", "http://")):
            found.append(Tracker(name=title, link=place))
        else:
            path = state / place
            found.append(Tracker(name=title, command=command.format(quote(str(path))) if path.exists() else place))
    return found


def compare_trainings(project: ShownProject, recipes: Sequence[str], *, oldest_first: bool = False) -> ComparisonView:
    """Return several trainings next to each other, in the given order or by time. Raises NotFound."""
    rows = _find(project, recipes)
    if oldest_first:
        rows.sort(key=lambda row: row.created_at)
    checks = _checks(project, rows)
    answers, rankings = _answers(project.store, rows), _rankings(project.store, rows)
    return ComparisonView(
        trainings=rows,
        charts=_charts(project, rows),
        settings=find_differences([{"asset": row.asset, **row.settings} for row in rows]),
        data=find_differences([row.inputs for row in rows]),
        judged=[
            JudgedTraining(
                training=row.name,
                gates=_gates(folder_of(project, row)),
                checks=[check for check in checks if row.is_current and check.asset == row.asset],
            )
            for row in rows
        ],
        answers=answers,
        rankings=rankings,
        advice=_advise(project.store, rows) if len(rows) == 2 and answers is rankings is None else [],
    )


def folder_of(project: ShownProject, training: ShownTraining) -> Path:
    """Return the artifact of a finished training, the run folder of another one."""
    root = project.store.root if training.state == "finished" else project.state / "runs"
    return root / training.asset / training.recipe


def _find(project: ShownProject, recipes: Sequence[str], asset: str = "") -> list[ShownTraining]:
    rows = {row.recipe: row for row in list_trainings(project) if asset in {"", row.asset}}
    missing = [recipe for recipe in recipes if recipe not in rows]
    if missing:
        raise NotFound(f"There is no training {', '.join(missing)}. The page Trainings lists those that are kept.")
    return [rows[recipe] for recipe in dict.fromkeys(recipes)]


def _answers(store: ArtifactStore, rows: Sequence[ShownTraining]) -> AnswerComparison | None:
    """Return the answers of two trainings, or those of the base and of one, where an evaluation asked them."""
    scored = [row for row in rows if row.score]
    if not scored or len(rows) > 2 or len(scored) < len(rows):
        return None
    sides = [Side(row.name, "adapter_evaluation", row.score.evaluation, row.score.model) for row in scored if row.score]
    if len(sides) == 1:
        sides.insert(0, msgspec.structs.replace(sides[0], label="base model", model=_BASE))
    return compare_answers(store, sides[0], sides[1])


def _rankings(store: ArtifactStore, rows: Sequence[ShownTraining]) -> RankingComparison | None:
    """Return the rankings of two encoders, or those of the base and of one, where an evaluation has them."""
    models = [(row.name, model) for row in rows if row.asset == ENCODER and (model := store.find(ENCODER, row.recipe))]
    if len(models) < len(rows):
        return None
    if len(models) == 1:
        return compare_with_base(store, *models[0])
    return compare_encoders(store, models[0], models[1]) if len(models) == 2 else None


def _advise(store: ArtifactStore, rows: Sequence[ShownTraining]) -> list[Advice]:
    """Return the reasons why nothing decides which of two trainings is better."""
    evaluations = [_EVALUATIONS.get(row.asset) for row in rows]
    if evaluations[0] != evaluations[1]:
        return [Advice(why="They do different work, so that no evaluation can compare them.")]
    advice: list[Advice] = []
    for row, evaluation in zip(rows, evaluations, strict=True):
        if row.state != "finished":
            advice.append(Advice(why=f"{row.name} has not reached its last step: there is no model to evaluate."))
        elif evaluation is None:
            advice.append(Advice(why=f"No evaluation is about {row.asset}."))
        elif not _is_evaluated(store, row):
            why = f"No {evaluation} is about {row.name}."
            if not row.is_current:
                why += (
                    " It evaluates what is current: give config.yaml the settings of this training. If its data are the"
                    " same as well, the command takes it from the store and does not train."
                )
            advice.append(Advice(why=why, command=f"ft run --asset {evaluation} --upstream"))
    return advice or [Advice(why="Their evaluations have no question in common.")]


def _is_evaluated(store: ArtifactStore, row: ShownTraining) -> bool:
    model = store.find(ENCODER, row.recipe) if row.asset == ENCODER else None
    return bool(row.score or (model and evaluations_of(store, model)))


def _released(project: ShownProject) -> dict[str, list[str]]:
    """Return recipe id -> the releases that it is part of."""
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        try:
            book = project.releases.book(kind)
        except Refused:  # the page Releases has the reason
            continue
        for release in book.history if book else ():
            for recipe in release.artifacts.values():
                found.setdefault(recipe, []).append(release.version)
    return found


def _finished(store: ArtifactStore, artifact: Artifact, released: Mapping[str, list[str]]) -> ShownTraining:
    recipe = artifact.manifest.recipe
    row = ShownTraining(
        asset=artifact.asset,
        recipe=artifact.recipe_id,
        state="finished",
        created_at=artifact.manifest.created_at,
        released=released.get(artifact.recipe_id, []),
        method=_method(recipe),
        settings=flatten(recipe.settings),
        inputs=dict(recipe.inputs),
    )
    try:
        return _with_figures(store, artifact, row)
    except Refused as refused:  # the other trainings can be shown
        return msgspec.structs.replace(row, damage=str(refused.violations[0]))


def _with_figures(store: ArtifactStore, artifact: Artifact, row: ShownTraining) -> ShownTraining:
    summary, settings = artifact.summary, artifact.manifest.recipe.settings
    job = _read(store.root.parent / "runs" / artifact.asset / artifact.recipe_id / "job.json", _Job)
    contract: dict[str, Any] = artifact.json("contract.json") if "contract.json" in artifact.manifest.files else {}
    current = store.current(artifact.asset)
    return msgspec.structs.replace(
        row,
        is_current=current is not None and current.recipe_id == artifact.recipe_id,
        base=str(contract.get("base", {}).get("name") or settings.get("base_model") or _base(job)),
        rows=summary.get("rows") or summary.get("questions"),
        seconds=summary.get("seconds") or _seconds(artifact.path / METRICS_FILE),
        device=str(summary.get("device", "")),
        loss=summary.get("train_loss_last", summary.get("loss_last")),
        eval_loss=summary.get("eval_loss_after"),
        best_ndcg=summary.get("best_ndcg_at_10"),
        score=_score(store, artifact),
    )


def _method(recipe: Recipe) -> str:
    training: dict[str, Any] = recipe.settings.get("training") or recipe.settings
    loss = training.get("loss")
    kind = {"sft_adapter": "SFT", "kbalign_author": "SFT", "embedding_model": "contrastive"}.get(recipe.asset, "")
    kind = kind or ("KTO" if loss == "kto" else "DPO")
    return " · ".join(filter(None, [kind, training.get("method"), loss if kind == "DPO" else ""]))


def _base(job: _Job | None) -> str:
    settings: dict[str, Any] = job.params.get("settings", {}) if job else {}
    return str(settings.get("base_model", ""))


def _seconds(path: Path) -> float | None:
    """Return the seconds up to the last record: not every summary holds them."""
    return max((float(record["seconds"]) for record in read_metrics(path)), default=None)


def _score(store: ArtifactStore, artifact: Artifact) -> TrainingScore | None:
    """Return the figures of the newest evaluation that asked this adapter; None if there is none."""
    name = next((name for name, asset in TRAINED.items() if asset == artifact.asset), None)
    for evaluation in store.versions("adapter_evaluation") if name else ():
        if name and evaluation.manifest.recipe.inputs.get(artifact.asset) == artifact.data_version:
            summary = summary_of(evaluation)
            if summary and (figures := summary.intervals.get(name)):
                return TrainingScore(
                    evaluation=evaluation.recipe_id, model=name, exact_match=figures["exact_match"], f1=figures["f1"]
                )
    return None


def _with_differences(rows: Sequence[ShownTraining]) -> list[ShownTraining]:
    """Return the rows with the settings in which each differs from the training of its asset before it."""
    found: list[ShownTraining] = []
    by_asset = sorted(rows, key=lambda row: (row.asset, row.created_at))
    for _, group in groupby(by_asset, key=lambda row: row.asset):
        before: ShownTraining | None = None
        for row in group:
            changed = find_differences([before.settings, row.settings]) if before else []
            differs = {one.name: f"{one.values[0] or '-'} → {one.values[1] or '-'}" for one in changed}
            found.append(msgspec.structs.replace(row, differs=differs))
            before = row
    return found


def _runs(state: Path) -> list[ShownTraining]:
    """Return the runs of which no artifact has to be there: running, or ended before the last step."""
    found: list[ShownTraining] = []
    for folder in chain.from_iterable((state / "runs" / asset).glob("*") for asset in sorted(TRAININGS)):
        metrics = folder / METRICS_FILE
        if not metrics.is_file() or (state / "artifacts" / folder.parent.name / folder.name / MANIFEST).is_file():
            continue
        if was_published(folder):  # retention has removed the artifact since
            continue
        job = _read(folder / "job.json", _Job)
        if job and (folder / LOCK_FILE).is_file():  # an earlier release trained the encoder without a lock
            found.append(_run(folder, job, is_locked(folder / LOCK_FILE)))
    return found


def _run(folder: Path, job: _Job, running: bool) -> ShownTraining:
    metrics = folder / METRICS_FILE
    failure = _read(folder / "failure.json", _Failure)
    return ShownTraining(
        asset=job.recipe.asset,
        recipe=folder.name,
        state="running" if running else "stopped",
        created_at=metrics.stat().st_mtime,
        method=_method(job.recipe),
        base=_base(job),
        seconds=_seconds(metrics),
        settings=flatten(job.recipe.settings),
        inputs=dict(job.recipe.inputs),
        live=_progress(folder, [] if running or failure is None else failure.violations, running),
    )


def _progress(folder: Path, violations: Sequence[Mapping[str, Any]], running: bool) -> Live:
    last: dict[str, Any] = {}
    figures: dict[str, float] = {}
    for record in read_metrics(folder / METRICS_FILE):
        if record["phase"] == "event":
            continue
        last = record
        figures |= {name: value for name, value in record.items() if isinstance(value, int | float)}
    step, total, rate = int(last.get("step", 0)), int(last.get("total", 0)), float(figures.get("seconds_per_step", 0))
    return Live(
        phase=str(last.get("phase", "")),
        step=step,
        total=total,
        figures=figures,
        seconds_left=max(total - step, 0) * rate if rate and running else None,
        updated_at=(folder / METRICS_FILE).stat().st_mtime,
        why=[f"{one.get('message', '')}. {one.get('fix', '')}" for one in violations],
        can_stop=running and folder.parent.name != ENCODER,  # which keeps no checkpoint
        stop_requested=running and _is_to_stop(folder),
    )


def _is_to_stop(folder: Path) -> bool:
    """Return whether the control file requests a stop of this run, not of one before it in the same folder."""
    file = ControlFile(folder / CONTROL_FILE)
    requests = file.read()
    started_at = (folder / "job.json").stat().st_mtime
    return isinstance(requests, Requests) and requests.stop and file.changed_at >= started_at


def _charts(project: ShownProject, rows: Sequence[ShownTraining]) -> list[Chart]:
    points = [(row.name, read_points(folder_of(project, row) / METRICS_FILE)) for row in rows]
    charts: list[Chart] = []
    for name, title, unit, figures in _CHARTS:
        curves: list[Curve] = []
        for n, (training, found) in enumerate(points):
            present = [figure for figure in figures if figure in found]
            for k, figure in enumerate(present):
                label = training + (f" {figure.rpartition('/')[2].removeprefix('eval_')}" if len(present) > 1 else "")
                curves.append(Curve(name=label, points=found[figure], color=n + k * len(points)))
        # a chart of one line has no legend
        named = f"{title}: {curves[0].name}" if len(curves) == 1 < len(points) else title
        if curves:
            charts.append(Chart(id=name, title=named, unit=unit, curves=curves))
    return charts


def _checks(project: ShownProject, rows: Sequence[ShownTraining]) -> list[CheckResult]:
    """Return the last results of the gates on those of the trainings that are current."""
    return check_results(project, {row.asset: row.recipe for row in rows if row.is_current})


def _gates(folder: Path) -> list[PreflightGate]:
    preflight = _read(folder / "preflight.json", _Preflight)
    return [
        PreflightGate(
            name=str(gate.get("name", "")),
            passed=bool(gate.get("passed")),
            figures=gate.get("figures", {}),
            violations=[str(one.get("message", one)) for one in gate.get("violations", [])],
        )
        for gate in (preflight.gates if preflight else [])
    ]


def _tail(path: Path, lines: int = 40) -> list[str]:
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - 16_384, 0))
        return stream.read().decode("utf-8", "replace").splitlines()[-lines:]


def _read(path: Path, kind: type[_Document]) -> _Document | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError):
        return None
