// Which tab of the browser reads the stream of an answer: a stream has one reader, and only that tab stops it.
import { pause } from "./waiting.js";

const REPLY = 200; // milliseconds in which another tab says that it reads a stream
const BETWEEN = 800; // milliseconds between two questions
const SILENCES = 15; // questions without a reply; a tab that is only reloaded, on a slow device too, is back before

const claimed = new Set(); // streams that this tab reads
const channel = opened();

// Without a channel, each tab takes itself for the only one, and the server refuses a second reader.
function opened() {
  try {
    return new BroadcastChannel("streams");
  } catch {
    return null;
  }
}

channel?.addEventListener("message", ({ data }) => claimed.has(data.asked) && channel.postMessage({ read: data.asked }));

export function claim(stream) {
  claimed.add(stream);
}

// The stream is another tab's after all.
export function cede(stream) {
  claimed.delete(stream);
}

// The stream has ended, as tabs that wait for it are told.
export function release(stream) {
  if (claimed.delete(stream)) channel?.postMessage({ over: stream });
}

// Resolves to whether another tab reads the stream.
export function readElsewhere(stream) {
  if (!channel) return Promise.resolve(false);
  return new Promise((resolve) => {
    const end = (found) => {
      channel.removeEventListener("message", hear);
      clearTimeout(timer);
      resolve(found);
    };
    const hear = ({ data }) => data.read === stream && end(true);
    const timer = setTimeout(end, REPLY, false);
    channel.addEventListener("message", hear);
    channel.postMessage({ asked: stream });
  });
}

// Resolves when the stream has ended, or no other tab reads it any more.
export async function vacant(stream) {
  const over = new AbortController();
  const hear = ({ data }) => data.over === stream && over.abort();
  channel?.addEventListener("message", hear);
  for (let silences = 0; silences < SILENCES && !over.signal.aborted; ) {
    silences = (await readElsewhere(stream)) ? 0 : silences + 1;
    await pause(BETWEEN, over.signal);
  }
  channel?.removeEventListener("message", hear);
}
