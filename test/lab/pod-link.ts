/** A pod's link with nothing of the pod's kernel between: packets made by hand, and whatever comes. */
import { isIPv4 } from 'node:net';
import { join } from 'node:path';
import { listLinks } from '../../linux/ip.ts';
import type { Running } from '../../linux/program.ts';
import { macBytes, parseMac } from '../../wire/mac.ts';
import { addressBytes, sourceOf } from '../packets/build.ts';
import type { LabHost, LabPod } from './lab.ts';

const program = (name: string): string[] => [
  process.execPath,
  join(import.meta.dirname, 'traffic', name),
];

async function macOf(host: LabHost, device: string): Promise<Uint8Array> {
  const links = await listLinks({ netns: host.netns });
  return macBytes(parseMac(links.find((it) => it.ifname === device)!.address!));
}

export class PodLink {
  readonly pod: LabPod;
  readonly #macs: Uint8Array;
  readonly #listening: Running;
  #seen = 0;

  private constructor(pod: LabPod, macs: Uint8Array, listening: Running) {
    this.pod = pod;
    this.#macs = macs;
    this.#listening = listening;
  }

  static async open(pod: LabPod): Promise<PodLink> {
    const macs = await Promise.all([macOf(pod.node, pod.hostInterface), macOf(pod, 'eth0')]);
    const listening = await pod.start([...program('listen.ts'), 'eth0'], {
      ready: { line: /^ready$/ },
    });
    return new PodLink(pod, Buffer.concat(macs), listening);
  }

  /** One after the other, each with the Ethernet addresses that the pod has and uses. */
  async send(...packets: readonly Uint8Array[]): Promise<void> {
    const frames = packets.map((packet) => {
      const etherType = packet[0]! >>> 4 === 4 ? [0x08, 0x00] : [0x86, 0xdd];
      return Buffer.concat([this.#macs, Buffer.from(etherType), packet]).toString('hex');
    });
    await this.pod.run([...program('frames.ts'), 'eth0', ...frames]);
  }

  /** All that has come so far, read as text. */
  text(): string {
    const lines = this.#listening.output().trim().split('\n').slice(1);
    return lines.map((line) => Buffer.from(line, 'hex').toString()).join('\n');
  }

  /** What was for the pod and from this address, since the call before this. */
  take(source: string): Buffer[] {
    const lines = this.#listening.output().trim().split('\n');
    const own = addressBytes(isIPv4(source) ? this.pod.address4! : this.pod.address6!);
    const packets = lines
      .slice(1 + this.#seen)
      .map((line) => Buffer.from(line, 'hex'))
      .filter((it) => it.length >= 20 && it[0]! >>> 4 === (isIPv4(source) ? 4 : 6))
      .filter((it) => sourceOf(it) === source)
      .filter((it) => it.subarray(own.length === 4 ? 16 : 24).indexOf(own) === 0);
    this.#seen = lines.length - 1;
    return packets;
  }
}
