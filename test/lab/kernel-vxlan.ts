/** Linux's own VXLAN device, set up as flannel's VXLAN backend does: no learning, entries per peer. */
import { apply, applyBridge, listLinks, words } from '../../linux/ip.ts';

export interface KernelVxlanOptions {
  readonly netns: string;
  readonly family: 4 | 6;
  /** Our underlay address, on `underlayDevice`. */
  readonly local: string;
  readonly underlayDevice: string;
  readonly underlayMtu: number;
  readonly vni: number;
  readonly port: number;
  /** `<subnet>.0`, the source of what the host itself sends; null: the device gets no address. */
  readonly address: string | null;
}

export interface KernelPeer {
  readonly subnet: string;
  readonly mac: string;
  readonly publicAddress: string;
}

/** Outer headers and inner Ethernet, bytes. */
export const overheadBytes = (family: 4 | 6): number => (family === 4 ? 50 : 70);

export interface KernelVxlan {
  readonly device: string;
  readonly mac: string;
  readonly mtuBytes: number;
  /** Peers' routes are in this table; main unless given. */
  setPeer(peer: KernelPeer, table?: string): Promise<void>;
}

export async function createKernelVxlan(options: KernelVxlanOptions): Promise<KernelVxlan> {
  const { netns, family, vni } = options;
  const scope = { netns };
  const device = family === 4 ? `flannel.${vni}` : `flannel-v6.${vni}`;
  const mtuBytes = options.underlayMtu - overheadBytes(family);
  const { local, underlayDevice, port, address } = options;
  const commands = [
    words`link add ${device} mtu ${mtuBytes} type vxlan id ${vni} local ${local} dev ${underlayDevice}
      dstport ${port} nolearning`,
  ];
  if (address !== null && family === 4) commands.push(words`addr add ${address}/32 dev ${device}`);
  if (address !== null && family === 6) {
    commands.push(words`addr add ${address}/128 dev ${device} nodad`);
  }
  await apply([...commands, words`link set ${device} up`], scope);
  const link = (await listLinks(scope)).find((each) => each.ifname === device)!;
  return {
    device,
    mac: link.address!,
    mtuBytes,
    async setPeer(peer, table = 'main') {
      const gateway = peer.subnet.split('/')[0]!;
      const { mac, publicAddress, subnet } = peer;
      await applyBridge(
        [words`fdb replace ${mac} dev ${device} dst ${publicAddress} self permanent`],
        scope,
      );
      await apply(
        [
          words`neigh replace ${gateway} dev ${device} lladdr ${mac} nud permanent`,
          words`route replace ${subnet} via ${gateway} dev ${device} onlink table ${table}`,
        ],
        scope,
      );
    },
  };
}
