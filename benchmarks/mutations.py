"""Read mutated rows of every dialect, and count what breaks a promise: a crash, a lost row, a key without a mention.

    python benchmarks/mutations.py [--rows 250000] [--seed 7] [--json benchmarks/results/mutations.json]

The rows are those of docs/samples.yaml. Each is changed one to three times: a key more, a key less, a key misspelt, a
value of another type, an empty or odd text, a value twice as deep. A file holds rows of one dialect, the first one
unchanged.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from expectations.formats.registry import DIALECTS  # noqa: E402 - the path comes first
from expectations.reading import Rejected  # noqa: E402
from expectations.records.read import read_records  # noqa: E402
from expectations.verify import verify_file  # noqa: E402
from expectations.yaml_text import load_yaml  # noqa: E402

UNKNOWN = "zz_note"
"""The start of keys that no dialect knows."""
ROWS_OF_A_FILE = 100
_TEXTS = (
    *("", " ", "\n", "\t", '"', "\u200b", "nan", "None", "null", "密" * 500, "x" * 5000, "e\u0301", "ab\r\ncd"),
    *("\ufffd", "a\u202eb", "a\x00b", "\ud83d\ude00", "fÃ¤hrt", "\x1b[31mred", "::error::x"),
    *("<think>", "</think>", "<think>a", "<|im_end|>", "<image>", "{question}", "[object Object]"),
    *("Q: a\nA: b", "Human: a\n\nAssistant: b"),
)
_NUMBERS: tuple[Any, ...] = (True, False, 0, 1, -1, 0.5, 1e308, 10**30)
_VALUES: tuple[Any, ...] = (None, *_NUMBERS, "", "1", [], {}, [None], [[]], [{}], [1], ["a"], {"a": 1})
_MEANINGFUL = (
    *("label", "weight", "train", "tool_calls", "images", "rejected"),
    *("system", "thinking", "context", "margin", "id", "metadata"),
)
_OPEN = ("相关法规", "kind")
"""Keys of rows that hold statutes by name, and a remark on how the row was made."""


@dataclass
class Broken:
    """Promises that were broken, and the number of rows that were tried."""

    rows: int = 0
    clean: int = 0
    crashes: list[str] = field(default_factory=list[str])
    lost: list[str] = field(default_factory=list[str])
    silent: list[str] = field(default_factory=list[str])
    """Unknown keys of rows that were kept, without a mention."""

    @property
    def all(self) -> list[str]:
        """Every broken promise."""
        return self.crashes + self.lost + self.silent


def samples() -> dict[str, tuple[str, list[Any]]]:
    """Return dialect -> (name of the file, rows): a row of a table is its line."""
    entries = cast("dict[str, dict[str, str]]", load_yaml((HERE.parent / "docs/samples.yaml").read_text("utf-8")))
    found: dict[str, tuple[str, list[Any]]] = {}
    for name, entry in entries.items():
        file, text = entry.get("file", "rows.jsonl"), entry["text"]
        if not file.endswith((".json", ".jsonl")):
            found[name] = file, text.splitlines()
            continue
        rows = [json.loads(line) for line in text.splitlines()]
        found[name] = "rows.jsonl", rows[0] if isinstance(rows[0], list) else rows
    return found


def mutate(row: Any, rng: random.Random) -> Any:
    """Return a changed copy of a row: a JSON value, or the line of a table."""
    if isinstance(row, str):
        return _mutate_line(row, rng)
    changed = _numbered(row, rng.randrange(10**9))
    for _ in range(rng.randint(1, 3)):
        changed = _mutate_once(changed, rng)
    return changed


def _numbered(value: Any, number: int, key: str = "") -> Any:
    """Return a copy of a row whose ids and longer texts are its own, so that it repeats no other row."""
    if isinstance(value, dict):
        return {name: _numbered(inner, number, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_numbered(inner, number, key) for inner in value]
    if key.endswith("id") and isinstance(value, str | int):
        return f"{value}{number}" if isinstance(value, str) else number
    return value.replace("SM4", f"SM4-{number}") if isinstance(value, str) else value


def _mutate_line(line: str, rng: random.Random) -> str:
    cells = line.split("\t")
    at = rng.randrange(len(cells))
    odd = rng.choice(_TEXTS).translate({ord(character): " " for character in '\n\r"'})  # else it is another line
    choice = rng.randrange(4)
    if choice == 0:
        cells[at] = odd
    elif choice == 1:
        del cells[at]
    elif choice == 2:
        cells.insert(at, odd)
    else:
        cells[at] += odd
    return "\t".join(cells)


def _mutate_once(row: Any, rng: random.Random) -> Any:
    places = list(_places(row))
    if rng.random() < 0.02 or not places:
        return copy.deepcopy(rng.choice(_VALUES))
    holder, key = rng.choice(places)
    choice = rng.randrange(7)
    if choice == 0 and isinstance(holder, dict):
        holder[f"{UNKNOWN}_{rng.randrange(9)}"] = copy.deepcopy(rng.choice((*_VALUES, *_TEXTS)))
    elif choice == 1 and isinstance(holder, dict):
        holder[rng.choice(_MEANINGFUL)] = copy.deepcopy(rng.choice((*_VALUES, *_TEXTS)))
    elif choice == 2:
        del holder[key]
    elif choice == 3 and isinstance(holder, dict):
        at = rng.randrange(len(key) + 1)
        holder[key[:at] + rng.choice("aex_") + key[at:]] = holder.pop(key)
    elif choice == 4:
        holder[key] = copy.deepcopy(rng.choice(_VALUES))
    elif choice == 5:
        holder[key] = rng.choice(([holder[key]], {"text": holder[key]}, [holder[key], holder[key]]))
    else:
        holder[key] = rng.choice(_TEXTS)
    return row


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (object or list, key or index) of every value below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _unknown_keys(value: Any) -> set[str]:
    """Return the unknown keys of a row that have a value; a null is none."""
    if isinstance(value, dict):  # where keys are content, or nothing below the key is used
        value = {key: inner for key, inner in value.items() if key not in _OPEN}
    places = [(holder, key) for holder, key in _places(value) if isinstance(holder, dict)]
    return {key for holder, key in places if key.startswith(UNKNOWN) and holder[key] is not None}


def try_file(dialect: str, name: str, rows: list[Any], folder: Path, broken: Broken) -> None:
    """Write rows to a file, read it as `ft verify` and as a run does, and note every broken promise."""
    path = folder / Path(name).name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), "utf-8", errors="surrogatepass")
    broken.rows += len(rows)
    try:
        report = verify_file(path, dialect)
        format = next(one.format.name for one in DIALECTS if one.name == dialect)
        results = list(read_records(path, format))
    except Exception as error:  # any exception is the crash that is searched for
        broken.crashes.append(f"{dialect}: {error!r}")
        return
    broken.clean += report.clean
    if report.unreadable:
        return
    seen = Counter(result.line if isinstance(result, Rejected) else result.line_no for result in results)
    if report.clean + sum(report.counts.values()) != report.rows:
        broken.lost.append(f"{dialect}: {report.rows} rows are {report.clean} clean and {report.counts}")
    is_table = isinstance(rows[0], str)  # its first line may be a header
    for n, line in enumerate(lines, 1):
        if line.strip() and n not in seen and not (n == 1 and is_table):
            broken.lost.append(f"{dialect}: {line[:300]}")
    rejected = {result.line for result in results if isinstance(result, Rejected)}
    for n, row in enumerate(rows, 1):
        for key in _unknown_keys(row):
            if n not in rejected and not any(name.endswith(key) for name in report.not_read):
                broken.silent.append(f"{dialect}: `{key}` in {lines[n - 1][:300]}")


def run(rows: int, seed: int) -> Broken:
    """Try about `rows` rows, equally many of every dialect."""
    broken = Broken()
    rng = random.Random(seed)  # noqa: S311 - a generator of test data
    known = samples()
    with tempfile.TemporaryDirectory() as folder:
        while broken.rows < rows:
            for dialect, (name, originals) in known.items():
                size = min(ROWS_OF_A_FILE, max(2, rows // len(known)))
                changed = [
                    mutate(rng.choice(originals[1:] if name.endswith(".csv") else originals), rng) for _ in range(size)
                ]
                try_file(dialect, name, [*originals, *changed], Path(folder), broken)
    return broken


def main() -> None:
    """Print the counts, and each kind of broken promise with its first examples; exit 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, dest="target")
    options = parser.parse_args()
    start = time.monotonic()
    broken = run(options.rows, options.seed)
    figures = {
        "rows": broken.rows,
        "dialects": len(DIALECTS),
        "seed": options.seed,
        "clean": broken.clean,
        "crashes": len(broken.crashes),
        "lost_rows": len(broken.lost),
        "keys_without_a_mention": len(broken.silent),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(figures, indent=2))
    for kind in (broken.crashes, broken.lost, broken.silent):
        for example in kind[:20]:
            print(ascii(example))
    if options.target:
        options.target.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(bool(broken.all))


if __name__ == "__main__":
    main()
