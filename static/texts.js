// The page's texts and figures in the reader's language. They come with the page; none stands in the scripts.
const carrier = document.getElementById("texts");
const { live, codes, next, messages } = carrier ? JSON.parse(carrier.dataset.texts) : { messages: [] };
const language = document.documentElement.lang;

export const texts = live;
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

// The server's sentence in the reader's language, as the server itself would say it on a page.
export function sentence({ code, message }) {
  for (const [pattern, text] of messages) {
    const found = new RegExp(`^${pattern}$`).exec(message);
    if (found) return fill(text, found.groups ?? {});
  }
  const known = code in codes ? code : "internal_error";
  return messages.length || !message ? codes[known] : message;
}

export function whatNext(code) {
  return next[code in next ? code : "internal_error"];
}
