/**
 * Tables in memory that workers read in place: a publication of megabytes then costs one copy, and no
 * worker gets garbage from it.
 *
 *     part (numbers, texts, typed arrays)  ->  one SharedArrayBuffer, the arrays one after another
 *
 * A buffer is written again only when every worker has installed a generation in which it had no place
 * any more: until then one of them may be reading it.
 */

/** Each array begins on a cache line of its own. */
const LINE_BYTES = 64;
const BUFFER_BYTES_MIN = 4096;
/** So many free buffers are kept for later; more are given back. */
const SPARE_BUFFERS = 4;

type TypedArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float64Array
  | BigUint64Array;

interface Place {
  readonly buffer: SharedArrayBuffer;
  /** The last generation that it was part of; Infinity while it still is. */
  lastIn: number;
}

interface Placed {
  readonly part: object;
  readonly copy: object;
  readonly place: Place;
}

export interface SharedParts {
  /**
   * The same part with its typed arrays in shared memory. The very object of last time, under the same
   * name, is not copied again. What was there under this name has its last moment in generation - 1.
   * @param generation  in which it is published; never falls
   */
  readonly place: <T extends object>(name: string, part: T, generation: number) => T;
  /** Of all buffers, in use and spare. */
  readonly bytes: () => number;
}

/** @param installed  the generation that the slowest worker has installed, or a later one */
export function createSharedParts(installed: () => number): SharedParts {
  const current = new Map<string, Placed>();
  let places: Place[] = [];

  function take(bytes: number): Place {
    const least = installed();
    const free = places
      .filter((it) => it.lastIn < least)
      .toSorted((a, b) => a.buffer.byteLength - b.buffer.byteLength);
    const fitting = free.find((it) => it.buffer.byteLength >= bytes);
    if (fitting !== undefined) {
      fitting.lastIn = Infinity;
      return fitting;
    }
    // Small ones would be passed over again and again.
    const dropped = new Set(free.slice(0, Math.max(free.length - SPARE_BUFFERS, 0)));
    places = places.filter((it) => !dropped.has(it));
    const room = 2 ** Math.ceil(Math.log2(Math.max(bytes, BUFFER_BYTES_MIN)));
    const place = { buffer: new SharedArrayBuffer(room), lastIn: Infinity };
    places.push(place);
    return place;
  }

  return {
    place: (name, part, generation) => {
      const last = current.get(name);
      if (last?.part === part) return last.copy as typeof part;
      if (last !== undefined) last.place.lastIn = generation - 1;
      const entries = Object.entries(part) as [string, unknown][];
      const bytes = entries.reduce(
        (sum, [, value]) => sum + (isTypedArray(value) ? lined(value.byteLength) : 0),
        0,
      );
      const place = take(bytes);
      let at = 0;
      const copy = Object.fromEntries(
        entries.map(([key, value]) => {
          if (!isTypedArray(value)) return [key, value];
          const view = viewLike(value, place.buffer, at);
          at += lined(value.byteLength);
          return [key, view];
        }),
      );
      current.set(name, { part, copy, place });
      return copy as typeof part;
    },
    bytes: () => places.reduce((sum, it) => sum + it.buffer.byteLength, 0),
  };
}

const lined = (bytes: number): number => Math.ceil(bytes / LINE_BYTES) * LINE_BYTES;

const isTypedArray = (value: unknown): value is TypedArray =>
  ArrayBuffer.isView(value) && !(value instanceof DataView);

/** The same elements at `at` of the buffer. */
function viewLike(array: TypedArray, buffer: SharedArrayBuffer, at: number): TypedArray {
  const of = array.constructor as new (
    buffer: SharedArrayBuffer,
    at: number,
    length: number,
  ) => TypedArray;
  const from = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  new Uint8Array(buffer, at, array.byteLength).set(from);
  return new of(buffer, at, array.length);
}
