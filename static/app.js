// Adds to a page that works without it: follows the loading of the models, and keeps a form from being sent twice.
"use strict";

const LOOK_EVERY = 2000; // milliseconds

async function showWhenReady() {
  const response = await fetch("/api/health/ready", { cache: "no-store" }).catch(() => null);
  if (response && response.ok) {
    location.reload();
    return;
  }
  if (response) showProgress((await response.json().catch(() => ({}))).models || {});
  setTimeout(showWhenReady, LOOK_EVERY);
}

function showProgress(models) {
  for (const bar of document.querySelectorAll("progress")) {
    const progress = (models[bar.getAttribute("aria-label")] || {}).progress;
    if (progress) bar.value = progress.loaded_bytes;
  }
}

// A reload would lose what somebody is typing, so it waits for an untouched page.
const untouched = [...document.querySelectorAll("textarea")].every((area) => !area.value);
if (document.querySelector('[data-status="loading"]') && location.pathname === "/" && untouched) showWhenReady();

for (const form of document.forms) {
  form.addEventListener("submit", () => {
    form.setAttribute("aria-busy", "true");
    form.querySelector("button").disabled = true;
  });
}
// The back button shows the page as it was left; its forms must be usable again.
addEventListener("pageshow", () => {
  for (const form of document.forms) {
    form.removeAttribute("aria-busy");
    form.querySelector("button").disabled = false;
  }
});
