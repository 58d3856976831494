"""Every key of config.yaml is described where it is declared."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from ft_assets.config.model import SETTINGS_ASSETS, Settings, section_of


def described_keys(model: type[BaseModel] = Settings, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield each leaf key with its description."""
    for name, field in model.model_fields.items():
        key = f"{at}.{name}" if at else name
        if section := section_of(field.annotation):
            yield from described_keys(section, key)
        else:
            yield key, field.description or ""


KEYS = dict(described_keys())


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_described_in_whole_sentences(key: str):
    description = KEYS[key]
    assert len(description.split()) >= 4, f"{key} has no description that explains it"
    assert description[0].isupper() or description[0] == "`"
    assert description.endswith("."), description


def test_no_description_begins_with_a_question_word():
    words = ("What", "Whether", "Where", "How much", "How far", "How many")
    assert [key for key, text in KEYS.items() if text.startswith(words)] == []


def test_every_section_that_is_an_asset_exists():
    assert set(SETTINGS_ASSETS) <= set(Settings.model_fields)


@pytest.mark.parametrize("key", KEYS)
def test_a_description_names_keys_that_exist(key: str):
    sections = [name for name in Settings.model_fields if name != "schema_version"]
    named = re.findall(rf"`((?:{'|'.join(sections)})(?:\.\w+)+)", KEYS[key])
    assert [name for name in named if name not in KEYS] == []
