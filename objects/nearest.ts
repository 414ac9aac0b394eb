/** The word an operator most likely meant. */

/** Levenshtein distance: insertions, deletions and substitutions that turn `a` into `b`. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, substitution));
    }
    row = next;
  }
  return row[b.length]!;
}

/** The known word that takes the fewest edits, at most `most`; '' if there is none. */
function nearestOf(word: string, known: readonly string[], most: number): string {
  let nearest = '';
  let least = most + 1;
  for (const candidate of known) {
    const edits = distance(word, candidate);
    if (edits < least) [nearest, least] = [candidate, edits];
  }
  return nearest;
}

/** ` (did you mean "x"?)`, or nothing when no known word is within a third of the length. */
export function didYouMean(word: string, known: readonly string[]): string {
  // A long hostile word must not cost a quadratic comparison.
  if (word.length > 64) return '';
  const nearest = nearestOf(word, known, Math.max(2, Math.floor(word.length / 3)));
  return nearest === '' ? '' : ` (did you mean "${nearest}"?)`;
}

const lettersOf = (name: string): string => name.toLowerCase().split('').sort().join('');

/** The field that was most likely meant: with the same letters, or one or two edits away; '' if none. */
export function nearestField(name: string, fields: readonly string[]): string {
  if (name.length > 64) return '';
  const letters = lettersOf(name);
  const same = fields.find((it) => lettersOf(it) === letters);
  // Of a short name two edits leave nothing.
  return same ?? nearestOf(name, fields, name.length < 5 ? 1 : 2);
}
