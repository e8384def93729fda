// The conversations of earlier visits below the forms, each folded until somebody opens it.
import { changeDraft } from "./follow_up.js";
import { clear, conversations, picturesOf } from "./history.js";
import { say } from "./exchange.js";
import { language, texts } from "./texts.js";

const card = document.getElementById("history");
const list = card?.querySelector("[data-past]");
const LONGEST = 600_000; // milliseconds

const when = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

// Whether the answer to a question of an earlier visit may still be coming: then its stream can be read again.
export function goesOn(record) {
  return Boolean(record.stream) && Date.now() - (record.streamAt ?? record.id) < LONGEST;
}

// Shows the card, which lets the history be cleared.
export function reveal() {
  if (card) card.hidden = false;
}

// forms: what revives exchanges, by kind.
export async function showPast(forms) {
  if (!card) return;
  const found = (await conversations()).filter(([first]) => forms[first.kind]);
  const entries = found.map((records) => entry(records, forms));
  list.append(...entries);
  card.hidden = !entries.length;
  // What was still coming when the page was left goes on by itself, and what was being written is in view.
  for (const [index, records] of found.entries()) entries[index].open = records.some((record) => goesOn(record) || changeDraft(record.id));
  card.querySelector("[data-do=clear-history]").addEventListener("click", forget);
}

function entry(records, forms) {
  const [first] = records;
  const element = document.createElement("details");
  const summary = element.appendChild(document.createElement("summary"));
  for (const src of first.previews.slice(0, 1)) {
    summary.append(Object.assign(document.createElement("img"), { src, alt: "", width: 32, height: 32 }));
  }
  const title = summary.appendChild(document.createElement("span"));
  title.textContent = first.question.prompt;
  title.dir = "auto";
  const time = Object.assign(document.createElement("time"), { textContent: when.format(first.id), dateTime: new Date(first.id).toISOString() });
  summary.append(time);
  element.addEventListener("toggle", () => open(element, records, forms), { once: true });
  return element;
}

async function open(element, records, forms) {
  const thread = Object.assign(document.createElement("div"), { className: "thread" });
  element.append(thread);
  const [{ thread: id, kind, previews }] = records;
  const files = previews.length ? await picturesOf(id) : [];
  let last = null;
  for (const record of records) last = forms[kind].revive(record, files, last, thread);
}

async function forget() {
  if (!confirm(texts.history.sure)) return;
  await clear();
  list.replaceChildren();
  card.hidden = true;
  say(texts.history.cleared);
  document.getElementById("main").focus();
}
