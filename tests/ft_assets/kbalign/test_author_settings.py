from __future__ import annotations

from ft_assets.adapters.assets import material_of
from ft_assets.config.model import KbalignSettings, SftSettings
from ft_assets.kbalign.assets import author_settings


def test_tuning_sft_does_not_train_the_author_again():
    kbalign = KbalignSettings(author_steps=12)
    sft = SftSettings(base_model="x", learning_rate=1e-4)
    tuned = SftSettings(base_model="x", learning_rate=1e-4, epochs=3, scheduler="linear", packing=True, generated=True)
    assert material_of(author_settings(tuned, kbalign)) == material_of(author_settings(sft, kbalign))
    assert author_settings(sft, kbalign).max_steps == 12


def test_the_author_of_a_whole_model_is_an_adapter_with_the_rate_of_one():
    author = author_settings(SftSettings(base_model="x", method="full"), KbalignSettings())
    assert (author.method, author.learning_rate) == ("lora", 2e-4)
