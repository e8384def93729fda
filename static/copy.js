// Puts an answer on the clipboard as it is read: plain text, and HTML for fields that take formatting.
import { say } from "./exchange.js";
import { texts } from "./texts.js";

const COPIED = 1500; // milliseconds that a button says so
const BLOCKS = /^(P|H3|UL|OL|LI|PRE|BLOCKQUOTE|TABLE|HR|DIV)$/;
const ATTRIBUTES = new Set(["href", "start"]);

// The text of an answer without its marks: paragraphs a line apart, items and rows a line each, cells a tab apart.
export function plainText(answer) {
  return blocks(answer).join("\n\n").trim();
}

function blocks(parent) {
  const found = [];
  let line = "";
  const end = () => {
    if (line.trim()) found.push(line.replace(/ *\n */g, "\n").trim());
    line = "";
  };
  for (const node of parent.childNodes) {
    if (!BLOCKS.test(node.nodeName)) line += inline(node);
    else {
      end();
      found.push(...block(node));
    }
  }
  end();
  return found;
}

function block(element) {
  switch (element.nodeName) {
    case "UL":
    case "OL":
      return [items(element).join("\n")];
    case "PRE":
      return [element.textContent.replace(/\n$/, "")];
    case "TABLE":
      return [[...element.rows].map((row) => [...row.cells].map((cell) => inline(cell).trim()).join("\t")).join("\n")];
    case "HR":
      return ["———"];
    default:
      return blocks(element);
  }
}

function items(list) {
  return [...list.children].flatMap((item, index) => {
    const mark = list.nodeName === "OL" ? `${list.start + index}. ` : "• ";
    return (mark + blocks(item).join("\n")).split("\n").map((line, at) => (at ? `  ${line}` : line));
  });
}

function inline(node) {
  if (node.nodeName === "#text") return node.data.replace(/\s+/g, " ");
  if (node.nodeName === "BR") return "\n";
  if (node.nodeName === "BUTTON") return "";
  const text = [...node.childNodes].map(inline).join("");
  const address = node.nodeName === "A" ? node.getAttribute("href") : null;
  return address?.startsWith("http") && address !== text ? `${text} (${address})` : text;
}

// The elements of an answer without what only this page needs: its buttons, boxes and attributes.
export function plainHtml(answer) {
  const copied = answer.cloneNode(true);
  for (const button of copied.querySelectorAll("button")) button.remove();
  for (const box of copied.querySelectorAll("div")) box.replaceWith(...box.childNodes);
  for (const element of copied.querySelectorAll("*")) {
    for (const { name } of [...element.attributes]) if (!ATTRIBUTES.has(name)) element.removeAttribute(name);
  }
  return copied.innerHTML;
}

export function copyAnswer(answer, button) {
  return copy({ "text/plain": plainText(answer), "text/html": plainHtml(answer) }, button);
}

export function copyText(text, button) {
  return copy({ "text/plain": text }, button);
}

// Does what a button of an answer asks for, if it asks to copy. markdown: the source of the answer.
export function pressedCopy(button, exchange, markdown) {
  const part = (selector) => exchange.querySelector(selector);
  if (button.dataset.do === "copy") copyAnswer(part(".answer"), button);
  else if (button.dataset.do === "copy-markdown") copyText(markdown, button);
  else if (button.dataset.do === "copy-code") copyText(button.previousElementSibling.textContent, button);
  else if (button.dataset.do === "copy-id") copyText(part("[data-figure=request_id]").textContent, button);
}

async function copy(forms, button) {
  let copied = true;
  try {
    const blobs = Object.entries(forms).map(([type, text]) => [type, new Blob([text], { type })]);
    await navigator.clipboard.write([new ClipboardItem(Object.fromEntries(blobs))]);
  } catch {
    copied = copySelection(forms, button);
  }
  const label = button.textContent;
  const told = copied ? texts.copied : texts.not_copied;
  button.textContent = told;
  button.disabled = true;
  say(told);
  setTimeout(() => Object.assign(button, { textContent: label, disabled: false }), COPIED);
}

// Without HTTPS, browsers deny the clipboard API but allow copying a selection, and a page to say what is copied. Returns whether it was.
function copySelection(forms, button) {
  const field = Object.assign(document.createElement("textarea"), { value: forms["text/plain"], className: "unseen" });
  button.after(field);
  field.select();
  field.addEventListener("copy", (event) => {
    event.preventDefault();
    for (const [type, text] of Object.entries(forms)) event.clipboardData.setData(type, text);
  });
  const copied = document.execCommand("copy");
  field.remove();
  button.focus();
  return copied;
}
