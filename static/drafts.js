// What was typed and not sent: kept in this tab alone, and not at all where the browser forbids it.

// "" where nothing is kept.
export function readDraft(name) {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

export function writeDraft(name, value) {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // Cookies are blocked, or the storage is full: what is typed is in its field.
  }
}
