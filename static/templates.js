// The templates for sellers: makes the prompt of their fields as routes/seller_templates.py does, and keeps what was filled in.
import { readDraft, writeDraft } from "./drafts.js";
import { extra, fill } from "./texts.js";

const texts = extra.templates ? JSON.parse(extra.templates) : {};
const FIELDS = ["template", "item", "condition", "price", "city", "message", "length", "tone", "max_tokens", "temperature"];

export class Templates {
  constructor(form) {
    this.form = form;
    this.names = JSON.parse(form.dataset.templates); // the fields of each template
    this.draft = `fields-${form.dataset.kind}`;
    const kept = JSON.parse(readDraft(this.draft) || "{}");
    if (!this.touched()) for (const [name, value] of Object.entries(kept)) this.put(name, value);
    form.addEventListener("input", () => writeDraft(this.draft, JSON.stringify(this.values())));
  }

  // Whether the server has filled something in.
  touched() {
    return Object.entries(this.values()).some(([name, value]) => value && !["template", "length", "tone"].includes(name)) || this.values().template !== "free";
  }

  values() {
    const data = new FormData(this.form);
    return Object.fromEntries(FIELDS.map((name) => [name, (data.get(name) ?? "").trim()]));
  }

  put(name, value) {
    const field = this.form.elements.namedItem(name);
    if (!field) return;
    field.value = value;
    if (value && field.closest) field.closest("details")?.setAttribute("open", ""); // of a list of radio buttons, there is none
  }

  choose(template) {
    this.put("template", template);
    this.form.dispatchEvent(new Event("input"));
  }

  // The prompt, "" where there is nothing to ask.
  prompt() {
    const values = this.values();
    const own = this.form.elements.prompt.value;
    const fields = this.names[values.template];
    const lines = fields ? asked(values, fields, own.trim()) : [own];
    if (!lines.some((line) => line.trim())) return "";
    const wishes = [values.length, values.tone].map((wish) => texts.told[wish]).filter(Boolean);
    return [...lines, wishes.join(" ")].filter(Boolean).join("\n");
  }

  // How many tokens the answer may have, "" for the default.
  maxTokens() {
    const { max_tokens: chosen } = this.form.elements;
    return chosen.value || (this.values().length === "detailed" ? this.form.dataset.detailed : "");
  }

  // The field to fill in first.
  first() {
    const [about] = this.names[this.values().template] ?? [];
    return about ? this.form.elements.namedItem(about) : this.form.elements.prompt;
  }
}

function asked(values, fields, own) {
  const { template } = values;
  if (!fields.length) return [texts.ask[template], own];
  const about = values[fields[0]] || own;
  if (!about) return [];
  const told = fields.slice(1).filter((field) => values[field]).map((field) => fill(texts.told[field], { value: values[field] }));
  return [[fill(texts.ask[template], { about }), ...told].join(", "), values[fields[0]] ? own : ""];
}
