"""The rule book: every code in the tree is an entry, and every entry is used."""

from __future__ import annotations

import re
from pathlib import Path

from expectations.codes import CODES, codes_markdown
from expectations.violations import violation

_CODE = re.compile(r"FT-[A-Z]+-\d{3}")


def codes_in(folder: Path) -> set[str]:
    """The codes that the Python and JSON files below a folder name, without the rule book itself."""
    files = [path for path in folder.rglob("*") if path.suffix in {".py", ".json"} and path.name != "codes.py"]
    return {code for path in files for code in _CODE.findall(path.read_text("utf-8"))}


def test_every_code_in_the_tree_is_in_the_rule_book_and_every_rule_is_used(project: Path) -> None:
    used = codes_in(project / "expectations") | codes_in(project / "resources") | codes_in(project / "ft_assets")
    assert used - set(CODES) == set()
    assert set(CODES) - used == set(), "rules that nothing breaks"


def test_a_violation_takes_its_message_and_fix_from_the_rule_book() -> None:
    found = violation("FT-ROW-001", where="a.jsonl:3")
    assert (found.message, found.fix) == (CODES["FT-ROW-001"].title, CODES["FT-ROW-001"].fix)
    assert violation("FT-ROW-001", where="a", message="m", fix="f").fix == "f"


def test_every_rule_is_on_the_page(project: Path) -> None:
    page = (project / "docs/rules.md").read_text("utf-8")
    assert all(f"`{code}`" in page for code in CODES)
    assert page.count("`FT-") == codes_markdown().count("`FT-")
