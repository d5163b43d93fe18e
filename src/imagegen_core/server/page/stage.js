/** The editor's picture: its scale, its place on the stage, and the sides around it. */

import { grown } from "./sides.js";

const MARGIN = 44; // pixels around the picture, to drag its edges outwards

const [stage, sheet, layer, picture, cursor] = ["stage", "sheet", "layer", "shown", "cursor"].map((id) =>
  document.getElementById(id),
);

let sides = {};
let scale = 1; // pixels of the screen in a pixel of the picture
let origin = { x: 0, y: 0 }; // the picture's upper left corner on the stage

export function show(bitmap, around) {
  Object.assign(picture, { width: bitmap.width, height: bitmap.height });
  picture.getContext("2d").drawImage(bitmap, 0, 0);
  sides = around;
  cursor.hidden = true;
  fit();
}

/** Show other sides; the picture stays where it is. */
export function extend(around) {
  sides = around;
  const { width, height } = grown(picture, sides);
  move(sheet, origin.x - sides.left * scale, origin.y - sides.top * scale, width * scale, height * scale);
  move(layer, sides.left * scale, sides.top * scale, picture.width * scale, picture.height * scale);
}

/** Scale the picture and its sides, so that they fill the stage. */
export function fit() {
  const { width, height } = grown(picture, sides);
  const { clientWidth, clientHeight } = stage;
  scale = Math.min((clientWidth - 2 * MARGIN) / width, (clientHeight - 2 * MARGIN) / height);
  origin = {
    x: (clientWidth - width * scale) / 2 + sides.left * scale,
    y: (clientHeight - height * scale) / 2 + sides.top * scale,
  };
  extend(sides);
}

/** Show a brush of this diameter; all numbers are pixels of the picture. */
export function showCursor({ x, y }, diameter) {
  move(cursor, origin.x + x * scale, origin.y + y * scale, diameter * scale, diameter * scale);
  cursor.hidden = false;
}

export function hideCursor() {
  cursor.hidden = true;
}

/** Return an event's place in pixels of the picture. */
export function placeOf({ clientX, clientY }) {
  const { left, top } = layer.getBoundingClientRect();
  return { x: inPicture(clientX - left), y: inPicture(clientY - top) };
}

/** Return a length on the screen in pixels of the picture. */
export function inPicture(length) {
  return length / scale;
}

export function prepare() {
  new ResizeObserver(() => stage.clientWidth > 0 && fit()).observe(stage);
}

function move(element, left, top, width, height) {
  Object.assign(element.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
}
