/** The strokes of a mask, {erases, size, points} in pixels of the picture: draw them, and make a mask of them. */

const COLOR = "rgb(255 40 110)";
const VISIBLE = 0.55; // the opacity of the mask over the picture

/** Draw a stroke; `from` skips the points that are drawn already. */
export function drawStroke(context, { erases, size, points }, from = 0) {
  context.globalCompositeOperation = erases ? "destination-out" : "source-over";
  Object.assign(context, { fillStyle: COLOR, strokeStyle: COLOR, lineWidth: size, lineCap: "round", lineJoin: "round" });
  const [x, y] = points[Math.max(0, from - 1)];
  context.beginPath();
  if (points.length === 1) {
    context.arc(x, y, size / 2, 0, 2 * Math.PI);
    context.fill();
    return;
  }
  context.moveTo(x, y);
  for (const point of points.slice(Math.max(1, from))) {
    context.lineTo(...point);
  }
  context.stroke();
}

/** Draw strokes on a clear canvas. */
export function drawStrokes(canvas, strokes) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (const stroke of strokes) {
    drawStroke(context, stroke);
  }
}

/** Draw the picture, and the mask over it if there are strokes; the canvas becomes as large as `size`. */
export function drawSheet(canvas, { bitmap, strokes }, sides, size) {
  Object.assign(canvas, { width: size.width, height: size.height });
  const context = canvas.getContext("2d");
  context.scale(
    size.width / (bitmap.width + sides.left + sides.right),
    size.height / (bitmap.height + sides.top + sides.bottom),
  );
  context.drawImage(bitmap, sides.left, sides.top);
  if (strokes.length > 0) {
    context.globalAlpha = VISIBLE;
    context.drawImage(painted(bitmap, strokes), sides.left, sides.top);
  }
}

/** Return whether the eraser left a part of the strokes. */
export function isPainted({ width, height }, strokes) {
  const { data } = painted({ width, height }, strokes).getContext("2d").getImageData(0, 0, width, height);
  return data.some((value) => value > 0);
}

/** Return a PNG of the picture's size as a data URL, white where the strokes are, and black elsewhere. */
export function maskOf(bitmap, strokes) {
  const canvas = painted(bitmap, strokes);
  const context = canvas.getContext("2d");
  const whole = [0, 0, canvas.width, canvas.height];
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "white";
  context.fillRect(...whole);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "black";
  context.fillRect(...whole);
  return canvas.toDataURL("image/png");
}

function painted({ width, height }, strokes) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  drawStrokes(canvas, strokes);
  return canvas;
}
