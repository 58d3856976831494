"""`ft convert`: the paths of its outputs, exit codes, and the metadata of Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from expectations.formats.registry import FORMATS
from expectations.records.read import read_records
from ft_assets.cli import cli

GOOD = [{"instruction": f"什么是算法 {n}？", "output": f"<think>想</think>答案 {n}"} for n in range(3)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(GOOD, ensure_ascii=False), "utf-8")
    return path


def convert(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, arguments)])


def test_without_a_place_the_file_is_next_to_its_source(rows: Path) -> None:
    result = convert(rows, "--to", "instruction")
    assert result.exit_code == 0, result.output
    out = rows.with_name("rows.instruction.jsonl")
    assert [json.loads(line)["format_version"] for line in out.read_text("utf-8").splitlines()] == [
        FORMATS["instruction"].version
    ] * 3
    assert not list(rows.parent.glob("*quarantine*"))


def test_parquet_carries_format_and_version_and_reads_back_equal_and_clean(rows: Path) -> None:
    table, lines = rows.with_name("rows.parquet"), rows.with_name("rows.jsonl")
    for out in (table, lines):
        assert convert(rows, "--to", "instruction", "--out", out).exit_code == 0
    metadata = pq.read_schema(table).metadata
    assert (metadata[b"ft_assets.format"], metadata[b"ft_assets.version"]) == (
        b"instruction",
        str(FORMATS["instruction"].version).encode(),
    )
    assert CliRunner().invoke(cli, ["verify", str(table)]).exit_code == 0
    first, second = (list(read_records(path, "instruction", name="rows")) for path in (table, lines))
    assert first == second and len(first) == 3


def test_a_table_of_a_newer_version_is_refused(rows: Path) -> None:
    table = rows.with_name("rows.parquet")
    convert(rows, "--to", "instruction", "--out", table)
    newer = pq.read_table(table).replace_schema_metadata({"ft_assets.format": "instruction", "ft_assets.version": "99"})
    pq.write_table(newer, table)
    result = CliRunner().invoke(cli, ["verify", str(table), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output)[0]["counts"] == {"FT-VERSION-001": 3}


def test_exit_1_says_that_rows_are_in_the_quarantine(rows: Path) -> None:
    rows.write_text(json.dumps([*GOOD, {"instruction": "x", "output": ""}]))
    result = convert(rows, "--to", "instruction", "--out", rows.with_name("out.jsonl"), "--json")
    assert result.exit_code == 1
    made = json.loads(result.output)
    assert (made["written"], made["counts"]) == (3, {"FT-INST-003": 1})
    (bad,) = Path(made["quarantine"]).read_text("utf-8").splitlines()
    assert json.loads(bad)["code"] == "FT-INST-003"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "preference"], "becomes instruction"),
        (["--to", "nothing"], "FT-DIALECT-003"),
        (["--to", "instruction", "--out", "rows.csv"], ".parquet"),
        (["--to", "instruction", "--format", "messages"], "FT-DIALECT-001"),
    ],
)
def test_what_cannot_be_done_is_exit_2_with_what_can(rows: Path, arguments: list[str], message: str) -> None:
    result = convert(rows, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert [path.name for path in rows.parent.iterdir()] == ["rows.json"]


def test_a_file_that_exists_is_overwritten_only_by_force(rows: Path) -> None:
    assert convert(rows, "--to", "instruction").exit_code == 0
    assert "--force" in convert(rows, "--to", "instruction").output
    assert convert(rows, "--to", "instruction", "--force").exit_code == 0


def test_traditional_chinese_becomes_simplified_when_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("opencc")
    source = tmp_path / "rows.jsonl"
    source.write_text('{"instruction": "什麼是軟體？", "output": "電腦程式。"}\n', "utf-8")
    assert convert(source, "--to", "instruction", "--traditional", "tw2sp").exit_code == 0
    (row,) = (tmp_path / "rows.instruction.jsonl").read_text("utf-8").splitlines()
    assert (json.loads(row)["question"], json.loads(row)["answer"]) == ("什么是软件？", "电脑程序。")


def test_maps_turns_and_allowed_rules_are_those_of_verify(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    turns = [("Kunde", "How long is an AES block?"), ("Bot", "{question}"), ("Kunde", "Sure?"), ("Bot", "Yes.")]
    row = {"nr": "c7", "dialog": [{"role": role, "content": text} for role, text in turns]}
    source.write_text(json.dumps(row) + "\n", "utf-8")
    names = ["--columns", "messages=dialog,id=nr", "--roles", "Kunde=user,Bot=assistant"]
    result = convert(source, "--to", "instruction", *names, "--turns", "all", "--allow", "FT-TEXT-002")
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "rows.instruction.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["record_id"] for line in lines] == ["c7#1", "c7"]
    missing = convert(source, "--to", "instruction", "--columns", "messages=dialogue", "--force")
    assert missing.exit_code == 2 and "messages: dialog" in missing.output
