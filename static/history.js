// The last exchanges, kept in this browser alone: the server stores nothing of them.
import { dropRemoval, noteRemoval, onRemoval, readDraft, removals, writeDraft } from "./drafts.js";
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
  return (opened ??= open(NAME, () => (opened = undefined)));
}

// over: what is done once it cannot be used any more, or never could: it is opened anew when it is needed.
async function open(name, over) {
  try {
    const found = await new Promise((resolve, reject) => {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => STORES.forEach((store) => request.result.createObjectStore(store, { keyPath: "id" }));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    found.onclose = over; // the browser has closed it
    found.onversionchange = () => {
      found.close(); // another tab removes it
      over();
    };
    return found;
  } catch (error) {
    over();
    throw error;
  }
}

// Resolves to what `act` returns once all of it is written.
async function written(mode, act, found = database()) {
  const running = (await found).transaction(STORES, mode);
  const ended = new Promise((resolve, reject) => {
    running.oncomplete = resolve;
    running.onabort = () => reject(running.error);
  });
  const acted = (async () => act(...STORES.map((name) => running.objectStore(name))))();
  acted.catch(() => running.abort()).catch(() => {}); // which it may be already
  return (await Promise.all([acted, ended]))[0];
}

// The same, with null where the browser keeps nothing.
function transaction(mode, act) {
  return written(mode, act).catch(() => null);
}

function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

// A new id; ids are in the order of time, in this tab and in others.
export function newId() {
  return Date.now() + Math.random();
}

// record: { id, thread, kind, question, previews, variants, shown, stream, streamAt, ended, closed }; thread: the id of the first of its
// conversation, streamAt: when the stream began, closed: the stream that it no longer has. Resolves to the record as it is kept, with
// `at`: when that was asked for.
export async function keep(record) {
  const own = { ...record, at: record.at ?? Date.now() };
  let put = own;
  if (!left) unwritten.set(own.id, own);
  if (unwritten.size > EXCHANGES) unwritten.delete(unwritten.keys().next().value); // where the browser writes none of them
  noteUnwritten();
  const add = async (exchanges) => {
    const kept = await resultOf(exchanges.get(own.id));
    put = kept ? merged(own, kept) : own;
    exchanges.put(put);
    const others = (await resultOf(exchanges.getAllKeys())).filter((id) => id !== own.id);
    others.slice(0, 1 - EXCHANGES).forEach((id) => exchanges.delete(id));
  };
  const done = await written("readwrite", add).then(() => true, () => false);
  if (done && unwritten.get(own.id) === own) unwritten.delete(own.id);
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
  const found = await transaction("readonly", (exchanges) => resultOf(exchanges.get(id)));
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
  await removed;
  await Promise.all(ofBefore.splice(0).map(keep));
  const threads = new Map();
  const [, gone = 0] = removals().find(([name]) => name === NAME) ?? []; // of which nothing is shown, though it could not be removed
  const records = (await transaction("readonly", (exchanges) => resultOf(exchanges.getAll()))) ?? [];
  for (const record of records.filter((one) => writtenAt(one) > gone)) {
    threads.set(record.thread, [...(threads.get(record.thread) ?? []), record]);
  }
  return [...threads.values()].sort((one, other) => other.at(-1).id - one.at(-1).id);
}

export async function picturesOf(thread) {
  const found = await transaction("readonly", (_, pictures) => resultOf(pictures.get(thread)));
  return found?.files ?? [];
}

export async function clear() {
  const time = Date.now();
  dropUnwritten(time);
  noteRemoval(NAME, time);
  await remove(NAME, time);
}

// Drops what was to be written until then, in this tab and in the others.
function dropUnwritten(time) {
  for (const [id, record] of unwritten) if (writtenAt(record) <= time) unwritten.delete(id);
  noteUnwritten();
}

onRemoval(NAME, dropUnwritten);

function writtenAt({ at, id }) {
  return at ?? id; // which an earlier version kept
}

// Removes from a history what was written until then. The note of it stays until that is done.
async function remove(name, time) {
  const stay = new Set(); // conversations
  const act = async (exchanges, pictures) => {
    for (const record of await resultOf(exchanges.getAll())) {
      if (writtenAt(record) > time) stay.add(record.thread);
      else exchanges.delete(record.id);
    }
    const threads = await resultOf(pictures.getAllKeys());
    threads.filter((id) => id <= time && !stay.has(id)).forEach((id) => pictures.delete(id));
  };
  try {
    const found = name === NAME ? database() : open(name, () => {});
    await written("readwrite", act, found);
    dropRemoval(name, time);
    if (name === NAME) return;
    (await found).close();
    if (!stay.size) await destroy(name);
  } catch {
    // The next page tries it again.
  }
}

const removed = Promise.all(removals().map(([name, time]) => remove(name, time)));

function destroy(name) {
  return new Promise((resolve) => {
    const request = indexedDB.deleteDatabase(name);
    request.onsuccess = request.onerror = request.onblocked = resolve; // one that is blocked follows by itself
  }).catch(() => {});
}

// Removes the history itself, and keeps nothing from now on.
export async function forget() {
  await clear();
  left = true;
  const found = opened;
  opened = undefined;
  await found?.then((one) => one.close(), () => {});
  await destroy(NAME);
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
