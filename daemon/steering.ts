/**
 * Policy routing that leads every packet of a pod, every packet for one that comes from elsewhere, and
 * every packet for a Service's port through the TUN. Pure.
 *
 *     90  from all fwmark 0x1000  lookup 158  for node ports and Services' outer addresses, by nft's mark
 *     91  from all iif lo      goto 96       the node's own packets, and
 *     92  from all iif weft0   goto 96       what the packet path wrote: past the next line
 *     93  from <our subnet>    lookup 158    all that a pod sends: into the TUN
 *     96  from all             lookup local  the host's own addresses; at 0 before us
 *     97  from all iif lo      lookup 157    the pods here: only the node itself and
 *     98  from all iif weft0   lookup 157    the packet path see their interfaces
 *     ...                      lookup main   the overlay network by weft0, for all others
 *
 * The host's rule for table local has to follow ours: before them a pod's packet for the node would be
 * delivered at once. It is put in its new place before it is taken from the old one, and put back by
 * `weft cleanup`. A source of our subnet that no pod has is dropped by nft (ruleset.ts).
 *
 * The mark is a bit of its own among those that others use (kube-proxy 0x4000 and 0x8000, the portmap
 * plugin 0x2000, Tailscale 0xff0000). What the packet path writes has no mark: it is not steered again.
 *
 * Their number does not depend on how many pods there are, and a host whose nft rules were flushed still
 * sends pods' packets through the packet path.
 */
import type { Command, Rule } from '../linux/ip.ts';
import { type Cidr, cidrOf, formatCidr, parseCidr } from '../wire/cidr.ts';
import { parseAddress } from '../wire/address.ts';

/** Routes to the pods of this node, one each. */
export const POD_TABLE = 157;
/** One route, into the TUN. */
export const STEERING_TABLE = 158;
/** Marks our routes and rules among everybody's (rtm_protocol; see /etc/iproute2/rt_protos). */
export const OUR_PROTOCOL = 157;

/** One bit of a packet's mark, set by nft (ruleset.ts): into the TUN, whoever has the address. */
export const STEERED_MARK = '0x1000';

const MARKED = 90;
const FROM_NODE = 91;
const FROM_TUN = 92;
const FROM_POD = 93;
const LOCAL = 96;
const NODE_TO_POD = 97;
const TUN_TO_POD = 98;

/** What a pod asks of its link: neighbours and listeners, answered by the host's end of it. */
const ON_LINK6 = ['fe80::/10', 'ff00::/8'];
export const onLinkBlocks = (family: 4 | 6): readonly Cidr[] =>
  family === 4 ? [] : ON_LINK6.map(parseCidr);

/** In the order in which they are added: nothing is steered before what it leads to is there. */
const ourRules = (subnet: Cidr, tunName: string, steersMarked: boolean): readonly string[] => [
  `pref ${NODE_TO_POD} iif lo lookup ${POD_TABLE}`,
  `pref ${TUN_TO_POD} iif ${tunName} lookup ${POD_TABLE}`,
  `pref ${FROM_NODE} iif lo goto ${LOCAL}`,
  `pref ${FROM_TUN} iif ${tunName} goto ${LOCAL}`,
  `pref ${FROM_POD} from ${formatCidr(subnet)} lookup ${STEERING_TABLE}`,
  ...(steersMarked
    ? [`pref ${MARKED} fwmark ${STEERED_MARK}/${STEERED_MARK} lookup ${STEERING_TABLE}`]
    : []),
];
const MOVED_LOCAL = `pref ${LOCAL} lookup local`;
const FIRST_LOCAL = 'pref 0 lookup local';

/** As iproute2 takes it, without protocol. */
function textOf(rule: Rule): string {
  const from =
    rule.src === 'all'
      ? []
      : ['from', formatCidr(cidrOf(parseAddress(rule.src), rule.srclen ?? hostLength(rule.src)))];
  const mark =
    rule.fwmark === undefined
      ? []
      : ['fwmark', `${rule.fwmark}${rule.fwmask === undefined ? '' : `/${rule.fwmask}`}`];
  const iif = rule.iif === undefined ? [] : ['iif', rule.iif];
  const action = rule.goto === undefined ? ['lookup', rule.table ?? ''] : ['goto', rule.goto];
  return ['pref', rule.priority, ...from, ...mark, ...iif, ...action].join(' ');
}

const hostLength = (address: string): number => (address.includes(':') ? 128 : 32);

const command = (verb: 'add' | 'del', text: string, protocol: string | number): Command => [
  'rule',
  verb,
  ...text.split(' '),
  'protocol',
  protocol,
];

const isOurs = (rule: Rule): boolean => rule.protocol === String(OUR_PROTOCOL);

/**
 * From the rules of one family that are there to those that should be.
 * @param subnet        ours of that family; null: nothing of it is steered
 * @param steersMarked  packets with the mark too
 */
export function planRules(
  subnet: Cidr | null,
  tunName: string,
  steersMarked: boolean,
  actual: readonly Rule[],
): readonly Command[] {
  if (subnet === null) return removeRules(actual);
  const wanted = ourRules(subnet, tunName, steersMarked);
  const all = new Set(actual.map(textOf));
  const present = new Set(actual.filter(isOurs).map(textOf));
  const commands: Command[] = [];
  if (!all.has(MOVED_LOCAL)) commands.push(command('add', MOVED_LOCAL, 'kernel'));
  for (const it of wanted) if (!present.has(it)) commands.push(command('add', it, OUR_PROTOCOL));
  for (const it of present) {
    if (!wanted.includes(it)) commands.push(command('del', it, OUR_PROTOCOL));
  }
  if (all.has(FIRST_LOCAL)) commands.push(['rule', 'del', ...FIRST_LOCAL.split(' ')]);
  return commands;
}

/** Back to what was there before us. */
export function removeRules(actual: readonly Rule[]): readonly Command[] {
  const all = actual.map(textOf);
  const commands: Command[] = actual
    .filter(isOurs)
    .map((it) => command('del', textOf(it), OUR_PROTOCOL));
  if (!all.includes(MOVED_LOCAL)) return commands;
  const other = actual.some((it) => it.table === 'local' && textOf(it) !== MOVED_LOCAL);
  return [
    ...(other ? [] : [command('add', FIRST_LOCAL, 'kernel')]),
    ...commands,
    ['rule', 'del', ...MOVED_LOCAL.split(' ')],
  ];
}
