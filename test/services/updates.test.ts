/**
 * Changes of objects while there is traffic: each is in effect for the next connection soon, and none costs a
 * packet of a flow that it does not concern. Times are logged, not judged.
 *
 *     n1: default/a (client)        n2: default/w1, default/w2 (servers)
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import {
  Cluster,
  type Manifest,
  type ObjectsFrom,
  answerOf,
  effectMs,
  netpol,
  service,
  slice,
} from '../lab/cluster.ts';
import type { LabPod } from '../lab/lab.ts';
import type { Prober } from '../lab/prober.ts';
import type { Numbered } from '../lab/traffic/numbered.ts';

const NUMBERED = [
  process.execPath,
  join(import.meta.dirname, '..', 'lab', 'traffic', 'numbered.ts'),
];
const VIP = { 4: '10.96.0.30', 6: 'fd00:10:96::30' } as const;
const STREAM_PORT = 8090;
const SILENCE_MS = 300;
const CHURN_MS = 5_000;

let cluster: Cluster;
let a: { pod: LabPod; prober: Prober };
let w1: { pod: LabPod; prober: Prober };
let w2: { pod: LabPod; prober: Prober };

test.before(async () => {
  cluster = await Cluster.open('up');
  a = await cluster.addPod(0, 'a', 'app=client');
  w1 = await cluster.addPod(1, 'w1', 'app=web,pod=w1', [8080]);
  w2 = await cluster.addPod(1, 'w2', 'app=web,pod=w2', [8080]);
  await w1.pod.start([...NUMBERED, 'serve', `${STREAM_PORT}`], { ready: { line: /^ready$/ } });
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const labelled = (kind: 'Pod' | 'Namespace', labels: Record<string, string>): Manifest => ({
  apiVersion: 'v1',
  kind,
  metadata:
    kind === 'Pod' ? { name: 'a', namespace: 'default', labels } : { name: 'default', labels },
  ...(kind === 'Pod' ? { spec: { containers: [] } } : {}),
});

const from = (selector: object): Manifest =>
  netpol('p', { podSelector: { matchLabels: { app: 'web' } }, ingress: [{ from: [selector] }] });
const friends = from({ podSelector: { matchLabels: { role: 'friend' } } });
const red = from({ namespaceSelector: { matchLabels: { team: 'red' } } });
const deny = netpol('deny', { podSelector: {}, ingress: [] });
const web = service('web', [VIP[4]], { ports: [{ protocol: 'UDP', port: 80, targetPort: 8080 }] });
const endpoints = (...pods: readonly LabPod[]): Manifest =>
  slice(
    'web-1',
    'web',
    pods.map((it) => ({ addresses: [it.address4!], conditions: { ready: true } })),
  );

interface Change {
  readonly title: string;
  /** What is there, or else is not. */
  readonly put?: () => Manifest;
  readonly remove?: () => Manifest;
  readonly answer: RegExp;
}
/** Each begins with the objects that are put at first, and goes on from where the one before has led. */
const SERIES: readonly {
  readonly first: () => readonly Manifest[];
  readonly to: 'pod' | 'Service';
  readonly before: RegExp;
  readonly changes: readonly Change[];
}[] = [
  {
    first: () => [friends],
    to: 'pod',
    before: /^nothing$/,
    changes: [
      {
        title: "a pod's label comes",
        put: () => labelled('Pod', { role: 'friend' }),
        answer: /^8080 /,
      },
      {
        title: "a pod's label changes",
        put: () => labelled('Pod', { role: 'foe' }),
        answer: /^nothing$/,
      },
    ],
  },
  {
    first: () => [red],
    to: 'pod',
    before: /^nothing$/,
    changes: [
      {
        title: "a namespace's label comes",
        put: () => labelled('Namespace', { team: 'red' }),
        answer: /^8080 /,
      },
      {
        title: "a namespace's label changes",
        put: () => labelled('Namespace', { team: 'blue' }),
        answer: /^nothing$/,
      },
    ],
  },
  {
    first: () => [],
    to: 'pod',
    before: /^8080 /,
    changes: [
      { title: 'a policy is added', put: () => deny, answer: /^nothing$/ },
      { title: 'a policy is removed', remove: () => deny, answer: /^8080 / },
    ],
  },
  {
    first: () => [web, endpoints()],
    to: 'Service',
    before: /^refused$/,
    changes: [
      { title: 'an endpoint is added', put: () => endpoints(w1.pod), answer: / w1$/ },
      { title: 'an endpoint is replaced', put: () => endpoints(w2.pod), answer: / w2$/ },
      { title: 'an endpoint is removed', put: () => endpoints(), answer: /^refused$/ },
    ],
  },
];

for (const source of ['a directory', 'etcd'] as readonly ObjectsFrom[]) {
  test.serial(`objects from ${source}: a change is in effect for the next flow`, async (t) => {
    t.timeout(120_000);
    if (source !== 'a directory') await cluster.start(source);
    for (const { first, to, before, changes } of SERIES) {
      await cluster.clear();
      if (first().length > 0) await cluster.put(...first());
      const question =
        to === 'pod'
          ? ({ protocol: 'UDP', address: w1.pod.address4!, port: 8080 } as const)
          : ({ protocol: 'UDP', address: VIP[4], port: 80 } as const);
      t.regex(await answerOf(a.prober, question, before, SILENCE_MS), before, changes[0]!.title);
      for (const { title, put, remove, answer } of changes) {
        const ms = await effectMs(
          a.prober,
          { ...question, timeoutMs: SILENCE_MS },
          answer,
          async () => {
            if (put !== undefined) await cluster.put(put());
            if (remove !== undefined) await cluster.remove(remove());
          },
        );
        t.log(`${title}: ${ms} ms`);
        t.pass();
      }
    }
    await cluster.clear();
  });

  test.serial(
    `objects from ${source}: unrelated changes cost a permitted flow no packet`,
    async (t) => {
      t.timeout(60_000);
      const permit = netpol('permit', {
        podSelector: { matchLabels: { pod: 'w1' } },
        ingress: [
          {
            from: [{ podSelector: { matchLabels: { app: 'client' } } }],
            ports: [{ protocol: 'UDP', port: STREAM_PORT }],
          },
        ],
      });
      const stream = service('stream', [VIP[4], VIP[6]], {
        selector: { pod: 'w1' },
        ports: [{ protocol: 'UDP', port: 80, targetPort: STREAM_PORT }],
      });
      await cluster.put(permit, stream);
      // What was before may linger: the pod as it was labelled then.
      const echoed = { protocol: 'UDP', address: VIP[6], port: 80 } as const;
      t.is(await answerOf(a.prober, echoed, /^\?$/), '?');
      const denied = { protocol: 'UDP', address: w1.pod.address4!, port: 8080 } as const;
      t.is(await answerOf(a.prober, denied, /^nothing$/), 'nothing');
      const sending = await Promise.all([
        a.pod.start([...NUMBERED, 'send', `${STREAM_PORT}`, ...w1.pod.addresses], {
          ready: { line: /^steady$/ },
        }),
        a.pod.start([...NUMBERED, 'send', '80', VIP[4], VIP[6]], { ready: { line: /^steady$/ } }),
      ]);
      const startMs = performance.now();
      let changes = 0;
      for (; performance.now() - startMs < CHURN_MS; changes++) {
        const nth = changes % 10;
        await cluster.put(
          changes % 2 === 0
            ? netpol(`other-${nth}`, {
                podSelector: { matchLabels: { app: changes % 3 === 0 ? 'web' : 'other' } },
                ingress: [
                  { from: [{ ipBlock: { cidr: `198.51.100.${changes % 256}/32` } }] },
                  { from: [{ podSelector: { matchLabels: { app: `x${changes}` } } }] },
                ],
              })
            : service(`other-${nth}`, [`10.96.1.${nth}`], {
                selector: { app: 'web' },
                ports: [{ protocol: 'UDP', port: 1000 + changes, targetPort: 8080 }],
              }),
        );
        const dueMs = startMs + (changes + 1) * 20 - performance.now();
        if (dueMs > 0) await sleep(dueMs);
      }
      const seconds = (performance.now() - startMs) / 1000;
      t.log(`${changes} changes, ${(changes / seconds).toFixed(0)} a second`);
      t.true(changes > 50);
      for (const it of sending) {
        process.kill(it.pid, 'SIGUSR1');
        await it.exited;
        for (const { address, sent, missing } of JSON.parse(
          it.output().trim().split('\n').at(-1) ?? '',
        ) as Numbered[]) {
          t.log(`${address}: ${sent} sent, ${missing} missing`);
          t.true(sent > 500);
          t.is(missing, 0, address);
        }
      }
      await cluster.clear();
    },
  );
}
