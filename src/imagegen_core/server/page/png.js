/** Read the recipe of a PNG, from imagegen's own text or from A1111's. */

import { parseExactly } from "./api.js";
import { recipeOf } from "./infotext.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const HEADER = 8; // a chunk's length and type
const CHECKSUM = 4;

/** The reason why a file has no recipe, as a sentence. */
export class RecipeError extends Error {}

/** Read the recipe of a picture: {prompt, negative_prompt, seed, width, height, steps, ...}. */
export async function readRecipe(blob, name) {
  const texts = textChunks(new Uint8Array(await blob.arrayBuffer()), name);
  const recipe = own(texts.get("imagegen")) ?? recipeOf(texts.get("parameters"));
  if (!recipe) {
    throw new RecipeError(`There is no recipe in ${name}: take a PNG as it was drawn`);
  }
  return recipe;
}

function textChunks(bytes, name) {
  if (SIGNATURE.some((byte, place) => bytes[place] !== byte)) {
    throw new RecipeError(`${name} is not a PNG: take one that imagegen drew`);
  }
  const view = new DataView(bytes.buffer);
  const texts = new Map();
  for (let place = SIGNATURE.length; place + HEADER + CHECKSUM <= bytes.length; ) {
    const length = view.getUint32(place);
    const type = latin1(bytes.subarray(place + 4, place + HEADER));
    const text = textOf(type, bytes.subarray(place + HEADER, place + HEADER + length));
    if (text) {
      texts.set(text.keyword, text.value);
    }
    place += HEADER + length + CHECKSUM;
  }
  return texts;
}

function textOf(type, data) {
  if (type !== "tEXt" && type !== "iTXt") {
    return null;
  }
  const keyword = data.indexOf(0);
  if (keyword < 0) {
    return null;
  }
  const named = { keyword: latin1(data.subarray(0, keyword)) };
  if (type === "tEXt") {
    return { ...named, value: latin1(data.subarray(keyword + 1)) };
  }
  const compressed = data[keyword + 1] !== 0;
  const language = data.indexOf(0, keyword + 3);
  const translated = data.indexOf(0, language + 1);
  if (compressed || language < 0 || translated < 0) {
    return null;
  }
  return { ...named, value: new TextDecoder().decode(data.subarray(translated + 1)) };
}

// PNG uses ISO 8859-1, but TextDecoder("latin1") decodes windows-1252.
function latin1(bytes) {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

function own(text) {
  try {
    const recipe = parseExactly(text);
    return typeof recipe?.prompt === "string" ? recipe : null;
  } catch {
    return null;
  }
}
