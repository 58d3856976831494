"""Writes the data files of the examples from what people wrote: corpus/*.md and questions.jsonl.

    python examples/build.py          # rewrite instructions*.json[l], preferences.jsonl and retrieval/
    python examples/build.py --check  # exit 1 if a file is not what this script writes

Standard library only. The *_from_old_tool.* files are written by hand and are broken on purpose: rows of the kinds
that real exports hold, so that the quarantine has something to show.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale: list[Path] = []
    for language in LANGUAGES:
        for path, text in build(HERE / language).items():
            if check and (not path.is_file() or path.read_text("utf-8") != text):
                stale.append(path)
            elif not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
    for path in stale:
        print(f"{path.relative_to(HERE)} is stale: run python examples/build.py")
    return int(bool(stale))


def build(folder: Path) -> dict[Path, str]:
    """Every generated file of one language and its content."""
    sections = read_sections(folder / "corpus")
    questions = [json.loads(line) for line in (folder / "questions.jsonl").read_text("utf-8").splitlines()]
    plain = [alpaca(q, sections) for q in questions if "reasoning" not in q]
    thinking = [alpaca(q, sections) for q in questions if "reasoning" in q]
    preferences = [ddr(q, sections) for q in questions if _number(q["id"]) % 3]
    corpus = [{"_id": pid, "title": s["title"], "text": s["text"]} for pid, s in sections.items()]
    queries = [{"_id": q["id"], "text": q["question"]} for q in questions]
    qrels = ["query-id\tcorpus-id\tscore", *(f"{q['id']}\t{passage_id(q)}\t1" for q in questions)]
    return {
        folder / "instructions.json": json.dumps(plain, ensure_ascii=False, indent=1) + "\n",
        folder / "instructions_thinking.jsonl": jsonl(thinking),
        folder / "preferences.jsonl": jsonl(preferences),
        folder / "retrieval/corpus.jsonl": jsonl(corpus),
        folder / "retrieval/queries.jsonl": jsonl(queries),
        folder / "retrieval/qrels/all.tsv": "\n".join(qrels) + "\n",
    }


def read_sections(corpus: Path) -> dict[str, dict[str, str]]:
    """`document#section-slug` -> title, section, text and document, in the order of the files."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(corpus.glob("*.md")):
        parts = re.split(r"^## (.+)$", path.read_text("utf-8"), flags=re.MULTILINE)
        title = parts[0].strip().removeprefix("# ")
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if text.strip():
                key = f"{path.stem}#{slug(name)}"
                found[key] = {"document": path.stem, "title": title, "section": name.strip(), "text": text.strip()}
    return found


def slug(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.strip().casefold()).strip("-")


def passage_id(question: dict[str, Any]) -> str:
    return f"{question['evidence']['document']}#{slug(question['evidence']['section'])}"


def content(section: dict[str, str]) -> str:
    return f"{section['title']} > {section['section']}\n{section['text']}"


def context(question: dict[str, Any], sections: dict[str, dict[str, str]]) -> list[str]:
    """The evidence, and for every other question one more section of the same document, in either order."""
    evidence = sections[passage_id(question)]
    others = [s for s in sections.values() if s["document"] == evidence["document"] and s is not evidence]
    number = _number(question["id"])
    if number % 2 or not others:
        return [content(evidence)]
    pair = [content(evidence), content(others[number % len(others)])]
    return pair if number % 4 else pair[::-1]


def alpaca(question: dict[str, Any], sections: dict[str, dict[str, str]]) -> dict[str, Any]:
    answer = question["answer"]
    if "reasoning" in question:
        answer = f"<think>\n{question['reasoning']}\n</think>\n\n{answer}"
    return {
        "id": question["id"],
        "instruction": question["question"],
        "input": "\n".join(context(question, sections)),
        "output": answer,
        "system": "",
        "difficulty": question["difficulty"],
        "evidence": [passage_id(question)],
    }


def ddr(question: dict[str, Any], sections: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A pair as a DDR producer writes it: scored candidates with and without passages, the best and the worst."""
    texts = [question["answer"], *question["wrong"]]
    candidates = [
        {
            "text": text,
            "temperature": 0.5 + 0.1 * index,
            "type": "aug" if index == 0 else "raw",
            "rouge_score": round(rouge_l(text, question["answer"]), 4),
        }
        for index, text in enumerate(texts)
    ]
    return {
        "id": question["id"],
        "query": question["question"],
        "ground_truth": question["answer"],
        "keypoints": f"1. {question['evidence']['quote']}",
        "retrieval_result": context(question, sections),
        "evidence": [passage_id(question)],
        "context": candidates,
        "chosen": candidates[0],
        "rejected": min(candidates[1:], key=lambda candidate: float(candidate["rouge_score"])),
    }


def rouge_l(candidate: str, reference: str) -> float:
    """F1 of the longest common subsequence, character by character."""
    row = [0] * (len(reference) + 1)
    for left in candidate:
        above = 0
        for index, right in enumerate(reference, start=1):
            above, row[index] = row[index], above + 1 if left == right else max(row[index], row[index - 1])
    return 2 * row[-1] / (len(candidate) + len(reference))


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _number(identifier: str) -> int:
    """A steady number from an id, for choices that must not change from run to run."""
    return hashlib.sha256(identifier.encode()).digest()[0]


if __name__ == "__main__":
    sys.exit(main())
