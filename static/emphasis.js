// Which runs of marks in a block of Markdown are emphasis, by CommonMark's rules, and strikethrough. A run is an item with its mark,
// its length, how many of it are not used yet, and whether it opens and closes.

const NESTED = 20; // emphasis in emphasis
const TAGS = { "*1": "em", "*2": "strong", _1: "em", _2: "strong", "~2": "s" };
const SPACE = /^\s?$/; // or the edge of the block
const PUNCTUATION = /[\p{P}\p{S}]/u;

// Whether a run of marks may begin an emphasis and whether it may end one, by the characters around it.
export function flanks(mark, before, behind) {
  const [spaceBefore, spaceBehind] = [SPACE.test(before), SPACE.test(behind)];
  const [edgeBefore, edgeBehind] = [spaceBefore || PUNCTUATION.test(before), spaceBehind || PUNCTUATION.test(behind)];
  const left = !spaceBehind && (edgeBefore || !edgeBehind);
  const right = !spaceBefore && (edgeBehind || !edgeBefore);
  if (mark !== "_") return { opens: left, closes: right };
  return { opens: left && (!right || edgeBefore), closes: right && (!left || edgeBehind) };
}

// Pairs the runs of marks. Returns { out, openers }: the items, and the indexes of those runs that have no end.
export function emphasised(items) {
  const out = [];
  const openers = [];
  for (const item of items) {
    while (item.closes && item.count && paired(out, openers, item));
    if (item.count === 0) continue;
    if (item.opens) openers.push(out.length);
    out.push(item);
  }
  return { out, openers };
}

function paired(out, openers, closer) {
  const place = openers.findLastIndex((index) => fit(out[index], closer));
  if (place < 0) return false;
  const opener = out[openers[place]];
  const used = Math.min(2, opener.count, closer.count);
  if (!wrapped(out, openers[place], used, closer.end)) return false;
  closer.count -= used;
  openers.length = opener.count ? place + 1 : place;
  return true;
}

// The rule of threes is CommonMark's.
function fit(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  if (opener.mark === "~" || !(opener.closes || closer.opens)) return true;
  return (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

// Makes what stands behind a run an emphasis, unless that has too many within. Returns whether it did.
function wrapped(out, index, used, end) {
  const opener = out[index];
  const level = 1 + out.slice(index + 1).reduce((most, item) => Math.max(most, item.level ?? 0), 0);
  if (level > NESTED) return false;
  const items = out.splice(index + 1).map(shown);
  opener.count -= used;
  if (!opener.count) out.pop();
  out.push({ tag: TAGS[opener.mark + used], items, level, start: opener.start, end });
  return true;
}

// Makes what stands behind a run that has no end an emphasis for now.
export function unended(out, index) {
  while (out[index].count && wrapped(out, index, Math.min(2, out[index].count), Infinity));
}

// An item as it is shown: what is left of a run is text.
export function shown(item) {
  return item.mark ? { text: item.mark.repeat(item.count), start: item.start, end: item.end } : item;
}
