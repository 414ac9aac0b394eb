/**
 * The hash of a tuple: HalfSipHash-1-3 as Linux's hash tables use it, its whole state keyed. Who does not
 * know the key cannot choose tuples that share a chain.
 * Runs per packet: no await, no allocation, no throw.
 */

/** Rounds after the last word. */
const FINAL_ROUNDS = 3;

export interface FlowHash {
  /** @param kind  protocol | family << 8; @returns int32 */
  readonly ofTuple4: (source: number, destination: number, ports: number, kind: number) => number;
  /** @param words  source (4), destination (4), ports, kind */
  readonly ofTuple6: (words: Int32Array) => number;
}

const WORDS4 = 4;
const WORDS6 = 10;

/** @param key  four words that nobody outside knows */
export function createFlowHash(key: Int32Array): FlowHash {
  const [key0, key1, key2, key3] = [key[0]!, key[1]!, key[2]!, key[3]!];

  function ofTuple4(source: number, destination: number, ports: number, kind: number): number {
    let v0 = key0;
    let v1 = key1;
    let v2 = key2;
    let v3 = key3;
    for (let i = 0; i < WORDS4 + FINAL_ROUNDS; i++) {
      const word = i === 0 ? source : i === 1 ? destination : i === 2 ? ports : i === 3 ? kind : 0;
      if (i === WORDS4) v2 ^= 0xff;
      v3 ^= word;
      v0 = (v0 + v1) | 0;
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
      v0 = (v0 << 16) | (v0 >>> 16);
      v2 = (v2 + v3) | 0;
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
      v0 = (v0 + v3) | 0;
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
      v2 = (v2 + v1) | 0;
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
      v2 = (v2 << 16) | (v2 >>> 16);
      v0 ^= word;
    }
    return v1 ^ v3;
  }

  function ofTuple6(words: Int32Array): number {
    let v0 = key0;
    let v1 = key1;
    let v2 = key2;
    let v3 = key3;
    for (let i = 0; i < WORDS6 + FINAL_ROUNDS; i++) {
      const word = i < WORDS6 ? words[i]! : 0;
      if (i === WORDS6) v2 ^= 0xff;
      v3 ^= word;
      v0 = (v0 + v1) | 0;
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
      v0 = (v0 << 16) | (v0 >>> 16);
      v2 = (v2 + v3) | 0;
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
      v0 = (v0 + v3) | 0;
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
      v2 = (v2 + v1) | 0;
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
      v2 = (v2 << 16) | (v2 >>> 16);
      v0 ^= word;
    }
    return v1 ^ v3;
  }

  return { ofTuple4, ofTuple6 };
}
