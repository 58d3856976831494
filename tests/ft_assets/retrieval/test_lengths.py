"""The encoder reads all of each passage and knows its tokens: the gates on both, in a small real graph."""

from __future__ import annotations

import json

import pytest

from expectations.violations import Refused
from ft_assets.embedding import checks as embedding_checks
from ft_assets.graph.gates import Verdict, judge
from ft_assets.retrieval import checks
from ft_assets.retrieval.vectors import CUT_FILE, read_cut
from tests.ft_assets.retrieval.conftest import Graph

LONG = " ".join(f"Valve {n} of line {n * 7} opens at {n} bar." for n in range(30))  # 1,000 characters, 400 tokens
MADE = ("corpus_settings", "corpus_files", "passages", "retrieval_settings", "passage_vectors")


def verdict(graph: Graph, name: str) -> Verdict:
    gate = next(gate for gate in (*checks.GATES, *embedding_checks.GATES) if gate.name == name)
    return judge(gate, graph.evidence)


def test_passages_are_cut_so_that_the_encoder_reads_all_of_them(graph: Graph) -> None:
    assert verdict(graph, "nothing_is_cut").figures["cut"] == 0
    (graph.root / "corpus/valves.md").write_text(f"# Valves\n\n{LONG}\n", "utf-8")
    made = graph.run(*MADE)
    assert made["passage_vectors"]["encoded"] == 2
    assert verdict(graph, "nothing_is_cut").figures["cut"] == 0


def test_passages_that_the_encoder_cuts_are_counted_whether_encoded_or_reused(graph: Graph) -> None:
    (graph.root / "corpus/valves.md").write_text(f"# Valves\n\n{LONG}\n", "utf-8")
    graph.configure(corpus={"max_tokens": None}, retrieval={"max_cut_share": 0.0})
    graph.run(*MADE)
    (graph.root / "corpus/other.md").write_text("# Other\n\nA short document about other things.\n", "utf-8")
    for change in ("encoded", "reused"):
        found = verdict(graph, "nothing_is_cut")
        (violation,) = found.violations
        assert violation.code == "FT-VEC-010" and "valves#valves (" in violation.message, change
        (cut,) = read_cut(graph.artifact("passage_vectors"))
        assert cut.tokens > 256 and found.figures["longest"] == {"valves#valves": cut.tokens}
        graph.run(*MADE)
    graph.configure(retrieval={"max_cut_share": 0.05})
    graph.run("retrieval_settings")
    assert not verdict(graph, "nothing_is_cut").violations
    with pytest.raises(Refused, match="FT-VEC-010"):
        graph.configure(retrieval={"max_cut_share": 0.0})
        graph.run("retrieval_settings", "qdrant_collection")


def test_vectors_of_a_release_that_did_not_note_them_are_counted_once(graph: Graph) -> None:
    (graph.root / "corpus/valves.md").write_text(f"# Valves\n\n{LONG}\n", "utf-8")
    graph.configure(corpus={"max_tokens": None})
    graph.run(*MADE)
    vectors = graph.artifact("passage_vectors")
    older = vectors.manifest.recipe
    store = graph.artifacts.store()
    with store.stage(type(older)(older.asset, "0", older.settings, older.inputs)) as staging:
        for name in vectors.manifest.files:
            if name != CUT_FILE:
                (staging.path / name).write_bytes(vectors.file(name).read_bytes())
        summary = dict(vectors.summary)
        store.point(staging.publish(summary))
    store.discard(vectors)
    made = graph.run("passage_vectors")
    assert (made["passage_vectors"]["encoded"], made["passage_vectors"]["cut"]) == (0, 1)


def test_an_encoder_that_does_not_know_the_language_is_refused_before_it_trains(graph: Graph) -> None:
    assert not verdict(graph, "tokens_are_known").violations
    text = "登记机关应当保存档案，并由经办人签字确认，逾期不办的，按照规定处理。"
    for number in range(60):
        body = f"# 第{number}条\n\n## 甲\n\n{number}号{text}\n\n## 乙\n\n编号{number}的{text}\n"
        (graph.root / f"corpus/zh-{number}.md").write_text(body, "utf-8")
    queries = [json.dumps({"_id": f"z{n}", "text": f"第{n}号档案由谁签字确认？"}) for n in range(60)]
    with (graph.root / "queries.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(queries) + "\n")
    with (graph.root / "qrels.tsv").open("a", encoding="utf-8") as file:
        file.write("\n".join(f"z{n}\tzh-{n}#甲\t1" for n in range(60)) + "\n")
    graph.run("corpus_settings", "corpus_files", "passages", "retrieval_records", "split_ledger", "retrieval_splits")
    found = verdict(graph, "tokens_are_known")
    codes = {violation.code for violation in found.violations}
    assert codes == {"FT-EMB-020"}
    before = graph.artifact("embedding_model").recipe_id
    with pytest.raises(Refused, match="FT-EMB-020"):
        graph.run("embedding_settings", "embedding_model")
    assert graph.artifact("embedding_model").recipe_id == before
    graph.configure(embedding={"max_unknown_share": 1.0})
    graph.run("embedding_settings")
    assert not verdict(graph, "tokens_are_known").violations


def test_another_length_of_the_encoder_is_told_with_its_cost_and_cuts_nothing(graph: Graph) -> None:
    assert not verdict(graph, "passages_fit_the_encoder").violations
    before = graph.artifact("passages").recipe_id
    graph.configure(embedding={"passage_max_tokens": 512})
    graph.run("embedding_settings", "corpus_settings", "corpus_files", "passages")
    assert graph.artifact("passages").recipe_id == before
    (longer,) = verdict(graph, "passages_fit_the_encoder").violations
    assert (longer.code, longer.found, longer.expected) == ("FT-CORPUS-014", 256, 512)
    assert "corpus.max_tokens: 512" in longer.fix and "0 passages more" in longer.fix
    graph.configure(embedding={"passage_max_tokens": 100})
    graph.run("embedding_settings")
    (shorter,) = verdict(graph, "passages_fit_the_encoder").violations
    assert "passages of more than 100 tokens become parts" in shorter.fix
    graph.configure(corpus={"max_tokens": 100})
    made = graph.run("corpus_settings", "corpus_files", "passages")
    assert made["passages"]["parts"] > 0
    assert not verdict(graph, "passages_fit_the_encoder").violations
