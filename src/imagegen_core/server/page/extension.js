/** The editor's sides around the picture: edges to drag, and number fields. */

import { SIDES, fitted, grown, sideOf } from "./sides.js";
import { extend, fit, inPicture } from "./stage.js";

const SNAP = 8; // pixels

const field = (name) => document.getElementById(`side-${name}`);
let size = null; // of the picture
let around = {};

export function begin({ width, height }, given) {
  size = { width, height };
  around = given;
  show();
}

export function sides() {
  return around;
}

export function prepare() {
  for (const name of SIDES) {
    field(name).addEventListener("input", ({ target }) => {
      change(name, sideOf(target.value), target);
      fit();
    });
    prepareHandle(document.querySelector(`.handle[data-side="${name}"]`), name);
  }
}

function prepareHandle(handle, name) {
  const axis = ["left", "right"].includes(name) ? "clientX" : "clientY";
  const outwards = ["left", "top"].includes(name) ? -1 : 1;
  let grip = null;
  handle.addEventListener("pointerdown", (event) => {
    event.stopPropagation(); // else the stage paints
    handle.setPointerCapture(event.pointerId);
    grip = { start: event[axis], before: around[name] };
  });
  handle.addEventListener("pointermove", (event) => {
    if (grip) {
      change(name, sideOf(grip.before + outwards * inPicture(event[axis] - grip.start), SNAP));
    }
  });
  for (const ended of ["pointerup", "pointercancel"]) {
    handle.addEventListener(ended, () => {
      grip = null;
      fit();
    });
  }
}

function change(name, pixels, typed = null) {
  around = { ...around, [name]: pixels };
  extend(around);
  show(typed);
}

/** Show the sides in their fields, but not in the field in which the user types. */
function show(typed = null) {
  for (const name of SIDES) {
    if (field(name) !== typed) {
      field(name).value = around[name];
    }
  }
  const { width, height } = grown(size, fitted(size, around));
  document.getElementById("grown").value = `${width}x${height} in all`;
}
