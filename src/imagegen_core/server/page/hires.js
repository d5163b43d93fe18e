/** The second stage at a larger size: read it from the form, and fill the form. */

import { supports } from "./capabilities.js";
import { chooseOrTell, unset } from "./choices.js";

const NUMBERS = ["strength", "steps"];
const CHOICES = { upscaler: "upscaler", scheduler: "sampler", schedule: "noise schedule" };
const LATENT = "latent"; // the default upscaler
const TEXTS = [...Object.keys(CHOICES), "prompt", "negative_prompt"];

const fields = document.getElementById("form").elements;
const options = document.getElementById("hires-options");
const field = (name) => fields[`hires.${name}`];

/** Return the field of the request, or an empty text. */
export function hires() {
  const enlargement = field("scale").value.trim();
  if (enlargement === "" || !supports("hires")) {
    return "";
  }
  const given = (names, read) => names.filter((name) => field(name).value !== "").map((name) => [name, read(name)]);
  return {
    ...(Number.isNaN(Number(enlargement)) ? { size: enlargement } : { scale: Number(enlargement) }),
    ...Object.fromEntries(given(NUMBERS, (name) => Number(field(name).value))),
    ...Object.fromEntries(given(TEXTS, (name) => field(name).value)),
    ...(field("fresh_noise").checked && { fresh_noise: true }),
  };
}

/** Fill the form; return a sentence for each value that it cannot hold. */
export function fillHires(given) {
  const { scale, size, fresh_noise: freshNoise, ...others } = supports("hires") ? given : {};
  field("scale").value = scale ?? size ?? "";
  field("fresh_noise").checked = freshNoise ?? false;
  for (const name of [...NUMBERS, ...TEXTS.slice(Object.keys(CHOICES).length)]) {
    field(name).value = others[name] ?? "";
  }
  const missing = Object.entries(CHOICES).flatMap(([name, kind]) =>
    chooseOrTell(field(name), kind, others[name] === LATENT ? "" : others[name]),
  );
  return supports("hires") ? missing : unset("hires", given);
}

/** Show the options of the second stage if there is one. */
export function showHiresOptions() {
  options.hidden = options.disabled = field("scale").value.trim() === "";
}
