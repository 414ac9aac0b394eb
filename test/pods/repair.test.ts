/**
 * Somebody changes the host under a running daemon. What is ours is mended within seconds, without a
 * restart; what is not ours stays. One node, two pods; each row is what somebody does.
 */
import { isDeepStrictEqual } from 'node:util';
import test from 'ava';
import { type Lab, type LabNode, type LabPod, createLab, reaches } from '../lab/lab.ts';
import { collect, poll } from '../../linux/program.ts';
import { labPrefix } from '../lab/run.ts';
import { logOf, statusOf, within } from '../overlay/pair.ts';

let lab: Lab;
let node: LabNode;
let a: LabPod;
let b: LabPod;

test.before(async () => {
  lab = await createLab({ nodes: 1, podsPerNode: 2, prefix: `${labPrefix()}r` });
  node = lab.nodes[0]!;
  await node.startDaemon(['--ip-masq']);
  await lab.attachPods();
  [a, b] = lab.pods as [LabPod, LabPod];
});
test.after.always(() => lab?.[Symbol.asyncDispose]());

const MENDED_MS = 5_000;

const show = async (...argv: string[]): Promise<string> => {
  const { stdout, stderr } = await collect(argv, { netns: node.netns });
  return (stdout + stderr).split('\n').toSorted().join('\n');
};

/** All that a row can break, as text. Without what the kernel counts or numbers by itself. */
async function hostState(): Promise<Record<string, string>> {
  const listed = await node.run(['ip', '-json', '-details', 'link']);
  const links = JSON.parse(listed) as {
    ifname: string;
    mtu: number;
    flags: string[];
    ifalias?: string;
  }[];
  return {
    rules4: await show('ip', '-4', 'rule'),
    rules6: await show('ip', '-6', 'rule'),
    pods4: await show('ip', '-4', 'route', 'show', 'table', '157'),
    pods6: await show('ip', '-6', 'route', 'show', 'table', '157'),
    steering4: await show('ip', '-4', 'route', 'show', 'table', '158'),
    steering6: await show('ip', '-6', 'route', 'show', 'table', '158'),
    main4: await show('ip', '-4', 'route'),
    main6: await show('ip', '-6', 'route'),
    links: links
      .map((it) => `${it.ifname} ${it.mtu} ${it.flags.includes('UP')} ${it.ifalias ?? ''}`)
      .toSorted()
      .join('\n'),
    addresses: (await show('ip', '-brief', 'addr', 'show', 'dev', 'weft0')).replaceAll(/\s+/g, ' '),
    gateways: await show('ip', '-6', '-oneline', 'addr', 'show', 'to', 'fe80::1'),
    nft: await show('nft', '--stateless', 'list', 'table', 'inet', 'weft'),
  };
}

async function allReach(): Promise<void> {
  for (const address of b.addresses) await reaches(a, address);
  for (const address of [node.underlay4!, node.underlay6!]) await reaches(a, address);
  for (const address of a.addresses) await reaches(node, address);
}

/** An interface that was made anew has another number. */
const withoutNumbers = ({ gateways, ...rest }: Record<string, string>): Record<string, string> => ({
  ...rest,
  gateways: gateways!.replaceAll(/^\d+: /gm, ''),
});

/** Words with `POD` for the first pod's interface, `ADDRESS` and `ADDRESS6` for its addresses. */
for (const [title, ...commands] of [
  ['a pod loses its route', 'ip route del ADDRESS table 157'],
  ['a pod loses its IPv6 route', 'ip -6 route del ADDRESS6 table 157'],
  ['all routes of pods go', 'ip route flush table 157', 'ip -6 route flush table 157'],
  ['the way into the TUN goes', 'ip route flush table 158', 'ip -6 route flush table 158'],
  ['a rule goes', 'ip rule del pref 93', 'ip -6 rule del pref 93'],
  ['another', 'ip rule del pref 98', 'ip -6 rule del pref 91'],
  ['the local rule comes back to the front', 'ip rule add pref 0 lookup local'],
  ['the nft table goes', 'nft delete table inet weft'],
  ['all nft tables go', 'nft flush ruleset'],
  ['a pod is unpinned', 'nft flush set inet weft pods4'],
  ['a chain is emptied', 'nft flush chain inet weft from_pods'],
  ["a pod's interface is set down", 'ip link set POD down'],
  ["a pod's interface gets another MTU", 'ip link set POD mtu 1300'],
  ["a pod's interface is deleted", 'ip link del POD'],
  ['weft0 is set down', 'ip link set weft0 down'],
  ["the rule for Services' packets goes", 'ip rule del pref 90', 'ip -6 rule del pref 90'],
  ["the Services' route goes", 'ip route del 10.96.0.0/12'],
  ["a port that is no Service's", 'nft add element inet weft services4 { tcp . 192.0.2.7 . 22 }'],
  ["the overlay's route goes", 'ip route del 10.244.0.0/16', 'ip -6 route del fd00:10:244::/56'],
  ["weft0's addresses go", 'ip addr flush dev weft0 scope global'],
] as const) {
  test.serial(`mended: ${title}`, async (t) => {
    const before = await hostState();
    for (const command of commands) {
      const words = command
        .replace('POD', a.hostInterface)
        .replace('ADDRESS6', a.address6!)
        .replace('ADDRESS', a.address4!);
      await node.run(words.split(' '));
    }
    let now = before;
    const isMended = async (): Promise<true | undefined> => {
      now = withoutNumbers(await hostState());
      return isDeepStrictEqual(now, withoutNumbers(before)) ? true : undefined;
    };
    await poll(isMended, within(MENDED_MS)).catch(() => 'compared below');
    t.deepEqual(now, withoutNumbers(before));
    await allReach();
  });
}

test.serial("a pod's interface that was made anew has the same addresses", async (t) => {
  const inside = await a.run(['ip', '-brief', 'addr', 'show', 'dev', 'eth0']);
  await node.run(['ip', 'link', 'del', a.hostInterface]);
  await allReach();
  t.is(await a.run(['ip', '-brief', 'addr', 'show', 'dev', 'eth0']).then(sorted), sorted(inside));
  t.is((await statusOf(node)).pods, 2);
});

/** Names of veths carry the other end's number. */
const sorted = (text: string): string =>
  text
    .replaceAll(/@if\d+/g, '')
    .replaceAll(/fe80\S+/g, 'fe80')
    .split(/\s+/)
    .toSorted()
    .join(' ');

test.serial(
  "a pod's namespace goes without a DEL: said once, and no interface is left",
  async (t) => {
    const pod = await node.addPod('n1gone');
    await lab.removeNamespace(pod);
    await poll(async () => {
      const said = logOf(node).filter((it) => it['pod'] === 'n1gone eth0');
      return said.length > 0 ? said : undefined;
    }, within(MENDED_MS));
    t.false((await show('ip', 'link')).includes(pod.hostInterface));
    t.is(logOf(node).filter((it) => it['pod'] === 'n1gone eth0').length, 1);
    // The runtime's DEL comes late, and succeeds.
    await node.runtime.delete({ containerId: 'n1gone', netns: `/run/netns/${pod.netns}` });
    t.is((await statusOf(node)).pods, 2);
  },
);

test.serial('what is not ours stays, however much it looks like it', async (t) => {
  const commands = [
    'ip link add weftpforeign type veth peer name weftpelse',
    'ip link add other0 type veth peer name other1',
    'ip link set other0 up',
    'ip addr add 192.0.2.9/24 dev other0',
    'ip route add 198.51.100.0/24 dev other0 table 157',
    'ip route add 198.51.100.0/24 dev other0',
    'ip rule add pref 93 from 198.51.100.7 lookup 157',
    'ip rule add pref 5000 from 198.51.100.7 lookup main',
    'nft add table inet other',
    'nft add chain inet other input { type filter hook input priority 0 ; }',
  ];
  for (const command of commands) await node.run(command.split(' '));
  const before = await hostState();
  const others = await show('nft', 'list', 'ruleset');
  t.true(others.includes('table inet other'));
  // Passes over the whole host, with and without something to mend.
  const pod = await node.addPod('n1more');
  await node.run(['ip', 'rule', 'del', 'pref', '98']);
  await poll(
    async () => ((await show('ip', 'rule')).includes('98:') ? true : undefined),
    within(MENDED_MS),
  );
  await node.deletePod(pod);
  t.deepEqual(await hostState(), before);
  t.true((await show('nft', 'list', 'ruleset')).includes('table inet other'));
  for (const link of ['weftpforeign', 'other0']) await node.run(['ip', 'link', 'del', link]);
});
