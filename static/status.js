// Refreshes the operator's page: fetches new samples, draws them, and shows a notice while the server is unreachable.
import { draw } from "./plot.js";

const plots = document.querySelector(".plots");
const away = document.getElementById("away");
const words = JSON.parse(plots.dataset.texts);
const span = Number(plots.dataset.span);
const interval = Number(plots.dataset.interval);

const EVENTS = new Set(["errors", "mistakes"]); // their lines are what happened, and none means nothing

let at = [];
const lines = new Map(); // "plot key model" to { plot, label, values }

async function follow() {
  try {
    const [samples, figures] = await Promise.all([get(`${plots.dataset.samples}?after=${at.at(-1) ?? -1}`), get(plots.dataset.figures)]);
    take(await samples.json());
    show(await figures.text());
    drawAll();
    away.hidden = true;
  } catch (error) {
    // The session has expired: the server shows the sign-in form.
    if (error.status === 401 || error.status === 403) return location.reload();
    away.hidden = false;
  }
  setTimeout(follow, 1000 * interval);
}

async function get(address) {
  const response = await fetch(address, { cache: "no-store" });
  if (!response.ok) throw Object.assign(new Error(), { status: response.status });
  return response;
}

// Appends new values to each line; where a line has none, its values are null, or 0 for errors.
function take(fresh) {
  for (const { plot, key, model } of fresh.lines) {
    const name = `${plot} ${key} ${model}`;
    const text = (words.series[key] ?? (model || key)).replace("{model}", model);
    const label = text.includes(model) ? text : `${text} ${model}`;
    if (!lines.has(name)) lines.set(name, { plot, label, values: at.map(() => (EVENTS.has(plot) ? 0 : null)) });
  }
  const come = new Map(fresh.lines.map(({ plot, key, model, values }) => [`${plot} ${key} ${model}`, values]));
  const oldest = (fresh.at.at(-1) ?? at.at(-1) ?? 0) - span;
  const joined = [...at, ...fresh.at];
  const kept = joined.findIndex((moment) => moment > oldest);
  at = kept < 0 ? joined : joined.slice(kept);
  for (const [name, line] of lines) {
    const values = come.get(name) ?? fresh.at.map(() => (EVENTS.has(line.plot) ? 0 : null));
    line.values = [...line.values, ...values].slice(-at.length || Infinity);
  }
}

function drawAll() {
  const now = Math.max(Date.now() / 1000, at.at(-1) ?? 0);
  for (const figure of plots.querySelectorAll("[data-plot]")) {
    const own = [...lines.values()].filter(({ plot, values }) => plot === figure.dataset.plot && (!EVENTS.has(plot) || values.some(Boolean)));
    remark(figure, own.length ? "" : words.nothing[figure.dataset.plot] ?? words.empty);
    if (!own.length) for (const old of figure.querySelectorAll("svg, .legend")) old.remove();
    else draw(figure, { at, lines: own, now, span, interval, words });
  }
}

function remark(figure, text) {
  const line = figure.querySelector("p") ?? figure.appendChild(document.createElement("p"));
  line.className = "quiet";
  line.textContent = text;
  line.hidden = !text;
}

// Replaces only parts of the markup, so that an open table stays open.
function show(markup) {
  const fresh = new DOMParser().parseFromString(markup, "text/html");
  for (const part of [".tiles", "#table tbody", "#facts"]) {
    const shown = document.querySelector(part);
    shown.replaceWith(document.adoptNode(fresh.querySelector(part)));
  }
}

addEventListener("resize", drawAll);
follow();
