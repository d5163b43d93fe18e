/** The form: read its request, and fill it from a recipe. */

import { choose, chooseOrTell, unset } from "./choices.js";
import { enablePadding, fillFit } from "./fit.js";
import { fillHires, hires, showHiresOptions } from "./hires.js";
import { fillParameters, parameters } from "./parameters.js";
import { enableVariationSeed, fillVariation, proposeVariation, variation } from "./variation.js";

const UNSET = ["guidance_rescale", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise"].concat(
  ["micro_conditioning", "refiner", "switch_at"], // without a control
);
const SAME_FIELD = { hires: "hires.scale", "hires.size": "hires.scale" }; // by the names in the server's errors

const form = document.getElementById("form");
const settings = document.getElementById("settings");
const error = document.getElementById("error");
const fields = form.elements;
let takenSize = ""; // from the input picture

/** Return the form's requests, one for each picture; seeds are text, because they exceed JavaScript's exact numbers. */
export function requests() {
  const asked = Object.fromEntries(Object.entries(values()).filter(([, value]) => value !== ""));
  return Array.from({ length: Number(fields.count.value) }, (_, number) => numbered(asked, number));
}

/** Take over the size of an input picture; `replaces` also replaces the user's own size. */
export function takeSize(size, replaces) {
  if (replaces || ["", takenSize].includes(fields.size.value)) {
    fields.size.value = size;
  }
  takenSize = size;
}

/** Ask for variations of the picture whose recipe is in the form. */
export function vary() {
  proposeVariation();
  enableDependents();
}

/** Fill the form; return a sentence for each value of the recipe that the form cannot hold. */
export function fill(recipe) {
  const missing = [];
  fields.prompt.value = recipe.prompt;
  fields.negative_prompt.value = recipe.negative_prompt ?? "";
  fields.seed.value = recipe.seed ?? "";
  fields.size.value = recipe.width && recipe.height ? `${recipe.width}x${recipe.height}` : "";
  fields.num_inference_steps.value = recipe.steps ?? "";
  fields.guidance_scale.value = recipe.guidance_scale ?? "";
  fields.count.value = 1;
  missing.push(...chooseOrTell(fields.scheduler, "sampler", recipe.scheduler));
  missing.push(...chooseOrTell(fields.schedule, "noise schedule", recipe.schedule));
  missing.push(...chooseOrTell(fields["style_lora.style"], "style", recipe.style));
  fields["style_lora.level"].value = recipe.style_level || 1;
  const passes = Math.min(recipe.upscalings?.length ?? 0, 3);
  fields.superres.checked = passes > 0;
  fields.superres_magnitude.value = passes || 1;
  missing.push(...fillHires(recipe.hires ?? {}), ...fillVariation(recipe.variation ?? {}), ...fillFit(recipe));
  if (recipe.clip_skip) {
    missing.push(`It was drawn with clip skip ${recipe.clip_skip}, which this page does not set.`);
  }
  missing.push(...fillParameters(recipe.parameters ?? {}));
  for (const [name, value] of [...UNSET.map((field) => [field, recipe[field]]), ...Object.entries(recipe.others ?? {})]) {
    missing.push(...unset(name, value));
  }
  enableDependents();
  clearError();
  return missing;
}

/** Add names to a select, below its first option. */
export function offer(select, names) {
  const { wanted = select.value } = select.dataset;
  select.replaceChildren(select.options[0], ...names.map((name) => new Option(name, name)));
  delete select.dataset.wanted;
  choose(select, wanted);
  enableDependents();
}

/** Show an error, at the wrong field if there is one. */
export function showError(sentence, name = null) {
  clearError();
  error.textContent = sentence;
  const field = name && fields[SAME_FIELD[name] ?? name];
  if (!field) {
    return;
  }
  unfold(field);
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", error.id);
  field.focus();
}

export function clearError() {
  error.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    unmark(field);
  }
}

/** Disable the fields that have no effect without another, such as the style's level. */
export function enableDependents() {
  fields["style_lora.level"].disabled = fields["style_lora.style"].value === "";
  fields.superres_magnitude.disabled = !fields.superres.checked;
  showHiresOptions();
  enableVariationSeed();
  enablePadding();
}

export function prepare() {
  settings.open = matchMedia("(min-width: 700px)").matches;
  form.addEventListener("input", ({ target }) => unmark(target));
  form.addEventListener("input", enableDependents);
  form.addEventListener("invalid", ({ target }) => unfold(target), true); // the browser cannot point at a hidden field
  form.addEventListener("keydown", drawOnEnter);
  enableDependents();
}

function values() {
  const number = (field) => field.value && Number(field.value);
  const style = fields["style_lora.style"].value;
  return {
    prompt: fields.prompt.value,
    negative_prompt: fields.negative_prompt.value,
    size: fields.size.value.trim(),
    num_inference_steps: number(fields.num_inference_steps),
    guidance_scale: number(fields.guidance_scale),
    mode: fields.mode.value,
    scheduler: fields.scheduler.value,
    schedule: fields.schedule.value,
    style_lora: style && { style, level: Number(fields["style_lora.level"].value) },
    seed: fields.seed.value.trim(),
    hires: hires(),
    variation: variation(),
    superres: fields.superres.checked,
    superres_magnitude: fields.superres.checked ? Number(fields.superres_magnitude.value) : "",
    ...parameters(),
  };
}

/** Count up the seed, or that of the variation. */
function numbered(asked, number) {
  const request = { prompt: "", ...asked };
  if (request.variation?.seed) {
    request.variation = { ...request.variation, seed: counted(request.variation.seed, number) };
  } else if (request.seed) {
    request.seed = counted(request.seed, number);
  }
  return request;
}

function counted(seed, number) {
  return /^-?\d+$/.test(seed) ? String(BigInt(seed) + BigInt(number)) : seed;
}

function unfold(field) {
  const folded = field.closest("details");
  if (folded) {
    folded.open = true;
  }
}

function unmark(field) {
  field.removeAttribute("aria-invalid");
  field.removeAttribute("aria-errormessage");
}

function drawOnEnter(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.getElementById("draw").disabled) {
    event.preventDefault();
    form.requestSubmit();
  }
}
