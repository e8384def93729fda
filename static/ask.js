// One request to the server: an upload with progress, then a streamed answer.
import { extra, language } from "./texts.js";

const HEAD = 2;
const LOADING = 3;
const SILENT = 8; // seconds without a byte of a stream that has begun: the server sends one each second, or waits up to 5.5 s for its turn
const OURS = { "X-Page": "1", "X-Message-Language": language, ...(extra.token ? { "X-CSRF-Token": extra.token } : {}) };

const ASKING = { ...OURS, "X-Resumable": "1" };
const STREAM = "X-Stream-Id";

const readers = new Set(); // of answers that have not ended
let away = false; // while the page is left, which takes its connections along: that is no loss to tell of
addEventListener("pagehide", () => (away = true));
addEventListener("pageshow", ({ persisted }) => {
  away = false;
  if (persisted) for (const one of [...readers]) one.lost();
});

// question: { url, prompt, maxTokens, temperature, files, history }; history: the turns that it goes on from. on, the callbacks: uploading(percent), sent(), queued({ before, seconds }),
// stream(id), text(part), done(answer), failed({ code, message, requestId, retryAfter }), lost(). Returns a function that ends the request. The answer goes on for a minute,
// in which `resume` reads it again under the id of its stream; `stop` ends it.
export function ask(question, on) {
  const fields = { prompt: question.prompt, stream: true };
  if (question.maxTokens) fields.max_tokens = Number(question.maxTokens);
  if (question.temperature) fields.temperature = Number(question.temperature);
  if (question.history?.length) fields.history = question.history;
  return question.files.length ? upload(question, fields, on) : send(question, fields, on);
}

export function resume(stream, on) {
  return follow(extra.streams + stream, { headers: OURS }, on);
}

export function stop(stream) {
  fetch(extra.streams + stream, { method: "DELETE", headers: OURS, keepalive: true }).then((response) => response.text()).catch(() => {});
}

// Resolves to whether the rating of an answer was taken.
export function feedback(requestId, rating) {
  const body = JSON.stringify({ request_id: requestId, rating });
  const options = { method: "POST", headers: { "Content-Type": "application/json", ...OURS }, body };
  // The body is read to its end, so that the connection is free again.
  return fetch(extra.feedback, options).then((response) => response.text().then(() => response.ok), () => false);
}

function send({ url }, fields, on) {
  return follow(url, { method: "POST", headers: { "Content-Type": "application/json", ...ASKING }, body: JSON.stringify(fields) }, on);
}

// With fetch: every part of an answer is handled as soon as it arrives.
function follow(url, options, on) {
  const leaving = new AbortController();
  const events = reader(on, () => leaving.abort());
  const read = async () => {
    const response = await fetch(url, { ...options, signal: leaving.signal });
    if (!response.ok) return events.failed(refusal(response.status, (name) => response.headers.get(name), await response.text()));
    on.stream(response.headers.get(STREAM) ?? "");
    const parts = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await parts.read(); !part.done; part = await parts.read()) events.take(part.value);
    events.lost();
  };
  read().catch(() => events.lost());
  return () => events.leave();
}

// With XMLHttpRequest, which reports upload progress and fetch does not; parts of an answer may arrive up to 50 ms late.
function upload({ url, files }, fields, on) {
  const call = new XMLHttpRequest();
  const events = reader(on, () => call.abort());
  let read = 0;
  call.open("POST", url);
  for (const [name, value] of Object.entries(ASKING)) call.setRequestHeader(name, value);
  call.upload.onprogress = (event) => event.lengthComputable && on.uploading(Math.floor((100 * event.loaded) / event.total));
  call.upload.onload = () => on.sent();
  call.onreadystatechange = () => {
    if (call.readyState === HEAD && call.status === 200) on.stream(call.getResponseHeader(STREAM) ?? "");
    if (call.readyState < LOADING || call.status !== 200) return;
    const text = call.responseText;
    events.take(text.slice(read));
    read = text.length;
  };
  call.onload = () => {
    if (call.status !== 200) events.failed(refusal(call.status, (name) => call.getResponseHeader(name), call.responseText));
    else events.lost();
  };
  call.onerror = () => events.lost();
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, name === "history" ? JSON.stringify(value) : value);
  for (const file of files) form.append("image", file, file.name || "image");
  call.send(form);
  return () => events.leave();
}

const QUEUE = ": queue ";

// Reads server-sent events, one JSON object each. A comment may carry the queue position. abort: ends the request, for instance one
// that has fallen silent, as where a plug was pulled: no connection tells that by itself.
function reader(on, abort) {
  let rest = "";
  let ended = false;
  let silent = 0;
  let watch;
  const end = () => {
    ended = true;
    clearInterval(watch);
    readers.delete(events);
  };
  const events = {
    // The reader of the page has left, or the connection was lost; nothing is told of what comes after that.
    leave() {
      end();
      abort();
    },
    lost() {
      if (ended || away) return;
      this.leave();
      on.lost();
    },
    take(text) {
      silent = 0;
      watch ??= setInterval(() => (silent += 1) > SILENT && this.lost(), 1000);
      const blocks = (rest + text).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        if (block.startsWith("data: ")) this.event(JSON.parse(block.slice(6)));
        else if (block.startsWith(QUEUE)) on.queued(JSON.parse(block.slice(QUEUE.length)));
      }
    },
    event(value) {
      if ("text" in value) return on.text(value.text);
      if ("error" in value) return this.failed({ code: value.error, message: value.message, requestId: value.request_id });
      end();
      on.done(value);
    },
    failed(error) {
      end();
      on.failed(error);
    },
  };
  readers.add(events);
  return events;
}

function refusal(status, header, body) {
  let failure = {};
  try {
    failure = JSON.parse(body);
  } catch {
    // A proxy answered instead of the server; only the status is known.
  }
  return {
    code: failure.error ?? (status === 413 ? "payload_too_large" : status >= 502 ? "not_ready" : "internal_error"),
    message: failure.message ?? "",
    requestId: failure.request_id ?? header("X-Request-ID") ?? "",
    retryAfter: Number(header("Retry-After")) || null,
  };
}
