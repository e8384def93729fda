// The last exchanges, kept in this browser alone: the server stores nothing of them.
import { readDraft, writeDraft } from "./drafts.js";
import { extra } from "./texts.js";
import { joined, placeOf } from "./variants.js";

const EXCHANGES = 50;
const PICTURE_BYTES = 48 * 1048576; // of all kept pictures together; previews stay
const PREVIEW = 160; // pixels
const STORES = ["exchanges", "pictures"];

const NAME = `history ${extra.owner ?? ""}`; // who signs in with another key does not see this one's

// What this tab has not written yet, by id: a reload takes the browser's transactions along, and the next page writes it anew.
const UNWRITTEN = `unwritten ${NAME}`;
const ofBefore = JSON.parse(readDraft(UNWRITTEN) || "[]");
const unwritten = new Map();

let opened;
let left = false; // by a visitor who has signed out

function database() {
  if (left) throw new Error("Nothing is kept any more.");
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => STORES.forEach((name) => request.result.createObjectStore(name, { keyPath: "id" }));
    request.onsuccess = () => {
      request.result.onversionchange = close; // another tab removes it
      request.result.onclose = () => (opened = undefined); // the browser has closed it: it is opened anew when it is needed
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
  });
  return opened;
}

// Resolves to the result of the request that `act` returns, and to null where the browser keeps nothing.
async function transaction(mode, act) {
  try {
    const found = await database();
    return await new Promise((resolve, reject) => {
      const running = found.transaction(STORES, mode);
      const request = act(...STORES.map((name) => running.objectStore(name)));
      running.oncomplete = () => resolve(request?.result ?? null);
      running.onabort = () => reject(running.error);
    });
  } catch {
    return null;
  }
}

// A new id; ids are in the order of time, in this tab and in others.
export function newId() {
  return Date.now() + Math.random();
}

// record: { id, thread, kind, question, previews, variants, shown, stream, streamAt, ended, closed }; thread: the id of the first of its
// conversation, streamAt: when the stream began, closed: the stream that it no longer has. Resolves to the record as it is kept.
export async function keep(record) {
  let put = record;
  if (!left) unwritten.set(record.id, record);
  noteUnwritten();
  await transaction("readwrite", (exchanges) => {
    exchanges.get(record.id).onsuccess = ({ target: { result: kept } }) => {
      put = kept ? merged(record, kept) : record;
      exchanges.put(put);
      exchanges.getAllKeys().onsuccess = ({ target }) => target.result.slice(0, -EXCHANGES).forEach((id) => exchanges.delete(id));
    };
  });
  if (unwritten.get(record.id) === record) unwritten.delete(record.id);
  noteUnwritten();
  return put;
}

function noteUnwritten() {
  writeDraft(UNWRITTEN, unwritten.size ? JSON.stringify([...unwritten.values()]) : "");
}

// The answers that another tab has kept meanwhile stay, their ratings, and the stream that it reads.
function merged(record, kept) {
  const variants = joined(kept.variants, record.variants);
  const shown = placeOf(record.variants[record.shown], variants);
  const { stream, streamAt } = record.stream || kept.stream === record.closed ? record : kept;
  return { ...record, variants, shown, stream, streamAt };
}

// Resolves to the answers that are kept of an exchange, by this tab or another.
export async function answersOf(id) {
  const found = await transaction("readonly", (exchanges) => exchanges.get(id));
  return found?.variants ?? [];
}

// Keeps the pictures of a conversation while they fit, the newest ones.
export function keepPictures(thread, files) {
  return transaction("readwrite", (exchanges, pictures) => {
    pictures.put({ id: thread, files });
    exchanges.getAll().onsuccess = ({ target: { result } }) => {
      const threads = new Set(result.map((record) => record.thread)).add(thread);
      let room = PICTURE_BYTES;
      pictures.openCursor(null, "prev").onsuccess = ({ target: { result: cursor } }) => {
        if (!cursor) return;
        room -= cursor.value.files.reduce((sum, file) => sum + file.size, 0);
        if (room < 0 || !threads.has(cursor.value.id)) cursor.delete();
        cursor.continue();
      };
    };
  });
}

// Resolves to the conversations, the newest first, each a list of records in the order of time.
export async function conversations() {
  await Promise.all(ofBefore.splice(0).map(keep));
  const threads = new Map();
  for (const record of (await transaction("readonly", (exchanges) => exchanges.getAll())) ?? []) {
    threads.set(record.thread, [...(threads.get(record.thread) ?? []), record]);
  }
  return [...threads.values()].sort((one, other) => other.at(-1).id - one.at(-1).id);
}

export async function picturesOf(thread) {
  const found = await transaction("readonly", (_, pictures) => pictures.get(thread));
  return found?.files ?? [];
}

export function clear() {
  unwritten.clear();
  noteUnwritten();
  return transaction("readwrite", (exchanges, pictures) => {
    exchanges.clear();
    pictures.clear();
  });
}

function close() {
  opened?.then((found) => found.close(), () => {});
  opened = undefined;
}

// Removes the history itself, and keeps nothing from now on.
export async function forget() {
  await clear();
  left = true;
  close();
  await new Promise((resolve) => {
    const request = indexedDB.deleteDatabase(NAME);
    request.onsuccess = request.onerror = request.onblocked = resolve; // one that is blocked follows by itself
  }).catch(() => {});
}

// Resolves to a small copy of a picture as a data URL, "" where it cannot be drawn.
export async function preview(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return "";
  const scale = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
  const canvas = Object.assign(document.createElement("canvas"), {
    width: Math.max(1, Math.round(bitmap.width * scale)),
    height: Math.max(1, Math.round(bitmap.height * scale)),
  });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.7);
}
