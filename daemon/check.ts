/**
 * `weft check`: named scenarios, from the daemon's answer up to packets between pods of two throw-away network
 * namespaces. What a scenario needs and is not there skips it, with why.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type CheckResult, type Finding, failed, ok, skipped } from './check-result.ts';
import { type CheckPod, addCheckPod, missingPrograms } from './check-pod.ts';
import { failedOn, ofServedPods, pingArgv } from './check-served.ts';
import type {
  HostDifferencesMessage,
  LinkProbeMessage,
  PeersMessage,
  StatusMessage,
} from './messages.ts';
import type { Ask } from './object-commands.ts';

interface Scenario {
  readonly name: string;
  readonly run: () => Promise<Finding> | Finding;
}

const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/** While the daemon sets something right, it is not wrong. */
const HOST_TRIES = 3;
const HOST_TRY_EVERY_MS = 700;

function ofStatus(status: StatusMessage, ask: Ask): readonly Scenario[] {
  const { lease, overlay, offloads, offloadsGivenUp, counters } = status;
  return [
    {
      name: 'etcd answers',
      run: async () => {
        try {
          await ask('GET', '/v1/leases');
          return ok(status.etcd.endpoints.join(', '));
        } catch (error) {
          return failed(
            messageOf(error),
            `look at etcd and the way to it: ${status.etcd.endpoints.join(', ')}`,
          );
        }
      },
    },
    {
      name: 'this node holds a subnet',
      run: () =>
        lease === null
          ? failed(
              status.reasons[0] ?? 'none is leased',
              'weft status says why; is a subnet left? weft leases',
            )
          : ok([lease.subnet, lease.ipv6Subnet].filter((it) => it !== null).join(', ')),
    },
    {
      name: 'policies and Services are known',
      run: () => {
        if (status.objects === null) return skipped('a plain overlay (--max-flows 0)');
        const { listed, policies, services, failure } = status.objects;
        if (listed && failure === null) return ok(`${policies} policies, ${services} Services`);
        return failed(
          failure ?? 'they have not been listed yet',
          'nothing passes pods until they are: weft status',
        );
      },
    },
    {
      name: 'interface, routes, rules and nft table are as they should be',
      run: async () => {
        if (lease === null) return skipped('there is no subnet yet');
        let found: readonly string[] = [];
        for (let i = 0; i < HOST_TRIES; i++) {
          if (i > 0) await sleep(HOST_TRY_EVERY_MS);
          ({ differences: found } = await ask<HostDifferencesMessage>('GET', '/v1/host/check'));
          if (found.length === 0) return ok(`${overlay?.tunName}, MTU ${overlay?.mtuBytes}`);
        }
        return failed(
          found.join('; '),
          'something else takes it away as often as it is set, or it cannot be set: weft status',
        );
      },
    },
    {
      name: 'the host firewall lets the tunnel through',
      run: () => {
        const reason = offloadsGivenUp['tunnelGso'];
        if (reason !== undefined && (counters['tunnelWrites'] ?? 0) > 0) {
          return failed(
            reason,
            "allow the overlay's traffic in the host's firewall (forward chain)",
          );
        }
        if (offloads?.['tunnelGso'] !== true) return skipped('tunnel-gso is not in use');
        return ok('what was written into the tunnel left this host');
      },
    },
  ];
}

const isUp = (links: readonly LinkProbeMessage[]): boolean =>
  links.length > 0 && links.every((it) => it.received > 0);
const addresses = (links: readonly LinkProbeMessage[]): string =>
  links.map((it) => `${it.address} ${it.avgMs === null ? 'silent' : `${it.avgMs} ms`}`).join(', ');

/** Of one peer, from what it has just answered. */
export function ofPeer(
  { node, probe }: PeersMessage['peers'][number],
  port: number,
): readonly CheckResult[] {
  const links = probe?.links ?? [];
  const below = links.filter((it) => it.kind === 'underlay');
  const inside = links.filter((it) => it.kind === 'overlay');
  const isInsideUp = isUp(inside);
  const reached = (): Finding => {
    if (isUp(below)) return ok(addresses(below));
    const text = below.length === 0 ? 'it has no address of a family of ours' : addresses(below);
    if (isInsideUp) return skipped(`${text}; but it answers through the tunnel`);
    return failed(text, 'is the node up, and the way to it? ping its address');
  };
  const tunnelled = (): Finding => {
    if (isInsideUp) return ok(addresses(inside));
    if (inside.length === 0) {
      return failed('no end point of it is known', 'does its daemon run? weft leases');
    }
    return failed(
      addresses(inside),
      `does its daemon run, and does a firewall between drop UDP port ${port}? weft status there`,
    );
  };
  const sized = (): Finding => {
    if (!isInsideUp) return skipped('it does not answer through the tunnel');
    const small = inside.find((it) => (it.pathMtuBytes ?? 0) < it.expectedMtuBytes);
    if (small === undefined) return ok(`${inside[0]?.expectedMtuBytes} bytes`);
    return failed(
      `${small.address}: ${small.pathMtuBytes} of ${small.expectedMtuBytes} bytes`,
      'set MTU in the network config, or mend the way between the nodes',
    );
  };
  return [
    { name: `${node} answers in the underlay`, ...reached() },
    { name: `${node} answers through the tunnel`, ...tunnelled() },
    { name: `${node} gets packets of full size`, ...sized() },
  ];
}

async function* ofPeers(status: StatusMessage, ask: Ask): AsyncGenerator<CheckResult> {
  const name = 'other nodes';
  if (status.peers.length === 0) {
    yield { name, ...skipped('there are none') };
    return;
  }
  const { peers, problem } = await ask<PeersMessage>('POST', '/v1/peers/probe');
  if (problem !== null) {
    yield { name, ...skipped(problem) };
    return;
  }
  for (const it of peers) yield* ofPeer(it, status.overlay?.port ?? 0);
}

async function* ofPods(
  status: StatusMessage,
  ask: Ask,
  signal: AbortSignal,
): AsyncGenerator<CheckResult> {
  const { forwarding, peers } = status;
  const name = 'pods can be added';
  const missing = missingPrograms();
  if (!forwarding) {
    yield { name, ...skipped('nothing is forwarded at the moment') };
    return;
  }
  if (missing.length > 0) {
    yield { name, ...skipped(`not installed: ${missing.join(', ')}`) };
    return;
  }
  await using pods = new AsyncDisposableStack();
  const [idA, idB] = [`weft-check-${process.pid}-a`, `weft-check-${process.pid}-b`];
  let a: CheckPod;
  let b: CheckPod;
  try {
    a = pods.use(await addCheckPod({ containerId: idA, pod: null }, ask, signal));
    b = pods.use(await addCheckPod({ containerId: idB, pod: null }, ask, signal));
  } catch (error) {
    signal.throwIfAborted();
    const remedy = 'weft status and the log say more; is an address left? weft ipam show';
    yield { name, ...failed(messageOf(error), remedy) };
    return;
  }
  yield { name, ...ok([...a.addresses, ...b.addresses].join(', ')) };
  const basesOf = (it: { subnet: string | null; ipv6Subnet: string | null }): string[] =>
    [it.subnet, it.ipv6Subnet].flatMap((block) => (block === null ? [] : [block.split('/')[0]!]));
  const rows: readonly (readonly [string, CheckPod, string, readonly string[]])[] = [
    ['a pod reaches another one of this node', a, idA, b.addresses],
    ['and the other way', b, idB, a.addresses],
    ...peers
      .filter((it) => it.vtepMac !== null || it.vtepMacV6 !== null)
      .map((it) => [`a pod reaches the node of ${it.key}`, a, idA, basesOf(it)] as const),
  ];
  for (const [scenario, from, containerId, to] of rows) {
    const silent: string[] = [];
    for (const it of to) if (!(await from.run(pingArgv(it))).isDone) silent.push(it);
    signal.throwIfAborted();
    const [first] = silent;
    if (first === undefined) {
      yield { name: scenario, ...ok(to.join(', ')) };
      continue;
    }
    const way = { containerId, to: first, protocol: 'ICMP' } as const;
    const text = `no answer from ${silent.join(', ')}`;
    const remedy = 'does a firewall of the host forbid it? weft status';
    yield { name: scenario, ...(await failedOn(way, ask, text, remedy)) };
  }
  yield* ofServedPods(status, a, idA, ask, signal);
}

/** One after the other, as they are done. What was made for them is gone at the end. */
export async function* runChecks(ask: Ask, signal: AbortSignal): AsyncGenerator<CheckResult> {
  const name = 'the daemon answers';
  let status: StatusMessage;
  try {
    status = await ask<StatusMessage>('GET', '/v1/status');
  } catch (error) {
    yield { name, ...failed(messageOf(error), 'start it: weft daemon, or name its --state-dir') };
    return;
  }
  yield { name, ...ok(`${status.node}, weft ${status.version}, pid ${status.pid}`) };
  for (const scenario of ofStatus(status, ask)) {
    signal.throwIfAborted();
    let finding: Finding;
    try {
      finding = await scenario.run();
    } catch (error) {
      finding = failed(messageOf(error), 'weft status and the log say more');
    }
    yield { name: scenario.name, ...finding };
  }
  yield* ofPeers(status, ask);
  yield* ofPods(status, ask, signal);
}
