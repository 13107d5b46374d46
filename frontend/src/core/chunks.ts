/** The chunk stream: per frame its index and the JPEG's length, both u32 little-endian, then the JPEG. */

export interface Jpeg { index: number; blob: Blob }

const HEADER = 8;
const MAX_JPEG = 64 * 1024 * 1024;

/** Takes the bytes as they arrive, gives each picture as soon as it is whole. */
export class ChunkParser {
  #rest = new Uint8Array(0);

  push(bytes: Uint8Array): Jpeg[] {
    const all = new Uint8Array(this.#rest.length + bytes.length);
    all.set(this.#rest);
    all.set(bytes, this.#rest.length);
    const view = new DataView(all.buffer);
    const found: Jpeg[] = [];
    let at = 0;
    while (at + HEADER <= all.length) {
      const length = view.getUint32(at + 4, true);
      if (length > MAX_JPEG) throw new Error(`a frame of ${length} bytes: the stream is damaged`);
      if (at + HEADER + length > all.length) break;
      const jpeg = all.subarray(at + HEADER, at + HEADER + length);
      found.push({ index: view.getUint32(at, true), blob: new Blob([jpeg], { type: "image/jpeg" }) });
      at += HEADER + length;
    }
    this.#rest = all.slice(at);
    return found;
  }
}
