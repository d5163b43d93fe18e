/** The slider between a drawn picture and the picture that it began with. */

import { fitted } from "./sides.js";
import { drawSheet } from "./strokes.js";

/** Lay the input over the loaded `image`; the slider below `root` shows it from the left. */
export function compare(root, image, input) {
  const [canvas, slider] = [root.querySelector(".before"), root.querySelector(".comparison input")];
  const size = { width: image.naturalWidth, height: image.naturalHeight };
  drawSheet(canvas, { ...input, strokes: [] }, fitted(input.bitmap, input.sides), size);
  slider.value = 0;
  slider.oninput = () => {
    canvas.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
  };
  slider.oninput();
  setCompared(root, true);
}

export function setCompared(root, shown) {
  root.querySelector(".before").hidden = !shown;
  root.querySelector(".comparison").hidden = !shown;
}
