/** The form: read its request, and fill it from a recipe. */

import { supports } from "./capabilities.js";
import { fillParameters, parameters } from "./parameters.js";

const VARIATION = 0.2; // the strength that the page proposes
const UNSET = ["guidance_rescale", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise"].concat(
  ["resize", "inpaint", "image_guidance_scale", "micro_conditioning", "refiner", "switch_at"], // without a control
);

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
  fields["variation.strength"].value ||= VARIATION;
  fields["variation.seed"].value = "";
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
  if (!choose(fields.scheduler, recipe.scheduler)) {
    missing.push(`The sampler ${recipe.scheduler} is not on this server.`);
  }
  if (!choose(fields.schedule, recipe.schedule)) {
    missing.push(`The noise schedule ${recipe.schedule} is not on this server.`);
  }
  if (!choose(fields["style_lora.style"], recipe.style)) {
    missing.push(`The style ${recipe.style} is not on this server.`);
  }
  fields["style_lora.level"].value = recipe.style_level || 1;
  const passes = Math.min(recipe.upscalings?.length ?? 0, 3);
  fields.superres.checked = passes > 0;
  fields.superres_magnitude.value = passes || 1;
  missing.push(...fillHires(recipe.hires ?? {}), ...fillVariation(recipe.variation ?? {}));
  if (recipe.clip_skip) {
    missing.push(`It was drawn with clip skip ${recipe.clip_skip}, which this page does not set.`);
  }
  missing.push(...fillParameters(recipe.parameters ?? {}));
  for (const name of UNSET) {
    missing.push(...unset(name, recipe[name]));
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
  const field = name && fields[name];
  if (!field) {
    return;
  }
  if (settings.contains(field)) {
    settings.open = true;
  }
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
  fields["hires.strength"].disabled = fields["hires.scale"].value === "";
  fields["variation.seed"].disabled = !(Number(fields["variation.strength"].value) > 0);
  fields.superres_magnitude.disabled = !fields.superres.checked;
}

export function prepare() {
  settings.open = matchMedia("(min-width: 700px)").matches;
  form.addEventListener("input", ({ target }) => unmark(target));
  form.addEventListener("input", enableDependents);
  // Open the settings, because the browser cannot point at a hidden field.
  form.addEventListener("invalid", ({ target }) => (settings.open ||= settings.contains(target)), true);
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
    hires: supports("hires") ? hires() : "",
    variation: supports("variation") ? variation() : "",
    superres: fields.superres.checked,
    superres_magnitude: fields.superres.checked ? Number(fields.superres_magnitude.value) : "",
    ...parameters(),
  };
}

function hires() {
  const [scale, strength] = [fields["hires.scale"].value, fields["hires.strength"].value];
  return scale && { scale: Number(scale), ...(strength && { strength: Number(strength) }) };
}

function variation() {
  const strength = Number(fields["variation.strength"].value);
  const seed = fields["variation.seed"].value.trim() || String(crypto.getRandomValues(new Uint32Array(1))[0]);
  return strength > 0 ? { seed, strength } : "";
}

/** Count up the seed, or that of the variation. */
function numbered(asked, number) {
  const request = { prompt: "", ...asked };
  if (request.variation) {
    request.variation = { ...request.variation, seed: counted(request.variation.seed, number) };
  } else if (request.seed) {
    request.seed = counted(request.seed, number);
  }
  return request;
}

function counted(seed, number) {
  return /^-?\d+$/.test(seed) ? String(BigInt(seed) + BigInt(number)) : seed;
}

function fillHires(given) {
  const { scale = "", strength = "", ...others } = given;
  const offered = choose(fields["hires.scale"], String(scale));
  fields["hires.strength"].value = offered ? strength : "";
  return unset("hires", offered && supports("hires") ? others : given);
}

function fillVariation(given) {
  const { strength = "", seed = strength && 0, ...others } = given;
  fields["variation.strength"].value = strength;
  fields["variation.seed"].value = seed;
  return unset("variation", supports("variation") ? others : given);
}

/** Return a sentence if a recipe has a value that the page does not set. */
function unset(name, value) {
  const isObject = typeof value === "object" && value !== null;
  if (value === undefined || value === null || (isObject && Object.keys(value).length === 0)) {
    return [];
  }
  return [`It was drawn with ${name} ${isObject ? JSON.stringify(value) : value}, which this page does not set.`];
}

/** Select an option, and return whether it exists. Before the options are loaded, remember the name. */
function choose(select, name) {
  const wanted = name ?? "";
  const found = [...select.options].some((option) => option.value === wanted);
  select.value = found ? wanted : "";
  if (!found && select.options.length === 1) {
    select.dataset.wanted = wanted;
    return true;
  }
  delete select.dataset.wanted;
  return found;
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
