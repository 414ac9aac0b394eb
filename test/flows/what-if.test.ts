/**
 * What if the policies were others, with real daemons and connections: asked of the flows that were seen,
 * before anything is applied.
 *
 *     n1: default/client        n2: default/web, default/db
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type {
  ClusterShadowMessage,
  FlowMessage,
  PolicyDiffMessage,
  ShadowMessage,
} from '../../daemon/messages.ts';
import { type Output, collect, poll } from '../../linux/program.ts';
import {
  Cluster,
  type LabClient,
  type Manifest,
  answerOf,
  netpol,
  service,
} from '../lab/cluster.ts';
import { within } from '../overlay/pair.ts';
import { tcp as tcpPacket } from '../packets/build.ts';
import { LINKTYPE_RAW, pcapngHeader, pcapngPacket } from '../../wire/pcapng.ts';
import { TCP_SYN } from '../../wire/tcp.ts';

const WEFT = join(import.meta.dirname, '..', '..', 'bin', 'weft');
const VIP = '10.96.0.41';
/** Each look starts a program. */
const SEEN_WITHIN_MS = 20_000;

let cluster: Cluster;
let client: LabClient;
let web: LabClient;
let db: LabClient;

const dbClosed = netpol('db-closed', {
  podSelector: { matchLabels: { app: 'db' } },
  ingress: [],
});
const dbOpen = netpol('db-closed', {
  podSelector: { matchLabels: { app: 'db' } },
  ingress: [{ from: [{ podSelector: { matchLabels: { app: 'client' } } }] }],
});
const webClosed = netpol('web-closed', {
  podSelector: { matchLabels: { app: 'web' } },
  ingress: [],
});

test.before(async () => {
  cluster = await Cluster.open('wi', 'etcd');
  ({ client, web, db } = await cluster.addShop(VIP));
  await cluster.put(dbClosed);
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const tcp = (address: string, port: number) => ({ protocol: 'TCP', address, port }) as const;

const weft = (node: 0 | 1, ...args: readonly string[]): Promise<Output> => {
  const { stateDir, netns } = cluster.nodes[node];
  return collect([WEFT, ...args, `--state-dir=${stateDir}`], { netns });
};

async function fileOf(name: string, ...objects: readonly Manifest[]): Promise<string> {
  const path = join(cluster.lab.directory, name);
  await writeFile(path, objects.map((it) => JSON.stringify(it)).join('\n---\n'));
  return path;
}

test.serial('weft policy diff: of the flows that were seen, which would change', async (t) => {
  t.regex(await answerOf(client.prober, tcp(web.pod.address4!, 8080), /^8080 /), /^8080 /);
  t.regex(await answerOf(client.prober, tcp(VIP, 80), /^8080 /), /^8080 /);
  t.is(await answerOf(client.prober, tcp(db.pod.address4!, 8080), /^nothing$/), 'nothing');

  const candidate = await fileOf('candidate.yaml', webClosed, dbOpen);
  const { stdout, stderr, exitCode } = await weft(
    0,
    'policy',
    'diff',
    '-f',
    candidate,
    '-o',
    'json',
  );
  t.is(exitCode, 1, stderr);
  const { changes, gone } = JSON.parse(stdout) as PolicyDiffMessage;
  t.is(gone, 0);
  const brief = changes
    .map(
      ({ source, destination, service: of, backend, protocol, before, after }) =>
        `${source.pod} > ${of?.name ?? destination.pod} ${backend?.pod ?? '-'} ${protocol} ${before} ${after}`,
    )
    .toSorted();
  t.deepEqual(brief, [
    'client > db - TCP deny allow',
    'client > web - TCP allow deny',
    'client > web web TCP allow deny',
  ]);

  // Both nodes have seen these flows, and tell them once, whichever is asked.
  const counted = async (node: 0 | 1): Promise<string[]> => {
    const got = await weft(node, 'policy', 'diff', '-f', candidate, '-o', 'json');
    const message = JSON.parse(got.stdout) as PolicyDiffMessage;
    t.deepEqual(message.absent, []);
    return message.changes
      .map(({ source, destination, backend, count }) =>
        [source.pod, destination.pod, backend?.pod, count].join(' '),
      )
      .toSorted();
  };
  t.deepEqual(await counted(1), await counted(0));
  const began = await weft(0, 'flows', '--node=own', '--to=default/web', '-o', 'json');
  t.is(
    changes.reduce((sum, it) => sum + (it.after === 'deny' ? it.count : 0), 0),
    (JSON.parse(began.stdout) as FlowMessage[]).length,
  );

  const same = await weft(0, 'policy', 'diff', '-f', await fileOf('same.yaml', dbClosed));
  t.is(same.exitCode, 0);
  t.regex(same.stdout, /^nothing changes, of \d+ kinds of flow/);

  const alone = await weft(
    0,
    'policy',
    'diff',
    '--replace',
    '-f',
    await fileOf('w.yaml', webClosed),
  );
  t.is(alone.exitCode, 1);
  t.regex(alone.stdout, /deny -> allow +default\/client +default\/db +TCP\/8080/);
  t.regex(alone.stdout, /\n2 newly denied, 1 newly allowed, of \d+ kinds of flow/);

  const wrong = await weft(
    0,
    'policy',
    'diff',
    '-f',
    await fileOf('none.yaml', service('s', [VIP], {})),
  );
  t.is(wrong.exitCode, 2);

  const capture = join(cluster.lab.directory, 'seen.pcapng');
  const ends = { source: client.pod.address4!, destination: web.pod.address4!, sourcePort: 4000 };
  const packet = tcpPacket({ ...ends, destinationPort: 8080, flags: TCP_SYN }, Buffer.alloc(0));
  const block = { timeNs: 0n, packet, bytes: packet.length, direction: null, comment: null };
  await writeFile(
    capture,
    Buffer.concat([pcapngHeader(LINKTYPE_RAW, 65_535, 'eth0', 'test'), pcapngPacket(block)]),
  );
  const captured = await weft(0, 'policy', 'diff', '-f', candidate, '--against', capture);
  t.is(captured.exitCode, 1, captured.stderr);
  t.regex(captured.stdout, /allow -> deny +default\/client +default\/web +TCP\/8080/);
  t.regex(captured.stdout, /1 newly denied, 0 newly allowed, of 1 kinds of flow/);
  t.is((await weft(0, 'policy', 'diff', '-f', candidate, '--against', candidate)).exitCode, 2);
  t.is((await weft(0, 'policy', 'diff', '-f', candidate, '--against', '/nowhere')).exitCode, 2);

  // Nothing was applied.
  t.regex(await answerOf(client.prober, tcp(web.pod.address4!, 8080), /^8080 /), /^8080 /);
});

const shadowOf = async (node: 0 | 1): Promise<ShadowMessage> =>
  JSON.parse((await weft(node, 'shadow', '-o', 'json')).stdout) as ShadowMessage;

test.serial('weft apply --shadow: tried on all nodes, told, and nothing enforced', async (t) => {
  const candidate = await fileOf('shadow.yaml', webClosed, dbOpen);
  const begun = await weft(0, 'apply', '--shadow', '-f', candidate);
  t.is(begun.exitCode, 0, begun.stderr);
  t.regex(begun.stdout, /^2 policies are tried/);
  await poll(
    async () => ((await shadowOf(1)).trial === null ? undefined : true),
    within(SEEN_WITHIN_MS),
  );

  // The real traffic is as it was.
  for (let i = 0; i < 3; i++) {
    t.regex(await answerOf(client.prober, tcp(web.pod.address4!, 8080), /^8080 /), /^8080 /);
    t.regex(await answerOf(client.prober, tcp(VIP, 80), /^8080 /), /^8080 /);
  }
  t.is(await client.prober.ask({ ...tcp(db.pod.address4!, 8080), timeoutMs: 500 }), 'nothing');

  // Ingress is decided on the receiver's node: there the differences are.
  const { changes, trial } = await poll(async () => {
    const it = await shadowOf(1);
    return it.changes.length === 2 ? it : undefined;
  }, within(SEEN_WITHIN_MS));
  t.is(trial!.skipped, 0);
  const brief = changes.map(
    ({ source, destination, before, after, afterBecause }) =>
      `${source.pod} > ${destination.pod}: ${before} ${after}: ${afterBecause}`,
  );
  t.deepEqual(brief.toSorted(), [
    'client > db: deny allow: allowed by NetworkPolicy default/db-closed ingress rule 1',
    'client > web: allow deny: NetworkPolicy default/web-closed isolates pod default/web for ingress; no rule allows it',
  ]);
  t.is(changes.find(({ after }) => after === 'deny')!.count, 6);
  t.deepEqual((await shadowOf(0)).changes, []);

  const table = await weft(1, 'shadow', 'diff');
  t.is(table.exitCode, 1);
  t.regex(table.stdout, /allow -> deny +default\/client +default\/web +TCP\/8080 +6 /);
  // Whichever node is asked, what all have found.
  const elsewhere = await weft(0, 'shadow', 'diff');
  t.is(elsewhere.exitCode, 1);
  t.is(elsewhere.stderr, '');
  t.regex(elsewhere.stdout, /allow -> deny +default\/client +default\/web +TCP\/8080 +6 /);

  t.regex((await weft(0, 'shadow', 'stop')).stdout, /not|any more/);
  await poll(
    async () => ((await shadowOf(1)).trial === null ? true : undefined),
    within(SEEN_WITHIN_MS),
  );
  t.regex(await answerOf(client.prober, tcp(web.pod.address4!, 8080), /^8080 /), /^8080 /);
  t.deepEqual((await shadowOf(1)).changes, []);
});

test.serial('what denies on the way to a Service is told of its endpoint', async (t) => {
  const closed = netpol('client-closed', {
    podSelector: { matchLabels: { app: 'client' } },
    policyTypes: ['Egress'],
  });
  const opened = { ...closed, spec: { ...(closed['spec'] as object), egress: [{}] } };
  t.is((await weft(0, 'apply', '--shadow', '-f', await fileOf('open.yaml', opened))).exitCode, 0);
  await cluster.put(closed);
  t.is(await answerOf(client.prober, tcp(VIP, 80), /^nothing$/), 'nothing');
  const { changes } = await poll(async () => {
    // The first may have begun before the policy was in force, and lost its answer alone.
    await client.prober.ask({ ...tcp(VIP, 80), timeoutMs: 300 });
    const it = await shadowOf(0);
    return it.changes.length === 1 ? it : undefined;
  }, within(SEEN_WITHIN_MS));
  t.like(changes[0], {
    before: 'deny',
    after: 'allow',
    service: { namespace: 'default', name: 'web', port: '80' },
    backend: { pod: 'web', port: 8080 },
    afterBecause: 'allowed by NetworkPolicy default/client-closed egress rule 1',
  });
  const asked = ['--verdict', 'deny', '--service', 'default/web', '--last', '1'];
  const line = (await weft(0, 'flows', ...asked)).stdout;
  t.regex(line, /service\/default\/web:80 .* NetworkPolicy default\/client-closed isolates/);
  await weft(0, 'shadow', 'stop');
  await cluster.remove(closed);
});

test.serial('a node that does not answer is named, and the others count', async (t) => {
  const candidate = await fileOf('last.yaml', webClosed);
  t.is((await weft(0, 'apply', '--shadow', '-f', candidate)).exitCode, 0);
  const egress = netpol('no-exit', {
    podSelector: { matchLabels: { app: 'client' } },
    policyTypes: ['Egress'],
  });
  await cluster.daemons[1]!.stop();
  const diff = await weft(0, 'policy', 'diff', '-f', await fileOf('e.yaml', egress), '-o', 'json');
  t.is(diff.exitCode, 1);
  t.regex(diff.stderr, /^weft: without n2: (ECONN|no answer)/);
  const { changes, absent } = JSON.parse(diff.stdout) as PolicyDiffMessage;
  t.regex(absent.join('|'), /^n2: [^|]+$/);
  t.true(changes.length > 0 && changes.every(({ after }) => after === 'deny'));
  const shadow = await weft(0, 'shadow', 'diff', '-o', 'json');
  t.regex(shadow.stderr, /^weft: n2: (ECONN|no answer)/);
  t.is((JSON.parse(shadow.stdout) as ClusterShadowMessage).problems.length, 1);
});
