from __future__ import annotations

import pytest

from ft_assets.web.search import mark_terms


@pytest.mark.parametrize(
    ("text", "terms", "marked"),
    [
        ("It authenticates data.", ["authent"], ["authenticates"]),
        ("A nonce, an announcement", ["nonc"], ["nonce"]),
        ("会话密钥的密钥长度", ["密钥"], ["密钥", "密钥"]),
        ("AES-GCM and aes", ["aes", "gcm"], ["AES", "GCM", "aes"]),
        ("a (b) [c]", ["(b", ".*"], ["(b"]),
        ("nothing", [], []),
    ],
)
def test_terms_are_marked_at_the_beginning_of_words(text: str, terms: list[str], marked: list[str]):
    parts = mark_terms(text, terms)
    assert "".join(part.text for part in parts) == text
    assert [part.text for part in parts if part.found] == marked
