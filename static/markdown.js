// Streamed Markdown as DOM elements. The model's output only ever becomes text inside elements that this module creates.
import { texts } from "./texts.js";
import * as smd from "./vendor/streaming-markdown.js";

const TAGS = new Map([
  [smd.PARAGRAPH, "p"], [smd.BLOCKQUOTE, "blockquote"], [smd.LINE_BREAK, "br"], [smd.RULE, "hr"],
  [smd.ITALIC_AST, "em"], [smd.ITALIC_UND, "em"], [smd.STRONG_AST, "strong"], [smd.STRONG_UND, "strong"], [smd.STRIKE, "s"],
  [smd.CODE_INLINE, "code"], [smd.LINK, "a"], [smd.RAW_URL, "a"], [smd.LIST_UNORDERED, "ul"], [smd.LIST_ORDERED, "ol"],
  [smd.LIST_ITEM, "li"], [smd.EQUATION_BLOCK, "code"], [smd.EQUATION_INLINE, "code"],
  ...[smd.HEADING_1, smd.HEADING_2, smd.HEADING_3, smd.HEADING_4, smd.HEADING_5, smd.HEADING_6].map((type) => [type, "h3"]),
]);

const MARKS = /^ {0,3}(?:> ?)+/; // of a quote, at the beginning of a line
const MAYBE_MARKS = /^ {0,3}(?:> ?)*$/; // a line that has not come further yet
const LEAVE = "\n".repeat(5); // ends a table, whatever is missing of it, and the quotes around it

const PIECE = 1024; // characters of a text node: a layout looks at each node, and each addition copies the node
const SHOWN = 32; // characters at most of what the parser holds back

const DIRECTED = /^(p|h3|ul|ol|blockquote)$/;

// Returns { write, end }; `said` is called with the plain text, without Markdown marks.
export function writer(root, said) {
  let node = root;
  const parser = smd.parser({
    data: null,
    add_token(_, type) {
      node = open(node, type);
    },
    end_token() {
      if (node === root) return;
      if (/^(P|H3|LI|TD|TH|TR|PRE|BLOCKQUOTE|BR)$/.test(node.tagName)) said("\n");
      node = (node.parentNode.tagName === "PRE" || node.tagName === "TABLE" ? node.closest(".code, .scroll") : node).parentNode;
      if (/^T(HEAD|BODY)$/.test(node.tagName)) node = node.parentNode;
    },
    add_text(_, text) {
      put(node, text);
      said(text);
    },
    set_attr(_, type, value) {
      if (type === smd.HREF) follow(node, value);
      else if (type === smd.START && /^\d{1,9}$/.test(value)) node.setAttribute("start", value);
      else if (type === smd.CHECKED) node.textContent = "☑ ";
    },
  });
  // The parser holds back its last character, which may begin a mark. A letter or digit cannot, so it is shown already.
  const tail = document.createTextNode("");
  const inTable = () => node !== root && node.closest("table");
  let begins = true; // a line
  let held = ""; // the beginning of a line that may be the mark of a quote
  let rows = 0; // of the open table, behind its first
  // The parser ends a table at an empty line alone, would tear what stands right behind it, and knows no marks of quotes in it.
  // Whether there is a table at all, it knows by the second line, which is the parser's.
  const inRows = (line) => {
    const row = node.closest("blockquote") ? line.replace(MARKS, "") : line;
    if (row === line && node.closest("blockquote")) smd.parser_write(parser, LEAVE);
    else if (rows > 1 && !/^[ \t]*(\||\n)/.test(row)) smd.parser_write(parser, "\n");
    return row;
  };
  return {
    write(text) {
      tail.remove();
      const lines = (held + text).split(/(?<=\n)/).filter(Boolean);
      held = "";
      for (const line of lines) {
        if (begins && MAYBE_MARKS.test(line) && inTable()) held = line;
        else {
          if (begins) rows = inTable() ? rows + 1 : 0;
          smd.parser_write(parser, begins && rows ? inRows(line) : line);
        }
        begins = held ? begins : line.endsWith("\n");
      }
      const pending = parser.pending.slice(0, SHOWN);
      tail.data = /^[\p{L}\p{N}]+$/u.test(pending) ? pending : "";
      node.append(tail);
    },
    end() {
      tail.remove();
      smd.parser_end(parser);
    },
  };
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

function open(parent, type) {
  if (type === smd.CODE_BLOCK || type === smd.CODE_FENCE) {
    const code = Object.assign(document.createElement("pre"), { tabIndex: 0 });
    parent.append(boxed(code)); // with its button at once: at the end, all below would move
    return code.appendChild(document.createElement("code"));
  }
  if (type === smd.TABLE) {
    parent = directed(parent.appendChild(Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 })));
    return parent.appendChild(document.createElement("table"));
  }
  if (type === smd.TABLE_ROW) {
    const part = parent.tHead ? parent.tBodies[0] ?? parent.createTBody() : parent.createTHead();
    return part.appendChild(document.createElement("tr"));
  }
  const tag = type === smd.TABLE_CELL ? (parent.parentNode.tagName === "THEAD" ? "th" : "td") : (TAGS.get(type) ?? "span");
  const element = parent.appendChild(document.createElement(tag));
  if (DIRECTED.test(tag)) directed(element);
  if (type === smd.CHECKBOX) {
    element.textContent = "☐ ";
    element.closest("li")?.classList.add("task");
  }
  return element;
}

// Only web and mail addresses become links; anything else stays text.
function follow(link, address) {
  if (link.tagName !== "A" || !/^(https?:\/\/|mailto:)/i.test(address)) return;
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
}
