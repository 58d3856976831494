"""Write docs/configuration.md and docs/rules.md from the code, so that they are always current.

python docs/build.py          # write both pages
python docs/build.py --check  # exit 1 if a page is not current
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

CONFIGURATION = """# Configuration

Written from the code by `python docs/build.py`.

There is one file, config.yaml: a base, and `profiles:` whose keys replace those of the base (`FT_PROFILE`, else
`default_profile`). The environment overrides any key: `FT__RETRIEVAL__SPARSE_WEIGHT=0.4`; lists and mappings are written
as YAML. A mistyped name is an error, and all errors are reported at once. Secrets come only from the environment
(`QDRANT_API_KEY`, `HF_TOKEN`). State lies below `FT_STATE_DIR` (default `.ft/` next to config.yaml); `FT_CONFIG` names
another config.yaml.
"""

RULES = """# Every rule

Written from the code by `python docs/build.py`.

## Gates

Each gate is an asset check, a guard in every asset that reads the checked one, and a line of `ft gate`. A blocking gate
stops the release.

| asset | check | blocks | passes when |
|---|---|---|---|
"""

CODES = """A violation, a quarantined row and a refused run each name one of these codes (`expectations/codes.py`)."""


def main() -> int:
    """Write the pages, or with --check return 1 if one of them is not current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    check = parser.parse_args().check
    status = 0
    for name, text in (("configuration.md", configuration()), ("rules.md", rules())):
        path = HERE / name
        if not check:
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            print(f"docs/{name} is not current: run python docs/build.py")
            status = 1
    return status


def configuration() -> str:
    """Return docs/configuration.md: every key of config.yaml with its type, its default and its description."""
    from ft_assets.config.model import RENAMED, Settings

    sections = {name: model for name, field in Settings.model_fields.items() if (model := _section_of(field))}
    keys = {name: field for name, field in Settings.model_fields.items() if name not in sections}
    parts = [CONFIGURATION, _table(_row(name, field) for name, field in keys.items())]
    parts += [_section(name, model) for name, model in sections.items()]
    renamed = [f"| `{old}` | {new} |" for old, new in RENAMED.items()]
    parts.append("\n".join(["## Names that are no longer used", "", "| old | write |", "|---|---|", *renamed, ""]))
    return "\n".join(parts)


def rules() -> str:
    """Return docs/rules.md: every gate, and every rule code."""
    from expectations.codes import codes_markdown
    from ft_assets.definitions import GATES

    gates = [
        f"| `{gate.asset}` | `{gate.name}` | {'yes' if gate.blocking else 'no'} | {gate.description} |"
        for gate in GATES
    ]
    codes = ["", "## Codes", "", CODES, "", codes_markdown().strip(), ""]
    return RULES + "\n".join([*gates, *codes])


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    from ft_assets.config.model import section_of

    return section_of(field.annotation)


def _section(name: str, model: type[BaseModel]) -> str:
    from ft_assets.config.model import SETTINGS_ASSETS

    notes = [*_notes(model, name)]
    if name in SETTINGS_ASSETS:
        notes.append(f"Asset `{SETTINGS_ASSETS[name]}`: a change is a new version with lineage.")
    return "\n\n".join([f"## `{name}`", *notes, _table(_rows(model, name))])


def _notes(model: type[BaseModel], at: str, top: bool = True) -> Iterator[str]:
    """Yield the descriptions of a section and of the sections in it."""
    if model.__doc__:
        text = " ".join(inspect.cleandoc(model.__doc__).split())
        yield text if top else f"`{at}`: {text}"
    for name, field in model.model_fields.items():
        if section := _section_of(field):
            yield from _notes(section, f"{at}.{name}", top=False)


def _rows(model: type[BaseModel], at: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if section := _section_of(field):
            yield from _rows(section, f"{at}.{name}")
        else:
            yield _row(f"{at}.{name}", field)


def _table(rows: Iterator[str]) -> str:
    return "\n".join(["| key | type | default | description |", "|---|---|---|---|", *rows, ""])


def _row(key: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{field.default!r}`"
    description = " ".join((field.description or "").split())  # a row is one line
    cells = (f"`{key}`", _type_name(field.annotation), default, description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type_name(annotation: object) -> str:
    """Return a type in words: `Optional[Annotated[int, Gt(gt=0)]]` is `int or null`."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    text = str(annotation).replace("typing.", "")
    for pattern, words in _TYPES:
        text = re.sub(pattern, words, text)
    return text.replace("'", "`").replace(" | ", " or ").replace("NoneType", "null").replace("None", "null")


# what Python writes of a type -> what the page says, in this order
_TYPES = (
    (r"Annotated\[(\w+), [^\]]*\]", r"\1"),
    (r"Optional\[(\w+)\]", r"\1 or null"),
    (r"Union\[(\w+), (.*)\]", r"\1 or \2"),
    (r"Literal\[([^\]]*)\]", r"\1"),
)


if __name__ == "__main__":
    sys.exit(main())
