// What is typed into a form: counted, never cut, refused while it is blank or too long, and never overwritten for good.
import { readDraft, writeDraft } from "./drafts.js";
import { characters, figure, fill, texts } from "./texts.js";

export class Typing {
  // templates: of the form, which make the prompt that is counted.
  constructor(form, templates) {
    this.form = form;
    this.field = form.elements.prompt;
    this.templates = templates;
    this.limit = Number(this.field.dataset.limit);
    this.hint = this.field.placeholder;
    this.counter = form.querySelector("[data-count]");
    this.undo = form.querySelector("[data-do=undo]");
    const keys = form.querySelector(".keys");
    if (/Mac|iPhone|iPad/.test(navigator.platform)) keys.textContent = keys.textContent.replace("Ctrl+", "⌘\u00a0");
    this.draft = `draft-${form.dataset.kind}`;
    this.field.value ||= readDraft(this.draft);
    form.addEventListener("input", (event) => this.changed(event));
    form.addEventListener("invalid", ({ target }) => tell(target), true);
    this.undo.addEventListener("click", () => this.bringBack());
    for (const example of form.querySelectorAll("[data-example]")) {
      example.addEventListener("click", (event) => {
        event.preventDefault();
        this.overwrite(example.textContent);
        this.field.focus();
      });
    }
    this.changed();
  }

  changed({ target } = {}) {
    if (target?.dataset?.invalid) target.setCustomValidity("");
    writeDraft(this.draft, this.field.value);
    this.field.placeholder = this.templates.values().template === "free" ? this.hint : "";
    const count = characters(this.templates.prompt());
    const over = count > this.limit;
    const values = { count: figure(count), limit: figure(this.limit), over: figure(count - this.limit) };
    this.counter.textContent = fill(over ? texts.count_over : texts.count, values);
    this.counter.classList.toggle("over", over);
    this.field.setAttribute("aria-invalid", over);
    for (const field of [this.field, this.templates.first()]) field.setCustomValidity("");
  }

  // Whether the form can be sent; otherwise the browser shows at the field what is missing.
  valid() {
    const prompt = this.templates.prompt();
    const problem = !prompt.trim() ? texts.blank : characters(prompt) > this.limit ? this.counter.textContent : "";
    const field = prompt.trim() ? this.field : this.templates.first();
    field.setCustomValidity(problem);
    if (problem) field.reportValidity();
    return !problem;
  }

  overwrite(text) {
    this.before = this.field.value;
    this.field.value = text;
    this.changed();
    this.undo.hidden = !this.before.trim() || this.before === text;
  }

  bringBack() {
    this.field.value = this.before;
    this.undo.hidden = true;
    this.changed();
    this.field.focus();
  }
}

// Lets the browser show what is wrong with a field: at the field, which may be folded, and in the language of the page, not its own.
function tell(field) {
  field.closest("details")?.setAttribute("open", "");
  if (field.dataset.invalid) field.setCustomValidity(field.dataset.invalid);
}
