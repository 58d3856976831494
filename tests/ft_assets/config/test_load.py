"""config.yaml is read with profile and environment, and every error in it is reported with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_assets.config.generator import params_of_generator
from ft_assets.config.load import (
    ACCEPTED_FILE,
    SettingsError,
    accepted_settings,
    load_settings,
    make_state_folder,
    profiles,
)

BASE = """
schema_version: 1
default_profile: small
corpus: {files: [docs/*.md]}
sft: {base_model: org/big}
dpo: {base_model: org/big}
embedding: {base_model: org/encoder, learning_rate: 1e-5}
profiles:
  small:
    sft: {base_model: org/tiny, lora: {r: 4}}
    dpo: {base_model: org/tiny}
  large: {}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(BASE)
    return path


def test_the_profile_overrides_the_base_and_the_environment_overrides_both(config: Path):
    assert load_settings(config, environ={}).sft.base_model == "org/tiny"
    assert load_settings(config, "large", environ={}).sft.base_model == "org/big"
    settings = load_settings(
        config, environ={"FT_PROFILE": "small", "FT__SFT__LORA__R": "32", "FT__RETRIEVAL__SPARSE_WEIGHT": "0.4"}
    )
    assert settings.sft.lora.r == 32
    assert settings.sft.lora.alpha == 32
    assert settings.retrieval.sparse_weight == 0.4
    assert settings.embedding.learning_rate == 1e-5  # YAML 1.2: a number, not a string


def test_a_cluster_belongs_to_its_launcher(config: Path):
    address = {"FT__LAUNCHER__RAY__ADDRESS": "http://head:8265"}
    settings = load_settings(config, environ={"FT__LAUNCHER__KIND": "ray", **address})
    assert settings.launcher.ray is not None
    assert (settings.launcher.ray.address, settings.launcher.ray.cpus) == ("http://head:8265", 1.0)
    with pytest.raises(SettingsError, match="kind is `ray` and ray is not set"):
        load_settings(config, environ={"FT__LAUNCHER__KIND": "ray"})
    with pytest.raises(SettingsError, match="kind is `subprocess` and ray is set"):
        load_settings(config, environ=address)


def test_a_text_from_the_environment_is_taken_as_it_is(config: Path):
    texts = {"query_prompt": "query: ", "passage_prompt": "[doc] #1 - ", "revision": "1234567"}
    settings = load_settings(config, environ={f"FT__EMBEDDING__{key.upper()}": text for key, text in texts.items()})
    assert {key: getattr(settings.embedding, key) for key in texts} == texts
    none = load_settings(config, environ={"FT__EMBEDDING__REVISION": "null", "FT__QDRANT__COLLECTION": "null"})
    assert (none.embedding.revision, none.qdrant.collection) == (None, "null")


def test_a_list_from_the_environment_that_is_no_yaml_is_refused_with_its_value(config: Path):
    with pytest.raises(SettingsError, match=r"environment FT__CORPUS__FILES: '\[a\.jsonl' is not valid YAML"):
        load_settings(config, environ={"FT__CORPUS__FILES": "[a.jsonl"})


def test_lists_can_be_overridden_from_the_environment(config: Path):
    settings = load_settings(config, environ={"FT__CORPUS__FILES": "[a.jsonl, b/*.md]"})
    assert settings.corpus.files == ["a.jsonl", "b/*.md"]


def test_every_error_is_reported_at_once_with_its_place(config: Path):
    config.write_text(
        BASE.replace("sft: {base_model: org/big}", "sft: {base_model: org/big, learning_rat: 3, epochs: -1}")
        + "retrieval: {dense_weight: 0, sparse_weight: 0}\n"
    )
    with pytest.raises(SettingsError) as error:
        load_settings(config, environ={"FT__SFT__MAXSTEPS": "3", "FT__TRIAN__LR": "1"})
    text = str(error.value)
    assert len(error.value.errors) == 5
    assert "sft.learning_rat" in text and "Did you mean 'learning_rate'?" in text
    assert "sft.epochs" in text and "-1" in text
    assert "retrieval: dense_weight and sparse_weight are both 0" in text
    assert "FT__SFT__MAXSTEPS" in text and "max_steps" in text
    assert "FT__TRIAN__LR" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("evaluation_strategy", "eval_steps"),
        ("warmup_ratio", "warmup_steps"),
        ("gradient_clipping", "max_grad_norm"),
        ("max_seq_length", "max_length"),
        ("tokenizer", "base_model"),
        ("torch_dtype", "accelerator.dtype"),
        ("gradient_accumulation_steps", "global_batch_size"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(config: Path, old: str, new: str):
    config.write_text(BASE.replace("sft: {base_model: org/big}", f"sft: {{base_model: org/big, {old}: 1}}"))
    with pytest.raises(SettingsError, match=f"sft.{old}: this name is no longer used. Write {new}") as error:
        load_settings(config, environ={})
    assert len(error.value.errors) == 1


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"FT__RETRIEVAL__LANGUAGE": "English"}, r"retrieval\.language.*`English` is no language.*english"),
        ({"FT__RETRIEVAL__LANGUAGE": "klingon"}, r"Write one of: auto, none, arabic"),
        ({"FT__RETRIEVAL__BM25_K1": ".inf"}, r"retrieval\.bm25_k1"),
        ({"FT__SFT__LEARNING_RATE": ".nan"}, r"sft\.learning_rate"),
        ({"FT__RETRIEVAL__SPARSE_WEIGHT": ".inf"}, r"retrieval\.sparse_weight"),
    ],
)
def test_a_value_that_would_end_the_run_later_is_refused_at_once(
    config: Path, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(config, environ=environ)


def test_a_learned_lexical_arm_needs_a_training_of_the_head(config: Path):
    learned = {"FT__RETRIEVAL__LEXICAL": "learned"}
    with pytest.raises(SettingsError, match=r"retrieval.lexical is `learned` and embedding.lexical_head is false"):
        load_settings(config, environ=learned)
    assert load_settings(config, environ={**learned, "FT__EMBEDDING__LEXICAL_HEAD": "true"}).embedding.lexical_head


ENDPOINT = {
    "FT__GENERATOR__KIND": "endpoint",
    "FT__GENERATOR__URL": "http://127.0.0.1:8000/v1",
    "FT__GENERATOR__MODEL": "m",
    "FT__GENERATOR__CONTEXT_TOKENS": "4096",
}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"FT__GENERATOR__KIND": "endpoint"}, r"kind is `endpoint` and url, model, context_tokens is missing"),
        ({"FT__GENERATOR__MODEL": "m"}, r"model is only for `kind: endpoint`"),
        ({"FT__GENERATOR__REVISION": "main"}, r"revision is given and base_model is not"),
        ({**ENDPOINT, "FT__KBALIGN": "{}"}, r"generator\.kind is `endpoint` and kbalign\.author is `tuned`"),
        ({**ENDPOINT, "FT__DDR": "{model: released}"}, r"generator\.kind is `endpoint` and ddr\.model is `released`"),
        ({"FT__SFT": "null", "FT__DPO": "null", "FT__DDR": "{model: base}"}, r"ddr needs a model and none is named"),
        ({**ENDPOINT, "FT__GENERATOR__URL": "http://me:s3cret@host/v1"}, r"without a user, a key or a query"),
        ({**ENDPOINT, "FT__GENERATOR__URL": "http://host/v1?key=s3cret"}, r"without a user, a key or a query"),
    ],
)
def test_a_generator_that_cannot_be_asked_is_refused(config: Path, environ: dict[str, str], message: str):
    with pytest.raises(SettingsError, match=message) as error:
        load_settings(config, environ=environ)
    assert "s3cret" not in str(error.value)


def test_the_local_generator_is_the_base_of_the_trainings(config: Path):
    assert load_settings(config, environ={}).local_generator() == ("org/tiny", None)
    other = {"FT__GENERATOR__BASE_MODEL": "org/else", "FT__GENERATOR__REVISION": "v2"}
    assert load_settings(config, environ=other).local_generator() == ("org/else", "v2")
    prompted = "{author: prompted, judge: generator}"
    settings = load_settings(config, environ={**ENDPOINT, "FT__KBALIGN": prompted, "FT__DDR": "{model: base}"})
    params = params_of_generator(settings)
    assert (params.kind, params.model, params.context_tokens) == ("endpoint", "m", 4096)


def test_the_shape_of_the_adapter_belongs_to_sft(config: Path):
    config.write_text(BASE.replace("dpo: {base_model: org/big}", "dpo: {base_model: org/big, lora: {r: 8}}"))
    with pytest.raises(SettingsError, match=r"dpo\.lora has no effect .*Write sft\.lora") as error:
        load_settings(config, environ={})
    assert len(error.value.errors) == 1


def test_an_adapter_cannot_follow_a_whole_model_and_rates_follow_the_method(config: Path):
    full = {"FT_PROFILE": "large", "FT__SFT__METHOD": "full"}
    with pytest.raises(SettingsError, match=r"dpo\.method \(lora\) must be `full` where sft\.method is `full`"):
        load_settings(config, environ=full)
    settings = load_settings(config, environ={**full, "FT__DPO__METHOD": "full"})
    assert (settings.sft.learning_rate, settings.dpo.learning_rate) == (1e-5, 5e-7)
    assert load_settings(config, environ={"FT__DPO__METHOD": "full"}).sft.method == "lora"


def test_contradictions_name_both_values(config: Path):
    config.write_text(BASE.replace("lora: {r: 4}", "global_batch_size: 10, micro_batch_size: 4"))
    with pytest.raises(SettingsError, match=r"global_batch_size \(10\) must be a multiple of micro_batch_size \(4\)"):
        load_settings(config, environ={})


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("patience: 3", "patience is 3 and checkpoint is `last`"),
        ("scheduler: linear, min_learning_rate_share: 0.1", "no effect on scheduler `linear`"),
        ("betas: [0.9, 1.0]", "betas"),
    ],
)
def test_settings_of_a_training_without_effect_are_refused(config: Path, keys: str, error: str):
    config.write_text(BASE.replace("lora: {r: 4}", keys))
    with pytest.raises(SettingsError, match=error):
        load_settings(config, environ={})


@pytest.mark.parametrize(
    ("qdrant", "reason"),
    [
        ("{engine: local, storage: {on_disk: true}}", "qdrant.storage has no effect on engine `local`"),
        ("{engine: edge, storage: {shards: 2}}", "need a server; qdrant.engine is `edge`"),
        ("{engine: edge, storage: {oversampling: 2}}", "oversampling has no effect without quantization"),
    ],
)
def test_a_storage_without_effect_is_refused(config: Path, qdrant: str, reason: str):
    config.write_text(f"qdrant: {qdrant}\n{BASE}")
    with pytest.raises(SettingsError, match=reason):
        load_settings(config, environ={})


def test_the_base_model_may_be_named_once(config: Path):
    config.write_text(config.read_text("utf-8").replace("dpo: {base_model: org/tiny}", "dpo: {beta: 0.2}"))
    environ = {"FT__SFT__REVISION": "v2"}
    once = load_settings(config, environ=environ | {"FT__DPO__BASE_MODEL": "org/tiny", "FT__DPO__REVISION": "v2"}).dpo
    text = config.read_text("utf-8").replace("dpo: {base_model: org/big}", "dpo: {}")
    config.write_text(text)
    dpo = load_settings(config, environ=environ).dpo
    assert dpo == once
    assert dpo and (dpo.base_model, dpo.revision, dpo.beta) == ("org/tiny", "v2", 0.2)


def test_adapters_must_share_a_base(config: Path):
    with pytest.raises(SettingsError, match=r"dpo.base_model \(org/tiny\) must be sft.base_model \(org/else\)"):
        load_settings(config, environ={"FT__SFT__BASE_MODEL": "org/else"})


def test_duplicate_keys_newer_versions_and_unknown_profiles_are_refused(config: Path):
    config.write_text(BASE + "corpus: {files: [x]}\n")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_settings(config, environ={})
    config.write_text(BASE.replace("schema_version: 1", "schema_version: 2"))
    with pytest.raises(SettingsError, match="schema_version is 2"):
        load_settings(config, environ={})
    config.write_text(BASE)
    with pytest.raises(SettingsError, match=r"profile 'medium' does not exist\. Choose one of: large, small"):
        load_settings(config, "medium", environ={})


def test_a_missing_file_is_an_error_not_an_empty_configuration(tmp_path: Path):
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "config.yaml", environ={})


def test_every_profile_of_the_project_loads(project: Path):
    path = project / "config.yaml"
    assert {"demo", "zh", "gpu-10gb", "gpu-24gb"} <= set(profiles(path))
    for profile in profiles(path):
        assert load_settings(path, profile, environ={}).schema_version == 1


def test_a_column_map_is_checked_when_the_configuration_is_read(config: Path):
    config.write_text(
        BASE
        + """
datasets:
  instruction:
    files: [a.jsonl, {glob: b/*.jsonl, columns: {qestion: query}}, {glob: c.jsonl, colums: {}}]
    columns: {question: query, answer: query}
    roles: {bot: robot}
  preference: {files: [p.jsonl], columns: {chosen: good, answr: bad}}
  retrieval: {queries: [{glob: q.csv, columns: {query: text, passage_id: nr}}]}
"""
    )
    with pytest.raises(SettingsError) as error:
        load_settings(config, environ={})
    text = str(error.value)
    assert "datasets.instruction.files.2.entry.colums" in text and "Did you mean 'columns'?" in text
    assert "datasets.instruction.roles.bot" in text and "'robot'" in text
    assert "datasets.preference" in text and "columns.answr" in text
    assert "datasets.retrieval" in text and "queries[0].columns" in text
    config.write_text(
        BASE
        + """
datasets:
  instruction:
    files: [a.jsonl, {glob: b/*.jsonl, columns: {qestion: query}}]
    columns: {question: query, answer: query}
"""
    )
    with pytest.raises(SettingsError) as error:
        load_settings(config, environ={})
    text = str(error.value)
    assert "files[1].columns.qestion" in text and "question: query" in text
    assert "`query` for `question` and `answer`" in text


def test_only_rules_that_judge_a_text_can_be_allowed(config: Path):
    allowed = load_settings(config, environ={"FT__DATASETS__ALLOW": "[FT-TEXT-009, FT-TEXT-002]"}).datasets.allow
    assert allowed == ["FT-TEXT-002", "FT-TEXT-009"]
    with pytest.raises(SettingsError, match=r"datasets\.allow: FT-INST-003 \(The answer is empty\) cannot be allowed"):
        load_settings(config, environ={"FT__DATASETS__ALLOW": "[FT-INST-003]"})


@pytest.mark.parametrize("url", ["https://ann:s3cret@host:6333", "https://s3cret@host:6333", "ann:s3cret@host"])
def test_a_secret_in_the_servers_url_is_refused_and_not_printed(config: Path, url: str):
    with pytest.raises(SettingsError, match="QDRANT_API_KEY") as error:
        load_settings(config, environ={"FT__QDRANT__ENGINE": "server", "FT__QDRANT__URL": url})
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(("section", "maker"), [("sft", "kbalign"), ("dpo", "ddr")])
def test_generated_rows_need_the_section_that_makes_them(config: Path, section: str, maker: str):
    wanted = {f"FT__{section.upper()}__GENERATED": "true"}
    with pytest.raises(SettingsError, match=rf"{section}\.generated is true and there is no section {maker}"):
        load_settings(config, environ=wanted)
    config.write_text(f"{BASE}{maker}: {{}}\n")
    load_settings(config, environ=wanted)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no folder that nobody may write to")
def test_a_state_that_cannot_be_made_is_named():
    with pytest.raises(SettingsError, match=r"/proc/state[\s\S]*Correct FT_STATE_DIR"):
        make_state_folder(Path("/proc/state"))


@pytest.mark.parametrize(
    "content", [b'{"corpus": \xff}', b"{", b"", b"[" * 100_000], ids=["bytes", "cut", "empty", "deep"]
)
def test_a_damaged_copy_of_the_accepted_settings_is_written_again(config: Path, tmp_path: Path, content: bytes):
    state = tmp_path / "state"
    state.mkdir()
    accepted = accepted_settings(config, state)
    kept = state / ACCEPTED_FILE
    whole = kept.read_bytes()
    kept.write_bytes(content)
    assert accepted_settings(config, state) == accepted
    assert kept.read_bytes() == whole
    kept.write_bytes(content)
    config.write_text("corpus: {")  # an edit that is not finished: the error is that of config.yaml
    with pytest.raises(SettingsError, match=r"config\.yaml cannot be used"):
        accepted_settings(config, state)
