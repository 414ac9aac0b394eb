/** `weft capture`: packets as a file, or in lines, until enough have come or ^C. */
import { type FileHandle, open } from 'node:fs/promises';
import type { Argv } from 'yargs';
import { PcapngReader, type PcapngStatistics } from '../wire/pcapng.ts';
import {
  textOption,
  ask,
  configOf,
  print,
  textOf,
  textsOf,
  UsageError,
  withOptions,
  type Flags,
} from './cli.ts';
import { CAPTURE_ID, type CaptureMessage } from './messages.ts';

/** The file cannot be written. */
export class CaptureFileError extends Error {
  override readonly name = 'CaptureFileError';
  readonly code = 'ERR_CAPTURE_FILE';
}

export const withCaptureOptions = (command: Argv): Argv =>
  withOptions(command, ['stateDir'])
    .option('write', {
      alias: 'w',
      ...textOption(
        'a pcapng file for Wireshark and tcpdump, - for stdout; without it, a line a packet',
      ),
    })
    .option('pod', textOption('NAMESPACE/POD at either end; given twice: between the two'))
    .option(
      'peer',
      textOption('what goes to or comes from this node: its name, or an address of it'),
    )
    .option('protocol', textOption('TCP, UDP, SCTP, ICMP, ICMPv6, or a number'))
    .option('port', textOption('of either end, before translation or after'))
    .option('verdict', textOption('forwarded or dropped'))
    .option('reason', textOption('dropped for this reason (docs/packet-path.md), or any'))
    .option('outer', {
      type: 'boolean',
      describe: 'the VXLAN datagrams between nodes, instead of the packets in them',
    })
    .option(
      'snaplen',
      textOption('bytes of each packet that are kept; all of them if it is left out'),
    )
    .option('count', textOption('end after so many packets'))
    .option('duration', textOption('end after so long: 30s, 5m'))
    .epilogue(
      'For example: weft capture --pod shop/web --port 8080 -w web.pcapng\n\nEach packet is seen ' +
        'once a node, as Weft hands it on; its comment says what was decided about it.\nPackets ' +
        'that come faster than they can be written are lost for the capture only, and counted.',
    );

const PARAMETERS = [
  'peer',
  'protocol',
  'port',
  'verdict',
  'reason',
  'snaplen',
  'count',
  'duration',
];

function pathOf(flags: Flags): string {
  const query = new URLSearchParams();
  for (const it of textsOf(flags, 'pod')) query.append('pod', it);
  for (const name of PARAMETERS) {
    const value = textOf(flags, name);
    if (value !== null) query.set(name, value);
  }
  if (flags['outer'] === true) query.set('outer', 'true');
  return `/v1/capture?${query.toString()}`;
}

/** @throws CaptureFileError */
async function openFile(path: string): Promise<FileHandle> {
  try {
    // Others' packets are nobody else's to read.
    return await open(path, 'w', 0o600);
  } catch (cause) {
    throw new CaptureFileError(`${path} cannot be written: ${(cause as Error).message}`, { cause });
  }
}

/** @throws UsageError, CaptureFileError, DaemonAbsentError, ApiError */
export async function capture(flags: Flags): Promise<void> {
  const path = textOf(flags, 'write');
  if (path === '-' && process.stdout.isTTY) {
    throw new UsageError('-w -: a terminal cannot show the file; pipe it, or leave -w out');
  }
  const [{ openStream }, { packetLine }] = await Promise.all([
    import('./api-client.ts'),
    import('./packet-line.ts'),
  ]);
  const response = await openStream(configOf(flags).config.stateDir, pathOf(flags));
  const id = String(response.headers[CAPTURE_ID]);
  let captured = 0;
  let statistics: PcapngStatistics | null = null;
  const lines = path === null;
  const reader = new PcapngReader({
    onPacket: (packet, linkType) => {
      captured++;
      if (lines) print(packetLine(packet, linkType));
    },
    onStatistics: (it) => (statistics = it),
  });
  const stop = (): void => {
    // Asked twice: at once.
    process.once('SIGINT', () => process.exit(130));
    // What it answers comes with the stream, too; it may have ended by itself meanwhile.
    ask<CaptureMessage>(flags, 'DELETE', `/v1/capture/${id}`).catch(() => response.destroy());
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop);
  const file = path === null || path === '-' ? null : await openFile(path);
  try {
    for await (const piece of response as AsyncIterable<Buffer>) {
      reader.take(piece);
      if (file !== null) await file.write(piece);
      else if (path === '-' && !process.stdout.write(piece)) {
        await new Promise((resolve) => process.stdout.once('drain', resolve));
      }
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error;
    process.stderr.write('weft: the daemon ended, and the capture with it\n');
    process.exitCode = 1;
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, stop);
    await file?.close();
  }
  const lost = (statistics as PcapngStatistics | null)?.dropped ?? null;
  const packets = captured === 1 ? '1 packet' : `${captured} packets`;
  process.stderr.write(`${packets} captured, ${lost ?? 'an unknown number'} lost\n`);
}
