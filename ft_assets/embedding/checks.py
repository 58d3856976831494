"""The gates on the embedding model. Each one reads from the store and calls one rule."""

from __future__ import annotations

import platform
from pathlib import Path

from expectations.canonical import file_digest
from expectations.contracts.compare import Difference
from expectations.contracts.embedding import CONTRACT_FILE, EmbeddingContract, probe_drift, read_contract
from expectations.rules.passages import fit_the_encoder
from expectations.rules.retrieval import (
    MAX_EMPTY_PROBE_SHARE,
    base_is_beaten,
    factors_are_learned,
    lexical_head_is_alive,
    lexical_head_is_there,
    losses_are_finite,
    model_changed,
    probes_reproduce,
    tokens_are_known,
)
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import EmbeddingSettings
from ft_assets.corpus.collect import PassagesSummary
from ft_assets.corpus.token_limit import tokens_read
from ft_assets.embedding.figures import figures_of_model
from ft_assets.embedding.jobs import ModelSummary
from ft_assets.embedding.known_tokens import count_unknown
from ft_assets.graph.figures_gate import figures_gate
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from resources import accelerator
from resources.artifacts import Artifact, library_versions
from resources.kept import Kept
from resources.telemetry import METRICS_FILE, read_metrics

_SETTINGS = "embedding_settings"
_RETRIEVAL = "retrieval_settings"
_MODEL = "embedding_model"


def contract_of_model(evidence: Evidence) -> EmbeddingContract:
    """Return the contract of the current embedding model."""
    return read_contract(evidence.store.require(_MODEL).json(CONTRACT_FILE), _MODEL)


def known_tokens(evidence: Evidence) -> Verdict:
    """The vocabulary of embedding.base_model has nearly all tokens of passages and questions
    (embedding.max_unknown_share)."""
    settings = _settings(evidence)
    if settings is None:
        return _NOT_CONFIGURED
    unknown = count_unknown(evidence.store, settings, evidence.store.root.parent)
    violations = tokens_are_known("retrieval_splits", settings.base_model, unknown, settings.max_unknown_share)
    shares = {f"{kind}_unknown_share": count / total if total else 0.0 for kind, (count, total) in unknown.items()}
    return Verdict(violations, {**shares, "most": settings.max_unknown_share})


def passages_fit(evidence: Evidence) -> Verdict:
    """The passages are cut to what the encoder of the settings reads. It does not block: after a change of the
    encoder, passages are cut again only when corpus.max_tokens asks for it."""
    settings = _settings(evidence)
    passages = evidence.store.require("passages")
    summary = passages.summary_as(PassagesSummary)
    if settings is None or summary.max_tokens is None:
        return _NOT_CONFIGURED
    read = tokens_read(settings, evidence.store.root.parent)
    wanted = settings_of(evidence.store, "corpus").max_tokens
    figures = {"cut_for": summary.max_tokens, "encoder_reads": read, "parts": summary.parts}
    if isinstance(wanted, int) and wanted <= read:
        return Verdict(figures=figures)
    return Verdict(fit_the_encoder("passages", summary.max_tokens, read, summary.parts), figures)


def _settings(evidence: Evidence) -> EmbeddingSettings | None:
    """Return the settings of the encoder; None where a run has not read them yet."""
    return settings_of(evidence.store, "embedding") if evidence.store.current(_SETTINGS) else None


def losses(evidence: Evidence) -> Verdict:
    """Every training loss is a finite number."""
    model = evidence.store.require(_MODEL)
    logged: list[float] = []
    if METRICS_FILE in model.manifest.files:
        logged = [float(record["loss"]) for record in read_metrics(model.file(METRICS_FILE)) if "loss" in record]
    return Verdict(losses_are_finite(_MODEL, logged), {"steps": len(logged)})


def change(evidence: Evidence) -> Verdict:
    """Training changed the model's parameters (unless epochs is 0, or the base model was kept)."""
    model = evidence.store.require(_MODEL)
    summary = model.summary_as(ModelSummary)
    share = summary.parameters_changed
    epochs = 0.0 if summary.best_epoch == 0 else float(model.manifest.recipe.settings["epochs"])
    return Verdict(model_changed(_MODEL, share, epochs), {"parameters_changed": share, "epochs": epochs})


def base_beaten(evidence: Evidence) -> Verdict:
    """The training does not rank the validation questions certainly worse than the base model. It does not block:
    where each epoch does, the base model is kept."""
    summary = evidence.store.require(_MODEL).summary_as(ModelSummary)
    return Verdict(base_is_beaten(_MODEL, summary.gain), {"choice": summary.choice})


def head_is_there(evidence: Evidence) -> Verdict:
    """The model has the lexical head that retrieval.lexical asks for, or has tried factors of BM25 if they are wanted.
    Where these gain nothing for certain, BM25 serves."""
    if evidence.store.current(_RETRIEVAL) is None:
        return _NOT_CONFIGURED
    lexical = settings_of(evidence.store, "retrieval").lexical
    trained = contract_of_model(evidence).sparse.head_sha256 is not None
    factors = evidence.store.require(_MODEL).summary_as(ModelSummary).factors
    violations = lexical_head_is_there(_MODEL, lexical, trained)
    violations += factors_are_learned(_MODEL, lexical, bool(factors))
    figures = {"lexical": lexical, "trained": trained} | ({"factors": factors.sentence} if factors else {})
    return Verdict(violations, figures)


def lexical_head(evidence: Evidence) -> Verdict:
    """The lexical head gives most probe texts at least one token (it can collapse to none in training)."""
    contract = contract_of_model(evidence)
    if contract.sparse.head_sha256 is None:
        return Verdict(figures={"lexical_head": False})
    probes = contract.probes
    empty = sum(not probe.sparse for probe in probes)
    violations = lexical_head_is_alive(_MODEL, empty, len(probes), MAX_EMPTY_PROBE_SHARE)
    return Verdict(violations, {"probes": len(probes), "empty": empty})


def probes(evidence: Evidence) -> Verdict:
    """The model still gives its probe texts the vectors that its contract records (cosine at least 0.999)."""
    model = evidence.store.require(_MODEL)
    drifted = _drift(model, evidence.store.root.parent)
    return Verdict(probes_reproduce(_MODEL, drifted), {"drifted": len(drifted)})


_NOT_CONFIGURED = Verdict(figures={"configured": False})
_drifts = Kept("probes", list[Difference])
"""The drift of an artifact's probes, by all that can cause one: loading the model takes seconds."""


def _drift(model: Artifact, state: Path) -> list[Difference]:
    """Return the probes whose vectors changed. The model is loaded once for each artifact, machine and libraries."""
    folder = model.folder()  # verified on every call, although the result is kept

    def measure() -> list[Difference]:
        from ft_assets.embedding.model import HybridEncoder

        encoder = HybridEncoder.load(folder)
        return probe_drift(encoder.contract.probes, encoder.probe())

    machine = [platform.node(), platform.machine(), *sorted(accelerator.cpu_flags())]
    code = file_digest(Path(__file__).with_name("model.py"))
    key = {"model": model.data_version, "machine": machine, "libraries": library_versions(), "code": code}
    return _drifts.get(state, key, measure, keep=lambda drift: not drift)


GATES = [
    Gate("passages", "passages_fit_the_encoder", passages_fit, blocking=False, needs=(_SETTINGS,)),
    Gate("retrieval_splits", "tokens_are_known", known_tokens, needs=(_SETTINGS,)),
    whole_gate(_MODEL),
    figures_gate(_MODEL, figures_of_model),
    Gate(_MODEL, "losses_are_finite", losses),
    Gate(_MODEL, "model_changed", change),
    Gate(_MODEL, "base_is_beaten", base_beaten, blocking=False),
    Gate(_MODEL, "lexical_head_is_there", head_is_there, needs=(_RETRIEVAL,)),
    Gate(_MODEL, "lexical_head_is_alive", lexical_head),
    Gate(_MODEL, "probes_reproduce", probes),
]
