/** The dialog in which a mask is painted and sides are added around the picture. */

import { SIDES, fitted, grown, sideOf } from "./sides.js";
import { drawStroke, drawStrokes } from "./strokes.js";

const MARGIN = 44; // pixels around the picture, to drag its edges outwards
const SNAP = 8;
const PEN_ERASER = 5; // the button of a pen's other end
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const at = (id) => document.getElementById(id);
const [dialog, stage, sheet, layer, mask, cursor] = ["editor", "stage", "sheet", "layer", "mask", "cursor"].map(at);
const width = at("brush-width");

let bitmap = null;
let history = []; // of lists of strokes, the last is shown
let stroke = null;
let sides = {};
let spot = { x: 0, y: 0 }; // of the brush, in pixels of the picture
let view = { scale: 1, x: 0, y: 0 }; // of the picture on the stage

/** Let the user edit an input; return its new strokes and sides. */
export function edit(input) {
  ({ bitmap, sides } = input);
  history = [input.strokes];
  spot = { x: bitmap.width / 2, y: bitmap.height / 2 };
  for (const canvas of [at("shown"), mask]) {
    Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  }
  at("shown").getContext("2d").drawImage(bitmap, 0, 0);
  const longer = Math.max(bitmap.width, bitmap.height);
  Object.assign(width, { max: Math.ceil(longer / 2), value: Math.ceil(longer / 10) });
  cursor.hidden = true;
  dialog.showModal();
  fit();
  redraw();
  showSides();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve({ strokes: history.at(-1), sides }), { once: true });
  });
}

export function prepare() {
  stage.addEventListener("pointerdown", begin);
  stage.addEventListener("pointermove", follow);
  stage.addEventListener("pointerleave", () => (cursor.hidden = true));
  stage.addEventListener("keydown", paintByKey);
  stage.addEventListener("blur", () => (cursor.hidden = true));
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, end);
  }
  width.addEventListener("input", redraw);
  at("undo").addEventListener("click", undo);
  at("clear").addEventListener("click", () => remember([]));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "z" && (event.ctrlKey || event.metaKey) && event.target.type !== "number") {
      event.preventDefault();
      undo();
    }
  });
  for (const name of SIDES) {
    at(`side-${name}`).addEventListener("input", ({ target }) => grow(name, sideOf(target.value), target));
    prepareHandle(sheet.querySelector(`[data-side="${name}"]`), name);
  }
  new ResizeObserver(() => dialog.open && fit()).observe(stage);
}

/* The mask */

function begin(event) {
  if (!event.isPrimary || ![0, PEN_ERASER].includes(event.button)) {
    return;
  }
  stage.setPointerCapture(event.pointerId);
  spot = place(event);
  stroke = newStroke(event.button === PEN_ERASER);
  drawStroke(mask.getContext("2d"), stroke);
}

function follow(event) {
  if (event.target.matches(".handle")) {
    cursor.hidden = true;
    return;
  }
  spot = place(event);
  showCursor();
  if (!stroke || !event.isPrimary) {
    return;
  }
  const from = stroke.points.length;
  for (const { x, y } of [...event.getCoalescedEvents(), event].map(place)) {
    stroke.points.push([x, y]);
  }
  drawStroke(mask.getContext("2d"), stroke, from);
}

function end(event) {
  if (stroke && event.isPrimary) {
    remember([...history.at(-1), stroke]);
    stroke = null;
  }
}

function paintByKey(event) {
  const [right, down] = KEYS[event.key] ?? [0, 0];
  if (event.key === " ") {
    remember([...history.at(-1), newStroke(false)]);
  } else if (right || down) {
    const step = Math.max(1, Number(width.value) / 2);
    spot = {
      x: Math.min(Math.max(0, spot.x + right * step), bitmap.width),
      y: Math.min(Math.max(0, spot.y + down * step), bitmap.height),
    };
  } else {
    return;
  }
  event.preventDefault();
  showCursor();
}

function newStroke(erases) {
  const tool = dialog.querySelector("[name=tool]:checked").value;
  return { erases: erases || tool === "eraser", size: Number(width.value), points: [[spot.x, spot.y]] };
}

function remember(strokes) {
  history.push(strokes);
  redraw();
}

function undo() {
  if (history.length > 1) {
    history.pop();
    redraw();
  }
}

function redraw() {
  drawStrokes(mask, history.at(-1));
  at("undo").disabled = history.length === 1;
  at("clear").disabled = history.at(-1).length === 0;
  if (document.activeElement.disabled) {
    stage.focus(); // else the keyboard focus is lost
  }
  at("brush-width-value").value = `${width.value} px`;
}

/* The sides */

function prepareHandle(handle, name) {
  const axis = ["left", "right"].includes(name) ? "clientX" : "clientY";
  const outwards = ["left", "top"].includes(name) ? -1 : 1;
  let grab = null;
  handle.addEventListener("pointerdown", (event) => {
    event.stopPropagation(); // else the stage paints
    handle.setPointerCapture(event.pointerId);
    grab = { start: event[axis], before: sides[name] };
  });
  handle.addEventListener("pointermove", (event) => {
    if (grab) {
      const added = (outwards * (event[axis] - grab.start)) / view.scale;
      grow(name, sideOf(grab.before + added, SNAP));
    }
  });
  for (const ended of ["pointerup", "pointercancel"]) {
    handle.addEventListener(ended, () => {
      grab = null;
      fit();
    });
  }
}

/** Change a side; after typing, the picture is fitted into the stage, and while dragging it stays where it is. */
function grow(name, pixels, typed = null) {
  sides = { ...sides, [name]: pixels };
  if (typed) {
    fit();
  } else {
    lay();
  }
  showSides(typed);
}

function showSides(typed = null) {
  for (const name of SIDES) {
    const field = at(`side-${name}`);
    if (field !== typed) {
      field.value = sides[name];
    }
  }
  const { width, height } = grown(bitmap, fitted(bitmap, sides));
  at("grown").value = `${width}x${height} in all`;
}

/* The view */

function fit() {
  const { width, height } = grown(bitmap, sides);
  const free = { width: stage.clientWidth - 2 * MARGIN, height: stage.clientHeight - 2 * MARGIN };
  const scale = Math.min(free.width / width, free.height / height);
  view = {
    scale,
    x: (stage.clientWidth - width * scale) / 2 + sides.left * scale,
    y: (stage.clientHeight - height * scale) / 2 + sides.top * scale,
  };
  lay();
}

function lay() {
  const { scale, x, y } = view;
  const { width, height } = grown(bitmap, sides);
  move(sheet, x - sides.left * scale, y - sides.top * scale, width * scale, height * scale);
  move(layer, sides.left * scale, sides.top * scale, bitmap.width * scale, bitmap.height * scale);
}

function showCursor() {
  const diameter = Number(width.value) * view.scale;
  move(cursor, view.x + spot.x * view.scale, view.y + spot.y * view.scale, diameter, diameter);
  cursor.hidden = false;
}

function move(element, left, top, width, height) {
  Object.assign(element.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
}

/** Return an event's place in pixels of the picture. */
function place({ clientX, clientY }) {
  const { left, top } = layer.getBoundingClientRect();
  return { x: (clientX - left) / view.scale, y: (clientY - top) / view.scale };
}
