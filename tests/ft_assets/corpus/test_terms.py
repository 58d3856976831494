from __future__ import annotations

from pathlib import Path

import pytest

from expectations.violations import Refused
from ft_assets.corpus.terms import count_terms, load_terms


def test_a_term_counts_under_any_name_and_only_as_a_whole_word():
    terms = {"ECC": ["椭圆曲线密码"], "SM2": [], "SM2 签名": ["SM2 signature"]}
    texts = ["ECC 与 eccentric 无关", "椭圆曲线密码比ＥＣＣ长", "sm2 signature 属于 SM2", "没有"]
    counted = {row.term: (row.passages, row.occurrences) for row in count_terms(terms, texts)}
    assert counted == {"ECC": (2, 3), "SM2": (1, 1), "SM2 签名": (1, 1)}


def test_no_glossary_is_an_empty_one():
    assert count_terms(load_terms([]), ["text"]) == []


def test_a_malformed_glossary_names_every_mistake(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("AES: [Rijndael]\nDES: Rijndael\n", "utf-8")
    (tmp_path / "b.yaml").write_text("RIJNDAEL: []\nSM4: [SMS4]\n", "utf-8")
    with pytest.raises(Refused) as refused:
        load_terms([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert [v.code for v in refused.value.violations] == ["FT-GLOSS-001", "FT-GLOSS-002"]
    assert "one name stands for two terms" in str(refused.value)
