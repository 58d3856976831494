"""An alias means the passage that has its text, wherever evidence names it, its section or its document."""

from __future__ import annotations

import pytest

from ft_assets.corpus.cut import Alias
from ft_assets.datasets.passage_index import PassageIndex, document_of, read_index
from ft_assets.embedding.pairs import has_negatives, read_passages, read_questions
from tests.ft_assets.datasets.conftest import TOPICS, Project, failures, instruction, question

pytestmark = pytest.mark.slow


def test_an_alias_its_section_and_its_document_mean_the_passage_that_is_kept() -> None:
    passages = [("aes#a", "aes"), ("aes#b", "aes"), ("rsa#x", "rsa"), ("rsa#b~2", "rsa")]
    aliases = [Alias("copy#a", "copy", "aes#a"), Alias("rsa#b", "rsa", "aes#b"), Alias("d2", "d2", "aes#b")]
    index = PassageIndex(passages, aliases)
    assert index.resolve("copy#a") == index.resolve("copy") == ["aes#a"]
    assert index.resolve("rsa#b") == ["rsa#b~2", "aes#b"]
    assert index.resolve("rsa") == ["rsa#x", "rsa#b~2", "aes#b"]
    assert index.resolve("d2") == ["aes#b"] and index.resolve("nowhere") == []
    names = ("aes", "rsa", "aes#a", "copy", "d2", "nowhere")
    assert [name for name in names if index.is_long_document(name)] == ["aes", "rsa"]
    assert [document_of(name, index) for name in ("copy", "copy#a", "rsa")] == ["aes", "aes", "rsa"]


def test_judgements_and_evidence_that_name_a_twin_hold_and_stay_in_its_split(project: Project) -> None:
    text = (project.root / "docs/topic00.md").read_text("utf-8")
    project.document("twin", text.replace("# 第0章", "# 另一个标题"))
    rows = [instruction(topic) for topic in TOPICS] + [instruction("twin", evidence=["twin#basics"])]
    project.instructions(rows)
    queries = {f"q-{topic}": (question(topic), [topic]) for topic in TOPICS}
    project.retrieval(queries | {"q-twin": (question("twin"), ["twin"])})
    result = project.run()
    assert result.success, failures(result)
    passages = project.store.require("passages")
    assert passages.summary["aliases"] == 1
    assert [row["code"] for row in project.quarantine("passages")] == ["FT-CORPUS-005"]
    assert project.quarantine("retrieval_records") == []
    assert read_index(passages).resolve("twin#basics") == ["topic00#basics"]
    splits = project.splits()
    assert splits[("instruction", "i-twin-0")] == splits[("instruction", "i-topic00-0")]
    split = splits[("retrieval", "q-twin")]
    asked = read_questions(project.store.require("retrieval_splits"), split, read_passages(passages))
    assert dict(zip(asked.ids, asked.qrels, strict=True))["q-twin"] == {"topic00#basics": 1}
    assert asked.unresolved == []


def test_a_passage_that_is_judged_0_is_a_negative_of_the_training(project: Project) -> None:
    assert project.run(checks=False).success
    asked = project.splits()
    train = next(topic for topic in TOPICS if asked[("retrieval", f"q-{topic}")] == "train")
    wrong = next(topic for topic in TOPICS if topic != train)
    plain = project.store.require("retrieval_splits")
    assert not has_negatives(plain, "train")
    lines = (project.root / "data/qrels.tsv").read_text("utf-8").splitlines()
    project.lines("qrels.tsv", [*lines, f"q-{train}\t{wrong}\t0"])
    result = project.run()
    assert result.success, failures(result)
    splits = project.store.require("retrieval_splits")
    assert has_negatives(splits, "train") and not has_negatives(splits, "test")
    questions = read_questions(splits, "train", read_passages(project.store.require("passages")))
    assert questions.negatives == {f"q-{train}": [f"{wrong}#basics"]}
    assert questions.named[questions.ids.index(f"q-{train}")] == [[f"{train}#basics"]]


def test_a_judged_document_names_all_of_its_passages(project: Project) -> None:
    topic = next(iter(TOPICS))
    sections = "\n".join(f"## S{n}\n\n这是第 {n} 节，写得足够长，可以成为一个独立的段落。\n" for n in range(3))
    project.document(topic, f"# {TOPICS[topic]}\n\n{sections}")
    assert project.run(checks=False).success
    split = project.splits()[("retrieval", f"q-{topic}")]
    asked = read_questions(
        project.store.require("retrieval_splits"), split, read_passages(project.store.require("passages"))
    )
    row = asked.ids.index(f"q-{topic}")
    names = [f"{topic}#s{n}" for n in range(3)]
    assert (asked.named[row], asked.qrels[row]) == ([names], dict.fromkeys(names, 1))
