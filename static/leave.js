// Signing out leaves nothing of the visitor in this browser: what is typed, shown and kept goes, in this tab and in others.
import { forgetDrafts, lastLeft, LEFT } from "./drafts.js";
import { forget } from "./history.js";

const PATIENCE = 2000; // milliseconds for a browser to remove what it keeps
const TYPED = "textarea, input:is([type=file], [type=number], [type=password], [type=text], :not([type]))";

const form = document.getElementById("sign-out");
const shownAt = lastLeft();

// halt: stops what the models are writing for this tab.
export function watchLeaving(halt) {
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    await wipe(halt);
    const body = new URLSearchParams(new FormData(form));
    const answer = await fetch(form.action, { method: "POST", body, redirect: "manual" }).catch(() => null);
    forgetDrafts(); // which other tabs hear, now that the session has ended
    if (answer?.type === "opaqueredirect") goHome();
    else form.submit(); // and the server says why not
  });
  addEventListener("storage", ({ key }) => key === LEFT && form && wipe(halt).then(goHome));
  // A page that the browser has set aside comes back as it was.
  addEventListener("pageshow", ({ persisted }) => persisted && lastLeft() !== shownAt && location.reload());
}

async function wipe(halt) {
  halt();
  for (const field of document.querySelectorAll(TYPED)) field.value = "";
  for (const shown of document.querySelectorAll("[data-exchanges], [data-past]")) shown.replaceChildren();
  await Promise.race([forget(), new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
}

function goHome() {
  location.replace(document.querySelector("h1 a").href);
}
