// A small line plot of a time span as SVG; colours and strokes are in the style sheet.
import { duration, language, measured } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 170;
const LEFT = 52;
const BOTTOM = 22;
const TOP = 8;
const NARROW = 320; // pixels, too few for three times of day
const GAP = 3; // intervals without a sample that break a line
const amount = new Intl.NumberFormat(language, { notation: "compact", maximumSignificantDigits: 3 });

// lines: [{ label, values }], values null where nothing was measured; at: seconds since the epoch of each value.
export function draw(figure, { at, lines, now, span, interval, words }) {
  const caption = figure.querySelector("figcaption");
  const timed = figure.dataset.times !== undefined;
  const unit = timed ? words.durations.seconds.replace("{seconds}", "{value}") : words.units[figure.dataset.plot] ?? "{value}";
  const shown = (value) => (value === null ? "–" : timed ? duration(value, words.durations) : unit.replace("{value}", exact(value)));
  const width = Math.max(200, caption.clientWidth);
  const svg = make("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${caption.textContent}. ${summary(lines, shown)}` });
  const top = reach(figure.dataset, Math.max(0, ...lines.flatMap(({ values }) => values.map((value) => value ?? 0))));
  const x = (moment) => LEFT + ((width - LEFT) * (moment - now + span)) / span;
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  for (const value of [0, top / 2, top]) {
    svg.append(make("line", { class: "grid", x1: LEFT, x2: width, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value, unit)));
  }
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
    if (anchor === "middle" && width < NARROW) continue;
    const minutes = Math.round((span * (1 - share)) / 60);
    const text = minutes ? words.hour_ago.replace("{minutes}", minutes) : words.now;
    svg.append(make("text", { x: LEFT + (width - LEFT) * share, y: HEIGHT - 5, "text-anchor": anchor }, text));
  }
  lines.forEach(({ values }, number) => {
    svg.append(make("path", { class: `line line-${number % 6}`, d: path(at, values, x, y, GAP * interval) }));
  });
  const old = figure.querySelector("svg");
  if (old) old.replaceWith(svg);
  else figure.append(svg);
  legend(figure, lines, shown);
}

function legend(figure, lines, shown) {
  const list = document.createElement("ul");
  list.className = "legend";
  lines.forEach(({ label, values }, number) => {
    const item = list.appendChild(document.createElement("li"));
    const mark = make("svg", { class: "mark", viewBox: "0 0 20 8", "aria-hidden": "true" });
    mark.append(make("path", { class: `line line-${number % 6}`, d: "M0 4H20" }));
    item.append(mark, ` ${label}`);
    const last = values.findLast((value) => value !== null);
    if (last !== undefined) item.appendChild(document.createElement("b")).textContent = ` ${shown(last)}`;
  });
  const old = figure.querySelector(".legend");
  if (old) old.replaceWith(list);
  else figure.append(list);
}

// A value without neighbours becomes a dot: a stroke of length zero with round ends.
function path(at, values, x, y, gap) {
  let d = "";
  let before = -Infinity;
  values.forEach((value, index) => {
    if (value === null) return;
    const joined = at[index] - before <= gap;
    d += `${joined ? "L" : "M"}${x(at[index]).toFixed(1)} ${y(value).toFixed(1)}${joined ? "" : "h0"}`;
    before = at[index];
  });
  return d;
}

function summary(lines, shown) {
  return lines.map(({ label, values }) => `${label}: ${shown(values.findLast((value) => value !== null) ?? null)}`).join("; ");
}

// The end of an axis: what its figure asks for at least, or what the values need; counts have no halves.
function reach({ least, whole, fixed }, value) {
  const end = Math.max(Number(least), fixed === undefined ? value : 0);
  if (end === Number(least)) return end;
  return whole === undefined ? nice(end) : 2 * nice(end / 2);
}

// The smallest of 1, 2, 5 times a power of ten that is at least the value.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

// Of an axis, where there is little room.
function short(value, unit) {
  return unit.replace("{value}", amount.format(value));
}

function exact(value) {
  return value < 1000 ? measured(value) : amount.format(value);
}

function make(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
