// Enhances a page that works without it: streamed answers, a stop button that stops the model, automatic retries.
import { ask, feedback, resume, stop } from "./ask.js";
import { plainText, pressedCopy } from "./copy.js";
import { Exchange, say } from "./exchange.js";
import { bringBackChange, changeOf, countChange, next } from "./follow_up.js";
import { answersOf, keepPictures, preview } from "./history.js";
import { ImageField } from "./image.js";
import { watchLeaving } from "./leave.js";
import { addCodeButtons } from "./markdown.js";
import { goesOn, reveal, showPast } from "./past.js";
import { look, ready } from "./state.js";
import { cede, claim, readElsewhere, release, vacant } from "./tabs.js";
import { Templates } from "./templates.js";
import { fill, sentence, texts, timeOfDay } from "./texts.js";
import { Typing } from "./typing.js";
import { countdown, pause } from "./waiting.js";

const BETWEEN_TRIES = 1000; // milliseconds

class Conversation {
  constructor(form) {
    this.form = form;
    this.model = form.dataset.model;
    this.prompt = form.elements.prompt;
    this.list = document.querySelector(`[data-exchanges=${form.dataset.kind}]`);
    this.image = form.querySelector("[data-drop]") && new ImageField(form);
    this.send = form.querySelector("[data-do=send]");
    this.stop = form.querySelector("[data-do=stop]");
    this.templates = new Templates(form);
    this.typing = new Typing(form, this.templates);
    form.querySelector(".keys").hidden = false;
    this.listen();
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      if (event.submitter?.name === "follow_up") return; // of an answer that the server rendered, and goes on with
      event.preventDefault();
      if (this.running || !this.typing.valid()) return;
      if (this.image?.adding) this.sendPrepared();
      else if (!this.image || this.image.files.length) this.begin(this.question());
      else this.image.input.focus();
    });
    this.form.addEventListener("keydown", (event) => {
      if (sends(event)) this.form.requestSubmit(this.send);
    });
    // The second click of a double click on the button whose place it takes was not meant for it.
    this.stop.addEventListener("click", (event) => event.detail > 1 || (this.running && this.halt(this.running)));
  }

  // Sends once all pictures are prepared, unless one is refused meanwhile.
  async sendPrepared() {
    const remark = this.form.querySelector("[data-preparing]");
    if (!remark.hidden) return;
    remark.hidden = false;
    say(texts.preparing);
    const allRight = await this.image.prepared();
    remark.hidden = true;
    if (allRight) this.form.requestSubmit(this.send);
  }

  question() {
    return {
      url: this.form.dataset.ask,
      prompt: this.templates.prompt(),
      maxTokens: this.templates.maxTokens(),
      temperature: this.form.elements.temperature.value,
      files: this.image?.files ?? [],
      previews: this.image?.urls ?? [],
    };
  }

  // after: the exchange that the question goes on from.
  begin(question, after = null) {
    const exchange = new Exchange(question, this.form.dataset.kind);
    if (after) after.followBy(exchange);
    else this.list.prepend(exchange.thread());
    exchange.element.scrollIntoView({ block: "nearest" });
    this.attend(exchange, question);
    this.attempt(question, exchange);
    keepNew(exchange, after ? [] : question.files);
    return exchange;
  }

  // Shows an exchange of an earlier visit in its conversation. files: the pictures that are still kept.
  revive(record, files, after, thread) {
    const previews = after ? [] : record.previews;
    const question = { ...record.question, files, previews };
    const exchange = new Exchange(question, record.kind, record);
    exchange.revived = true;
    if (after) after.followBy(exchange);
    else thread.append(exchange.element);
    this.attend(exchange, question);
    const { length } = record.variants;
    if (goesOn(record)) this.takeUp(question, exchange);
    else exchange.over();
    if (exchange.stream) return exchange;
    if (length) exchange.show(Math.max(0, Math.min(record.shown, length - 1)));
    else exchange.interrupted(record.ended);
    return exchange;
  }

  // Goes on with an answer that was coming when the page was left, unless another tab reads it.
  async takeUp(question, exchange) {
    if (await readElsewhere(exchange.stream)) return this.watch(question, exchange);
    exchange.aside = Boolean(this.running);
    this.attempt(question, exchange);
    exchange.element.scrollIntoView({ block: "center" });
  }

  // Waits beside the form for an answer that another tab reads, and that only that tab can stop.
  async watch(question, exchange) {
    exchange.aside = true;
    exchange.restart();
    exchange.wait(texts.history.elsewhere);
    exchange.part("[data-do=halt]").hidden = true;
    await vacant(exchange.stream);
    this.attempt(question, exchange);
  }

  // Hears what is pressed in an exchange, and what is written below it.
  attend(exchange, question) {
    const { element } = exchange;
    bringBackChange(exchange);
    element.addEventListener("click", (event) => this.press(event, exchange, question));
    element.addEventListener("input", () => countChange(exchange));
    element.addEventListener("keydown", (event) => {
      if (sends(event) && event.target.name === "change") this.goOn(question, exchange, changeOf(exchange));
    });
  }

  attempt(question, exchange) {
    const leaving = new AbortController();
    exchange.source = exchange.stream;
    this.expect(leaving, exchange);
    if (exchange.stream) claim(exchange.stream);
    this.read(question, exchange, leaving);
  }

  expect(leaving, exchange) {
    exchange.restart();
    exchange.wait(texts.thinking);
    this.busy(leaving, exchange);
  }

  // cutOff: the exchange shows what had come of this answer when its connection was lost, which stays until the rest comes.
  read(question, exchange, leaving, cutOff = false) {
    let begun = false;
    const end = (exchange.stream ? resume : ask)(exchange.stream || question, {
      uploading: (percent) => !begun && question.files.length && exchange.wait(fill(texts.uploading, { percent }), percent),
      sent: () => begun || exchange.wait(texts.thinking),
      queued: (position) => begun || exchange.queued(position),
      stream: (id) => {
        if (cutOff) this.comesBack(exchange, leaving);
        cutOff = false;
        exchange.reads(id);
        exchange.keep();
      },
      text: (part) => {
        if (!begun) {
          begun = true;
          exchange.wait("");
          say(texts.writing);
        }
        exchange.write(part);
      },
      done: (answer) => {
        this.idle(exchange);
        exchange.over();
        exchange.done(answer, answer.data.finish_reason === "length");
        exchange.keep();
        this.form.dispatchEvent(new CustomEvent("answered", { bubbles: true }));
      },
      failed: (error) => (cutOff ? this.staysCutOff(error, question, exchange) : this.failed(error, question, exchange, leaving)),
      lost: () => (cutOff ? this.takeBack(question, exchange) : this.lost(question, exchange, leaving)),
    });
    leaving.signal.addEventListener("abort", end);
  }

  // What has come of an answer stays, and it can be asked for again; a question of which nothing has come waits for the server.
  lost(question, exchange, leaving) {
    const some = exchange.raw.trim();
    if (!some && exchange.cutOffAt < 0) return this.later(texts.waiting_server, ready(leaving.signal), question, exchange, leaving);
    this.idle(exchange);
    if (some) exchange.cutOff();
    else exchange.show(exchange.cutOffAt);
    exchange.keep();
    if (exchange.stream) this.takeBack(question, exchange);
    else look();
  }

  // Goes on by itself with an answer that was cut off, once the server answers, if it still has it.
  async takeBack(question, exchange) {
    const leaving = new AbortController();
    exchange.leaving = leaving;
    await Promise.all([ready(leaving.signal), pause(BETWEEN_TRIES, leaving.signal)]);
    if (!leaving.signal.aborted) this.read(question, exchange, leaving, true);
  }

  // Beside the form, in which the reader may be writing by now.
  comesBack(exchange, leaving) {
    exchange.aside = true;
    this.expect(leaving, exchange);
  }

  // For now, where the server has not noticed yet that its reader has left; or for good.
  staysCutOff(error, question, exchange) {
    if (["not_ready", "overloaded"].includes(error.code)) return this.takeBack(question, exchange);
    exchange.over();
    exchange.keep();
  }

  failed(error, question, exchange, leaving) {
    if (error.code === "not_ready") {
      this.later(texts.waiting_ready, ready(leaving.signal), question, exchange, leaving);
    } else if (error.code === "overloaded" && exchange.stream) {
      this.taken(question, exchange, leaving);
    } else if (error.code === "overloaded") {
      const show = (seconds) => exchange.wait(`${sentence(error)} ${fill(texts.again_in, { seconds })}`);
      this.later("", countdown(error.retryAfter ?? 3, show, leaving.signal), question, exchange, leaving);
    } else if (error.code === "not_found" && exchange.stream) {
      this.forgotten(question, exchange);
    } else {
      this.idle(exchange);
      exchange.over();
      exchange.failed(error);
      exchange.keep();
      if (error.code === "rate_limit_exceeded" && error.retryAfter) this.tellWhenFree(error.retryAfter, exchange);
    }
  }

  // Somebody reads the stream: another tab, or this one as it was before a reload, which the server notices soon.
  async taken(question, exchange, leaving) {
    const another = await readElsewhere(exchange.stream);
    if (leaving.signal.aborted) return;
    if (!another) return this.later(texts.history.elsewhere, pause(BETWEEN_TRIES, leaving.signal), question, exchange, leaving);
    this.idle(exchange);
    cede(exchange.stream);
    this.watch(question, exchange);
  }

  // The stream can be read no more: what was asked in this visit is asked again, unless another tab has kept its answer.
  async forgotten(question, exchange) {
    this.idle(exchange);
    exchange.over();
    if (!exchange.revived) return this.attempt(question, exchange);
    release(exchange.closed);
    exchange.variants.adopt(await answersOf(exchange.id));
    const { length } = exchange.variants.list;
    if (length) exchange.show(length - 1);
    else exchange.interrupted();
    exchange.keep();
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
    this.idle(exchange);
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

  halt(exchange) {
    if (exchange.stream) stop(exchange.stream);
    this.idle(exchange);
    exchange.over();
    exchange.stopped();
    exchange.keep();
  }

  // The form waits for the answer, unless that comes beside it.
  busy(leaving, exchange) {
    exchange.leaving = leaving;
    if (exchange.aside) return;
    this.running = exchange;
    const focused = document.activeElement === this.send;
    this.send.hidden = true;
    this.stop.hidden = false;
    if (focused) this.stop.focus();
  }

  idle(exchange) {
    exchange.leaving.abort();
    if (this.running !== exchange) return;
    this.running = null;
    const focused = document.activeElement === this.stop;
    this.send.hidden = false;
    this.stop.hidden = true;
    if (focused) this.send.focus();
  }

  repeat(question, exchange) {
    if (exchange.stream) this.giveUp(exchange);
    exchange.revived = exchange.aside = false;
    this.attempt(question, exchange);
    exchange.focus();
  }

  // An answer that was cut off is not waited for any longer.
  giveUp(exchange) {
    exchange.leaving.abort();
    stop(exchange.stream);
    exchange.over();
  }

  goOn(question, exchange, change) {
    if (this.running || !change) exchange.part(".change textarea").focus();
    else this.begin(next(exchange, question, change), exchange).focus();
  }

  startOver(event) {
    event.preventDefault();
    this.prompt.focus();
    this.prompt.select();
  }

  press(event, exchange, question) {
    const button = event.target.closest("button, [data-do]");
    if (button?.dataset.do === "again" && !this.running) this.repeat(question, exchange);
    else if (button?.name === "follow_up") this.goOn(question, exchange, changeOf(exchange, button));
    else if (button?.dataset.do === "halt") this.halt(exchange);
    else if (button?.dataset.do === "start-over") this.startOver(event);
    else if (button?.dataset.do === "earlier") exchange.turn(-1);
    else if (button?.dataset.do === "later") exchange.turn(1);
    else if (button?.dataset.do === "up" || button?.dataset.do === "down") rate(exchange, button);
    else if (button?.dataset.do === "listing") forms.text.writeListing(plainText(exchange.part(".answer")));
    else if (button) pressedCopy(button, exchange.element, exchange.raw);
  }

  // Leads from what a picture shows to a listing of it: only what the picture does not tell is left to fill in.
  writeListing(seen) {
    this.templates.choose("listing");
    this.typing.overwrite(seen);
    this.templates.first().focus();
  }
}

function sends({ key, ctrlKey, metaKey }) {
  return key === "Enter" && (ctrlKey || metaKey);
}

// Of a rated answer, only its request id is sent.
async function rate(exchange, button) {
  const buttons = exchange.element.querySelectorAll(".rating button");
  const variant = exchange.variants.current;
  for (const one of buttons) one.disabled = true;
  const rated = await feedback(variant.answer.request_id, button.dataset.do);
  if (rated) {
    variant.rating = button.dataset.do;
    exchange.rated(variant.rating);
    exchange.keep();
  } else for (const one of buttons) one.disabled = false;
  say(rated ? texts.rated : texts.not_rated);
}

async function keepNew(exchange, files) {
  exchange.keep();
  reveal();
  if (!files.length) return;
  keepPictures(exchange.conversation, files);
  exchange.previews = (await Promise.all(files.map(preview))).filter(Boolean);
  exchange.keep();
}

// What is typed is kept here without being sent along: the language has a form of its own.
document.querySelector(".languages [data-typed=image]")?.remove();
document.querySelector(".languages [data-typed]")?.removeAttribute("data-typed");
for (const button of document.querySelectorAll(".languages button")) {
  for (const { name } of [...button.attributes]) if (name.startsWith("form")) button.removeAttribute(name);
}

const forms = {};
for (const form of document.querySelectorAll("form[data-kind]")) forms[form.dataset.kind] = new Conversation(form);
showPast(forms);
watchLeaving(() => Object.values(forms).forEach((form) => form.running && form.halt(form.running)));
for (const outcome of document.querySelectorAll(".exchanges #outcome")) adopt(outcome);

// An answer that the server rendered can be copied; what repeats or rates it needs the script that asked.
function adopt(outcome) {
  const answer = outcome.querySelector(".answer[data-markdown]");
  if (!answer) return;
  const markdown = answer.dataset.markdown;
  addCodeButtons(answer);
  for (const button of outcome.querySelectorAll("[data-do^=copy]")) button.hidden = false;
  outcome.querySelector("[data-do=again]").hidden = true;
  outcome.querySelector(".actions").hidden = !markdown.trim();
  outcome.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) pressedCopy(button, outcome, markdown);
  });
}
