from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from expectations.reading import Rejected
from expectations.text import clean
from expectations.violations import Refused
from ft_assets.corpus import assets, checks
from ft_assets.corpus.collect import collect_passages
from ft_assets.corpus.cut import Passage, cut, cut_sections
from ft_assets.corpus.documents import read_document, section_slug
from ft_assets.corpus.files import files_version, match_files
from ft_assets.gates import Evidence, build_checks, judge
from ft_assets.settings.assets import ASSETS as SETTINGS
from ft_assets.settings.model import CorpusSettings
from resources.artifacts import ArtifactStore
from resources.dagster_faces import ArtifactsResource, QdrantResource
from resources.parquet import read_rows

MARKDOWN = """---
title: front matter
---
# SM4 分组密码

SM4 是我国公布的第一个商用分组密码算法，它的分组是 128 比特。

## 基本参数

分组长度和密钥长度都是 128 比特，加密时进行 32 轮迭代。

```
# not a heading, a comment in code
```

## Round function

The round function updates one of four words. It is simple enough!

### Examples

An example of the round function, long enough to be kept.

## Other modes

### Examples

Another example, about modes this time, long enough to be kept.
"""


def _cut(path: Path, max_chars: int = 1200, min_chars: int = 20) -> tuple[list[Passage], list[Rejected]]:
    items = list(cut_sections(read_document(path, path.name), max_chars, min_chars))
    return [i for i in items if isinstance(i, Passage)], [i for i in items if isinstance(i, Rejected)]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_markdown_becomes_one_passage_a_section_named_by_file_and_heading(tmp_path: Path):
    passages, out = _cut(_write(tmp_path / "sm4.md", MARKDOWN))
    assert [p.passage_id for p in passages] == [
        "sm4#sm4-分组密码", "sm4#基本参数", "sm4#round-function", "sm4#examples", "sm4#other-modes/examples",
    ]  # fmt: skip
    assert passages[1].heading == "SM4 分组密码 > 基本参数"
    assert passages[1].content == f"{passages[1].heading}\n{passages[1].text}"
    assert passages[4].heading == "SM4 分组密码 > Other modes > Examples"
    assert "not a heading" in passages[1].text
    assert [p.language for p in passages[1:3]] == ["zh", "en"]
    assert not out


@pytest.mark.parametrize("prefix", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_offsets_point_at_the_text_in_the_source_whatever_the_line_ends(tmp_path: Path, prefix: str, end: str):
    path = _write(tmp_path / "sm4.md", prefix + MARKDOWN.replace("\n", end))
    source = path.read_bytes().decode()
    passages, _ = _cut(path, max_chars=40, min_chars=5)
    assert len(passages) > 5
    for passage in passages:
        assert clean(source[passage.start : passage.end]).strip() == passage.text


def test_a_long_section_is_cut_at_sentence_ends_and_loses_nothing():
    zh = "第一句话讲密钥。第二句话讲轮函数！第三句话讲解密？"
    en = "The first sentence is here. The second one, e.g. this, follows. The third ends."
    for text, count in ((zh * 5, 3), (en + " " + en, 3)):
        pieces = cut(text, 0, len(text), max_chars=60, min_chars=5)
        assert len(pieces) >= count
        assert all(high - low <= 60 and text[low:high].rstrip()[-1] in "。！？.!" for low, high in pieces)
        assert "".join(text[low:high] for low, high in pieces).replace(" ", "") == text.replace(" ", "")
    endless = "无标点" * 100
    assert [high - low for low, high in cut(endless, 0, 300, max_chars=120, min_chars=5)] == [120, 120, 60]


def test_pieces_of_a_section_are_numbered_and_those_of_a_text_too(tmp_path: Path):
    long = "".join(f"第{n}句不长的话，讲的是密码学。" for n in range(9))
    passages, _ = _cut(_write(tmp_path / "long.md", f"# T\n\n## S\n\n{long}"), max_chars=60)
    assert [p.passage_id for p in passages[:2]] == ["long#s", "long#s~2"]
    passages, _ = _cut(
        _write(tmp_path / "plain.txt", "".join(f"第{n}句不长的话，讲的是密码学。" for n in range(9))), max_chars=60
    )
    assert [p.passage_id for p in passages[:2]] == ["plain#1", "plain#2"]
    assert passages[0].content == passages[0].text


def test_beir_rows_keep_their_ids_titles_and_lines(tmp_path: Path):
    rows = [
        {"_id": "d1", "title": "AES", "text": "AES works on blocks of 128 bits."},
        {"_id": "d2", "title": "", "text": "没有标题的一个文档，也是一个段落，足够长了吧。"},
    ]
    passages, out = _cut(_write(tmp_path / "corpus.jsonl", "\n".join(json.dumps(r) for r in rows) + "\n{broken\n"))
    assert [(p.passage_id, p.document_id, p.heading, p.source) for p in passages] == [
        ("d1", "d1", "AES", "corpus.jsonl:1"), ("d2", "d2", "", "corpus.jsonl:2"),
    ]  # fmt: skip
    assert [(r.file, r.line, r.code) for r in out] == [("corpus.jsonl", 3, "FT-ROW-002")]


def test_what_cannot_be_a_passage_is_quarantined_with_file_line_and_reason(tmp_path: Path):
    docs = tmp_path / "docs"
    good, same = "这一节有足够多的文字，可以成为一个段落。", "这一节的编号与上一节相同，所以不能使用它。"
    _write(docs / "a.md", f"# A\n\n## Empty\n\n## Short\n\n太短\n\n## Good\n\n{good}\n\n## Good\n\n{same}\n")
    _write(docs / "b.md", f"# B\n\n## Copy\n\n{good}\n")
    (docs / "gbk.md").write_bytes("# 标题\n\n中文内容".encode("gb18030"))
    _write(docs / "scan.pdf", "%PDF")
    folder = tmp_path / "out"
    folder.mkdir()
    files = match_files(["docs/*"], tmp_path, "corpus.files")
    summary = collect_passages(files, tmp_path, CorpusSettings(files=["docs/*"]), folder)
    found = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert [(row["file"], row["line"], row["code"]) for row in found] == [
        ("docs/a.md", 3, "FT-CORPUS-002"), ("docs/a.md", 5, "FT-CORPUS-003"), ("docs/a.md", 13, "FT-CORPUS-004"),
        ("docs/b.md", 3, "FT-CORPUS-005"), ("docs/gbk.md", 1, "FT-CORPUS-001"), ("docs/scan.pdf", 0, "FT-CORPUS-006"),
    ]  # fmt: skip
    assert all(row["reason"] and row["suggestion"] for row in found)
    assert [row["passage_id"] for row in read_rows(folder / "passages.parquet")] == ["a#good"]
    assert (summary["passages"], summary["quarantined"]) == (1, 6)


def test_a_glob_that_matches_nothing_names_its_key(tmp_path: Path):
    with pytest.raises(Refused, match=r"FT-FILE-001.*corpus\.files.*nowhere"):
        match_files(["nowhere/*.md"], tmp_path, "corpus.files")


def test_the_version_of_files_is_that_of_their_contents_and_names(tmp_path: Path):
    path = _write(tmp_path / "[odd]" / "a.md", "# A")
    root = path.parent
    first = files_version(match_files(["*.md"], root, "k"), root)
    path.touch()
    assert files_version(match_files([str(root.parent / "*/a.md")], root, "k"), root) == first
    path.write_text("# B")
    assert files_version([path], root) != first


def test_slugs_keep_chinese_and_fold_the_rest():
    assert section_slug("Ｋｅｙ & 密钥 管理 (v2)") == "key-密钥-管理-v2"
    assert section_slug("!!!") == "section"


@pytest.fixture
def run(tmp_path: Path):
    config = {
        "corpus": {"files": ["docs/*.md"], "glossary": ["terms.yaml"]},
        "sft": {"base_model": "x"},
        "dpo": {"base_model": "x"},
        "embedding": {"base_model": "x"},
    }
    _write(tmp_path / "config.yaml", json.dumps(config))
    _write(tmp_path / "docs/sm4.md", MARKDOWN)
    _write(tmp_path / "terms.yaml", "分组密码: [block cipher]\n轮函数: [round function]\nAES: []\n")
    artifacts = ArtifactsResource(state_dir=str(tmp_path / "state"), config_path=str(tmp_path / "config.yaml"))
    resources = {"artifacts": artifacts, "qdrant": QdrantResource(state_dir=str(tmp_path / "state"))}

    def run() -> tuple[dg.ExecuteInProcessResult, ArtifactStore]:
        every = [*SETTINGS, *assets.ASSETS, *build_checks(checks.GATES)]
        return dg.materialize(every, resources=resources, raise_on_error=False), artifacts.store()

    return run, artifacts


def test_the_assets_make_passages_and_glossary_and_reuse_them(run, tmp_path: Path):
    materialize, _ = run
    result, store = materialize()
    assert result.success and all(e.passed for e in result.get_asset_check_evaluations())
    terms = {row["term"]: row["passages"] for row in read_rows(store.require("glossary").file("glossary.parquet"))}
    assert terms == {"分组密码": 5, "轮函数": 2, "AES": 0}  # the title stands over every passage
    shown = result.asset_materializations_for_node("passages")[0].metadata
    assert shown["dagster/row_count"].value == 5 and len(shown["length"].value) < 1000
    result, _ = materialize()
    assert result.asset_materializations_for_node("passages")[0].metadata["reused"].value


def test_a_passage_that_its_source_does_not_say_fails_the_gate_and_a_changed_source_does_not(run, tmp_path: Path):
    materialize, artifacts = run
    materialize()
    gate = next(gate for gate in checks.GATES if gate.name == "offsets_point_at_the_text")
    evidence = Evidence(artifacts.store(), artifacts.releases(), None)  # pyright: ignore[reportArgumentType]
    assert judge(gate, evidence).figures == {"sources": 1, "sources_changed_since": 0}
    _write(tmp_path / "docs/sm4.md", MARKDOWN.replace("32 轮", "16 轮"))
    verdict = judge(gate, evidence)
    assert not verdict.violations and verdict.figures["sources_changed_since"] == 1


def test_a_damaged_passages_file_is_refused_by_name(run, tmp_path: Path):
    materialize, artifacts = run
    _, store = materialize()
    path = store.require("passages").path / "passages.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    gate = next(gate for gate in checks.GATES if gate.name == "artifact_is_whole")
    (violation,) = judge(gate, Evidence(store, artifacts.releases(), None)).violations  # pyright: ignore[reportArgumentType]
    assert violation.code == "FT-ART-003" and violation.where.endswith("passages.parquet")
