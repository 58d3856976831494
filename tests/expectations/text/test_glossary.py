"""Terms are found under any name, as whole words, longest first; glossaries that contradict themselves are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from expectations.text.glossary import (
    TermFinder,
    count_terms,
    load_terms,
)
from expectations.violations import Refused

EXAMPLES = Path(__file__).parents[3] / "examples"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_a_term_counts_under_any_name_and_only_as_a_whole_word() -> None:
    terms = {"ECC": ["椭圆曲线密码"], "SM2": [], "SM2 签名": ["SM2 signature"]}
    texts = ["ECC 与 eccentric 无关", "椭圆曲线密码比ＥＣＣ长", "sm2 signature 属于 SM2", "没有"]
    counted = {row.term: (row.passages, row.occurrences) for row in count_terms(terms, texts)}
    assert counted == {"ECC": (2, 3), "SM2": (1, 1), "SM2 签名": (1, 1)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ECC, ECCs and ECCENTRIC; not DECC, ECC2", ["ECC", "ECC"]),
        ("side-channel and side\nchannels, Side–Channel", ["side channel"] * 3),
        ("SM2签名和 SM2 签名", ["SM2 签名", "SM2 签名"]),
        ("hashes are hashed by a hash", ["hash", "hash"]),
        ("a CA is no plural: CAs", ["CA"]),
        ("the SM2 signatureX is SM2", ["SM2", "SM2"]),  # the longest name is no whole word here, a shorter one is
        ("密钥交换协议里的密钥", ["密钥交换", "密钥"]),
        ("", []),
    ],
)
def test_the_longest_name_wins_and_spelling_does_not_matter(text: str, found: list[str]) -> None:
    names = {"SM2 签名": ["SM2 signature"]} | {
        name: [] for name in ("ECC", "side channel", "SM2", "hash", "CA", "密钥", "密钥交换")
    }
    assert TermFinder(names).find(text) == found


def test_no_glossary_is_an_empty_one() -> None:
    assert count_terms(load_terms([]), ["text"]) == []


def test_a_malformed_glossary_names_every_mistake(tmp_path: Path) -> None:
    files = [
        _write(tmp_path / "a.yaml", "AES: [Rijndael]\nDES: Rijndael\nTDES: [3DES, aes]\n"),
        _write(tmp_path / "b.yaml", "SMS: [rijndael]\nSM4: [SMS4]\n"),
        _write(tmp_path / "c.yaml", "- a list\n"),
    ]
    with pytest.raises(Refused) as refused:
        load_terms(files)
    assert [v.code for v in refused.value.violations] == [
        "FT-GLOSS-001",
        "FT-GLOSS-002",
        "FT-GLOSS-002",
        "FT-GLOSS-001",
    ]
    assert "One name belongs to two terms" in str(refused.value)


def test_a_later_file_gives_more_names_to_a_term(tmp_path: Path) -> None:
    files = [
        _write(tmp_path / "en.yaml", "block cipher: [分组密码]\n"),
        _write(tmp_path / "zh.yaml", "分组密码: [块密码, Block Cipher]\n密评: []\n"),
    ]
    assert load_terms(files) == {"block cipher": ["分组密码", "块密码", "Block Cipher"], "密评": []}


@pytest.mark.parametrize("languages", [["en"], ["zh"], ["en", "zh"]])
def test_the_example_glossaries_hold_a_hundred_and_twenty_terms_with_names_in_both_languages(
    languages: list[str],
) -> None:
    terms = load_terms([EXAMPLES / language / "glossary.yaml" for language in languages])
    assert len(terms) >= 120
    for term, names in terms.items():
        assert any(name.isascii() for name in (term, *names)) or len(names) > 1 or languages != ["en"], term
    finder = TermFinder(terms)
    (found,) = set(finder.find("The initialization vector")) & set(finder.find("初始向量不能重复"))
    assert found in terms
