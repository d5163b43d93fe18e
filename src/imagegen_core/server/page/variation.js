/** Variations of the noise: read them from the form, and fill the form. */

import { supports } from "./capabilities.js";
import { unset } from "./choices.js";

const PROPOSED = 0.2; // the strength

const fields = document.getElementById("form").elements;
const field = (name) => fields[`variation.${name}`];

/** Return the field of the request, or an empty text. */
export function variation() {
  const strength = Number(field("strength").value);
  const resizeFrom = field("resize_from").value.trim();
  if (!supports("variation") || !(strength > 0 || resizeFrom)) {
    return "";
  }
  const seed = field("seed").value.trim() || String(crypto.getRandomValues(new Uint32Array(1))[0]);
  return { ...(strength > 0 && { seed, strength }), ...(resizeFrom && { resize_from: resizeFrom }) };
}

/** Fill the form; return a sentence for each value that it cannot hold. */
export function fillVariation(given) {
  const { strength = "", seed = strength && 0, resize_from: resizeFrom = "" } = supports("variation") ? given : {};
  field("strength").value = strength;
  field("seed").value = seed;
  field("resize_from").value = resizeFrom;
  return supports("variation") ? [] : unset("variation", given);
}

/** Ask for variations with random seeds. */
export function proposeVariation() {
  field("strength").value ||= PROPOSED;
  field("seed").value = "";
}

/** Disable the seed, which has no effect without a strength. */
export function enableVariationSeed() {
  field("seed").disabled = !(Number(field("strength").value) > 0);
}
