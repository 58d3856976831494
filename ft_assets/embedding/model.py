"""One backbone with a dense head and, if wanted, a lexical one: a weight for each token that occurs (as in BGE-M3,
arXiv 2402.03216).

`model/` is a plain sentence-transformers folder: any SentenceTransformer loads it as the dense half. The contract, and
the lexical head if there is one, are stored next to it. Encoding keeps only (token id, weight) pairs, never a row as
wide as the vocabulary.
"""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expectations.canonical import digest, file_digest
from expectations.contracts.embedding import (
    CONTRACT_FILE,
    Base,
    Dense,
    EmbeddingContract,
    Probe,
    Sparse,
    Texts,
    read_contract,
)
from expectations.lexical.bm25 import Bm25
from ft_assets.config.model import EmbeddingSettings, LoraSettings
from ft_assets.embedding.factors import FACTORS_FILE, FactorHead, TermTokens, tokens_of_terms, weigh
from ft_assets.embedding.sparse import SparseVector
from resources.accelerator import Compute, choose
from resources.artifacts import library_versions, write_json
from resources.memory import with_smaller_batches
from resources.model_check import require_all_read
from resources.models import model_fingerprint, silence_progress_bars

Kind = Literal["query", "passage"]

MODEL_FOLDER = "model"
HEAD_FILE = "lexical_head.safetensors"
_TOKENISED = 1024  # texts that the tokenizer takes at once
_RECORDED_LIBRARIES = ("torch", "transformers", "tokenizers")
# Padding included. Fewer on a CPU, because of its cache: measured 15 % faster than with 8192.
BATCH_TOKENS = {"cpu": 4096, "cuda": 8192}
# An untrained head gives every token this weight, so that the score before training is plain term overlap, on the scale
# of trained weights.
UNTRAINED_WEIGHT = 0.25

# Two languages, both kinds, long and short, digits and names: enough to detect a changed tokenizer or kernel.
PROBES: tuple[tuple[Kind, str], ...] = (
    ("query", "How long is the warranty on a refurbished pump?"),
    ("query", "Which port does the metrics endpoint listen on?"),
    ("query", "Who signs off a release on Fridays?"),
    ("query", "error code E-4102 after firmware 3.8.1"),
    ("passage", "The night shift hands over at 06:30; open incidents are listed on the whiteboard by the north door."),
    ("passage", "Invoices above 5,000 euros need two signatures, one of them from outside the ordering department."),
    (
        "passage",
        "Before cleaning the filter, close both valves, wait ten minutes and let the pressure fall below 0.2 bar.",
    ),
    ("passage", "A refund is paid to the card that was charged. Vouchers are returned as vouchers, never as money."),
    ("query", "年假没有休完可以折算成工资吗?"),
    ("query", "更换滤芯之前要等多长时间?"),
    ("query", "谁负责周末的值班安排?"),
    ("query", "设备报警代码 A17 是什么意思?"),
    ("passage", "合同解除后,双方应在三十日内完成结算,逾期未付的款项按日加收万分之五的违约金。"),
    ("passage", "仓库的温度应保持在十八至二十二摄氏度之间,湿度超过百分之六十时开启除湿机。"),
    ("passage", "员工入职满一年后可享受五天带薪年假,工龄每增加一年增加一天,最多不超过十五天。"),
    ("passage", "系统每天凌晨两点备份数据库,备份文件保留三十天,恢复演练每季度进行一次。"),
)


class Encoded(NamedTuple):
    """Vectors of N texts: `dense` float32 [N, D], `sparse` N pairs; `cut` texts reached the token limit."""

    dense: np.ndarray
    sparse: Sequence[SparseVector]
    cut: int


class LexicalHead(nn.Module):
    """relu(w·h + b): the weight of each token of a text. [B, T, D] -> [B, T]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, UNTRAINED_WEIGHT)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.relu(self.linear(hidden)).squeeze(-1)


class HybridEncoder:
    """Encodes texts as dense and lexical vectors, by the rules of `contract`."""

    def __init__(
        self, backbone: Any, tokenizer: Any, head: LexicalHead | None, contract: EmbeddingContract, compute: Compute
    ):
        self.compute = compute
        self.backbone = backbone.to(compute.device)
        self.head = head and head.to(compute.device)
        self.tokenizer = tokenizer
        self.contract = contract
        self.factors: FactorHead | None = None
        """Factors of BM25's weights, where they were trained and taken."""
        self._masked = torch.tensor(contract.sparse.masked_ids, device=compute.device)
        prompts = {contract.texts.query_prompt, contract.texts.passage_prompt} if contract.sparse.prompts else set()
        self._prompts = [
            torch.tensor(self._read_prompt(text), device=compute.device) for text in sorted(prompts) if text
        ]
        """The first tokens of a text with a prompt, to the prompt's end."""
        self.eval()

    # -- load and save ------------------------------------------------------------------------------------------
    @classmethod
    def from_base(
        cls, folder: Path, settings: EmbeddingSettings, base_version: str, compute: Compute | None = None
    ) -> HybridEncoder:
        """Return a base model, with an untrained lexical head (equal weights for all tokens) if it is wanted."""
        # layers that the checkpoint lacks (a pooler that nothing reads) are random: the seed makes them reproducible
        torch.manual_seed(settings.seed)
        backbone, tokenizer = _load_backbone(folder)
        width = int(backbone.config.hidden_size)
        head = LexicalHead(width) if settings.lexical_head else None
        contract = EmbeddingContract(
            weights_sha256=model_fingerprint(folder)["weights"],
            base=Base(name=settings.base_model, version=base_version, revision=settings.revision),
            dense=Dense(dimensions=trained_dimensions(width, settings.matryoshka), pooling=settings.pooling),
            sparse=Sparse(
                head_sha256=digest({name: value.tolist() for name, value in head.state_dict().items()})
                if head
                else None,
                tokenizer_sha256=_tokenizer_digest(tokenizer),
                vocabulary=len(tokenizer),
                masked_ids=sorted(tokenizer.all_special_ids),
                prompts="masked" if settings.masks_prompts else msgspec.UNSET,
            ),
            texts=Texts(
                query_prompt=settings.query_prompt,
                passage_prompt=settings.passage_prompt,
                query_max_tokens=settings.query_max_tokens,
                passage_max_tokens=settings.passage_max_tokens,
            ),
        )
        return cls(backbone, tokenizer, head, contract, compute or choose())

    @classmethod
    def load(cls, folder: Path, compute: Compute | None = None) -> HybridEncoder:
        """Return the encoder that `save` wrote. Raises Refused (FT-EMB-001) on a contract this release cannot read."""
        contract = read_contract(json.loads((folder / CONTRACT_FILE).read_text("utf-8")), str(folder))
        backbone, tokenizer = _load_backbone(folder / MODEL_FOLDER)
        head = LexicalHead(int(backbone.config.hidden_size)) if contract.sparse.head_sha256 else None
        if head:
            head.load_state_dict(load_file(folder / HEAD_FILE))
        encoder = cls(backbone, tokenizer, head, contract, compute or choose())
        if contract.factors_sha256:
            encoder.add_factors().load_state_dict(load_file(folder / FACTORS_FILE))
        return encoder

    def save(self, folder: Path) -> EmbeddingContract:
        """Write `model/`, the head and the contract with fresh hashes and probes into `folder`; return the contract."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

        texts, width = self.contract.texts, self.contract.dense.dimensions[0]
        self.eval()
        _reset_limits(self.tokenizer)  # otherwise the last call's limit would be written into tokenizer.json
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            self.backbone.save_pretrained(scratch)
            self.tokenizer.save_pretrained(scratch)
            dense_half = SentenceTransformer(
                modules=[
                    Transformer(scratch, max_seq_length=texts.passage_max_tokens),
                    Pooling(width, pooling_mode=self.contract.dense.pooling),
                    Normalize(),
                ],
                prompts={"query": texts.query_prompt, "document": texts.passage_prompt},
                device="cpu",
            )
            dense_half.save(str(folder / MODEL_FOLDER), create_model_card=False)
        if self.head:
            head = {name: value.cpu().contiguous() for name, value in self.head.state_dict().items()}
            save_file(head, folder / HEAD_FILE)
        if self.factors:
            factors = {name: value.cpu().contiguous() for name, value in self.factors.state_dict().items()}
            save_file(factors, folder / FACTORS_FILE)
        versions = library_versions()
        contract = replace(
            self.contract,
            weights_sha256=model_fingerprint(folder / MODEL_FOLDER)["weights"],
            sparse=replace(self.contract.sparse, head_sha256=file_digest(folder / HEAD_FILE) if self.head else None),
            factors_sha256=file_digest(folder / FACTORS_FILE) if self.factors else msgspec.UNSET,
            probes=self.probe(),
            libraries={name: versions[name] for name in _RECORDED_LIBRARIES if name in versions},
        )
        write_json(folder / CONTRACT_FILE, contract.to_json())
        self.contract = contract
        return contract

    # -- train --------------------------------------------------------------------------------------------------
    def add_adapter(self, shape: LoraSettings) -> None:
        """Freeze the backbone and add an adapter, which alone is then trained, until `merge_adapter`."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=shape.r,
            lora_alpha=shape.alpha,
            lora_dropout=shape.dropout,
            target_modules=shape.targets,
            use_rslora=shape.rslora,
            use_dora=shape.dora,
            bias="none",
        )
        self.backbone = get_peft_model(self.backbone, config)

    def merge_adapter(self) -> None:
        """Add what the adapter has learned to the weights of the backbone."""
        self.backbone = self.backbone.merge_and_unload(safe_merge=True)

    def add_factors(self) -> FactorHead:
        """Add factors of BM25's weights, all of them 1, and return them."""
        self.factors = FactorHead(int(self.backbone.config.hidden_size)).to(self.compute.device)
        return self.factors

    # -- encode -------------------------------------------------------------------------------------------------
    def encode(
        self, texts: Sequence[str], kind: Kind = "passage", *, batch_tokens: int | None = None, bm25: Bm25 | None = None
    ) -> Encoded:
        """Return vectors in the order of `texts`; with `bm25` the sparse ones are its weights times the factors.

        Texts of similar length share a batch of at most `batch_tokens` tokens (default: BATCH_TOKENS of the device).
        """
        ids = self.tokenize(texts, kind)
        limit = self._limit(kind)
        dense = np.empty((len(texts), self.contract.dense.dimensions[0]), dtype=np.float32)
        sparse: list[SparseVector] = [(np.empty(0, np.int32), np.empty(0, np.float32))] * len(texts)

        def encode_rows(rows: list[int]) -> None:
            tokens, mask = self.pad([ids[row] for row in rows])
            hidden = self.hidden(tokens, mask)
            dense[rows] = self._pool(hidden, mask).float().cpu().numpy()
            if bm25 and self.factors:
                found = self.bm25_tokens([texts[row] for row in rows], bm25)
                for row, parts, scores in zip(rows, found, self.factors(hidden).float().cpu().numpy(), strict=True):
                    sparse[row] = weigh(*parts, scores)
            if bm25 or not self.head:
                return
            weights = self._token_weights(hidden, tokens, mask)
            pairs = _sparse_rows(tokens.cpu().numpy(), weights.float().cpu().numpy(), self.contract.sparse.vocabulary)
            for row, pair in zip(rows, pairs, strict=True):
                sparse[row] = pair

        def encode_all(tokens: int) -> int:
            # One context for all batches, and not inference_mode: so the weights are cast once, not in every batch.
            with torch.no_grad(), self.autocast():
                for rows in _batches([len(row) for row in ids], tokens):
                    encode_rows(rows)
            return tokens

        with_smaller_batches(encode_all, batch_tokens or BATCH_TOKENS[self.compute.device])
        return Encoded(dense, sparse, sum(len(row) >= limit for row in ids))

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return L2-normalised dense vectors [B, D] and token weights [B, T] (0 where masked, and without a head).

        `tokens` are token ids and `mask` is 1 where a token counts, both [B, T].
        """
        hidden = self.hidden(tokens, mask)
        return self._pool(hidden, mask), self._token_weights(hidden, tokens, mask)

    def hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the states of the last layer. [B, T] -> [B, T, D]"""
        return self.backbone(input_ids=tokens, attention_mask=mask).last_hidden_state

    def bm25_tokens(self, texts: Sequence[str], bm25: Bm25) -> list[tuple[SparseVector, TermTokens]]:
        """Return BM25's weights of each passage, and the tokens that its terms are made of."""
        prompt, limit = self.contract.texts.passage_prompt, self._limit("passage")
        prompted = [prompt + text for text in texts]
        read = self.tokenizer(prompted, truncation=True, max_length=limit, return_offsets_mapping=True)
        found: list[tuple[SparseVector, TermTokens]] = []
        for text, offsets in zip(texts, read["offset_mapping"], strict=True):
            indices, values = (np.asarray(part) for part in bm25.passage(text))
            spans = np.asarray(offsets, np.int64) - len(prompt)
            weights = indices.astype(np.int32), values.astype(np.float32)
            found.append((weights, tokens_of_terms(bm25, text, spans, weights[0])))
        return found

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.contract.dense.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            wide = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * wide).sum(1) / wide.sum(1).clamp(min=1.0)
        return nn.functional.normalize(pooled.float(), dim=-1)

    def _token_weights(self, hidden: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        if not self.head:
            return torch.zeros(mask.shape, device=mask.device)
        counted = mask.bool() & ~torch.isin(tokens, self._masked)
        for prompt in self._prompts:
            width = len(prompt)
            counted[:, :width] &= ~(tokens[:, :width] == prompt[: tokens.shape[1]]).all(-1, keepdim=True)
        weights = self.head(hidden).float()
        return torch.where(counted, weights, torch.zeros_like(weights))

    def tokenize(self, texts: Sequence[str], kind: Kind) -> list[array[int]]:
        """Return token ids of each text with its prompt, truncated at the contract's limit.

        A tokenizer needs 32 KB a text until its call returns: so some texts at a time, of which the ids are kept alone.
        """
        prompts = self.contract.texts
        prompt = prompts.query_prompt if kind == "query" else prompts.passage_prompt
        only_ids = {"padding": False, "return_attention_mask": False, "return_token_type_ids": False}
        options = {"truncation": True, "max_length": self._limit(kind), **only_ids}
        rows: list[array[int]] = []
        for start in range(0, len(texts), _TOKENISED):
            prompted = [prompt + text for text in texts[start : start + _TOKENISED]]
            rows += [array("i", ids) for ids in self.tokenizer(prompted, **options)["input_ids"]]
        return rows

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask [B, T], padded on the right to the longest row."""
        width = max(map(len, rows))
        tokens = np.full((len(rows), width), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
            mask[index, : len(row)] = 1
        device = self.compute.device
        return torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)

    def probe(self) -> list[Probe]:
        """Return the probe texts with the vectors (fp32) that this model gives them now."""
        exact = Compute(self.compute.device, "float32")
        encoder = HybridEncoder(self.backbone, self.tokenizer, self.head, self.contract, exact)
        probes: dict[tuple[Kind, str], Probe] = {}
        kinds: tuple[Kind, ...] = ("query", "passage")
        for kind in kinds:
            texts = [text for wanted, text in PROBES if wanted == kind]
            encoded = encoder.encode(texts, kind)
            for text, dense, (ids, weights) in zip(texts, encoded.dense, encoded.sparse, strict=True):
                probes[kind, text] = Probe(
                    text=text,
                    kind=kind,
                    dense=[round(float(x), 6) for x in dense],
                    sparse={str(i): round(float(w), 6) for i, w in zip(ids, weights, strict=True)},
                )
        return [probes[key] for key in PROBES]

    def autocast(self) -> torch.autocast:
        """Return the autocast context of this encoder's dtype (off for float32)."""
        dtype = getattr(torch, self.compute.dtype)
        return torch.autocast(self.compute.device, dtype=dtype, enabled=dtype is not torch.float32)

    def train(self) -> None:
        """Turn dropout on. (The lexical head has none.)"""
        self.backbone.train()

    def eval(self) -> None:
        """Turn dropout off."""
        self.backbone.eval()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the backbone and of the lexical head, if there is one."""
        yield from self.backbone.named_parameters(prefix="backbone")
        if self.head:
            yield from self.head.named_parameters(prefix="head")

    def _read_prompt(self, prompt: str) -> list[int]:
        """Return the tokens from the start of a text to the end of its prompt."""
        if not self.tokenizer.is_fast:
            ids: list[int] = self.tokenizer(prompt)["input_ids"]
            return [number for n, number in enumerate(ids) if n == 0 or number not in self.contract.sparse.masked_ids]
        read = self.tokenizer(f"{prompt}x", return_offsets_mapping=True)
        ends = [end for _, end in read["offset_mapping"]]
        return read["input_ids"][: max((n + 1 for n, end in enumerate(ends) if 0 < end <= len(prompt)), default=0)]

    def _limit(self, kind: Kind) -> int:
        return self.contract.texts.query_max_tokens if kind == "query" else self.contract.texts.passage_max_tokens


def trained_dimensions(width: int, matryoshka: Sequence[int]) -> list[int]:
    """Return the full dimension, then the smaller ones, largest first. Raises ValueError on one that is not smaller."""
    if any(dimension >= width for dimension in matryoshka):
        raise ValueError(f"embedding.matryoshka {list(matryoshka)} must lie below the model's dimension, {width}.")
    return [width, *sorted(set(matryoshka), reverse=True)]


def _load_backbone(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    silence_progress_bars()

    loaded: Any = AutoModel.from_pretrained(
        str(folder),
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    # a pooler on top of the last layer is not read
    backbone = require_all_read(folder, *loaded, unused="pooler.")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    return backbone, tokenizer


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield row numbers, longest rows first: if memory is short, the first batch fails, and padding stays small."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _sparse_rows(tokens: np.ndarray, weights: np.ndarray, vocabulary: int) -> list[SparseVector]:
    """Return for each row of token ids and weights [B, T] the ids with a weight above 0, each with its largest."""
    rows, columns = np.nonzero(weights > 0)
    keys = rows * np.int64(max(vocabulary, int(tokens.max(initial=0)) + 1)) + tokens[rows, columns]
    order = np.argsort(keys, kind="stable")
    keys, rows, ids, values = keys[order], rows[order], tokens[rows, columns][order], weights[rows, columns][order]
    if len(keys) == 0:
        return [(np.empty(0, np.int32), np.empty(0, np.float32)) for _ in range(len(tokens))]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    largest = np.maximum.reduceat(values, starts).astype(np.float32)
    ids, bounds = ids[starts].astype(np.int32), np.searchsorted(rows[starts], np.arange(len(tokens) + 1))
    return [(ids[a:b], largest[a:b]) for a, b in pairwise(bounds)]


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return the sha256 of the tokenizer's state, without padding and truncation, which the last call set."""
    if not tokenizer.is_fast:
        return digest(tokenizer.get_vocab())
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest({**state, "truncation": None, "padding": None})


def _reset_limits(tokenizer: Any) -> None:
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
