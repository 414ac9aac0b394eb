/**
 * Our one nft table, `inet weft`, as text. Pure.
 *
 * Pods are pinned: what comes through a pod's interface has that pod's addresses, Ethernet and IP, as the
 * sets `pods4` and `pods6` say, or it is dropped; and no other interface brings a source of our subnet. The
 * packet path and every policy rely on that: a source in our subnet is the pod that has it.
 *
 * A pod's packet passes the host's stack twice, from the pod to the TUN and from the TUN on. Connection
 * tracking, and with it every NAT rule of the host, sees each connection once: on the side away from the
 * pod where the other end is outside of the overlay, and as one connection where it is inside. The node's
 * own address counts as outside, so that an answer to the node is translated when it has passed the TUN.
 * Of tunnels nothing is tracked: nobody answers a datagram of theirs.
 *
 * Ports of Services on addresses that are the host's own or come to it (node ports, external and
 * load-balancer addresses) stand in the sets `services4` and `services6`. What is for one of them, from
 * outside or from the node's own processes, gets a mark that routes it into the TUN (steering.ts), before
 * the host looks whether the address is its own; so do ICMP errors about such connections. It leaves the
 * TUN either for a pod or, answered, from the Service's address: connection tracking sees both ways of the
 * outer connection, and with the node's `.0` as source none of the inner one.
 *
 * Masquerade (--ip-masq) is flannel's: what pods send outside leaves with the node's address, what comes
 * from outside into the overlay leaves with `.0` of our subnet, so that the answer comes back through us.
 *
 * The guard is always there. Peers believe an encapsulated packet by its outer source address, and a
 * pod's packet gets the node's own on its way out: so no pod may send to a VXLAN port, neither with its
 * own address (first rules) nor with a forged one (last rule: it comes through an interface that is
 * neither the underlay nor the way back to its source).
 */
import type { SteeredFrontend } from '../service/compile.ts';
import { createHash } from 'node:crypto';
import { tunnelTapName } from '../overlay/probe.ts';
import { formatAddress } from '../wire/address.ts';
import { type Cidr4, type Cidr6, formatCidr } from '../wire/cidr.ts';
import { STEERED_MARK } from './steering.ts';

export interface RulesetInputs {
  readonly tunName: string;
  /** Underlay interface. */
  readonly iface: string;
  /** Outer UDP destination port. */
  readonly port: number;
  readonly ipMasq: boolean;
  readonly network4: Cidr4 | null;
  readonly network6: Cidr6 | null;
  readonly subnet4: Cidr4 | null;
  readonly subnet6: Cidr6 | null;
  /** What the table's sets hold when it is made; not part of the digest. */
  readonly pins: readonly Pin[];
  /** Null: no Services, nothing is marked. As the pins, not part of the digest. */
  readonly steered: readonly SteeredFrontend[] | null;
}

/** A pod's interface on the host, and an address that the pod sends from. */
export interface Pin {
  readonly family: 4 | 6;
  readonly iface: string;
  readonly mac: string;
  readonly address: string;
}

export interface Ruleset {
  readonly text: string;
  /** One rule's comment: the digest of all. */
  readonly comment: string;
  readonly rules: number;
}

export const NFT_FAMILY = 'inet';
export const NFT_TABLE = 'weft';
/** Packets of the tunnel TAP that left the host (tunnel-guard.ts). */
export const TUNNEL_COUNTER = 'tunnel_left';
/** Packets from pods with another source than theirs, or with a pod's source from elsewhere. */
export const SPOOFED_COUNTER = 'spoofed_source';
/** VXLAN datagrams from pods to end points. */
const VXLAN_COUNTER = 'vxlan_from_pod';
/** Named in `weft status` as: */
export const HOST_COUNTERS: Readonly<Record<string, string>> = {
  'host.spoofedSource': SPOOFED_COUNTER,
  'host.vxlanFromPod': VXLAN_COUNTER,
};
/** All pods' interfaces on the host, and no others, have names that begin so. */
export const POD_INTERFACE_PREFIX = 'weftp';
/** Gone, whether it was there or not. */
export const deleteTable = `add table ${NFT_FAMILY} ${NFT_TABLE}\ndelete table ${NFT_FAMILY} ${NFT_TABLE}\n`;

/** kube-proxy marks what it masquerades itself. */
const KUBE_PROXY_MARK = '0x4000';

/** The set's name and one element of it, as nft writes them. */
export const pinSet = ({ family }: Pin): string => `pods${family}`;
export const pinElement = ({ iface, mac, address }: Omit<Pin, 'family'>): string =>
  `"${iface}" . ${mac} . ${address}`;

const familyOfPort = ({ address }: SteeredFrontend): 4 | 6 => (typeof address === 'number' ? 4 : 6);
export const steeredSet = (it: SteeredFrontend): string => `services${familyOfPort(it)}`;
export const steeredElement = ({ protocol, address, port }: SteeredFrontend): string =>
  `${protocol} . ${formatAddress(address)} . ${port}`;

interface Block {
  readonly ip: 'ip' | 'ip6';
  readonly network: string;
  readonly subnet: string | null;
  /** The node's own address in the overlay. */
  readonly node: string | null;
  readonly multicast: string;
}

function blocksOf(inputs: RulesetInputs): readonly Block[] {
  const { network4, network6, subnet4, subnet6 } = inputs;
  const blocks: Block[] = [];
  if (network4 !== null) {
    const subnet = subnet4 && formatCidr(subnet4);
    const node = subnet4 && formatAddress(subnet4.base);
    blocks.push({
      ip: 'ip',
      network: formatCidr(network4),
      subnet,
      node,
      multicast: '224.0.0.0/4',
    });
  }
  if (network6 !== null) {
    const subnet = subnet6 && formatCidr(subnet6);
    const node = subnet6 && formatAddress(subnet6.base);
    blocks.push({ ip: 'ip6', network: formatCidr(network6), subnet, node, multicast: 'ff00::/8' });
  }
  return blocks;
}

const masquerade = ({ ip, network, subnet, multicast }: Block, tunName: string): string[] => [
  `${ip} saddr ${network} ${ip} daddr ${network} return`,
  `${ip} saddr ${network} ${ip} daddr != ${multicast} masquerade fully-random`,
  // Outside traffic that already reached the node of its pod keeps its source.
  ...(subnet === null ? [] : [`${ip} saddr != ${network} ${ip} daddr ${subnet} return`]),
  `oifname "${tunName}" ${ip} saddr != ${network} ${ip} daddr ${network} masquerade fully-random`,
];

/**
 * Before connection tracking, so that what is dropped costs nothing more.
 * @param quick  what takes datagrams of peers past the rest: they come by the hundred thousand a second
 */
function fromPods(
  blocks: readonly Block[],
  tunName: string,
  quick: (block: Block, source: string) => string,
): string[] {
  const refuse = `counter name ${SPOOFED_COUNTER} drop`;
  const notPod = `iifname != "${POD_INTERFACE_PREFIX}*"`;
  const own = blocks.filter((it) => it.subnet !== null);
  return [
    ...own.map((it) => quick(it, it.subnet!)),
    `iifname "${tunnelTapName(tunName)}" notrack accept`,
    ...own.map(
      ({ ip, network, subnet, node }) =>
        `iifname "${tunName}" ${ip} saddr != ${network} ${ip} daddr ${subnet} ${ip} daddr != ${node} notrack`,
    ),
    // A client whose address a Service hides; the pod's answer to it is not tracked either.
    ...own.map(
      ({ ip, subnet, node }) =>
        `iifname "${tunName}" ${ip} saddr ${node} ${ip} daddr ${subnet} notrack`,
    ),
    ...own.map(
      ({ ip, subnet }) =>
        `iifname != { "lo", "${tunName}" } ${notPod} ${ip} saddr ${subnet} ${refuse}`,
    ),
    `${notPod} accept`,
    // Of what concerns its link, a pod may ask and answer for its neighbour, the gateway: no router
    // advertisements, no redirects.
    'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept',
    'ip6 daddr ff00::/8 drop',
    `meta nfproto ipv4 iifname . ether saddr . ip saddr != @pods4 ${refuse}`,
    `meta nfproto ipv6 iifname . ether saddr . ip6 saddr != @pods6 ${refuse}`,
    // The host's end has a link-local address only to be a gateway: the way to the host is the TUN.
    'ip6 daddr fe80::/10 drop',
    ...own.flatMap(({ ip, network, node }) => [
      `${ip} daddr != ${network} notrack`,
      `${ip} daddr ${node} notrack`,
    ]),
  ];
}

const set = (name: string, type: string, elements: readonly string[]): string =>
  [
    `  set ${name} {`,
    `    type ${type}`,
    ...(elements.length === 0 ? [] : [`    elements = { ${elements.join(', ')} }`]),
    '  }',
  ].join('\n');

const podSet = (family: 4 | 6, pins: readonly Pin[]): string =>
  set(
    `pods${family}`,
    `ifname . ether_addr . ipv${family}_addr`,
    pins.filter((it) => it.family === family).map(pinElement),
  );

const serviceSet = (family: 4 | 6, ports: readonly SteeredFrontend[]): string =>
  set(
    `services${family}`,
    `inet_proto . ipv${family}_addr . inet_service`,
    ports.filter((it) => familyOfPort(it) === family).map(steeredElement),
  );

const marked = `meta mark set meta mark | ${STEERED_MARK}`;

/** The mark of the connection is for the errors about it. */
const markServices = ({ ip }: Block): string => {
  const family = ip === 'ip' ? 4 : 6;
  return `meta l4proto . ${ip} daddr . th dport @services${family} ${marked} ct mark set ct mark | ${STEERED_MARK}`;
};

const ERRORS: Readonly<Record<Block['ip'], string>> = {
  ip: 'icmp type { destination-unreachable, time-exceeded, parameter-problem }',
  ip6: 'icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }',
};

const markErrors = ({ ip }: Block): string =>
  `${ERRORS[ip]} ct state related ct mark & ${STEERED_MARK} == ${STEERED_MARK} ${marked}`;

const chain = (name: string, hook: string, rules: readonly string[]): string =>
  [
    `  chain ${name} {`,
    `    ${hook}; policy accept;`,
    ...rules.map((it) => `    ${it}`),
    '  }',
  ].join('\n');

export function rulesetOf(inputs: RulesetInputs): Ruleset {
  const { iface, port, tunName } = inputs;
  const blocks = blocksOf(inputs);
  const refuse = `counter name ${VXLAN_COUNTER} drop`;
  // The packet path's own device for whole tunnel packets sends from our address by design.
  const tap = tunnelTapName(tunName);
  const trusted = `{ "lo", "${iface}", "${tap}" }`;
  const forged = `udp dport ${port} iifname != ${trusted} fib saddr . iif oif missing ${refuse}`;
  // By number, which costs less than by name; should it become another one, the others do as well.
  const quick = ({ ip }: Block, source: string): string =>
    `iif "${iface}" ${ip} saddr != ${source} accept`;
  const chains: { name: string; hook: string; rules: string[] }[] = [
    {
      name: 'forward',
      hook: 'type filter hook forward priority filter - 10',
      rules: [
        ...blocks.map(
          ({ ip, network }) =>
            `${ip} saddr ${network} ${ip} daddr != ${network} udp dport ${port} ${refuse}`,
        ),
        forged,
      ],
    },
    {
      name: 'input',
      hook: 'type filter hook input priority filter - 10',
      rules: [
        ...blocks.map((it) => quick(it, it.network)),
        // The node's own processes may: their packets come through lo.
        ...blocks.map(
          ({ ip, network }) => `iifname != "lo" ${ip} saddr ${network} udp dport ${port} ${refuse}`,
        ),
        forged,
      ],
    },
  ];
  chains.push(
    {
      name: 'from_pods',
      hook: 'type filter hook prerouting priority raw - 10',
      rules: [`iif "${iface}" udp dport ${port} notrack`, ...fromPods(blocks, tunName, quick)],
    },
    {
      name: 'to_peers',
      hook: 'type filter hook output priority raw - 10',
      rules: [`udp dport ${port} notrack`],
    },
    {
      name: 'tunnel_out',
      hook: 'type filter hook postrouting priority filter + 10',
      rules: [`iifname "${tap}" counter name ${TUNNEL_COUNTER}`],
    },
  );
  if (inputs.steered !== null) {
    chains.push(
      {
        name: 'services',
        hook: 'type filter hook prerouting priority mangle',
        rules: [
          `iif "${iface}" udp dport ${port} accept`,
          `iifname "${tunName}" accept`,
          ...blocks.map(markServices),
          ...blocks.map(markErrors),
        ],
      },
      {
        name: 'services_of_node',
        hook: 'type route hook output priority mangle',
        rules: [`udp dport ${port} accept`, ...blocks.map(markServices)],
      },
    );
  }
  if (inputs.ipMasq) {
    chains.push({
      name: 'postrouting',
      hook: 'type nat hook postrouting priority srcnat',
      rules: [
        `meta mark & ${KUBE_PROXY_MARK} == ${KUBE_PROXY_MARK} return`,
        ...blocks.flatMap((it) => masquerade(it, tunName)),
      ],
    });
  }
  const digest = createHash('sha256').update(JSON.stringify(chains)).digest('hex').slice(0, 32);
  // A rule's comment: nft 1.0 does not show a table's in JSON.
  chains[0]!.rules[0] += ` comment "${digest}"`;
  const text = [
    `${deleteTable}table ${NFT_FAMILY} ${NFT_TABLE} {`,
    `  counter ${VXLAN_COUNTER} { }`,
    `  counter ${TUNNEL_COUNTER} { }`,
    `  counter ${SPOOFED_COUNTER} { }`,
    podSet(4, inputs.pins),
    podSet(6, inputs.pins),
    ...(inputs.steered === null
      ? []
      : [serviceSet(4, inputs.steered), serviceSet(6, inputs.steered)]),
    ...chains.map((it) => chain(it.name, it.hook, it.rules)),
    '}\n',
  ].join('\n');
  return { text, comment: digest, rules: chains.reduce((sum, it) => sum + it.rules.length, 0) };
}
