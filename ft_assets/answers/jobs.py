"""The parameters of this stage's worker. Light to import: the asset builds them without torch."""

from __future__ import annotations

from ft_assets.adapters.jobs import EvaluateParams
from resources.qdrant import EngineParams


class AnswerParams(EvaluateParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `ft_assets.answers.answer`: those of an evaluation, and the engine to retrieve from."""

    engine: EngineParams
