// One question to the server: an upload that shows its progress, then an answer that comes in parts.

const LOADING = 3;
const DONE = 4;

// question: { url, prompt, maxTokens, temperature, file }. hears: uploading(percent), sent(), text(part), done(answer),
// failed({ code, message, requestId, retryAfter }), lost(). Returns what stops the question, and the model with it.
export function ask(question, hears) {
  const call = new XMLHttpRequest();
  const events = reader(hears);
  let read = 0;
  call.open("POST", question.url);
  call.upload.onprogress = (event) => event.lengthComputable && hears.uploading(Math.floor((100 * event.loaded) / event.total));
  call.upload.onload = () => hears.sent();
  // Unlike "progress", which browsers hold back, this comes with every part of the answer.
  call.onreadystatechange = () => {
    if (call.readyState < LOADING || call.status !== 200) return;
    events.take(call.responseText.slice(read));
    read = call.responseText.length;
  };
  call.onload = () => (call.status === 200 ? events.ended || hears.lost() : hears.failed(refusal(call)));
  call.onerror = () => events.ended || hears.lost();
  call.send(...body(call, question));
  return () => call.readyState < DONE && call.abort();
}

function body(call, { prompt, maxTokens, temperature, file }) {
  const fields = { prompt, stream: true };
  if (maxTokens) fields.max_tokens = Number(maxTokens);
  if (temperature) fields.temperature = Number(temperature);
  if (!file) {
    call.setRequestHeader("Content-Type", "application/json");
    return [JSON.stringify(fields)];
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("image", file, file.name || "image");
  return [form];
}

// Reads server-sent events: one JSON object each, comments aside.
function reader(hears) {
  let rest = "";
  return {
    ended: false,
    take(text) {
      const blocks = (rest + text).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) if (block.startsWith("data: ")) this.event(JSON.parse(block.slice(6)));
    },
    event(value) {
      if ("text" in value) return hears.text(value.text);
      this.ended = true;
      if ("error" in value) hears.failed({ code: value.error, message: value.message, requestId: value.request_id });
      else hears.done(value);
    },
  };
}

function refusal(call) {
  let told = {};
  try {
    told = JSON.parse(call.responseText);
  } catch {
    // Something in front of the server answered in its place; the status is all there is.
  }
  return {
    code: told.error ?? (call.status === 413 ? "payload_too_large" : call.status >= 502 ? "not_ready" : "internal_error"),
    message: told.message ?? "",
    requestId: told.request_id ?? call.getResponseHeader("X-Request-ID") ?? "",
    retryAfter: Number(call.getResponseHeader("Retry-After")) || null,
  };
}
