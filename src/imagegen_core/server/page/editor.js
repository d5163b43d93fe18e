/** The dialog in which a mask is painted and sides are added around the picture. */

import * as extension from "./extension.js";
import * as painting from "./painting.js";
import * as stage from "./stage.js";

const dialog = document.getElementById("editor");

/** Let the user edit an input; return its new strokes and sides. */
export function edit({ bitmap, strokes, sides }) {
  dialog.showModal(); // first, because the stage has no size before
  stage.show(bitmap, sides);
  painting.begin(bitmap, strokes);
  extension.begin(bitmap, sides);
  return new Promise((resolve) => {
    const result = () => resolve({ strokes: painting.strokes(), sides: extension.sides() });
    dialog.addEventListener("close", result, { once: true });
  });
}

export function prepare() {
  stage.prepare();
  painting.prepare(dialog);
  extension.prepare();
}
