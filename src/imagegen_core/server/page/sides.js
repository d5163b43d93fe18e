/** Sides in pixels around a picture, and the sizes that follow from them. */

export const SIDES = ["left", "top", "right", "bottom"];
export const NO_SIDES = Object.freeze({ left: 0, top: 0, right: 0, bottom: 0 });

const MULTIPLE = 8;
const MOST_ADDED = 4096; // pixels, as the server allows
const MOST_PIXELS = 2 ** 21; // larger pictures, such as photographs, are drawn at this size at most

export function hasSides(sides) {
  return SIDES.some((name) => sides[name] > 0);
}

/** Return the nearest side that the server takes; `multiple` rounds it. */
export function sideOf(pixels, multiple = 1) {
  return Math.min(Math.max(0, Math.round((Number(pixels) || 0) / multiple) * multiple), MOST_ADDED);
}

/** Return a picture's width and height with sides around it. */
export function grown({ width, height }, { left, top, right, bottom }) {
  return { width: width + left + right, height: height + top + bottom };
}

/** Add the pixels that the server adds, so that both sums are multiples of 8. */
export function fitted({ width, height }, sides) {
  if (!hasSides(sides)) {
    return sides;
  }
  const [left, right] = pair(width, sides.left, sides.right);
  const [top, bottom] = pair(height, sides.top, sides.bottom);
  return { left, top, right, bottom };
}

/** Return the size to draw, such as "192x128", for a picture with these sides. */
export function sizeOf(picture, sides) {
  const { width, height } = grown(picture, fitted(picture, sides));
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const down = (side) => Math.max(MULTIPLE, Math.floor((side * scale) / MULTIPLE) * MULTIPLE);
  return `${down(width)}x${down(height)}`;
}

function pair(side, before, after) {
  const missing = (MULTIPLE - ((side + before + after) % MULTIPLE)) % MULTIPLE;
  return before && !after ? [before + missing, after] : [before, after + missing];
}
