/**
 * A value that has been checked once, at the edge, and carries the proof in its type.
 * Only the `to…` and `parse…` functions of this folder make one.
 */
export type Branded<T, Name extends string> = T & { readonly __brand: Name };
