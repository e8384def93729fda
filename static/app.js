// Enhances a page that works without it: streamed answers, a stop button that stops the model, automatic retries.
import { ask, feedback } from "./ask.js";
import { Exchange, say } from "./exchange.js";
import { ImageField } from "./image.js";
import { ready } from "./state.js";
import { extra, figure, fill, texts, timeOfDay } from "./texts.js";

const BETWEEN_TRIES = 1000; // milliseconds
const COPIED = 1500;

class Conversation {
  constructor(form) {
    this.form = form;
    this.model = form.dataset.model;
    this.prompt = form.elements.prompt;
    this.list = document.querySelector(`[data-exchanges=${form.dataset.kind}]`);
    this.image = form.querySelector("[data-drop]") && new ImageField(form);
    this.send = form.querySelector("[data-do=send]");
    this.stop = form.querySelector("[data-do=stop]");
    this.draft = `draft-${form.dataset.kind}`;
    form.querySelector(".keys").hidden = false;
    this.prompt.value ||= sessionStorage.getItem(this.draft) ?? "";
    this.count();
    this.listen();
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.running && (!this.image || this.image.file)) this.begin(this.question());
      else if (!this.running) this.image.input.focus();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit(this.send);
    });
    this.prompt.addEventListener("input", () => this.count());
    this.stop.addEventListener("click", () => this.halt());
    for (const example of this.form.querySelectorAll("[data-example]")) {
      example.addEventListener("click", (event) => {
        event.preventDefault();
        this.prompt.value = example.textContent;
        this.count();
        this.prompt.focus();
      });
    }
  }

  count() {
    const count = this.prompt.value.length;
    sessionStorage.setItem(this.draft, this.prompt.value);
    this.form.querySelector("[data-count]").textContent = fill(texts.count, { count: figure(count), limit: figure(this.prompt.maxLength) });
  }

  question() {
    const { file, url } = this.image ?? {};
    return {
      url: this.form.dataset.ask,
      prompt: this.prompt.value,
      maxTokens: this.form.elements.max_tokens.value,
      temperature: this.form.elements.temperature.value,
      defaultTokens: Number(this.form.dataset.tokens),
      file,
      preview: url,
      name: file?.name ?? "",
    };
  }

  begin(question) {
    const exchange = new Exchange(question);
    this.list.prepend(exchange.element);
    exchange.element.scrollIntoView({ block: "nearest" });
    exchange.element.addEventListener("click", (event) => this.press(event, exchange, question));
    this.attempt(question, exchange);
  }

  attempt(question, exchange) {
    const leaving = new AbortController();
    let begun = false;
    exchange.restart();
    exchange.wait(texts.thinking);
    this.busy(leaving, exchange);
    const stop = ask(question, {
      uploading: (percent) => !begun && question.file && exchange.wait(fill(texts.uploading, { percent }), percent),
      sent: () => begun || exchange.wait(texts.thinking),
      queued: (position) => begun || exchange.queued(position),
      text: (part) => {
        if (!begun) {
          begun = true;
          exchange.wait("");
          say(texts.writing);
        }
        exchange.write(part);
      },
      done: (answer) => {
        this.idle(leaving);
        exchange.done(answer, answer.data.generated_tokens >= (Number(question.maxTokens) || question.defaultTokens));
        this.form.dispatchEvent(new CustomEvent("answered", { bubbles: true }));
      },
      failed: (error) => this.failed(error, question, exchange, leaving),
      lost: () => this.later(texts.waiting_server, ready(leaving.signal), question, exchange, leaving),
    });
    leaving.signal.addEventListener("abort", stop);
  }

  failed(error, question, exchange, leaving) {
    if (error.code === "not_ready") {
      this.later(texts.waiting_ready, ready(leaving.signal), question, exchange, leaving);
    } else if (error.code === "overloaded") {
      const show = (seconds) => exchange.wait(fill(texts.again_in, { seconds }));
      this.later("", countdown(error.retryAfter ?? 3, show, leaving.signal), question, exchange, leaving);
    } else {
      this.idle(leaving);
      exchange.failed(error);
      if (error.code === "rate_limit_exceeded" && error.retryAfter) this.tellWhenFree(error.retryAfter, exchange);
    }
  }

  // Keeps the question and sends it again when `cured` resolves; the stop button cancels that as well.
  async later(remark, cured, question, exchange, leaving) {
    if (leaving.signal.aborted) return;
    exchange.restart();
    if (remark) {
      exchange.wait(remark);
      say(remark);
    }
    await pause(BETWEEN_TRIES, leaving.signal);
    await cured;
    if (leaving.signal.aborted) return;
    this.idle(leaving);
    this.attempt(question, exchange);
  }

  async tellWhenFree(seconds, exchange) {
    const time = timeOfDay(new Date(Date.now() + 1000 * seconds));
    const gone = new AbortController();
    exchange.part("[data-do=again]").addEventListener("click", () => gone.abort(), { once: true });
    await countdown(seconds, (left) => exchange.when(fill(texts.frees_in, { time, seconds: left })), gone.signal);
    if (gone.signal.aborted) return;
    exchange.when(texts.freed);
    say(texts.freed);
  }

  halt() {
    const { leaving, exchange } = this.running;
    this.idle(leaving);
    exchange.stopped();
  }

  busy(leaving, exchange) {
    this.running = { leaving, exchange };
    const focused = document.activeElement === this.send;
    this.send.hidden = true;
    this.stop.hidden = false;
    if (focused) this.stop.focus();
  }

  idle(leaving) {
    leaving.abort();
    this.running = null;
    const focused = document.activeElement === this.stop;
    this.send.hidden = false;
    this.stop.hidden = true;
    if (focused) this.send.focus();
  }

  press(event, exchange, question) {
    const button = event.target.closest("[data-do]");
    if (button?.dataset.do === "again" && !this.running) this.attempt(question, exchange);
    else if (button?.dataset.do === "copy") copy(exchange.raw, button);
    else if (button?.dataset.do === "up" || button?.dataset.do === "down") rate(exchange, button);
    else if (button?.dataset.do === "copy-id") copy(exchange.part("[data-figure=request_id]").textContent, button);
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => resolve(clearTimeout(timer)));
  });
}

async function countdown(seconds, show, signal) {
  const end = Date.now() + 1000 * seconds;
  for (let left = seconds; left > 0 && !signal.aborted; left = Math.ceil((end - Date.now()) / 1000)) {
    show(left);
    await pause(Math.min(1000, end - Date.now()), signal);
  }
}

// The first rating of an answer counts; of the answer, only its request id is sent.
async function rate(exchange, button) {
  const buttons = exchange.element.querySelectorAll(".rating button");
  for (const one of buttons) one.disabled = true;
  const rated = await feedback(exchange.part("[data-figure=request_id]").textContent, button.dataset.do);
  if (rated) button.setAttribute("aria-pressed", "true");
  else for (const one of buttons) one.disabled = false;
  say(rated ? texts.rated : texts.not_rated);
}

// Without HTTPS, browsers deny the clipboard API but allow copying a selection.
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" });
    button.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = texts.copied;
  button.disabled = true;
  say(texts.copied);
  setTimeout(() => Object.assign(button, { textContent: label, disabled: false }), COPIED);
}

for (const form of document.querySelectorAll("form[data-kind]")) new Conversation(form);
for (const outcome of document.querySelectorAll(".exchanges #outcome")) {
  // Rendered by the server, so only the request id can be copied.
  const id = outcome.querySelector("[data-do=copy-id]");
  id.hidden = false;
  id.addEventListener("click", () => copy(outcome.querySelector("[data-figure=request_id]").textContent, id));
}
