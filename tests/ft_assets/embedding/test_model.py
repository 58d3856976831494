"""The encoder: saving, loading, batching, and its dense half as a plain sentence-transformers model."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from expectations.contracts.embedding import Level, compare, probe_drift
from expectations.violations import Refused
from ft_assets.embedding.exact_search import lexical_scores
from ft_assets.embedding.model import UNTRAINED_WEIGHT, HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.truncate import truncate
from resources.accelerator import Compute
from tests.ft_assets.embedding.conftest import settings

EXACT = Compute("cpu", "float32")
HALF = Compute("cpu", "bfloat16")


@pytest.fixture
def encoder(base: Path) -> HybridEncoder:
    changed = settings(query_prompt="query: ", query_max_tokens=16, passage_max_tokens=32)
    return HybridEncoder.from_base(base, changed, "1", EXACT)


def test_a_saved_encoder_gives_the_same_vectors_and_an_identical_contract(
    encoder: HybridEncoder, passages: Passages, tmp_path: Path
) -> None:
    encoder.head.linear.weight.data.normal_()
    before = encoder.encode(passages.contents)
    contract = encoder.save(tmp_path)
    again = HybridEncoder.load(tmp_path, EXACT)
    after = again.encode(passages.contents)
    assert np.array_equal(before.dense, after.dense)
    for (ids, weights), (ids_again, weights_again) in zip(before.sparse, after.sparse, strict=True):
        assert np.array_equal(ids, ids_again)
        assert np.array_equal(weights, weights_again)
    assert compare(again.contract, contract).level is Level.IDENTICAL
    assert probe_drift(contract.probes, again.probe()) == []
    assert len(contract.probes) == 16
    assert {probe.kind for probe in contract.probes} == {"query", "passage"}


def test_the_dense_half_loads_in_any_sentence_transformer(
    encoder: HybridEncoder, passages: Passages, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path / "model"), trust_remote_code=False, device="cpu")
    theirs = plain.encode_document(passages.contents)
    assert np.allclose(theirs, encoder.encode(passages.contents, "passage").dense, atol=1e-5)
    questions = ["When are invoices paid?", "年假有几天?"]
    assert np.allclose(plain.encode_query(questions), encoder.encode(questions, "query").dense, atol=1e-5)


def test_batching_does_not_change_a_vector_nor_the_order(encoder: HybridEncoder, passages: Passages) -> None:
    together = encoder.encode(passages.contents)
    alone = [encoder.encode([text]) for text in passages.contents]
    small = encoder.encode(passages.contents, batch_tokens=40)
    for row, single in enumerate(alone):
        assert np.allclose(together.dense[row], single.dense[0], atol=1e-5)
        assert np.allclose(small.dense[row], single.dense[0], atol=1e-5)
        assert np.array_equal(together.sparse[row][0], single.sparse[0][0])
    assert np.allclose(np.linalg.norm(together.dense, axis=1), 1.0, atol=1e-5)


def test_half_precision_gives_the_vectors_of_full_precision(base: Path, passages: Passages) -> None:
    full = HybridEncoder.from_base(base, settings(), "1", EXACT).encode(passages.contents).dense
    half = HybridEncoder.from_base(base, settings(), "1", HALF).encode(passages.contents).dense
    assert half.dtype == np.float32
    assert (full * half).sum(axis=1).min() >= 0.999


def test_an_untrained_head_gives_each_token_one_weight_and_special_tokens_none(encoder: HybridEncoder) -> None:
    encoded = encoder.encode(["pump pump pump valve", ""])
    ids, weights = encoded.sparse[0]
    assert [encoder.tokenizer.decode([token]).strip() for token in ids] in (["pump", "valve"], ["valve", "pump"])
    assert weights.tolist() == pytest.approx([UNTRAINED_WEIGHT] * 2)
    assert list(ids) == sorted(ids)
    assert len(encoded.sparse[1][0]) == 0
    assert np.isfinite(encoded.dense).all()


def test_a_text_beyond_the_limit_is_cut_and_counted(encoder: HybridEncoder) -> None:
    encoded = encoder.encode(["pump " * 100, "pump"])
    assert encoded.cut == 1


def test_prompts_and_pooling_change_the_vectors_and_the_contract(base: Path) -> None:
    texts = ["When are invoices paid?"]
    plain = HybridEncoder.from_base(base, settings(), "1", EXACT)
    prompted = HybridEncoder.from_base(base, settings(query_prompt="query: "), "1", EXACT)
    first = HybridEncoder.from_base(base, settings(pooling="cls"), "1", EXACT)
    assert not np.allclose(plain.encode(texts, "query").dense, prompted.encode(texts, "query").dense, atol=1e-3)
    assert not np.allclose(plain.encode(texts, "query").dense, first.encode(texts, "query").dense, atol=1e-3)
    assert len({e.contract.encode_fp for e in (plain, prompted, first)}) == 3


def test_no_text_gives_no_vector(encoder: HybridEncoder) -> None:
    assert encoder.encode([]).dense.shape == (0, 128)


def test_exact_lexical_scores_are_inner_products(
    encoder: HybridEncoder, passages: Passages, questions: Questions
) -> None:
    queries, corpus = encoder.encode(questions.texts, "query").sparse, encoder.encode(passages.contents).sparse
    scores = lexical_scores(queries, corpus)
    left, right = dict(zip(*queries[0], strict=True)), dict(zip(*corpus[0], strict=True))
    assert scores[0, 0] == pytest.approx(sum(left[token] * right[token] for token in left.keys() & right.keys()))


def test_a_truncated_vector_has_length_one_again() -> None:
    cut = truncate(np.asarray([[3.0, 4.0, 12.0]], dtype=np.float32), 2)
    assert cut.tolist() == [pytest.approx([0.6, 0.8])]


def test_a_folder_with_another_contract_is_refused(encoder: HybridEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    contract = json.loads((tmp_path / "contract.json").read_text("utf-8"))
    (tmp_path / "contract.json").write_text(json.dumps({**contract, "format": "ft-embedding-contract/7"}))
    with pytest.raises(Refused, match="FT-EMB-001"):
        HybridEncoder.load(tmp_path, EXACT)


def test_texts_that_do_not_fit_into_memory_together_are_encoded_in_smaller_batches(
    encoder: HybridEncoder, passages: Passages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    together = encoder.encode(passages.contents)
    hidden, tried = encoder.hidden, []

    def within_memory(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tried.append(len(tokens))
        if len(tokens) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(tokens, mask)

    monkeypatch.setattr(encoder, "hidden", within_memory)
    again = encoder.encode(passages.contents)
    assert tried[0] == len(passages.contents)
    assert max(tried[-2:]) <= 4
    assert np.allclose(together.dense, again.dense, atol=1e-5)


@pytest.mark.parametrize("prompt", ["query: ", "Represent this sentence for searching relevant passages: ", "检索："])
def test_a_prompt_enters_the_dense_vector_and_has_no_lexical_weight(base: Path, prompt: str) -> None:
    texts = ["When are the pumps primed?", "query", "更换滤芯"]
    plain = HybridEncoder.from_base(base, settings(), "1", EXACT).encode(texts, "query")
    encoder = HybridEncoder.from_base(base, settings(query_prompt=prompt), "1", EXACT)
    prompted = encoder.encode(texts, "query")
    assert encoder.contract.sparse.prompts == "masked"
    for (ids, weights), (wanted, their) in zip(prompted.sparse, plain.sparse, strict=True):
        assert ids.tolist() == wanted.tolist() and weights.tolist() == their.tolist()
    assert not np.allclose(prompted.dense, plain.dense, atol=1e-3)


def test_a_head_of_an_earlier_release_keeps_the_weights_of_its_prompts(base: Path) -> None:
    encoder = HybridEncoder.from_base(base, settings(query_prompt="query: "), "1", EXACT)
    sparse = replace(encoder.contract.sparse, prompts=msgspec.UNSET)
    contract = replace(encoder.contract, sparse=sparse)
    earlier = HybridEncoder(encoder.backbone, encoder.tokenizer, encoder.head, contract, EXACT)
    assert contract.encode_fp != encoder.contract.encode_fp
    assert len(earlier.encode(["primed"], "query").sparse[0][0]) > len(encoder.encode(["primed"], "query").sparse[0][0])
