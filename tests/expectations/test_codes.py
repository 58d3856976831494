"""The rule book: every code in the tree is an entry, every entry is used, and each rule has a code of its own."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from expectations.codes import CODES, codes_markdown
from expectations.violations import violation

_CODE = re.compile(r"FT-[A-Z]+-\d{3}")
_STATED = re.compile(rf"(?:{_CODE.pattern}(?: \([^)]*\))?(?:, |: ))+")
_RULES = ("expectations/rules", "expectations/contracts")
_FILLED = ("expectations", "resources", "ft_assets")  # folders whose codes have a title, a why and a fix


def codes_in(folder: Path) -> set[str]:
    """The codes that the Python and JSON files below a folder name, without the rule book itself."""
    files = [path for path in folder.rglob("*") if path.suffix in {".py", ".json"} and path.name != "codes.py"]
    return {code for path in files for code in _CODE.findall(path.read_text("utf-8"))}


def rule_functions(project: Path) -> Iterator[ast.FunctionDef]:
    """Yield the public functions that return a list of violations, in the folders of rules."""
    for node in functions(project):
        returned = ast.unparse(node.returns) if node.returns else ""
        if returned == "list[Violation]" and not node.name.startswith("_"):
            yield node


def functions(project: Path) -> Iterator[ast.FunctionDef]:
    """Yield the functions at the top of every module in the folders of rules."""
    for folder in _RULES:
        for path in sorted((project / folder).glob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            yield from (node for node in tree.body if isinstance(node, ast.FunctionDef))


def stated_codes(rule: ast.FunctionDef) -> list[str]:
    """The codes at the start of a rule's docstring."""
    stated = _STATED.match(ast.get_docstring(rule) or "")
    return _CODE.findall(stated.group()) if stated else []


def raised_codes(function: ast.FunctionDef) -> set[str]:
    """The codes that a function makes violations of."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    makers = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "violation" and call.args]
    return {code for call in makers for code in _CODE.findall(ast.unparse(call.args[0]))}


def test_every_code_in_the_tree_is_in_the_rule_book_and_every_rule_is_used(project: Path) -> None:
    used = codes_in(project / "expectations") | codes_in(project / "resources") | codes_in(project / "ft_assets")
    assert used - set(CODES) == set()
    assert set(CODES) - used == set(), "rules that nothing breaks"


@pytest.mark.parametrize("folder", _FILLED)
def test_every_entry_has_a_title_a_reason_and_a_fix(project: Path, folder: str) -> None:
    assert [code for code in sorted(codes_in(project / folder)) if not all(CODES[code])] == []


def test_a_title_has_no_full_stop_and_sentences_have_one() -> None:
    filled = {code: entry for code, entry in CODES.items() if entry.title}
    assert [code for code, entry in filled.items() if entry.title.endswith(".")] == []
    assert [code for code, entry in filled.items() if not entry.fix.endswith((".", "…"))] == []


def test_every_rule_states_its_codes_first_and_shares_none(project: Path) -> None:
    stated = {rule.name: stated_codes(rule) for rule in rule_functions(project)}
    assert [name for name, codes in stated.items() if not codes] == []
    counts = Counter(code for codes in stated.values() for code in codes)
    assert [code for code, count in counts.items() if count > 1] == []
    assert set(counts) <= set(CODES)


def test_no_two_functions_make_violations_of_one_code(project: Path) -> None:
    counts = Counter(code for function in functions(project) for code in raised_codes(function))
    assert counts and [code for code, count in counts.items() if count > 1] == []


def test_a_violation_takes_its_message_and_fix_from_the_rule_book() -> None:
    found = violation("FT-ROW-001", where="a.jsonl:3")
    assert (found.message, found.fix) == (CODES["FT-ROW-001"].title, CODES["FT-ROW-001"].fix)
    assert violation("FT-ROW-001", where="a", message="m", fix="f").fix == "f"


def test_a_title_and_its_fix_are_two_sentences() -> None:
    assert str(violation("FT-ROW-001", where="a:3", message="m", fix="f")) == "[FT-ROW-001] a:3: m. Fix: f"
    assert str(violation("FT-ROW-001", where="a:3", message="m.", fix="f")) == "[FT-ROW-001] a:3: m. Fix: f"


def test_every_rule_is_on_the_page(project: Path) -> None:
    page = (project / "docs/rules.md").read_text("utf-8")
    assert all(f"`{code}`" in page for code in CODES)
    assert page.count("`FT-") == codes_markdown().count("`FT-")
