"""The losses of pairs are those of TRL's own trainers, and SFT's share keeps chosen answers likely."""

# torch and trl are untyped here
# pyright: basic
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ft_assets.adapters import train
from ft_assets.adapters.trainer.pair_losses import cpo, orpo, simpo
from resources.telemetry import read_metrics

PAIRS = {"learning_rate": 5e-3, "epochs": 3, "micro_batch_size": 4}


def logps() -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(7)
    return -torch.rand(32, generator=generator) * 3, -torch.rand(32, generator=generator) * 3 - 0.01


@pytest.mark.slow  # the import of TRL's experiments
def test_cpo_and_simpo_are_those_of_trl() -> None:
    import torch
    from trl.experimental.cpo import CPOTrainer

    settings = {"alpha": 0.0, "beta": 0.3, "simpo_gamma": 0.7, "label_smoothing": 0.0}
    accelerator = SimpleNamespace(device="cpu")
    chosen, rejected = logps()
    for kind, own in (("sigmoid", cpo(chosen, rejected, 0.3)), ("simpo", simpo(chosen, rejected, 0.3, 0.7))):
        trainer: Any = SimpleNamespace(loss_type=kind, accelerator=accelerator, **settings)
        expected, *_ = CPOTrainer.cpo_loss(trainer, chosen, rejected)
        assert torch.allclose(own, expected, atol=1e-6)


@pytest.mark.slow
def test_orpo_is_that_of_trl() -> None:
    import torch
    from trl.experimental.orpo import ORPOTrainer

    trainer: Any = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    chosen, rejected = logps()
    gain, *_ = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)  # TRL subtracts it from the loss
    assert torch.allclose(orpo(chosen, rejected, 0.3), -gain, atol=1e-5)


@pytest.mark.slow
def test_the_share_of_sft_keeps_the_chosen_answers_likely(trained: Any) -> None:
    lab, sft, _ = trained
    rows = lab.preferences()

    def gain(**settings: Any) -> float:
        """Return how much likelier the chosen answers became."""
        records = read_metrics(train.main(lab.dpo_job(rows, sft, **PAIRS, **settings)).file("metrics.jsonl"))
        first, *_, last = (record["eval_logps/chosen"] for record in records if "eval_logps/chosen" in record)
        return last - first

    assert gain(sft_weight=5.0) > gain() + 0.1
