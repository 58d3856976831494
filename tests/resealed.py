"""A figure of a manifest changed by a person who may write into the state and knows how a manifest is sealed."""

from __future__ import annotations

import json
from typing import Any

from resources.artifacts import Artifact, sign
from resources.shared import MANIFEST


def edit_figures(artifact: Artifact, **figures: object) -> None:
    """Change figures of an artifact's summary (None: take it away), and seal the manifest again."""
    path = artifact.path / MANIFEST
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    unsigned = {name: value for name, value in content.items() if name not in {"digest", "seal"}}
    summary = {**unsigned["summary"], **figures}
    unsigned["summary"] = {name: value for name, value in summary.items() if value is not None}
    path.write_text(json.dumps(sign(unsigned)), "utf-8")
