/** What `weft status` prints: in a line, in short, or all of it. */
import pico from 'picocolors';
import { DROP_TEXTS, type DropText } from '../wire/drop-texts.ts';
import { isWrong } from './diagnose.ts';
import type { FindingMessage, ObjectsStatus, StatusMessage } from './messages.ts';
import { columns, leaseRow, orDash, printable } from './tables.ts';

export type Detail = 'brief' | 'usual' | 'verbose';

/** So many problems and peers are shown unless all are asked for. */
const PROBLEMS_SHOWN = 5;
const PEERS_SHOWN = 20;

const COLORS = { error: pico.red, warning: pico.yellow, note: pico.dim } as const;

/** `23 h 59 min`, `4 min 10 s`, `9 s`; of whole seconds. */
function span(seconds: number): string {
  const [h, min, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (h > 0) return `${h} h ${min} min`;
  return min > 0 ? `${min} min ${s} s` : `${s} s`;
}

function leaseText({ lease }: StatusMessage): string {
  if (lease === null) return '-';
  const end = lease.endsInS === null ? 'no end' : `${span(lease.endsInS)} left unless renewed`;
  return `${orDash(lease.subnet, lease.ipv6Subnet)}, ${end}`;
}

function etcdText({ etcd }: StatusMessage): string {
  const who = `${etcd.endpoints.join(', ')}${etcd.own ? ' (our own)' : ''}`;
  return etcd.unreachable === null ? who : `${who}, unreachable since ${etcd.unreachable.since}`;
}

function offloadsText({ offloads, offloadsGivenUp }: StatusMessage): string {
  if (offloads === null) return '-';
  const on = Object.entries(offloads).flatMap(([name, used]) => (used ? [name] : []));
  const off = Object.keys(offloads).filter((name) => !on.includes(name));
  const why = (name: string): string => (Object.hasOwn(offloadsGivenUp, name) ? ' (given up)' : '');
  const used = on.join(', ') || 'none';
  return off.length === 0 ? used : `${used}; off: ${off.map((it) => it + why(it)).join(', ')}`;
}

function objectRows({ listed, policies, services, problems }: ObjectsStatus, detail: Detail) {
  const rows = [
    ['policies', listed ? String(policies) : 'not listed yet'],
    ['Services', listed ? String(services) : 'not listed yet'],
  ];
  if (problems.length === 0) return rows;
  const shown = detail === 'verbose' ? problems : problems.slice(0, PROBLEMS_SHOWN);
  const more = problems.length - shown.length;
  return [
    ...rows,
    ['problems', String(problems.length)],
    ...shown.map((it) => ['', it]),
    ...(more > 0 ? [['', `and ${more} more: weft status --verbose`]] : []),
  ];
}

const findingText = (it: FindingMessage): string =>
  [
    `${COLORS[it.severity](it.severity)}: ${printable(it.what)} [${it.code}]`,
    `  ${printable(it.consequence)}`,
    `  what to do: ${printable(it.remedy)}`,
  ].join('\n');

/** Null: the name is no drop reason. */
const dropText = (name: string): DropText | null =>
  Object.hasOwn(DROP_TEXTS, name) ? DROP_TEXTS[name as keyof typeof DROP_TEXTS] : null;

/** Only those that were counted; `verbose` has everything that was. */
function counterTables({ counters, dropsPerSecond }: StatusMessage, detail: Detail): string[] {
  const counted = Object.entries(counters).filter(([, value]) => value !== 0);
  const dropped = counted.flatMap(([name, value]) => {
    const meaning = name.startsWith('drop.') ? dropText(name.slice(5)) : null;
    return meaning === null ? [] : [{ name: name.slice(5), value, ...meaning }];
  });
  const others = counted.filter(([name]) => dropText(name.replace('drop.', '')) === null);
  const hostDrops = others.filter(([name]) => name.startsWith('host.'));
  const shown = detail === 'verbose' ? others : hostDrops;
  const tables: string[] = [];
  if (dropped.length > 0) {
    tables.push(
      columns(
        ['DROPPED', 'PACKETS', 'A SECOND NOW', 'BECAUSE', 'WHAT TO DO'],
        dropped.map((it) => [
          it.name,
          String(it.value),
          String(dropsPerSecond[it.name] ?? 0),
          it.means,
          it.action,
        ]),
      ),
    );
  }
  if (shown.length > 0) {
    tables.push(
      columns(
        ['COUNTER', ''],
        shown.map(([name, value]) => [name, String(value)]),
      ),
    );
  }
  return tables;
}

function briefText(status: StatusMessage): string {
  const { node, lease, peers, pods, objects, findings } = status;
  const wrong = findings.filter(isWrong);
  const parts = [
    lease === null ? 'no subnet' : orDash(lease.subnet, lease.ipv6Subnet),
    `${peers.length} peers`,
    `${pods} pods`,
    ...(objects === null ? [] : [`${objects.policies} policies`, `${objects.services} Services`]),
  ];
  const word = wrong.length === 0 ? pico.green('ok') : pico.red('wrong');
  const [first] = wrong;
  const more = wrong.length > 1 ? ` (and ${wrong.length - 1} more)` : '';
  const why = first === undefined ? '' : `: ${printable(first.what)}${more}`;
  return `${word} ${printable(node)}, ${parts.join(', ')}${why}`;
}

const YES_OR_NO: ReadonlySet<string> = new Set(['forwarding', 'ready']);
const colored = (text: string): string => (text === 'yes' ? pico.green(text) : pico.red(text));

export function statusText(status: StatusMessage, detail: Detail): string {
  if (detail === 'brief') return briefText(status);
  const { overlay, underlay, objects, peers } = status;
  const yes = (it: boolean): string => (it ? 'yes' : 'no');
  const rows = [
    ['node', `${status.node}, weft ${status.version}, pid ${status.pid}`],
    ['since', status.startedAt],
    ['forwarding', yes(status.forwarding)],
    ['ready', yes(status.ready)],
    ...status.reasons.map((it) => ['', it]),
    ['etcd', etcdText(status)],
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
    ['lease', leaseText(status)],
    ['pods', String(status.pods)],
    ...(objects === null ? [] : objectRows(objects, detail)),
    ['workers', String(status.workers)],
    ['offloads', offloadsText(status)],
    ['peers', String(peers.length)],
  ];
  const lines = rows.map(([name = '', value = '']) =>
    `${name.padEnd(11)} ${YES_OR_NO.has(name) ? colored(value) : printable(value)}`.trimEnd(),
  );
  const parts = [lines.join('\n')];
  const shown = detail === 'verbose' ? peers : peers.slice(0, PEERS_SHOWN);
  if (shown.length > 0) {
    const more = peers.length - shown.length;
    const rest = more > 0 ? `\nand ${more} more: weft peers` : '';
    parts.push(`${columns(['PEER', 'NODE', 'VTEP', ''], shown.map(leaseRow))}${rest}`);
  }
  parts.push(...counterTables(status, detail), ...status.findings.map(findingText));
  return parts.join('\n\n');
}
