// Prepares a picture for sending: no more pixels than the model looks at, in a format that the server reads.

const KEEP = 256 * 1024; // bytes; below, a smaller file would come hardly sooner
const LEAST = 640 * 480; // pixels that are sent at least, so that the page has something to show
const QUALITY = 0.9;

// limits: { bytes, pixels, side, aspect, look }, look: the pixels that the model looks at, NaN if unknown. types: those that
// the server reads. Returns { file, width, height }, or { problem }, a key of the server's messages. A picture that only this
// browser reads, such as HEIC in Safari, is sent as JPEG.
export async function prepared(file, limits, types) {
  if (!file.size) return { problem: "image_empty" };
  const known = !file.type || types.includes(file.type);
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return { problem: known ? "image_damaged" : isHeic(file) ? "image_heic" : "image_format" };
  const sent = await shrunk(file, bitmap, known, limits);
  const { width, height } = bitmap;
  bitmap.close();
  const problem = problemOf(sent ?? { file, width, height }, limits);
  return problem ? { problem } : { width, height, file: sent?.file ?? file };
}

function isHeic({ name, type }) {
  return /^image\/hei[cf]/.test(type) || /\.hei[cf]$/i.test(name);
}

function problemOf({ file, width, height }, { bytes, pixels, side, aspect }) {
  if (file.size > bytes) return "image_too_large";
  if (Math.max(width, height) > side) return "image_side";
  if (width * height > pixels) return "image_pixels";
  return Math.max(width, height) > aspect * Math.min(width, height) ? "image_aspect" : "";
}

// The picture in fewer pixels, null where it is sent as it is.
async function shrunk(file, bitmap, known, limits) {
  const look = Math.max(limits.look, LEAST);
  const scale = Math.min(1, Math.sqrt(look / (bitmap.width * bitmap.height)) || 1);
  const asItIs = { file, width: bitmap.width, height: bitmap.height };
  if (known && (scale === 1 || (file.size <= KEEP && !problemOf(asItIs, limits)))) return null;
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  if (!context) return null;
  context.fillStyle = "#fff"; // shows through what is transparent, as for the model
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  if (!blob || (known && blob.size >= file.size)) return null;
  return { width, height, file: new File([blob], file.name, { type: blob.type }) };
}
