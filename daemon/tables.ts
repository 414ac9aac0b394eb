/** What the operator's commands print. */
import Table from 'cli-table3';
import pico from 'picocolors';
import type { Kind } from '../objects/types.ts';
import type { Verdict } from '../policy/reference.ts';
import {
  type ClusterShadowMessage,
  type IpamMessage,
  type LeaseMessage,
  type LeasesMessage,
  type LiveTraceMessage,
  type PolicyChangeMessage,
  type PolicyDiffMessage,
  type ShadowMessage,
  type TraceMessage,
  endText,
} from './messages.ts';

const PLAIN = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
};

/** Names come from etcd and from packets: no control character reaches a terminal. */
export const printable = (text: string): string => text.replaceAll(/\p{Cc}/gu, '?');

/** Columns by spaces; `head` empty for none. Cells come from etcd: no control character gets through. */
export function columns(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    chars: PLAIN,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
    ...(head.length === 0 ? {} : { head: head.map((it) => pico.bold(it)) }),
  });
  table.push(...rows.map((row) => row.map((cell) => printable(cell))));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

export const orDash = (...texts: (string | null)[]): string =>
  texts.filter((it) => it !== null).join(', ') || '-';

export const leaseRow = (lease: LeaseMessage): string[] => [
  orDash(lease.subnet, lease.ipv6Subnet),
  orDash(lease.publicIp, lease.publicIpv6),
  orDash(lease.vtepMac ?? lease.vtepMacV6),
  [
    lease.own ? 'this node' : '',
    lease.reserved ? 'reserved' : '',
    lease.endsInS === null ? '' : `ends in ${lease.endsInS} s unless renewed`,
  ]
    .filter(Boolean)
    .join(', '),
];

export function leasesTable({ leases, problems }: LeasesMessage): string {
  const lines = [columns(['SUBNET', 'NODE', 'VTEP', ''], leases.map(leaseRow))];
  for (const { key, reason } of problems) lines.push(pico.yellow(`ignored: ${key}: ${reason}`));
  return lines.join('\n');
}

export function leaseTable(lease: LeaseMessage): string {
  return columns(
    [],
    [
      ['key', lease.key],
      ['subnet', orDash(lease.subnet, lease.ipv6Subnet)],
      ['public address', orDash(lease.publicIp, lease.publicIpv6)],
      ['vtep', orDash(lease.vtepMac)],
      ['vtep, inner IPv6', orDash(lease.vtepMacV6)],
      ['reserved', lease.reserved ? 'yes' : 'no'],
      ['this node', lease.own ? 'yes' : 'no'],
      ...(lease.endsInS === null ? [] : [['ends', `in ${lease.endsInS} s unless renewed`]]),
    ],
  );
}

export function ipamTable(ipam: IpamMessage): string {
  const { subnet, ipv6Subnet, capacity, used, reserved, attachments } = ipam;
  const of = capacity === null ? '' : ` of ${capacity}`;
  const lines = [
    columns(
      [],
      [
        ['subnet', orDash(subnet, ipv6Subnet)],
        ['in use', `${used}${of}`],
        ...(reserved.length === 0 ? [] : [['reserved', reserved.join(', ')]]),
      ],
    ),
  ];
  if (attachments.length > 0) {
    const rows = attachments.map((it) => [
      orDash(it.address, it.ipv6Address),
      orDash(it.pod),
      `${it.containerId}/${it.ifname}`,
      it.hostInterface,
    ]);
    lines.push(columns(['ADDRESS', 'POD', 'CONTAINER', 'INTERFACE'], rows));
  }
  return lines.join('\n\n');
}

type Raw = Readonly<Record<string, unknown>>;

/** What stands at the path of a raw object, as text; lists joined. */
function at(raw: unknown, ...path: readonly string[]): string {
  const [key, ...rest] = path;
  if (Array.isArray(raw)) {
    const texts = raw.map((it: unknown) => at(it, ...path)).filter((it) => it !== '');
    return texts.join(',');
  }
  if (key !== undefined) {
    const isObject = typeof raw === 'object' && raw !== null && Object.hasOwn(raw, key);
    return isObject ? at((raw as Raw)[key], ...rest) : '';
  }
  if (typeof raw === 'string') return raw;
  if (typeof raw === 'number' || typeof raw === 'boolean') return String(raw);
  if (typeof raw !== 'object' || raw === null) return '';
  return Object.entries(raw)
    .map(([name, value]) => `${name}=${at(value)}`)
    .join(',');
}

const selector = (raw: Raw, ...path: readonly string[]): string => {
  const labels = at(raw, ...path, 'matchLabels');
  const more = at(raw, ...path, 'matchExpressions', 'key') === '' ? '' : '(expressions)';
  return [labels, more].filter(Boolean).join(',') || '(all)';
};

/** Columns after the name. */
const COLUMNS: Readonly<Record<Kind, readonly (readonly [string, (raw: Raw) => string])[]>> = {
  Namespace: [['LABELS', (raw) => at(raw, 'metadata', 'labels')]],
  Node: [
    ['ADDRESSES', (raw) => at(raw, 'status', 'addresses', 'address')],
    ['PODS', (raw) => at(raw, 'spec', 'podCIDRs') || at(raw, 'spec', 'podCIDR')],
    ['LABELS', (raw) => at(raw, 'metadata', 'labels')],
  ],
  Pod: [
    ['NODE', (raw) => at(raw, 'spec', 'nodeName')],
    ['IP', (raw) => at(raw, 'status', 'podIPs', 'ip') || at(raw, 'status', 'podIP')],
    ['STATUS', (raw) => at(raw, 'status', 'phase')],
    ['LABELS', (raw) => at(raw, 'metadata', 'labels')],
  ],
  Service: [
    ['TYPE', (raw) => at(raw, 'spec', 'type') || 'ClusterIP'],
    ['CLUSTER-IP', (raw) => at(raw, 'spec', 'clusterIPs') || at(raw, 'spec', 'clusterIP')],
    ['PORTS', (raw) => at(raw, 'spec', 'ports', 'port')],
    ['NODE-PORTS', (raw) => at(raw, 'spec', 'ports', 'nodePort')],
    ['SELECTOR', (raw) => at(raw, 'spec', 'selector')],
  ],
  EndpointSlice: [
    ['SERVICE', (raw) => at(raw, 'metadata', 'labels', 'kubernetes.io/service-name')],
    ['ADDRESSES', (raw) => at(raw, 'endpoints', 'addresses')],
    ['PORTS', (raw) => at(raw, 'ports', 'port')],
  ],
  NetworkPolicy: [
    ['PODS', (raw) => selector(raw, 'spec', 'podSelector')],
    ['TYPES', (raw) => at(raw, 'spec', 'policyTypes')],
  ],
  ClusterNetworkPolicy: [
    ['TIER', (raw) => at(raw, 'spec', 'tier')],
    ['PRIORITY', (raw) => at(raw, 'spec', 'priority')],
  ],
};

/** @param withNamespace  whose is not said otherwise */
export function objectsTable(kind: Kind, items: readonly Raw[], withNamespace: boolean): string {
  if (items.length === 0) return 'none';
  const own = COLUMNS[kind];
  const head = [...(withNamespace ? ['NAMESPACE'] : []), 'NAME', ...own.map(([name]) => name)];
  const rows = items.map((raw) => [
    ...(withNamespace ? [at(raw, 'metadata', 'namespace') || '-'] : []),
    at(raw, 'metadata', 'name'),
    ...own.map(([, text]) => text(raw) || '-'),
  ]);
  return columns(head, rows);
}

export function verdictText(
  { verdict, egress, ingress }: Pick<Verdict, 'verdict' | 'egress' | 'ingress'>,
  reasons: readonly string[],
): string {
  const color = verdict === 'allow' ? pico.green : pico.red;
  const rows = [
    ['egress', egress],
    ['ingress', ingress],
    ...reasons.map((it, i) => [i === 0 ? 'because' : '', it]),
  ];
  return `${color(verdict)}\n${columns([], rows)}`;
}

export function verdictsTable(
  verdicts: readonly (Verdict & Readonly<Record<'from' | 'to' | 'port', string>>)[],
): string {
  return columns(
    ['FROM', 'TO', 'PORT', 'VERDICT', 'BECAUSE'],
    verdicts.map((it) => [it.from, it.to, it.port, it.verdict, it.because]),
  );
}

const portText = ({ protocol, destination: { port } }: PolicyChangeMessage): string =>
  port === null ? protocol : `${protocol}/${port}`;

function changeRow(it: PolicyChangeMessage): string[] {
  const { service, backend, before, after } = it;
  const to = endText({ ...it.destination, port: null });
  const asked =
    service === null ? to : `service/${service.namespace}/${service.name}:${service.port}`;
  return [
    `${before} -> ${after}`,
    endText(it.source),
    backend === null ? asked : `${asked} -> ${endText(backend)}`,
    portText(it),
    String(it.count),
    it.lastSeen,
    it.afterBecause,
  ];
}

const CHANGE_HEAD = ['CHANGE', 'FROM', 'TO', 'PORT', 'SEEN', 'LAST', 'BECAUSE'];

type DiffTold = Pick<PolicyDiffMessage, 'changes' | 'asked' | 'gone' | 'untold'>;

export function diffText({ changes, asked, gone, untold }: DiffTold): string {
  const denied = changes.filter(({ after }) => after === 'deny').length;
  const what = `${changes.length === 0 ? 'nothing changes' : `${denied} newly denied, ${changes.length - denied} newly allowed`}, of ${asked} kinds of flow`;
  const lost =
    (gone === 0 ? '' : `; ${gone} more are of pods that are gone`) +
    (untold === 0 ? '' : `; ${untold} older ones were not asked about`);
  const rows = changes.toSorted((a, b) => (a.after === b.after ? 0 : a.after === 'deny' ? -1 : 1));
  return [
    ...(rows.length === 0 ? [] : [columns(CHANGE_HEAD, rows.map(changeRow))]),
    what + lost,
  ].join('\n');
}

export function shadowText({ node, trial, problem, changes }: ShadowMessage): string {
  const rows = [
    ['node', node],
    [
      'tried',
      trial === null
        ? 'none'
        : `${trial.policies.length} policies${trial.replace ? ', alone' : ''}`,
    ],
    ...(trial?.policies.map((it) => ['', it]) ?? []),
    ...(trial === null
      ? []
      : [
          ['since', trial.startedAt],
          ['asked', `${trial.asked} events of flows`],
          ...(trial.skipped === 0 ? [] : [['skipped', `${trial.skipped}: there was no time`]]),
          ['differ', `${changes.length}${trial.untold === 0 ? '' : ` and ${trial.untold} more`}`],
        ]),
    ...(problem === null ? [] : [['problem', problem]]),
  ];
  return columns([], rows);
}

export function shadowDiffText({ trial, changes }: ClusterShadowMessage): string {
  if (trial === null) return 'no policies are tried';
  return diffText({ changes, asked: trial.asked, gone: 0, untold: 0 }).replace(
    'kinds of flow',
    'events of flows',
  );
}

/** From the pods on the left to those above, by their numbers. */
export function matrixTable(
  pods: readonly string[],
  answers: readonly (readonly ('allow' | 'deny')[])[],
): string {
  const head = ['', 'FROM \\ TO', ...pods.map((_, i) => String(i + 1))];
  const rows = pods.map((pod, i) => [
    String(i + 1),
    pod,
    ...answers[i]!.map((it) => (it === 'allow' ? '.' : 'X')),
  ]);
  return `${columns(head, rows)}\n. allowed  X denied`;
}

/** A block for each path, a line for each stage. */
export function traceText({ from, to, protocol, arrives, paths }: TraceMessage): string {
  const clean = (it: string): string => it.replaceAll(/\p{Cc}/gu, '?');
  const blocks = paths.map(({ backend, stages, arrives: isThere }) => {
    const rows = stages.map(({ node, stage, outcome, reason, text }) => [
      node,
      stage,
      outcome === 'passes' ? 'ok' : `dropped: ${reason}`,
      text,
    ]);
    const which = backend === null ? '' : `by endpoint ${backend}: `;
    const end = isThere ? pico.green('arrives') : pico.red('does not arrive');
    return `${columns([], rows)}\n${clean(which)}${end}`;
  });
  const summary =
    paths.length < 2
      ? []
      : [
          `${paths.filter((it) => it.arrives).length} of ${paths.length} paths arrive` +
            (arrives ? '' : ': a flow gets one of them'),
        ];
  return [`${clean(from)} > ${clean(to)} ${protocol}`, ...blocks, ...summary].join('\n\n');
}

/** What became of a packet, for people. */
const OUTCOMES: Readonly<Record<LiveTraceMessage['outcome'], string>> = {
  answered: 'answered',
  refused: 'refused',
  dropped: 'dropped',
  'no answer': 'no answer: it went on from where it was seen last',
  'not seen': 'not seen: the host refused it before the TUN, or has no route for the pod',
};

export function liveTraceText({ trace, seen, answer, outcome }: LiveTraceMessage): string {
  const rows = seen.map((it) => [
    it.node,
    it.atMs === null ? '' : `${it.atMs} ms`,
    it.direction,
    `${it.source ?? '?'} > ${it.destination ?? '?'}`,
    it.text,
  ]);
  const color = outcome === 'answered' ? pico.green : pico.red;
  const end = `${color(OUTCOMES[outcome])}${answer === null ? '' : `: ${answer}`}`;
  const sent = rows.length === 0 ? 'sent one packet' : columns([], rows);
  return `${traceText(trace)}\n\n${sent}\n${end}`;
}
