/** How an input picture is used: its fit into the size, its mask's options, and its guidance. */

import { supports } from "./capabilities.js";
import { chooseOrTell, unset } from "./choices.js";

const NUMBERS = ["blur", "padding"];
const FLAGS = ["only_masked", "invert"];
const DEFAULT_RESIZE = "stretch";
const DEFAULT_FILL = "original";

const at = (id) => document.getElementById(id);
const fields = at("form").elements;
const field = (name) => fields[`inpaint.${name}`];

/** Return the fields of the request for a picture; `paints` says whether there is a mask or a side. */
export function fit(paints) {
  const { resize, image_guidance_scale: guidance } = fields;
  const options = paints && supports("inpaint") ? inpaint() : {};
  return {
    ...(supports("resize") && resize.value && { resize: resize.value }),
    ...(supports("image_guidance_scale") && guidance.value && { image_guidance_scale: Number(guidance.value) }),
    ...(Object.keys(options).length > 0 && { inpaint: options }),
  };
}

/** Fill the form from a recipe; return a sentence for each value that it cannot hold. */
export function fillFit({ resize, inpaint: options, image_guidance_scale: guidance }) {
  const { fill, ...others } = options ?? {};
  for (const name of NUMBERS) {
    field(name).value = others[name] ?? "";
  }
  for (const name of FLAGS) {
    field(name).checked = others[name] ?? false;
  }
  fields.image_guidance_scale.value = guidance ?? "";
  return [
    ...chooseOrTell(fields.resize, "resize", resize === DEFAULT_RESIZE ? "" : resize),
    ...chooseOrTell(field("fill"), "fill", fill === DEFAULT_FILL ? "" : fill),
    ...(supports("image_guidance_scale") ? [] : unset("image_guidance_scale", guidance)),
  ];
}

/** Show the options for a picture; those of the mask need a mask or a side. */
export function showFit(chosen, paints) {
  at("fit").disabled = !chosen;
  at("mask-options").hidden = at("mask-options").disabled = !paints;
}

/** Disable the padding, which has no effect unless the masked part is drawn alone. */
export function enablePadding() {
  field("padding").disabled = !field("only_masked").checked;
}

function inpaint() {
  const given = NUMBERS.filter((name) => field(name).value !== "" && !field(name).disabled);
  return {
    ...(field("fill").value && { fill: field("fill").value }),
    ...Object.fromEntries(given.map((name) => [name, Number(field(name).value)])),
    ...Object.fromEntries(FLAGS.filter((name) => field(name).checked).map((name) => [name, true])),
  };
}
