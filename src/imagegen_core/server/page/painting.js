/** The editor's brush and eraser, for mouse, finger, pen and keyboard. */

import { hideCursor, placeOf, showCursor } from "./stage.js";
import { drawStroke, drawStrokes } from "./strokes.js";

const PEN_ERASER = 5; // the button of a pen's other end
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const at = (id) => document.getElementById(id);
const [stage, mask, width] = ["stage", "mask", "brush-width"].map(at);

let history = [[]]; // of lists of strokes; the last is shown
let stroke = null; // the stroke that is being painted
let spot = { x: 0, y: 0 }; // of the brush, in pixels of the picture

export function begin(bitmap, painted) {
  history = [painted];
  stroke = null; // Escape may have closed the dialog during a stroke
  spot = { x: bitmap.width / 2, y: bitmap.height / 2 };
  const longer = Math.max(bitmap.width, bitmap.height);
  Object.assign(mask, { width: bitmap.width, height: bitmap.height });
  Object.assign(width, { max: Math.ceil(longer / 2), value: Math.ceil(longer / 10) });
  redraw();
}

export function strokes() {
  return history.at(-1);
}

export function prepare(dialog) {
  stage.addEventListener("pointerdown", press);
  stage.addEventListener("pointermove", follow);
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointerleave", hideCursor);
  stage.addEventListener("blur", hideCursor);
  stage.addEventListener("keydown", paintByKey);
  width.addEventListener("input", redraw);
  at("undo").addEventListener("click", undo);
  at("clear").addEventListener("click", () => remember([]));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "z" && (event.ctrlKey || event.metaKey) && event.target.type !== "number") {
      event.preventDefault();
      undo();
    }
  });
}

function press(event) {
  if (!event.isPrimary || ![0, PEN_ERASER].includes(event.button)) {
    return;
  }
  stage.setPointerCapture(event.pointerId);
  spot = placeOf(event);
  stroke = newStroke(event.button === PEN_ERASER);
  drawStroke(mask.getContext("2d"), stroke);
}

function follow(event) {
  if (event.target.matches(".handle")) {
    hideCursor();
    return;
  }
  spot = placeOf(event);
  showCursor(spot, Number(width.value));
  if (!stroke || !event.isPrimary) {
    return;
  }
  const from = stroke.points.length;
  for (const { x, y } of [...event.getCoalescedEvents(), event].map(placeOf)) {
    stroke.points.push([x, y]);
  }
  drawStroke(mask.getContext("2d"), stroke, from);
}

function release(event) {
  if (stroke && event.isPrimary) {
    remember([...strokes(), stroke]);
    stroke = null;
  }
}

function paintByKey(event) {
  const [right, down] = KEYS[event.key] ?? [0, 0];
  if (event.key === " ") {
    remember([...strokes(), newStroke(false)]);
  } else if (right || down) {
    const step = Math.max(1, Number(width.value) / 2);
    spot = {
      x: Math.min(Math.max(0, spot.x + right * step), mask.width),
      y: Math.min(Math.max(0, spot.y + down * step), mask.height),
    };
  } else {
    return;
  }
  event.preventDefault();
  showCursor(spot, Number(width.value));
}

function newStroke(erases) {
  const tool = document.querySelector("[name=tool]:checked").value;
  return { erases: erases || tool === "eraser", size: Number(width.value), points: [[spot.x, spot.y]] };
}

function remember(painted) {
  history.push(painted);
  redraw();
}

function undo() {
  if (history.length > 1) {
    history.pop();
    redraw();
  }
}

function redraw() {
  drawStrokes(mask, strokes());
  at("undo").disabled = history.length === 1;
  at("clear").disabled = strokes().length === 0;
  at("brush-width-value").value = `${width.value} px`;
  if (document.activeElement.disabled) {
    stage.focus(); // else the keyboard focus is lost
  }
}
