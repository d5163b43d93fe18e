/** The request's fields that the chosen model supports. */

const CONTROLLED = ["image", "mask", "outpaint", "hires", "variation"];
let lacking = [];

/** Hide the controls of unsupported fields: page.css hides `.for-image` below `data-lacks~="image"`. */
export function offerFields(fields) {
  lacking = CONTROLLED.filter((field) => !fields.includes(field));
  document.documentElement.dataset.lacks = lacking.join(" ");
}

export function supports(field) {
  return !lacking.includes(field);
}
