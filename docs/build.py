"""Writes docs/configuration.md and docs/rules.md from the code, so that they cannot fall behind it.

python docs/build.py          # rewrite
python docs/build.py --check  # exit 1 if a page is stale
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for name, text in (("configuration.md", configuration()), ("rules.md", rules())):
        path = HERE / name
        if check and (not path.is_file() or path.read_text("utf-8") != text):
            print(f"docs/{name} is stale: run python docs/build.py")
            stale = 1
        elif not check:
            path.write_text(text, "utf-8")
    return stale


def configuration() -> str:
    """Every key of config.yaml with its type, its default and what it means."""
    from ft_assets.config.model import RENAMED, SETTINGS_ASSETS, Settings

    lines = [
        "# Configuration",
        "",
        "Written from the code by `python docs/build.py`.",
        "",
        "One file, config.yaml: a base, and `profiles:` that lie over it (`FT_PROFILE`, else `default_profile`). Any key can be",
        "overridden from the environment: `FT__RETRIEVAL__SPARSE_WEIGHT=0.4`, lists and mappings as YAML. A mistyped name is an error,",
        "and all errors are reported at once. Secrets come only from the environment (`QDRANT_API_KEY`, `HF_TOKEN`). State lies below",
        "`FT_STATE_DIR` (default `.ft/` beside config.yaml); `FT_CONFIG` names another config.yaml.",
        "",
    ]
    for section, info in Settings.model_fields.items():
        model = info.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        asset = SETTINGS_ASSETS.get(section)
        carried = f" Asset `{asset}`: a change is a new version with lineage." if asset else ""
        lines += [
            f"## `{section}`",
            "",
            f"{(model.__doc__ or '').strip() if model.__doc__ else ''}{carried}".strip(),
            "",
        ]
        lines += ["| key | type | default | |", "|---|---|---|---|", *_rows(model, section), ""]
    lines += ["## Names that are no longer used", "", "| old | write |", "|---|---|"]
    lines += [f"| `{old}` | {new} |" for old, new in RENAMED.items()]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], at: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _rows(annotation, f"{at}.{name}")
            continue
        kind = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
        shown = (kind or str(annotation)).replace("typing.", "").replace("|", "or").replace("NoneType", "null")
        default = "required" if field.is_required() else f"`{field.default!r}`".replace("\n", "\\n")
        said = " ".join((field.description or "").split())  # a row is one line
        yield f"| `{at}.{name}` | {shown} | {default.replace('|', chr(92) + '|')} | {said} |"


def rules() -> str:
    """Every gate, and every code a row can be rejected with."""
    from expectations.codes import codes_markdown
    from ft_assets.definitions import GATES

    lines = [
        "# Every rule",
        "",
        "Written from the code by `python docs/build.py`.",
        "",
        "## Gates",
        "",
        "Each is an asset check, the guard of whoever consumes the asset, and a line of `ft gate`. A blocking one stops the release.",
        "",
        "| asset | check | blocks | holds when |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{gate.asset}` | `{gate.name}` | {'yes' if gate.blocking else 'no'} | {gate.description} |"
        for gate in GATES
    ]
    lines += ["", "## Rows", "", "What a row can be quarantined for.", "", codes_markdown().strip()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
