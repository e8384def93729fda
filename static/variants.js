// The answers that a question has had, one of which is shown: each repetition adds one.
import { figure, fill, texts } from "./texts.js";

// What tells one answer from another, in every tab. One that was cut short has no request id, and in older records no id.
export function nameOf({ answer, id, raw }) {
  return answer?.request_id ?? id ?? raw;
}

// Both lists in one: what another tab has kept comes first, and what both have is as this one has it, rated as either.
export function joined(kept, list) {
  const own = new Map(list.map((one) => [nameOf(one), one]));
  const names = new Set(kept.map(nameOf));
  const first = kept.map((one) => {
    const mine = own.get(nameOf(one));
    return mine ? Object.assign(mine, { rating: mine.rating ?? one.rating }) : one;
  });
  return standing([...first, ...list.filter((one) => !names.has(nameOf(one)))]);
}

// Without what was there of an answer when its connection was lost, where more has come by the same stream.
function standing(list) {
  const more = (part) => list.some(({ stream, lost, id }) => stream === part.stream && (!lost || id > part.id));
  return list.filter((one) => !(one.lost && one.stream && more(one)));
}

// Which one is shown: none, this one, or the last where this one has gone.
export function placeOf(shown, list) {
  const place = shown ? list.indexOf(shown) : list.length;
  return place < 0 ? list.length - 1 : place;
}

export class Variants {
  // box: the element with the arrows and the number; list, shown: of an exchange that was kept.
  constructor(box, list = [], shown = list.length - 1) {
    this.box = box;
    this.list = list;
    this.shown = shown;
  }

  get current() {
    return this.list[this.shown];
  }

  add(variant) {
    this.list = standing([...this.list, variant]);
    this.shown = this.list.length - 1;
  }

  // Takes up the answers that another tab has kept; the one that is shown stays it, unless more has come of it.
  adopt(kept) {
    const { current } = this;
    this.list = joined(kept, this.list);
    this.shown = placeOf(current, this.list);
  }

  // None of them is shown: another one is on its way, or has failed.
  leave() {
    this.shown = this.list.length;
    this.box.hidden = true;
  }

  // Returns whether there is another one in that direction, which is shown then.
  move(by) {
    const wanted = this.shown + by;
    if (wanted < 0 || wanted >= this.list.length) return false;
    this.shown = wanted;
    return true;
  }

  draw() {
    const limit = Math.max(this.list.length, this.shown + 1);
    this.box.hidden = limit < 2;
    this.box.querySelector("[data-count-of]").textContent = fill(texts.count, { count: figure(this.shown + 1), limit: figure(limit) });
    // A disabled button would lose the focus at the end of the row.
    this.box.querySelector("[data-do=earlier]").setAttribute("aria-disabled", this.shown === 0);
    this.box.querySelector("[data-do=later]").setAttribute("aria-disabled", this.shown >= this.list.length - 1);
  }
}
