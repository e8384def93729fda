// What was typed and not sent: kept in this tab alone, until its writer signs out, and not at all where the browser forbids it.

export const LEFT = "signed-out"; // when somebody last did so in this browser: what was typed before is nobody else's to see

// Returns what `act` does, "" where nothing is kept: cookies are blocked, or the storage is full.
function allowed(act) {
  try {
    return act() ?? "";
  } catch {
    return "";
  }
}

// Another tab may have been left while this one was closed or showed another page.
function catchUp() {
  const left = localStorage.getItem(LEFT);
  if (left === sessionStorage.getItem(LEFT)) return;
  sessionStorage.clear();
  sessionStorage.setItem(LEFT, left);
}

allowed(catchUp);

const REMOVED = "removed ";

// What is to be removed from this browser is noted first, as its page may go before: a name, and when what was written before that goes.
export function noteRemoval(name, time) {
  allowed(() => localStorage.setItem(REMOVED + name, time));
}

// Calls `act` with the time of each removal of this name that another tab notes.
export function onRemoval(name, act) {
  addEventListener("storage", ({ key, newValue }) => key === REMOVED + name && newValue && act(Number(newValue)));
}

// Drops the note, unless there is a later one.
export function dropRemoval(name, time) {
  allowed(() => localStorage.getItem(REMOVED + name) === String(time) && localStorage.removeItem(REMOVED + name));
}

// Returns the removals that are not done, each as [name, time].
export function removals() {
  const noted = allowed(() => Object.entries(localStorage).filter(([name]) => name.startsWith(REMOVED))) || [];
  return noted.map(([name, time]) => [name.slice(REMOVED.length), Number(time)]);
}

export function readDraft(name) {
  return allowed(() => sessionStorage.getItem(name));
}

export function writeDraft(name, value) {
  allowed(() => (value ? sessionStorage.setItem(name, value) : sessionStorage.removeItem(name)));
}

// Forgets what was typed in this tab and, where they next look, in all others.
export function forgetDrafts() {
  allowed(() => localStorage.setItem(LEFT, Date.now()));
  allowed(catchUp);
}

// Returns when somebody last signed out, "" for never.
export function lastLeft() {
  return allowed(() => localStorage.getItem(LEFT));
}
