// Trail over the picture, and the plots. A point is {frame, t, x, y, score, source}; x is null where no ball is seen.

const TRAIL_S = 0.6;
const LINK_S = 0.15; // points farther apart are not joined

/** Index of the last point at or before `t`, or -1. */
export function indexAt(points, t) {
  let low = 0, high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].t <= t) low = middle + 1; else high = middle;
  }
  return low - 1;
}

/** Draw the ball at time `t` and where it came from; `context` spans the picture of size `wh`. */
export function drawTrail(context, wh, points, t) {
  const scale = Math.hypot(...wh) / 1469; // 1 at 720p
  const last = indexAt(points, t);
  let after = null;
  context.lineCap = "round";
  for (let i = last; i >= 0 && points[i].t > t - TRAIL_S; i--) {
    const point = points[i];
    if (point.x === null) continue;
    if (after && after.t - point.t < LINK_S) {
      context.strokeStyle = `rgba(255, 214, 10, ${Math.max(0, 1 - (t - point.t) / TRAIL_S)})`;
      context.lineWidth = 4 * scale;
      context.beginPath();
      context.moveTo(point.x + 0.5, point.y + 0.5); // (0, 0) is the centre of the first pixel
      context.lineTo(after.x + 0.5, after.y + 0.5);
      context.stroke();
    }
    after = point;
  }
  const now = points[last];
  if (now && now.x !== null) {
    context.strokeStyle = now.source === "filled" ? "#9ad1ff" : "#ff3b30";
    context.lineWidth = 3 * scale;
    context.beginPath();
    context.arc(now.x + 0.5, now.y + 0.5, 9 * scale, 0, 2 * Math.PI);
    context.stroke();
  }
}

/** Pixels per second at each point; null where the ball was not seen just before. */
export function speeds(points) {
  return points.map((point, i) => {
    const before = points[i - 1];
    if (!before || before.x === null || point.x === null || point.t - before.t > LINK_S || point.t <= before.t) return null;
    return Math.hypot(point.x - before.x, point.y - before.y) / (point.t - before.t);
  });
}

/** One series over time in `canvas`, with a line at time `now`; `span` is [from, to] in s. */
export function drawPlot(canvas, times, values, span, now) {
  const ratio = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const style = getComputedStyle(document.documentElement);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return;
  const pad = 8 * ratio;
  const place = (t) => ((t - span[0]) / Math.max(1e-6, span[1] - span[0])) * width;
  const level = (value) => height - pad - ((value - low) / Math.max(1e-6, high - low)) * (height - 2 * pad);
  context.strokeStyle = style.getPropertyValue("--mark");
  context.lineWidth = 1.5 * ratio;
  context.beginPath();
  let joined = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (values[i] === null) { joined = -Infinity; continue; }
    if (times[i] - joined < LINK_S) context.lineTo(place(times[i]), level(values[i]));
    else context.moveTo(place(times[i]), level(values[i]));
    joined = times[i];
  }
  context.stroke();
  context.fillStyle = style.getPropertyValue("--soft");
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.fillText(Math.round(high), 2 * ratio, 11 * ratio);
  context.fillText(Math.round(low), 2 * ratio, height - 2 * ratio);
  context.fillRect(place(now), 0, ratio, height);
}
