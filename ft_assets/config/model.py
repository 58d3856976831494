"""The configuration, typed: every key of config.yaml is a field; unknown keys and contradictions are refused.

The text below a field is its description. `docs/build.py` writes docs/configuration.md from these texts: the unit, the
effect, and why the default is what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, cast, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from expectations.lexical.libraries import stemmed_languages
from expectations.lexical.terms import NO_LANGUAGE

SCHEMA_VERSION = 1
RESERVED_PAYLOAD = ("passage_id", "document_id", "heading", "content", "version")
"""Fields of a point's payload that the project writes itself."""


def later(default: Any, **constraints: Any) -> Any:
    """Return a field that a later release added: at its default it is in no recipe, so that what was made before it is
    reused."""
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


class ConfigSection(BaseModel):
    """A frozen section of config.yaml that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


Role = Literal["system", "user", "assistant"]
Columns = dict[str, str]
"""Key that is read -> column of the files."""


class FileEntry(ConfigSection):
    """Files with names of their own for keys and roles, among the globs of a section."""

    glob: str
    columns: Columns | None = None
    """In place of the `columns` of the section; null takes those."""
    roles: dict[str, Role] | None = None
    """In place of the `roles` of the section; null takes those."""


FILE_ENTRY = "entry"
"""In the path of an error: the entry of a list is a mapping, and no glob."""


def _kind_of_entry(entry: object) -> str:
    return "glob" if isinstance(entry, str) else FILE_ENTRY


# with a discriminator the errors of an entry name its keys, and do not say that it is no text
Globs = list[
    Annotated[Annotated[str, Tag("glob")] | Annotated[FileEntry, Tag(FILE_ENTRY)], Discriminator(_kind_of_entry)]
]


class RowFiles(ConfigSection):
    """A section that names files of rows."""

    formats: ClassVar[Mapping[str, str]]
    """Key that holds globs -> format of the rows in its files."""

    def own_map(self) -> tuple[Columns, dict[str, Role]]:
        """Return the columns and the roles of files that have none of their own."""
        return getattr(self, "columns", {}), getattr(self, "roles", {})

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        errors: list[str] = []
        for key, format in self.formats.items():
            entries: Globs = getattr(self, key)
            maps = {f"{key}[{n}].columns": e.columns for n, e in enumerate(entries) if isinstance(e, FileEntry)}
            for at, columns in {"columns": self.own_map()[0], **maps}.items():
                if columns:
                    errors += _explain_columns(columns, format, at)
        if errors:
            raise ValueError("; ".join(errors))
        return self


def _explain_columns(columns: Columns, format: str, at: str) -> list[str]:
    """Return the errors of a column map. The formats are imported only where there is one."""
    from expectations.formats.column_map import check_columns
    from expectations.formats.registry import FORMATS

    return [error.text for error in check_columns(columns, [format, *FORMATS[format].also_reads], "config.yaml", at)]


class CorpusSettings(RowFiles):
    formats = {"files": "passage"}

    files: Globs = Field(min_length=1)
    """Globs of the documents, relative to config.yaml: Markdown, text, HTML; rows (BEIR, UltraRAG) as JSONL, JSON,
    Parquet or a folder that the `datasets` library saved. An entry may be `{glob: …, columns: {…}}`."""
    columns: Columns = {}
    """The names that rows have for `document_id`, `title` and `text`, as in `datasets.instruction.columns`. Documents
    have no columns and are read as they are."""
    max_chars: PositiveInt = 1200
    """Characters of one passage, at most about this many. A longer section is cut at sentence ends. What an encoder
    reads is limited in tokens: see `max_tokens`."""
    max_tokens: Annotated[int, Field(ge=16)] | Literal["auto"] | None = "auto"
    """Tokens of one passage, heading included and prompt not, at most: a passage of more is cut into parts, so that the
    encoder reads all of it. Counted with the tokenizer of `embedding.base_model`, or by an estimate where there is no
    section `embedding`. `auto` is what the encoder reads when the corpus is first cut; later the passages keep that
    number, because with another one the parts get other texts and ids: write the number to cut again, and to have it
    the same in every state folder. Null counts no tokens; on CMRC 2018 (Chinese) the encoder then does not read 38 % of
    them."""
    min_chars: PositiveInt = 20
    """Characters of one section, at least. A shorter one is quarantined (FT-CORPUS-003), because a few characters
    answer no question. A Chinese character, a kana and a Hangul syllable count as three, because they say about as much
    as three letters: the default keeps a Chinese sentence of 7 characters."""
    max_quarantined_share: float = Field(default=0.05, ge=0, le=1)
    """Share (0 to 1) of the sections, and of the files, that may be lost to the quarantine; above it the gate blocks.
    What another passage has already is not lost. A few bad sections are normal, more point to a wrong export."""
    payload: list[str] = []
    """Fields of corpus rows (at their top or inside `metadata`) and of the front matter of Markdown that each passage
    keeps, such as `[url, tenant]`: `ft search --where tenant=a` filters by them. Text, numbers, true or false, lists of
    texts; one type a field; null where a document lacks it. A change of values encodes nothing."""
    glossary: list[str] = []
    """YAML files (globs) of terms with their other names. They are counted in passages, questions and answers; empty:
    nothing is counted."""
    traditional: Literal["keep", "t2s", "tw2sp"] = "keep"
    """How to write Traditional Chinese: `keep` it, `t2s` converts to Simplified by character, `tw2sp` also replaces
    words of Taiwan. Japanese text is never converted. The default changes no text that you did not ask to change."""

    @model_validator(mode="after")
    def _check_payload(self) -> Self:
        for name in self.payload:
            if name in RESERVED_PAYLOAD:
                raise ValueError(
                    f"payload names `{name}`, a field that every point has already ({', '.join(RESERVED_PAYLOAD)}). "
                    "Rename the field in the rows."
                )
            if not re.fullmatch(r"[^\W\d][\w-]*", name):
                raise ValueError(
                    f"payload names `{name}`, which a filter cannot name: use letters, digits, `_` and `-`, and begin "
                    "with a letter."
                )
        if len(set(self.payload)) < len(self.payload):
            raise ValueError(f"payload names a field twice: {', '.join(self.payload)}. Remove one.")
        return self


class InstructionFiles(RowFiles):
    formats = {"files": "instruction"}

    files: Globs = []
    """Globs of the SFT rows, relative to config.yaml (Alpaca, messages, ShareGPT, prompt / completion, KBAlign, SQuAD).
    Empty: there is no such data set, and an asset that needs it refuses to run. An entry may be
    `{glob: …, columns: {…}, roles: {…}}` for files with names of their own."""
    columns: Columns = {}
    """The names that the files have for keys: `{question: query, answer: response}` reads the column `query` as the
    question. The keys are those of the forms that are read here; `messages` is a dialogue. A key that is not read, or
    a column that no row of a file has, is refused. Empty: the form of the rows is recognised."""
    roles: dict[str, Role] = {}
    """The names that the messages have for roles: `{bot: assistant}`. The usual names (`human`, `gpt` …) are known."""
    thinking: Literal["require", "allow_empty", "mask_empty", "strip"] = "allow_empty"
    """How to treat reasoning in answers: `require` quarantines rows without it (for a model that always thinks),
    `allow_empty` trains rows as they are, `mask_empty` takes an empty reasoning block out of the loss, `strip` removes
    reasoning. The default suits a model that answers with or without reasoning."""
    turns: Literal["last", "all"] = "last"
    """Answers of a dialogue that are learned: the `last` one, with the turns before as history, or `all`. With `all`
    each answer is a record of its own (`id#1`, `id#2` …) in one group, so that a dialogue stays in one split; an answer
    with `weight`, `train`, `loss` or `training` of 0 or false is history only. The default repeats no text: a dialogue
    of ten turns is read ten times with `all`."""


class PreferenceFiles(RowFiles):
    formats = {"files": "preference"}

    files: Globs = []
    """Globs of the DPO rows, relative to config.yaml (DDR of UltraRAG or RAG-DDR, prompt / chosen / rejected). Empty:
    there is no such data set, and an asset that needs it refuses to run. Entries as in `datasets.instruction.files`."""
    columns: Columns = {}
    """The names that the files have for `question`, `chosen`, `rejected`, `chosen_score` …, as in
    `datasets.instruction.columns`. Empty: the form of the rows is recognised."""
    roles: dict[str, Role] = {}
    """The names that the messages have for roles: `{bot: assistant}`. The usual names (`human`, `gpt` …) are known."""
    min_margin: float = Field(default=0.0, ge=0.0)
    """Score margin, in the unit of the rows' own scores. Pairs whose chosen score is not higher by more than this are
    quarantined. The default rejects ties and pairs in the wrong order; rows without scores pass."""


class UnpairedPreferenceFiles(RowFiles):
    formats = {"files": "unpaired_preference"}

    files: Globs = []
    """Globs of the KTO rows, relative to config.yaml: an answer with a verdict (`label`, `kto_tag`, `desired`) of true
    or false next to it. `dpo.loss: kto` trains on them. Empty: there is no such data set. An entry may be
    `{glob: …, columns: {…}, roles: {…}}`."""


class RetrievalFiles(RowFiles):
    formats = {"queries": "query", "qrels": "qrels"}

    queries: Globs = []
    """Globs of BEIR queries.jsonl files, relative to config.yaml. Empty: there is no retrieval data set, and an asset
    that needs it refuses to run. An entry may be `{glob: …, columns: {query_id: …, query: …}}`."""
    qrels: Globs = []
    """Globs of BEIR qrels .tsv files (query-id, corpus-id, score). They name which passage, section or document answers
    which query. An entry may be `{glob: …, columns: {query_id: …, passage_id: …, score: …}}`."""


class SplitSettings(ConfigSection):
    train: float = Field(default=0.7, gt=0, lt=1)
    """Share of the clusters for training (0 to 1). Rows meet the shares on average only, because a cluster is never
    divided. The three shares add up to 1."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the clusters (0 to 1) for choices: the evaluation loss of a training, the weights that `fusion_sweep`
    compares. `adapter_evaluation` answers these questions together with those of `test`."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """Share of the clusters (0 to 1) for the gates of a release. Twice the validation share, because with few questions
    the intervals are wide and only a large loss is found."""
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of character 3-grams (0 to 1) from which two questions count as the same and share one
    cluster. Lower it to keep looser paraphrases together; clusters then grow."""
    group_by: list[Literal["document", "passage", "question"]] = ["document", "passage", "question"]
    """Properties that two records may share only within one split: the document of their evidence, its passage, a
    (nearly) equal question. The default is the strictest. Use `[question]` where nearly all records share documents."""
    contamination: float = Field(default=0.5, gt=0, le=1)
    """Share (0 to 1) of a validation or test text's 13-token runs that one training text may hold; from this share on
    its record is left out of validation and test. At half, a shared topic passes and a copied sentence in a short text
    does not."""
    max_contaminated_share: float = Field(default=0.01, ge=0, le=1)
    """Share (0 to 1) of a data set's held-out records that may be left out because training has seen them; above it the
    gate blocks. Ordinary data has a few such records; many of them mean that the data was not split where it should be.
    0 accepts none."""
    templates: list[str] = []
    """Texts that many records repeat around their question or answer. The contamination gate does not count them."""
    key: str = "split-v1"
    """Key of the hash that assigns clusters to splits. A new key assigns every cluster again: a new split version,
    whose scores cannot be compared with earlier ones. Change it only where the shares came out badly."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}, must be 1. Change one of the three.")
        return self


class DatasetSettings(ConfigSection):
    instruction: InstructionFiles = InstructionFiles()
    preference: PreferenceFiles = PreferenceFiles()
    unpaired_preference: UnpairedPreferenceFiles = UnpairedPreferenceFiles()
    retrieval: RetrievalFiles = RetrievalFiles()
    split: SplitSettings = SplitSettings()
    duplicates: list[str] = later([])
    """Globs of lists of near-duplicates that another tool found (NeMo Curator, datatrove): ids of records with their
    group. Records of one group stay in one split, in addition to those whose questions are nearly the same."""
    max_quarantined_share: float = Field(default=0.05, ge=0, le=1)
    """Share of a data set's rows (0 to 1) that may be quarantined; above it the gate blocks. A few bad rows are normal,
    more point to a wrong export."""
    max_line_bytes: PositiveInt = 8 * 2**20
    """Bytes of one row, at most (default 8 MiB). A longer row is quarantined (FT-ROW-006) without being parsed, so that
    a file without line ends cannot fill the memory."""
    strict: bool = False
    """True blocks where a row has a key that no field takes (`ft verify --strict` does the same). By default such keys
    are only listed: files often carry notes of their own, and keys that change a row's meaning are refused anyway."""
    allow: list[str] = []
    """Codes of rules on texts that rows may break, `[FT-TEXT-002]`. Only rules that judge a text by its look can be
    allowed (docs/bring-your-own-data.md lists them). Such rows are used and counted. Empty: a row that breaks a rule is
    quarantined."""
    traditional: Literal["keep", "t2s", "tw2sp"] = "keep"
    """How to write Traditional Chinese in records; the values are those of `corpus.traditional`. Set both alike:
    then questions and passages use the same characters."""
    max_lost_terms_share: float = Field(default=0.8, ge=0, le=1)
    """Share (0 to 1) of answers that may name none of the glossary terms that their question names; above it the check
    warns. Generous, because short answers seldom repeat the term of the question."""

    @field_validator("allow")
    @classmethod
    def _check_allow(cls, codes: list[str]) -> list[str]:
        from expectations.formats.dialect import explain_not_allowed

        if wrong := explain_not_allowed(codes):
            raise ValueError(wrong)
        return sorted(set(codes))


def rows_on_a_cpu(batch: int) -> int:
    """Return the rows at once of a CPU, which one row keeps busy: at most 4, and a divisor of the batch."""
    return max(rows for rows in (1, 2, 3, 4) if batch % rows == 0)


class LoraSettings(ConfigSection):
    """The shape of a new adapter: that of SFT (DPO continues it), of DPO from the base, or of an encoder (it is merged
    into the weights). Without effect where `method` is `full`."""

    r: PositiveInt = 16
    """Rank of the adapter's matrices. A higher rank can learn more and takes more memory: 16 on all linear layers of
    Qwen3-4B is 33 million trained parameters."""
    alpha: PositiveInt = 32
    """Scale of the adapter: its output is multiplied by `alpha / r`, which is 2 by default. Change it together with
    `r` to keep the scale."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of the adapter's inputs that are set to 0 in training (0 to 1), against overfitting. On a CPU 0 saves a
    third of a step."""
    targets: str | list[str] = "all-linear"
    """Layers that get an adapter: PEFT's `all-linear` (every linear layer but the output head), or names such as
    `[q_proj, v_proj]`. The default fits every architecture without knowing its names."""
    rslora: bool = later(False)
    """Multiply by `alpha / sqrt(r)` in place of `alpha / r` (arXiv 2312.03732), so that a high rank learns as fast as a
    low one. Off: at the default rank it would be another learning rate, and nothing more."""
    dora: bool = later(False)
    """Train the length of each weight column apart from its direction (DoRA, arXiv 2402.09353). It can help at a low
    rank and takes about half as long again for a step. Off, because vLLM and llama.cpp load no DoRA adapters: `ft
    export --merged` first."""


class AdapterSettings(LoraSettings):
    """The shape of an adapter of the language model, and what is trained with it."""

    modules_to_save: list[str] = later([])
    """Modules that are trained as a whole and saved with the adapter, by name, such as `[lm_head]`. None, because a
    matrix of the vocabulary takes more memory than the adapter: 16 bytes for each number of it. Where the output head
    is the embedding, neither can be named. vLLM and llama.cpp load no such adapter: `ft export --merged` first."""
    train_tokens: list[str] = later([])
    """Tokens whose rows of the embedding (and of the output head) are trained with the adapter: those that `ft
    add-tokens` gave to the base model, which start as the mean of their parts. None, because the rows of usual tokens
    are trained well. vLLM and llama.cpp load no such adapter: `ft export --merged` first."""


Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "lion_8bit", "adafactor"]
NEEDS_BITSANDBYTES = frozenset({"adamw_8bit", "paged_adamw_8bit", "lion_8bit"})
"""The optimizers of bitsandbytes."""


class OomSettings(ConfigSection):
    """When memory runs out, training resumes with smaller batches, then with gradient checkpointing, then with
    offloading. None of these changes the result. The two steps here do, so they must be allowed; each is recorded."""

    allow_8bit: bool = False
    """Allow the `paged_adamw_8bit` optimizer after all of that (GPUs with bitsandbytes). Off, because the optimizer's
    moments then start from zero and the result changes."""
    allow_shorter: bool = False
    """Allow half of `max_length` after all of that, again and again down to 128 tokens; longer rows are left out and
    listed in too_long.jsonl. Off, because those rows are then not learned."""


class MixEntry(ConfigSection):
    """Files that count more or less in a training."""

    files: str
    """The files, as a glob of their paths from config.yaml; `*` matches any text, slashes too. The first entry that
    matches a file counts."""
    repeat: float = Field(default=1, ge=0)
    """Times that each row is in an epoch: 2.5 is every row twice and half of them a third time, 0 leaves them out."""
    max_rows: PositiveInt | None = None
    """The most rows of these files together, before they are repeated; their ids choose them. Null: all."""


class TrainSettings(ConfigSection):
    """The settings that SFT and DPO share."""

    usual_full_rate: ClassVar[float]
    """The default learning rate where `method` is `full`."""

    base_model: str
    """The language model to train: a hub name, a folder, or `package:NAME` for a model in a Python package. SFT and
    DPO must name the same one; in `dpo` it may be left out."""
    revision: str | None = None
    """Commit, branch or tag of a hub model. Null takes the default branch; name a commit to train on the same weights
    again later."""
    method: Literal["lora", "qlora", "full"] = "lora"
    """`lora` trains an adapter on the frozen base, `qlora` the same on a base in 4 bits, `full` every weight. The
    default needs 2 bytes of memory a parameter (4 without bf16), `qlora` about half a byte, `full` 16."""
    learning_rate: float = Field(gt=0)
    """Learning rate at its peak, after the warm-up."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows; may be a fraction. Begin with one: the curve of the validation loss shows
    whether more would help."""
    max_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps to stop after; overrides `epochs`. Null trains for `epochs`."""
    global_batch_size: PositiveInt = 8
    """Rows between two optimizer steps, over all processes. It decides the result, so it stays the same whatever
    the hardware; `micro_batch_size` adapts to the memory."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Rows in one forward pass of one process. It decides memory and speed, not the result; gradients are accumulated
    up to `global_batch_size`. `auto` takes as many as the estimate fits into the free memory of a GPU, where a pass of
    one row leaves most of the card idle, and up to 4 on a CPU, which one row keeps busy."""
    max_length: PositiveInt = 1024
    """Tokens of prompt and answer together, at most. It only limits: memory follows the longest row, so a generous
    value costs nothing, unless rows are packed."""
    too_long: Literal["raise", "drop", "truncate_prompt"] = "raise"
    """How to treat a row longer than `max_length`: `raise` refuses the training, `drop` leaves the row out,
    `truncate_prompt` cuts its passages, the last ones first. Questions and answers are never cut; too_long.jsonl lists
    every row that was left out or cut. The default loses nothing without your decision."""
    generated: bool = False
    """Also train on generated rows: SFT on those of `kbalign_verified`, DPO on the pairs of `ddr_preferences`. They are
    training rows only: validation and test stay hand-made. Only where there is no hand-made pair at all does DPO
    validate on pairs from validation questions."""
    max_empty_thinking_share: float = Field(default=0.0, ge=0, le=1)
    """Share of rows (0 to 1) that may train an empty reasoning block, for a model whose chat template opens every
    answer with `<think>`. At 0 such a model cannot unlearn to reason by accident. `datasets.instruction.thinking:
    mask_empty` takes the empty block out of the loss; set 1 for a model that should stop reasoning (`strip`)."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Course of the learning rate after the warm-up: `cosine` and `linear` fall to 0 at the last step, the other two
    stay. `constant` has no warm-up."""
    min_learning_rate_share: float = later(0.0, ge=0, lt=1)
    """Share of `learning_rate` at which `cosine` ends. At 0 the last steps change next to nothing; a tenth is usual
    where a training is long."""
    warmup_steps: float = Field(default=0.1, ge=0)
    """Optimizer steps in which the rate rises from 0; a value below 1 is a share of all steps (rounded up; none where
    there is a single step). The default, a tenth, keeps the first updates small."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """L2 norm to which a larger gradient is scaled down, so that one unusual batch cannot throw the weights off. The
    default is that of transformers."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of each weight, times the learning rate, that AdamW subtracts in a step. The default is that of
    transformers."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = later((0.9, 0.999))
    """Decay of AdamW's means of the gradient and of its square, for each step (`lion_8bit`: of its momentum). A lower
    second one ([0.9, 0.95]) forgets an unusual batch sooner. The default is that of torch."""
    epsilon: float = later(1e-8, gt=0)
    """Number that AdamW adds to the root of the mean square, so that a gradient near 0 makes no large step."""
    checkpoint: Literal["last", "best"] = later("last")
    """The weights that are published: those of the `last` step, or of the best evaluation (`best`); the page and the
    summary name the step. `best` is for a training that is longer than the rows are good for; `eval_steps` then decides
    the result."""
    best_by: Literal["loss", "exact_match", "f1"] = later("loss")
    """The measure on validation rows by which `best` and `patience` judge: the lowest loss, or the highest exact match
    or F1 of generated answers (`eval_answers`); of equal ones the lower loss. The loss, because it costs nothing more
    and is not a count of few questions."""
    patience: PositiveInt | None = later(None)
    """Evaluations without a better one (see `best_by`) after which the training ends; only with `checkpoint: best`.
    Null trains to the last step. The schedule is planned for all steps, so the rate is still high at an early end."""
    eval_answers: NonNegativeInt = later(0)
    """Validation questions, at most, that the model answers at each evaluation: greedily, with the prompt of training
    and up to `answers.max_new_tokens` tokens. Their exact match and F1 are curves of the training. None, because it
    takes time (`answer_seconds`): `adapter_evaluation` asks once, after the training."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Compute activations again in the backward pass: less memory, more time. `auto` does so on GPUs, where memory is
    the limit; on a CPU the run does so only when memory runs out."""
    activation_offloading: bool = False
    """Keep what the backward pass needs in host memory; GPUs only. Off, because the transfers cost time; the run turns
    it on by itself when memory runs out."""
    sharding: Literal["none", "fsdp2"] = later("none")
    """Place of the weights in a training of several processes: `none` keeps all of them on each GPU (DDP), `fsdp2`
    spreads them, with the gradients and the optimizer of `method: full`, for a model that one GPU does not hold; an
    adapter stays whole. The result is the same; every layer is sent for each use, so `none` is quicker where it fits.
    Not for `qlora`."""
    optimizer: Optimizer = "adamw"
    """`adamw` is the fused one of torch: two moments in fp32 for each trained weight. `adamw_8bit` keeps them in 8
    bits, `paged_adamw_8bit` can also move them to host memory (GPUs only; on a CPU it is `adamw_8bit`), and `lion_8bit`
    keeps one (arXiv 2302.06675; its rate is a third to a tenth of AdamW's): these three need bitsandbytes. `adafactor`
    keeps a row and a column for each matrix and no momentum (arXiv 1804.04235): the least memory where `method` is
    `full`. The state of an adapter is small in any case."""
    oom: OomSettings = OomSettings()
    mix: list[MixEntry] = later([])
    """Files whose rows are repeated or limited in this training, for sources of unequal size or worth. Files that no
    entry matches count once; validation rows and generated ones are never touched, and no record or split changes."""
    eval_steps: PositiveInt = 20
    """Optimizer steps between two evaluations on the validation rows. There is always one before the first step and one
    after the last. Raise it where an evaluation takes long."""
    save_steps: PositiveInt = 20
    """Optimizer steps between two checkpoints, the most that a crash can lose. The two newest are kept; with
    `method: full` each takes 12 bytes a parameter on disk."""
    logging_steps: PositiveInt = 1
    """Optimizer steps between two entries in metrics.jsonl. Every step by default, because an entry costs next to
    nothing."""
    seed: int = 42
    """Seed of the order of rows, of a new adapter's weights and of dropout. The same seed on the same hardware gives
    the same result."""

    @property
    def is_kto(self) -> bool:
        """True if the rows are answers with a verdict, and not pairs or answers to imitate."""
        return False

    @property
    def sorts_answers(self) -> bool:
        """True if the loss compares the sorted answers of a micro-batch, so that its size decides the result."""
        return False

    def recomputes_on(self, device: str) -> bool:
        """Return whether activations are computed again in the backward pass (`auto`: on GPUs)."""
        return device == "cuda" if self.gradient_checkpointing == "auto" else self.gradient_checkpointing

    @model_validator(mode="before")
    @classmethod
    def _set_defaults(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        given = cast("Mapping[str, object]", values)
        return {**cls._defaults_for(given), **given}

    @classmethod
    def _defaults_for(cls, given: Mapping[str, object]) -> dict[str, object]:
        """Return the defaults that other given keys decide."""
        return {"learning_rate": cls.usual_full_rate} if given.get("method") == "full" else {}

    @property
    def rows_at_once(self) -> int:
        """The micro-batch; for `auto` that of a CPU. The trainer of a GPU replaces `auto` by a number first."""
        return rows_on_a_cpu(self.global_batch_size) if self.micro_batch_size == "auto" else self.micro_batch_size

    @model_validator(mode="after")
    def _check_checkpoint(self) -> Self:
        if self.patience is not None and self.checkpoint == "last":
            raise ValueError(
                f"patience is {self.patience} and checkpoint is `last`: the published weights would be those after the "
                "best ones. Set checkpoint: best, or remove patience."
            )
        if self.best_by != "loss" and self.checkpoint == "last":
            raise ValueError(
                f"best_by is `{self.best_by}` and checkpoint is `last`: nothing would be chosen by it. Set checkpoint: "
                "best, or remove best_by."
            )
        if self.best_by != "loss" and not self.eval_answers:
            raise ValueError(
                f"best_by is `{self.best_by}` and eval_answers is 0: no question would be answered. Set eval_answers "
                "to a number of validation questions (100), or best_by: loss."
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.min_learning_rate_share and self.scheduler != "cosine":
            raise ValueError(
                f"min_learning_rate_share has no effect on scheduler `{self.scheduler}`. Remove it, or choose cosine."
            )
        return self

    @model_validator(mode="after")
    def _check_optimizer(self) -> Self:
        without = {"adafactor": ("betas", "epsilon"), "lion_8bit": ("epsilon",)}.get(self.optimizer, ())
        for name in without:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on optimizer `{self.optimizer}`. Remove it, or choose adamw.")
        return self

    @model_validator(mode="after")
    def _check_batches(self) -> Self:
        if self.global_batch_size % self.rows_at_once:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of micro_batch_size "
                f"({self.micro_batch_size}). Change either."
            )
        return self


class SftSettings(TrainSettings):
    """SFT trains the base model on the instruction rows: an adapter, or every weight."""

    usual_full_rate = 1e-5

    lora: AdapterSettings = AdapterSettings()
    learning_rate: float = Field(default=2e-4, gt=0)
    """Learning rate at its peak, after the warm-up. 2e-4 suits an adapter; where `method` is `full`, the default is
    1e-5, and a check warns from ten times that on."""
    neftune: float | None = later(None, gt=0)
    """Scale of the noise that is added to the embeddings in training (NEFTune, arXiv 2310.05914; its paper tries 5 to
    15), against learning short answers by heart. Null: none."""
    packing: bool = False
    """Put several rows end to end into one sequence of up to `max_length` tokens; no row sees another. It saves time on
    GPUs where rows are short. Off, because batch sizes then count sequences and not rows."""
    generated_share: float = Field(default=0.5, ge=0, lt=1)
    """Share (0 to below 1) of the rows of an epoch that may be generated, where `generated` is true; the others are
    left out, by the hash of their ids. Half, so that the rows of people weigh at least as much."""


_BETA_OF_SIMPO = 2.0


class DpoSettings(TrainSettings):
    """DPO continues the result of SFT: its adapter, in the same shape, or with `method: full` every weight of the model
    (an adapter is merged into it first). `start` names another beginning."""

    usual_full_rate = 5e-7

    start: str = "sft"
    """The model that DPO continues, and its reference: `sft` (the result of `sft_adapter`), `base` (a new adapter on
    `base_model`, in the shape of `lora`), or the folder of an adapter in PEFT's layout, such as one that `ft export`
    wrote. With `base` or a folder, `sft` may be left out."""
    lora: AdapterSettings | None = None
    """Shape of the new adapter where `start` is `base`; null takes the defaults. Otherwise DPO continues an adapter in
    its own shape."""
    learning_rate: float = Field(default=5e-6, gt=0)
    """Learning rate at its peak, after the warm-up. Far below that of SFT: one epoch at 1e-4 on the demo passed every
    check of the training and changed F1 of the answers by -0.08 [-0.19, 0.02]. Where `method` is `full`, the default is
    5e-7."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference (the model that SFT left). Higher stays closer to it. The default is
    that of TRL and of RAG-DDR. `simpo` has another scale: its default is 2, as in its paper."""
    loss: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "sft",
        "sigmoid_norm",
        "cpo",
        "simpo",
        "orpo",
        "kto",
    ] = "sigmoid"
    """The loss, by its name in TRL; `sigmoid` is that of the DPO paper. `robust` expects some pairs to be in the wrong
    order, `ipo` and `sigmoid_norm` divide by the length. `aot` and `aot_unpaired` sort the answers of a micro-batch:
    only with these two does `micro_batch_size` decide the result. `cpo`, `simpo` and `orpo` do without the reference;
    it is used for the rewards on the page alone. `kto` learns from answers with a verdict, one by one:
    the rows of `datasets.unpaired_preference.files`, and both answers of every pair of `datasets.preference.files`. Its
    KL term is the mean over all rows of an optimizer step (TRL: of a micro-batch), so `micro_batch_size` may be 1."""
    sft_weight: float | None = later(None, ge=0)
    """Weight of the loss of SFT on the chosen answers, which is added to the loss: of each pair the mean over the
    tokens. It keeps the chosen answers likely, which `sigmoid` alone does not. `sigmoid` with 1 is the loss of
    Iterative RPO (arXiv 2404.19733). Null takes that of the loss: 1 for `cpo` and `orpo`, else 0."""
    simpo_margin: float | None = later(None, ge=0)
    """Margin that the loss `simpo` wants between the answers (its gamma), in units of beta times the mean
    log-probability of a token. Null: 0.5, as in TRL."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=0.5)
    """Share of pairs (0 to 0.5) that may be in the wrong order, for the losses `robust`, `exo_pair`, `aot` and
    `aot_unpaired`. Null takes the value of the loss's paper: 0.1 for `robust`, 0.001 for `exo_pair`, else 0."""
    desirable_weight: float | None = Field(default=None, gt=0)
    """Weight of the desirable answers in the loss `kto`. Null for both weights: where desirable answers are less than 1
    or more than 4/3 times as many as undesirable ones, the rarer kind gets the weight that leads to the nearer end of
    this range, which the KTO paper (arXiv 2402.01306) recommends. If only one weight is given, the other one is 1."""
    undesirable_weight: float | None = Field(default=None, gt=0)
    """Weight of the undesirable answers in the loss `kto`; null as for `desirable_weight`."""
    precompute_reference: bool | Literal["auto"] = "auto"
    """Compute the reference log-probabilities once and cache them, instead of at every step. `auto` does so when the
    run sees every row at least once, and always where `method` is `full`, so that no second model is in memory. Later
    runs on the same rows use the cache."""

    @property
    def is_kto(self) -> bool:
        return self.loss == "kto"

    @property
    def sorts_answers(self) -> bool:
        return self.loss in {"aot", "aot_unpaired"}

    @property
    def is_reference_free(self) -> bool:
        """True if the loss does not use the reference."""
        return self.loss in {"cpo", "simpo", "orpo"}

    @property
    def weight_of_sft(self) -> float:
        """The weight of the loss of SFT on the chosen answers."""
        return (1.0 if self.loss in {"cpo", "orpo"} else 0.0) if self.sft_weight is None else self.sft_weight

    @property
    def margin_of_simpo(self) -> float:
        """The margin of `simpo`."""
        return 0.5 if self.simpo_margin is None else self.simpo_margin

    @classmethod
    def _defaults_for(cls, given: Mapping[str, object]) -> dict[str, object]:
        beta: dict[str, object] = {"beta": _BETA_OF_SIMPO} if given.get("loss") == "simpo" else {}
        return super()._defaults_for(given) | beta

    @model_validator(mode="after")
    def _check_label_smoothing(self) -> Self:
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
    def _check_weights(self) -> Self:
        for name in ("desirable_weight", "undesirable_weight"):
            if (value := getattr(self, name)) is not None and not self.is_kto:
                raise ValueError(f"{name} ({value:g}) has no effect on loss `{self.loss}`. Remove it, or choose `kto`.")
        if self.simpo_margin is not None and self.loss != "simpo":
            raise ValueError(
                f"simpo_margin ({self.simpo_margin:g}) has no effect on loss `{self.loss}`. "
                "Remove it, or choose `simpo`."
            )
        if self.sft_weight is not None and self.loss in {"kto", "sft"}:
            raise ValueError(
                f"sft_weight ({self.sft_weight:g}) has no effect on loss `{self.loss}`, which has no pairs or is the "
                "loss of SFT already. Remove it."
            )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.lora is not None and self.start != "base":
            raise ValueError(
                f"dpo.lora has no effect where dpo.start is `{self.start}`: DPO continues an adapter in its own shape. "
                "Write sft.lora for the adapter of SFT, or set dpo.start: base."
            )
        return self

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.method == "full" and self.precompute_reference is False:
            raise ValueError(
                "precompute_reference is false, and method is `full`: the reference at every step would be a second "
                "model in memory. Remove it, or use `lora`."
            )
        return self


class TeacherSettings(ConfigSection):
    """A cross-encoder that reads question and passage together, and teaches the encoder how it ranks them."""

    model: str
    """The cross-encoder, with one score for a pair: a hub name, a folder, or `package:NAME`."""
    revision: str | None = None
    """Commit, branch or tag of a hub model. Null takes the default branch."""
    max_tokens: PositiveInt = 512
    """Tokens of question and passage together that it reads; the rest of the passage is cut."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of its loss next to the contrast, which counts 1: the divergence of the dense scores of a question's right
    and hard passages from the teacher's. Equal by default, as in FlagEmbedding."""


class EmbeddingSettings(ConfigSection):
    base_model: str
    """The encoder to train: a hub name, a folder, or `package:NAME` for a model in a Python package."""
    revision: str | None = None
    """Commit, branch or tag of a hub model. Null takes the default branch; name a commit to train on the same weights
    again later."""
    pooling: Literal["mean", "cls"] = "mean"
    """Step from token vectors to one dense vector: their `mean`, or the first token's (`cls`). Use the one that the
    base model was trained with: BGE models use `cls`, MiniLM and E5 `mean`."""
    query_prompt: str = ""
    """Text put before every query, as the base model expects it (E5: `"query: "`). It enters the dense vector; a
    lexical head gives its tokens no weight. Empty for models without prompts."""
    passage_prompt: str = ""
    """Text put before every passage, as the base model expects it (E5: `"passage: "`). It enters the dense vector; a
    lexical head gives its tokens no weight. Empty for models without prompts."""
    query_max_tokens: PositiveInt = 64
    """Tokens of a query that are encoded, its prompt included; the rest is cut. Questions are short, and a small limit
    bounds the time of a search."""
    passage_max_tokens: PositiveInt = 256
    """Tokens of a passage that are encoded, its prompt included. Passages are cut to this length when the corpus is
    first cut; after a change `corpus.max_tokens` cuts them again. More tokens take more time and memory."""
    lexical_head: bool = False
    """Train a lexical head too, for `retrieval.lexical: learned`. Off, because BM25 serves by default: the encoder is
    then trained for the dense arm alone, and its artifact has no head."""
    bm25_factors: bool = later(False)
    """Learn factors of BM25's weights too, for `retrieval.lexical: bm25_learned`: for each term of a passage a number
    between 0 and 2. They are taken only where the validation questions are certainly ranked better with them; otherwise
    BM25 serves as it is. Off, because BM25 serves by default."""
    factor_penalty: float = later(10.0, ge=0)
    """Weight of the penalty that holds the factors near 1 (`bm25_factors`): it multiplies their mean square distance
    from 1. Less lets them move farther, and unlearn what BM25 knows. Of three sets, the gain of 10 is certain on
    STARD's validation questions, with no loss on the others; 1 lost on one (docs/retrieval.md)."""
    matryoshka: list[PositiveInt] = []
    """Smaller dimensions to train for, next to the full one; `retrieval.dimension` may then be one of them. Empty
    trains the full dimension alone."""
    epochs: float = Field(default=3.0, ge=0)
    """Passes over the training questions, at most; may be a fraction. 0 trains nothing: the base model serves. The
    pass after which the validation questions are ranked best is kept (see `patience`)."""
    max_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps to stop after, at most. Null trains for `epochs`."""
    batch_size: PositiveInt = 32
    """Questions in one step, each with one right passage. The passages of the other questions are its negatives, so a
    larger batch is a harder task and takes more memory."""
    micro_batch_size: PositiveInt | None = None
    """Texts whose activations are in memory at once, for a `batch_size` beyond the memory: they are computed twice
    (GradCache, arXiv 2101.06983), which takes about a third more time. The loss stays that of the whole batch. Null
    computes all once."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Learning rate of the encoder at its peak; it falls linearly to 0. Small, because the encoder is trained
    already."""
    head_learning_rate: float = Field(default=2e-4, gt=0)
    """Learning rate of the lexical head (`lexical_head`) at its peak. Ten times that of the encoder, because the head
    starts from nothing."""
    lora: LoraSettings | None = None
    """Train an adapter in place of all weights, and merge it when the training ends: a large encoder then needs little
    more memory than its weights. Set `learning_rate` about ten times higher with it. Null trains all weights."""
    warmup_steps: float = Field(default=0.1, ge=0)
    """Optimizer steps in which the rates rise; a value below 1 is a share of all steps. The default, a tenth, is
    that of BGE-M3's own examples."""
    temperature: float = Field(default=0.05, gt=0)
    """Divisor of the dense scores in the loss, and of the fused ones with a lexical head. Smaller punishes near misses
    harder. The default is that of sentence-transformers; BGE-M3 uses 0.02, which was worse for MiniLM on validation
    questions (docs/retrieval.md)."""
    sparse_temperature: float = Field(default=0.05, gt=0)
    """Divisor of the scores of the lexical head (`lexical_head`) in the loss. The head hardly learns with 1.0, an
    earlier default: its loss fell from 3.5 to 3.1 in a training."""
    sparse_loss_weight: float = Field(default=0.3, ge=0)
    """Weight of the loss of the lexical head (`lexical_head`) next to the dense and the fused one, which count 1. The
    default equals the head's share in the fused score; 0 trains the head through the fused score alone."""
    self_distill: bool = True
    """Teach each arm from the fused ranking of the same step (BGE-M3, arXiv 2402.03216), where a lexical head is
    trained. There it lifted the lexical arm from 36.7 to 53.9 nDCG@10 on MIRACL."""
    teacher: TeacherSettings | None = later(None)
    """Learn the scores of a cross-encoder too. Each pair of a question and a passage is scored once, which takes about
    as long as a training step of a model of its size. It needs wrong passages to tell apart (`hard_negatives`, or
    judged ones). Null, because it needs a cross-encoder that knows your language."""
    pretrain: Literal["none", "ict"] = later("none")
    """Train on the corpus itself before the questions: with `ict` (inverse cloze task) a sentence of a passage has to
    find the rest of it. It counts as the first epoch, but not for `patience`. For an encoder that knows little of the
    language. `none`, because it takes time, and a certain gain on validation questions has to be shown first
    (docs/retrieval.md)."""
    pretrain_steps: PositiveInt = later(1000)
    """Steps of `pretrain` at most; the default is a pass over 32,000 passages. Of a larger corpus a sample is read."""
    patience: PositiveInt = 2
    """Epochs without a better ranking of the validation questions after which the training stops. After each epoch
    they are ranked by dense + BM25 (with a lexical head: dense + 0.3 x its scores), and the epoch with the best nDCG@10
    is published, or the base model where all are certainly worse. Without validation questions the last epoch is."""
    hard_negatives: int = Field(default=1, ge=0)
    """Wrong passages added for each question, drawn from the 30 that rank highest by dense + BM25, never one that is
    judged right or nearly equal to a right one. Mined again before every epoch, in the first one mostly by BM25. That
    encodes up to 20,000 passages, which the ranking of the validation questions needs as well."""
    judged_negatives: int = Field(default=1, ge=0)
    """Passages with a judgement of 0 that are added for each question that has some, drawn at random in every step:
    FlagEmbedding's `neg`, and others' hard negatives. Each takes the memory of one more passage; 0 leaves them out."""
    max_unknown_share: float = Field(default=0.05, ge=0, le=1)
    """Share of tokens (0 to 1), in passages or in questions, that the encoder's vocabulary may lack; above it no
    training starts. An English model lacks two thirds of a Chinese question; tokenizers that fall back to bytes lack
    nothing. Judged on up to 2,000 passages and 2,000 questions; the default leaves room for rare signs."""
    seed: int = 42
    """Seed of the order of questions and of the drawn passages. The same seed on the same hardware gives the same
    result."""

    @property
    def masks_prompts(self) -> bool:
        """A lexical head is trained on texts with prompts, whose tokens get no weight."""
        return self.lexical_head and bool(self.query_prompt or self.passage_prompt)

    @model_validator(mode="after")
    def _check_what_is_trained(self) -> Self:
        if self.epochs == 0 and self.pretrain != "none":
            raise ValueError(
                f"pretrain is `{self.pretrain}` and epochs is 0: nothing is trained. Raise epochs, or set "
                "pretrain: none."
            )
        if self.epochs == 0 and self.teacher:
            raise ValueError("teacher is set and epochs is 0: nothing is taught. Raise epochs, or remove teacher.")
        if self.teacher and self.hard_negatives == 0 and self.judged_negatives == 0:
            raise ValueError(
                "teacher is set, hard_negatives is 0 and judged_negatives is 0: a question has one passage, and "
                "nothing to teach. Set hard_negatives: 1 or more."
            )
        return self


class RerankSettings(ConfigSection):
    """A cross-encoder that reads question and passage together and puts the best passages in their final order. It
    costs time in every search, and nothing when passages change."""

    model: str
    """The cross-encoder, with one score for a pair: a hub name, a folder, or `package:NAME`. A change encodes nothing
    and writes no point: the candidate is evaluated with it and without it."""
    revision: str | None = None
    """Commit, branch or tag of a hub model. Null takes the default branch; what counts is the content that was
    evaluated, and another one is refused."""
    top_n: PositiveInt = 30
    """Passages of the fused ranking that are ranked again; those after them keep their order. More find more and take
    more time: each is one pair for the model."""
    max_tokens: PositiveInt = 512
    """Tokens of question and passage together that the model reads; the rest of the passage is cut. 512 is what most
    cross-encoders were trained with."""
    batch_size: PositiveInt = 32
    """Pairs that the evaluation scores at the same time. It decides memory and speed, not the result; it is halved by
    itself when memory runs out."""


class RetrievalSettings(ConfigSection):
    distance: Literal["cosine", "dot", "euclid"] = "cosine"
    """Measure of the dense arm in Qdrant. Vectors have length 1, so all three rank the dense arm alike; choose what
    another service expects. A change builds a new collection."""
    dimension: PositiveInt | None = None
    """Dimensions of the stored dense vectors, for less memory: the model must be trained for it
    (`embedding.matryoshka`). Null keeps all."""
    lexical: Literal["bm25", "learned", "bm25_learned"] = "bm25"
    """The lexical arm: `bm25` over words and pairs of characters of the whole passage, or the weights that the encoder
    has `learned` for its own tokens, as BGE-M3 does (`embedding.lexical_head: true` trains them). `bm25_learned` is
    BM25 times factors of the encoder (`embedding.bm25_factors: true` learns them), where they gain for certain. A
    change writes every point again; to a learned one also encodes all."""
    language: str = "auto"
    """Language of the stems and stop words of `bm25`, such as `english` or `german`. `auto` takes the language whose
    stop words are the largest share of the words; `none` keeps words as they are. Scripts without spaces between words
    are read as pairs of characters in any case."""
    stop_words: list[str] | None = None
    """Words that `bm25` leaves out. Null takes the usual ones of the language, `[]` none."""
    bm25_k1: float = Field(default=1.2, ge=0)
    """Saturation of `bm25`: how much a term counts that occurs again in a passage; 0 counts it once. Lucene's value. A
    change writes every point again and encodes nothing."""
    bm25_b: float = Field(default=0.75, ge=0, le=1)
    """Correction of `bm25` for the length of a passage, from 0 (none) to 1 (full). Lucene's value. A change writes
    every point again and encodes nothing."""
    fusion: Literal["auto", "weighted_sum", "dbsf", "rrf"] = "auto"
    """Method that joins the two arms into one ranking. `weighted_sum` adds the weighted scores, `dbsf` adds scores
    scaled by their distribution, `rrf` adds reciprocal ranks. `auto` is a weighted sum whose weights `fusion_sweep`
    chooses on the validation questions, from the dense arm alone to the lexical arm alone: no fixed weights suit both
    an encoder that is poor on these texts and one that is good. A weight that is set without `fusion` means
    `weighted_sum`. A change costs no encoding."""
    dense_weight: float = Field(default=1.0, ge=0)
    """Factor of the dense score in `weighted_sum`, and in `auto` where the questions are too few for a choice."""
    sparse_weight: float = Field(default=1.0, ge=0)
    """Factor of the lexical score, where `dense_weight` counts. 1.0 suits `bm25`, whose scores lie between 0 and
    `bm25_k1` + 1, with an encoder of about equal strength; with `lexical: learned` set 0.3, BGE-M3's weight."""
    prefetch_limit: PositiveInt = 100
    """Candidates that each arm finds, at least 100 and ten times `top_k`. Both arms score the candidates of both, and
    the fusion ranks them: with 100, the ten best of 5,000 synthetic passages were always those of an exact search. More
    candidates take more time."""
    rerank: RerankSettings | None = later(None)
    """Rank the best passages again with a cross-encoder. Null, because it needs a model that knows your language and
    takes many times as long as the search itself."""
    top_k: PositiveInt = 10
    """Passages that `ft search` shows, unless `-k` is given."""
    evaluate_on: Literal["validation", "test"] = "test"
    """Split whose questions judge a candidate. `test`, because the epoch of the encoder was chosen on validation, and
    maybe the weights."""
    tolerance: float = Field(default=0.02, ge=0)
    """Loss of nDCG@10 and Recall@10 (0 to 1) that a release may have against the current one. A candidate is held when
    its mean loss is larger and the paired 95 % interval excludes 0. 1 accepts any loss, also where the current release
    is gone and cannot be compared with."""
    fused_epsilon: float = Field(default=0.02, ge=0)
    """Loss of nDCG@10 (0 to 1) that the fused ranking may have against its better arm. A candidate is held when its
    mean loss is larger and the paired 95 % interval excludes 0, as for `tolerance`. The fixed weights can lose this
    way on other data: 0.09 was measured on XQuAD-zh, and 0.022 on English abstracts, which 0.05 let pass."""
    max_empty_sparse_share: float = Field(default=0.01, ge=0, le=1)
    """Share of passages (0 to 1) whose lexical vector may be empty. More mean that the lexical head has collapsed, as
    in FlagEmbedding issue 982."""
    max_cut_share: float = Field(default=0.01, ge=0, le=1)
    """Share of passages (0 to 1) that may have more tokens than the encoder reads (`embedding.passage_max_tokens`);
    above it the gate blocks. `corpus.max_tokens` keeps it at 0; a heading of many tokens can be an exception."""
    min_recall_at_10: float = Field(default=0.0, ge=0, le=1)
    """Recall@10 of the fused ranking (0 to 1) that a release needs. 0 asks for none, because the right value depends on
    your questions."""
    nothing_found_share: float = Field(default=0.05, ge=0, lt=1)
    """Share (0 to 1) of the questions with an answer for which a search may say that nothing was found. The score below
    which it says so lies under the best scores of all other validation questions. 0.05 needs 19 of them; fewer, or
    scores that do not tell questions with and without an answer apart, give no such score. 0 turns it off."""
    keep: PositiveInt = 3
    """Released collections to keep for a rollback; older ones are deleted after a release. The current one is always
    kept."""

    @model_validator(mode="before")
    @classmethod
    def _weights_are_kept(cls, values: object) -> object:
        """Without `fusion`, a weight that somebody wrote is the weight that serves."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, object]", values)
        weighted = "fusion" not in given and not given.keys().isdisjoint({"dense_weight", "sparse_weight"})
        return {**given, "fusion": "weighted_sum"} if weighted else given

    @field_validator("language")
    @classmethod
    def _language_is_known(cls, language: str) -> str:
        known = ["auto", NO_LANGUAGE, *stemmed_languages()]
        if language not in known:
            raise ValueError(f"`{language}` is no language with stems. Write one of: {', '.join(known)}.")
        return language

    @model_validator(mode="after")
    def _check_ranking(self) -> Self:
        if self.dense_weight == 0 and self.sparse_weight == 0:
            raise ValueError("dense_weight and sparse_weight are both 0: nothing would be ranked. Raise one.")
        if self.distance == "euclid" and self.fusion == "dbsf":
            raise ValueError(
                "fusion `dbsf` adds scores, and a nearer point has a smaller euclidean distance: the dense arm would "
                "rank in reverse order. Use `weighted_sum` or `rrf`, or another distance."
            )
        if self.rerank and self.rerank.top_n > self.prefetch_limit:
            raise ValueError(
                f"rerank.top_n ({self.rerank.top_n}) is larger than prefetch_limit ({self.prefetch_limit}): there may "
                "be fewer candidates than passages to rank again. Raise prefetch_limit or lower rerank.top_n."
            )
        if self.prefetch_limit < max(100, 10 * self.top_k):
            raise ValueError(
                f"prefetch_limit ({self.prefetch_limit}) must be at least max(100, 10 * top_k) = "
                f"{max(100, 10 * self.top_k)}: a passage that neither arm finds is not ranked."
            )
        return self


class AnswerSettings(ConfigSection):
    top_k: PositiveInt = 3
    """Retrieved passages in the prompt of `answer_evaluation`. Few, because each one makes the prompt longer and the
    answers slower."""
    max_new_tokens: PositiveInt = 32
    """Tokens of reasoning and answer together, at most. The default suits answers of a few words; a model that reasons
    needs some thousands."""
    max_questions: PositiveInt = 200
    """Held-out questions that every compared model answers, at most. More make the intervals narrower and the
    evaluation longer."""
    batch_size: PositiveInt = 8
    """Questions answered at the same time. It decides memory and speed; it is halved by itself when memory runs
    out."""
    system: str = ""
    """System message of every chat, in training and serving; a row's own `system` goes before it. Empty: no system
    message."""
    prompt: str = "Background:\n{passages}\n\nQuestion: {question}\nAnswer:"
    """The RAG prompt, for training and serving alike; it must hold {passages} and {question}. A change makes a trained
    adapter fail `prompt_is_served` until it is trained again."""
    passage_separator: str = "\n"
    """Text between two passages in the prompt; like the prompt, the same in training and serving."""
    tolerance: float = Field(default=0.05, ge=0)
    """Loss of character F1 (0 to 1) that a release may have against the base model and the current release. A candidate
    is held when its mean loss is larger and the paired 95 % interval excludes 0."""
    max_open_thoughts: float = Field(default=0.1, ge=0, le=1)
    """Share (0 to 1) of a reasoning model's replies that may end with the reasoning still open, mostly because
    `max_new_tokens` ended them; above it the check warns. Such a reply has no answer."""
    seed: int = 42
    """Seed of the bootstrap intervals. Answers need none: they are generated greedily."""

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        for place in ("{passages}", "{question}"):
            if place not in self.prompt:
                raise ValueError(f"prompt lacks {place}. Add it.")
        return self


class ArtifactSettings(ConfigSection):
    keep: PositiveInt = 5
    """Artifacts to keep for each asset, and last releases whose artifacts are kept as well (at least `retrieval.keep`
    of them). What is released or current is never removed, nor is what it was made from. Lower it when the disk is
    full."""


class ReleaseSettings(ConfigSection):
    prefer: Literal["best", "sft", "dpo"] = "best"
    """The trained adapter that `released_adapter` takes. `best`: the one with the higher F1 of generated answers to the
    validation questions, then the higher exact match; DPO must be better than the SFT that it continues, or the SFT is
    released. `sft` or `dpo`: that one, whichever is better. The gates then judge it on the test questions."""


class PriceSettings(ConfigSection):
    input: float = Field(ge=0)
    """Price of a million prompt tokens, in your currency."""
    output: float = Field(ge=0)
    """Price of a million generated tokens, in the same currency."""


class GeneratorSettings(ConfigSection):
    kind: Literal["local", "endpoint"] = "local"
    """The back end of `kbalign` and `ddr`: a model in this process, or an OpenAI-compatible endpoint
    (vLLM, SGLang, llama.cpp, Ollama, a hosted one). The key of an endpoint comes from FT_GENERATOR_API_KEY."""
    base_model: str | None = None
    """The local model: a hub name, a folder or `package:<name>`. Null takes `sft.base_model` (or `dpo.base_model`)."""
    revision: str | None = None
    """Branch, tag or commit of the local model on the hub; only with `base_model`."""
    url: str | None = None
    """Address of the endpoint up to `/v1`: `http://127.0.0.1:8000/v1`. A key is refused over plain http, except to the
    loopback."""
    model: str | None = None
    """The model's name at the endpoint. A reply of another model is refused."""
    context_tokens: PositiveInt | None = None
    """Tokens that the endpoint reads, prompt and answer together. A server that cuts a longer prompt seldom says so,
    therefore a longer prompt is refused here."""
    concurrency: PositiveInt = 8
    """Requests at one time to an endpoint, at most. The number is halved when the server is busy (429, 503) and rises
    again by itself."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds until a request counts as failed and is tried again."""
    max_retries: int = Field(default=5, ge=0)
    """Further attempts for a request that failed for a passing reason (429, 5xx, a reset connection, a timeout)."""
    batch_size: PositiveInt = 16
    """Texts that a local model generates at the same time. It decides memory and speed; it is halved by itself when
    memory runs out."""
    max_tokens_total: PositiveInt | None = None
    """Tokens (prompt and answer) that the new calls of one asset's run may take. A run that reaches it stops and
    publishes nothing; the next run continues where it stopped. Null: no limit."""
    price: PriceSettings | None = None
    """Prices, for `ft estimate`. Null: no money is shown."""

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        needed = {"url": self.url, "model": self.model, "context_tokens": self.context_tokens}
        if self.kind == "endpoint":
            missing = [name for name, value in needed.items() if value is None]
            if missing:
                raise ValueError(f"kind is `endpoint` and {', '.join(missing)} is missing. Add it.")
            parts = urlsplit(self.url or "")
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
                raise ValueError("url must be http(s)://host:port/v1, without a user, a key or a query. Correct it.")
        elif given := [name for name, value in needed.items() if value is not None]:
            raise ValueError(f"{', '.join(given)} is only for `kind: endpoint`. Remove it, or set kind: endpoint.")
        if self.revision is not None and self.base_model is None:
            raise ValueError("revision is given and base_model is not. Write the base_model that it belongs to.")
        return self


class KbalignSettings(ConfigSection):
    author: Literal["tuned", "prompted"] = "tuned"
    """The model that asks the questions. `tuned`: an adapter trained on the training rows turned round (passage and
    answer -> question), which a small model needs; `prompted`: the generator itself, with examples, for a large model
    (of 93 prompted questions of a 135M model none was usable, of 86 tuned ones 15 were)."""
    author_steps: PositiveInt = 64
    """Training steps of a tuned author, each of 8 rows; half of the rows ask and half answer. A 135M model had 6 % of
    its candidates verified after 32 steps, 12 % after 64."""
    judge: Literal["author", "generator", "released"] = "author"
    """The model that answers a question from its passage, to see whether it agrees with the answer: the tuned `author`
    (trained to answer as well), the `generator` as it is, or the `released` adapter. It is judged itself first, on
    held-out rows."""
    max_passages: PositiveInt | None = None
    """Passages that are asked about, at most, chosen by the hash of their content, so that a growing corpus keeps
    those chosen before. Null: all of the training part."""
    short_per_passage: int = Field(default=3, ge=0)
    """Questions wanted from one passage."""
    long_per_document: int = Field(default=1, ge=0)
    """Questions wanted that need several passages of a document."""
    max_tries: PositiveInt = 2
    """Attempts for one question: with another sample, then with another span of the passage."""
    target: PositiveInt | None = None
    """Accepted rows after which no further passage is asked about. Null: no limit."""
    few_shot: int = Field(default=4, ge=0)
    """Examples in the prompt of a prompted author, from training rows only."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of questions. Above 0, so that another attempt is another question."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of the probability from which a token of a question is drawn."""
    max_new_tokens: PositiveInt = 48
    """Tokens of a question or of a judge's answer, at most."""
    max_cloze_share: float = Field(default=0.2, ge=0, le=1)
    """Share of gap-fill questions among the accepted rows, at most. They need no model; 0 makes none."""
    agree_f1: float = Field(default=0.6, gt=0.5, le=1)
    """F1 (0 to 1) between the judge's answer and the row's answer from which they agree. Above 0.5, because two words
    of which one is wrong have exactly 0.5."""
    max_false_accept: float = Field(default=0.1, ge=0, le=1)
    """Share of wrong answers (to held-out questions) that the judge may accept; above it nothing is verified by it."""
    min_judge_recall: float = Field(default=0.15, ge=0, le=1)
    """Share of right answers that the judge must accept, at least."""
    found_in_top: PositiveInt = 5
    """Rank up to which the retriever must find the passage of a question."""
    closed_book: Literal["mark", "quarantine"] = "mark"
    """How to treat a question that the judge answers without the passage: `mark` keeps the row and says so."""
    references_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the rows that carry their passage; the others carry passages as the retriever finds them."""
    min_verified_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the candidates that must be verified, or the gate blocks. A 135M model has 0.12; below half of that
    something is wrong."""
    seed: int = 42
    """Seed of spans and samples."""

    @model_validator(mode="after")
    def _check_judge(self) -> Self:
        if self.judge == "author" and self.author == "prompted":
            raise ValueError(
                "judge is `author` and the author is only prompted: the generator would judge itself. Write "
                "judge: generator if you mean that, or judge: released."
            )
        if self.max_tries > 1 and not self.temperature:
            raise ValueError("max_tries above 1 needs a temperature above 0: a greedy text never changes.")
        return self


class DdrSettings(ConfigSection):
    model: Literal["sft", "released", "base"] = "sft"
    """The model that answers the training questions: the `sft` adapter, the `released` adapter, or the `base`."""
    round: PositiveInt = 1
    """The number of this round. From 2 on the answers come from an adapter of the round before: see `parent`."""
    parent: str | None = None
    """Recipe id of the DPO adapter that answers in round 2 and later, as `ft status` shows it."""
    max_questions: PositiveInt | None = None
    """Training questions that are answered, at most, chosen by the hash of their id. Null: all."""
    top_k: PositiveInt | None = None
    """Retrieved passages in a prompt. Null takes `answers.top_k`."""
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(default=[0.0, 0.7, 1.0], min_length=1)
    """Sampling temperatures, each with passages and without. 0 is the likeliest answer."""
    samples: PositiveInt = 2
    """Answers at each temperature above 0."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of the probability from which a token of an answer is drawn."""
    max_new_tokens: PositiveInt | None = None
    """Tokens of an answer, at most. Null takes `answers.max_new_tokens`."""
    reward: Literal["f1", "rouge_l", "exact_match"] = "f1"
    """The score of an answer against the right one: the same as in the evaluations."""
    min_margin: float = Field(default=0.3, ge=0, le=1)
    """Score by which the chosen answer must be better than the rejected one. Smaller differences are noise."""
    min_chosen: float = Field(default=0.7, ge=0, le=1)
    """Score that the chosen answer must have. Half of the best answers of a small model are wrong."""
    rejected: Literal["frequent", "lowest"] = "frequent"
    """The rejected answer: the most `frequent` wrong one, or the one with the `lowest` score."""
    prefer: Literal["none", "evidence", "memory"] = "none"
    """Among equally good answers, take the one with passages (`evidence`), without (`memory`), or the more frequent one
    (`none`)."""
    held_out_passages: Literal["drop", "keep"] = "drop"
    """Passages of documents that validation or test hold out: `drop` them from a prompt and take the next hit."""
    seed: int = 42
    """Seed of the samples."""

    @property
    def asks_sft(self) -> bool:
        """True if the present SFT adapter answers."""
        return self.model == "sft" and self.parent is None

    @property
    def asks_released(self) -> bool:
        """True if the released adapter answers."""
        return self.model == "released" and self.parent is None

    @model_validator(mode="after")
    def _check_round(self) -> Self:
        if self.round > 1 and self.parent is None:
            raise ValueError(
                f"round is {self.round} and parent is missing. Write the recipe id of the DPO adapter of round "
                f"{self.round - 1} (ft status shows it)."
            )
        if self.round == 1 and self.parent is not None:
            raise ValueError("parent is given and round is 1: the first round has no parent. Set round: 2.")
        if self.min_chosen < self.min_margin:
            raise ValueError(
                f"min_chosen ({self.min_chosen}) is below min_margin ({self.min_margin}): no pair could have such a "
                "chosen answer. Raise the first, or lower the second."
            )
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures names one twice: {self.temperatures}. Remove it.")
        return self


class StorageSettings(ConfigSection):
    on_disk: bool = False
    """Keep vectors, index and payloads on disk, and only what is used in memory: slower, for collections that memory
    does not hold."""
    quantization: Literal["none", "int8", "binary"] = "none"
    """Smaller copies of the dense vectors, kept in memory to find candidates: `int8` takes a quarter of the memory,
    `binary` 1/32, for models of 1,024 dimensions and more. The exact vectors rank the candidates, and the gate
    `served_is_exact` measures what is lost."""
    oversampling: float | None = Field(default=None, ge=1)
    """Candidates that the smaller copies find, as a multiple of the answers. More lose less and take longer. Null: 2
    with `quantization`; without, it has no effect and is refused."""
    hnsw_m: PositiveInt | None = None
    """Edges of a point in the HNSW index. More find more of the exact answers, and take memory and time. Null: the
    engine's own, 16."""
    hnsw_ef_construct: PositiveInt | None = None
    """Neighbours that are looked at when the index is built. More make a better index, more slowly. Null: the
    engine's own, 100."""
    shards: PositiveInt | None = None
    """Parts of a collection on a cluster, fixed when it is built: one or two a node, with room for more nodes. Only
    with `engine: server`. Null: one a node."""
    replicas: PositiveInt | None = None
    """Nodes that keep each part: 2 or more, so that a node may fail. Only with `engine: server`. Null: 1."""

    @model_validator(mode="after")
    def _check_oversampling(self) -> Self:
        if self.oversampling and self.quantization == "none":
            raise ValueError("oversampling has no effect without quantization. Set quantization: int8, or remove it.")
        return self


def login_in_address(name: str, url: str | None) -> str:
    """Return why an address of Qdrant with a user name or a password is refused, or an empty text.

    The value is left out: an error is printed and logged.
    """
    address = urlsplit(url if "//" in (url or "") else f"//{url or ''}")
    if not address.username and not address.password:
        return ""
    return (
        f"{name} holds a user name or a password, which would be in the settings, recipes and logs. Remove it, and put "
        "the API key into QDRANT_API_KEY."
    )


class QdrantSettings(ConfigSection):
    engine: Literal["local", "server", "edge"] = "edge"
    """`edge` is Qdrant's own engine in this process, with its points below the state folder: an index, a log, no
    service. `server` needs `url`, and its API key comes from QDRANT_API_KEY. `local` is qdrant-client's engine in
    Python, in small files; it compares a query with every point and is refused above 20,000 passages."""
    url: str | None = None
    """Address of the server, `https://host:6333`; only with `engine: server`. A key is refused over plain http, except
    to the loopback."""
    collection: str = "passages"
    """Name of the alias that serves. Collections are named after it; other services query the alias."""
    lock_timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for another process that has the embedded engine open (`local`, `edge`). With a minute, a
    short search in one process does not fail the other."""
    storage: StorageSettings | None = later(None)
    """The way a collection is stored, for large ones. A change builds a new collection and encodes nothing. Null leaves
    all of it to the engine."""

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.engine == "server" and not self.url:
            raise ValueError("qdrant.engine is `server` but qdrant.url is not set. Set it, or use `edge`.")
        if reason := login_in_address("qdrant.url", self.url):
            raise ValueError(reason)
        if self.engine != "server" and self.url:
            raise ValueError(f"qdrant.url is set but qdrant.engine is `{self.engine}`. Choose one.")
        if self.engine == "local" and self.storage:
            raise ValueError("qdrant.storage has no effect on engine `local`, which keeps all in memory. Use edge.")
        if self.engine != "server" and self.storage and (self.storage.shards or self.storage.replicas):
            raise ValueError(f"storage.shards and storage.replicas need a server; qdrant.engine is `{self.engine}`.")
        return self


class RaySettings(ConfigSection):
    address: str
    """Address of the cluster's dashboard, `http://head:8265`. Its token comes from the environment (RAY_AUTH_TOKEN)."""
    python: str = "python"
    """Command of the Python on the cluster's nodes that has ft-assets, of the same version as here."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that one worker asks for. It computes with as many threads, unless `launcher.threads` names another
    number."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that one worker asks for; 0 keeps all GPUs from it."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory that one worker asks for, in GB (`ft estimate` shows what a training needs). Null asks for none, and Ray
    then puts a worker wherever a CPU is free."""
    encoders: PositiveInt = 1
    """At most so many actors encode a corpus side by side, on as many nodes as it takes, each with `cpus`, `gpus` and
    `memory_gb`. Fewer start where the cluster has less room: the worker that waits for them holds as much as one of
    them, and one CPU is left. Below some 50,000 passages they only cost."""
    generators: PositiveInt = 1
    """At most so many actors, by the same rules, answer the calls of a local model side by side: `kbalign_short`,
    `kbalign_long`, `kbalign_verified`, `ddr_candidates` and the evaluations of answers. Each loads the model. An
    endpoint needs none: one process keeps `generator.concurrency` requests under way."""


class LauncherSettings(ConfigSection):
    kind: Literal["inline", "subprocess", "torchrun", "ray"] = "subprocess"
    """Place of heavy work: `subprocess` runs it in one child process, so that its memory is given back and it can be
    stopped; `inline` in the same process, for debugging; `torchrun` trains adapters in `processes` processes and runs
    all other work as `subprocess` does; `ray` runs it as a job of the cluster that `ray` names."""
    processes: PositiveInt = 1
    """Processes of one adapter training, on as many GPUs (or on the CPU's cores). More than 1 needs `kind: torchrun`,
    all of them on this machine, or `kind: ray`: on any nodes, each with `ray.cpus` and `ray.gpus`."""
    threads: PositiveInt | None = None
    """Compute threads of one worker, shared among its processes. Null takes OMP_NUM_THREADS for each of them where it
    is set, else the cores that this process may use."""
    ray: RaySettings | None = None
    """The cluster of `kind: ray`, and what a worker asks of it."""

    @model_validator(mode="after")
    def _check_ray(self) -> Self:
        if (self.kind == "ray") != (self.ray is not None):
            given = "is not set" if self.ray is None else "is set"
            raise ValueError(f"kind is `{self.kind}` and ray {given}. Set both kind: ray and ray.address, or neither.")
        return self

    @model_validator(mode="after")
    def _check_processes(self) -> Self:
        if self.processes > 1 and self.kind not in {"torchrun", "ray"}:
            raise ValueError(
                f"processes ({self.processes}) needs kind `torchrun` or `ray`, not `{self.kind}`. Set one of them, or "
                "processes: 1."
            )
        return self


class AcceleratorSettings(ConfigSection):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of every model. `auto` takes the GPU if there is one; `cuda` makes a missing GPU an error (FT-ACC-001)
    instead of a slow surprise."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the computation. `auto` takes bfloat16 where the hardware has it (on a CPU: AMX or AVX512-BF16,
    measured 2.3 times faster encoding), float16 on other GPUs, else float32. A CPU refuses float16 (FT-ACC-002)."""


class NotifySettings(ConfigSection):
    command: list[str] = []
    """Program and its arguments, started once for each event with one JSON object on its standard input: `event`
    (released, rolled back, training finished, check failed, configuration invalid), `asset`, `text`, `details` and
    `state`. A relative path starts where `ft ui` runs. Empty: none. One that fails is tried again after 30 s."""
    webhook: str | None = None
    """Name of the environment variable with the address to which the same JSON is posted. Chats show its `text`. The
    address itself is a secret and never in this file. Null: none."""

    @model_validator(mode="after")
    def _check_webhook(self) -> Self:
        if self.webhook and not self.webhook.isidentifier():
            # without the value: it may be the secret
            raise ValueError("notify.webhook is not the name of an environment variable. Put the address into one.")
        return self

    @property
    def is_set(self) -> bool:
        """True if a notice has a place to go to."""
        return bool(self.command or self.webhook)


class TelemetrySettings(ConfigSection):
    report_to: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]
    """Trackers that get the figures of a training of the language model. `tensorboard` is written into the
    run folder if it is installed. `wandb` and `mlflow` (extras of these names) are configured by their own environment
    variables, keys included; without MLFLOW_TRACKING_URI the runs are kept in mlflow.db below the state folder. No
    result depends on it."""


class Settings(ConfigSection):
    """All of config.yaml, after profile and environment. Sections in `SETTINGS_ASSETS` are assets.

    `sft`, `dpo`, `embedding`, `kbalign` and `ddr` may be left out: the graph then has no asset that needs them.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this file's keys. A release refuses a version that it does not read."""
    corpus: CorpusSettings
    datasets: DatasetSettings = DatasetSettings()
    sft: SftSettings | None = None
    dpo: DpoSettings | None = None
    embedding: EmbeddingSettings | None = None
    retrieval: RetrievalSettings = RetrievalSettings()
    answers: AnswerSettings = AnswerSettings()
    generator: GeneratorSettings = GeneratorSettings()
    kbalign: KbalignSettings | None = None
    ddr: DdrSettings | None = None
    release: ReleaseSettings = ReleaseSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    qdrant: QdrantSettings = QdrantSettings()
    launcher: LauncherSettings = LauncherSettings()
    accelerator: AcceleratorSettings = AcceleratorSettings()
    notify: NotifySettings = NotifySettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def trainings(self) -> dict[str, SftSettings | DpoSettings]:
        """The sections of the trainings of the language model, in their order."""
        named = {"sft": self.sft, "dpo": self.dpo}
        return {name: section for name, section in named.items() if section is not None}

    def local_generator(self) -> tuple[str, str | None]:
        """Return the name and the revision of the local model that generates: the base model of the trainings, where
        no other one is named; empty where there is none."""
        for section in (self.generator, *self.trainings.values()):
            if section.base_model:
                return section.base_model, section.revision
        return "", None

    def shape_of_adapter(self, section: SftSettings | DpoSettings) -> AdapterSettings:
        """Return the shape of the adapter that a training makes. Of an adapter in a folder: the defaults."""
        if isinstance(section, SftSettings):
            return section.lora
        return self.sft.lora if section.start == "sft" and self.sft else section.lora or AdapterSettings()

    @model_validator(mode="before")
    @classmethod
    def _name_the_base_once(cls, values: object) -> object:
        """Give `dpo` the base model of `sft` where it names none."""
        if not isinstance(values, Mapping):
            return values
        sections = cast("Mapping[str, object]", values)
        if not all(isinstance(sections.get(name), Mapping) for name in ("sft", "dpo")):
            return sections
        sft, dpo = (cast("Mapping[str, object]", sections[name]) for name in ("sft", "dpo"))
        named = {} if "base_model" in dpo else {name: sft[name] for name in ("base_model", "revision") if name in sft}
        return {**sections, "dpo": {**named, **dpo}}

    @model_validator(mode="after")
    def _check_base_models(self) -> Self:
        if self.dpo is None:
            return self
        if self.sft is None:
            if self.dpo.start == "sft":
                raise ValueError(
                    "dpo is set and sft is not: DPO continues the SFT adapter. Add the section sft, or set dpo.start: "
                    "base (or the folder of an adapter)."
                )
            return self
        if (self.sft.base_model, self.sft.revision) != (self.dpo.base_model, self.dpo.revision):
            raise ValueError(
                f"dpo.base_model ({self.dpo.base_model}) must be sft.base_model ({self.sft.base_model}): "
                "their adapters are compared on one base. Set both to the same model and revision."
            )
        return self

    @model_validator(mode="after")
    def _check_generated(self) -> Self:
        for name, section, maker in (("sft", self.sft, "kbalign"), ("dpo", self.dpo, "ddr")):
            if section and section.generated and getattr(self, maker) is None:
                raise ValueError(
                    f"{name}.generated is true and there is no section {maker}, which makes these rows. Add it "
                    f"(`{maker}: {{}}` takes the defaults), or set {name}.generated: false."
                )
        return self

    @model_validator(mode="after")
    def _check_generator(self) -> Self:
        asking = [name for name, section in (("kbalign", self.kbalign), ("ddr", self.ddr)) if section is not None]
        if asking and self.generator.kind == "local" and not (self.generator.base_model or self.trainings):
            raise ValueError(
                f"{' and '.join(asking)} needs a model and none is named: add generator.base_model, or generator.kind: "
                "endpoint."
            )
        if self.generator.kind == "endpoint":
            if self.kbalign and self.kbalign.author == "tuned":
                raise ValueError(
                    "generator.kind is `endpoint` and kbalign.author is `tuned`: an adapter cannot be put on a model "
                    "that is served elsewhere. Set kbalign.author: prompted, or generator.kind: local."
                )
            if self.ddr and self.ddr.parent:
                raise ValueError(
                    f"generator.kind is `endpoint` and ddr.parent is an adapter of this store ({self.ddr.parent}). "
                    "Serve it there and set ddr.round: 1 and ddr.model: base, or set generator.kind: local."
                )
            if self.ddr and self.ddr.model != "base":
                raise ValueError(
                    f"generator.kind is `endpoint` and ddr.model is `{self.ddr.model}`: only the model that is served "
                    "can be asked. Serve the adapter there and set ddr.model: base, or set generator.kind: local."
                )
        return self

    @model_validator(mode="after")
    def _check_lexical_head(self) -> Self:
        kind = self.retrieval.lexical
        if self.embedding is None or kind == "bm25":
            return self
        key, nothing = {
            "learned": ("lexical_head", "no lexical head would be trained"),
            "bm25_learned": ("bm25_factors", "no factors would be learned"),
        }[kind]
        if not getattr(self.embedding, key):
            raise ValueError(
                f"retrieval.lexical is `{kind}` and embedding.{key} is false: {nothing}. "
                f"Set embedding.{key}: true, or retrieval.lexical: bm25."
            )
        return self

    @model_validator(mode="after")
    def _check_passage_lengths(self) -> Self:
        tokens = self.corpus.max_tokens
        if self.embedding and isinstance(tokens, int) and tokens > self.embedding.passage_max_tokens:
            raise ValueError(
                f"corpus.max_tokens ({tokens}) is more than embedding.passage_max_tokens "
                f"({self.embedding.passage_max_tokens}): the encoder would not read the end of a passage. Lower the "
                "first, or raise the second."
            )
        return self

    @model_validator(mode="after")
    def _check_methods(self) -> Self:
        if not (self.sft and self.dpo and self.dpo.start == "sft"):
            return self
        if self.sft.method == "full" and self.dpo.method != "full":
            raise ValueError(
                f"dpo.method ({self.dpo.method}) must be `full` where sft.method is `full`: an adapter is "
                "trained on the base model, and SFT replaces that model. Set dpo.method: full, or sft.method: lora."
            )
        return self

    @model_validator(mode="after")
    def _check_batches_of_processes(self) -> Self:
        for name, section in (("sft", self.sft), ("dpo", self.dpo)):
            if section is None:
                continue
            processes, rows = self.launcher.processes, section.micro_batch_size
            at_once, meant = processes, f"launcher.processes ({processes})"
            if rows != "auto":
                at_once = rows * processes
                meant = f"{name}.micro_batch_size x launcher.processes ({rows} x {processes} = {at_once})"
            if section.global_batch_size % at_once:
                raise ValueError(
                    f"{name}.global_batch_size ({section.global_batch_size}) must be a multiple of {meant}. "
                    "Change one of them."
                )
        return self


# Section of config.yaml -> the asset that holds it.
SETTINGS_ASSETS: dict[str, str] = {
    "corpus": "corpus_settings",
    "datasets": "dataset_settings",
    "sft": "sft_settings",
    "dpo": "dpo_settings",
    "embedding": "embedding_settings",
    "retrieval": "retrieval_settings",
    "answers": "answer_settings",
    "kbalign": "kbalign_settings",
    "ddr": "ddr_settings",
    "release": "release_settings",
    "qdrant": "qdrant_settings",
}

# A name that other tools or earlier releases use -> the key to write.
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
    "load_best_model_at_end": "checkpoint: best",
    "metric_for_best_model": "best_by",
    "early_stopping_patience": "patience",
    "optim": "optimizer",
    "per_device_train_batch_size": "micro_batch_size",
    "train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "global_batch_size (accumulation is derived)",
    "num_train_epochs": "epochs",
    "lr_scheduler_type": "scheduler",
    "model_name_or_path": "base_model",
    "lora": "sft.lora (DPO continues the SFT adapter, in its shape)",
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


def section_of(annotation: object) -> type[BaseModel] | None:
    """Return the model of a field that is a section, also of one that may be left out; None for a key."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def section_model(section: str) -> type[BaseModel]:
    """Return the model of a section of config.yaml."""
    model = section_of(Settings.model_fields[section].annotation)
    if model is None:
        raise KeyError(section)
    return model


def missing_sections(settings: Settings) -> list[str]:
    """Return the sections with an asset that config.yaml leaves out."""
    return [section for section in SETTINGS_ASSETS if getattr(settings, section) is None]


def missing_data(settings: Settings) -> dict[str, str]:
    """Return the trainings of the language model without data, where the other one has some: asset -> the key of its
    files. Where neither has, both stay, and say so when they run."""
    data = settings.datasets
    unpaired = data.unpaired_preference.files if settings.dpo and settings.dpo.is_kto else []
    has_answers, has_pairs = (
        bool(data.instruction.files),
        bool(data.preference.files or unpaired or (settings.dpo and settings.dpo.generated)),
    )
    if has_answers and not has_pairs:
        return {"dpo_adapter": "datasets.preference.files"}
    if has_pairs and not has_answers and settings.dpo and settings.dpo.start != "sft":
        return {"sft_adapter": "datasets.instruction.files"}
    return {}


def sections_json(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return section -> its plain JSON values, for the sections with an asset that are there."""
    missing = missing_sections(settings)
    return {name: getattr(settings, name).model_dump(mode="json") for name in SETTINGS_ASSETS if name not in missing}
