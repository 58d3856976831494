"""Write docs/configuration.md, docs/rules.md and docs/dialects.md from the code, so that they are always current.

python docs/build.py          # write the pages
python docs/build.py --check  # exit 1 if a page is not current
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

CONFIGURATION = """# Configuration

Written from the code by `python docs/build.py`.

There is one file, config.yaml: a base, and `profiles:` whose keys replace those of the base (`FT_PROFILE`, else
`default_profile`). The environment overrides any key: `FT__RETRIEVAL__SPARSE_WEIGHT=0.4`; a text is taken as it is,
without quotes of YAML (`FT__EMBEDDING__QUERY_PROMPT="query: "`), and lists and mappings are written as YAML. A mistyped name is an error, and all errors are reported at once. Secrets come only from the environment
(`QDRANT_API_KEY`, `HF_TOKEN`, `FT_SEAL_KEY`). State lies below `FT_STATE_DIR` (default `.ft/` next to config.yaml); `FT_CONFIG` names
another config.yaml, and `FT_STORE_URL` a bucket that several machines share ([share-a-state.md](share-a-state.md)).
"""

RULES = """# Every rule

Written from the code by `python docs/build.py`.

## Gates

Each gate is an asset check, a guard in every asset that reads the checked one, and a line of `ft gate`. A blocking gate
stops the release.

| asset | check | blocks | passes when |
|---|---|---|---|
"""

INTRODUCTION = """# Every dialect

Written from the code by `python docs/build.py`: each sample below was read, and the record under it is what came out (without its id, its language
and its place).

A file is recognised by its keys or columns, so none of these names is needed; `ft verify FILE` prints the one that was found, `--format NAME` requires
one. Any of them may be JSONL, a JSON array, CSV or TSV with a header, Parquet, or a saved `datasets` folder; gzip and zstd are opened. A key that is
not read is listed in the report, and one that would change the meaning of the row is refused (`FT-KEY-…`, [rules](rules.md)).
"""

CODES = """A violation, a quarantined row and a refused run each name one of these codes (`expectations/codes.py`)."""

UNSHOWN = ("record_id", "language", "group", "source", "line_no")

DESCRIPTIONS = {
    "instruction": "A question with its answer, for SFT.",
    "preference": "A question with a better and a worse answer, for DPO.",
    "unpaired_preference": "An answer with a verdict, for KTO.",
    "qa": "Questions about a text, as KBAlign and SQuAD have them. A data set of instructions takes them too.",
    "retrieval_pair": "A query with texts that answer it and texts that do not; `ft convert --to beir` makes a BEIR folder of it.",
    "query": "A question with its id, for retrieval.",
    "qrels": "A judgement: which passage, section or document answers which query.",
    "passage": "A document or passage of the corpus.",
}


class Sample(msgspec.Struct, rename={"origin": "from"}, forbid_unknown_fields=True):
    """One entry of samples.yaml: a file of a dialect."""

    origin: str
    text: str
    file: str = ""


def main() -> int:
    """Write the pages, or with --check return 1 if one of them is not current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    check = parser.parse_args().check
    status = 0
    for name, text in (("configuration.md", configuration()), ("rules.md", rules()), ("dialects.md", dialects())):
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


def dialects() -> str:
    """Return docs/dialects.md: a sample of every dialect and the first record that comes of it."""
    from expectations.formats.registry import DIALECTS, FORMATS
    from expectations.yaml_text import load_yaml

    samples = msgspec.convert(load_yaml((HERE / "samples.yaml").read_text("utf-8")), dict[str, Sample])
    known = {dialect.name for dialect in DIALECTS}
    if wrong := known ^ samples.keys():
        raise SystemExit(f"docs/samples.yaml: no sample, or no dialect, of this name: {', '.join(sorted(wrong))}")
    parts = [INTRODUCTION]
    for name, format in FORMATS.items():
        parts.append(f"## Format `{name}`\n\n{DESCRIPTIONS[name]}\n")
        parts += [_dialect(dialect.name, name, samples[dialect.name]) for dialect in format.dialects]
    return "\n".join(parts)


def _dialect(name: str, format: str, sample: Sample) -> str:
    """Return the section of a dialect. SystemExit where its sample is not read as that dialect."""
    from expectations.verify import verify_file

    with TemporaryDirectory() as folder:
        path = Path(folder) / (sample.file or "rows.jsonl")
        path.parent.mkdir(exist_ok=True)
        path.write_text(sample.text, "utf-8")
        report = verify_file(path)
    if (report.format, report.dialect, report.failed) != (format, name, 0) or report.first is None:
        raise SystemExit(f"docs/samples.yaml: the sample `{name}` is read as {report}")
    record = {key: value for key, value in report.first.items() if key not in UNSHOWN and value not in ("", [], None)}
    shown = json.dumps(record, ensure_ascii=False)
    language = {".csv": "csv", ".tsv": "tsv", ".txt": "text"}.get(path.suffix, "json")
    file = f" (`{sample.file}`)" if sample.file else ""
    text = sample.text.strip()
    return f"### `{name}`\n\n{sample.origin}{file}\n\n```{language}\n{text}\n```\n\nbecomes\n\n```json\n{shown}\n```\n"


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
    (r"list\[.*FileEntry.*\]", "list of globs"),
    (r"dict\[.*\]", "mapping"),
    (r"Annotated\[(\w+), [^\]]*\]", r"\1"),
    (r"Optional\[(\w+)\]", r"\1 or null"),
    (r"Union\[(\w+), (.*)\]", r"\1 or \2"),
    (r"Literal\[([^\]]*)\]", r"\1"),
)


if __name__ == "__main__":
    sys.exit(main())
