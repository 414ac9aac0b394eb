/**
 * Services with real clients: pods, the nodes' own processes, and a host outside; over both families.
 *
 *     n1: default/a (client), default/w1     n2: default/w2, default/w3     out (etcd's host)
 *
 * Pods w1..w3 are the endpoints of Service `web`, and answer with the address that they see.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { poll } from '../../linux/program.ts';
import { type Lab, LabHost, type LabNode, type LabPod, createLab } from '../lab/lab.ts';
import { Prober } from '../lab/prober.ts';
import { labPrefix } from '../lab/run.ts';
import { peersKnown, within } from '../overlay/pair.ts';

const VIP = { 4: '10.96.0.10', 6: 'fd00:10:96::10' } as const;
const TIMEOUT_MS = 1500;

let lab: Lab;
let nodes: readonly [LabNode, LabNode];
let directories: readonly string[];
let client: Prober;
let onNode: Prober;
let outside: Prober;
/** By name. */
const pods = new Map<string, LabPod>();
const probers = new Map<string, Prober>();

test.before(async () => {
  lab = await createLab({ nodes: 2, prefix: `${labPrefix()}sv` });
  nodes = lab.nodes as unknown as readonly [LabNode, LabNode];
  directories = nodes.map((node) => join(node.directory, 'objects'));
  for (const directory of directories) await mkdir(directory);
  const range = '--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112';
  await Promise.all(
    nodes.map((node, i) => node.startDaemon([`--objects=${directories[i]!}`, range, '--ip-masq'])),
  );
  for (const node of nodes) {
    await peersKnown(node);
    await node.installPlugin();
  }
  for (const [name, node] of [
    ['a', nodes[0]],
    ['w1', nodes[0]],
    ['w2', nodes[1]],
    ['w3', nodes[1]],
  ] as const) {
    const app = name === 'a' ? 'client' : 'web';
    const pod = await node.addPod(name, {
      args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${name};K8S_POD_LABELS=app=${app},pod=${name}`,
    });
    pods.set(name, pod);
    probers.set(name, await Prober.start(pod, lab.directory, [8080]));
  }
  client = probers.get('a')!;
  onNode = await Prober.start(nodes[0], lab.directory, []);
  outside = await Prober.start(new LabHost('outside', lab.netnsOf('etcd')), lab.directory, []);
});
test.after.always(() => lab?.[Symbol.asyncDispose]());

interface ServiceFields {
  readonly name?: string;
  readonly selector?: string;
  readonly more?: string;
  readonly nodePort?: number;
  readonly protocols?: readonly string[];
}

const service = ({
  name = 'web',
  selector = '{ app: web }',
  more = '',
  nodePort = 0,
  protocols = ['TCP', 'UDP'],
}: ServiceFields = {}): string => `
---
apiVersion: v1
kind: Service
metadata: { name: ${name} }
spec:
  type: ${nodePort === 0 ? 'ClusterIP' : 'NodePort'}
  clusterIP: ${VIP[4]}
  clusterIPs: ["${VIP[4]}", "${VIP[6]}"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: ${selector}
  ports:
${protocols
  .map(
    (protocol) =>
      `    - { name: ${protocol.toLowerCase()}, protocol: ${protocol}, port: 80, targetPort: 8080${
        nodePort === 0 ? '' : `, nodePort: ${nodePort}`
      } }`,
  )
  .join('\n')}
${more}`;

async function apply(manifest: string): Promise<void> {
  for (const directory of directories) await writeFile(join(directory, 'all.yaml'), manifest);
}

const ask = (from: Prober, protocol: 'TCP' | 'UDP', address: string, port = 80): Promise<string> =>
  from.ask({ protocol, address, port, timeoutMs: TIMEOUT_MS });

/** Until it answers so: what was applied takes effect. */
async function comes(
  t: ExecutionContext,
  from: Prober,
  address: string,
  port: number,
  pattern: RegExp,
  protocol: 'TCP' | 'UDP' = 'TCP',
): Promise<void> {
  let got = '';
  await poll(async () => {
    got = await ask(from, protocol, address, port);
    return pattern.test(got) ? true : undefined;
  }, within(15_000)).catch(() => undefined);
  t.regex(got, pattern, `${from.host.name} ${protocol} ${address} ${port}`);
}

const addressOf = (name: string, family: 4 | 6): string =>
  family === 4 ? pods.get(name)!.address4! : pods.get(name)!.address6!;

for (const family of [4, 6] as const) {
  test.serial(
    `IPv${family}: pods and nodes reach a Service, and pods are seen as they are`,
    async (t) => {
      await apply(service());
      for (const protocol of ['TCP', 'UDP'] as const) {
        await comes(
          t,
          client,
          VIP[family],
          80,
          new RegExp(`^8080 ${addressOf('a', family).replaceAll('.', '\\.')} w`),
          protocol,
        );
        await comes(t, onNode, VIP[family], 80, /^8080 /, protocol);
      }
    },
  );

  test.serial(`IPv${family}: 100 connections spread over all endpoints`, async (t) => {
    await apply(service());
    await comes(t, client, VIP[family], 80, /^8080 /);
    const answers = await Promise.all(
      Array.from({ length: 100 }, () => ask(client, 'TCP', VIP[family])),
    );
    const counts = new Map<string, number>();
    for (const answer of answers) {
      const [, seen, name = ''] = answer.split(' ');
      t.is(seen, addressOf('a', family));
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    t.deepEqual([...counts.keys()].toSorted(), ['w1', 'w2', 'w3']);
    // Thirty-three each, and a deviation of five: less than ten is one in ten million.
    for (const [name, count] of counts) t.true(count >= 10, `${name}: ${count}`);
  });

  test.serial(`IPv${family}: a pod reaches itself through its Service`, async (t) => {
    await apply(service({ selector: '{ pod: w1 }' }));
    const own = probers.get('w1')!;
    await comes(t, own, VIP[family], 80, /^8080 (?!fd00:10:244::)/);
    await comes(t, own, VIP[family], 80, /^8080 /, 'UDP');
  });

  test.serial(
    `IPv${family}: no endpoint, no such port: refused; no such Service: nothing`,
    async (t) => {
      await apply(service({ selector: '{ app: nobody }' }));
      await comes(t, client, VIP[family], 80, /^refused$/);
      await comes(t, client, VIP[family], 80, /^refused$/, 'UDP');
      await comes(t, client, VIP[family], 81, /^refused$/);
      await comes(t, onNode, VIP[family], 80, /^refused$/);
      const unallocated = family === 4 ? '10.96.0.99' : 'fd00:10:96::99';
      t.is(await ask(client, 'TCP', unallocated), 'nothing');
      t.is(await ask(onNode, 'TCP', unallocated), 'nothing');
    },
  );

  test.serial(
    `IPv${family}: a node port, from outside, from the node itself, from pods`,
    async (t) => {
      await apply(service({ nodePort: 30080 }));
      for (const node of nodes) {
        const address = (family === 4 ? node.underlay4 : node.underlay6)!;
        for (const protocol of ['TCP', 'UDP'] as const) {
          await comes(t, outside, address, 30080, /^8080 /, protocol);
          if (node === nodes[0]) {
            await comes(t, onNode, address, 30080, /^8080 /, protocol);
            await comes(t, client, address, 30080, /^8080 /, protocol);
          } else {
            // Served on its own node: seen as it is, which it would not be from the underlay.
            const seen = new RegExp(`^8080 ${addressOf('a', family).replaceAll('.', '\\.')} w`);
            await comes(t, client, address, 30080, seen, protocol);
          }
        }
      }
    },
  );

  test.serial(
    `IPv${family}: externalTrafficPolicy Local keeps the client's address, or drops`,
    async (t) => {
      await apply(
        service({
          nodePort: 30080,
          selector: '{ pod: w2 }',
          more: '  externalTrafficPolicy: Local',
        }),
      );
      const seen = family === 4 ? '172.31.0.254' : 'fd31::254';
      const [first, second] = nodes.map(
        (node) => (family === 4 ? node.underlay4 : node.underlay6)!,
      );
      await comes(t, outside, second!, 30080, new RegExp(`^8080 ${seen} w2$`));
      await comes(t, outside, first!, 30080, /^nothing$/);
    },
  );

  test.serial(
    `IPv${family}: ClientIP affinity keeps to one endpoint while others come`,
    async (t) => {
      await apply(service({ selector: '{ pod: w3 }', more: '  sessionAffinity: ClientIP' }));
      await comes(t, client, VIP[family], 80, / w3$/);
      await apply(service({ more: '  sessionAffinity: ClientIP' }));
      const answers = await Promise.all(
        Array.from({ length: 30 }, () => ask(client, 'TCP', VIP[family])),
      );
      t.deepEqual([...new Set(answers)], [`8080 ${addressOf('a', family)} w3`]);
    },
  );

  test.serial(`IPv${family}: policy sees the endpoint, not the Service`, async (t) => {
    const policy = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: p }
spec:
  podSelector: { matchLabels: { app: client } }
  policyTypes: [Egress]
  egress: [{ to: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: 8080 }] }]
`;
    await apply(service() + policy);
    await comes(t, client, VIP[family], 80, /^8080 /);
    await comes(t, client, VIP[family], 80, /^nothing$/, 'UDP');
    await apply(service() + policy.replace('8080', '80'));
    await comes(t, client, VIP[family], 80, /^nothing$/);
    await apply(service());
    await comes(t, client, VIP[family], 80, /^8080 /);
  });
}
