// A video or the webcam on the stage, the ball over it, plots below.

import { Refused, Stream, models, setKey, track } from "./api.js";
import { drawPlot, drawTrail, speeds } from "./draw.js";

const $ = (id) => document.getElementById(id);
const video = $("video"), overlay = $("overlay");
const LIVE_S = 10; // seconds of a live source in the plots

let points = []; // of what is on the stage
let name = "trajectory";
let live = null; // the webcam's stream
let abort = null;
let now = 0; // time of the picture on the stage

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

function fail(error) {
  if (error.name === "AbortError") return say("stopped");
  if (error instanceof Refused && error.status === 401) $("key-label").hidden = false;
  say(error.message, true);
}

function show(...ids) {
  for (const id of ["camera", "stop", "another", "save-csv", "save-video", "progress", "drop", "video", "overlay", "plots"]) {
    $(id).hidden = !ids.includes(id);
  }
}

/** Lay the overlay exactly over the picture inside the video element. */
function fit() {
  const { videoWidth: w, videoHeight: h, clientWidth: cw, clientHeight: ch } = video;
  if (!w) return;
  const scale = Math.min(cw / w, ch / h);
  Object.assign(overlay.style, {
    left: `${(cw - w * scale) / 2}px`, top: `${(ch - h * scale) / 2}px`, width: `${w * scale}px`, height: `${h * scale}px`,
  });
  if (overlay.width !== w || overlay.height !== h) [overlay.width, overlay.height] = [w, h];
}

function draw() {
  fit();
  const wh = [overlay.width, overlay.height], context = overlay.getContext("2d");
  context.clearRect(0, 0, ...wh);
  drawTrail(context, wh, points, live && points.length ? points.at(-1).t : now + 1e-4);
  if ($("plots").hidden) return;
  const shown = live ? points.slice(-LIVE_S * 60) : points;
  const end = shown.length ? shown.at(-1).t : 1;
  const span = live ? [end - LIVE_S, end] : [shown[0]?.t ?? 0, end];
  const times = shown.map((p) => p.t);
  drawPlot($("plot-x"), times, shown.map((p) => p.x), span, live ? end : now);
  drawPlot($("plot-y"), times, shown.map((p) => p.y), span, live ? end : now);
  drawPlot($("plot-speed"), times, speeds(shown), span, live ? end : now);
}

/** Calls `work(time)` for each picture that the stage shows, until `work` returns false. */
function eachPicture(work) {
  const next = (_, { mediaTime }) => { if (work(mediaTime) !== false) video.requestVideoFrameCallback(next); };
  video.requestVideoFrameCallback(next);
}

async function openFile(file) {
  name = file.name.replace(/\.[^.]*$/, "") || "trajectory";
  points = [];
  abort = new AbortController();
  show("video", "overlay", "progress", "stop");
  video.srcObject = null;
  video.src = URL.createObjectURL(file);
  video.controls = true;
  try {
    const told = (share, text) => {
      if (share === null) $("progress").removeAttribute("value"); else $("progress").value = share;
      say(text);
    };
    points = await track(file, $("model").value, told, abort.signal);
    const found = points.filter((p) => p.x !== null).length;
    say(`ball found in ${found} of ${points.length} frames`);
    show("video", "overlay", "plots", "save-csv", "save-video", "another", "camera");
    draw();
    video.play().catch(() => {});
  } catch (error) {
    fail(error);
    show("drop", "camera");
  }
}

async function openCamera() {
  try {
    const source = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } } });
    name = "webcam";
    points = [];
    video.removeAttribute("src");
    video.srcObject = source;
    video.controls = false;
    show("video", "overlay", "plots", "stop");
    await video.play();
    const pictures = document.createElement("canvas");
    let busy = false;
    const stream = (live = new Stream([video.videoWidth, video.videoHeight], $("model").value, take, end));
    function take(fresh) {
      points.push(...fresh);
      const last = points.at(-1);
      say(`${points.length} frames, ${last.x === null ? "no ball" : `ball at ${last.x.toFixed(0)}, ${last.y.toFixed(0)}`}`);
      draw();
    }
    function end(error) {
      for (const part of source.getTracks()) part.stop();
      live = null;
      if (error) fail(error); else say(`${points.length} frames, stopped`);
      show("video", "plots", "another", "camera", ...(points.length ? ["save-csv"] : []));
    }
    eachPicture((t) => {
      if (live !== stream || stream.ended) return false;
      if (busy || !stream.hasRoom) return true;
      busy = true;
      [pictures.width, pictures.height] = stream.contentWh;
      pictures.getContext("2d").drawImage(video, 0, 0, pictures.width, pictures.height);
      pictures.toBlob(async (blob) => {
        const jpeg = new Uint8Array(await blob.arrayBuffer());
        if (!stream.ended && stream.socket.readyState === WebSocket.OPEN) stream.send(t, jpeg);
        busy = false;
      }, "image/jpeg", 0.85);
      return true;
    });
  } catch (error) {
    fail(error.name === "NotAllowedError" ? new Error("the browser does not allow the webcam") : error);
  }
}

/** The CSV that `rallytrace track` writes. */
function csv() {
  const pad = (value, width) => String(value).padStart(width, "0");
  const rows = points.map(({ frame, t, x, y, score, source }) => {
    const ms = Math.round(Math.abs(t) * 1000);
    const time = `${t < 0 && ms ? "-" : ""}${pad(Math.floor(ms / 3.6e6), 2)}:${pad(Math.floor(ms / 6e4) % 60, 2)}:${pad(Math.floor(ms / 1000) % 60, 2)}.${pad(ms % 1000, 3)}`;
    return [frame, x === null ? 0 : 1, (x ?? 0).toFixed(2), (y ?? 0).toFixed(2), time, score.toFixed(4), source].join();
  });
  return ["Frame,Visibility,X,Y,Time,Score,Source", ...rows, ""].join("\n");
}

function save(blob, file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Plays the video once and records it with the trail: as long as the video, and as smooth as this machine plays it. */
async function saveVideo() {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const recorder = new MediaRecorder(canvas.captureStream(), { mimeType: "video/webm", videoBitsPerSecond: 12e6 });
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    save(new Blob(parts, { type: "video/webm" }), `${name}.tracked.webm`);
    show("video", "overlay", "plots", "save-csv", "save-video", "another", "camera");
    say("video recorded");
  };
  video.pause();
  video.currentTime = 0;
  await new Promise((done) => video.addEventListener("seeked", done, { once: true }));
  show("video", "overlay", "plots");
  say("recording: the video plays once");
  recorder.start();
  eachPicture((t) => {
    context.drawImage(video, 0, 0);
    drawTrail(context, [canvas.width, canvas.height], points, t + 1e-4);
    return recorder.state === "recording";
  });
  video.addEventListener("ended", () => recorder.stop(), { once: true });
  await video.play();
}

async function listModels() {
  try {
    const options = (await models()).map((model) => new Option(model.name, model.name, model.default, model.default));
    $("model").replaceChildren(...options);
    $("key-label").hidden = $("key").value === "";
    say("");
  } catch (error) {
    fail(error);
  }
}

$("options").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("change", () => { setKey($("key").value); listModels(); });
$("file").addEventListener("change", () => { if ($("file").files[0]) openFile($("file").files[0]); $("file").value = ""; });
$("camera").addEventListener("click", openCamera);
$("stop").addEventListener("click", () => { if (live) live.end(); else abort?.abort(); });
$("another").addEventListener("click", () => { video.pause(); say(""); show("drop", "camera"); });
$("save-csv").addEventListener("click", () => save(new Blob([csv()], { type: "text/csv" }), `${name}.csv`));
$("save-video").addEventListener("click", () => saveVideo().catch(fail));
for (const id of ["plot-x", "plot-y", "plot-speed"]) {
  $(id).addEventListener("click", (event) => {
    if (live || !points.length) return;
    const share = event.offsetX / event.target.clientWidth;
    video.currentTime = points[0].t + share * (points.at(-1).t - points[0].t);
  });
}
$("stage").addEventListener("dragover", (event) => { event.preventDefault(); $("stage").classList.add("over"); });
$("stage").addEventListener("dragleave", () => $("stage").classList.remove("over"));
$("stage").addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file && !$("drop").hidden) openFile(file);
});
addEventListener("resize", draw);
eachPicture((t) => { if (!live) { now = t; draw(); } });
listModels();
