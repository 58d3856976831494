"""`ft estimate kbalign|ddr`: calls by step, and their tokens, time and money."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from expectations.text.tokens import estimate_tokens
from ft_assets.cli import cli
from ft_assets.commands.estimate_generation import report_generation
from ft_assets.config.model import DdrSettings, KbalignSettings, Settings
from ft_assets.ddr.plan import plan_ddr
from ft_assets.kbalign.plan import plan_kbalign
from resources.artifacts import ArtifactStore, Recipe
from tests.ft_assets.adapters.tiny_llm import build_base, instruction, publish_splits

CONFIG = """
schema_version: 1
corpus: {files: [kb/*.md]}
answers: {top_k: 2, max_new_tokens: 20}
ddr: {model: base, temperatures: [0, 0.7, 1.0], samples: 2, max_questions: 5}
generator:
  kind: endpoint
  url: https://models.example.org/v1
  model: big
  context_tokens: 8192
  price: {input: 0.5, output: 2}
  max_tokens_total: 5000
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FT_CONFIG", raising=False)
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "state"))
    return ArtifactStore(tmp_path / "state" / "artifacts")


def publish(store: ArtifactStore) -> None:
    rows = [instruction(n) for n in range(14)]
    publish_splits(store, "instruction_splits", {"train": rows[:12], "validation": rows[12:13], "test": rows[13:]})
    with store.stage(Recipe(asset="passages", code_version="test")) as staging:
        table = pa.table({"passage_id": ["p1", "p2"], "content": ["分组密码有一百二十八比特", "block " * 38]})
        pq.write_table(table, staging.path / "passages.parquet")
        store.point(staging.publish())


def estimate(group: str = "ddr") -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["estimate", group, "--json"])
    assert result.exit_code == 0, result.output + result.stderr
    return json.loads(result.output)


def test_calls_tokens_time_and_money_of_ddr(store: ArtifactStore) -> None:
    publish(store)
    report = estimate()
    # 5 questions and 1 of validation, with passages and without; greedy once, two temperatures twice
    assert [step["expected"] for step in report["steps"]] == [30, 30]
    assert (report["model"], report["calls"], report["most_calls"], report["tokens"]) == ("big", 60, 60, 600)
    passage = (estimate_tokens("分组密码有一百二十八比特") + 40) / 2
    assert report["prompt_tokens"] == 30 * (2 * passage + 40) + 30 * 40
    assert report["money"] == pytest.approx((report["prompt_tokens"] * 0.5 + 600 * 2) / 1e6)
    assert report["runs"] == 1 and report["speed"]["source"].startswith("an assumption: 300 for each of 8 requests")
    assert report["seconds"] == pytest.approx((report["prompt_tokens"] + 600) / 2400)


def test_the_speed_is_that_of_the_last_run_which_asked(store: ArtifactStore) -> None:
    publish(store)
    for version, calls in (("1", 10), ("2", 0)):
        with store.stage(Recipe(asset="ddr_candidates", code_version=version)) as staging:
            staging.publish({"calls": calls, "prompt_tokens": 900, "tokens": 100, "seconds": 4.0})
    report = estimate()
    assert report["speed"]["tokens"] == 250 and "reached by ddr_candidates" in report["speed"]["source"]
    text = CliRunner().invoke(cli, ["estimate", "ddr"]).output
    assert "at 250 tokens/s" in text and "5,000 tokens a run: 1 runs" in text


def test_actors_share_the_time_of_a_local_model(store: ArtifactStore, tmp_path: Path) -> None:
    publish(store)
    given = {**yaml.safe_load(CONFIG), "generator": {"base_model": str(build_base(tmp_path / "base"))}}
    cluster = {"kind": "ray", "ray": {"address": "http://head:8265", "generators": 4}}
    one, four = (
        report_generation("ddr", Settings.model_validate({**given, **launcher}), store, lambda: (1e9, "a guess"))
        for launcher in ({}, {"launcher": cluster})
    )
    assert one.seconds and four.seconds == pytest.approx(one.seconds / 4)
    assert four.speed.source == "a guess, times 4 actors of the cluster"


def test_without_a_section_or_questions_there_is_no_estimate(store: ArtifactStore) -> None:
    for group, code in (("ddr", "FT-ART-001"), ("kbalign", "FT-CFG-002")):
        result = CliRunner().invoke(cli, ["estimate", group])
        assert result.exit_code == 2 and code in result.stderr


def test_questions_are_counted_from_passages_and_settings() -> None:
    sizes = {"passages": 1000, "documents": 100, "held_out_questions": 30, "passage_tokens": 200.0}
    settings = KbalignSettings(short_per_passage=3, long_per_document=2, max_tries=2)
    short, long, judged, closed = plan_kbalign(settings, **sizes)
    assert (short.asset, short.expected, short.most) == ("kbalign_short", 4200, 6000)
    assert (long.asset, long.expected, long.most) == ("kbalign_long", 280, 400)
    assert (judged.most, closed.most) == (3230, 3200) and judged.expected < judged.most
    assert judged.prompt_tokens == 240 and closed.prompt_tokens == 40
    prompted = plan_kbalign(KbalignSettings(author="prompted", judge="generator", few_shot=4), **sizes)
    assert prompted[0].prompt_tokens == short.prompt_tokens + 280
    few = plan_kbalign(settings.model_copy(update={"max_passages": 10}), **sizes)
    assert [step.most for step in few] == [60, 40, 80, 50]


def test_answers_are_counted_from_temperatures_and_samples() -> None:
    settings = DdrSettings(temperatures=[0.0, 0.5], samples=3, top_k=4)
    steps = plan_ddr(settings, questions=10, top_k=2, max_new_tokens=16, passage_tokens=100.0)
    assert [(step.expected, step.prompt_tokens, step.tokens) for step in steps] == [(40, 440.0, 8.0), (40, 40.0, 8.0)]
    assert msgspec.structs.asdict(steps[0])["asset"] == "ddr_candidates"
