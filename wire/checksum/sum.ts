/**
 * The Internet checksum's sum (RFC 1071) with SIMD. AssemblyScript, compiled to `wasm.ts` by
 * `npm run build:wasm`; neither tsc nor the linter reads this file.
 *
 * The bytes are added as little-endian 16-bit words, whatever the alignment of `at`, and the result is
 * byte-swapped once at the end: RFC 1071 section 2 (B), the sum does not depend on the byte order.
 * A lane of `wide` holds at most 2 x 65535 a step, so the four lanes of one accumulator are good for
 * 32767 steps of 16 bytes; `length` below 512 KiB never overflows them.
 *
 * @param initial  sum so far, any uint32 (several unfolded words may be added up in it)
 * @returns        the folded sum, 0..0xffff, in network order's value and not inverted; it is 0 only
 *                 if every byte and `initial` are 0
 */
export function sum(at: u32, length: u32, initial: u32): u32 {
  const end = at + length;
  let wide = i32x4.splat(0);
  if (length >= 64) {
    let second = i32x4.splat(0);
    const unrolledEnd = end - 63;
    do {
      wide = i32x4.add(wide, i32x4.extadd_pairwise_i16x8_u(v128.load(at)));
      second = i32x4.add(second, i32x4.extadd_pairwise_i16x8_u(v128.load(at, 16)));
      wide = i32x4.add(wide, i32x4.extadd_pairwise_i16x8_u(v128.load(at, 32)));
      second = i32x4.add(second, i32x4.extadd_pairwise_i16x8_u(v128.load(at, 48)));
      at += 64;
    } while (at < unrolledEnd);
    wide = i32x4.add(wide, second);
  }
  while (end - at >= 16) {
    wide = i32x4.add(wide, i32x4.extadd_pairwise_i16x8_u(v128.load(at)));
    at += 16;
  }
  let total: u64 =
    <u64>(<u32>i32x4.extract_lane(wide, 0)) +
    <u64>(<u32>i32x4.extract_lane(wide, 1)) +
    <u64>(<u32>i32x4.extract_lane(wide, 2)) +
    <u64>(<u32>i32x4.extract_lane(wide, 3));
  // A 32-bit word is its two 16-bit words, as 2^16 is 1 modulo 2^16 - 1.
  const rest = end - at;
  if (rest & 8) {
    total += <u64>load<u32>(at) + <u64>load<u32>(at, 4);
    at += 8;
  }
  if (rest & 4) {
    total += <u64>load<u32>(at);
    at += 4;
  }
  if (rest & 2) {
    total += <u64>load<u16>(at);
    at += 2;
  }
  // An odd last byte is padded with a zero byte behind it, so it is the low byte here.
  if (rest & 1) total += <u64>load<u8>(at);

  total = (total & 0xffffffff) + (total >> 32);
  total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
  let folded = <u32>total;
  folded = (folded & 0xffff) + (folded >> 16);
  folded = (folded & 0xffff) + (folded >> 16);
  folded = ((folded & 0xff) << 8) | (folded >> 8);
  folded += (initial & 0xffff) + (initial >> 16);
  folded = (folded & 0xffff) + (folded >> 16);
  return (folded & 0xffff) + (folded >> 16);
}
