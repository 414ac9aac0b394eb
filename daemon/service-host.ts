/**
 * The sets `services4` and `services6` of our nft table, kept as Services change: which packets are led
 * into the TUN although their address is the host's own, or nobody's (ruleset.ts). A change costs what
 * has changed, not what there is; the table itself is made with them, and read, by host-state.ts.
 */
import { type ElementChange, openElementWriter } from '../linux/nft-elements.ts';
import { addressBytes, parseAddress } from '../wire/address.ts';
import type { SteeredFrontend } from '../service/compile.ts';
import { NFT_TABLE, steeredElement, steeredSet } from './ruleset.ts';

/** What follows from a port, once: most of them stay from one table to the next. */
const texts = new WeakMap<SteeredFrontend, string>();

function textOf(it: SteeredFrontend): string {
  const known = texts.get(it) ?? steeredElement(it);
  texts.set(it, known);
  return known;
}

export class ServiceHost implements Disposable {
  readonly #elements = openElementWriter();
  /** By their texts; null: there is no table, or it is not known what is in it. */
  #present: Set<string> | null = null;
  /** What the sets hold; null: others have changed them, perhaps. */
  #last: readonly SteeredFrontend[] | null = null;

  [Symbol.dispose](): void {
    this.#elements[Symbol.dispose]();
  }

  /** What the table was found to hold, or was made with. */
  elementsAre(elements: ReadonlySet<string>): void {
    this.#present = new Set(elements);
    this.#last = null;
  }

  /**
   * Without the table there is nothing to change; who makes it anew fills it.
   * @returns how many were added and deleted
   * @throws NetlinkError; what is in the sets is unknown then, until elementsAre
   */
  reconcile(steered: readonly SteeredFrontend[]): {
    readonly added: number;
    readonly removed: number;
  } {
    const present = this.#present;
    if (present === null || steered === this.#last) return { added: 0, removed: 0 };
    const wanted = new Map(steered.map((it) => [textOf(it), it]));
    const add = [...wanted].filter(([text]) => !present.has(text)).map(([, it]) => it);
    const remove = [...present].filter((text) => !wanted.has(text)).map(portOf);
    this.#last = steered;
    if (add.length + remove.length === 0) return { added: 0, removed: 0 };
    this.#present = null;
    this.#elements.apply(NFT_TABLE, [
      // What is new is served sooner, if not all go in at once.
      ...add.map((it) => change('add', it)),
      ...remove.map((it) => change('delete', it)),
    ]);
    this.#present = new Set(wanted.keys());
    return { added: add.length, removed: remove.length };
  }
}

function portOf(element: string): SteeredFrontend {
  const [protocol = '', address = '', port = ''] = element.split(' . ');
  return { protocol: Number(protocol), address: parseAddress(address), port: Number(port) };
}

const change = (verb: ElementChange['verb'], it: SteeredFrontend): ElementChange => ({
  verb,
  set: steeredSet(it),
  key: [
    Uint8Array.of(it.protocol),
    addressBytes(it.address),
    Uint8Array.of(it.port >> 8, it.port & 255),
  ],
});
