// Texts and number formats in the reader's language. The texts come with the page, not with the scripts.
const carrier = document.getElementById("texts");
const { live, codes, next, image_problems: imageProblems } = carrier ? JSON.parse(carrier.dataset.texts) : {};
const LEAST = 0.01; // that is shown in decimals
const STAMP = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g; // a time in UTC, as programs read it

export const language = document.documentElement.lang;

export const texts = live;
export const problems = imageProblems; // with an image, by key
export const extra = carrier ? carrier.dataset : {};

export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (hole, name) => (name in values ? values[name] : hole));
}

// As people and the server count them: an emoji is one.
export function characters(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

export function figure(value, digits = 0) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

// A measured number with as many decimals as its size deserves; what is something is never shown as 0.
export function measured(value) {
  if (value > 0 && value < LEAST) return `<${figure(LEAST, 2)}`;
  const digits = value < 1 ? 2 : value < 10 ? 1 : 0;
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

// A measured time with its unit. names: of the units.
export function duration(seconds, names = texts.durations) {
  const [unit, value] = Math.round(1000 * seconds) < 1000 ? ["milliseconds", 1000 * seconds] : ["seconds", seconds];
  return fill(names[unit], { [unit]: measured(value) });
}

export function size(bytes) {
  const megabytes = bytes / 1048576;
  return megabytes < 1 ? fill(live.bytes, { size: figure(Math.max(1, bytes / 1024)) }) : fill(live.megabytes, { size: figure(megabytes, 1) });
}

export function timeOfDay(date) {
  return new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(date);
}

function dateAndTime(stamp) {
  return new Intl.DateTimeFormat(language, { dateStyle: "long", timeStyle: "short" }).format(new Date(stamp));
}

// The server's message, already in the reader's language, its times by the reader's clock; the text for the code if a proxy answered instead.
export function sentence({ code, message }) {
  return message ? message.replace(STAMP, dateAndTime) : codes[code in codes ? code : "internal_error"];
}

export function whatNext(code) {
  return next[code in next ? code : "internal_error"];
}
