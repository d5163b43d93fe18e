/** The picture to begin with: show it, edit it, and give its fields of the request. */

import { supports } from "./capabilities.js";
import { edit } from "./editor.js";
import { fit, showFit } from "./fit.js";
import { NO_SIDES, SIDES, fitted, grown, hasSides, sizeOf } from "./sides.js";
import { drawSheet, isPainted, maskOf } from "./strokes.js";

const STRENGTH = 0.8;
const WHOLE_STRENGTH = 1; // the default with a mask or sides, and of models for edits
const THUMBNAIL = 640; // pixels of the longer side

const at = (id) => document.getElementById(id);
let current = null;
let wanted = null;
let takeSize = () => {};

/** The reason why a file cannot be the input, as a sentence. */
export class InputError extends Error {}

/** Return the input, {blob, name, bitmap, strokes, sides, strength}, or null; it never changes. */
export function source() {
  return supports("image") ? current : null;
}

/** Begin with this picture. */
export async function take(blob, name) {
  if (!supports("image")) {
    throw new InputError("This model does not draw from a picture: choose another mode");
  }
  const bitmap = await createImageBitmap(blob).catch(() => {
    throw new InputError(`${name} cannot be read as a picture: take a PNG, JPEG, WebP, BMP or GIF`);
  });
  const replaces = wanted === null;
  const { strength, sides } = wanted ?? { strength: null, sides: NO_SIDES };
  show({ blob, name, bitmap, strokes: [], sides, strength });
  takeSize(sizeOf(bitmap, sides), replaces);
}

/** Begin as an earlier picture did: `input` is an earlier `source()`. */
export function restore(input) {
  show(input);
  takeSize(input === null ? "" : sizeOf(input.bitmap, input.sides), false);
}

/** Take the input away; if the recipe began with a picture, the next picture has its strength, sides and size. */
export function expect({ image, strength, outpaint }) {
  restore(null);
  wanted = image ? { strength: strength ?? null, sides: { ...NO_SIDES, ...outpaint } } : null;
}

/** Return the fields of the request. */
export async function fields() {
  const input = source();
  if (input === null) {
    return {};
  }
  const { bitmap, strokes, sides, strength } = input;
  return {
    image: await dataUrl(input.blob),
    ...(supports("mask") && strokes.length > 0 && { mask: maskOf(bitmap, strokes) }),
    ...(supports("strength") && strength !== null && { strength }),
    ...(supports("outpaint") && hasSides(sides) && { outpaint: sides }),
    ...fit(paints(input)),
  };
}

/** Show the input again, after the model's fields changed. */
export function refresh() {
  if (current) {
    show(current);
  }
}

/** Connect the controls; `onSize` hears the size to draw, and whether it replaces the user's own. */
export function prepare(onSize) {
  takeSize = onSize;
  at("edit").addEventListener("click", async () => {
    const { strokes, sides } = await edit(current);
    const { bitmap } = current;
    show({ ...current, strokes: isPainted(bitmap, strokes) ? strokes : [], sides });
    takeSize(sizeOf(bitmap, sides), false);
  });
  at("forget").addEventListener("click", () => {
    restore(null);
    at("input-file").focus();
  });
  at("strength").addEventListener("input", ({ target }) => show({ ...current, strength: Number(target.value) }));
}

function show(input) {
  current = input;
  wanted = null;
  at("input").dataset.chosen = input !== null;
  showFit(input !== null, input !== null && paints(input));
  if (input === null) {
    return;
  }
  const { bitmap, name, strokes, sides, strength } = input;
  const whole = fitted(bitmap, sides);
  const size = grown(bitmap, whole);
  const scale = Math.min(1, THUMBNAIL / Math.max(size.width, size.height));
  drawSheet(at("thumbnail"), input, whole, { width: size.width * scale, height: size.height * scale });
  at("input-name").textContent = [
    `${name}, ${bitmap.width}x${bitmap.height}`,
    ...(strokes.length > 0 ? ["with a mask"] : []),
    ...SIDES.filter((side) => sides[side] > 0).map((side) => `${sides[side]} pixels at the ${side}`),
  ].join(", ");
  at("thumbnail").setAttribute("aria-label", at("input-name").textContent);
  at("strength").value = strength ?? (paints(input) || edits() ? WHOLE_STRENGTH : STRENGTH);
  at("strength-value").value = at("strength").value;
}

/** Return whether a mask or sides say where to draw. */
function paints({ strokes, sides }) {
  return (supports("mask") && strokes.length > 0) || (supports("outpaint") && hasSides(sides));
}

/** Return whether the model edits pictures by instructions. */
function edits() {
  return supports("image_guidance_scale");
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new InputError("The input picture cannot be read again: choose it again"));
    reader.readAsDataURL(blob);
  });
}
