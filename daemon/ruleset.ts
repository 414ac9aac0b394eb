/**
 * Our one nft table, `inet weft`, as text. Pure.
 *
 * Masquerade (--ip-masq) is flannel's: what pods send outside leaves with the node's address, what comes
 * from outside into the overlay leaves with `.0` of our subnet, so that the answer comes back through us.
 *
 * The guard is always there. Peers believe an encapsulated packet by its outer source address, and a
 * pod's packet gets the node's own on its way out: so no pod may send to a VXLAN port, neither with its
 * own address (first rules) nor with a forged one (last rule: it comes through an interface that is
 * neither the underlay nor the way back to its source).
 */
import { createHash } from 'node:crypto';
import { tunnelTapName } from '../overlay/probe.ts';
import { type Cidr4, type Cidr6, formatCidr } from '../wire/cidr.ts';

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
/** Gone, whether it was there or not. */
export const deleteTable = `add table ${NFT_FAMILY} ${NFT_TABLE}\ndelete table ${NFT_FAMILY} ${NFT_TABLE}\n`;

/** kube-proxy marks what it masquerades itself. */
const KUBE_PROXY_MARK = '0x4000';

interface Block {
  readonly ip: 'ip' | 'ip6';
  readonly network: string;
  readonly subnet: string | null;
  readonly multicast: string;
}

function blocksOf(inputs: RulesetInputs): readonly Block[] {
  const { network4, network6, subnet4, subnet6 } = inputs;
  const blocks: Block[] = [];
  if (network4 !== null) {
    const subnet = subnet4 && formatCidr(subnet4);
    blocks.push({ ip: 'ip', network: formatCidr(network4), subnet, multicast: '224.0.0.0/4' });
  }
  if (network6 !== null) {
    const subnet = subnet6 && formatCidr(subnet6);
    blocks.push({ ip: 'ip6', network: formatCidr(network6), subnet, multicast: 'ff00::/8' });
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
  const refuse = 'counter name vxlan_from_pod drop';
  // The packet path's own device for whole tunnel packets sends from our address by design.
  const tap = tunnelTapName(tunName);
  const trusted = `{ "lo", "${iface}", "${tap}" }`;
  const forged = `udp dport ${port} iifname != ${trusted} fib saddr . iif oif missing ${refuse}`;
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
        // The node's own processes may: their packets come through lo.
        ...blocks.map(
          ({ ip, network }) => `iifname != "lo" ${ip} saddr ${network} udp dport ${port} ${refuse}`,
        ),
        forged,
      ],
    },
  ];
  chains.push(
    // Nobody answers a datagram of a tunnel: connection tracking would only cost.
    {
      name: 'tunnel_in',
      hook: 'type filter hook prerouting priority raw',
      rules: [`iifname "${tap}" notrack`],
    },
    {
      name: 'tunnel_out',
      hook: 'type filter hook postrouting priority filter + 10',
      rules: [`iifname "${tap}" counter name ${TUNNEL_COUNTER}`],
    },
  );
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
    '  counter vxlan_from_pod { }',
    `  counter ${TUNNEL_COUNTER} { }`,
    ...chains.map((it) => chain(it.name, it.hook, it.rules)),
    '}\n',
  ].join('\n');
  return { text, comment: digest, rules: chains.reduce((sum, it) => sum + it.rules.length, 0) };
}
