// Streamed Markdown as DOM elements. The model's output only ever becomes text inside elements that this module creates.
// The vendored parser finds the blocks. It would lose marks of what is within them, so those are fed to it as other characters.
import { Fences } from "./fence.js";
import { parse, words } from "./inline.js";
import { texts } from "./texts.js";
import * as smd from "./vendor/streaming-markdown.js";

const TAGS = new Map([
  [smd.PARAGRAPH, "p"], [smd.BLOCKQUOTE, "blockquote"], [smd.RULE, "hr"],
  [smd.LIST_UNORDERED, "ul"], [smd.LIST_ORDERED, "ol"], [smd.LIST_ITEM, "li"],
  ...[smd.HEADING_1, smd.HEADING_2, smd.HEADING_3, smd.HEADING_4, smd.HEADING_5, smd.HEADING_6].map((type) => [type, "h3"]),
]);

const NESTED = 17; // quotes, lists and items around a paragraph, as many as routes/markdown.py shows
const LEVELS = new Map([[smd.BLOCKQUOTE, 1], [smd.LIST_UNORDERED, 2], [smd.LIST_ORDERED, 2]]); // a list with its item

const MASKED = "\\<`_*~$[!h>| \t"; // each is fed as a character that stands for nothing, from U+FDD0 on
const MASKS = /[\ufdd0-\ufdef]/g;

// The marks of blocks at the beginning of a line: quotes, then a rule or an item, which a fence of code may follow.
const QUOTES = new RegExp(`^(?:[ \\t]*>){0,${NESTED}}[ \\t]*`);
const BLOCK = /^(?:(?:\*[ \t]*){3,}(?=\n?$)|(?:_[ \t]*){3,}(?=\n?$)|(?:[-+*]|\d{1,9}[.)]) (?:\[[ x]\] )?)/;
const MAYBE_FENCE = "[ \\t]*(?:`{1,2}|`{3,}[^`\\n]*|~{1,2}|~{3,}[^\\n]*)";
const MAYBE_ITEM = `(?:[-+*]|\\d{1,9}[.)]?)|(?:[-+*]|\\d{1,9}[.)]) (?:[ \\t]*|\\[(?:[ x]\\]?)?|${MAYBE_FENCE})`;
const MAYBE_BLOCK = new RegExp(`^[ \\t>]*(?:(?:\\*[ \\t]*)+|(?:_[ \\t]*)+|${MAYBE_FENCE}|${MAYBE_ITEM})?$`);
const LONGEST = 256; // characters that are held back as such
const ROW = /^ {0,3}(?:> ?)+/; // the marks of quotes before a row of a table
const LEAVE = "\n".repeat(5); // ends a table, whatever is missing of it, and the quotes around it

const PIECE = 1024; // characters of a text node: a layout looks at each node, and each addition copies the node
const SHOWN = 32; // characters at most of what is held back

const DIRECTED = /^(p|h3|ul|ol|blockquote)$/;
const LINES = /^(P|H3|LI|TD|TH|TR|CODE|BLOCKQUOTE)$/; // what is said by itself

// Returns { write, end }; `said` is called with the plain text, without Markdown marks.
export function writer(root, said) {
  const open = [root]; // the elements around what comes next
  const node = () => open.at(-1);
  let inline = null; // what comes in the innermost one
  const within = () => (inline ??= new Inline(node(), said));
  const leave = () => (inline = void inline?.draw(true));
  const parser = smd.parser({
    data: null,
    add_token(_, type) {
      if (type === smd.LINE_BREAK) within().line();
      else leave();
      open.push(type === smd.LINE_BREAK ? node() : opened(node(), type, open.length - 1));
    },
    end_token() {
      const ended = open.pop();
      if (ended === node()) return;
      leave();
      if (LINES.test(ended.tagName)) said("\n");
    },
    add_text(_, text) {
      const plain = text.replace(MASKS, (mask) => MASKED[mask.charCodeAt(0) & 0xf]);
      if (node().tagName !== "CODE") return within().write(plain);
      put(node(), plain);
      said(plain);
    },
    set_attr(_, type, value) {
      if (type === smd.START && node().tagName === "OL" && /^\d{1,9}$/.test(value)) node().setAttribute("start", value);
      else if (type === smd.CHECKED) node().textContent = "☑ ";
    },
  });
  // The parser holds back its last character, which may begin a mark. A letter or digit cannot, so it is shown already.
  const tail = document.createTextNode("");
  const inTable = () => node().closest("table");
  let begins = true; // a line
  let held = ""; // what may belong to a mark
  let rows = 0; // of the open table, behind its first
  let piped = false; // whether the line is a row
  // The parser ends a table at an empty line alone, would tear what stands right behind it, and knows no marks of quotes in it.
  // Whether there is a table at all, it knows by the second line, which is the parser's.
  const inRows = (line) => {
    const row = node().closest("blockquote") ? line.replace(ROW, "") : line;
    if (row === line && node().closest("blockquote")) smd.parser_write(parser, LEAVE);
    else if (rows > 1 && !/^[ \t]*(\||\n)/.test(row)) smd.parser_write(parser, "\n");
    return row;
  };
  const write = (text, begun) => {
    const marks = begun ? marksOf(text).join("") : "";
    let rest = text.slice(marks.length);
    if (begun) {
      rest = rest.replace(/^>/, masked);
      piped = rest.startsWith("|");
    }
    if (piped) rest = rest.replaceAll("\\|", masked("|"));
    smd.parser_write(parser, marks.replace(")", ".") + allMasked(rest));
  };
  const fences = new Fences(parser, write, (code) => allMasked(code.replace(/^[ \t]/, masked)));
  const feed = (text) => {
    if (!begins) return fences.more(text);
    rows = inTable() ? rows + 1 : 0;
    const line = rows ? inRows(text) : text;
    fences.take(line, marksOf(line));
  };
  return {
    write(text) {
      tail.remove();
      for (const line of (held + text.replace(MASKS, "\ufffd")).split(/(?<=\n)/).filter(Boolean)) {
        held = begins && line.length <= LONGEST && MAYBE_BLOCK.test(line) ? line : /\\?$/.exec(line)[0];
        const sure = line.slice(0, line.length - held.length);
        if (sure) feed(sure);
        begins = sure ? sure.endsWith("\n") : begins;
      }
      inline?.draw(false);
      const pending = (held || parser.pending).slice(0, SHOWN);
      tail.data = /^[\p{L}\p{N}]+$/u.test(pending) ? pending : "";
      node().append(tail);
    },
    end() {
      tail.remove();
      if (held) feed(held);
      smd.parser_end(parser);
      leave();
    },
  };
}

// The marks at the beginning of a line, of quotes and of what is in them.
function marksOf(line) {
  const [quotes] = QUOTES.exec(line);
  return [quotes, BLOCK.exec(line.slice(quotes.length))?.[0] ?? ""];
}

function allMasked(text) {
  return text.replace(/[\\<`_*~$[!h]/g, masked);
}

function masked(mark) {
  return String.fromCharCode(0xfdd0 + MASKED.indexOf(mark));
}

// The text within a block: what may still change is shown, and drawn anew with what comes.
class Inline {
  constructor(parent, said) {
    Object.assign(this, { parent, said, source: "", from: 0, shown: [] });
  }

  write(text) {
    this.source += text;
  }

  line() {
    if (this.source) this.source += "\n";
  }

  draw(ended) {
    for (const node of this.shown) node.remove();
    const { items, settled } = parse(this.source, this.from, ended);
    const sure = items.splice(0, settled);
    build(this.parent, sure);
    this.said(words(sure));
    const end = sure.at(-1)?.end ?? this.from;
    const context = Math.min(2, end); // characters, of which one may have two parts
    this.source = this.source.slice(end - context);
    this.from = context;
    const rest = new DocumentFragment();
    build(rest, items);
    this.shown = [...rest.childNodes];
    this.parent.append(rest);
  }
}

function build(parent, items) {
  for (const { tag, text, href, items: inner } of items) {
    if (!tag) put(parent, text);
    else if (inner) build(element(parent, tag, href), inner);
    else element(parent, tag, href).append(text ?? "");
  }
}

function element(parent, tag, href) {
  const made = parent.appendChild(document.createElement(tag));
  return href ? Object.assign(made, { href, target: "_blank", rel: "noopener noreferrer" }) : made;
}

// Adds text in few nodes, so that a long paragraph costs little more with each event than a short one.
function put(parent, text) {
  const last = parent.lastChild;
  if (last?.nodeType === Node.TEXT_NODE && last.length < PIECE) last.appendData(text);
  else parent.append(text);
}

// Code is mostly wanted alone. The server's markup has no buttons.
export function addCodeButtons(answer) {
  for (const code of answer.querySelectorAll("pre")) code.replaceWith(boxed(code.cloneNode(true)));
}

function boxed(code) {
  const box = Object.assign(document.createElement("div"), { className: "code" });
  const button = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: texts.copy_code });
  button.dataset.do = "copy-code";
  box.append(code, button);
  return box;
}

// An outermost block has the direction of its text, and what is in it has that of the block: a list with its marks, a table with its columns.
function directed(element) {
  if (!element.parentNode.closest(".answer [dir]")) element.dir = "auto";
  return element;
}

// Returns the element of a block, which is the parent itself where quotes and lists are nested too deep.
function opened(parent, type, depth) {
  if (depth + (LEVELS.get(type) ?? -Infinity) > NESTED) return parent;
  if (type === smd.CODE_BLOCK || type === smd.CODE_FENCE) {
    const code = Object.assign(document.createElement("pre"), { tabIndex: 0 });
    parent.append(boxed(code)); // with its button at once: at the end, all below would move
    return element(code, "code");
  }
  if (type === smd.TABLE) {
    const box = parent.appendChild(Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 }));
    return element(directed(box), "table");
  }
  if (type === smd.TABLE_ROW) return element(parent.tHead ? (parent.tBodies[0] ?? parent.createTBody()) : parent.createTHead(), "tr");
  if (type === smd.TABLE_CELL) return element(parent, parent.parentNode.tagName === "THEAD" ? "th" : "td");
  if (type === smd.LIST_ITEM && !/^[UO]L$/.test(parent.tagName)) return element(parent, "div");
  const made = element(parent, TAGS.get(type) ?? "span");
  if (DIRECTED.test(TAGS.get(type))) directed(made);
  if (type === smd.CHECKBOX) {
    made.textContent = "☐ ";
    if (parent.tagName === "LI") parent.classList.add("task");
  }
  return made;
}
