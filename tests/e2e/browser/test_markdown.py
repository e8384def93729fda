"""What the scripts show of an answer's Markdown, beside what the server shows of it."""

import random
import re
from html.parser import HTMLParser

import pytest

from routes.markdown import rendered
from tests.e2e.browser.steps import TEXT, finished
from tests.e2e.browser.test_layout import overflow

pytestmark = pytest.mark.needs("chromium")

# Each answer in pieces of one character, of three and whole: its text, what was said of it, its links, its depth and
# its blocks.
SHOWN = """async (answers) => {
  const { writer } = await import(document.querySelector("[href*='/markdown.js']").href);
  const shown = (text, size) => {
    const root = Object.assign(document.createElement("div"), { className: "answer" });
    let said = "";
    const { write, end } = writer(root, (part) => { said += part; });
    for (let at = 0; at < text.length; at += size) write(text.slice(at, at + size));
    end();
    for (const button of root.querySelectorAll("button")) button.remove();
    const holds = (element) => element.matches("blockquote, ul, ol");
    const around = (element) => element === root ? 0 : around(element.parentElement) + holds(element);
    const links = [...root.querySelectorAll("a")].map((one) => one.getAttribute("href"));
    const deep = [...root.querySelectorAll("*")].reduce((most, element) => Math.max(most, around(element)), 0);
    const blocks = [...root.querySelectorAll("pre, li, h3, td")].map((one) => [one.localName, one.textContent]);
    return { text: root.textContent, said, links, deep, blocks };
  };
  return answers.map((text) => [1, 3, text.length + 1].map((size) => shown(text, size)));
}"""
INNERMOST = """(answer) => Math.min(...[...answer.querySelectorAll("p, li, pre")].map((one) => one.clientWidth))"""
WRITTEN = [
    "Цена: [указать цену]\n- Контакт: [имя], файл foto_divana_1.jpg, [5000]",
    "Call handlers[name](event) or handlers[name]() to run a[i](b)(c).",
    "Оплата [по договору](см. ниже\n\nВторая часть ответа. [x](http://a.b и ещё\n\n# Конец",
    "[a](http://a.b\n\n" + "Вторая часть ответа. " * 1000,
    "[1], [2][3] and [[4]](https://a.b), ![alt](http://a.b/c.png), ![no](c.png), ![]",
    "Сноска* и *ещё одна, __init__, snake_case_name, _так_, __и так, *a **b* c**, ***d***",
    "`a_b[0]` ``c`d`` `не закрыт_, [a `]` b](https://x.y) \\[e\\] \\(f\\) \\_g\\_ $h_1$ и $$i_2$$",
    "- [ ] task\n- [x] done\n- [X] as text\n- [y]\n\n| [a] | b_c |\n|---|---|\n| `d_e` | [f](g) \\| _h_ |",
    "```py\nx[0](y) = a_b\n```\n\n    d[1]_e\n\n> [q](r\n> s_t\n\n1. [u\n2. v]\n\n* * *\n\n_ _ _\n\n***",
    "**[жирная](https://x.y/a_(b))** <https://x.y/c_d> <br> a<b>c and <d_e@f.g>",
    "[a" * 60 + "*a **b _c __d ~~e " * 40 + "[f](g" * 400,
]
PIECES = [
    *"[]()_*\\ .",
    "](",
    "**",
    "__",
    "~~a",
    "a~~",
    "![",
    "``",
    "`x`",
    "a",
    "б",
    "c_d",
    "<",
    "[a](http://z)",
    "[b](x",
    "(x)",
    "[1]",
]
PIECES += [
    "word",
    "Цена: ",
    "\nb",
    "\n\nb",
    "\n- b",
    "\n* b",
    "\n1. b",
    "\n> b",
    "\n## b",
    "\n  - b",
    "\n```\n[c_d](\n```\nb",
    "\n  ```\n  c\n\n  d\n  ```\n",
    "\n1) b",
    "\n~~~\nc",
]


def made_up(count):
    """Return texts of marks in any order, the same each time."""
    dice = random.Random(7)
    return ["q " + "".join(dice.choices(PIECES, k=dice.randint(1, 25))) for _ in range(count)]


def made_up_lists(count):
    """Return lists whose items hold paragraphs and code in any order, the same each time."""
    dice, made = random.Random(11), []
    for _ in range(count):
        parts = [dice.choice(["", "Text\n\n"])]
        kind = dice.choice(["- ", "* ", "{}. ", "{}) "])
        for number in range(1, dice.randint(2, 4)):
            item = kind.format(number)
            before = " " * dice.choice([len(item), 4])
            parts.append(f"{item}**a** c_d\n")
            for _ in range(dice.randint(0, 3)):
                code = f"{before}```py\n{before}x = 1\n{dice.choice(['', chr(10)])}{before}    y_z\n{before}```\n"
                parts += [dice.choice(["", "\n"]), dice.choice([f"{before}Run **b**:\n", code])]
            parts.append(dice.choice(["", "\n"]))
        made.append("".join(parts) + dice.choice(["", "\nText\n"]))
    return made


class _Text(HTMLParser):
    """Collects the text of a page, and that of its blocks in the order of their beginnings."""

    def __init__(self):
        super().__init__()
        self.text, self.blocks, self.open = "", [], []

    def handle_starttag(self, tag, attrs):
        if tag in ("pre", "li", "h3", "td"):
            self.open.append([tag, ""])
            self.blocks.append(self.open[-1])

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.text += data
        for block in self.open:
            block[1] += data


def marks(text):
    """Return letters, brackets and underscores of a text; a box to tick is written as its mark."""
    return "".join(re.findall(r"[^\W\d_]|[][_]", text.replace("☐", "[]").replace("☑", "[x]")))


def of_the_server(answer):
    """Return what the server shows."""
    return _shown_by_the_server(answer).text


def _shown_by_the_server(answer):
    page = _Text()
    page.feed(str(rendered(answer)).replace("<br>", "\n"))
    return page


def exact(blocks):
    """Return the letters of each block, and code to the letter, but for the ends of its last lines."""
    return [(tag, text.rstrip("\n") if tag == "pre" else marks(text)) for tag, text in blocks]


@pytest.mark.parametrize("answers", [WRITTEN, made_up(700)], ids=["written", "made up"])
def test_the_scripts_show_what_the_server_shows(service, open_page, answers):
    """However the answer was cut; the same is read out."""
    page = open_page(service.url)
    for answer, shown in zip(answers, page.evaluate(SHOWN, answers), strict=True):
        expected = marks(of_the_server(answer).replace("<br>", ""))
        for one in shown:
            assert marks(one["text"]) == expected, answer
            assert marks(one["said"]) == marks(re.sub("[☐☑]", "", one["text"])), answer


PYTHON = "def f():\n    x = '`>`'\n\n\n    return x\n\n# ``` ~~ * - [h"
TABS = "all:\n\tcc a.c\n\n\t\t> b"


def fenced(begin, before, code=PYTHON, fence="```", behind="", blank=None, language="python"):
    """Return a fence with code. before: what stands before each line behind the first; blank: before empty ones."""
    lines = [fence + language, *code.split("\n"), fence]
    blank = before.rstrip() if blank is None else blank
    return begin + "\n".join([lines[0], *(before + line if line else blank for line in lines[1:]), behind])


AFTER = "2. Run **f**\n\n## Afterwards\n\n- b"
FENCED = [
    fenced("", ""),
    fenced("Text\n", "", behind="Text\n"),
    fenced("1. Write it:\n   ", "   ", behind=AFTER),
    fenced("1. Write it:\n   ", "   ", behind="   Text\n2. Run\n", code=TABS),
    fenced("1. Write it:\n\n   ", "   ", behind="\n" + AFTER),
    fenced("1. Write it:\n\n   ", "   ", behind="\n   Then:\n\n" + fenced("   ", "   ", behind=AFTER), blank="   "),
    *(
        fenced(f"1. **Write**\n\n{pad}Run:\n\n{pad}", pad, behind=f"\n{pad}Then **g**\n\n{AFTER}", language="bash")
        for pad in ("   ", "    ")
    ),
    fenced("- a\n  1. b\n\n     Text:\n     more\n\n     ", "     ", behind="\n  2. c\n\n- d\n"),
    fenced("- a\n\n  b\n\n  c\n\n  ", "  ", behind="- d\n"),
    fenced("> 1. a\n>\n>    b\n>\n>    ", ">    ", behind="> 2. c\n"),
    fenced("10) Write it:\n    ", "    ", behind="11) Run\n", fence="~~~~"),
    fenced("- a\n  - b\n    ", "    ", behind="  - c\n- d\n"),
    fenced("- a\n  - b\n  ", "  ", behind="- d\n"),
    fenced("- a\n  - b\n    - c\n\n      ", "      ", behind="\nText\n"),
    fenced("- a:\n    ", "    ", behind="- b\n"),
    fenced("- ", "  ", behind="- b\n", fence="`````"),
    fenced("1. ", "   ", behind=AFTER, fence="~~~"),
    fenced("> ", "> ", behind="> Text\n\nText\n"),
    fenced("> Text\n> ", "> ", behind="Text\n", code=TABS),
    fenced("> > ", "> > ", behind="\n# b\n"),
    fenced("> - a\n>   ", ">   ", behind="> - b\n"),
    fenced(">   ", ">   ", behind="\nText\n", fence="~~~"),
    fenced("> a\n", "", behind="# b\n"),
    "> ```\n> a\n> b\nText\n\n- b",
    "- ```\n  a\n\n  b\n\nText\n\n- b",
    "```\na\n`````  \nText",
    "````md\n```py\na\n```\n````\nText",
    "~~~\n```\na\n~~~ b\n~~~",
    "```\na\n\n",
    "~~struck~~ out\n\n~~~",
    " ```\n  a\n b\nc\n ```\n",
    "```a`b```\n\nText",
    "1) one\n2) two\n\n3) three",
    "- [ ] a\n  ```\n  b\n  ```\n- [x] c",
    "| a |\n|---|\n| b |\n```\nc\n\nd\n```\n| e |\n|---|\n| f |",
]


@pytest.mark.parametrize("answers", [FENCED, made_up_lists(200)], ids=["written", "made up"])
def test_code_is_shown_as_the_server_shows_it(service, open_page, answers):
    """In items and quotes too, to the letter, however the answer was cut; what is behind it is no part of it."""
    page = open_page(service.url)
    for answer, shown in zip(answers, page.evaluate(SHOWN, answers), strict=True):
        expected = exact(_shown_by_the_server(answer).blocks)
        for one in shown:
            assert exact(one["blocks"]) == expected, answer
            assert marks(one["text"]) == marks(of_the_server(answer)), answer


@pytest.mark.parametrize(
    ("answer", "address"),
    [
        ("См. https://avito.ru/x. Ещё", "https://avito.ru/x"),
        ("(https://avito.ru/x)!", "https://avito.ru/x"),
        ("**https://avito.ru/x_1**, «https://avito.ru/y»", "https://avito.ru/x_1 https://avito.ru/y"),
        ("https://en.wikipedia.org/wiki/A_(b), [w](https://en.wikipedia.org/wiki/A_(b))", None),
        ('[a](http://a.b "title") [c](<http://a.b>)', "http://a.b http://a.b"),
        ("[https://a.b](https://c.d) <https://e.f>", "https://c.d https://e.f"),
        ("[a](javascript:x) [b](/docs) [c]() [d]", ""),
        ("[a](http://a.b", "http://a.b"),
    ],
)
def test_a_link_leads_where_its_text_says(service, open_page, answer, address):
    """Without the end of its sentence, and with its own parentheses; what leads nowhere is none."""
    expected = ["https://en.wikipedia.org/wiki/A_(b)"] * 2 if address is None else address.split()
    for shown in open_page(service.url).evaluate(SHOWN, [answer])[0]:
        assert shown["links"] == expected


def quotes(depth):
    return ">" * depth + " a_b [c]"


def lists(depth):
    return "".join("  " * level + f"- a_b [c] {level}\n" for level in range(depth))


@pytest.mark.parametrize(("nested", "most"), [(quotes, 17), (lists, 8)])
def test_both_sides_nest_as_deep(service, open_page, nested, most):
    """What is deeper is shown in the deepest block with scripts, and as the text that it is without."""
    depths = [most - 1, most, most + 1, 24, 60]
    pages = open_page(service.url).evaluate(SHOWN, [nested(depth) for depth in depths])
    for depth, shown in zip(depths, pages, strict=True):
        assert {one["deep"] for one in shown} == {min(depth, most)}
        assert len(re.findall("<(?:blockquote|ul)", rendered(nested(depth)))) == (depth if depth <= most else 0)
        assert {marks(one["text"]) for one in shown} == {marks(of_the_server(nested(depth)))}


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("answer", [quotes(17), quotes(3000), lists(8), lists(20)], ids=["17", "3000", "8", "20"])
def test_what_is_nested_deep_fits_a_phone(service, open_page, answer, scripts):
    """Its indent ends where its text would have no room."""
    service.script(pieces=[answer[at : at + 64] for at in range(0, len(answer), 64)])
    page = open_page(service.url, java_script_enabled=scripts, viewport={"width": 320, "height": 700})
    page.fill("#text-prompt", "x")
    page.click("form[data-kind=text] [data-do=send]")
    finished(page.locator(TEXT).first)
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 700})
        assert overflow(page) <= 0, width
        assert page.locator(f"{TEXT} .answer").first.evaluate(INNERMOST) > 100
