/** Read A1111's text of a picture, by `parse_generation_parameters` in its `modules/infotext_utils.py`. */

const PARAMETER = /\s*(\w[\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)/g;
const MULTIPLE = 8; // pixels of a latent
const MOST_DENOISING = 0.999;

const PLAIN = {
  Steps: "steps",
  "CFG scale": "guidance_scale",
  Seed: "seed",
  Sampler: "scheduler",
  "Schedule type": "schedule",
  Style: "style",
  "Style level": "style_level",
  "Clip skip": "clip_skip",
  Model: "checkpoint",
  "Image CFG scale": "image_guidance_scale",
  "CFG Rescale": "guidance_rescale",
  Eta: "eta",
  "Eta DDIM": "eta",
  "Sigma churn": "s_churn",
  "Sigma tmin": "s_tmin",
  "Sigma tmax": "s_tmax",
  "Sigma noise": "s_noise",
};
const HIRES = {
  "Hires sampler": "scheduler",
  "Hires schedule type": "schedule",
  "Hires prompt": "prompt",
  "Hires negative prompt": "negative_prompt",
};
const INPAINT = { "Mask blur": "blur", "Masked area padding": "padding" };
const FILLS = { fill: "surroundings", "latent noise": "noise", "latent nothing": "zeros" };
const READ = new Set([
  ...[PLAIN, HIRES, INPAINT].flatMap(Object.keys),
  ...["Size", "Denoising strength", "Hires upscale", "Hires resize", "Hires steps", "Hires upscaler"],
  ...["Variation seed", "Variation seed strength", "Seed resize from"],
  ...["Mask mode", "Inpaint area", "Masked content"],
]);
const WITHOUT_EFFECT = new Set(["Model hash", "VAE", "VAE hash", "Lora hashes", "TI hashes", "Version", "User"]);

/** Return the recipe of a text, or null; `others` has the values that the recipe has no place for. */
export function recipeOf(text) {
  const lines = text?.trim().split("\n") ?? [];
  const values = parameters(lines.at(-1) ?? "");
  if (!("Steps" in values)) {
    return null;
  }
  const [prompt, ...negative] = lines.slice(0, -1).join("\n").split(/^Negative prompt: ?/m);
  const [width, height] = (values.Size ?? "").split("x");
  const hires = hiresOf(values, Number(width), Number(height));
  return {
    prompt: prompt.trim(),
    negative_prompt: negative.join("").trim() || null,
    width,
    height,
    ...named(values, PLAIN),
    variation: variationOf(values),
    hires,
    ...(Object.keys(hires).length === 0 && "Denoising strength" in values && pictureOf(values)),
    others: Object.fromEntries(
      Object.entries(values).filter(([name]) => !READ.has(name) && !WITHOUT_EFFECT.has(name)),
    ),
  };
}

/** Return the second stage, with A1111's steps: all of them are drawn, as the last ones of a longer schedule. */
function hiresOf(values, width, height) {
  const { "Hires upscale": scale, "Hires resize": resize, "Hires upscaler": upscaler } = values;
  if (!scale && !resize) {
    return {};
  }
  const drawn = Number(values["Hires steps"] ?? values.Steps);
  const denoising = Math.min(Number(values["Denoising strength"]), MOST_DENOISING);
  const steps = denoising > 0 ? Math.floor(drawn / denoising) : drawn;
  return {
    ...(resize ? { size: sizeOf(resize, width, height) } : { scale: Number(scale) }),
    steps,
    strength: strengthOf(denoising > 0 ? drawn : 1, steps),
    ...(upscaler && { upscaler: upscalerOf(upscaler) }),
    ...("Hires sampler" in values && { schedule: values["Schedule type"] }), // A1111 keeps the first stage's
    ...named(values, HIRES),
    fresh_noise: true,
  };
}

/** Return the size of a second stage; a side of 0 follows from the proportions. */
function sizeOf(resize, width, height) {
  const [x, y] = resize.split("x").map(Number);
  const sides = [x || (y * width) / height, y || (x * height) / width];
  return sides.map((side) => Math.floor(side / MULTIPLE) * MULTIPLE).join("x");
}

/** Return this server's name of an upscaler; A1111's `None` is Lanczos. */
function upscalerOf(name) {
  return /^(latent|lanczos)/i.test(name) ? name.toLowerCase() : name === "None" ? "lanczos" : name;
}

function variationOf(values) {
  const { "Variation seed": seed, "Variation seed strength": strength, "Seed resize from": from } = values;
  return {
    ...(Number(strength) > 0 && { seed: seed ?? 0, strength }),
    ...(from && { resize_from: from }),
  };
}

/** Return the fields of a picture that began with another; A1111 draws a part of the steps, and one more. */
function pictureOf(values) {
  const steps = Number(values.Steps);
  const denoising = Math.min(Number(values["Denoising strength"]), MOST_DENOISING);
  const isMasked = "Mask mode" in values || "Mask blur" in values || "Inpaint area" in values;
  const numbers = Object.entries(named(values, INPAINT)).map(([name, value]) => [name, Number(value)]);
  return {
    image: true,
    mask: isMasked,
    strength: strengthOf(Math.floor(denoising * steps) + 1, steps),
    inpaint: {
      ...Object.fromEntries(numbers),
      ...(values["Masked content"] in FILLS && { fill: FILLS[values["Masked content"]] }),
      ...(values["Inpaint area"] === "Only masked" && { only_masked: true }),
      ...(values["Mask mode"] === "Inpaint not masked" && { invert: true }),
    },
  };
}

/** Return the least strength by which the server draws this number of the steps. */
function strengthOf(drawn, steps) {
  const strength = drawn / steps;
  return strength * steps < drawn ? strength * (1 + Number.EPSILON) : strength;
}

function named(values, names) {
  const known = Object.entries(names).filter(([name]) => name in values);
  return Object.fromEntries(known.map(([name, field]) => [field, values[name]]));
}

function parameters(line) {
  return Object.fromEntries(Array.from(line.matchAll(PARAMETER), ([, name, value]) => [name, unquoted(value)]));
}

function unquoted(value) {
  if (!value.startsWith('"')) {
    return value.trim();
  }
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}
