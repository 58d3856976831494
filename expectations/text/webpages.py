"""The text of an HTML page as a reader sees it: headings, paragraphs, lists and tables as lines, nothing else."""
# pyright: basic
# The nodes of selectolax have no useful types.

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from expectations.text.cleaning import clean
from expectations.text.libraries import refuse_missing

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
_TABULAR = ("table", "tr", "td", "th")
_LAYS_OUT = "h1, h2, h3, h4, h5, h6, pre, table, ul, ol"  # a table that holds one of these only lays out the page
_SPACE = re.compile(r"\s+")
_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f"
_WRAP = re.compile(rf"(?<=[{_CJK}])[ \t]*\r?\n\s*(?=[{_CJK}])")  # a line break between Chinese characters is no space
_RAISED = str.maketrans("0123456789+-−=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(r"\ufeff?<\?xml[^>]*\sencoding\s*=\s*[\"']([^\"']+)", re.IGNORECASE)
_UTF8 = ("utf-8", "utf8")
MAX_DEPTH = 512
"""Of open elements, as in browsers: what a deeper one costs grows with its depth, so 100,000 would never end."""
MAX_TABLES = 32
"""Of open tables: each is searched for what is in it."""
_TAGS = re.compile(
    r"<!--.*?(?:-->|$)|<(script|style|textarea|title)\b.*?(?:</\1\s*>|$)|<(/?)([a-z][a-z0-9-]*)\b[^>]*>",
    re.DOTALL | re.IGNORECASE,
)
_NOT_NESTED = frozenset((
    # they are empty, or another one of them closes them
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
    "p", "li", "dt", "dd", "tr", "td", "th", "tbody", "thead", "tfoot", "option", "optgroup", "colgroup", "rt", "rp",
    "html", "head", "body", *_LEVEL,
))  # fmt: skip


@dataclass(frozen=True)
class Heading:
    """A heading of a page. `text[start:end]` holds it; `line` is its line in the HTML file."""

    start: int
    end: int
    level: int
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """The text of an HTML page with its headings in order. It depends on nothing but the file."""

    text: str
    title: str
    headings: list[Heading]
    charset: str
    """The encoding that the page states, casefolded; empty where it states none."""


def read_page(html: str) -> Page:
    """Return the text of a page. Raises Refused (FT-CORPUS-007) where selectolax is not installed."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise refuse_missing("reading HTML", "selectolax", "html") from error
    tree = LexborHTMLParser(_number_headings(flatten(html)))
    writer = _Writer()
    if tree.body is not None:
        for node, entering in _walk(tree.body):
            writer.enter(node) if entering else writer.leave(node)
    title = tree.css_first("head title")
    titled = clean(_SPACE.sub(" ", title.text())).strip() if title else ""
    return Page("".join(writer.parts), titled, writer.headings, _charset(html, tree))


def flatten(html: str) -> str:
    """Return a page without the tags of elements inside MAX_DEPTH others; in place of a block a new line begins."""
    if html.count("<") <= MAX_DEPTH:
        return html
    opened: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    depth = last = 0
    pieces: list[str] = []
    for match in _TAGS.finditer(html):
        name = (match[3] or "").lower()
        if not name or name in _NOT_NESTED or match.group().endswith("/>"):
            continue
        if match[2]:
            if not dropped[name]:
                depth -= opened[name] > 0
                opened[name] -= opened[name] > 0
                continue
            dropped[name] -= 1
        elif depth < MAX_DEPTH and (name != "table" or opened[name] < MAX_TABLES):
            depth += 1
            opened[name] += 1
            continue
        else:
            dropped[name] += 1
        line_ends = "\n" * match.group().count("\n")  # headings keep their lines
        pieces += (html[last : match.start()], "<br>" if name in _APART or name in _LINES else "", line_ends)
        last = match.end()
    return "".join([*pieces, html[last:]]) if pieces else html


def says_utf8(page: Page) -> bool:
    """Return whether a page states that it is UTF-8, or states nothing."""
    return not page.charset or page.charset in _UTF8


def _number_headings(html: str) -> str:
    """Write the number of its line into the tag of every heading: the parser does not keep it."""
    pieces: list[str] = []
    line, last = 1, 0
    for heading in _HEADING.finditer(html):
        line += html.count("\n", last, heading.start())
        pieces += (html[last : heading.start()], f"<{heading[1]} {_LINE_MARK}={line}")
        line += html.count("\n", heading.start(), heading.end())
        last = heading.end()
    return "".join([*pieces, html[last:]])


def _charset(html: str, tree: Any) -> str:
    if stated := _XML_ENCODING.match(html):
        return stated[1].casefold()
    for meta in tree.css("meta"):
        attributes = meta.attributes
        if attributes.get("charset"):
            return attributes["charset"].strip().casefold()
        if (attributes.get("http-equiv") or "").casefold() == "content-type":
            charset = _CHARSET.search(attributes.get("content") or "")
            if charset:
                return charset[1].casefold()
    return ""


def _walk(body: Any) -> Iterator[tuple[Any, bool]]:
    """Yield (node, entering) for everything that is shown, in order; without recursion, since pages may nest deeply."""
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
    """Return whether a node is written on entering, with everything in it."""
    return node.tag in ("sup", "sub", "math", "pre", "-text")


@dataclass
class _Writer:
    """The text so far, and what must come before the next text: line breaks, a list mark, a space."""

    parts: list[str] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    size: int = 0
    breaks: int = 0
    space: bool = False
    mark: str = ""
    lists: list[int | None] = field(default_factory=list)
    """Open lists: the last number of an ordered list, None for another."""
    tables: list[bool] = field(default_factory=list)
    """Open tables: True where rows are lines of cells, False where a table only lays out the page."""
    first_cell: bool = True
    opened: list[tuple[int, int]] = field(default_factory=list)
    """Open headings: their starts, in characters and in parts."""

    def enter(self, node: Any) -> None:
        """Open a node, or write it whole."""
        tag = node.tag
        if tag == "-text":
            self.write(node.text_content or "")
            return
        if tag in _APART or tag in _LINES:
            self.part(tag)
        if tag in _LEVEL:
            self.opened.append((self.size, len(self.parts)))
        elif tag in ("ul", "ol"):
            self.lists.append(_last_number(node))
        elif tag == "li":
            self.mark = "  " * (len(self.lists) - 1) + self.next_mark()
        elif tag in _TABULAR:
            self.enter_table_part(node)
        elif tag == "br":
            self.part("div")
        elif _is_whole(node):
            self.write_whole(node)

    def enter_table_part(self, node: Any) -> None:
        """Open a table, a row or a cell."""
        if node.tag == "table":
            self.tables.append(all(inner.mem_id == node.mem_id for inner in node.css(_LAYS_OUT)))
        elif node.tag == "tr":
            self.first_cell = True
        else:
            self.open_cell()

    def write_whole(self, node: Any) -> None:
        """Write a node with everything in it: text that keeps its line breaks, a raised or lowered sign, a formula."""
        if node.tag == "pre":
            self.write_verbatim(node.text(deep=True))
        elif node.tag == "math":
            self.write(_formula(node))
        else:
            self.write(_script(node, raised=node.tag == "sup"))

    def leave(self, node: Any) -> None:
        """Close a node."""
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
        """Begin a new line, after an empty one if `tag` is a paragraph or the like."""
        if self.tables and self.tables[-1] and tag not in ("tr", "table", "caption"):
            self.space = True  # one row, one line
            return
        self.breaks = max(self.breaks, 1 if self.lists or tag in _LINES else 2)

    def next_mark(self) -> str:
        """Return the mark of the next item: a dash, or the next number."""
        if not self.lists or self.lists[-1] is None:
            return "- "
        self.lists[-1] += 1
        return f"{self.lists[-1]}. "

    def open_cell(self) -> None:
        """Separate a cell from the one before it."""
        if not (self.tables and self.tables[-1]):
            self.part("div")
        elif self.first_cell:
            self.first_cell = False
        else:
            self.put(" | ")
            self.space = False

    def write(self, raw: str) -> None:
        """Write running text: white space becomes one space."""
        text = _SPACE.sub(" ", _WRAP.sub("", raw))
        body = text.strip(" ")
        self.space = self.space or text.startswith(" ")
        if body:
            if self.space and not self.breaks and not self.mark and self.size and not self.parts[-1][-1].isspace():
                body = f" {body}"
            self.put(body)
            self.space = text.endswith(" ")

    def write_verbatim(self, raw: str) -> None:
        """Write text with its line breaks."""
        if raw.strip():
            self.put(raw.strip("\r\n"))

    def put(self, text: str) -> None:
        """Append text after the line breaks and the list mark that are due."""
        before = "\n" * self.breaks if self.size else ""
        self.parts.append(f"{before}{self.mark}{text}")
        self.size += len(self.parts[-1])
        self.breaks, self.space, self.mark = 0, False, ""


def _last_number(node: Any) -> int | None:
    """Return the number before the first one of a list; None where it has no numbers."""
    if node.tag == "ul":
        return None
    first = node.attributes.get("start") or "1"
    return int(first) - 1 if first.isdecimal() else 0


def _script(node: Any, *, raised: bool) -> str:
    """Return 2<sup>64</sup> as 2⁶⁴ (which is not 264); a text without a raised form as ^(…); a link to a note as is."""
    text = _SPACE.sub(" ", node.text(deep=True)).strip()
    script = text.translate(_RAISED if raised else _LOWERED)
    if not text or node.css_first("a") is not None or text.startswith("["):
        return text
    if not any(old == new for old, new in zip(text, script, strict=True)):
        return script
    sign = "^" if raised else "_"
    return f"{sign}{text}" if len(text) == 1 else f"{sign}({text})"


def _formula(node: Any) -> str:
    """Return a formula as its author wrote it, where the page keeps that; else its text."""
    source = node.css_first("annotation")
    return source.text() if source is not None else node.attributes.get("alttext") or node.text(deep=True)
