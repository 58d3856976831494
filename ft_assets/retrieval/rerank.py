"""The cross-encoder that puts the best passages of a search in their final order."""

from __future__ import annotations

from pathlib import Path

from expectations.contracts.embedding import Rerank
from expectations.violations import Refused, violation
from ft_assets.config.model import RerankSettings
from resources import accelerator, models
from resources.cross_encoder import CrossScorer, load_cross_encoder
from resources.memo import Memo

_kept: Memo[CrossScorer] = Memo(2)
"""Models by folder, version and the way they compute: a page asks again with those of live and candidate."""


def rerank_of(settings: RerankSettings | None, state: Path) -> Rerank | None:
    """Return the rerank model that the settings name, with the version of its content.

    Of a hub model the commit is recorded, so that a later one changes no release. Raises Refused as `models.locate`
    does.
    """
    if settings is None:
        return None
    version, revision = models.version(settings.model, state, settings.revision), settings.revision
    if models.look_up(settings.model, revision).kind == "hub":
        revision = models.locate(settings.model, state, revision).name  # the hub's cache names folders by commit
    return Rerank(
        model=settings.model,
        revision=revision,
        version=version,
        top_n=settings.top_n,
        max_tokens=settings.max_tokens,
    )


def load_reranker(rerank: Rerank, state: Path, compute: accelerator.Compute | None = None) -> CrossScorer:
    """Return the model that a contract names.

    Raises Refused: FT-RET-015 the model is not here, or has another content; FT-RET-017 it is no cross-encoder with one
    score; FT-RET-018 it reads fewer tokens; FT-TRAIN-067 to FT-TRAIN-069 its folder lacks a tensor, or has one of
    another shape.
    """
    folder = require_here(rerank, state)
    compute = compute or accelerator.choose()
    key = (folder, rerank.version, rerank.max_tokens, compute)
    return _kept.get(key, lambda: load_cross_encoder(folder, rerank.max_tokens, compute))


def require_here(rerank: Rerank, state: Path) -> Path:
    """Return the folder of the model that a contract names. Raises Refused (FT-RET-015) as `load_reranker` does."""
    try:
        folder = models.locate(rerank.model, state, rerank.revision)
        found = models.version(rerank.model, state, rerank.revision)
    except Refused as missing:
        raise _not_here(rerank, f"not found: {missing.violations[0].text}") from missing
    if found != rerank.version:
        raise _not_here(rerank, found)
    return folder


def _not_here(rerank: Rerank, found: str) -> Refused:
    other = violation("FT-RET-015", where=rerank.model, field="version", found=found, expected=rerank.version)
    return Refused(f"loading {rerank.model}", [other])
