"""`convert_file` writes canonical records whole or not at all, and what it wrote is clean and stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.formats.instruction import InstructionRecord
from expectations.formats.registry import FORMATS
from expectations.records.convert import Conversion, JsonlWriter, convert_file
from expectations.records.read import read_records
from expectations.verify import verify_file
from expectations.violations import Refused

Write = Callable[..., Path]

SFT = [{"instruction": f"什么是算法 {n}？", "output": f"<think>想</think>答案 {n}"} for n in range(150)]
DDR = [
    {
        "query": f"Is {n} prime?",
        "retrieval_result": ["passage"],
        "chosen": {"text": "yes", "rouge_score": 1.0},
        "rejected": {"text": "no", "rouge_score": 0.0},
    }
    for n in range(3)
]


def convert(path: Path, to: str, **options: Any) -> Conversion:
    out = path.parent / "out" / f"{to}.jsonl"
    return convert_file(path, to, out, quarantine=out.with_suffix(".bad.jsonl"), **options)


def without_place(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in ("source", "line_no")} for row in rows]


@pytest.mark.parametrize(("rows", "to"), [(SFT, "instruction"), (DDR, "preference"), (DDR, "instruction")])
def test_what_was_converted_is_clean_and_converts_to_itself(write: Write, rows: list[Any], to: str) -> None:
    made = convert(write("rows.jsonl", rows), to)
    assert (made.written, made.quarantined, made.quarantine) == (len(rows), 0, "")
    report = verify_file(Path(made.out))
    assert (report.exit_code, report.format, report.dialect, report.clean) == (0, to, to, len(rows))
    assert report.versions == [FORMATS[to].version]
    again = Path(made.out).with_name("again.jsonl")
    convert_file(Path(made.out), to, again, quarantine=again.with_suffix(".bad"))
    assert without_place(again) == without_place(Path(made.out))


def test_the_written_rows_are_the_records_that_were_read(write: Write) -> None:
    path = write("rows.jsonl", SFT)
    made = convert(path, "instruction")
    lines = Path(made.out).read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=InstructionRecord) for line in lines] == list(
        read_records(path, "instruction")
    )


def test_bad_rows_and_repetitions_go_to_the_quarantine_with_their_line(write: Write) -> None:
    made = convert(
        write("rows.jsonl", [*SFT, b'{"a": NaN}', {"instruction": "x", "output": ""}, SFT[0]]), "instruction"
    )
    assert (made.written, made.counts) == (150, {"FT-DUP-002": 1, "FT-INST-003": 1, "FT-ROW-004": 1})
    bad = [json.loads(line) for line in Path(made.quarantine).read_text("utf-8").splitlines()]
    assert [(row["line"], row["code"]) for row in bad] == [
        (151, "FT-ROW-004"),
        (152, "FT-INST-003"),
        (153, "FT-DUP-002"),
    ]
    assert all(row["suggestion"] and row["file_sha256"] for row in bad[:2])


def test_a_preference_becomes_an_instruction_that_answers_with_the_chosen_text(write: Write) -> None:
    made = convert(write("rows.jsonl", DDR), "instruction")
    assert (made.format, made.dialect) == ("preference", "ddr")
    assert without_place(Path(made.out))[0]["answer"] == "yes"


def test_where_there_is_no_way_it_says_what_the_file_can_become(write: Write) -> None:
    path = write("rows.jsonl", SFT)
    with pytest.raises(Refused, match="becomes instruction, retrieval_pair, not `preference`"):
        convert(path, "preference")
    with pytest.raises(Refused, match="FT-DIALECT-003"):
        convert(path, "prefrence")
    assert not (path.parent / "out").exists()


def test_an_ambiguous_row_is_what_it_is_to_become(write: Write) -> None:
    path = write("rows.jsonl", [{"_id": "1", "text": "SM2"}])
    assert convert(path, "passage").dialect == "beir-corpus"
    assert convert(path, "query").dialect == "beir-queries"


@pytest.mark.parametrize("data", [b"", b"\n", b"\x1f\x8b\x08\x00", b'{"strange": 1}\n'])
def test_an_unreadable_file_leaves_nothing_behind(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(Refused):
        convert(path, "instruction")
    assert not list(tmp_path.glob("out/*"))


def test_an_interrupted_conversion_leaves_the_old_file_and_nothing_half_written(write: Write) -> None:
    path = write("rows.jsonl", SFT)
    made = convert(path, "instruction")
    before = Path(made.out).read_bytes()

    class Breaking(JsonlWriter):
        def extend(self, rows: Iterable[Any], /) -> None:
            super().extend(rows)
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        convert(path, "instruction", force=True, open_writer=Breaking)
    assert Path(made.out).read_bytes() == before
    assert [place.name for place in Path(made.out).parent.iterdir()] == ["instruction.jsonl"]


def test_existing_files_are_kept_unless_forced_and_the_source_always(write: Write) -> None:
    path = write("rows.jsonl", [*SFT, b"{"])
    made = convert(path, "instruction")
    with pytest.raises(FileExistsError):
        convert(path, "instruction")
    write("rows.jsonl", SFT)
    convert(path, "instruction", force=True)
    assert not Path(made.quarantine or path.parent / "none").exists()
    with pytest.raises(FileExistsError):
        convert_file(path, "instruction", path, quarantine=path.with_suffix(".bad"), force=True)


def test_the_sections_of_a_document_become_passages(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text("# 散列\n\nSM3 是散列算法。\n\n## Empty\n\n## AES\n\nA block cipher.\n", "utf-8")
    made = convert(path, "passage")
    assert (made.written, made.counts) == (2, {"FT-CORPUS-002": 1})
    assert [row["document_id"] for row in without_place(Path(made.out))] == ["guide#散列", "guide#aes"]
    with pytest.raises(Refused, match="FT-DIALECT-003"):
        convert_file(path, "query", tmp_path / "q.jsonl", quarantine=tmp_path / "bad.jsonl")


TRIPLETS = [
    {"query": "SM4 的分组长度？", "pos": ["SM4 分组长度为 128 位。"], "neg": ["SM3 输出 256 位。", "SM9 基于标识。"]},
    {"query": "SM3 输出多长？", "pos": ["SM3 输出 256 位。"], "neg": ["SM4 分组长度为 128 位。"]},
    {"query": "", "pos": ["x"]},
]


def test_pairs_become_a_folder_in_beir_layout_that_is_clean_itself(write: Write) -> None:
    path = write("triplets.jsonl", TRIPLETS)
    out = path.with_name("beir")
    made = convert_file(path, "beir", out, quarantine=path.with_name("bad.jsonl"))
    assert (made.format, made.to, made.written, made.counts) == ("retrieval_pair", "beir", 2, {"FT-PAIR-002": 1})
    texts = {row["_id"]: row["text"] for row in map(json.loads, (out / "corpus.jsonl").open(encoding="utf-8"))}
    assert sorted(texts.values()) == ["SM3 输出 256 位。", "SM4 分组长度为 128 位。", "SM9 基于标识。"]
    asked = {row["_id"]: row["text"] for row in map(json.loads, (out / "queries.jsonl").open(encoding="utf-8"))}
    judged = [line.split("\t") for line in (out / "qrels/all.tsv").read_text("utf-8").splitlines()[1:]]
    expected = [
        (row["query"], text, score)
        for row in TRIPLETS[:2]
        for texts_of, score in (("pos", "1"), ("neg", "0"))
        for text in row[texts_of]
    ]
    assert [(asked[query], texts[passage], score) for query, passage, score in judged] == expected
    for name, kind in (("corpus.jsonl", "passage"), ("queries.jsonl", "query"), ("qrels/all.tsv", "qrels")):
        assert (verify_file(out / name).exit_code, verify_file(out / name).format) == (0, kind)


NEGATIVES = [
    {"query": "Why prime it?", "pos": ["Or the seal runs dry."], "neg": ["Motors hum.", "Valves close."]},
    {"anchor": "Why prime it?", "positive": "Or the seal runs dry.", "negative_1": "Motors hum.",
     "negative_2": "Valves close."},
    {"query_id": "1", "query": "Why prime it?", "positive_passages": [{"docid": "a", "text": "Or the seal runs dry."}],
     "negative_passages": [{"docid": "b", "text": "Motors hum."}, {"docid": "c", "text": "Valves close."}]},
]  # fmt: skip


@pytest.mark.parametrize("row", NEGATIVES, ids=["FlagEmbedding", "sentence-transformers", "Tevatron"])
def test_the_hard_negatives_of_other_tools_become_judgements_of_0(write: Write, row: dict[str, Any]) -> None:
    path = write("rows.jsonl", [row])
    out = path.with_name("beir")
    convert_file(path, "beir", out, quarantine=path.with_name("bad.jsonl"))
    texts = {row["_id"]: row["text"] for row in map(json.loads, (out / "corpus.jsonl").open(encoding="utf-8"))}
    judged = [line.split("\t") for line in (out / "qrels/all.tsv").read_text("utf-8").splitlines()[1:]]
    scores = {texts[passage]: score for _, passage, score in judged}
    assert scores == {"Or the seal runs dry.": "1", "Motors hum.": "0", "Valves close.": "0"}


def test_what_beir_has_no_place_for_is_named_and_kept_in_the_records(write: Write) -> None:
    prompted = {"prompt": "Find the passage.", "pos_scores": [0.9], "neg_scores": [0.2, 0.1]}
    path = write("taught.jsonl", [TRIPLETS[0] | prompted, TRIPLETS[1]])
    made = convert_file(path, "beir", path.with_name("beir"), quarantine=path.with_name("bad.jsonl"))
    assert made.left_out == {"prompt": 1, "positive_scores": 1, "negative_scores": 1}
    kept = path.with_name("pairs.jsonl")
    assert not convert_file(path, "retrieval_pair", kept, quarantine=path.with_name("bad.jsonl")).left_out
    first = json.loads(kept.read_text("utf-8").splitlines()[0])
    assert (first["prompt"], first["positive_scores"], first["negative_scores"]) == (
        "Find the passage.",
        [0.9],
        [0.2, 0.1],
    )
    note = verify_file(path).notes[-1]
    assert note.startswith(
        "not used in training: `prompt` (1 row), `positive_scores` (1 row), `negative_scores` (1 row)"
    )
    assert not verify_file(write("plain.jsonl", TRIPLETS[:2])).notes


def test_what_is_no_pair_does_not_become_beir_and_leaves_nothing(write: Write) -> None:
    path = write("rows.jsonl", [{"query_id": "q", "passage_id": "p", "score": 1}])
    with pytest.raises(Refused, match="FT-DIALECT-003"):
        convert_file(path, "beir", path.with_name("beir"), quarantine=path.with_name("bad.jsonl"))
    with pytest.raises(FileExistsError):
        convert_file(write("p.jsonl", TRIPLETS), "beir", path.parent, quarantine=path.with_name("bad.jsonl"))
    assert {file.name for file in path.parent.iterdir()} == {"rows.jsonl", "p.jsonl"}


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Valve",
            "paragraphs": [
                {
                    "context": "A check valve keeps water from flowing back.",
                    "qas": [
                        {"id": "1", "question": "What keeps water from flowing back?", "answers": [
                            {"text": "A check valve", "answer_start": 0}]},
                        {"id": "2", "question": "Who made it?", "answers": [], "is_impossible": True},
                        {"id": "3", "question": "What does a check valve do?", "answers": [
                            {"text": "keeps water from flowing back", "answer_start": 14}]},
                    ],
                },
            ],
        },
    ],
}  # fmt: skip


def test_squad_becomes_a_beir_folder_of_its_questions_and_contexts(tmp_path: Path) -> None:
    path, out = tmp_path / "dev.json", tmp_path / "beir"
    path.write_text(json.dumps(SQUAD), "utf-8")
    made = convert_file(path, "beir", out, quarantine=tmp_path / "bad.jsonl")
    assert (made.format, made.written, made.counts) == ("qa", 2, {"FT-QA-003": 1})
    (passage,) = [json.loads(line) for line in (out / "corpus.jsonl").read_text("utf-8").splitlines()]
    assert passage["text"] == SQUAD["data"][0]["paragraphs"][0]["context"]
    queries = [json.loads(line) for line in (out / "queries.jsonl").read_text("utf-8").splitlines()]
    assert [(row["_id"], row["text"]) for row in queries] == [
        ("1", "What keeps water from flowing back?"), ("3", "What does a check valve do?"),
    ]  # fmt: skip
    judged = (out / "qrels/all.tsv").read_text("utf-8").splitlines()[1:]
    assert judged == [f"1\t{passage['_id']}\t1", f"3\t{passage['_id']}\t1"]


def test_a_format_that_is_two_bridges_away_is_reached_and_a_row_without_one_passage_is_not(write: Write) -> None:
    many = {**DDR[0], "query": "Is 9 prime?", "retrieval_result": ["one", "two"]}
    made = convert(write("rows.jsonl", [*DDR, many]), "retrieval_pair")
    assert (made.format, made.written, made.counts) == ("preference", 3, {"FT-PAIR-003": 1})
    rows = without_place(Path(made.out))
    assert [(row["query"], row["positives"]) for row in rows[:1]] == [("Is 0 prime?", ["passage"])]


def test_a_question_without_its_text_is_no_pair(write: Write) -> None:
    rows = [{"question": "What is a valve?", "golden_answers": ["a check"], "id": "a"}]
    made = convert(write("golden.jsonl", rows), "retrieval_pair")
    assert (made.written, made.counts) == (0, {"FT-PAIR-003": 1})
