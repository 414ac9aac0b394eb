/**
 * Which fields a schema reads, found in the schema itself: to say of a field that it does not read which
 * one was meant.
 */
import type { z } from 'zod';
import { nearestField } from './nearest.ts';

type Shape = Readonly<Record<string, z.core.$ZodType>>;

/** What is left of a schema without its defaults, checks and transformations. */
interface Bare {
  /** Of a mapping. */
  readonly shape: Shape | null;
  /** Of a list's entries. */
  readonly element: z.core.$ZodType | null;
}
const NEITHER: Bare = { shape: null, element: null };

const bare = new WeakMap<z.core.$ZodType, Bare>();

function bareOf(schema: z.core.$ZodType): Bare {
  const known = bare.get(schema);
  if (known !== undefined) return known;
  const found = strip(schema);
  bare.set(schema, found);
  return found;
}

function strip(schema: z.core.$ZodType): Bare {
  const { def } = (schema as z.core.$ZodTypes)._zod;
  switch (def.type) {
    case 'object':
      return { shape: def.shape, element: null };
    case 'array':
      return { shape: null, element: def.element };
    case 'optional':
    case 'nullable':
      return bareOf(def.innerType);
    case 'pipe': {
      const before = bareOf(def.in);
      return before === NEITHER ? bareOf(def.out) : before;
    }
    default:
      return NEITHER;
  }
}

/** @returns [] where the schema reads no mapping */
export function fieldsAt(schema: z.core.$ZodType, path: readonly PropertyKey[]): readonly string[] {
  let at = schema;
  for (const step of path) {
    const { shape, element } = bareOf(at);
    const inner = typeof step === 'number' ? element : shape?.[String(step)];
    if (inner === null || inner === undefined) return [];
    at = inner;
  }
  return Object.keys(bareOf(at).shape ?? {});
}

/** Fields that nobody reads, and whose names are nearly those of fields that are read there. */
export function* slips(
  schema: z.core.$ZodType,
  value: unknown,
  path: readonly (string | number)[] = [],
): Generator<readonly [path: (string | number)[], fields: readonly string[]]> {
  if (typeof value !== 'object' || value === null) return;
  const { shape, element } = bareOf(schema);
  if (element !== null && Array.isArray(value)) {
    for (const [at, item] of (value as readonly unknown[]).entries()) {
      yield* slips(element, item, [...path, at]);
    }
    return;
  }
  if (shape === null || Array.isArray(value)) return;
  const fields = Object.keys(shape);
  for (const [name, inner] of Object.entries(value)) {
    const known = Object.hasOwn(shape, name) ? shape[name] : undefined;
    if (known !== undefined) yield* slips(known, inner, [...path, name]);
    else if (nearestField(name, fields) !== '') yield [[...path, name], fields];
  }
}
