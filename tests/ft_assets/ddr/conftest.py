"""A small project without an encoder: a language model of 100,000 weights that learns its few rows by heart."""

# the events of a run are open
# pyright: basic
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_assets.config.load import load_settings
from ft_assets.definitions import build_defs
from resources.artifacts import Artifact
from resources.dagster_resources import ArtifactsResource
from tests.ft_assets.adapters.tiny_llm import build_base

LAMPS = [
    *("amber", "basil", "cedar", "dahlia", "elder", "fern", "ginger", "hazel"),
    *("iris", "juniper", "kelp", "laurel", "maple", "nettle", "olive"),
]
QUESTION = "How does the lamp called {} in the long hall of the old house shine late at night?"
"""Long enough for the search for contamination; each of its runs of 13 words holds the name."""
COLOURS = ("red", "blue")
CONFIG: dict[str, Any] = {
    "corpus": {"files": ["corpus/*.md"]},
    "datasets": {
        "instruction": {"files": ["instructions.jsonl"], "thinking": "strip"},
        # the questions are much alike
        "split": {"key": "k2", "train": 0.6, "validation": 0.2, "test": 0.2, "group_by": ["document"]},
    },
    "answers": {"top_k": 1, "max_new_tokens": 8},
    "ddr": {"temperatures": [0.0, 1.0], "samples": 3, "top_k": 2},
    "launcher": {"kind": "inline"},
    "accelerator": {"device": "cpu", "dtype": "float32"},
}
TRAINING: dict[str, Any] = {
    "max_steps": 40, "scheduler": "constant", "warmup_steps": 0, "learning_rate": 3e-3, "method": "full",
    "global_batch_size": 8, "micro_batch_size": 8, "max_length": 400, "eval_steps": 500, "save_steps": 500,
}  # fmt: skip


@dataclass
class Project:
    """The project's folder and its runs."""

    root: Path

    def __post_init__(self) -> None:
        state, config = self.root / "state", self.root / "config.yaml"
        self.resource = ArtifactsResource(state_dir=str(state), config_path=str(config))
        self.store = self.resource.store()

    def configure(self, **sections: dict[str, Any]) -> None:
        config = json.loads((self.root / "config.yaml").read_text("utf-8"))
        for section, values in sections.items():
            config[section] = {**config.get(section, {}), **values}
        (self.root / "config.yaml").write_text(json.dumps(config), "utf-8")

    def run(self, *assets: str, upstream: bool = False) -> dict[str, dict[str, Any]]:
        """Make these assets and return the metadata of each that was made, with `failed`: its failed checks.

        Of one that was not made it is `refused`: the reason.
        """
        config, state = self.root / "config.yaml", self.root / "state"
        defs = build_defs(load_settings(config, environ={}), state=state, config=config)
        selected = dg.AssetSelection.assets(*assets)
        keys = (selected.upstream() if upstream else selected).resolve(defs.resolve_asset_graph())
        made = [key for key in keys if defs.resolve_asset_graph().get(key).is_materializable]
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(asset_selection=made, raise_on_error=False)
        found: dict[str, dict[str, Any]] = {}
        for event in result.get_asset_materialization_events():
            entry = event.step_materialization_data.materialization
            found[entry.asset_key.to_user_string()] = {key: each.value for key, each in entry.metadata.items()}
        for event in result.filter_events(lambda event: event.is_step_failure):
            found.setdefault(str(event.step_key), {})["refused"] = str(event.step_failure_data.error)
        for check in result.get_asset_check_evaluations():
            if not check.passed and (name := check.asset_key.to_user_string()) in found:
                found[name].setdefault("failed", []).append(check.check_name)
        return found

    def current(self, asset: str) -> Artifact:
        return self.store.require(asset)


def write_project(root: Path) -> Project:
    (root / "corpus").mkdir()
    lines: list[str] = []
    for n, lamp in enumerate(LAMPS):
        answer = COLOURS[n % len(COLOURS)]
        # the lamp before is named, so that its question finds this document as well
        text = f"The lamp {lamp} shines {answer} at night. It hangs next to {LAMPS[n - 1]}."
        (root / f"corpus/{lamp}.md").write_text(f"# Lamp {lamp}\n\n{text}\n", "utf-8")
        row = {"id": f"q{n}", "question": QUESTION.format(lamp), "context": [text], "answer": answer}
        lines.append(json.dumps({**row, "evidence": [lamp]}) + "\n")
    (root / "instructions.jsonl").write_text("".join(lines), "utf-8")
    model = str(build_base(root / "model", positions=1024))
    dpo = {**TRAINING, "max_steps": 2, "generated": True, "learning_rate": 1e-4}
    sections = {"sft": {**TRAINING, "base_model": model}, "dpo": {**dpo, "base_model": model}}
    (root / "config.yaml").write_text(json.dumps({**CONFIG, **sections}), "utf-8")
    return Project(root)


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after SFT and the first answers."""
    import torch

    torch.set_num_threads(1)
    project = write_project(tmp_path_factory.mktemp("ddr"))
    project.run("ddr_candidates", upstream=True)
    return project
