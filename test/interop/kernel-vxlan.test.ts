/**
 * A node with Linux's own VXLAN device, configured and leased as flannel does, beside a Weft node:
 *
 *     n1 (Weft)  n1p1          n2 (kernel: flannel.1, flannel-v6.1)  n2p1
 *          eth0 ----------- one segment ----------- eth0
 *
 * The rows `kernel beside kernel` are the control: when they fail, it is not Weft's doing.
 */
import test from 'ava';
import { setFeatures } from '../../linux/ip.ts';
import { poll } from '../../linux/program.ts';
import {
  type Families,
  type Lab,
  type LabNode,
  addressIn,
  createLab,
  reaches,
} from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';
import { blastUdp, bulkTcp, ping } from '../lab/traffic/traffic.ts';

type Dataplane = 'weft' | 'kernel';

/**
 * How the kernel node's frames leave it: `whole`, up to 64 KiB for the next device to segment, which
 * between namespaces is nobody; or in packets of MTU size, as from a network card.
 */
type Frames = 'whole' | 'packets';

const rows: [Dataplane, Families, underlayMtu: number, Frames, note: string][] = [
  ['kernel', 'dual', 1500, 'whole', 'control'],
  ['kernel', 4, 626, 'packets', 'control, small'],
  ['weft', 4, 1500, 'packets', 'IPv4 underlay'],
  ['weft', 6, 1500, 'packets', 'IPv6 underlay'],
  ['weft', 'dual', 1500, 'whole', 'both'],
  ['weft', 'dual', 9000, 'packets', 'jumbo'],
  ['weft', 'dual', 9000, 'whole', 'jumbo'],
  ['weft', 4, 626, 'packets', 'IPv4 in its minimum MTU of 576'],
  ['weft', 'dual', 1350, 'packets', 'IPv6 in its minimum MTU of 1280'],
];

async function pair(
  first: Dataplane,
  families: Families,
  underlayMtu: number,
  frames: Frames,
): Promise<Lab> {
  const lab = await createLab({ nodes: 2, families, underlayMtu, prefix: `${labPrefix()}i` });
  try {
    const [n1, n2] = lab.nodes;
    if (frames === 'packets') {
      const off = { tso: false, gso: false, gro: false, 'tx-udp-segmentation': false };
      await setFeatures('eth0', off, { netns: n2!.netns });
    }
    await n2!.startKernelVxlan();
    if (first === 'weft') await n1!.startDaemon();
    else await n1!.startKernelVxlan();
    await lab.attachPods();
    return lab;
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}

/** `<subnet>.0` of the node in the family of `address`: the source of what the host itself sends. */
async function hostAddress(node: LabNode, address: string): Promise<string> {
  const { subnet4, subnet6 } = await node.subnetFile();
  return addressIn((address.includes(':') ? subnet6 : subnet4)!, 0);
}

const ipHeaders = (address: string): number => (address.includes(':') ? 48 : 28);

for (const [first, families, underlayMtu, frames, note] of rows) {
  const title = `${first} beside kernel, families ${families}, underlay MTU ${underlayMtu}, ${frames} (${note})`;
  test.serial(title, async (t) => {
    await using lab = await pair(first, families, underlayMtu, frames);
    const [a, b] = lab.pods;
    for (const [from, to] of [
      [a!, b!],
      [b!, a!],
    ] as const) {
      const { mtuBytes } = await from.node.subnetFile();
      for (const address of to.addresses) {
        const what = `${from.name} -> ${address}`;
        await reaches(from, address);
        const headers = ipHeaders(address);
        const largest = { count: 3, bytes: mtuBytes - headers, dontFragment: true };
        t.is((await ping(from, address, largest)).received, 3, `${what}, ping of ${mtuBytes}`);
        const fragments = { count: 3, bytes: 3 * mtuBytes };
        t.is((await ping(from, address, fragments)).received, 3, `${what}, ping in fragments`);

        const source = await hostAddress(from.node, address);
        await reaches(from.node, address);
        const host = await ping(from.node, address, { count: 3, source });
        t.is(host.received, 3, `${from.node.name} (${source}) -> ${address}`);

        for (const streams of [1, 4]) {
          const { bitsPerSecond } = await bulkTcp(from, to, address, { streams, amount: '32M' });
          t.true(bitsPerSecond > 10e6, `${what}, ${streams} TCP streams: ${bitsPerSecond} bit/s`);
        }
        for (const bytes of [1, mtuBytes - headers]) {
          const { packets } = await blastUdp(from, to, address, { bytes, seconds: 0.1 });
          t.true(packets > 10, `${what}, ${packets} datagrams of ${bytes} bytes`);
        }
      }
    }
  });
}

test.serial(
  'a kernel node that comes later is found, and one that leaves its lease is lost',
  async (t) => {
    await using lab = await createLab({ nodes: 2, families: 4, prefix: `${labPrefix()}i` });
    const [n1, n2] = lab.nodes;
    await n1!.startDaemon();
    const [a] = await n1!.attachPods();
    await n2!.startKernelVxlan();
    const [b] = await n2!.attachPods();
    await lab.syncKernelNodes();
    await reaches(a!, b!.address4!);
    await reaches(b!, a!.address4!);
    const lease = (await lab.store.leases()).find(({ lease }) => lease.PublicIP === n2!.underlay4)!;
    await lab.store.remove(lease.key);
    const lost = await poll(
      async () => ((await ping(a!, b!.address4!)).received === 0 ? true : undefined),
      AbortSignal.timeout(10_000),
    );
    t.true(lost);
  },
);
