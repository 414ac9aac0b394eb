/**
 * What is wrong, what it means for traffic and what to do about it, from what the daemon knows of itself.
 * Pure. docs/troubleshooting.md lists the same codes.
 */
import type { FindingMessage, StatusMessage } from './messages.ts';

export type Diagnosed = Omit<StatusMessage, 'findings'>;

/** In this order they are told; a code names one kind of trouble. */
export const FINDING_CODES = [
  'lease-none',
  'lease-ending',
  'host-state',
  'objects-unknown',
  'not-forwarding',
  'store-unreachable',
  'objects-stale',
  'objects-invalid',
  'peer-without-vtep',
  'peer-silent',
  'tunnel-silent',
  'tunnel-lossy',
  'path-mtu-small',
  'probes-impossible',
  'offload-given-up',
] as const;

interface Finding extends FindingMessage {
  readonly code: (typeof FINDING_CODES)[number];
}

const LEASE_ENDING_S = 600;

const list = (texts: readonly string[], most = 3): string =>
  texts.length <= most
    ? texts.join(', ')
    : `${texts.slice(0, most).join(', ')} and ${texts.length - most} more`;

function ofLease({ lease, etcd, reasons }: Diagnosed): Finding[] {
  if (lease === null) {
    return [
      {
        severity: 'error',
        code: 'lease-none',
        what: `this node holds no subnet: ${reasons[0] ?? 'it is starting'}`,
        consequence: 'pods here reach no other node and are reached by none; no pod can be added',
        remedy: `is etcd reachable (${list(etcd.endpoints)}), has it a network config, and is a subnet left? weft leases`,
      },
    ];
  }
  const { endsInS } = lease;
  if (etcd.unreachable === null || endsInS === null || endsInS > LEASE_ENDING_S) return [];
  return [
    {
      severity: 'error',
      code: 'lease-ending',
      what: `the lease of ${lease.subnet ?? lease.ipv6Subnet} ends in ${endsInS} s and cannot be renewed`,
      consequence: `traffic with other nodes stops in ${endsInS} s`,
      remedy: `make etcd reachable before: ${list(etcd.endpoints)}`,
    },
  ];
}

function ofStore({ etcd }: Diagnosed): Finding[] {
  if (etcd.unreachable === null) return [];
  const { since, message } = etcd.unreachable;
  return [
    {
      severity: 'warning',
      code: 'store-unreachable',
      what: `etcd has not answered since ${since}: ${message}`,
      consequence:
        "traffic goes on with the nodes, policies and Services known; changes are not seen, and it stops at the lease's end",
      remedy: `look at etcd and the way to it: ${list(etcd.endpoints)}`,
    },
  ];
}

function ofHost({ host, lease, overlay }: Diagnosed): Finding[] {
  if (host.problem === null) return [];
  return [
    {
      severity: 'error',
      code: 'host-state',
      what: `interface, routes, rules or nft table are not as they should be: ${host.problem}`,
      consequence: `packets for ${overlay?.tunName ?? 'the overlay'} may take no way or the wrong one; it is tried again every two seconds`,
      remedy: `mend what the message names; \`weft ${lease === null ? 'status' : 'check'}\` looks again`,
    },
  ];
}

function ofObjects({ objects, lease, etcd }: Diagnosed): Finding[] {
  if (objects === null) return [];
  const found: Finding[] = [];
  if (!objects.listed && lease !== null) {
    found.push({
      severity: 'error',
      code: 'objects-unknown',
      what: 'policies and Services have not been listed yet',
      consequence: 'nothing goes to pods or comes from them until they are',
      remedy: `it takes a moment after the start; else look at etcd: ${list(etcd.endpoints)}`,
    });
  }
  if (objects.failure !== null) {
    found.push({
      severity: 'error',
      code: 'objects-stale',
      what: `policies and Services could not be made into tables: ${objects.failure}`,
      consequence: 'what was in force stays in force; later changes have no effect',
      remedy: 'take back the last change of policies or Services, and report it',
    });
  }
  if (objects.problems.length > 0) {
    found.push({
      severity: 'warning',
      code: 'objects-invalid',
      what: `${objects.problems.length} problems with objects: ${list(objects.problems, 1)}`,
      consequence: 'what is wrong has no effect, so that policies or Services may be missing',
      remedy: 'mend the objects; weft status --verbose lists them all',
    });
  }
  return found;
}

function ofPeers({ peers, overlay }: Diagnosed): Finding[] {
  if (overlay === null || overlay.directRouting) return [];
  const without = peers.filter(
    (it) =>
      (it.subnet !== null && it.vtepMac === null) ||
      (it.ipv6Subnet !== null && it.vtepMacV6 === null),
  );
  if (without.length === 0) return [];
  return [
    {
      severity: 'warning',
      code: 'peer-without-vtep',
      what: `no VXLAN end point is known of ${list(without.map((it) => it.key))}`,
      consequence: 'its pods are not reached from here (noPeer)',
      remedy: 'look at that node: does it run with the vxlan backend? A reservation needs its node',
    },
  ];
}

function ofProbes({ probes, overlay }: Diagnosed): Finding[] {
  const port = overlay?.port ?? 'of the overlay';
  const rows = [
    [
      probes.silent,
      'peer-silent',
      'answers no echo, neither outside of the tunnel nor through it',
      'its pods are likely not reached from here',
      'is the node up, and the way to it? ping its address',
    ],
    [
      probes.tunnelSilent,
      'tunnel-silent',
      'answers, but not through the tunnel',
      'its pods are not reached from here',
      `does its daemon run, and does a firewall between drop UDP port ${port}? weft status there`,
    ],
    [
      probes.lossy,
      'tunnel-lossy',
      'did not answer every echo through the tunnel',
      'connections with its pods are slow',
      'look for drops here and there: weft status; and at the way between: weft peers --probe',
    ],
    [
      probes.smallMtu,
      'path-mtu-small',
      `does not get packets of ${overlay?.mtuBytes ?? 'full'} bytes`,
      'large packets vanish unless routers on the way say that they are too big',
      'weft peers --probe shows the size that passes; set MTU in the network config, or mend the way',
    ],
  ] as const;
  const found: Finding[] = rows.flatMap(([keys, code, what, consequence, remedy]) =>
    keys.length === 0
      ? []
      : [{ severity: 'warning', code, what: `${list(keys)}: ${what}`, consequence, remedy }],
  );
  if (probes.problem !== null) {
    found.push({
      severity: 'note',
      code: 'probes-impossible',
      what: probes.problem,
      consequence: 'none for traffic; whether peers answer is not known',
      remedy: 'give the daemon what it lacks, and start it again',
    });
  }
  return found;
}

const ofOffloads = ({ offloadsGivenUp }: Diagnosed): Finding[] =>
  Object.entries(offloadsGivenUp).map(([name, reason]) => ({
    severity: 'note',
    code: 'offload-given-up',
    what: `the offload ${name} is not used: ${reason}`,
    consequence: 'traffic passes, and costs more processor time',
    remedy: 'nothing, unless the reason can be mended: then start the daemon again',
  }));

/** What other findings do not say already. */
function ofRest({ forwarding, reasons }: Diagnosed): Finding[] {
  if (forwarding) return [];
  return [
    {
      severity: 'error',
      code: 'not-forwarding',
      what: reasons[0] ?? 'the daemon is starting',
      consequence: 'pods here reach no other node and are reached by none',
      remedy: 'it takes some seconds after the start; else the log says more: weft logs',
    },
  ];
}

const SEVERITIES = ['error', 'warning', 'note'];

/** The worst first; empty when all is well. */
export function diagnose(status: Diagnosed): readonly FindingMessage[] {
  const found = [
    ...ofLease(status),
    ...ofHost(status),
    ...ofObjects(status),
    ...ofStore(status),
    ...ofPeers(status),
    ...ofProbes(status),
  ];
  const isSaid = found.some((it) => it.severity === 'error');
  return [...found, ...(isSaid ? [] : ofRest(status)), ...ofOffloads(status)].toSorted(
    (a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity),
  );
}

/** A note is worth knowing, and nothing to mend. */
export const isWrong = ({ severity }: FindingMessage): boolean => severity !== 'note';
