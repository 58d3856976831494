"""The one configuration, typed. Every key of config.yaml is a field; unknown keys and contradictions are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

SCHEMA_VERSION = 1


class Section(BaseModel):
    """A frozen section of config.yaml that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class CorpusSettings(Section):
    files: list[str] = Field(min_length=1)
    """Globs, relative to config.yaml: Markdown, text, HTML; rows (BEIR, UltraRAG) in JSONL, JSON, Parquet or a folder
    that the datasets library saved."""
    max_chars: PositiveInt = 1200
    """A section longer than this is cut at sentence ends."""
    min_chars: PositiveInt = 20
    glossary: list[str] = []
    """YAML files of terms with their other names."""
    traditional: Literal["keep", "t2s", "tw2sp"] = "keep"
    """Traditional Chinese as Simplified: `t2s` by character, `tw2sp` with the words of Taiwan. Never Japanese."""


class InstructionFiles(Section):
    files: list[str] = []
    thinking: Literal["require", "allow_empty", "mask_empty", "strip"] = "allow_empty"
    """What to do with reasoning: the target model decides (a Thinking model wants `require`)."""


class PreferenceFiles(Section):
    files: list[str] = []
    min_margin: float = Field(default=0.0, ge=0.0)
    """Pairs whose scores differ by no more than this are ties and are quarantined."""


class RetrievalFiles(Section):
    queries: list[str] = []
    """BEIR queries.jsonl files."""
    qrels: list[str] = []
    """BEIR qrels .tsv files (query-id, corpus-id, score)."""


class SplitSettings(Section):
    train: float = Field(default=0.7, gt=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    """Questions whose character 3-gram Jaccard similarity reaches this share one cluster."""
    group_by: list[Literal["document", "passage", "question"]] = ["document", "passage", "question"]
    """What records may share only within one split: the evidence's document, its passage, a (nearly) equal question."""
    contamination: float = Field(default=0.5, gt=0, le=1)
    """The gate blocks when this share of a validation or test text (its 13-token runs) stands in a text of training."""
    templates: list[str] = []
    """Texts that many records repeat around what they ask or say: they are not contamination."""
    key: str = "split-v1"
    """Changing the key deals every cluster anew: a new split version."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}, must be 1. Change one of the three.")
        return self


class DatasetSettings(Section):
    instruction: InstructionFiles = InstructionFiles()
    preference: PreferenceFiles = PreferenceFiles()
    retrieval: RetrievalFiles = RetrievalFiles()
    split: SplitSettings = SplitSettings()
    max_quarantined_share: float = Field(default=0.05, ge=0, le=1)
    """The gate blocks when a larger share of the rows of a data set is quarantined."""
    max_line_bytes: PositiveInt = 8 * 2**20
    traditional: Literal["keep", "t2s", "tw2sp"] = "keep"
    """Traditional Chinese in records as Simplified, as in `corpus.traditional`."""
    max_lost_terms_share: float = Field(default=0.8, ge=0, le=1)
    """The gate warns when more of the answers name none of the glossary terms that their questions name."""


class LoraSettings(Section):
    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: str | list[str] = "all-linear"


class OomSettings(Section):
    """When memory runs out, training goes on with smaller batches, then with gradient checkpointing and offloading,
    none of which changes what is learnt. What would change it must be allowed; it is counted and told."""

    allow_8bit: bool = False
    """After all of that, go on with the `paged_adamw_8bit` optimizer, whose moments begin anew."""
    allow_shorter: bool = False
    """After all of that, leave out the rows longer than half of `max_length` and go on."""


class TrainSettings(Section):
    """What SFT and DPO share."""

    usual_full_rate: ClassVar[float]
    """The learning rate of `method: full`, unless it is given."""

    base_model: str
    """A hub name, a folder, or `package:NAME` for a model that travels in a Python package."""
    revision: str | None = None
    method: Literal["lora", "qlora", "full"] = "lora"
    """An adapter on a frozen base, the same on a base in 4 bits, or every weight of the model."""
    learning_rate: float = Field(gt=0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    """Stops early; overrides `epochs`."""
    global_batch_size: PositiveInt = 8
    """Rows between two optimizer steps, over all processes."""
    micro_batch_size: PositiveInt = 4
    """Rows in one forward pass of one process; accumulation is derived."""
    max_length: PositiveInt = 1024
    """Tokens of prompt and completion together."""
    too_long: Literal["raise", "drop", "truncate_prompt"] = "raise"
    """What becomes of a row longer than `max_length`: the training is refused, the row is left out, or its passages are
    cut, the last ones first. Questions and answers are never cut; too_long.jsonl lists what was left out or cut."""
    max_empty_thinking_share: float = Field(default=0.0, ge=0, le=1)
    """For a model whose chat template opens every answer with `<think>`: the share of rows that may train it to close
    the thought at once. `datasets.instruction.thinking: mask_empty` takes the empty thought out of the loss; 1 is for
    a model that is meant to unlearn thinking (`strip`)."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: float = Field(default=0.1, ge=0)
    """Below 1 a share of all steps, else a number of steps."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Computes activations again in the backward pass: less memory, more time. `auto` does so on GPUs."""
    activation_offloading: bool = False
    """Keeps what the backward pass needs in host memory; GPUs only."""
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    """`paged_adamw_8bit` keeps its state in 8 bit and lets it move to host memory (bitsandbytes; GPUs only)."""
    oom: OomSettings = OomSettings()
    eval_steps: PositiveInt = 20
    save_steps: PositiveInt = 20
    logging_steps: PositiveInt = 1
    seed: int = 42

    def recomputes_on(self, device: str) -> bool:
        """Whether activations are computed again in the backward pass (`auto`: on GPUs)."""
        return device == "cuda" if self.gradient_checkpointing == "auto" else self.gradient_checkpointing

    @model_validator(mode="before")
    @classmethod
    def _the_rate_follows_the_method(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = cast("Mapping[str, Any]", values)
        return {"learning_rate": cls.usual_full_rate, **given} if given.get("method") == "full" else given

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of micro_batch_size "
                f"({self.micro_batch_size}). Change either."
            )
        return self


class SftSettings(TrainSettings):
    usual_full_rate = 1e-5

    lora: LoraSettings = LoraSettings()
    """Of the adapter; DPO trains it on in the same shape. Without effect where `method` is `full`."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Where `method` is `full`, the default is 1e-5."""
    packing: bool = False
    """Several rows end to end in one sequence of up to `max_length` tokens, none seeing another: pays off on GPUs where
    rows are short. Batch sizes then count sequences."""


class DpoSettings(TrainSettings):
    """DPO goes on from what SFT left: the adapter in its shape, or (`method: full`) every weight of the model, an
    adapter merged into it."""

    usual_full_rate = 5e-7

    learning_rate: float = Field(default=5e-6, gt=0)
    """Where `method` is `full`, the default is 5e-7."""
    beta: float = Field(default=0.1, gt=0)
    loss: Literal[
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ] = "sigmoid"  # fmt: skip
    """TRL's names. `robust` expects some pairs to be the wrong way round, `ipo` and `sigmoid_norm` divide by length."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=0.5)
    """How many of the pairs may be the wrong way round; null takes what the loss's paper recommends."""
    precompute_reference: bool | Literal["auto"] = "auto"
    """What the SFT adapter thinks of the pairs is computed once and kept for later runs, instead of at every step.
    `auto` does so when the run sees every pair at least once, and always where `method` is `full`: no second model is
    held in memory."""

    @model_validator(mode="after")
    def _loss_is_smoothed(self) -> Self:
        smoothed = ("robust", "exo_pair", "aot", "aot_unpaired")
        if self.label_smoothing is not None and self.loss not in smoothed:
            raise ValueError(
                f"label_smoothing ({self.label_smoothing}) has no effect on loss `{self.loss}`. "
                f"Remove it, or choose one of {', '.join(smoothed)}."
            )
        if self.label_smoothing == 0 and self.loss == "exo_pair":
            raise ValueError("loss `exo_pair` takes the logarithm of label_smoothing, which is 0. Raise it (1e-3).")
        return self

    @model_validator(mode="after")
    def _a_whole_model_is_no_reference(self) -> Self:
        if self.method == "full" and self.precompute_reference is False:
            raise ValueError(
                "precompute_reference is false, and method is `full`: the reference at every step would be a second "
                "model in memory. Remove it, or use `lora`."
            )
        return self


class EmbeddingSettings(Section):
    base_model: str
    revision: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    query_prompt: str = ""
    passage_prompt: str = ""
    query_max_tokens: PositiveInt = 64
    passage_max_tokens: PositiveInt = 256
    matryoshka: list[PositiveInt] = []
    """Smaller dimensions to train for besides the full one; `retrieval.dimension` may then be one of them."""
    epochs: float = Field(default=3.0, ge=0)
    max_steps: int | None = Field(default=None, gt=0)
    batch_size: PositiveInt = 32
    learning_rate: float = Field(default=2e-5, gt=0)
    head_learning_rate: float = Field(default=2e-4, gt=0)
    warmup_steps: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    sparse_temperature: float = Field(default=1.0, gt=0)
    sparse_loss_weight: float = Field(default=0.3, ge=0)
    self_distill: bool = True
    hard_negatives: int = Field(default=0, ge=0)
    """Wrong passages put beside each question's own: of those that the model itself ranks highest for it, never one
    judged right or nearly equal to such a one. Mined before every epoch but the first, which encodes the corpus."""
    seed: int = 42

    @model_validator(mode="after")
    def _hard_negatives_come_with_the_second_epoch(self) -> Self:
        if self.hard_negatives and 0 < self.epochs <= 1:
            raise ValueError(
                "hard_negatives are mined from the second epoch on, and there is none. Raise epochs, or set 0."
            )
        return self


class RetrievalSettings(Section):
    distance: Literal["cosine", "dot", "euclid"] = "cosine"
    dimension: PositiveInt | None = None
    """Cut dense vectors to this many dimensions (the model must have been trained for it); null keeps all."""
    dense_weight: float = Field(default=1.0, ge=0)
    sparse_weight: float = Field(default=0.3, ge=0)
    fusion: Literal["weighted_sum", "dbsf", "rrf"] = "weighted_sum"
    prefetch_limit: PositiveInt = 100
    top_k: PositiveInt = 10
    evaluate_on: Literal["validation", "test"] = "test"
    tolerance: float = Field(default=0.02, ge=0)
    """How much nDCG@10 and Recall@10 a release may lose against what is live: it is held when it loses more, and the
    paired 95 % interval excludes 0. 1 accepts any loss, also where what is live is gone and cannot be compared with."""
    fused_epsilon: float = Field(default=0.05, ge=0)
    """How far the fused ranking may fall below its better arm (nDCG@10)."""
    max_empty_sparse_share: float = Field(default=0.01, ge=0, le=1)
    min_recall_at_10: float = Field(default=0.0, ge=0, le=1)
    keep: PositiveInt = 3
    """Collections kept for rollback."""

    @model_validator(mode="after")
    def _contradictions(self) -> Self:
        if self.dense_weight == 0 and self.sparse_weight == 0:
            raise ValueError("dense_weight and sparse_weight are both 0: nothing would be ranked. Raise one.")
        if self.distance == "euclid" and self.fusion == "dbsf":
            raise ValueError(
                "fusion `dbsf` adds up scores, and a euclidean distance is smaller for what is nearer: the dense arm "
                "would rank upside down. Use `weighted_sum` or `rrf`, or another distance."
            )
        if self.prefetch_limit < max(100, 10 * self.top_k):
            raise ValueError(
                f"prefetch_limit ({self.prefetch_limit}) must be at least max(100, 10 * top_k) = "
                f"{max(100, 10 * self.top_k)}: a point outside one arm's prefetch scores 0 there."
            )
        return self


class AnswerSettings(Section):
    top_k: PositiveInt = 3
    """Passages in the prompt."""
    max_new_tokens: PositiveInt = 32
    """Tokens of thought and answer together: a thinking model needs some thousands."""
    max_questions: PositiveInt = 200
    batch_size: PositiveInt = 8
    system: str = ""
    prompt: str = "Background:\n{passages}\n\nQuestion: {question}\nAnswer:"
    """The RAG prompt, for training and serving alike. Must hold {passages} and {question}."""
    passage_separator: str = "\n"
    tolerance: float = Field(default=0.05, ge=0)
    """How much character F1 a release may lose against the base model and what is live (lower confidence bound)."""
    max_open_thoughts: float = Field(default=0.1, ge=0, le=1)
    """The gate warns when more of a thinking model's replies end (by `max_new_tokens`, say) with the thought open."""
    seed: int = 42

    @model_validator(mode="after")
    def _prompt_has_its_places(self) -> Self:
        for place in ("{passages}", "{question}"):
            if place not in self.prompt:
                raise ValueError(f"prompt lacks {place}. Add it.")
        return self


class ArtifactSettings(Section):
    keep: PositiveInt = 5
    """Artifacts kept for each asset, and releases whose artifacts are kept besides (at least `retrieval.keep` of them).
    What serves and what is current is never removed, nor is what it was made from."""


class QdrantSettings(Section):
    engine: Literal["local", "server", "edge"] = "local"
    """`local` and `edge` keep points below the state folder; `server` needs `url`. The API key comes from
    QDRANT_API_KEY. Up to 20,000 passages `local` is enough; `edge` (extra `edge`) is Qdrant's own engine in process."""
    url: str | None = None
    collection: str = "passages"
    """The alias that serves."""
    lock_timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for another process that holds the embedded engine."""

    @model_validator(mode="after")
    def _server_needs_url(self) -> Self:
        if self.engine == "server" and not self.url:
            raise ValueError("qdrant.engine is `server` but qdrant.url is not set. Set it, or use `local`.")
        if self.engine != "server" and self.url:
            raise ValueError(f"qdrant.url is set but qdrant.engine is `{self.engine}`. Choose one.")
        return self


class LauncherSettings(Section):
    kind: Literal["inline", "subprocess", "torchrun"] = "subprocess"
    """`torchrun` trains adapters in `processes` processes; all other work runs as one child process."""
    processes: PositiveInt = 1
    """Processes of one adapter training, on as many GPUs (or on the CPU's cores)."""
    threads: PositiveInt | None = None
    """Compute threads of one worker, shared among its processes; null takes OMP_NUM_THREADS for each of them where it
    is set, else the cores that are there."""

    @model_validator(mode="after")
    def _only_torchrun_has_processes(self) -> Self:
        if self.processes > 1 and self.kind != "torchrun":
            raise ValueError(
                f"processes ({self.processes}) needs kind `torchrun`, not `{self.kind}`. Set kind: torchrun, or "
                "processes: 1."
            )
        return self


class AcceleratorSettings(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class Settings(Section):
    """All of config.yaml after profile and environment. The first seven sections are assets."""

    schema_version: Literal[1] = SCHEMA_VERSION
    corpus: CorpusSettings
    datasets: DatasetSettings = DatasetSettings()
    sft: SftSettings
    dpo: DpoSettings
    embedding: EmbeddingSettings
    retrieval: RetrievalSettings = RetrievalSettings()
    answers: AnswerSettings = AnswerSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    qdrant: QdrantSettings = QdrantSettings()
    launcher: LauncherSettings = LauncherSettings()
    accelerator: AcceleratorSettings = AcceleratorSettings()

    @model_validator(mode="after")
    def _adapters_share_a_base(self) -> Self:
        if (self.sft.base_model, self.sft.revision) != (self.dpo.base_model, self.dpo.revision):
            raise ValueError(
                f"dpo.base_model ({self.dpo.base_model}) must be sft.base_model ({self.sft.base_model}): "
                "the DPO adapter continues the SFT adapter. Set both to the same model and revision."
            )
        return self

    @model_validator(mode="after")
    def _an_adapter_goes_on_the_base(self) -> Self:
        if self.sft.method == "full" and self.dpo.method != "full":
            raise ValueError(
                f"dpo.method ({self.dpo.method}) must be `full` where sft.method is `full`: an adapter goes on the "
                "base model, not on a model that SFT made of it. Set dpo.method: full, or sft.method: lora."
            )
        return self

    @model_validator(mode="after")
    def _batches_divide_among_processes(self) -> Self:
        for name, section in (("sft", self.sft), ("dpo", self.dpo)):
            at_once = section.micro_batch_size * self.launcher.processes
            if section.global_batch_size % at_once:
                raise ValueError(
                    f"{name}.global_batch_size ({section.global_batch_size}) must be a multiple of "
                    f"{name}.micro_batch_size x launcher.processes ({section.micro_batch_size} x "
                    f"{self.launcher.processes} = {at_once}). Change one of them."
                )
        return self


# Section of config.yaml -> the asset that carries it.
SETTINGS_ASSETS: dict[str, str] = {
    "corpus": "corpus_settings",
    "datasets": "dataset_settings",
    "sft": "sft_settings",
    "dpo": "dpo_settings",
    "embedding": "embedding_settings",
    "retrieval": "retrieval_settings",
    "answers": "answer_settings",
    "qdrant": "qdrant_settings",
}

# What the field once called it -> what to write here.
RENAMED: dict[str, str] = {
    "evaluation_strategy": "eval_steps (evaluation is always by steps)",
    "eval_strategy": "eval_steps (evaluation is always by steps)",
    "warmup_ratio": "warmup_steps (below 1 it is a share)",
    "gradient_clipping": "max_grad_norm",
    "max_seq_length": "max_length",
    "max_prompt_length": "max_length",
    "tokenizer": "base_model (the tokenizer travels with the model)",
    "torch_dtype": "accelerator.dtype",
    "dtype": "accelerator.dtype",
    "fp16": "accelerator.dtype",
    "bf16": "accelerator.dtype",
    "per_device_train_batch_size": "micro_batch_size",
    "train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "global_batch_size (accumulation is derived)",
    "num_train_epochs": "epochs",
    "lr_scheduler_type": "scheduler",
    "model_name_or_path": "base_model",
    "lora": "sft.lora (DPO trains the SFT adapter on, in the shape that it has)",
    "lora_r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "target_modules": "lora.targets",
    "load_in_4bit": "method: qlora",
    "output_dir": "FT_STATE_DIR (environment)",
    "logging_dir": "FT_STATE_DIR (environment)",
    "train_data_path": "datasets.instruction.files or datasets.preference.files",
    "gpu_vis": "CUDA_VISIBLE_DEVICES (environment)",
    "trust_remote_code": "nothing: remote code is never run",
}


def section_json(settings: Settings, section: str) -> dict[str, Any]:
    """One section as plain JSON values."""
    return getattr(settings, section).model_dump(mode="json")
