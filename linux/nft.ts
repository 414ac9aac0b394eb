/** Nftables through nft(8): a ruleset goes in whole or not at all, and is read back as JSON. */
import { ProgramError, run } from './program.ts';

/** One table of one family, as `nft --json list table` gives it. */
export interface NftTable {
  /** Another one for each that was ever made, of this name too. */
  readonly handle: number;
  /** The first comment of a rule, or ''. */
  readonly comment: string;
  readonly rules: number;
  /** Packets by named counter. */
  readonly counters: Readonly<Record<string, number>>;
  /** Elements of the named sets: the parts of each, as text. */
  readonly sets: Readonly<Record<string, readonly (readonly string[])[]>>;
}

/** One part of an element, or several as a concatenation. */
type JsonElement = string | number | { readonly concat?: readonly (string | number)[] };

const partsOf = (element: JsonElement): readonly string[] =>
  typeof element === 'object' ? (element.concat ?? []).map(String) : [String(element)];

/** @param ruleset nft's own language; applied as one transaction. @throws ProgramError */
export async function applyRuleset(ruleset: string): Promise<void> {
  await run(['nft', '-f', '-'], { input: ruleset });
}

/** Null when there is no such table. @throws ProgramError */
export async function readTable(family: string, name: string): Promise<NftTable | null> {
  let text: string;
  try {
    text = await run(['nft', '--json', 'list', 'table', family, name]);
  } catch (error) {
    const absent = error instanceof ProgramError && /No such file or directory/.test(error.message);
    if (absent) return null;
    throw error;
  }
  const { nftables } = JSON.parse(text) as {
    nftables: readonly {
      table?: { handle: number };
      rule?: { comment?: string };
      counter?: { name: string; packets: number };
      set?: { name: string; elem?: readonly JsonElement[] };
    }[];
  };
  return {
    handle: nftables.find((it) => it.table !== undefined)?.table?.handle ?? 0,
    comment: nftables.find((it) => it.rule?.comment !== undefined)?.rule?.comment ?? '',
    rules: nftables.filter((it) => it.rule !== undefined).length,
    counters: Object.fromEntries(
      nftables.flatMap(({ counter }) => (counter ? [[counter.name, counter.packets]] : [])),
    ),
    sets: Object.fromEntries(
      nftables.flatMap(({ set }) => (set ? [[set.name, (set.elem ?? []).map(partsOf)]] : [])),
    ),
  };
}
