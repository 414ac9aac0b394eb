/**
 * The part of the WebAssembly interface that Weft uses. TypeScript has it only in its "dom" library,
 * which would let browser names into every file.
 */
declare namespace WebAssembly {
  interface MemoryDescriptor {
    /** In pages of 64 KiB. */
    initial: number;
    /** In pages; at most 65536. A shared memory must have one. */
    maximum?: number;
    shared?: boolean;
  }
  class Memory {
    constructor(descriptor: MemoryDescriptor);
    /** A SharedArrayBuffer, as every memory of ours is shared. */
    readonly buffer: SharedArrayBuffer;
  }
  /** @throws CompileError */
  const Module: new (bytes: Uint8Array) => object;
  class Instance {
    /** @throws LinkError if an import does not fit its declaration */
    constructor(
      module: Module,
      imports: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
    );
    readonly exports: Readonly<Record<string, unknown>>;
  }
  class LinkError extends Error {}
}
