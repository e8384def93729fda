// One question with its answer on the page, and what the live region announces of it.
import { writer } from "./markdown.js";
import { extra, figure, fill, sentence, texts, whatNext } from "./texts.js";

const SPOKEN = 30; // sentences that stay in the live region
const DIGITS = { input_tokens: 0, generated_tokens: 0, seconds: 2, first_token: 2, tokens_per_second: 1 };

const spoken = document.getElementById("spoken");
const template = document.getElementById("exchange");

export function say(text) {
  if (!text.trim()) return;
  spoken.appendChild(document.createElement("p")).textContent = text.trim();
  while (spoken.childElementCount > SPOKEN) spoken.firstElementChild.remove();
}

export class Exchange {
  constructor(question) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.part(".question").textContent = question.prompt;
    if (question.preview) {
      const image = Object.assign(document.createElement("img"), { className: "thumbnail", src: question.preview, alt: question.name });
      this.part(".question").after(image);
    }
    this.restart();
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  restart() {
    this.raw = this.unsaid = "";
    this.announced = false;
    this.part(".answer").replaceChildren();
    this.markdown = writer(this.part(".answer"), (text) => this.speak(text));
    for (const hidden of [".failure", ".figures", ".actions", ".note", ".rating"]) this.part(hidden).hidden = true;
    for (const button of this.element.querySelectorAll(".rating button")) {
      button.disabled = false;
      button.setAttribute("aria-pressed", "false");
    }
    this.element.setAttribute("aria-busy", "true");
  }

  // What the reader waits for. percent: of an upload; null if unknown.
  wait(text, percent = null) {
    const line = this.part(".wait");
    line.hidden = !text;
    this.part("[data-wait]").textContent = text;
    const bar = this.part("progress");
    bar.hidden = percent === null;
    bar.value = percent ?? 0;
  }

  // The queue is fair between clients, so the position can also grow.
  queued({ before, seconds }) {
    const position = before ? fill(texts.queued, { before: figure(before) }) : texts.queued_next;
    const text = seconds ? `${position} ${fill(texts.queued_seconds, { seconds: figure(Math.ceil(seconds)) })}` : position;
    if (!this.announced) say(text);
    this.announced = true;
    this.wait(text);
  }

  write(text) {
    this.raw += text;
    this.markdown.write(text);
  }

  done({ data, metrics, request_id: requestId }, cut) {
    const values = { ...data, ...metrics, seconds: metrics.total_time, first_token: metrics.time_to_first_token ?? null };
    for (const [name, digits] of Object.entries(DIGITS)) {
      const cell = this.part(`[data-figure=${name}]`);
      cell.parentElement.hidden = values[name] === null;
      cell.textContent = values[name] === null ? "" : figure(values[name], digits);
    }
    this.part("[data-figure=request_id]").textContent = requestId;
    this.part("[data-do=copy-id]").hidden = false;
    this.part(".figures").hidden = false;
    this.part(".rating").hidden = false;
    this.end(cut ? texts.cut : this.raw.trim() ? "" : extra.empty);
    say(texts.done);
  }

  stopped() {
    this.end(texts.stopped);
    say(texts.stopped);
  }

  failed(error) {
    this.end("");
    const failure = this.part(".failure");
    const message = error.code === "unauthorized" ? texts.signed_out : sentence(error);
    failure.querySelector("[data-failure=message]").textContent = message;
    failure.querySelector("[data-failure=next]").textContent = whatNext(error.code);
    failure.querySelector("[data-failure=id]").textContent = error.requestId ? fill(extra.requestId, { id: error.requestId }) : "";
    this.when("");
    failure.querySelector("[data-failure=sign-in]").hidden = error.code !== "unauthorized";
    failure.hidden = false;
    say(`${message} ${whatNext(error.code)}`);
  }

  when(text) {
    this.part("[data-failure=when]").textContent = text;
  }

  // Ends an answer, complete or not: shows all of its text, the buttons, and the remark if there is one.
  end(remark) {
    this.markdown.end();
    this.speak("\n");
    this.wait("");
    this.part(".note").textContent = remark;
    this.part(".note").hidden = !remark;
    this.part(".actions").hidden = false;
    this.part("[data-do=copy]").hidden = !this.raw;
    this.element.removeAttribute("aria-busy");
  }

  // Screen readers get whole sentences, not fragments.
  speak(text) {
    this.unsaid += text;
    const found = /^[\s\S]*(?:[.!?…](?=\s)|\n)/.exec(this.unsaid);
    if (!found) return;
    say(found[0]);
    this.unsaid = this.unsaid.slice(found[0].length);
  }
}
