// Follows the state of the service. The server renders the notices; this module only replaces them.
import { extra } from "./texts.js";

const SOON = 2000; // milliseconds
const CALM = 15000;
const PATIENCE = 8000; // for an answer, without which the server is away

const away = document.getElementById("away");
const waiting = new Set();
let timer;

function status() {
  return document.getElementById("state").dataset.status;
}

function changing() {
  return status() !== "ready" || document.querySelector("[data-notice=busy]") !== null;
}

// Polls now and again later: soon if a change is expected.
export async function look() {
  clearTimeout(timer);
  const markup = await fetch(extra.state, { cache: "no-store", signal: AbortSignal.timeout?.(PATIENCE) }).then((r) => (r.ok ? r.text() : null)).catch(() => null);
  away.hidden = markup !== null;
  if (markup !== null) show(markup);
  for (const wake of [...waiting]) wake(markup !== null);
  clearTimeout(timer);
  timer = setTimeout(look, markup === null || waiting.size || changing() ? SOON : CALM);
}

// Resolves when the models accept requests again.
export function ready(signal) {
  return new Promise((resolve) => {
    const wake = (answered) => {
      if (!signal.aborted && !(answered && status() === "ready")) return;
      waiting.delete(wake);
      if (!signal.aborted) resolve();
    };
    waiting.add(wake);
    look();
  });
}

function show(markup) {
  const shown = document.getElementById("state");
  const fresh = new DOMParser().parseFromString(markup, "text/html").getElementById("state");
  // An unchanged notice stays, so that screen readers do not repeat it.
  if (fresh && fresh.outerHTML !== shown.outerHTML) shown.replaceWith(document.adoptNode(fresh));
}

for (const change of ["online", "offline"]) addEventListener(change, look);
document.addEventListener("visibilitychange", () => document.hidden || look());
timer = setTimeout(look, changing() ? SOON : CALM);
