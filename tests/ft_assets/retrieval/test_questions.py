"""Questions as people ask them: refused, folded or searched with a note, and scores that can be explained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from expectations.records.read import read_records
from expectations.violations import Refused
from ft_assets.cli import cli
from ft_assets.embedding.model import HybridEncoder
from ft_assets.retrieval.questions import explain_terms, fold_question, read_questions
from ft_assets.retrieval.search import Retriever
from tests.ft_assets.retrieval.conftest import Graph

QUESTION = "Which federal standard number did NIST give to AES?"


@pytest.mark.parametrize(
    "text", [" ＡＥＳ－ＧＣＭ 的随机数？", "2⁶⁴ 次，然后？", "a\u0301b", "Ｗhat\u3000is it?", "x\r\ny"]
)
def test_a_served_question_has_the_form_of_a_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps({"_id": "1", "text": text}) + "\n", "utf-8")
    (record,) = read_records(path, "query")
    assert fold_question(text) == record.query  # type: ignore[union-attr]
    assert fold_question(fold_question(text)) == fold_question(text)


def test_terms_are_explained_whatever_made_their_weights() -> None:
    terms = explain_terms(([7, 3, 9], [0.5, 1.0, 0.25]), ([3, 9], [0.5, 4.0]), {7: "nonce", 3: "aes"})
    assert [(term.text, term.contribution) for term in terms] == [("#9", 1.0), ("aes", 0.5), ("nonce", 0.0)]


@pytest.fixture
def ft(released: Graph, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call `ft search` in the folder of the released graph."""
    monkeypatch.setenv("FT_CONFIG", str(released.root / "config.yaml"))
    monkeypatch.setenv("FT_STATE_DIR", str(released.root / "state"))
    return lambda *arguments: CliRunner().invoke(cli, ["search", *arguments], prog_name="ft")


def found(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "code"),
    [("", "FT-RET-012"), (" \u200b\u3000", "FT-RET-012"), ("a\udc8ab", "FT-RET-013"), ("a\x00b", "FT-RET-013"),
     ("a\x1b[31mb", "FT-RET-013")],
)  # fmt: skip
def test_what_is_no_question_is_refused_with_its_code(ft: Callable[..., Result], text: str, code: str) -> None:
    result = ft("--", text)
    assert result.exit_code == 1 and not result.stdout
    assert code in result.stderr and "\x1b" not in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_every_bad_question_of_a_list_is_named(released: Graph) -> None:
    artifacts = released.artifacts
    with Retriever.open(artifacts.store(), artifacts.releases(), released.qdrant.engine()) as retriever:
        with pytest.raises(Refused) as refusal:
            retriever.answer([QUESTION, "", "\ud800"], 3)
        assert [(one.code, one.field) for one in refusal.value.violations] == [
            ("FT-RET-012", "question 2"),
            ("FT-RET-013", "question 3"),
        ]
        assert retriever.answer([], 3) == []


@pytest.mark.slow
def test_what_the_search_cannot_use_of_a_question_is_noted(ft: Callable[..., Result], released: Graph) -> None:
    assert found(ft(QUESTION, "--json"))["notes"] == []
    wide = found(ft("ＡＥＳ standard", "--json", "-k", "3"))
    assert wide["searched_as"] == "AES standard" and wide["notes"] == ["searched as 'AES standard'"]
    assert wide["hits"] == found(ft("AES standard", "--json", "-k", "3"))["hits"]
    long = found(ft(f"{QUESTION} {'block cipher mode ' * 60}zebra", "--json"))
    limit = HybridEncoder.load(released.artifact("embedding_model").folder()).contract.texts.query_max_tokens
    (note,) = long["notes"]
    assert note.startswith("cut: the question has ") and f"reads {limit} (`embedding.query_max_tokens`" in note
    unknown = ft("AES 曌曌 standard", "-k", "3")
    assert unknown.exit_code == 0 and "note: the model does not know" in unknown.stderr and "曌" in unknown.stderr


@pytest.mark.slow
def test_the_place_of_the_cut_is_right(released: Graph) -> None:
    encoder = HybridEncoder.load(released.artifact("embedding_model").folder())
    words = [f"w{n}" for n in range(400)]
    (question,) = read_questions([" ".join(words)], encoder, "here")
    unseen = question.notes[0].split("it does not see ")[1].strip("'…")
    kept = " ".join(words).partition(unseen)[0]
    seen = encoder.tokenize([question.text], "query")[0]
    assert encoder.tokenize([kept], "query")[0] == seen


@pytest.mark.slow
def test_an_arm_alone_ranks_by_its_own_score(ft: Callable[..., Result]) -> None:
    for arm, key in (("dense", "dense"), ("lexical", "sparse")):
        hits = found(ft(QUESTION, "--arm", arm, "--json", "-k", "5"))["hits"]
        assert [hit["score"] for hit in hits] == pytest.approx([hit[key] for hit in hits], abs=1e-5)
        assert hits == sorted(hits, key=lambda hit: -hit[key])
    fused = found(ft(QUESTION, "--arm", "fused", "--json", "-k", "5"))["hits"]
    assert fused == found(ft(QUESTION, "--json", "-k", "5"))["hits"]
    assert "terms" not in fused[0]


@pytest.mark.slow
def test_the_terms_of_an_explanation_add_up_to_the_lexical_score(ft: Callable[..., Result]) -> None:
    hits = found(ft(QUESTION, "--explain", "--json", "-k", "4"))["hits"]
    for hit in hits:
        assert sum(term["contribution"] for term in hit["terms"]) == pytest.approx(hit["sparse"], abs=1e-4)
        for term in hit["terms"]:
            assert term["contribution"] == pytest.approx(term["query_weight"] * term["passage_weight"])
    assert {"feder", "standard"} <= {term["text"].lower() for term in hits[0]["terms"]}
    shown = ft(QUESTION, "--explain", "-k", "2").stdout
    assert "×" in shown and "not here:" in " ".join(shown.split())
