"""Splits: 200,000 questions with families of near-duplicates, assigned by the platform and by other tools.

    python benchmarks/splits.py [--rows 200000] [--out benchmarks/results/splits.json]
    python benchmarks/splits.py --growth 100000 400000    # results/splits_growth.json

Each way runs in a process of its own, over the same generated rows (half Chinese, half English; a third of them edits
or rephrasings of others). Reported: seconds to assign all rows; peak memory of the process, and the part that assigning
added; near-duplicates in different splits (counted by comparing all pairs of each generated family); and the number of
rows of the first half that change their split when the second half is added. MinHashLSH comes with
`pip install datasketch`; without it that way is left out. Near-duplicate: Jaccard of character 3-grams of 0.8 or more.

`--growth` gives CPU seconds and peak memory of dealing these numbers of rows, of adding one more per cent, of comparing
all of them as the gate does, and of MinHash bands in its place, each in a process of its own.
"""
# pyright: basic
# datasets, datasketch and rensa have no type information.

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import Assignment, RecordKeys, assign_splits, cluster_key, question_form
from ft_assets.datasets.near_duplicates import Families, _grams, _mix, jaccard, near_pairs, three_grams

SETTINGS = SplitSettings()
PERMUTATIONS = 128
BANDS, BAND_ROWS = 20, 5
"""MinHash bands that propose 99.96 % of the pairs whose similarity is 0.8: 1 - (1 - 0.8**5)**20."""
HAN = "".join(chr(0x4E00 + 7 * n) for n in range(1500))
FRAMES = ("请问{}吗？", "{}呢？", "请说明：{}", "Please explain {}", "{}, in short", "{}?")

Splits = dict[str, str]
"""Row id -> split."""


def generate(rows: int) -> list[tuple[str, int, str]]:
    """Return (id, family, question) in random order."""
    dice = random.Random(0)  # noqa: S311
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(3, 10))) for _ in range(5000)]
    made: list[tuple[str, int, str]] = []
    family = 0
    while len(made) < rows:
        family += 1
        # the most frequent words and characters come up far more often than the rest, as in language
        if dice.random() < 0.5:
            text = "".join(HAN[int(len(HAN) * dice.random() ** 2)] for _ in range(dice.randint(12, 60)))
        else:
            text = " ".join(words[int(len(words) * dice.random() ** 2)] for _ in range(dice.randint(6, 16)))
        texts = [text]
        for _ in range(dice.choice([0, 0, 0, 0, 1, 1, 2, 4])):
            at = dice.randrange(len(text))
            edited = text[:at] + dice.choice(HAN) + text[at + dice.randrange(2) :]
            texts.append(dice.choice(FRAMES).format(edited if dice.random() < 0.5 else text))
        made += [(f"r{len(made) + n:06}", family, question) for n, question in enumerate(texts)]
    made = made[:rows]
    dice.shuffle(made)
    return made


def assign_by_platform(rows: Sequence[tuple[str, str]]) -> tuple[Splits, Callable[[], Splits]]:
    """Assign all rows with `assign_splits`; the second result assigns the first half, then adds the rest."""

    def cards(some: Sequence[tuple[str, str]]) -> list[RecordKeys]:
        return [RecordKeys("instruction", record_id, (cluster_key(form),), form) for record_id, form in some]

    def before() -> Splits:
        known = assign_splits(cards(rows[: len(rows) // 2]), {}, SETTINGS).by_id
        after = assign_splits(cards(rows), known, SETTINGS)
        moved = known.keys() & (after.by_id.keys() | {bridge.record.id for bridge in after.bridges})
        return {row: "moved" if (dataset, row) in moved else splits[row] for dataset, row in known}

    splits = {row: one.split for (_, row), one in assign_splits(cards(rows), {}, SETTINGS).by_id.items()}
    return splits, before


def assign_by_row_hash(rows: Sequence[tuple[str, str]]) -> tuple[Splits, Callable[[], Splits]]:
    """Assign each row by a hash of its id."""

    def assign(some: Sequence[tuple[str, str]]) -> Splits:
        return {record_id: _choose(record_id) for record_id, _ in some}

    return assign(rows), lambda: assign(rows[: len(rows) // 2])


def assign_by_train_test_split(rows: Sequence[tuple[str, str]]) -> tuple[Splits, Callable[[], Splits]]:
    """Assign with `datasets.Dataset.train_test_split(seed=42)`, called twice for three splits."""
    from datasets import Dataset

    def assign(some: Sequence[tuple[str, str]]) -> Splits:
        table = Dataset.from_dict({"id": [row for row, _ in some], "question": [form for _, form in some]})
        outer = table.train_test_split(test_size=SETTINGS.test, seed=42)
        inner = outer["train"].train_test_split(test_size=SETTINGS.validation / (1 - SETTINGS.test), seed=42)
        parts = {"train": inner["train"], "validation": inner["test"], "test": outer["test"]}
        splits: Splits = {}
        for split, part in parts.items():
            splits |= dict.fromkeys(part["id"], split)
        return splits

    return assign(rows), lambda: assign(rows[: len(rows) // 2])


def assign_by_minhash_lsh(rows: Sequence[tuple[str, str]]) -> tuple[Splits, Callable[[], Splits]]:
    """Assign with datasketch: candidates of MinHashLSH are one family, assigned by a hash of its smallest id."""
    from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports]

    index = MinHashLSH(threshold=SETTINGS.near_duplicate, num_perm=PERMUTATIONS)
    links: list[tuple[int, int]] = []
    grams = ([gram.encode() for gram in three_grams(form)] for _, form in rows)
    for number, sketch in enumerate(MinHash.generator(grams, num_perm=PERMUTATIONS)):
        links += [(number, int(other)) for other in index.query(sketch)]
        index.insert(str(number), sketch)
    return _assign_clusters(rows, links)


def assign_by_rensa(rows: Sequence[tuple[str, str]]) -> tuple[Splits, Callable[[], Splits]]:
    """Assign with rensa: RMinHashLSH at the threshold with 32 bands; the rest as with MinHashLSH."""
    from rensa.rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(SETTINGS.near_duplicate, PERMUTATIONS, 32)
    links: list[tuple[int, int]] = []
    sketches = RMinHash.from_token_sets([list(three_grams(form)) for _, form in rows], PERMUTATIONS, 42)
    for number, sketch in enumerate(sketches):
        links += [(number, int(other)) for other in index.query(sketch)]
        index.insert(number, sketch)
    return _assign_clusters(rows, links)


def _assign_clusters(
    rows: Sequence[tuple[str, str]], links: Sequence[tuple[int, int]]
) -> tuple[Splits, Callable[[], Splits]]:
    def assign(count: int) -> Splits:
        families = Families(count)
        for left, right in links:
            if max(left, right) < count:
                families.join(left, right)
        smallest: dict[int, str] = {}
        for number in range(count):
            root = families.root(number)
            smallest[root] = min(rows[number][0], smallest.get(root, "~"))
        return {rows[number][0]: _choose(smallest[families.root(number)]) for number in range(count)}

    return assign(len(rows)), lambda: assign(len(rows) // 2)


def _choose(name: str) -> str:
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
    if number < SETTINGS.train:
        return "train"
    return "validation" if number < SETTINGS.train + SETTINGS.validation else "test"


WAYS = {
    "ft-assets": assign_by_platform,
    "hash of the row": assign_by_row_hash,
    "datasets.train_test_split": assign_by_train_test_split,
    "datasketch MinHashLSH": assign_by_minhash_lsh,
    "rensa RMinHashLSH": assign_by_rensa,
}
NEEDS = {"datasketch MinHashLSH": "datasketch", "rensa RMinHashLSH": "rensa", "datasets.train_test_split": "datasets"}


def measure(way: str, count: int) -> dict[str, Any]:
    """Return the figures of one way, run in this process."""
    made = generate(count)
    rows = [(record_id, question_form(question)) for record_id, _, question in made]
    if module := NEEDS.get(way):
        __import__(module)
    at_rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    splits, before = WAYS[way](rows)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    families: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for (record_id, family, _), (_, form) in zip(made, rows, strict=True):
        families[family].append((record_id, form))
    pairs = chain.from_iterable(combinations(members, 2) for members in families.values())
    twins = [(left[0], right[0]) for left, right in pairs if jaccard(left[1], right[1]) >= SETTINGS.near_duplicate]
    return {
        "way": way,
        "rows": count,
        "seconds": round(seconds, 2),
        "peak_mib": round(peak / 1024),
        "added_mib": round((peak - at_rest) / 1024),
        "near_duplicate_pairs": len(twins),
        "across_splits": sum(splits[left] != splits[right] for left, right in twins),
        "moved_by_growth": sum(splits[row] != split for row, split in before().items()),
        "test_share": round(sum(split == "test" for split in splits.values()) / count, 4),
    }


def banded_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int]]:
    """Return the links between texts that share a MinHash band and are near-duplicates by the exact rule."""
    import numpy as np

    seeds = [np.uint64(0x9E3779B97F4A7C15 * (2 * n + 1) % 2**64) for n in range(BANDS * BAND_ROWS)]
    signatures = np.zeros((BANDS, len(texts)), np.uint64)
    for start in range(0, len(texts), 2**14):
        grams, owners = _grams(texts[start : start + 2**14])
        starts = np.flatnonzero(np.diff(owners, prepend=owners[:1] + np.uint64(1)))
        for n, seed in enumerate(seeds):
            smallest = np.minimum.reduceat(_mix(grams * seed), starts)
            part = signatures[n // BAND_ROWS, start : start + len(starts)]
            part[:] = _mix(part ^ smallest)
    families, links = Families(len(texts)), list[tuple[int, int]]()
    for band in signatures:
        order = np.argsort(band)
        equal = np.flatnonzero(band[order][1:] == band[order][:-1])
        # of a bucket each text is compared with the next: a chain is enough where all are alike, and cheap elsewhere
        neighbours: Iterator[tuple[int, int]] = zip(order[equal].tolist(), order[equal + 1].tolist(), strict=True)
        for left, right in neighbours:
            if families.root(left) != families.root(right) and jaccard(texts[left], texts[right]) >= threshold:
                families.join(left, right)
                links.append((left, right))
    return links


def measure_growth(step: str, count: int, ledger: Path) -> dict[str, Any]:
    """Return the figures of one step, run in this process. `ledger` has the assignments of the step `deal`."""
    rows = [(record_id, question_form(question)) for record_id, _, question in generate(count * 101 // 100)]
    if step in ("deal", "add"):
        cards = [RecordKeys("instruction", record_id, (cluster_key(form),), form) for record_id, form in rows]
        lines = ledger.read_text("utf-8").splitlines() if step == "add" else ()
        known = {("instruction", record): Assignment(*rest) for record, *rest in map(json.loads, lines)}
    texts = sorted({form for _, form in rows[:count]})
    at_rest, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if step == "deal":
        made = assign_splits(cards[:count], {}, SETTINGS).by_id
        found = len(made)
    elif step == "add":
        found = len(assign_splits(cards, known, SETTINGS).by_id)
    elif step == "compare":
        found = sum(1 for _ in near_pairs(texts, SETTINGS.near_duplicate))
    else:
        found = len(banded_pairs(texts, SETTINGS.near_duplicate))
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if step == "deal":
        lines = (json.dumps([record, one.cluster, one.split]) + "\n" for (_, record), one in made.items())
        ledger.write_text("".join(lines), "utf-8")
    return {
        "step": step,
        "rows": count,
        "cpu_seconds": round(seconds, 2),
        "peak_mb": round(peak / 1000),
        "added_mb": round((peak - at_rest) / 1000),
        "found": found,
    }


def measure_all_growth(counts: Sequence[int], out: Path) -> None:
    """Write and print the figures of all steps for each number of rows."""
    results: list[dict[str, Any]] = []
    print(f"{'step':<10}{'rows':>10}{'CPU s':>9}{'peak MB':>10}{'added':>8}{'found':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for count, step in product(counts, ("deal", "add", "compare", "bands")):
            command = [sys.executable, __file__, "--step", step, "--rows", str(count), "--ledger", f"{folder}/ledger"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(one := json.loads(done.stdout.splitlines()[-1]))
            print(
                f"{step:<10}{count:>10}{one['cpu_seconds']:>9.1f}{one['peak_mb']:>10}{one['added_mb']:>8}{one['found']:>10}",
                flush=True,
            )
    out.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/splits.json")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--growth", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--step", choices=("deal", "add", "compare", "bands"), help=argparse.SUPPRESS)
    parser.add_argument("--ledger", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measure_growth(arguments.step, arguments.rows, arguments.ledger)))
        return
    if arguments.growth:
        measure_all_growth(arguments.growth, arguments.out.with_stem(f"{arguments.out.stem}_growth"))
        return
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.rows)))
        return
    results: list[dict[str, Any]] = []
    print(f"{'way':<27}{'seconds':>9}{'ratio':>8}{'peak MiB':>10}{'added':>8}{'across splits':>16}{'moved':>8}")
    for way in WAYS:
        if way in NEEDS and find_spec(NEEDS[way]) is None:
            print(f"{way:<27} {NEEDS[way]} is not installed")
            continue
        command = [sys.executable, __file__, "--one", way, "--rows", str(arguments.rows)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        one = json.loads(done.stdout.splitlines()[-1])
        results.append(one)
        ratio = one["seconds"] / max(results[0]["seconds"], 0.01)
        across = f"{one['across_splits']} / {one['near_duplicate_pairs']}"
        print(
            f"{way:<27}{one['seconds']:>9.1f}{ratio:>8.2f}{one['peak_mib']:>10}{one['added_mib']:>8}"
            f"{across:>16}{one['moved_by_growth']:>8}",
            flush=True,
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
