/** The request's fields that the chosen model supports. */

const CONTROLLED = ["image", "mask", "strength", "resize", "inpaint", "outpaint", "image_guidance_scale"].concat(
  ["hires", "variation"],
);
const root = document.documentElement;
let lacking = root.dataset.lacks.split(" ");

/** Hide the controls of unsupported fields: page.css hides `.for-image` below `data-lacks~="image"`. */
export function offerFields(fields) {
  lacking = CONTROLLED.filter((field) => !fields.includes(field));
  root.dataset.lacks = lacking.join(" ");
}

export function supports(field) {
  return !lacking.includes(field);
}
