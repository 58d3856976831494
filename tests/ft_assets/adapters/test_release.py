"""The release of an adapter without Dagster: matching candidates, the baseline, rolled back candidates."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from expectations.contracts.adapter import AdapterContract, BaseModelIdentity, LoraShape
from expectations.violations import Refused
from ft_assets.adapters.release import baseline, choose_candidate, find_released, release_adapter, released_asset
from resources.artifacts import Artifact, ArtifactStore, Recipe, write_json
from resources.releases import Releases
from resources.trained_model import CONTRACT_FILE

from .tiny_llm import PROMPT, publish_json

CONTRACT = AdapterContract(
    base=BaseModelIdentity(
        name="base", revision=None, weights_sha256="a", tokenizer_sha256="b", chat_template_sha256="c",
        stop_token_ids=[2],
    ),
    prompt=PROMPT,
    reasoning="strip",
    lora=LoraShape(r=8, alpha=16, targets=["q_proj"]),
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "released")


def publish(store: ArtifactStore, asset: str, seed: int, proposed: str = "dpo", **inputs: str) -> Artifact:
    with store.stage(Recipe(asset=asset, code_version="1", settings={"seed": seed}, inputs=inputs)) as staging:
        write_json(staging.path / CONTRACT_FILE, msgspec.to_builtins(CONTRACT))
        write_json(staging.path / "seed.json", seed)
        figures: dict[str, object] = {
            "questions": 8,
            "f1_dpo": 0.5 + seed,
            "intervals": {},
            "differences": {},
            "proposed": proposed,
        }
        artifact = staging.publish(figures)
    store.point(artifact)
    return artifact


def publish_candidate(store: ArtifactStore, seed: int, proposed: str = "dpo", prefer: str = "best") -> Artifact:
    """Publish both adapters and their evaluation, and return DPO's."""
    publish_json(store, "release_settings", "settings.json", {"prefer": prefer})
    sft = publish(store, "sft_adapter", seed).data_version
    dpo = publish(store, "dpo_adapter", seed, sft_adapter=sft)
    publish(store, "adapter_evaluation", seed, proposed, sft_adapter=sft, dpo_adapter=dpo.data_version)
    return dpo


def test_a_candidate_is_released_once_with_its_contract_and_its_plain_figures(
    store: ArtifactStore, releases: Releases
) -> None:
    dpo = publish_candidate(store, 1)
    first = release_adapter(store, releases)
    assert (first.reused, first.withheld) == (False, False)
    assert first.release.details["contract"]["base"]["name"] == "base"
    assert first.release.details["metrics"] == first.metrics == {"questions": 8, "f1_dpo": 1.5}
    assert find_released(store, releases).recipe_id == dpo.recipe_id
    again = release_adapter(store, releases)
    assert again.reused and again.release == first.release


def test_an_evaluation_of_another_adapter_is_refused(store: ArtifactStore, releases: Releases) -> None:
    publish_candidate(store, 1)
    sft = store.require("sft_adapter").data_version
    publish(store, "dpo_adapter", 2, sft_adapter=sft)
    with pytest.raises(Refused, match=r"FT-ADP-005.*dpo_adapter.*ft run --asset adapter_evaluation"):
        release_adapter(store, releases)
    assert releases.current("adapter") is None


def test_a_candidate_that_was_rolled_back_is_not_released_again(store: ArtifactStore, releases: Releases) -> None:
    first = publish_candidate(store, 1)
    kept = release_adapter(store, releases).release
    publish_candidate(store, 2)
    release_adapter(store, releases)
    releases.commit("adapter", releases.plan_rollback("adapter", kept))
    outcome = release_adapter(store, releases)
    assert outcome.withheld and outcome.reused and outcome.release == kept
    assert find_released(store, releases).recipe_id == first.recipe_id


def test_the_baseline_is_the_same_before_and_after_the_candidate_is_released(
    store: ArtifactStore, releases: Releases
) -> None:
    first = publish_candidate(store, 1)
    assert baseline(releases, {first.recipe_id}) is None
    before = release_adapter(store, releases).release
    assert baseline(releases, {first.recipe_id}) is None
    second = publish_candidate(store, 2)
    assert baseline(releases, {second.recipe_id}) == before
    release_adapter(store, releases)
    assert baseline(releases, {second.recipe_id, store.require("sft_adapter").recipe_id}) == before


def test_a_released_adapter_that_is_missing_is_refused_with_the_command(
    store: ArtifactStore, releases: Releases
) -> None:
    with pytest.raises(Refused, match=r"FT-ADP-003.*ft run --asset released_adapter"):
        find_released(store, releases)
    dpo = publish_candidate(store, 1)
    release_adapter(store, releases)
    store.discard(dpo)
    with pytest.raises(Refused, match=r"FT-ADP-004.*ft rollback adapter"):
        find_released(store, releases)


def test_an_sft_adapter_that_answers_better_is_released_in_place_of_its_dpo(
    store: ArtifactStore, releases: Releases
) -> None:
    publish_candidate(store, 1, proposed="sft")
    outcome = release_adapter(store, releases)
    assert released_asset(outcome.release) == "sft_adapter"
    assert set(outcome.release.artifacts) == {"sft_adapter", "adapter_evaluation"}
    assert find_released(store, releases).asset == "sft_adapter"
    sft = store.require("sft_adapter").recipe_id
    assert baseline(releases, {sft}) is None, "it is its own candidate"
    dpo = publish_candidate(store, 2)
    assert baseline(releases, {dpo.recipe_id}) == outcome.release
    assert released_asset(release_adapter(store, releases).release) == "dpo_adapter"


@pytest.mark.parametrize(
    ("proposed", "prefer", "chosen"), [("sft", "dpo", "dpo"), ("dpo", "sft", "sft"), ("sft", "best", "sft")]
)
def test_the_setting_prefers_one_of_them(store: ArtifactStore, proposed: str, prefer: str, chosen: str) -> None:
    publish_candidate(store, 1, proposed, prefer)
    assert choose_candidate(store) == chosen


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_one_adapter_alone_is_released_and_the_other_cannot_be_preferred(
    store: ArtifactStore, releases: Releases, name: str
) -> None:
    publish_json(store, "release_settings", "settings.json", {})
    alone = publish(store, f"{name}_adapter", 1)
    publish(store, "adapter_evaluation", 1, name, **{f"{name}_adapter": alone.data_version})
    outcome = release_adapter(store, releases)
    assert find_released(store, releases).recipe_id == alone.recipe_id
    assert set(outcome.release.artifacts) == {f"{name}_adapter", "adapter_evaluation"}
    other = "dpo" if name == "sft" else "sft"
    publish_json(store, "release_settings", "settings.json", {"prefer": other})
    with pytest.raises(Refused, match=rf"FT-REL-007.*{other}"):
        release_adapter(store, releases)


def test_records_of_earlier_versions_name_the_dpo_adapter(store: ArtifactStore, releases: Releases) -> None:
    dpo = publish_candidate(store, 1)
    release = release_adapter(store, releases).release
    assert set(release.artifacts) == {"sft_adapter", "dpo_adapter", "adapter_evaluation"}
    assert released_asset(release) == "dpo_adapter" and release.artifacts["dpo_adapter"] == dpo.recipe_id


@pytest.mark.parametrize("artifacts", [{}, {"adapter_evaluation": "0123456789abcdef"}])
def test_a_record_that_names_no_adapter_is_refused_as_damaged(
    store: ArtifactStore, releases: Releases, artifacts: dict[str, str]
) -> None:
    releases.commit("adapter", releases.plan_release("adapter", artifacts, {}))
    for read in (lambda: find_released(store, releases), lambda: baseline(releases, {"0123456789abcdef"})):
        with pytest.raises(Refused, match=r"FT-REL-003.*sft_adapter"):
            read()
