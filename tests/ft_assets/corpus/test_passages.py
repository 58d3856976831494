from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations.reading import Rejected
from expectations.text.cleaning import clean
from expectations.text.documents import Section, read_document, section_slug
from expectations.violations import Refused
from ft_assets.config.model import CorpusSettings
from ft_assets.corpus import assets, checks
from ft_assets.corpus.collect import collect_passages
from ft_assets.corpus.cut import Passage, Twin, cut, cut_sections
from ft_assets.graph.gates import Evidence, build_checks, judge
from ft_assets.graph.source_files import file_inventory, files_version, maps_recipe, match_files, match_mapped
from resources.artifacts import ArtifactStore
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.parquet import read_rows
from tests.ft_assets.settings_assets import SETTINGS

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
    out = [i.rejected if isinstance(i, Twin) else i for i in items if not isinstance(i, Passage)]
    return [i for i in items if isinstance(i, Passage)], out


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


@pytest.mark.parametrize(
    "marked",
    [
        "甲方应当保管密钥，不得泄露；|乙方应当定期更换密钥，|并且记录时间。",
        "密钥的生成、分发、存储、使用、|更新、归档与销毁，都要有记录",
        "it costs| 1,000,000 units| per year",
        "没有标点的AES算法和|SHA256散列算法放在一起",
        "x" * 16 + "|" + "x" * 16 + "|" + "x" * 8,
    ],
)
def test_a_sentence_that_is_too_long_is_cut_at_its_best_place(marked: str):
    text = marked.replace("|", "")
    pieces = cut(text, 0, len(text), max_chars=16, min_chars=1)
    assert [text[low:high] for low, high in pieces] == [piece.strip() for piece in marked.split("|")]


_WORDS = st.sampled_from(
    [
        *(
            "密钥",
            "分组密码",
            "。",
            "，",
            "；",
            "、",
            "！”",
            "……",
            "？",
            "ＡＥＳ",
            "2⁶⁴",
            "e\u0301",
            "\u3000",
            "\u200d",
        ),
        *(
            " ",
            "\n",
            "\n\n",
            "\r\n",
            "\x0b",
            "AES-128",
            "3.14",
            "Dr. ",
            "e.g. ",
            ". ",
            ", ",
            "1. ",
            "(Fig. 2)",
            "word ",
        ),
        "https://a.b/c?x=1 ",
    ]
)


@given(st.lists(_WORDS, max_size=60).map("".join), st.integers(1, 40), st.integers(1, 20), st.integers(0, 3))
def test_pieces_are_in_order_and_lose_nothing_but_white_space(text: str, most: int, least: int, before: int):
    whole = "前" * before + text + "后"
    pieces = cut(whole, before, before + len(text), max_chars=most, min_chars=least)
    at = before
    for low, high in pieces:
        assert at <= low < high
        assert not whole[at:low].strip()
        assert not whole[low].isspace() and not whole[high - 1].isspace()
        at = high
    assert not whole[at : before + len(text)].strip() and at <= before + len(text)
    assert all(high - low <= most for low, high in pieces[:-1])


@given(st.lists(_WORDS, min_size=1, max_size=60).map("".join))
def test_every_piece_of_a_document_cleaned_is_its_text(text: str):
    section = Section("d", "d", (), "d.txt", "d.txt", 1, text, 0, len(text))
    for item in cut_sections([section], 30, 1):
        if isinstance(item, Passage):
            assert clean(text[item.start : item.end]).strip() == item.text


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
    assert [(r.file, r.line, r.code) for r in out] == [("corpus.jsonl", 3, "FT-ROW-018")]


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
    assert (summary.passages, summary.quarantined, summary.aliases) == (1, 6, 1)
    assert list(read_rows(folder / "aliases.parquet")) == [
        {"alias": "b#copy", "document_id": "b", "passage_id": "a#good"}
    ]


def test_a_traditional_copy_is_an_alias_and_japanese_stays_as_it_is(tmp_path: Path):
    _write(tmp_path / "a.md", "# 密钥\n\n密码学是研究编制密码的技术科学，历史很长。\n")
    _write(tmp_path / "b.md", "# 金鑰\n\n密碼學是研究編製密碼的技術科學，歷史很長。\n")
    _write(
        tmp_path / "c.md",
        "# 暗号學\n\n暗号技術の歴史を學習します。\n\n## 鍵\n\n暗號鍵管理技術標準學會編集發行資料目錄。\n",
    )
    files = match_files(["*.md"], tmp_path, "corpus.files")
    summary = collect_passages(
        files, tmp_path, CorpusSettings(files=["*.md"], min_chars=5, traditional="t2s"), tmp_path
    )
    rows = {row["passage_id"]: row for row in read_rows(tmp_path / "passages.parquet")}
    assert [row["alias"] for row in read_rows(tmp_path / "aliases.parquet")] == ["b#金鑰"] and summary.aliases == 1
    assert rows["c#鍵"]["content"] == "暗号學 > 鍵\n暗號鍵管理技術標準學會編集發行資料目錄。"
    _write(tmp_path / "d.md", "# 雜湊函數\n\n雜湊函數將任意長度的訊息壓縮。\n")
    collect_passages(
        [tmp_path / "d.md"], tmp_path, CorpusSettings(files=["d.md"], min_chars=5, traditional="t2s"), tmp_path
    )
    (row,) = read_rows(tmp_path / "passages.parquet")
    assert row["passage_id"] == "d#雜湊函數" and row["content"] == "杂凑函数\n杂凑函数将任意长度的讯息压缩。"


def test_a_saved_dataset_folder_is_one_file_of_a_glob_and_its_files_are_its_version(tmp_path: Path):
    for name in ("a.md", "rows/dataset_dict.json", "rows/train/dataset_info.json", "rows/train/data.arrow"):
        _write(tmp_path / "docs" / name, name)
    _write(tmp_path / "docs/rows/train/cache-1.arrow", "left by map()")
    files = match_files(["docs/**"], tmp_path, "corpus.files")
    assert files == [tmp_path / "docs/a.md", tmp_path / "docs/rows"]
    inventory = file_inventory(files, tmp_path)
    assert [(row["file"], row["document"]) for row in inventory] == [
        ("docs/a.md", "docs/a.md"), ("docs/rows/dataset_dict.json", "docs/rows"),
        ("docs/rows/train/data.arrow", "docs/rows"), ("docs/rows/train/dataset_info.json", "docs/rows"),
    ]  # fmt: skip
    before = files_version(files, tmp_path)
    _write(tmp_path / "docs/rows/train/data.arrow", "changed")
    assert files_version(files, tmp_path) != before


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
        "corpus": {"files": ["docs/*"], "glossary": ["terms.yaml"], "traditional": "t2s"},
        "sft": {"base_model": "x"},
        "dpo": {"base_model": "x"},
        "embedding": {"base_model": "x"},
    }
    _write(tmp_path / "config.yaml", json.dumps(config))
    _write(tmp_path / "docs/sm4.md", MARKDOWN)
    _write(
        tmp_path / "docs/page.html",
        "<meta charset=utf-8><h1>網頁</h1><p>這個網頁講述<b>密碼學</b>的歷史與發展，內容足夠長。</p>",
    )
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
    assert terms == {"分组密码": 5, "轮函数": 2, "AES": 0}  # the title is part of every passage
    shown = result.asset_materializations_for_node("passages")[0].metadata
    assert shown["dagster/row_count"].value == 6 and len(shown["length"].value) < 1000
    result, _ = materialize()
    assert result.asset_materializations_for_node("passages")[0].metadata["reused"].value


def test_a_passage_that_its_source_does_not_say_fails_the_gate_and_a_changed_source_does_not(run, tmp_path: Path):
    materialize, artifacts = run
    materialize()
    gate = next(gate for gate in checks.GATES if gate.name == "offsets_point_at_the_text")
    evidence = Evidence(artifacts.store(), artifacts.releases(), None)  # pyright: ignore[reportArgumentType]
    assert judge(gate, evidence).figures == {"sources": 2, "sources_changed_since": 0}
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


def test_rows_of_the_corpus_may_have_columns_of_other_names(tmp_path: Path):
    text = "AES encrypts blocks of 128 bits, whatever the length of its key."
    _write(tmp_path / "kb.jsonl", json.dumps({"nr": "aes", "inhalt": text, "titel": "AES"}) + "\n")
    _write(tmp_path / "a.md", "# Hashing\n\nSM3 is a hash function with a digest of 256 bits.\n")
    settings = CorpusSettings(
        files=["*.md", "*.jsonl"], columns={"document_id": "nr", "text": "inhalt", "title": "titel"}
    )
    files = match_mapped(settings, "files", tmp_path, "corpus")
    summary = collect_passages(list(files), tmp_path, settings, tmp_path, files)
    assert (summary.passages, summary.quarantined) == (2, 0)
    assert maps_recipe([files], tmp_path)
    assert maps_recipe([match_mapped(CorpusSettings(files=["*.md"]), "files", tmp_path, "corpus")], tmp_path) == {}


def test_two_entries_may_not_give_one_file_two_maps(tmp_path: Path):
    _write(tmp_path / "kb.jsonl", "{}\n")
    entries = [{"glob": "*.jsonl", "columns": {"text": "a"}}, {"glob": "kb.*", "columns": {"text": "b"}}]
    with pytest.raises(Refused, match="FT-MAP-003"):
        match_mapped(CorpusSettings.model_validate({"files": entries}), "files", tmp_path, "corpus")


def test_a_chinese_sentence_counts_by_what_it_says(tmp_path: Path):
    sentences = {
        "kept": "密钥必须每年更换。",
        "kana": "かぎをこうかんする",
        "short": "见上文。",
        "latin": "See above, page 3.",
    }
    text = "".join(f"## {name}\n\n{sentence}\n\n" for name, sentence in sentences.items())
    passages, out = _cut(_write(tmp_path / "a.md", text))
    assert [p.passage_id for p in passages] == ["a#kept", "a#kana"]
    assert [(r.line, r.code) for r in out] == [(9, "FT-CORPUS-003"), (13, "FT-CORPUS-003")]
    assert "counts 10 characters, fewer than 20" in out[0].reason


@pytest.mark.parametrize(
    ("fault", "code"), [("\x1b[31m", "FT-TEXT-001"), ("\ufffd\ufffd", "FT-TEXT-006"), ("\u202e", "FT-TEXT-008")]
)
@pytest.mark.parametrize("suffix", ["md", "txt", "html"])
def test_a_section_with_characters_that_no_text_may_hold_is_quarantined(
    tmp_path: Path, fault: str, code: str, suffix: str
):
    good = "A section that is long enough to be kept as a passage."
    head, end = ("<meta charset=utf-8><h1>A</h1>\n<h2>B</h2>\n", "\n<h2>C</h2>\n") if suffix == "html" else (
        "# A\n\n## B\n\n", "\n\n## C\n\n"
    )  # fmt: skip
    passages, out = _cut(_write(tmp_path / f"a.{suffix}", f"{head}{good}\nIt has {fault} in it.{end}{good} Again."))
    assert [(r.file, r.line, r.code) for r in out] == [
        (f"a.{suffix}", {"md": 6, "txt": 6, "html": 2}[suffix], code)
    ] and out[0].raw.isprintable()  # fmt: skip
    assert [p.passage_id for p in passages] == ([] if suffix == "txt" else ["a#c"])


def test_a_heading_with_lost_characters_takes_its_sections_with_it_and_mojibake_stays(tmp_path: Path):
    text = "A section that is long enough to be kept as a passage, number {}."
    path = _write(
        tmp_path / "a.md", f"# Gr\ufffd\ufffde\n\n{text.format(1)}\n\n# Plan\n\nSie fÃ¤hrt. {text.format(2)}\n"
    )
    passages, out = _cut(path)
    assert [p.passage_id for p in passages] == ["a#plan"]
    assert [(r.line, r.code) for r in out] == [(1, "FT-TEXT-006")]


def test_the_gate_counts_lost_files_as_well_as_lost_sections(run, tmp_path: Path):
    materialize, artifacts = run
    part = "## Part {}\n\nThis is part {} of a long document, and it can be kept.\n\n"
    _write(tmp_path / "docs/long.md", "# Long\n\n" + "".join(part.format(n, n) for n in range(60)))
    (tmp_path / "docs/gbk.md").write_bytes("# 标题\n\n中文内容在这里，足够长，可以保留下来。".encode("gb18030"))
    _write(tmp_path / "docs/copy.md", MARKDOWN)  # all its texts are in sm4.md: nothing is lost
    materialize()
    gate = next(gate for gate in checks.GATES if gate.name == "few_sections_are_quarantined")
    verdict = judge(gate, Evidence(artifacts.store(), artifacts.releases(), None))  # pyright: ignore[reportArgumentType]
    (violation,) = verdict.violations
    assert violation.code == "FT-CORPUS-012" and "1 of 5 files are in the quarantine" in str(violation)
    assert verdict.figures == {"sections_lost": 1, "files_lost": 1, "most": 0.05}
    config = json.loads((tmp_path / "config.yaml").read_text("utf-8"))
    config["corpus"]["max_quarantined_share"] = 0.2
    _write(tmp_path / "config.yaml", json.dumps(config))
    result, _ = materialize()
    assert result.success
