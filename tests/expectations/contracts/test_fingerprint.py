from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expectations.contracts.fingerprint import stop_tokens


@pytest.mark.parametrize(("configured", "expected"), [(0, [0, 2]), ([0, 7], [0, 2, 7]), (2, [2]), (None, [2])])
def test_stop_tokens_are_those_of_tokenizer_and_generation(tmp_path: Path, configured: Any, expected: list[int]):
    files = {
        "tokenizer_config.json": {"eos_token": "<|im_end|>"},
        "tokenizer.json": {"added_tokens": [{"id": 2, "content": "<|im_end|>"}, {"id": 3, "content": "<x>"}]},
        "generation_config.json": {} if configured is None else {"eos_token_id": configured},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert stop_tokens(tmp_path) == expected
