from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MINIMUM = {"en": (70, 400, 250), "zh": (25, 150, 100)}


def test_generated_files_are_what_the_script_writes(project: Path):
    done = subprocess.run([sys.executable, "examples/build.py", "--check"], cwd=project, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("language", MINIMUM)
def test_every_question_is_answered_by_its_evidence(project: Path, language: str):
    folder = project / "examples" / language
    questions = [json.loads(line) for line in (folder / "questions.jsonl").read_text("utf-8").splitlines()]
    documents = {path.stem: path.read_text("utf-8") for path in (folder / "corpus").glob("*.md")}
    preferences = (folder / "preferences.jsonl").read_text("utf-8").splitlines()
    least_documents, least_questions, least_preferences = MINIMUM[language]
    assert len(documents) >= least_documents
    assert len(questions) >= least_questions
    assert len(preferences) >= least_preferences
    assert len({q["id"] for q in questions}) == len(questions)
    for question in questions:
        evidence = question["evidence"]
        sections = documents[evidence["document"]].split("\n## ")
        (section,) = [s for s in sections if s.partition("\n")[0].strip() == evidence["section"]]
        assert evidence["quote"] in section, question["id"]
        assert question["answer"] in evidence["quote"], question["id"]
        wrong = [text.casefold() for text in question["wrong"]]
        assert question["answer"].casefold() not in wrong, question["id"]
