"""Training on made data: learning curves with and without generated rows, and DPO on its own pairs, on the demo's data.

    python benchmarks/generation.py curve --work WORK    # SFT on 1 row, 25 %, 50 % and 100 % of the hand-written rows
    python benchmarks/generation.py pairs --work WORK    # DPO on hand-written and own pairs, SFT on the chosen answers
    python benchmarks/generation.py funnel --work WORK --url URL --model NAME FILE...    # your questions, your server

Everything runs through `ft run` on config.yaml (FT_CONFIG, FT_PROFILE); the environment is all that differs between two
trainings. `curve`: kbalign asks about every training passage; then each share of the hand-written rows trains twice for
the same number of steps, without generated rows and with all that were verified. The product never trains on generated
rows alone, so the curve begins at one hand-written row. `pairs`: ddr answers every training question; then one SFT
adapter is continued for as many steps by DPO on the hand-written pairs, by DPO on its own pairs, and by SFT on the
chosen answers of those. `funnel`: a prompted model at an OpenAI-compatible server asks about passages of SQuAD files
(CMRC 2018, say) and judges its own questions; nothing is trained. All models answer the same held-out questions with
their evidence; differences are paired, with 95 % bootstrap intervals.
"""

# pyright: basic
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from ft_assets.generation.jobs import VERIFIED
from ft_assets.kbalign.jobs import LONG, RECORDS, SHORT
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import read_rows

RESULTS = Path(__file__).parent / "results/generation.json"
SHARES = (0.25, 1.0, 0.5, 0.0)
"""In the order of what they show: each takes two trainings, and results are written after each share."""
PASSAGES = 60
"""That kbalign asks about: a third of the training passages."""
QUESTIONS = 140
"""That ddr answers: half of the training questions."""
METRICS = ("exact_match", "f1")
FUNNEL_PASSAGES = 100
"""That a model at a server asks about."""
DPO_STEPS = 12
SFT_RATE = 1e-4
"""Of SFT that continues an adapter: a fifth of the rate that the demo begins with."""

REFUSED = "refused by a gate before its answers were compared"

Scores = dict[str, dict[str, float]]
"""For each metric: record id -> score."""


def main() -> int:
    """Run one part. Return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["curve", "pairs", "funnel"])
    parser.add_argument("files", nargs="*", help="funnel: SQuAD files, questions with their passages")
    parser.add_argument("--work", type=Path, required=True, help="the state is written here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=SHARES,
        help="curve: of the hand-written rows; the results have these points alone",
    )
    parser.add_argument("--url", help="funnel: an OpenAI-compatible endpoint, up to /v1")
    parser.add_argument("--model", help="funnel: the name of its model")
    parser.add_argument("--context", type=int, default=2048, help="funnel: tokens that it reads")
    options = parser.parse_intermixed_args()  # FILE... come last
    project = Project(options.work / "state")
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "curve": lambda: curve(project, options.shares),
        "pairs": lambda: pairs(project),
        "funnel": lambda: funnel(project, options),
    }
    for results in parts[options.part]():
        known = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else {}
        text = json.dumps(known | {options.part: results}, indent=2, ensure_ascii=False)
        options.out.write_text(text + "\n", "utf-8")
        print(text)
    return 0


class Project:
    """The project of FT_CONFIG with a state of its own."""

    def __init__(self, state: Path) -> None:
        self.store = ArtifactStore(state / "artifacts")
        self.environment = {"FT_STATE_DIR": str(state)}

    def run(self, asset: str, **settings: Any) -> Artifact:
        """Make an asset and all that it needs, with these keys of the configuration set. Return its current version."""
        keys = {f"FT__{key}": json.dumps(value) for key, value in settings.items()}
        print(f"== {asset} {keys}", file=sys.stderr)
        start = time.monotonic()
        command = [sys.executable, "-m", "ft_assets.cli", "run", "--asset", asset, "--upstream"]
        subprocess.run(command, env=os.environ | self.environment | keys, check=True)
        print(f"== {time.monotonic() - start:.0f} s", file=sys.stderr)
        return self.store.require(asset)

    def try_to_evaluate(self, model: str, **settings: Any) -> Scores | None:
        """Train as these keys want it, and return the scores of `model` on the held-out questions; None if a gate
        refuses the training."""
        return self.scores(model) if self.is_made("adapter_evaluation", **settings) else None

    def is_made(self, asset: str, **settings: Any) -> bool:
        """Make an asset as `run` does. Return whether no gate refused it, and nothing failed."""
        try:
            self.run(asset, **settings)
        except subprocess.CalledProcessError:
            return False
        return True

    def scores(self, model: str) -> Scores:
        """Return the scores of `model` in the newest evaluation."""
        found = self.store.require("adapter_evaluation")
        rows = list(read_rows(found.file("answers.parquet"), ["record_id", *(f"{m}_{model}" for m in METRICS)]))
        return {metric: {row["record_id"]: float(row[f"{metric}_{model}"]) for row in rows} for metric in METRICS}


def curve(project: Project, shares: Sequence[float] = SHARES) -> Iterator[dict[str, Any]]:
    """Give the scores of SFT for each share of the hand-written rows, without and with generated rows: after each."""
    asked = {"KBALIGN__MAX_PASSAGES": PASSAGES}
    verified = project.run("kbalign_verified", DPO=None, **asked)
    hand_written = project.store.require("instruction_splits").summary
    points: list[dict[str, Any]] = []
    for share in shares:
        rows = max(1, round(share * int(hand_written["train"])))
        mix = [{"files": "*", "max_rows": rows}]
        generated = {"SFT__GENERATED": True, "SFT__GENERATED_SHARE": 0.99}
        without = project.try_to_evaluate("sft", DPO=None, SFT__MIX=mix, **asked)
        added = project.try_to_evaluate("sft", DPO=None, SFT__MIX=mix, **asked, **generated)
        points.append(
            {
                "hand_written_rows": rows,
                "without": summarise(without) if without else REFUSED,
                "with_generated": summarise(added) if added else REFUSED,
                "difference": compare(added, without) if added and without else None,
            }
        )
        yield {"verified": verified.summary, "points": points}


def pairs(project: Project) -> Iterator[dict[str, Any]]:
    """Give the scores of SFT, and of what continues it for as many steps on pairs of two kinds: after each."""
    asked = {"DDR__MAX_QUESTIONS": QUESTIONS}
    preferences = project.run("ddr_preferences", **asked)
    own = {"DPO__GENERATED": True, "DPO__MIX": [{"files": "*", "repeat": 0}]}
    ways: dict[str, dict[str, Any]] = {
        "DPO on its own pairs": own,
        "DPO on hand-written pairs": {},
        "SFT on the chosen answers of its own pairs": own | {"DPO__LOSS": "sft"},
        "the same, at the rate of SFT": own | {"DPO__LOSS": "sft", "DPO__LEARNING_RATE": SFT_RATE},
        "DPO on its own pairs, with the loss of SFT": own | {"DPO__SFT_WEIGHT": 1},
    }
    sft: Scores = {}
    models: dict[str, Any] = {}
    for name, keys in ways.items():
        scores = project.try_to_evaluate("dpo", DPO__MAX_STEPS=DPO_STEPS, **asked, **keys)
        if scores is None:
            models[name] = REFUSED
            continue
        sft = sft or project.scores("sft")
        models[name] = summarise(scores) | {"minus_sft": compare(scores, sft)}
        yield {"pairs": preferences.summary, "SFT": summarise(sft), "models": models}


def funnel(project: Project, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Give the questions that are left after each step, of passages and hand-written questions in SQuAD's form."""
    corpus, rows = (options.work / name for name in ("corpus.jsonl", "rows.jsonl"))
    with corpus.open("w", encoding="utf-8") as passages, rows.open("w", encoding="utf-8") as questions:
        for article in [one for name in options.files for one in json.loads(Path(name).read_text("utf-8"))["data"]]:
            for number, paragraph in enumerate(article["paragraphs"]):
                name = paragraph.get("id") or f"{article['title']}-{number}"
                passage = {"_id": name, "title": article.get("title", ""), "text": paragraph["context"]}
                passages.write(json.dumps(passage, ensure_ascii=False) + "\n")
                for one in paragraph["qas"]:
                    row = {"question": one["question"], "answer": one["answers"][0]["text"], "evidence": [name]}
                    questions.write(json.dumps(row, ensure_ascii=False) + "\n")
    endpoint = {"kind": "endpoint", "url": options.url, "model": options.model, "context_tokens": options.context}
    settings: dict[str, Any] = {
        "CORPUS": {"files": [str(corpus.resolve())], "glossary": []},
        "DATASETS__INSTRUCTION__FILES": [str(rows.resolve())],
        "DATASETS__PREFERENCE__FILES": [],
        "DATASETS__RETRIEVAL": {"queries": [], "qrels": []},
        "SFT": None,
        "DPO": None,
        "DDR": None,
        "EMBEDDING": None,
        "GENERATOR": endpoint,
        "DATASETS__SPLIT": {"key": "funnel"},
        "KBALIGN": {"author": "prompted", "judge": "generator", "max_passages": FUNNEL_PASSAGES},
    }
    passed = project.is_made(VERIFIED, **settings)
    made = {name: project.store.require(name).summary for name in (SHORT, LONG, RECORDS, VERIFIED)}
    yield {"model": options.model, "passed_its_gates": passed} | made


def summarise(scores: Scores) -> dict[str, Any]:
    return {metric: _interval(bootstrap(list(scores[metric].values()))) for metric in METRICS} | {
        "questions": len(scores["f1"])
    }


def compare(after: Scores, before: Scores) -> dict[str, Any]:
    """Return the paired differences on the questions of both."""
    shared = [record for record in after["f1"] if record in before["f1"]]
    return {
        metric: _interval(paired_bootstrap([after[metric][r] for r in shared], [before[metric][r] for r in shared]))
        for metric in METRICS
    }


def _interval(found: Any) -> Sequence[float]:
    return [round(value, 4) for value in (found.mean, found.low, found.high)]


if __name__ == "__main__":
    sys.exit(main())
