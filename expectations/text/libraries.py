"""The refusal when a library that a text needs is not installed."""

from __future__ import annotations

from expectations.violations import Refused, violation


def refuse_missing(work: str, library: str, extra: str, otherwise: str = "") -> Refused:
    """Return the refusal (FT-CORPUS-007) of `work`, which needs `library` of the install extra `extra`.

    `otherwise`: what to do instead of the installation, added to the fix.
    """
    message, fix = f"{library} is not installed", f'pip install "ft-assets[{extra}]"'
    if otherwise:
        fix = f"{fix}, or {otherwise}"
    return Refused(work, [violation("FT-CORPUS-007", where=work, message=message, fix=fix)])
