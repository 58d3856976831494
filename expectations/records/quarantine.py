"""Rows and sections that a stage sets aside after reading: well formed, but they cannot be used."""

from __future__ import annotations

from expectations.reading import RAW_CHARS, Rejected


def set_aside(
    code: str, file: str, line: int, reason: str, suggestion: str, *, sha256: str = "", path: str = "$", raw: str = ""
) -> Rejected:
    """Return a line of the quarantine, for a fault that was found after reading."""
    return Rejected(
        file=file,
        file_sha256=sha256,
        line=line,
        offset=-1,
        code=code,
        path=path,
        reason=reason,
        raw=raw[:RAW_CHARS],
        suggestion=suggestion,
    )
