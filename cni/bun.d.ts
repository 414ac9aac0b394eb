/** The part of Bun that the plugin uses: the rest of the project runs on Node.js. */
declare namespace Bun {
  const stdin: {
    /** A pipe is not read (much) beyond `end`. */
    slice(start: number, end: number): { bytes(): Promise<Uint8Array> };
  };
  const stderr: object;
  function write(to: object, text: string): Promise<number>;
  function fetch(
    url: string,
    init: {
      /** Path of the socket to connect to; the URL's host is only what the request calls it. */
      readonly unix: string;
      readonly method: string;
      readonly headers: Readonly<Record<string, string>>;
      readonly body: string;
      readonly redirect: 'error';
      readonly signal: AbortSignal;
    },
  ): Promise<Response>;
  /** @throws when the program cannot be started */
  function spawnSync(
    argv: readonly string[],
    options: {
      readonly stdin: 'ignore';
      readonly env: Readonly<Record<string, string | undefined>>;
      /** In milliseconds. */
      readonly timeout: number;
    },
  ): {
    readonly stdout: Uint8Array;
    readonly stderr: Uint8Array;
    /** Null: a signal ended it. */
    readonly exitCode: number | null;
  };
}
