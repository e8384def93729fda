// Going on from an answer: one of the usual changes, or one in words, and the conversation that goes along.
import { readDraft, writeDraft } from "./drafts.js";
import { characters, figure, fill, texts } from "./texts.js";

const MAX_TURNS = 50; // as many as the server takes
const MAX_BYTES = 900_000; // of the conversation so far: the server takes a megabyte in all

// The change that a button of an exchange asks for, or the written one; "" for none, or for more than is taken.
export function changeOf(exchange, button) {
  return button?.dataset.change ?? written(exchange);
}

// What is kept of a change that was written below an exchange and not sent.
export function changeDraft(id) {
  return readDraft(`change-${id}`);
}

export function bringBackChange(exchange) {
  exchange.part(".change textarea").value = changeDraft(exchange.id);
}

// What was pasted stays, however much it is; the count appears once it is too much.
export function countChange(exchange) {
  const field = exchange.part(".change textarea");
  writeDraft(`change-${exchange.id}`, field.value);
  const counter = exchange.part("[data-change-count]");
  const [count, limit] = [characters(field.value), Number(field.dataset.limit)];
  const over = count - limit;
  counter.textContent = over > 0 ? fill(texts.count_over, { count: figure(count), limit: figure(limit), over: figure(over) }) : "";
  counter.classList.toggle("over", over > 0);
  field.setAttribute("aria-invalid", over > 0);
  field.setCustomValidity(counter.textContent);
}

function written(exchange) {
  const field = exchange.part(".change textarea");
  return field.reportValidity() ? field.value.trim() : "";
}

// The question that goes on from an exchange. Pictures go along, and are shown where they were asked about first.
export function next(exchange, question, change) {
  writeDraft(`change-${exchange.id}`, "");
  return { ...question, prompt: change, previews: [], history: turns(exchange, question) };
}

function turns(exchange, question) {
  const found = [...(question.history ?? []), { prompt: question.prompt, text: exchange.raw }];
  let first = Math.max(0, found.length - MAX_TURNS);
  while (first < found.length - 1 && new Blob([JSON.stringify(found.slice(first))]).size > MAX_BYTES) first += 1;
  return found.slice(first);
}
