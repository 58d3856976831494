from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ft_assets.adapters import train
from ft_assets.adapters.figures import figures_of_training
from ft_assets.config.model import DpoSettings, SftSettings
from ft_assets.graph.figures_gate import changed_figures
from resources.artifacts import Artifact, ArtifactStore
from resources.launcher import Job

from .tiny_llm import build_base, instruction, preference, publish_splits, train_job, verdict

FAST = {"epochs": 2, "global_batch_size": 4, "micro_batch_size": 2, "max_length": 256}


@dataclass
class Lab:
    """A state folder with a tiny base model and splits in it."""

    state: Path
    base: Path

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.state / "artifacts")

    def instructions(self, train: list[dict[str, Any]] | None = None) -> Artifact:
        rows = {"train": train or [instruction(n) for n in range(12)]}
        rows["validation"] = [instruction(n) for n in range(20, 24)]
        return publish_splits(
            self.store, "instruction_splits", {**rows, "test": [instruction(n) for n in range(30, 34)]}
        )

    def preferences(self, train: list[dict[str, Any]] | None = None) -> Artifact:
        rows = {"train": train or [preference(n) for n in range(12)]}
        rows["validation"] = [preference(n) for n in range(20, 24)]
        return publish_splits(self.store, "preference_splits", {**rows, "test": [preference(n) for n in range(30, 34)]})

    def verdicts(self, train: list[dict[str, Any]] | None = None) -> Artifact:
        rows = {"train": train or [verdict(n, n % 2 == 0) for n in range(12)]}
        rows["validation"] = [verdict(n, n % 2 == 0) for n in range(20, 26)]
        rows["test"] = [verdict(n, n % 2 == 0) for n in range(30, 34)]
        return publish_splits(self.store, "unpaired_preference_splits", rows)

    def sft_job(self, splits: Artifact | Sequence[Artifact], **settings: Any) -> Job:
        values = {"base_model": str(self.base), "learning_rate": 2e-2, **FAST, **settings}
        return train_job(self.state, self.store, SftSettings.model_validate(values), splits)

    def dpo_job(self, splits: Artifact | Sequence[Artifact], sft: Artifact | None, **settings: Any) -> Job:
        values = {"base_model": str(self.base), "learning_rate": 1e-3, **FAST, **settings}
        return train_job(self.state, self.store, DpoSettings.model_validate(values), splits, sft)


@pytest.fixture(autouse=True)
def figures_are_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the figures of whatever a test trains in this process with its files, as the gate does."""
    publish = train._publish

    def publish_and_compare(*arguments: Any) -> Artifact:
        published = publish(*arguments)
        store = ArtifactStore(published.path.parent.parent)
        assert changed_figures(published, figures_of_training(store, published)) == []
        return published

    monkeypatch.setattr(train, "_publish", publish_and_compare)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def lab(tmp_path: Path, tiny_base: Path) -> Lab:
    return Lab(tmp_path, tiny_base)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Lab, Artifact, Artifact]:
    """A lab in which SFT, then DPO, were trained."""
    lab = Lab(tmp_path_factory.mktemp("trained"), tiny_base)
    sft = train.main(lab.sft_job(lab.instructions()))
    lab.store.point(sft)
    dpo = train.main(lab.dpo_job(lab.preferences(), sft))
    lab.store.point(dpo)
    return lab, sft, dpo


@pytest.fixture
def refused_codes() -> Callable[[Callable[[], Any]], set[str]]:
    """The codes of the violations with which a call is refused, and the text of the refusal."""
    from expectations.violations import Refused

    def call(work: Callable[[], Any]) -> set[str]:
        with pytest.raises(Refused) as caught:
            work()
        return {violation.code for violation in caught.value.violations}

    return call


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """`with stop_after(5): train.main(job)`: the training is killed in step 5, before it can log, evaluate or save."""
    from transformers import TrainerCallback

    class Killed(Exception):
        pass

    @contextmanager
    def killed(step: int) -> Iterator[None]:
        def kill(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(TrainerCallback, "on_step_end", kill)
            yield

    return killed


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """A function that makes something happen in the middle of a training step."""
    from transformers import TrainerCallback

    def arrange(step: int, happen: Callable[[], None]) -> None:
        done: list[int] = []

        def begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step - 1 and not done:
                done.append(step)
                happen()

        monkeypatch.setattr(TrainerCallback, "on_step_begin", begin)

    return arrange
