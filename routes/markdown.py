"""Markdown of an answer as HTML. The model's output only ever becomes text inside elements that this module writes.

CommonMark with tables and strikethrough (markdown-it-py). HTML stays text, images become their alternative texts, only
web and mail addresses become links, and every heading has the level below the page's own.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline, image, link
from markdown_it.token import Token
from markupsafe import Markup

InlineRule = Callable[[StateInline, bool], bool]

HEADING = "h3"
DIRECTED = frozenset(("p", "ul", "ol", "blockquote"))
LONGEST = 40_000  # characters: the longest answers of most models, and a second of work at the very worst
MISSING = 256  # cells of a table that its rows lack: the library fills them in, and by itself very many
NESTED = 20  # levels; the library looks at each bracket as often
SCHEMES = ("http://", "https://", "mailto:")
NOWHERE = re.compile(r"\(\s*\)$")  # the end of a link or an image without an address


def rendered(text: str) -> Markup:
    """Return the answer as HTML; one that is longer than LONGEST or deeper than NESTED as the plain text that it is."""
    env: dict[str, Any] = {}
    tokens = _MARKDOWN.parse(text, env) if len(text) <= LONGEST else None
    if tokens is None or any(token.level >= NESTED - 1 for token in tokens):  # what is deeper would be left out
        return plain(text)
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, env))  # nosec B704 # it escapes what it is given


def plain(text: str) -> Markup:
    """Return the answer as the text that it is, which takes no time, however long it is."""
    return Markup('<pre tabindex="0"><code>{}</code></pre>\n').format(text)


class _Renderer(RendererHTML):
    """Writes no styles, no images and no links with other schemes."""

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return Markup.escape(tokens[idx].content)

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return f"<{HEADING}{_direction(tokens[idx])}>"

    def heading_close(self, *_: Any) -> str:
        return f"</{HEADING}>\n"

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return (
            f'<a href="{Markup.escape(tokens[idx].attrGet("href") or "")}" target="_blank" rel="noopener noreferrer">'
        )

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return f'<pre tabindex="0"><code>{Markup.escape(tokens[idx].content)}</code></pre>\n'

    code_block = fence

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return f'<div class="scroll" tabindex="0"{_direction(tokens[idx])}><table>\n'

    def table_close(self, *_: Any) -> str:
        return "</table></div>\n"

    @staticmethod
    def renderAttrs(token: Token) -> str:
        """Write the start of a numbered list and a direction only: the alignment of cells would be an inline style."""
        start = f' start="{token.attrs["start"]}"' if "start" in token.attrs else ""
        return start + (_direction(token) if token.tag in DIRECTED else "")


def _direction(token: Token) -> str:
    """Return the attribute of an outermost block, whose text gives it its direction, and so what is in it."""
    return ' dir="auto"' if token.nesting > 0 and token.level == 0 else ""


def _with_address(rule: InlineRule) -> InlineRule:
    """Return the rule of links or images for those that have an address; others are the text that they are."""

    def found(state: StateInline, silent: bool) -> bool:
        start = state.pos
        there = rule(state, True) and not NOWHERE.search(state.src, start, state.pos)
        state.pos = start
        return there and rule(state, silent)

    return found


def _may_lead_there(url: str) -> bool:
    return url.lower().startswith(SCHEMES)


# A table ends there, and the rest is a paragraph. The package's name for the module is that of a function in it.
importlib.import_module("markdown_it.rules_block.table").MAX_AUTOCOMPLETED_CELLS = MISSING  # type: ignore[attr-defined]
_MARKDOWN = MarkdownIt("js-default", {"html": False, "breaks": True}, renderer_cls=_Renderer)
_MARKDOWN.options["maxNesting"] = NESTED
_MARKDOWN.validateLink = _may_lead_there  # type: ignore[method-assign]
_MARKDOWN.inline.ruler.at("link", _with_address(link))
_MARKDOWN.inline.ruler.at("image", _with_address(image))
