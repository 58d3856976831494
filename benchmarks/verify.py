"""Measure rows a minute and peak memory of `ft verify` and `ft convert` on a DDR file, next to other tools.

    python benchmarks/verify.py [--rows 1000000] [--json benchmarks/results/verify.json]

Every contestant runs in a process of its own, on one core, over the same generated file (one row in a hundred is bad),
then again in reverse order: each figure is the better of two. Ours does what the others do not: strict bytes,
duplicate keys, cleaning, the preference rules, duplicates within the file, Parquet with a line number, quarantine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

_ZH = "对称密码使用同一把密钥加密和解密，分组长度为一百二十八位；工作模式决定分组之间如何相互影响，随机数不得重复使用。"
_EN = ("a", "block", "cipher", "encrypts", "blocks", "of", "fixed", "size", "under", "one", "key", "and", "its", "mode")


def generate(path: Path, rows: int, *, mixed: bool = False) -> None:
    """Write DDR rows as UltraRAG does, half Chinese and half English, about 790 bytes each.

    `mixed`: both languages in every text, so that none of them has the quick path of one script.
    """
    rng = random.Random(7)  # noqa: S311 - a generator of test data

    def text(chinese: bool, chars: int) -> str:
        if mixed:
            return f"{one(True, chars // 2)} {one(False, chars // 2)}"
        return one(chinese, chars)

    def one(chinese: bool, chars: int) -> str:
        if chinese:
            start = rng.randrange(len(_ZH))
            return (_ZH[start:] + _ZH)[: chars // 2] + str(rng.randrange(10**9))
        return " ".join(rng.choices(_EN, k=chars // 6)) + f" {rng.randrange(10**9)}"

    with path.open("w", encoding="utf-8") as stream:
        for n in range(rows):
            chinese, score = n % 2 == 0, round(rng.random() / 2, 3)
            row: dict[str, Any] = {
                "id": n,
                "query": text(chinese, 48) + ("？" if chinese else "?"),
                "ground_truth": text(chinese, 40),
                "retrieval_result": [text(chinese, 66) for _ in range(3)],
                "chosen": {"text": text(chinese, 66), "temperature": 0.5, "type": "aug", "rouge_score": score + 0.4},
                "rejected": {"text": text(chinese, 66), "temperature": 0.9, "type": "raw", "rouge_score": score},
            }
            if n % 100 == 99:
                row["chosen"]["text"] = ""
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def ours_verify(source: Path, out: Path) -> int:
    """Run `ft verify`: every row is checked, duplicates included; only the report is written."""
    with (out / "report.json").open("w") as report, redirect_stdout(report):
        _ft("verify", source, "--json")
    return json.loads((out / "report.json").read_text())[0]["clean"]


def ours(source: Path, out: Path) -> int:
    """Run `ft convert`: clean rows to Parquet, the rest to the quarantine."""
    import pyarrow.parquet as pq

    _ft("convert", source, "--to", "preference", "--out", out / "records.parquet")
    assert (out / "records.parquet.quarantine.jsonl").stat().st_size
    return pq.read_metadata(out / "records.parquet").num_rows


def _ft(*arguments: str | Path) -> None:
    """Run the command line as a user does; rejected rows make it exit with 1."""
    from ft_assets.cli import main

    sys.argv = ["ft", *map(str, arguments)]
    with suppress(SystemExit):
        main()


def pydantic(source: Path, out: Path) -> int:
    """Run the usual careful script: a strict pydantic model for each line, clean rows to Parquet in batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class Answer(BaseModel):
        text: str = Field(min_length=1)
        temperature: float
        type: str
        rouge_score: float

    class Ddr(BaseModel):
        model_config = ConfigDict(extra="forbid")
        id: int
        query: str = Field(min_length=1)
        ground_truth: str
        retrieval_result: list[str]
        chosen: Answer
        rejected: Answer

    kept, rows, writer = 0, [], None
    with source.open("rb") as stream:
        for line in stream:
            try:
                row = Ddr.model_validate_json(line)
            except ValidationError:
                continue
            kept += 1
            rows.append(row.model_dump())
            if len(rows) == 10_000:
                table = pa.Table.from_pylist(rows)
                writer = writer or pq.ParquetWriter(out / "pydantic.parquet", table.schema, compression="zstd")
                writer.write_table(table)
                rows = []
    if writer:
        writer.close()
    return kept


def datasets_library(source: Path, out: Path) -> int:
    """Run `datasets.load_dataset`, a filter for empty answers, and `to_parquet`."""
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(out / "cache"))
    kept = loaded.filter(lambda row: bool(row["chosen"]["text"].strip()))
    kept.to_parquet(str(out / "datasets.parquet"))
    return len(kept)


def jsonschema(source: Path, out: Path) -> int:
    """Run pure-Python `jsonschema` without output, on a fiftieth of the rows, since it is slow."""
    from jsonschema import Draft202012Validator

    answer = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
    schema = {
        "type": "object",
        "required": ["query", "retrieval_result", "chosen", "rejected"],
        "properties": {
            "query": {"type": "string", "minLength": 1},
            "retrieval_result": {"type": "array", "items": {"type": "string"}},
            "chosen": answer,
            "rejected": answer,
        },
    }
    validator = Draft202012Validator(schema)
    with source.open("rb") as stream:
        return sum(validator.is_valid(json.loads(line)) for n, line in enumerate(stream) if n % 50 == 0)


MIXED = ("ft verify", "pydantic + pyarrow")
"""The contestants on the file whose texts mix two languages."""
CONTESTANTS: dict[str, Callable[[Path, Path], int]] = {
    "ft verify": ours_verify,
    "ft verify + convert": ours,
    "pydantic + pyarrow": pydantic,
    "datasets.load_dataset": datasets_library,
    "jsonschema (1/50)": jsonschema,
}


def run_one(name: str, source: Path, out: Path) -> dict[str, Any]:
    """Return the seconds of CPU time and the peak memory of this child process."""
    start, cpu = time.perf_counter(), time.process_time()
    kept = CONTESTANTS[name](source, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "kept": kept,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak,
    }


def measure(name: str, source: Path) -> dict[str, Any]:
    """Return the figures of one contestant, run in a fresh process on one core."""
    core = str(min(os.sched_getaffinity(0)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled, as those of the others are
    with tempfile.TemporaryDirectory() as out:
        command = [
            "taskset",
            "-c",
            core,
            sys.executable,
            __file__,
            "--child",
            name,
            "--source",
            str(source),
            "--out",
            out,
        ]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def race(contestants: Sequence[str], source: Path, rows: int) -> dict[str, dict[str, Any]]:
    """Return the better of two runs of each contestant, the second one in reverse order."""
    results: dict[str, dict[str, Any]] = {}
    for name in [*contestants, *reversed(contestants)]:
        found = measure(name, source)
        found["rows_per_minute"] = (rows // 50 if "1/50" in name else rows) / found["cpu_seconds"] * 60
        if name not in results or found["cpu_seconds"] < results[name]["cpu_seconds"]:
            results[name] = found
    return results


def main() -> None:
    """Measure all, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_one(arguments.child, arguments.source, arguments.out)))
        return
    figures: dict[str, Any] = {"rows": arguments.rows}
    with tempfile.TemporaryDirectory() as folder:
        for name, contestants in (("results", tuple(CONTESTANTS)), ("mixed", MIXED)):
            source = Path(folder) / f"{name}.jsonl"
            generate(source, arguments.rows, mixed=name == "mixed")
            size = source.stat().st_size / arguments.rows
            figures[name] = race(contestants, source, arguments.rows)
            figures.setdefault("bytes_per_row", {})[name] = size
            print(f"{name}: {arguments.rows} rows of {size:.0f} bytes, one core; M rows a minute of CPU time, peak MB")
            for contestant, found in figures[name].items():
                rate = found["rows_per_minute"] / figures[name]["ft verify"]["rows_per_minute"]
                million = found["rows_per_minute"] / 1e6
                print(f"{contestant:24s} {million:6.2f} {found['peak_mb']:8.0f} {rate:6.2f}x   kept {found['kept']}")
            source.unlink()
        # what duplicates cost: the memory of a fifth of the rows is subtracted
        source = Path(folder) / "fifth.jsonl"
        generate(source, arguments.rows // 5)
        fifth = measure("ft verify", source)["peak_mb"]
    more = arguments.rows - arguments.rows // 5
    figures["memory_bytes_per_row"] = round((figures["results"]["ft verify"]["peak_mb"] - fifth) * 2**20 / more)
    print(f"ft verify: {figures['memory_bytes_per_row']} bytes of memory a row")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
