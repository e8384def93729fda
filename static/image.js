// The image of a question: dropped, pasted, chosen or photographed, and checked here against the server's limits.
import { extra, fill, figure, problems, size } from "./texts.js";

export class ImageField {
  constructor(form) {
    this.zone = form.querySelector("[data-drop]");
    this.input = form.querySelector("input[type=file]");
    this.preview = this.zone.querySelector(".preview");
    this.picture = Object.assign(document.createElement("img"), { alt: this.preview.dataset.alt });
    this.preview.prepend(this.picture);
    this.problem = this.zone.querySelector(".problem");
    this.limits = Object.fromEntries(["bytes", "pixels", "side", "aspect"].map((name) => [name, Number(this.zone.dataset[name])]));
    this.types = this.zone.dataset.types.split(" ");
    this.checked = null;
    this.listen();
    this.takeBack(form);
  }

  // The answer to a question that was sent before this script ran holds the image in a field of the form.
  takeBack(form) {
    const kept = form.elements.namedItem(this.zone.dataset.keptField);
    if (!kept) return;
    const bytes = Uint8Array.from(atob(kept.value), (letter) => letter.charCodeAt(0));
    this.zone.querySelector("[data-kept]").remove();
    kept.remove();
    this.input.required = true;
    this.take(new File([bytes], ""));
  }

  get file() {
    return this.checked;
  }

  // Accepts a file, or shows the server's message for what is wrong with it; returns whether it was accepted.
  async take(file) {
    const mistake = await this.mistakeOf(file);
    this.problem.textContent = mistake;
    this.problem.hidden = !mistake;
    if (mistake) this.remove();
    else this.show(file);
    return !mistake;
  }

  remove() {
    this.checked = null;
    this.input.value = "";
    this.preview.hidden = true;
  }

  show(file) {
    this.checked = file;
    this.url = URL.createObjectURL(file);
    this.picture.src = this.url;
    const { width, height } = this.measured;
    const name = file.name || "image";
    this.preview.querySelector("[data-details]").textContent = fill(extra.details, { name, size: size(file.size), width: figure(width), height: figure(height) });
    this.preview.hidden = false;
    if (this.input.files[0] !== file) {
      const carrier = new DataTransfer();
      carrier.items.add(file);
      this.input.files = carrier.files;
    }
  }

  async mistakeOf(file) {
    const { bytes, pixels, side, aspect } = this.limits;
    if (!file.size) return problems.image_empty;
    if (file.size > bytes) return problems.image_too_large;
    if (/^image\/hei[cf]/.test(file.type)) return problems.image_heic;
    if (file.type && !this.types.includes(file.type)) return problems.image_format;
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (!bitmap) return problems.image_damaged;
    const { width, height } = (this.measured = { width: bitmap.width, height: bitmap.height });
    bitmap.close();
    if (Math.max(width, height) > side) return problems.image_side;
    if (width * height > pixels) return problems.image_pixels;
    if (Math.max(width, height) > aspect * Math.min(width, height)) return problems.image_aspect;
    return "";
  }

  listen() {
    this.zone.querySelector("[data-drop-hint]").hidden = false;
    this.zone.querySelector("[data-do=remove]").addEventListener("click", () => {
      this.remove();
      this.input.focus();
    });
    this.input.addEventListener("change", () => (this.input.files[0] ? this.take(this.input.files[0]) : this.remove()));
    document.addEventListener("paste", (event) => this.takeFrom(event, event.clipboardData));
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
    const file = data && [...data.files][0];
    if (!file) return;
    event.preventDefault();
    this.take(file);
  }

  // Devices with a touch screen mostly have a camera.
  photographs() {
    if (!matchMedia("(any-pointer: coarse)").matches) return;
    const camera = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
    camera.setAttribute("capture", "environment");
    camera.addEventListener("change", () => camera.files[0] && this.take(camera.files[0]));
    const button = this.zone.querySelector("[data-do=photograph]");
    button.hidden = false;
    button.addEventListener("click", () => camera.click());
  }
}
