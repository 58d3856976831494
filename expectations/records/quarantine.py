"""What a stage sets aside after reading: a row or a section that was well formed, but cannot be used."""

from __future__ import annotations

from expectations.reading import RAW_CHARS, Rejected


def set_aside(
    code: str, file: str, line: int, reason: str, suggestion: str, *, sha256: str = "", path: str = "$", raw: str = ""
) -> Rejected:
    """A line of the quarantine, for what was found after reading."""
    return Rejected(
        file=file, file_sha256=sha256, line=line, offset=-1, code=code, path=path, reason=reason,
        raw=raw[:RAW_CHARS], suggestion=suggestion,
    )  # fmt: skip
