/**
 * Elements of nftables sets through netlink (include/uapi/linux/netfilter/nf_tables.h). Tables, chains and
 * rules are nft(8)'s work (nft.ts); but its start costs several milliseconds, and a set of pods changes
 * with each of them.
 */
import {
  type Netlink,
  type NetlinkRequest,
  NETLINK_NETFILTER,
  NLM_F_CREATE,
  encode,
  openNetlink,
} from './netlink.ts';

const NFNL_SUBSYS_NFTABLES = 10;
const NFT_MSG_NEWSETELEM = 12;
const NFT_MSG_DELSETELEM = 14;
const NFPROTO_INET = 1;
const NFTA_SET_ELEM_LIST_TABLE = 1;
const NFTA_SET_ELEM_LIST_SET = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS = 3;
const NFTA_LIST_ELEM = 1;
const NFTA_SET_ELEM_KEY = 1;
const NFTA_DATA_VALUE = 1;
/** Of one transaction: with the longest keys they stay below what one send takes. */
const ELEMENTS_MAX = 500;

export interface ElementChange {
  readonly verb: 'add' | 'delete';
  readonly set: string;
  /** The parts of the concatenation, each in the kernel's form: names with zeros, addresses as on the wire. */
  readonly key: readonly Uint8Array[];
}

/** Each part begins on a register of 32 bits. */
function concatenation(parts: readonly Uint8Array[]): Uint8Array {
  const key = new Uint8Array(parts.reduce((sum, it) => sum + ((it.length + 3) & ~3), 0));
  let at = 0;
  for (const part of parts) {
    key.set(part, at);
    at += (part.length + 3) & ~3;
  }
  return key;
}

/** An interface's name as sets of type ifname hold it. */
export function interfaceKey(name: string): Uint8Array {
  const key = new Uint8Array(16);
  key.set(new TextEncoder().encode(name).subarray(0, 15));
  return key;
}

function requestOf({ verb, set, key }: ElementChange, table: string): NetlinkRequest {
  const isNew = verb === 'add';
  return {
    type: (NFNL_SUBSYS_NFTABLES << 8) | (isNew ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM),
    flags: isNew ? NLM_F_CREATE : 0,
    // struct nfgenmsg { family, version, resource }
    body: encode(Uint8Array.of(NFPROTO_INET, 0, 0, 0), [
      [NFTA_SET_ELEM_LIST_TABLE, table],
      [NFTA_SET_ELEM_LIST_SET, set],
      [
        NFTA_SET_ELEM_LIST_ELEMENTS,
        [[NFTA_LIST_ELEM, [[NFTA_SET_ELEM_KEY, [[NFTA_DATA_VALUE, concatenation(key)]]]]]],
      ],
    ]),
    what: `${verb === 'add' ? 'adding to' : 'deleting from'} the nft set ${table} ${set}`,
  };
}

/** For sets of tables of the family inet. */
export interface ElementWriter extends Disposable {
  /** All or, up to 500, none. An element that is there may be added. @throws NetlinkError */
  readonly apply: (table: string, changes: readonly ElementChange[]) => void;
}

export function openElementWriter(): ElementWriter {
  const netlink: Netlink = openNetlink({ protocol: NETLINK_NETFILTER });
  return {
    apply: (table, changes) => {
      for (let i = 0; i < changes.length; i += ELEMENTS_MAX) {
        const some = changes.slice(i, i + ELEMENTS_MAX).map((it) => requestOf(it, table));
        netlink.transact(`changing sets of the nft table ${table}`, NFNL_SUBSYS_NFTABLES, some);
      }
    },
    [Symbol.dispose]: () => netlink[Symbol.dispose](),
  };
}
