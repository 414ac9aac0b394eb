/**
 * A container image from one program of this machine, busybox, as the tar of an OCI image layout (image-spec
 * 1.0: image-layout.md, manifest.md, config.md). No registry is asked.
 */
import { createHash } from 'node:crypto';

const BLOCK_BYTES = 512;
const REGULAR = '0';
const SYMLINK = '2';
const DIRECTORY = '5';

interface Entry {
  readonly path: string;
  readonly type: typeof REGULAR | typeof SYMLINK | typeof DIRECTORY;
  readonly content?: Uint8Array;
  /** Of a symbolic link. */
  readonly target?: string;
}

/** One header of POSIX.1-1988 ustar. */
function header({ path, type, content, target = '' }: Entry): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, at: number, bytes: number): void => {
    block.write(value.toString(8).padStart(bytes - 1, '0'), at, 'latin1');
  };
  block.write(path, 0, 100, 'latin1');
  octal(type === REGULAR && !path.startsWith('bin/') ? 0o644 : 0o755, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(content?.byteLength ?? 0, 124, 12);
  octal(0, 136, 12);
  block.write(type, 156, 'latin1');
  block.write(target, 157, 100, 'latin1');
  block.write('ustar\u000000', 257, 'latin1');
  // The sum counts itself as spaces.
  block.fill(' ', 148, 156);
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return block;
}

function tar(entries: readonly Entry[]): Buffer {
  const parts = entries.flatMap((entry) => {
    const { content = new Uint8Array() } = entry;
    return [header(entry), content, Buffer.alloc(-content.byteLength & (BLOCK_BYTES - 1))];
  });
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK_BYTES)]);
}

const directory = (path: string): Entry => ({ path, type: DIRECTORY });
const file = (path: string, content: Uint8Array): Entry => ({ path, type: REGULAR, content });
const json = (value: object): Buffer => Buffer.from(JSON.stringify(value));

interface Blob {
  readonly digest: string;
  readonly bytes: Uint8Array;
}

const blob = (bytes: Uint8Array): Blob => ({
  digest: createHash('sha256').update(bytes).digest('hex'),
  bytes,
});

/** How one blob names another. */
const descriptor = (mediaType: string, { digest, bytes }: Blob): object => ({
  mediaType,
  digest: `sha256:${digest}`,
  size: bytes.byteLength,
});

/**
 * @param name     such as `localhost/busybox:lab`
 * @param busybox  the program, linked statically
 * @param applets  names by which it is called
 * @returns what `ctr images import` reads
 */
export function busyboxImage(
  name: string,
  busybox: Uint8Array,
  applets: readonly string[],
): Uint8Array {
  const layer = blob(
    tar([
      ...['bin', 'dev', 'etc', 'proc', 'sys', 'tmp', 'www'].map((it) => directory(`${it}/`)),
      file('bin/busybox', busybox),
      ...applets.map((it): Entry => ({ path: `bin/${it}`, type: SYMLINK, target: 'busybox' })),
    ]),
  );
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  const config = blob(
    json({
      architecture,
      os: 'linux',
      config: { Env: ['PATH=/bin'], Cmd: ['sh'] },
      rootfs: { type: 'layers', diff_ids: [`sha256:${layer.digest}`] },
    }),
  );
  const type = (what: string): string => `application/vnd.oci.image.${what}`;
  const manifest = blob(
    json({
      schemaVersion: 2,
      mediaType: type('manifest.v1+json'),
      config: descriptor(type('config.v1+json'), config),
      layers: [descriptor(type('layer.v1.tar'), layer)],
    }),
  );
  const index = {
    schemaVersion: 2,
    manifests: [
      {
        ...descriptor(type('manifest.v1+json'), manifest),
        annotations: { 'io.containerd.image.name': name },
        platform: { architecture, os: 'linux' },
      },
    ],
  };
  return tar([
    file('oci-layout', json({ imageLayoutVersion: '1.0.0' })),
    file('index.json', json(index)),
    directory('blobs/'),
    directory('blobs/sha256/'),
    ...[layer, config, manifest].map((it) => file(`blobs/sha256/${it.digest}`, it.bytes)),
  ]);
}
