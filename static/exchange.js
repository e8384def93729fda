// One question with its answer on the page, and what the live region announces of it.
import { writer } from "./markdown.js";
import { clock } from "./clock.js";
import { follow } from "./follow.js";
import { keep, newId } from "./history.js";
import { claim, release } from "./tabs.js";
import { duration, extra, figure, fill, sentence, texts, whatNext } from "./texts.js";
import { Variants } from "./variants.js";

const SPOKEN = 30; // sentences that stay in the live region
const LONGEST = 400; // characters of one; what goes on without an end is said in parts
const SHOWN = {
  input_tokens: figure,
  generated_tokens: figure,
  seconds: (value) => duration(value),
  first_token: (value) => duration(value),
  tokens_per_second: (value) => figure(value, 1),
};

const spoken = document.getElementById("spoken");
const template = document.getElementById("exchange");

export function say(text) {
  if (!text.trim()) return;
  spoken.appendChild(document.createElement("p")).textContent = text.trim();
  while (spoken.childElementCount > SPOKEN) spoken.firstElementChild.remove();
}

export class Exchange {
  // kind: of the form; record: of the history, for an exchange of an earlier visit.
  constructor(question, kind, record = {}) {
    this.question = question;
    this.kind = kind;
    this.id = record.id ?? newId();
    this.conversation = record.thread ?? this.id; // the id of its first exchange
    this.previews = record.previews ?? [];
    this.stream = record.stream ?? "";
    this.streamAt = record.streamAt; // when it began
    this.source = this.stream; // the stream by which the answer comes, or came
    this.element = template.content.firstElementChild.cloneNode(true);
    this.part(".question").textContent = question.prompt;
    for (const [index, src] of question.previews.entries()) {
      const image = Object.assign(document.createElement("img"), { className: "thumbnail", src, alt: question.files[index]?.name || extra.unnamed });
      this.part(".thumbnails").append(image);
    }
    this.part(".thumbnails").hidden = !question.previews.length;
    this.variants = new Variants(this.part(".variants"), record.variants, record.shown);
    this.restart();
  }

  // The element of the conversation that begins with this exchange.
  thread() {
    const thread = Object.assign(document.createElement("div"), { className: "thread" });
    thread.append(this.element);
    return thread;
  }

  // The answer comes in this tab, by a stream of this id; "" for one that cannot be read again.
  reads(stream) {
    Object.assign(this, { stream, source: stream, streamAt: Date.now() });
    if (stream) claim(stream);
  }

  // Its stream is over, or nobody can go on with it. Tabs that wait for it are told once what came of it is kept, which they show.
  over() {
    this.closed = this.stream || this.closed;
    this.stream = "";
  }

  // Puts the exchange that goes on from this one below it.
  followBy(exchange) {
    this.followed = true;
    exchange.conversation = this.conversation;
    for (const part of [".follow-up", "[data-do=continue]"]) this.part(part).hidden = true;
    this.element.after(exchange.element);
  }

  // Moves the focus to what can be done while the answer comes.
  focus() {
    this.part("[data-do=halt]").focus();
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  async keep() {
    const { files, previews, ...question } = this.question;
    const { list: variants, shown } = this.variants;
    const { id, conversation: thread, kind, stream, streamAt, ended, closed } = this;
    const record = { id, thread, kind, question, previews: this.previews, variants, shown, stream, streamAt, ended, closed };
    const kept = await keep(record).finally(() => release(closed));
    const { current } = this.variants;
    this.variants.adopt(kept.variants);
    if (this.variants.current !== current) this.show(this.variants.shown);
    if (!this.element.hasAttribute("aria-busy")) this.variants.draw();
  }

  restart() {
    this.raw = this.unsaid = "";
    this.announced = false;
    this.ended = null; // how it did, if without an answer: { stopped } or { error }
    this.part("[data-do=halt]").hidden = false;
    const { offsetHeight } = this.element;
    if (offsetHeight) this.element.style.minHeight = `${offsetHeight}px`; // what stands below stays where it is
    this.part(".answer").replaceChildren();
    this.markdown = writer(this.part(".answer"), (text) => this.speak(text));
    for (const hidden of [".failure", ".about", ".actions", ".note", ".rating", ".dropped", ".follow-up", "[data-do=continue]"]) this.part(hidden).hidden = true;
    for (const button of this.element.querySelectorAll(".rating button")) {
      button.disabled = false;
      button.setAttribute("aria-pressed", "false");
    }
    this.variants.leave();
    this.element.setAttribute("aria-busy", "true");
  }

  // What the reader waits for. percent: of an upload; null if unknown.
  wait(text, percent = null) {
    const line = this.part(".wait");
    line.hidden = !text;
    if (text) this.stopClock ??= clock(this.part("[data-clock]"));
    else this.stopClock = void this.stopClock?.();
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
    if (this.silent || this.aside) return;
    this.follower ??= follow(this.element, this.part("[data-tail]"));
    this.follower.look();
  }

  done(answer, cut) {
    const { text, ...data } = answer.data;
    this.add({ raw: this.raw, answer: { ...answer, data }, cut });
    this.settle();
    say(texts.done);
  }

  // Adds an answer to those that the question has had.
  add(variant) {
    this.variants.add({ ...variant, stream: this.source });
  }

  // Shows what belongs to the current answer beside its text.
  settle() {
    const { answer, cut, stopped, lost, rating } = this.variants.current;
    if (answer) this.figures(answer);
    const remark = stopped ? texts.stopped : lost ? texts.lost : cut ? texts.cut : this.raw.trim() ? "" : extra.empty;
    if (rating) this.rated(rating);
    this.end(remark);
    this.part("[data-do=continue]").hidden = !cut || this.part(".follow-up").hidden;
  }

  // Shows the answer before or behind the current one.
  turn(by) {
    if (!this.variants.move(by)) return;
    const { shown } = this.variants;
    this.show(shown);
    this.keep();
    say(this.part("[data-count-of]").textContent);
  }

  show(index) {
    this.silent = true;
    this.restart();
    this.variants.shown = index;
    this.write(this.variants.current.raw);
    this.settle();
    this.silent = false;
  }

  figures({ data, metrics, request_id: requestId }) {
    this.part(".dropped").hidden = !data.dropped_turns;
    this.part(".dropped").textContent = data.dropped_turns ? fill(texts.dropped, { turns: figure(data.dropped_turns) }) : "";
    const values = { ...data, ...metrics, seconds: metrics.total_time, first_token: metrics.time_to_first_token ?? null };
    for (const [name, shown] of Object.entries(SHOWN)) {
      const cell = this.part(`[data-figure=${name}]`);
      cell.parentElement.hidden = values[name] === null;
      cell.textContent = values[name] === null ? "" : shown(values[name]);
    }
    this.part("[data-figure=request_id]").textContent = requestId;
    this.part("[data-do=copy-id]").hidden = false;
    this.part(".about").hidden = false;
    this.part(".rating").hidden = false;
  }

  // The first rating of an answer counts.
  rated(rating) {
    for (const button of this.element.querySelectorAll(".rating button")) button.disabled = true;
    this.part(`[data-do=${rating}]`).setAttribute("aria-pressed", "true");
  }

  stopped() {
    if (this.raw.trim()) this.add({ id: newId(), raw: this.raw, stopped: true });
    this.ended = { stopped: true };
    this.end(texts.stopped);
    say(texts.stopped);
  }

  // The connection was lost amid the answer.
  cutOff() {
    this.add({ id: newId(), raw: this.raw, lost: true });
    this.end(texts.lost);
    say(texts.lost);
  }

  // The place of what had come of this answer when its connection was lost before; -1 for nothing.
  get cutOffAt() {
    return this.variants.list.findIndex(({ lost, stream }) => lost && stream && stream === this.source);
  }

  // There was no answer when the page was left. ended: how it had ended before, if it had.
  interrupted(ended = null) {
    this.silent = true;
    if (ended?.error) this.failed(ended.error);
    else this.end(ended?.stopped ? texts.stopped : texts.history.interrupted);
    this.silent = false;
    this.ended = ended;
  }

  failed(error) {
    if (this.raw.trim()) this.add({ id: newId(), raw: this.raw });
    this.ended = { error };
    this.end("");
    const failure = this.part(".failure");
    const message = error.code === "unauthorized" ? texts.signed_out : sentence(error);
    failure.querySelector("[data-failure=message]").textContent = message;
    failure.querySelector("[data-failure=next]").textContent = whatNext(error.code);
    failure.querySelector("[data-failure=id]").textContent = error.requestId ? fill(extra.requestId, { id: error.requestId }) : "";
    this.when("");
    failure.querySelector("[data-failure=sign-in]").hidden = error.code !== "unauthorized";
    failure.hidden = false;
    if (!this.silent) say(`${message} ${whatNext(error.code)}`);
  }

  when(text) {
    this.part("[data-failure=when]").textContent = text;
  }

  // Ends an answer, complete or not: shows all of its text, the buttons, and the remark if there is one.
  end(remark) {
    this.markdown.end();
    this.element.style.minHeight = "";
    this.speak("\n");
    this.wait("");
    const gone = this.kind === "image" && !this.question.files.length;
    const note = [remark, gone ? texts.history.no_picture : ""].join(" ").trim();
    this.part(".note").textContent = note;
    this.part(".note").hidden = !note;
    this.part(".note").classList.toggle("problem", Boolean(this.variants.current?.lost));
    this.part(".actions").hidden = false;
    this.part("[data-do=again]").hidden = gone;
    for (const name of ["copy", "copy-markdown"]) this.part(`[data-do=${name}]`).hidden = !this.raw.trim();
    this.part("[data-do=listing]").hidden = !this.raw.trim() || this.kind !== "image";
    this.part(".follow-up").hidden = gone || !this.raw.trim() || Boolean(this.followed);
    this.variants.draw();
    const halting = document.activeElement === this.part("[data-do=halt]");
    this.element.removeAttribute("aria-busy");
    if (halting) this.element.querySelector(".actions button:not([hidden])").focus({ preventScroll: true });
    this.follower = void this.follower?.end();
  }

  // Screen readers get whole sentences, not fragments.
  speak(text) {
    const looked = Math.max(0, this.unsaid.length - 1); // the last character may have been the end of a sentence
    this.unsaid += text;
    if (this.silent) return;
    const found = /^[\s\S]*(?:[.!?…](?=\s)|[。！？\n])/.exec(this.unsaid.slice(looked));
    if (!found && this.unsaid.length < LONGEST) return;
    const end = found ? looked + found[0].length : this.unsaid.lastIndexOf(" ") + 1 || this.unsaid.length;
    say(this.unsaid.slice(0, end));
    this.unsaid = this.unsaid.slice(end);
  }
}
