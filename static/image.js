// The pictures of a question: dropped, pasted, chosen or photographed, checked here against the server's limits.
import { prepared } from "./photos.js";
import { extra, fill, figure, problems, size } from "./texts.js";

const LIMITS = ["bytes", "pixels", "side", "aspect", "look", "most", "total"];

export class ImageField {
  constructor(form) {
    this.zone = form.querySelector("[data-drop]");
    this.input = form.querySelector("input[type=file]");
    this.problem = this.zone.querySelector(".problem");
    this.previews = this.zone.querySelector(".previews");
    this.limits = Object.fromEntries(LIMITS.map((name) => [name, Number(this.zone.dataset[name] ?? NaN)]));
    this.types = this.zone.dataset.types.split(" ");
    this.pictures = []; // { file, url, element }
    this.adding = null; // a promise while pictures are prepared
    this.listen();
    this.takeBack(form);
  }

  get files() {
    return this.pictures.map(({ file }) => file);
  }

  get urls() {
    return this.pictures.map(({ url }) => url);
  }

  get full() {
    return this.pictures.length >= this.limits.most;
  }

  // The answer to a question that was sent before this script ran holds the pictures in a field of the form.
  takeBack(form) {
    const kept = form.elements.namedItem(this.zone.dataset.keptField);
    if (!kept) return;
    const bytes = kept.value.split(",").map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
    this.zone.querySelector("[data-kept]").remove();
    kept.remove();
    this.take(bytes.map((one) => new File([one], "")));
  }

  // Meanwhile the field may be empty.
  async take(files) {
    const all = Promise.allSettled([this.adding, this.addAll(files)]);
    this.adding = all;
    this.input.required = false;
    await all;
    if (this.adding !== all) return;
    this.adding = null;
    this.input.required = true;
  }

  // Resolves when all pictures are prepared, to whether nothing was wrong with them.
  async prepared() {
    while (this.adding) await this.adding;
    return this.problem.hidden;
  }

  // Adds files, and shows the server's message for what is wrong with one of them.
  async addAll(files) {
    this.say("");
    for (const file of files) {
      const picture = this.full ? {} : await prepared(file, this.limits, this.types);
      const total = this.pictures.reduce((sum, one) => sum + one.file.size, picture.file?.size ?? 0);
      // Meanwhile, others may have been added.
      const problem = this.full ? "images_many" : (picture.problem ?? (total > this.limits.total ? "images_too_large" : ""));
      if (problem) this.say(problems[problem], files.length > 1 ? file.name : "", this.problem.textContent);
      else this.add(file, picture);
      if (problem === "images_many") break;
    }
    this.follow();
  }

  // before: what is said already, of other files.
  say(problem, name = "", before = "") {
    const lines = [...before.split("\n"), problem && name ? `${name}: ${problem}` : problem];
    this.problem.textContent = [...new Set(lines.filter(Boolean))].join("\n");
    this.problem.hidden = !problem;
  }

  add(original, { file, width, height }) {
    const element = document.getElementById("preview").content.firstElementChild.cloneNode(true);
    const url = URL.createObjectURL(file);
    const name = original.name || extra.unnamed;
    element.querySelector("img").src = url;
    const text = file === original ? extra.details : extra.detailsShrunk;
    const values = { name, size: size(original.size), width: figure(width), height: figure(height), sent: size(file.size) };
    element.querySelector("[data-details]").textContent = fill(text, values);
    const remove = element.querySelector("[data-do=remove]");
    remove.setAttribute("aria-label", `${remove.textContent}: ${name}`);
    const picture = { file, url, element };
    remove.addEventListener("click", () => this.remove(picture));
    this.previews.append(element);
    this.pictures.push(picture);
  }

  remove(picture) {
    this.pictures = this.pictures.filter((one) => one !== picture);
    picture.element.remove();
    this.say("");
    this.follow();
    (this.previews.querySelector("[data-do=remove]") ?? this.input).focus();
  }

  // Keeps the field of the form, which is sent where this script does not run to the end, at what is shown.
  follow() {
    const carrier = new DataTransfer();
    for (const file of this.files) carrier.items.add(file);
    this.input.files = carrier.files;
    this.input.setCustomValidity("");
  }

  listen() {
    this.zone.querySelector("[data-drop-hint]").hidden = false;
    this.input.addEventListener("change", () => this.take([...this.input.files]));
    document.addEventListener("paste", (event) => pastesText(event) || this.takeFrom(event, event.clipboardData));
    // On the whole page: an image dropped beside the field must not make the browser leave the page.
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      this.zone.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget || this.zone.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      this.zone.classList.remove("over");
      this.takeFrom(event, event.dataTransfer);
    });
    this.photographs();
  }

  takeFrom(event, data) {
    const files = data ? [...data.files] : [];
    if (!files.length) return;
    event.preventDefault();
    this.take(files);
  }

  // Devices with a touch screen mostly have a camera.
  photographs() {
    if (!matchMedia("(any-pointer: coarse)").matches) return;
    const camera = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
    camera.setAttribute("capture", "environment");
    camera.addEventListener("change", () => {
      this.take([...camera.files]);
      camera.value = "";
    });
    const button = this.zone.querySelector("[data-do=photograph]");
    button.hidden = false;
    button.addEventListener("click", () => camera.click());
  }
}

// Office programs copy text with a picture of it: into a field, the text is pasted.
function pastesText({ target, clipboardData }) {
  return target.matches?.("input, textarea") && clipboardData?.types.includes("text/plain");
}
