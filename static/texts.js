// The page's texts and figures in the reader's language. They come with the page; none stands in the scripts.
const carrier = document.getElementById("texts");
const { live, codes, next, image_problems: imageProblems } = carrier ? JSON.parse(carrier.dataset.texts) : {};
export const language = document.documentElement.lang;

export const texts = live;
export const problems = imageProblems; // with an image, by key
export const extra = carrier ? carrier.dataset : {};

export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (hole, name) => (name in values ? values[name] : hole));
}

export function figure(value, digits = 0) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function size(bytes) {
  const megabytes = bytes / 1048576;
  return megabytes < 1 ? fill(live.bytes, { size: figure(Math.max(1, bytes / 1024)) }) : fill(live.megabytes, { size: figure(megabytes, 1) });
}

export function timeOfDay(date) {
  return new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(date);
}

// The server's message, which is in the reader's language already; where something else answered, what the code means.
export function sentence({ code, message }) {
  return message || codes[code in codes ? code : "internal_error"];
}

export function whatNext(code) {
  return next[code in next ? code : "internal_error"];
}
