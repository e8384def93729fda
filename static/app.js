// Adds to a page that works without it: follows the state of the models, and keeps a form from being sent twice.
"use strict";

const LOOK_EVERY = 3000; // milliseconds

// The server renders the notice in the visitor's language, so a fresh copy of the page has the new one; taking only
// the notice from it leaves alone what somebody is typing.
async function followState() {
  const shown = document.querySelector("[data-status]");
  if (!shown) return;
  const page = await fetch("/", { cache: "no-store" }).then((r) => (r.ok ? r.text() : null)).catch(() => null);
  if (page !== null) {
    const fresh = new DOMParser().parseFromString(page, "text/html").querySelector("[data-status]");
    if (fresh) shown.replaceWith(document.adoptNode(fresh));
    else shown.remove();
  }
  setTimeout(followState, LOOK_EVERY);
}
setTimeout(followState, LOOK_EVERY);

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
