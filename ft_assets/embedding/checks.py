"""The gates on the embedding model and its evaluation. Each reads from the store and calls one rule."""

from __future__ import annotations

import msgspec

from expectations.contracts.compare import Difference
from expectations.contracts.embedding import FILE as CONTRACT_FILE
from expectations.contracts.embedding import EmbeddingContract, probe_drift, read_contract
from expectations.rules.bootstrap import Interval
from expectations.rules.retrieval import (
    MAX_EMPTY_PROBE_SHARE,
    lexical_head_is_alive,
    losses_are_finite,
    model_changed,
    not_below_base,
    probes_reproduce,
)
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from resources.artifacts import Artifact
from resources.memo import Memo
from resources.telemetry import METRICS_FILE, read_metrics

MODEL, EVALUATION = "embedding_model", "embedding_evaluation"


def contract_of_model(evidence: Evidence) -> EmbeddingContract:
    """The contract of the current embedding model."""
    return read_contract(evidence.store.require(MODEL).json(CONTRACT_FILE), MODEL)


def losses(evidence: Evidence) -> Verdict:
    """Every training loss is a finite number."""
    model = evidence.store.require(MODEL)
    found: list[float] = []
    if METRICS_FILE in model.manifest.files:
        found = [float(r["loss"]) for r in read_metrics(model.file(METRICS_FILE)) if "loss" in r]
    return Verdict(losses_are_finite(MODEL, found), {"steps": len(found)})


def change(evidence: Evidence) -> Verdict:
    """Training changed the model's parameters (unless epochs is 0)."""
    model = evidence.store.require(MODEL)
    share = float(model.summary["parameters_changed"])
    epochs = float(model.manifest.recipe.settings["epochs"])
    return Verdict(model_changed(MODEL, share, epochs), {"parameters_changed": share, "epochs": epochs})


def lexical_head(evidence: Evidence) -> Verdict:
    """The lexical head gives most probe texts at least one token (it can collapse to none in training)."""
    probes = contract_of_model(evidence).probes
    empty = sum(not probe.sparse for probe in probes)
    rule = lexical_head_is_alive(MODEL, empty, len(probes), MAX_EMPTY_PROBE_SHARE)
    return Verdict(rule, {"probes": len(probes), "empty": empty})


def probes(evidence: Evidence) -> Verdict:
    """The model gives its probe texts the vectors that its contract records (cosine at least 0.999)."""
    model = evidence.store.require(MODEL)
    drifted = _drift(model)
    return Verdict(probes_reproduce(MODEL, drifted), {"drifted": len(drifted)})


def training_gain(evidence: Evidence) -> Verdict:
    """After training the fused ranking is not below that of the base (paired 95 % interval of nDCG@10)."""
    gain = msgspec.convert(evidence.store.require(EVALUATION).summary["gain"], Interval)
    return Verdict(not_below_base(EVALUATION, gain), {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high})


_drifts = Memo[list[Difference]](size=16)
"""The drift of an artifact's probes, by path and data version: loading the model takes seconds."""


def _drift(model: Artifact) -> list[Difference]:
    """Return how far the vectors of the probe texts are from those that the contract records."""
    folder = model.folder()  # verified on every call, though the answer is kept

    def measure() -> list[Difference]:
        from ft_assets.embedding.model import HybridEncoder

        encoder = HybridEncoder.load(folder)
        return probe_drift(encoder.contract.probes, encoder.probe())

    return _drifts.get((model.path, model.data_version), measure)


GATES = [
    whole_gate(MODEL),
    Gate(MODEL, "losses_are_finite", losses),
    Gate(MODEL, "model_changed", change),
    Gate(MODEL, "lexical_head_is_alive", lexical_head),
    Gate(MODEL, "probes_reproduce", probes),
    whole_gate(EVALUATION),
    Gate(EVALUATION, "not_below_base", training_gain),
]
