import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { EMPTY_OBJECTS, type ObjectSet, type ObjectSource, type Pod } from '../objects/types.ts';
import { EMPTY_POLICY_TABLE } from '../policy/table.ts';
import { EMPTY_SERVICE_TABLE } from '../service/table.ts';
import { parseIpv4 } from '../wire/address.ts';
import {
  type Compilers,
  type NodeView,
  ObjectTables,
  type Tables,
  compileTables,
} from './objects.ts';
import { parseCidr } from '../wire/cidr.ts';

const setOf = (): ObjectSet => ({ ...EMPTY_OBJECTS });
const none: Tables = {
  policy: EMPTY_POLICY_TABLE,
  services: EMPTY_SERVICE_TABLE,
  steered: [],
  healthChecks: [],
  problems: [],
};

function open(compile: (objects: ObjectSet, view: NodeView) => void = () => undefined) {
  const seen: ObjectSet[] = [];
  const node = { view: { pods: [], nodeAddresses: [] } as NodeView, changes: 0 };
  const tables = new ObjectTables({
    compile: (objects, view) => {
      compile(objects, view);
      seen.push(objects);
      return { ...none };
    },
    view: () => node.view,
    onChange: () => node.changes++,
  });
  return { tables, seen, node };
}

const sourceOf = (...steps: readonly (ObjectSet | number)[]): ObjectSource => ({
  async *watch() {
    for (const it of steps) {
      if (typeof it === 'number') await sleep(it);
      else yield it;
    }
  },
});

test('nothing before the first full list', async (t) => {
  const { tables, node } = open();
  t.is(tables.current(), null);
  t.is(tables.objects, null);
  const following = tables.follow(sourceOf(30, setOf(), 30), AbortSignal.timeout(5000));
  await sleep(10);
  t.is(tables.current(), null);
  await following;
  t.not(tables.current(), null);
  t.is(node.changes, 1);
});

test('changes that come together are one; the last one counts', async (t) => {
  const { tables, seen, node } = open();
  const last = setOf();
  const bursts = [setOf(), setOf(), setOf(), 40, setOf(), last, 40];
  await tables.follow(sourceOf(...bursts), AbortSignal.timeout(5000));
  t.is(node.changes, 2);
  tables.current();
  t.deepEqual(
    seen.map((it) => it === last),
    [true],
  );
});

test('compiled again when objects, pods or addresses are others, and only then', async (t) => {
  const { tables, seen, node } = open();
  await tables.follow(sourceOf(setOf()), AbortSignal.timeout(5000));
  const first = tables.current();
  t.is(tables.current(), first);
  node.view = { ...node.view };
  t.is(tables.current(), first, 'the same arrays');
  node.view = { ...node.view, pods: [parseIpv4('10.244.1.2')] };
  const second = tables.current();
  t.not(second, first);
  node.view = { ...node.view, nodeAddresses: [parseIpv4('192.0.2.1')] };
  t.not(tables.current(), second);
  t.is(seen.length, 3);
});

test('what cannot be compiled leaves the tables before in force, and is told', async (t) => {
  let isBroken = false;
  const { tables, node } = open(() => {
    if (isBroken) throw new Error('no room');
  });
  await tables.follow(sourceOf(setOf()), AbortSignal.timeout(5000));
  const good = tables.current();
  isBroken = true;
  node.view = { ...node.view, pods: [] };
  t.is(tables.current(), good);
  t.is(tables.failure?.message, 'no room');
  isBroken = false;
  node.view = { ...node.view, pods: [] };
  t.not(tables.current(), good);
  t.is(tables.failure, null);
});

test('a source that fails is told, and leaves no timer', async (t) => {
  const { tables, node } = open();
  const source: ObjectSource = {
    async *watch() {
      yield setOf();
      throw new Error('gone');
    },
  };
  await t.throwsAsync(tables.follow(source, AbortSignal.timeout(5000)), { message: 'gone' });
  await sleep(20);
  t.is(node.changes, 0);
});

test('both compilers see the pods here as the node knows them; they are the subjects', (t) => {
  const own: Pod = {
    kind: 'Pod',
    metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' }, annotations: {} },
    nodeName: 'n1',
    hostNetwork: false,
    ports: [],
    podIPs: [parseIpv4('10.244.1.2')],
    phase: 'Running',
    ready: true,
    terminating: false,
  };
  const node = {
    nodeName: 'n1',
    nodeAddresses: [parseIpv4('192.0.2.1')],
    serviceNetworks: [parseCidr('10.96.0.0/12')],
    externalIpBlocks: [parseCidr('203.0.113.0/24')],
  };
  const asked: unknown[] = [];
  const compilers: Compilers = {
    policy: {
      compile: ({ objects, subjects, nodeName, nodeAddresses }) => {
        asked.push([
          [...objects.pods.values()],
          subjects === 'all' ? subjects : [...subjects],
          nodeName,
          nodeAddresses,
        ]);
        return { ...EMPTY_POLICY_TABLE, generation: 5 };
      },
    },
    services: {
      compile: ({ objects, ...rest }) => {
        asked.push([[...objects.pods.values()], rest]);
        const { steered, healthChecks } = none;
        return { table: EMPTY_SERVICE_TABLE, steered, healthChecks, problems: ['no'] };
      },
    },
  };
  const tables = compileTables(compilers, EMPTY_OBJECTS, [own], node);
  t.deepEqual(tables, {
    ...none,
    policy: { ...EMPTY_POLICY_TABLE, generation: 5 },
    problems: ['no'],
  });
  t.deepEqual(asked, [
    [[own], node],
    [[own], ['shop/web'], 'n1', node.nodeAddresses],
  ]);
});
