"""HTML becomes text that reads as the page does: headings, paragraphs, lists and tables as lines, nothing else."""
# pyright: basic
# selectolax types its nodes loosely.

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from expectations.text.cleaning import clean
from expectations.violations import Refused, Violation

_HEADING = re.compile(r"<(h[1-6])(?=[\s/>])", re.IGNORECASE)
_LINE_MARK = "data-ft-line"
_LEVEL = {f"h{level}": level for level in range(1, 7)}
_DROPPED = (
    "script", "style", "template", "noscript", "nav", "head", "svg", "canvas", "iframe", "object", "embed", "audio",
    "video", "map", "button", "select", "option", "datalist", "input", "textarea", "dialog", "rt", "rp",
)  # fmt: skip
_APART = (
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "dl", "pre", "blockquote", "section", "article",
    "main", "hr",
)  # fmt: skip
_LINES = (
    "div", "li", "tr", "dt", "dd", "caption", "header", "footer", "aside", "figure", "figcaption", "address", "details",
    "summary", "fieldset", "form", "center", "legend", "body", "thead", "tbody", "tfoot",
)  # fmt: skip
_CELLS = ("td", "th")
_LAYS_OUT = "h1, h2, h3, h4, h5, h6, pre, table, ul, ol"  # what a table holds that only lays out a page
_SPACE = re.compile(r"\s+")
_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f"
_WRAP = re.compile(rf"(?<=[{_CJK}])[ \t]*\r?\n\s*(?=[{_CJK}])")  # a line break between Chinese characters is no space
_RAISED = str.maketrans("0123456789+-−=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(r"\ufeff?<\?xml[^>]*\sencoding\s*=\s*[\"']([^\"']+)", re.IGNORECASE)
_UTF8 = ("utf-8", "utf8")


@dataclass(frozen=True)
class Heading:
    """A heading of a page: `text[start:end]` holds it, `line` is its line in the HTML file."""

    start: int
    end: int
    level: int
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """The text of an HTML page, a pure function of the file, with its headings in order."""

    text: str
    title: str
    headings: list[Heading]
    charset: str
    """What the page says it is written in, casefolded; empty when it says nothing."""


def read_page(html: str) -> Page:
    """The text of a page. Refused (FT-CORPUS-007) when selectolax is not installed."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise Refused(
            "reading HTML",
            [
                Violation(
                    code="FT-CORPUS-007", where="selectolax", message="HTML is read with selectolax.",
                    fix='pip install "ft-assets[html]"',
                )
            ],
        ) from error  # fmt: skip
    tree = LexborHTMLParser(_number_headings(html))
    writer = _Writer()
    if tree.body is not None:
        for node, entering in _walk(tree.body):
            writer.enter(node) if entering else writer.leave(node)
    title = tree.css_first("head title")
    titled = clean(_SPACE.sub(" ", title.text())).strip() if title else ""
    return Page("".join(writer.parts), titled, writer.headings, _charset(html, tree))


def says_utf8(page: Page) -> bool:
    """Whether a page says it is UTF-8, or says nothing."""
    return not page.charset or page.charset in _UTF8


def _number_headings(html: str) -> str:
    """Every heading's tag with the number of its line, which the parser does not keep."""
    pieces: list[str] = []
    line, last = 1, 0
    for found in _HEADING.finditer(html):
        line += html.count("\n", last, found.start())
        pieces += (html[last : found.start()], f"<{found[1]} {_LINE_MARK}={line}")
        line += html.count("\n", found.start(), found.end())
        last = found.end()
    return "".join([*pieces, html[last:]])


def _charset(html: str, tree: Any) -> str:
    if stated := _XML_ENCODING.match(html):
        return stated[1].casefold()
    for meta in tree.css("meta"):
        attributes = meta.attributes
        if attributes.get("charset"):
            return attributes["charset"].strip().casefold()
        if (attributes.get("http-equiv") or "").casefold() == "content-type":
            found = _CHARSET.search(attributes.get("content") or "")
            if found:
                return found[1].casefold()
    return ""


def _walk(body: Any) -> Iterator[tuple[Any, bool]]:
    """(node, entering) of everything that is shown, in order; without recursion, since pages nest as they like."""
    open_nodes: list[Any] = []
    node: Any = body
    while node is not None:
        shown = node.is_text_node or (node.is_element_node and not _is_hidden(node))
        if shown:
            yield node, True
        if shown and not _is_whole(node) and node.child is not None:
            open_nodes.append(node)
            node = node.child
            continue
        if shown:
            yield node, False
        while open_nodes and node.next is None:
            node = open_nodes.pop()
            yield node, False
        node = node.next if open_nodes else None


def _is_hidden(node: Any) -> bool:
    if node.tag in _DROPPED:
        return True
    attributes = node.attributes
    return "hidden" in attributes or attributes.get("aria-hidden") == "true"


def _is_whole(node: Any) -> bool:
    """Whether a node is written on entering, with all that is in it."""
    return node.tag in ("sup", "sub", "math", "pre", "-text")


@dataclass
class _Writer:
    """Text so far, and what must stand before the next text: line breaks, a mark of a list, a space."""

    parts: list[str] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    size: int = 0
    breaks: int = 0
    space: bool = False
    mark: str = ""
    lists: list[int | None] = field(default_factory=list)
    """Open lists: the last number of an ordered one, None for others."""
    tables: list[bool] = field(default_factory=list)
    """Open tables: whether their rows are lines of cells; tables that lay out a page are not."""
    first_cell: bool = True
    opened: list[tuple[int, int]] = field(default_factory=list)
    """Open headings: where they start, in characters and in parts."""

    def enter(self, node: Any) -> None:
        tag = node.tag
        if tag == "-text":
            self.write(node.text_content or "")
            return
        if tag in _APART or tag in _LINES:
            self.part(tag)
        if tag in _LEVEL:
            self.opened.append((self.size, len(self.parts)))
        elif tag in ("ul", "ol"):
            first = node.attributes.get("start") or "1"
            self.lists.append(int(first) - 1 if tag == "ol" and first.isdecimal() else None if tag == "ul" else 0)
        elif tag == "li":
            self.mark = "  " * (len(self.lists) - 1) + self.next_mark()
        elif tag == "table":
            self.tables.append(all(found.mem_id == node.mem_id for found in node.css(_LAYS_OUT)))
        elif tag == "tr":
            self.first_cell = True
        elif tag in _CELLS:
            self.open_cell()
        elif tag == "br":
            self.part("div")
        elif tag == "pre":
            self.write_verbatim(node.text(deep=True))
        elif tag in ("sup", "sub"):
            self.write(_script(node, raised=tag == "sup"))
        elif tag == "math":
            self.write(_formula(node))

    def leave(self, node: Any) -> None:
        tag = node.tag
        if tag in _LEVEL:
            start, part = self.opened.pop()
            text = clean(_SPACE.sub(" ", "".join(self.parts[part:]))).strip(" ¶🔗")
            if text:
                line = int(node.attributes.get(_LINE_MARK) or 1)
                self.headings.append(Heading(start, self.size, _LEVEL[tag], text, line))
        elif tag in ("ul", "ol") and self.lists:
            self.lists.pop()
        elif tag == "table" and self.tables:
            self.tables.pop()
        if tag in _APART or tag in _LINES:
            self.part(tag)

    def part(self, tag: str) -> None:
        """What comes next stands on a line of its own, after an empty one if `tag` is a paragraph or the like."""
        if self.tables and self.tables[-1] and tag not in ("tr", "table", "caption"):
            self.space = True  # one row, one line
            return
        self.breaks = max(self.breaks, 1 if self.lists or tag in _LINES else 2)

    def next_mark(self) -> str:
        if not self.lists or self.lists[-1] is None:
            return "- "
        self.lists[-1] += 1
        return f"{self.lists[-1]}. "

    def open_cell(self) -> None:
        if not (self.tables and self.tables[-1]):
            self.part("div")
        elif self.first_cell:
            self.first_cell = False
        else:
            self.put(" | ")
            self.space = False

    def write(self, raw: str) -> None:
        text = _SPACE.sub(" ", _WRAP.sub("", raw))
        body = text.strip(" ")
        self.space = self.space or text.startswith(" ")
        if body:
            if self.space and not self.breaks and not self.mark and self.size and not self.parts[-1][-1].isspace():
                body = f" {body}"
            self.put(body)
            self.space = text.endswith(" ")

    def write_verbatim(self, raw: str) -> None:
        if raw.strip():
            self.put(raw.strip("\r\n"))

    def put(self, text: str) -> None:
        before = "\n" * self.breaks if self.size else ""
        self.parts.append(f"{before}{self.mark}{text}")
        self.size += len(self.parts[-1])
        self.breaks, self.space, self.mark = 0, False, ""


def _script(node: Any, *, raised: bool) -> str:
    """2<sup>64</sup> as 2⁶⁴, which is not 264; what has no raised form as ^(…), a link to a note as it is."""
    text = _SPACE.sub(" ", node.text(deep=True)).strip()
    made = text.translate(_RAISED if raised else _LOWERED)
    if not text or node.css_first("a") is not None or text.startswith("["):
        return text
    if not any(old == new for old, new in zip(text, made, strict=True)):
        return made
    sign = "^" if raised else "_"
    return f"{sign}{text}" if len(text) == 1 else f"{sign}({text})"


def _formula(node: Any) -> str:
    """A formula as its author wrote it, where the page keeps that."""
    source = node.css_first("annotation")
    return source.text() if source is not None else node.attributes.get("alttext") or node.text(deep=True)
