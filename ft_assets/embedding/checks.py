"""The gates on the embedding model. Each one reads from the store and calls one rule."""

from __future__ import annotations

from expectations.contracts.compare import Difference
from expectations.contracts.embedding import CONTRACT_FILE, EmbeddingContract, probe_drift, read_contract
from expectations.rules.retrieval import (
    MAX_EMPTY_PROBE_SHARE,
    lexical_head_is_alive,
    losses_are_finite,
    model_changed,
    probes_reproduce,
)
from ft_assets.embedding.jobs import ModelSummary
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from resources.artifacts import Artifact
from resources.memo import Memo
from resources.telemetry import METRICS_FILE, read_metrics

_MODEL = "embedding_model"


def contract_of_model(evidence: Evidence) -> EmbeddingContract:
    """Return the contract of the current embedding model."""
    return read_contract(evidence.store.require(_MODEL).json(CONTRACT_FILE), _MODEL)


def losses(evidence: Evidence) -> Verdict:
    """Every training loss is a finite number."""
    model = evidence.store.require(_MODEL)
    logged: list[float] = []
    if METRICS_FILE in model.manifest.files:
        logged = [float(record["loss"]) for record in read_metrics(model.file(METRICS_FILE)) if "loss" in record]
    return Verdict(losses_are_finite(_MODEL, logged), {"steps": len(logged)})


def change(evidence: Evidence) -> Verdict:
    """Training changed the model's parameters (unless epochs is 0)."""
    model = evidence.store.require(_MODEL)
    share = model.summary_as(ModelSummary).parameters_changed
    epochs = float(model.manifest.recipe.settings["epochs"])
    return Verdict(model_changed(_MODEL, share, epochs), {"parameters_changed": share, "epochs": epochs})


def lexical_head(evidence: Evidence) -> Verdict:
    """The lexical head gives most probe texts at least one token (it can collapse to none in training)."""
    probes = contract_of_model(evidence).probes
    empty = sum(not probe.sparse for probe in probes)
    violations = lexical_head_is_alive(_MODEL, empty, len(probes), MAX_EMPTY_PROBE_SHARE)
    return Verdict(violations, {"probes": len(probes), "empty": empty})


def probes(evidence: Evidence) -> Verdict:
    """The model still gives its probe texts the vectors that its contract records (cosine at least 0.999)."""
    model = evidence.store.require(_MODEL)
    drifted = _drift(model)
    return Verdict(probes_reproduce(_MODEL, drifted), {"drifted": len(drifted)})


_drifts = Memo[list[Difference]](size=16)
"""The drift of an artifact's probes, by path and data version: loading the model takes seconds."""


def _drift(model: Artifact) -> list[Difference]:
    """Return the probes whose vectors changed. The model is loaded once for each artifact and process."""
    folder = model.folder()  # verified on every call, although the result is kept

    def measure() -> list[Difference]:
        from ft_assets.embedding.model import HybridEncoder

        encoder = HybridEncoder.load(folder)
        return probe_drift(encoder.contract.probes, encoder.probe())

    return _drifts.get((model.path, model.data_version), measure)


GATES = [
    whole_gate(_MODEL),
    Gate(_MODEL, "losses_are_finite", losses),
    Gate(_MODEL, "model_changed", change),
    Gate(_MODEL, "lexical_head_is_alive", lexical_head),
    Gate(_MODEL, "probes_reproduce", probes),
]
