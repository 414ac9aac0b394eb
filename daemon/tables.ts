/** What the operator's commands print. */
import Table from 'cli-table3';
import pico from 'picocolors';
import type { Kind } from '../objects/types.ts';
import type { Verdict } from '../policy/reference.ts';
import { DROP_TEXTS } from '../wire/drop-texts.ts';
import {
  type IpamMessage,
  type LeaseMessage,
  type LeasesMessage,
  type LiveTraceMessage,
  type ObjectsStatus,
  type PolicyChangeMessage,
  type PolicyDiffMessage,
  type ShadowMessage,
  type StatusMessage,
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

/** Columns by spaces; `head` empty for none. Cells come from etcd: no control character gets through. */
function columns(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    chars: PLAIN,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
    ...(head.length === 0 ? {} : { head: head.map((it) => pico.bold(it)) }),
  });
  table.push(...rows.map((row) => row.map((cell) => cell.replaceAll(/\p{Cc}/gu, '?'))));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

const orDash = (...texts: (string | null)[]): string =>
  texts.filter((it) => it !== null).join(', ') || '-';

const leaseRow = (lease: LeaseMessage): string[] => [
  orDash(lease.subnet, lease.ipv6Subnet),
  orDash(lease.publicIp, lease.publicIpv6),
  orDash(lease.vtepMac ?? lease.vtepMacV6),
  [lease.own ? 'this node' : '', lease.reserved ? 'reserved' : ''].filter(Boolean).join(', '),
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

function leaseEnd(lease: NonNullable<StatusMessage['lease']>): string {
  if (lease.endsInS === null) return 'no end';
  const minutes = Math.floor(lease.endsInS / 60);
  return `ends in ${Math.floor(minutes / 60)} h ${minutes % 60} min unless renewed`;
}

/** So many problems are shown; -o json has them all. */
const PROBLEMS_SHOWN = 5;

function objectRows({ listed, policies, services, problems }: ObjectsStatus): string[][] {
  const rows = [
    ['policies', listed ? String(policies) : 'not listed yet'],
    ['Services', listed ? String(services) : 'not listed yet'],
  ];
  if (problems.length === 0) return rows;
  const more = problems.length - PROBLEMS_SHOWN;
  return [
    ...rows,
    ['problems', String(problems.length)],
    ...problems.slice(0, PROBLEMS_SHOWN).map((it) => ['', it]),
    ...(more > 0 ? [['', `and ${more} more: weft status -o json`]] : []),
  ];
}

/** Of the counter `drop.REASON` what the reason means, of others nothing. */
function dropMeans(counter: string): string {
  const [kind, reason = ''] = counter.split('.');
  if (kind !== 'drop' || !Object.hasOwn(DROP_TEXTS, reason)) return '';
  return DROP_TEXTS[reason as keyof typeof DROP_TEXTS].means;
}

export function statusText(status: StatusMessage): string {
  const { overlay, underlay, lease, offloads, objects } = status;
  const used = Object.entries(offloads ?? {}).flatMap(([name, on]) => (on ? [name] : []));
  const rows = [
    ['node', `${status.node}, weft ${status.version}, pid ${status.pid}`],
    ['since', status.startedAt],
    ['forwarding', status.forwarding ? pico.green('yes') : pico.red('no')],
    ['ready', status.ready ? pico.green('yes') : pico.red('no')],
    ...status.reasons.map((it) => ['', it]),
    ['etcd', `${status.etcd.endpoints.join(', ')}${status.etcd.own ? ' (our own)' : ''}`],
    [
      'underlay',
      `${underlay.iface}, MTU ${underlay.mtuBytes}, ${orDash(underlay.publicIp, underlay.publicIpv6)}`,
    ],
    ...(overlay === null
      ? []
      : [
          [
            'overlay',
            `${overlay.tunName}, MTU ${overlay.mtuBytes}, ${orDash(overlay.network, overlay.ipv6Network)}`,
          ],
          [
            'VXLAN',
            `VNI ${overlay.vni}, port ${overlay.port}${overlay.directRouting ? ', direct routing' : ''}`,
          ],
        ]),
    [
      'lease',
      lease === null ? '-' : `${orDash(lease.subnet, lease.ipv6Subnet)}, ${leaseEnd(lease)}`,
    ],
    ['pods', String(status.pods)],
    ...(objects === null ? [] : objectRows(objects)),
    ['offloads', offloads === null ? '-' : used.join(', ') || 'none'],
  ];
  const plain = rows.map((row) => row.map(String));
  const parts = [
    plain.map(([name, value]) => `${(name ?? '').padEnd(11)} ${value ?? ''}`.trimEnd()).join('\n'),
  ];
  if (status.peers.length > 0) {
    parts.push(columns(['PEER', 'NODE', 'VTEP', ''], status.peers.map(leaseRow)));
  }
  const counters = Object.entries(status.counters).filter(([, value]) => value !== 0);
  if (counters.length > 0) {
    parts.push(
      columns(
        ['COUNTER', '', ''],
        counters.map(([name, value]) => [name, String(value), dropMeans(name)]),
      ),
    );
  }
  return parts.join('\n\n');
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

export function diffText({ changes, asked, gone }: PolicyDiffMessage): string {
  const denied = changes.filter(({ after }) => after === 'deny').length;
  const what = `${changes.length === 0 ? 'nothing changes' : `${denied} newly denied, ${changes.length - denied} newly allowed`}, of ${asked} kinds of flow`;
  const lost = gone === 0 ? '' : `; ${gone} more are of pods that are gone`;
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

export function shadowDiffText(message: ShadowMessage): string {
  const { trial, problem, changes } = message;
  if (trial === null)
    return problem === null
      ? 'no policies are tried'
      : `ignored: ${problem}`.replaceAll(/\p{Cc}/gu, '?');
  return diffText({ changes, asked: trial.asked, gone: 0 }).replace(
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
  dropped: 'dropped on this node',
  'no answer': 'no answer: it left this node, and what became of it is not watched there',
  'not seen': 'not seen: the host refused it before the TUN, or has no route for the pod',
};

export function liveTraceText({ trace, seen, answer, outcome }: LiveTraceMessage): string {
  const rows = seen.map((it) => [
    `${it.atMs} ms`,
    it.direction,
    `${it.source ?? '?'} > ${it.destination ?? '?'}`,
    it.text,
  ]);
  const color = outcome === 'answered' ? pico.green : pico.red;
  const end = `${color(OUTCOMES[outcome])}${answer === null ? '' : `: ${answer}`}`;
  const sent = rows.length === 0 ? 'sent one packet' : columns([], rows);
  return `${traceText(trace)}\n\n${sent}\n${end}`;
}
