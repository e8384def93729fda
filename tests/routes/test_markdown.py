"""Markdown in answers: what becomes HTML, and that model output never becomes HTML of its own."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routes.markdown import DIRECTED, HEADING, rendered

OURS = set("p br h3 ul ol li strong em s code pre a blockquote hr table thead tbody tr th td div".split())
ATTRIBUTES = {"a": {"href", "target", "rel"}, "pre": {"tabindex"}, "ol": {"start"}, "div": {"class", "tabindex"}}


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("**a** *b* ~~c~~ `<d>`", '<p dir="auto"><strong>a</strong> <em>b</em> <s>c</s> <code>&lt;d&gt;</code></p>'),
        ("# One\n##### Five", '<h3 dir="auto">One</h3>\n<h3 dir="auto">Five</h3>'),
        ("a\nb", '<p dir="auto">a<br>\nb</p>'),
        ("3. x", '<ol start="3" dir="auto">\n<li>x</li>\n</ol>'),
        ("```py\nx < 1\n```", '<pre tabindex="0"><code>x &lt; 1\n</code></pre>'),
        ("![a *cat*](http://example.com/x.png)", '<p dir="auto">a *cat*</p>'),
        ("[a](https://example.com/?x=1&y)", 'href="https://example.com/?x=1&amp;y"'),
        ("<https://example.com>", 'href="https://example.com"'),
        ("[a](mailto:a@b.c)", 'href="mailto:a@b.c"'),
        ("[a](javascript:alert(1))", '<p dir="auto">[a](javascript:alert(1))</p>'),
        ("[a](data:text/html,x)", '<p dir="auto">[a](data:text/html,x)</p>'),
        ("[a](//example.com)", '<p dir="auto">[a](//example.com)</p>'),
        ("run f[a]() and ![b]( ) now", '<p dir="auto">run f[a]() and ![b]( ) now</p>'),
        ("[[a]()](https://b.c)", ">[a]()</a></p>"),
        ("<script>alert(1)</script>", '<p dir="auto">&lt;script&gt;alert(1)&lt;/script&gt;</p>'),
        ("&lt;b&gt;", '<p dir="auto">&lt;b&gt;</p>'),
    ],
)
def test_markdown_becomes_markup_of_ours(markdown, html):
    """CommonMark, tables and strikethrough; only web and mail links; HTML and images as text."""
    assert html in rendered(markdown)


def test_each_outermost_block_has_its_own_direction():
    """A list in Hebrew stands from the right with its marks in an answer in English; `auto` sees no text below another
    `dir`, so nothing in a block has one. A wide table scrolls in its box.
    """
    html = rendered("Hello\n\n# x\n\n- שלום\n\n  > # a\n\n| a |\n|---|\n| ב |\n\n> | a |\n> |---|")
    assert re.findall(r"<(\w+)[^>]* dir=", html) == ["p", "h3", "ul", "div", "blockquote"]
    assert '<div class="scroll" tabindex="0" dir="auto"><table>' in html


def test_a_table_has_no_inline_style():
    """Inline styles would violate the Content-Security-Policy."""
    html = rendered("| a | b |\n|:-:|--:|\n| 1 | 2 |")
    assert re.findall("<t[hd](?: [^>]*)?>", html) == ["<th>"] * 2 + ["<td>"] * 2


ROWS = "a\n" * 200


@pytest.mark.parametrize(
    "text",
    [
        "|" + "a|" * 200 + "\n|" + "-|" * 200 + "\n" + ROWS,
        ("a|" * 99 + "\n" + "-|" * 99 + "\n" + ROWS + "\n") * 20,
        ("> a|a|a\n> -|-|-\n" + "> a\n" * 200 + "\n") * 20,
    ],
    ids=["one table", "many", "in quotes"],
)
def test_a_table_of_few_characters_is_no_large_page(text):
    """A row need not have all cells; those of hundreds of columns would be a thousand bytes for each that was sent."""
    html = rendered(text)
    assert html.count("<td>") < 2 * len(text)
    assert len(html) < 40 * len(text)


def test_a_table_that_lacks_some_cells_is_one():
    """As models write them."""
    html = rendered("| a | b | c |\n|---|---|---|\n" + "| 1 |\n" * 100)
    assert html.count("<td>") == 300
    assert "<p" not in html


class Elements(HTMLParser):
    """Collects the elements of a page, as a browser parses them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_link_has_no_attributes_but_ours():
    """All three of them, and none that a browser runs."""
    elements = Elements()
    elements.feed(str(rendered("[x](https://x.example)")))
    assert dict(elements.found)["a"].keys() == ATTRIBUTES["a"]


MARKS = st.lists(
    st.sampled_from(
        [
            *"<>&\"'`*_~#|-[]()!\n :/",
            "script",
            "javascript:",
            "http://x",
            "<img src=x onerror=y>",
            "data:",
            "a",
            "```",
            "</p>",
        ]
    ),
    max_size=40,
).map("".join)


@given(MARKS)
def test_no_text_makes_an_element_that_is_not_ours(text):
    """Any text yields only the allowed elements, attributes and link schemes."""
    elements = Elements()
    elements.feed(rendered(text))
    for tag, attributes in elements.found:
        assert tag in OURS
        assert set(attributes) <= ATTRIBUTES.get(tag, set()) | ({"dir"} if tag in {*DIRECTED, HEADING} else set())
        assert attributes.get("href", "http://").lower().startswith(("http://", "https://", "mailto:"))
