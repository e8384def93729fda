// Fenced code, in quotes and items too. The vendored parser would end it at an empty line and leave marks and indents in it, so it is
// given each line of code with the blanks alone that keep it in its item.
import { BLOCKQUOTE, LINE_BREAK, LIST_ITEM, parser_write as write } from "./vendor/streaming-markdown.js";

const OPENS = /^(?:`{3,}(?=[^`\n]*\n?$)|~{3,})/;
const FENCE = "```\n"; // as the parser is given each
const BLANK = /^[ \t>]*\n$/;
const TAB = 4; // columns

export class Fences {
  // text(text, begun): feeds the parser what is not of code, begun: from the beginning of its line; masked: makes text of marks.
  constructor(parser, text, masked) {
    Object.assign(this, { parser, text, masked, open: null, closed: false, blanks: [] });
  }

  // Takes the beginning of a line, with what tells whether it is of a fence. marks: of quotes, and of an item.
  take(line, [quotes, item]) {
    if (this.open && this.code(line)) return;
    const count = quotes.split(">").length - 1;
    if (this.waits(line, count)) return this.blanks.push(line);
    const rest = line.slice(quotes.length + item.length);
    const outside = quotes.slice(0, quotes.lastIndexOf(">") + 1);
    const indent = indentOf(quotes.slice(outside.length)) + item.length + indentOf(rest);
    const [mark] = OPENS.exec(rest.trimStart()) ?? [];
    const within = this.itemAt(count, indent);
    const blanks = this.blanks.splice(0);
    const behind = this.closed || blanks.length > 0; // what would end the item for the parser
    const text = !mark && !item && !rest.trimStart().startsWith("#");
    if (this.closed && !text) this.parser.token = LINE_BREAK; // as behind any other line
    if (behind && text && within) line = outside + this.padding(within) + rest.trimStart();
    if (item || !within || !(mark || behind)) blanks.forEach((blank) => this.text(blank, true));
    // The parser takes such a line for a part of the quote before.
    if ((mark || this.closed) && count < this.quotes()) write(this.parser, "\n");
    this.closed = false;
    if (!mark || (!item && indent - (within ? this.parser.spaces[within] : 0) > TAB - !count)) return this.text(line, true);
    if (item) this.text(`${quotes}${item}\n`, true);
    const at = this.itemAt(count, indent);
    write(this.parser, outside + this.padding(at) + FENCE);
    this.open = { mark, count, indent, least: at && this.parser.spaces[at], padding: this.padding(this.parser.len) };
  }

  // Takes more of a line.
  more(text) {
    if (this.open) write(this.parser, this.masked(text));
    else this.text(text, false);
  }

  // Whether an empty line is held back: what is behind an item may still belong to it.
  waits(line, count) {
    return BLANK.test(line) && count === this.quotes() && this.itemAt(count, Infinity) > 0;
  }

  // Returns whether the line is of the open fence, which ends with its quotes or its item.
  code(line) {
    const { mark, count, indent, least, padding } = this.open;
    const marks = new RegExp(`^(?:[ \\t]*>){${count}}`).exec(line);
    const rest = line.slice(marks?.[0].length);
    const within = marks && (!rest.trim() || indentOf(rest) >= least);
    const inner = within ? outdented(rest, indent) : "";
    if (within && !closes(inner, mark)) write(this.parser, padding + this.masked(inner));
    else this.close();
    return Boolean(within);
  }

  close() {
    write(this.parser, this.open.padding + FENCE);
    this.parser.blockquote_idx = 0; // as behind any other line
    this.open = null;
    this.closed = true;
  }

  quotes() {
    return this.parser.tokens.slice(0, this.parser.len + 1).filter((type) => type === BLOCKQUOTE).length;
  }

  // Returns the place of the innermost open item in so many quotes that a line of this indent belongs to, 0 for none.
  itemAt(count, indent) {
    const { tokens, spaces, len } = this.parser;
    let [found, quotes] = [0, 0];
    for (let at = 1; at <= len; at += 1) {
      quotes += tokens[at] === BLOCKQUOTE;
      if (quotes === count && tokens[at] === LIST_ITEM && spaces[at] <= indent) found = at;
    }
    return found;
  }

  // Returns the blanks before a line that the parser wants for what is open there.
  padding(at) {
    return " ".repeat(at && this.parser.spaces.slice(0, at + 1).reduce((sum, one) => sum + one, 0));
  }
}

// Whether a line ends what `mark` has begun.
function closes(line, mark) {
  const run = line.trim();
  return indentOf(line) < TAB && run.length >= mark.length && run === mark[0].repeat(run.length);
}

function indentOf(line) {
  return /^[ \t]*/.exec(line)[0].replaceAll("\t", " ".repeat(TAB)).length;
}

// The line without its indent, or that many columns of it.
function outdented(line, columns) {
  let [at, width] = [0, 0];
  for (; width < columns && /^[ \t]/.test(line.slice(at, at + 1)); at += 1) width += line[at] === "\t" ? TAB : 1;
  return " ".repeat(Math.max(0, width - columns)) + line.slice(at);
}
