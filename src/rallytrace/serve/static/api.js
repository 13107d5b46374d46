// The server: whole videos as jobs, the webcam as a stream.

let key = "";
export const setKey = (text) => { key = text.trim(); };
const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** An error of the server, with its HTTP status. */
export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function checked(answer) {
  if (answer.ok) return answer;
  let message = `HTTP ${answer.status}`;
  try { message = (await answer.json()).error.message; } catch { /* not ours */ }
  throw new Refused(answer.status, message);
}

export const point = ([frame, t, x, y, score, source]) => ({ frame, t, x, y, score, source });

export async function models() {
  return (await (await checked(await fetch("v1/models", { headers: headers() }))).json()).models;
}

/** Send `file`; `onProgress(share, text)`. Resolves to the points. `signal` cancels, also on the server. */
export async function track(file, model, onProgress, signal) {
  const job = await upload(file, `v1/track?async=1&model=${encodeURIComponent(model)}`, onProgress, signal);
  const url = job.url.replace(/^\//, "");
  try {
    for (;;) {
      const state = await (await checked(await fetch(url, { headers: { ...headers(), Accept: "application/json" }, signal }))).json();
      if (state.status === "done") return state.points.map(point);
      if (state.error) throw new Refused(500, state.error.message ?? state.error);
      const total = state.frames_total;
      onProgress(total ? state.frames_done / total : null, `${state.frames_done} of ${total ?? "?"} frames tracked`);
      await new Promise((done) => setTimeout(done, 250));
    }
  } finally {
    fetch(url, { method: "DELETE", headers: headers(), keepalive: true }).catch(() => {});
  }
}

function upload(file, url, onProgress, signal) {
  return new Promise((resolve, reject) => { // fetch tells nothing of how far an upload is
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.responseType = "json";
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total, "sending the video");
    request.onload = () => {
      if (request.status < 300) resolve(request.response);
      else reject(new Refused(request.status, request.response?.error?.message ?? `HTTP ${request.status}`));
    };
    request.onerror = () => reject(new Error("the server cannot be reached"));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n >>> 0;
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

/** Frames of a live source. `onPoints(points)`, `onEnd(error or null)`. */
export class Stream {
  constructor(sourceWh, model, onPoints, onEnd) {
    this.index = this.next = this.window = 0;
    this.contentWh = null;
    this.socket = new WebSocket(new URL("v1/stream", location.href.replace(/^http/, "ws")));
    this.socket.onopen = () => this.say({ type: "start", protocol: 1, source_wh: sourceWh, model, live: true, codec: "jpeg", key: key || null });
    this.socket.onmessage = ({ data }) => this.hear(JSON.parse(data), onPoints);
    this.socket.onclose = () => onEnd(this.error ?? (this.done ? null : new Error("the connection is lost")));
  }

  say(message) { this.socket.send(JSON.stringify(message)); }

  hear(message, onPoints) {
    if (message.type === "started") [this.contentWh, this.window] = [message.content_wh, message.window];
    if (message.type === "error") this.error = new Refused(message.code === "unauthorized" ? 401 : 400, message.message);
    if (message.type === "done") { this.done = true; this.socket.close(1000); }
    if (message.type !== "points") return;
    this.next = Math.max(this.next, message.next);
    if (message.points.length) {
      onPoints(message.points.map(point));
      this.say({ type: "ack", points: message.points.at(-1)[0] + 1 });
    }
  }

  /** Whether a frame may be sent now; a picture that comes while not is left out. */
  get hasRoom() { return this.contentWh !== null && this.index - this.next < this.window && !this.ended; }

  send(t, jpeg) {
    const record = new Uint8Array(24 + jpeg.length), view = new DataView(record.buffer);
    record.set([0x52, 0x54, 0x46, 0x31]); // RTF1
    view.setUint32(4, crc32(jpeg), true);
    view.setBigUint64(8, BigInt(this.index++), true);
    view.setFloat64(16, t, true);
    record.set(jpeg, 24);
    this.socket.send(record);
  }

  end() {
    this.ended = true;
    if (this.socket.readyState === WebSocket.OPEN && this.contentWh) this.say({ type: "end" });
    else this.socket.close();
  }
}
