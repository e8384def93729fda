// What the marks within a block of Markdown mean: emphasis, code, links and breaks, as CommonMark has it, with strikethrough and
// bare addresses. A mark goes only where it makes something; any other is text.
import { emphasised, flanks, shown, unended } from "./emphasis.js";

const LONGEST = 2000; // characters that wait for the end of what has begun; then its mark is text
const READERS = {
  "\\": "escape", "`": "code", "*": "run", _: "run", "~": "run", "[": "bracket", "!": "bracket", "]": "link", "<": "angle", "\n": "line",
  h: "address", H: "address",
};
const PLAIN = /[^\\`*_~[!\]<\nhH]+/y;
const WORD = /[\p{L}\p{N}]/u;
const ESCAPED = /\\[!-/:-@[-`{-~]/y;
const ESCAPES = /\\([!-/:-@[-`{-~])/g;
const BARE = /https?:\/\/[^\s<>[\]`*\\]+/iy;
const MAYBE_BARE = /(?:https?:?\/{0,2}|htt?|h)$/iy;
const BEHIND_BARE = /[.,:;!?'"»”’…–—_~]/; // ends the sentence, not the address
const ANGLE = /<((https?:\/\/|mailto:)[^\s<>]+|[\w.!#$%&'*+/=?^`{|}~-]+@[a-z\d-]+(?:\.[a-z\d-]+)*)>/iy;
const BREAK = /<br ?\/?>/iy;
const MAYBE_ANGLE = /<(?:[^\s<>]*|br \/?)$/iy;
const ANGLED = /<((?:\\[^]|[^\n<>\\])*)>/y;
const MAYBE_ANGLED = /<(?:\\[^]|[^\n<>\\])*\\?$/y;
const TITLE = /(?:\s+(?:"(?:\\[^]|[^"\\])*"|'(?:\\[^]|[^'\\])*'|\((?:\\[^]|[^()\\])*\)))?\s*\)/y;
const MAYBE_TITLE = /\s*(?:"(?:\\[^]|[^"\\])*(?:\\?|"\s*)|'(?:\\[^]|[^'\\])*(?:\\?|'\s*)|\((?:\\[^]|[^()\\])*(?:\\?|\)\s*))?$/y;
const WEB = /^(?:https?:\/\/|mailto:)/i; // only such addresses become links

// Returns { items, settled } of the source from an index on; the characters before it are context. An item has its `start` and `end`,
// and is text, or has a tag and text or items in it. More source changes none of the first `settled` items; if ended, there is no
// more. What has begun to be emphasis or code is shown as if it ended here.
export function parse(source, from, ended) {
  const reading = new Reading(source, from, ended);
  const items = reading.all();
  let settled = items.findIndex(({ end }) => end > reading.settled);
  if (settled < 0) settled = items.length;
  while (items[settled]?.start < items[settled - 1]?.end) settled -= 1; // two share a run of marks
  return { items, settled };
}

// The plain text of items.
export function words(items) {
  return items.map(({ tag, text, items: inner }) => (tag === "br" ? "\n" : inner ? words(inner) : text)).join("");
}

class Reading {
  constructor(source, from, ended) {
    Object.assign(this, { source, at: from, items: [], brackets: [] });
    this.floor = ended ? Infinity : source.length - LONGEST;
    this.settled = source.length;
    this.unmatched = new Set(); // lengths of runs of backticks that do not come again
  }

  all() {
    while (this.at < this.source.length) {
      const plain = this.match(PLAIN);
      if (plain) this.text(plain[0]);
      else this[READERS[this.source[this.at]]]();
    }
    for (const { start, dead } of this.brackets) if (!dead) this.waits(start);
    const { out, openers } = emphasised(this.items);
    for (const index of openers.reverse()) if (this.waits(out[index].start)) unended(out, index);
    return out.map(shown);
  }

  match(pattern, at = this.at) {
    pattern.lastIndex = at;
    return pattern.exec(this.source);
  }

  // Returns whether what begins there may still get its end.
  waits(start = this.at) {
    const may = start >= this.floor;
    if (may) this.settled = Math.min(this.settled, start);
    return may;
  }

  take(length, item) {
    this.items.push({ ...item, start: this.at, end: (this.at += length) });
  }

  text(text, length = text.length) {
    const last = this.items.at(-1);
    if (!last?.plain || this.at >= this.settled) return this.take(length, { text, plain: true });
    last.text += text;
    last.end = this.at += length;
  }

  line() {
    this.take(1, { tag: "br" });
  }

  escape() {
    const next = this.source[this.at + 1];
    if (next === undefined) this.waits();
    if (next === "\n") this.take(2, { tag: "br" });
    else if (this.match(ESCAPED)) this.text(next, 2);
    else this.text("\\");
  }

  code() {
    const [run] = this.match(/`+/y);
    const begin = this.at + run.length;
    const closing = this.again(run, begin);
    if (closing < 0 && !this.waits()) return this.text(run);
    const end = closing < 0 ? this.source.length : closing;
    const behind = closing < 0 ? end : end + run.length;
    if (behind === this.source.length) this.waits(); // the run may be longer
    const text = this.source.slice(begin, end).replaceAll("\n", " ");
    this.take(behind - this.at, { tag: "code", text: /^ .* $/.test(text) && text.trim() ? text.slice(1, -1) : text });
  }

  // Returns where the next run of as many backticks is, -1 for nowhere.
  again({ length }, from) {
    if (this.unmatched.has(length)) return -1;
    const runs = /`+/g;
    runs.lastIndex = from;
    for (let run; (run = runs.exec(this.source)); ) if (run[0].length === length) return run.index;
    this.unmatched.add(length);
    return -1;
  }

  get before() {
    return [...this.source.slice(Math.max(0, this.at - 2), this.at)].at(-1) ?? "";
  }

  run() {
    const mark = this.source[this.at];
    const { length } = this.match(/\*+|_+|~+/y)[0];
    const behind = this.at + length;
    const sides = flanks(mark, this.before, behind < this.source.length ? String.fromCodePoint(this.source.codePointAt(behind)) : "");
    if (behind === this.source.length && this.waits()) sides.opens = true; // as it mostly will
    if (mark === "~" && length % 2) this.text("~");
    const count = behind - this.at;
    if (count) this.take(count, { mark, count, length, ...sides });
  }

  bracket() {
    const image = this.source[this.at] === "!";
    const text = image ? "![" : "[";
    if (!this.source.startsWith(text, this.at)) {
      if (this.at + 1 === this.source.length) this.waits();
      return this.text("!");
    }
    this.brackets.push({ image, index: this.items.length, start: this.at });
    this.take(text.length, { text });
  }

  // A link cannot hold another. Of an image, its alternative text is shown.
  link() {
    const opener = this.brackets.pop();
    const found = opener && !opener.dead ? this.destination(this.at + 1) : null;
    if (found === undefined) this.waits(opener.start);
    if (!found) return this.text("]");
    const inner = this.items.splice(opener.index).slice(1);
    const { href, end } = found;
    const link = () => ({ tag: "a", href, items: emphasised(inner.map(unlinked)).out.map(shown) });
    const item = opener.image ? { text: this.source.slice(opener.start + 2, this.at) } : link();
    if (!opener.image) for (const other of this.brackets) other.dead ||= !other.image;
    this.items.push({ ...item, start: opener.start, end: (this.at = end) });
  }

  // Returns { href, end } of what may stand behind the text of a link, null for anything else, undefined while that is open.
  destination(at) {
    if (at === this.source.length) return undefined;
    if (this.source[at] !== "(") return null;
    const begin = at + 1 + this.match(/\s*/y, at + 1)[0].length;
    const angled = this.match(ANGLED, begin);
    if (!angled && this.match(MAYBE_ANGLED, begin)) return undefined;
    const end = angled ? begin + angled[0].length : addressEnd(this.source, begin);
    if (end === this.source.length) return undefined;
    const href = (angled ? angled[1] : this.source.slice(begin, end)).replace(ESCAPES, "$1");
    if (!WEB.test(href)) return null;
    const rest = this.match(TITLE, end);
    return rest ? { href, end: end + rest[0].length } : this.match(MAYBE_TITLE, end) ? undefined : null;
  }

  angle() {
    const link = this.match(ANGLE);
    const found = link ?? this.match(BREAK);
    if (!found && this.match(MAYBE_ANGLE)) this.waits();
    if (!found) return this.text("<");
    this.take(found[0].length, link ? { tag: "a", text: link[1], href: link[2] ? link[1] : `mailto:${link[1]}` } : { tag: "br" });
  }

  address() {
    const found = WORD.test(this.before) ? null : (this.match(BARE) ?? this.match(MAYBE_BARE));
    if (found && this.at + found[0].length === this.source.length) this.waits();
    const address = bare(found?.[0] ?? "");
    if (!address) return this.text(this.source[this.at]);
    this.take(address.length, { tag: "a", text: address, href: address });
  }
}

function unlinked(item) {
  return item.tag === "a" ? { ...item, tag: undefined } : item;
}

// Returns where an address ends: at a blank, or at a parenthesis that closes none in it. It is empty if one in it stays open.
function addressEnd(source, begin) {
  let open = 0;
  for (let at = begin; at < begin + LONGEST; at += source[at] === "\\" ? 2 : 1) {
    if (at >= source.length) return source.length;
    if (source[at] <= " " || (source[at] === ")" && !open)) return open ? begin : at;
    open += { "(": 1, ")": -1 }[source[at]] ?? 0;
  }
  return begin;
}

// Returns an address without what ends the sentence around it, "" if nothing is left.
function bare(address) {
  let open = 0;
  for (const character of address) open += { "(": 1, ")": -1 }[character] ?? 0;
  let end = address.length;
  for (; end; end -= 1) {
    if (address[end - 1] === ")" && open < 0) open += 1;
    else if (!BEHIND_BARE.test(address[end - 1])) break;
  }
  return /\/\/./.test(address.slice(0, end)) ? address.slice(0, end) : "";
}
