/** Secrets in text that leaves this machine. Rather a word too many is hidden than one too few. */

const HIDDEN = '(not shown)';

/** Names of variables and fields whose values nobody else may see. */
const SECRET_NAME =
  /pass(?:word|wd|phrase|\b)|token|secret|credential|private[-_]?key|api[-_]?key|authorization/i;

/** Each match becomes what its groups leave of it. Words are bounded: megabytes without a blank take no longer. */
const PATTERNS: readonly (readonly [RegExp, string])[] = [
  // A PEM block, also with its lines escaped in JSON.
  [/-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[^]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)/g, HIDDEN],
  // https://user:password@host
  [/(\b[a-z][a-z0-9+.-]{0,30}:\/\/)[^/\s"'@]+@/gi, `$1${HIDDEN}@`],
  [/\b(Bearer|Basic)\s+[\w+/.~=-]{6,}/gi, `$1 ${HIDDEN}`],
  // JSON Web Tokens, which service accounts have.
  [/\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*/g, HIDDEN],
  // password: x, "token": "x", --etcd-password=x, --etcd-password x
  [
    new RegExp(
      String.raw`((?:--)?["']?[\w.-]{0,64}(?:${SECRET_NAME.source})[\w.-]*\\?["']?\s*[:=]\s*)(\\"[^]*?\\"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;&]+)`,
      'gi',
    ),
    `$1${HIDDEN}`,
  ],
  [
    new RegExp(String.raw`(--[\w-]{0,64}(?:${SECRET_NAME.source})[\w-]*\s+)[^\s-]\S*`, 'gi'),
    `$1${HIDDEN}`,
  ],
];

/** Shorter ones stand in every text by chance. */
const SECRET_CHARS_MIN = 4;

/** Values that must not be seen wherever they stand: of variables by their names. */
export const secretsOf = (env: NodeJS.ProcessEnv): readonly string[] =>
  Object.entries(env).flatMap(([name, value]) =>
    SECRET_NAME.test(name) && value !== undefined ? [value] : [],
  );

/** @param secrets  values known to be secret, as they are */
export function redact(text: string, secrets: readonly string[]): string {
  let it = text;
  const known = secrets.filter((secret) => secret.length >= SECRET_CHARS_MIN);
  for (const secret of known.toSorted((a, b) => b.length - a.length)) {
    const escaped = JSON.stringify(secret).slice(1, -1);
    it = it.replaceAll(secret, HIDDEN).replaceAll(escaped, HIDDEN);
    it = it.replaceAll(encodeURIComponent(secret), HIDDEN);
  }
  for (const [pattern, left] of PATTERNS) it = it.replaceAll(pattern, left);
  return it;
}
