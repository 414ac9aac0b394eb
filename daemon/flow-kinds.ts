/**
 * Kinds of flow, from whom to whom by which protocol and port: what many events of one node come to, and what
 * nodes tell one another instead of these. A flow passes two nodes, and both tell it: it counts where it
 * came into the overlay, and only if that node does not tell it, where it went.
 */
import { type Pod, type Protocol, nameOf } from '../objects/types.ts';
import { type IpAddress, addressOrNull, formatAddress } from '../wire/address.ts';
import { protocolName } from '../wire/protocol-names.ts';
import type { PolicyEvent } from './flow-log.ts';
import type { FlowEndMessage, FlowKindMessage, FlowQuestion } from './messages.ts';
import type { Names } from './names.ts';
import type { SeenFlow } from './policy-diff.ts';

const PORTED: Readonly<Record<number, Protocol>> = { 6: 'TCP', 17: 'UDP', 132: 'SCTP' };

/** The same for flows of one kind. */
export const kindKey = ({ source, destination, protocol, port, told }: PolicyEvent): string => {
  const text = (address: IpAddress): string => formatAddress(address);
  const service = told.service === null ? '' : `${told.service.namespace}/${told.service.name}`;
  return `${text(source)} ${text(destination)} ${told.protocol} ${protocol} ${port} ${service}`;
};

const podName = (pod: Pod | null): string | null => (pod === null ? null : nameOf(pod));
const iso = (ms: number): string => new Date(ms).toISOString();

/**
 * What these events come to, in the order of the first of each.
 * @param entersHere  may a packet with this source come into the overlay on this node? Else another sent it
 */
export function kindsOf(
  events: readonly PolicyEvent[],
  entersHere: (source: IpAddress) => boolean,
): readonly FlowKindMessage[] {
  const kinds = new Map<string, { event: PolicyEvent; count: number; lastMs: number }>();
  for (const event of events) {
    const { frontend, sourcePod, destinationPod } = event;
    const asked = frontend === null ? '' : `${formatAddress(frontend.address)} ${frontend.port}`;
    const pods = `${podName(sourcePod) ?? ''} ${podName(destinationPod) ?? ''}`;
    const key = `${kindKey(event)} ${asked} ${pods} ${event.isOut}`;
    const known = kinds.get(key);
    if (known === undefined) kinds.set(key, { event, count: 1, lastMs: event.timeMs });
    else {
      known.count++;
      known.lastMs = event.timeMs;
    }
  }
  return Array.from(kinds.values(), ({ event, count, lastMs }): FlowKindMessage => {
    const { source, destination, protocolNumber, port, frontend } = event;
    return {
      source: formatAddress(source),
      destination: formatAddress(destination),
      protocol: protocolNumber,
      port,
      frontend: frontend && { ...frontend, address: formatAddress(frontend.address) },
      sourcePod: podName(event.sourcePod),
      destinationPod: podName(event.destinationPod),
      // Also without VXLAN (--direct-routing), where it seems to come from this node's side.
      entered: event.isOut && entersHere(source),
      count,
      firstSeen: iso(event.timeMs),
      lastSeen: iso(lastMs),
    };
  });
}

/** @returns also how many are left out */
export function newestKinds<K extends FlowQuestion>(
  kinds: readonly K[],
  max: number,
): { readonly kinds: readonly K[]; readonly untold: number } {
  if (kinds.length <= max) return { kinds, untold: 0 };
  const newest = kinds.toSorted((a, b) => (a.lastSeen < b.lastSeen ? 1 : -1)).slice(0, max);
  return { kinds: newest, untold: kinds.length - max };
}

/** What policy is asked about it: not who asked for which Service. */
const flowKey = ({ source, destination, protocol, port }: FlowQuestion): string =>
  `${source} ${destination} ${protocol} ${port}`;

/** Each once, of all that nodes have told. @param told  a list of each node */
export function joinKinds(
  told: readonly (readonly FlowKindMessage[])[],
): readonly FlowKindMessage[] {
  const entered = new Set(told.flat().flatMap((it) => (it.entered ? [flowKey(it)] : [])));
  const kinds = new Map<string, FlowKindMessage>();
  for (const it of told.flat()) {
    if (!it.entered && entered.has(flowKey(it))) continue;
    const { frontend, sourcePod, destinationPod } = it;
    const key = JSON.stringify([flowKey(it), frontend, sourcePod, destinationPod]);
    const known = kinds.get(key);
    kinds.set(
      key,
      known === undefined
        ? it
        : {
            ...known,
            count: known.count + it.count,
            firstSeen: known.firstSeen < it.firstSeen ? known.firstSeen : it.firstSeen,
            lastSeen: known.lastSeen > it.lastSeen ? known.lastSeen : it.lastSeen,
          },
    );
  }
  return [...kinds.values()];
}

/** The pod that had the address then has it still; or it was nobody's, and is. */
function isOwner(names: Names, address: string, pod: string | null): boolean {
  const parsed = addressOrNull(address);
  return parsed !== null && podName(names.pod(parsed)) === pod;
}

/** With the names of now. @returns also how many flows are of pods that are gone */
export function presentFlows(
  kinds: readonly FlowKindMessage[],
  names: Names,
): { readonly flows: readonly SeenFlow[]; readonly gone: number } {
  const gone = new Set<string>();
  const here = new Set<string>();
  const flows: SeenFlow[] = [];
  for (const it of kinds) {
    const isHere =
      isOwner(names, it.source, it.sourcePod) && isOwner(names, it.destination, it.destinationPod);
    const flow = isHere ? seenFlow(it, names, it.frontend) : null;
    if (flow !== null) flows.push(flow);
    (flow === null ? gone : here).add(flowKey(it));
  }
  return { flows, gone: gone.difference(here).size };
}

/** A flow as it is asked about, with the names of now. @returns null: an address is none */
export function seenFlow(
  it: FlowQuestion,
  names: Names,
  frontend: FlowKindMessage['frontend'] = null,
): SeenFlow | null {
  const source = addressOrNull(it.source);
  const destination = addressOrNull(it.destination);
  if (source === null || destination === null) return null;
  const ported = PORTED[it.protocol] ?? null;
  const end = (address: IpAddress, port: number | null): FlowEndMessage => {
    const pod = names.pod(address);
    return {
      address: formatAddress(address),
      port,
      namespace: pod?.metadata.namespace ?? null,
      pod: pod?.metadata.name ?? null,
      node: pod === null ? names.node(address) : pod.nodeName || null,
    };
  };
  const asked = frontend === null ? null : addressOrNull(frontend.address);
  const chosenFor = asked && names.service(ported, asked, frontend!.port);
  const service = chosenFor ?? names.service(ported, destination, it.port);
  const isFrontend = chosenFor === null && service !== null && names.pod(destination) === null;
  const port = ported === null ? null : it.port;
  return {
    source,
    destination,
    protocol: ported ?? 'other',
    port: port ?? 0,
    isFrontend,
    told: {
      source: end(source, null),
      // As the client asked.
      destination: chosenFor === null ? end(destination, port) : end(asked!, frontend!.port),
      service,
      protocol: ported ?? protocolName(it.protocol) ?? String(it.protocol),
    },
    count: it.count,
    firstMs: Date.parse(it.firstSeen),
    lastMs: Date.parse(it.lastSeen),
  };
}
