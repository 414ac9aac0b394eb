import test from 'ava';
import { redact, secretsOf } from './redact.ts';

const S = 'hunter2hunter2';

for (const [name, text] of [
  ['YAML', `etcd-password: ${S}  # flag`],
  ['JSON', `{"etcdPassword": "${S}", "node": "n1"}`],
  ['JSON with quotes within', `{"token":"a\\"${S}"}`],
  ['JSON within JSON', `{"msg":"{\\"password\\":\\"${S}\\"}"}`],
  ['a flag with =', `weft daemon --etcd-password=${S} --workers=1`],
  ['a flag and a word', `weft daemon --etcd-password ${S} --workers 1`],
  ['a variable', `WEFT_ETCD_PASSWORD=${S}`],
  ['a URL', `https://root:${S}@192.0.2.1:2379`],
  ['a header', `authorization: Bearer ${S}`],
  ['a header elsewhere', `sent Bearer ${S}`],
  ['a JSON web token', `eyJhbGciOiJSUzI1NiJ9.eyJ${S}.c2lnbmF0dXJl`],
  ['a key', `-----BEGIN RSA PRIVATE KEY-----\n${S}\n-----END RSA PRIVATE KEY-----\nrest`],
  ['a key in JSON', `"-----BEGIN PRIVATE KEY-----\\n${S}\\n-----END PRIVATE KEY-----\\n"`],
  ['a key that was cut', `-----BEGIN EC PRIVATE KEY-----\n${S}`],
  ['apiKey', `apiKey=${S}&x=1`],
] as const) {
  test(`hidden: ${name}`, (t) => {
    const found = redact(text, []);
    t.false(found.includes(S), found);
    t.true(found.includes('(not shown)'));
  });
}

for (const text of [
  'lease: 10.244.1.0/24',
  '{"subnet":"10.244.1.0/24","peers":[{"key":"10.244.2.0-24"}]}',
  'default dev weft0 scope link',
  'etcd-endpoints: http://192.0.2.1:2379  # flag --etcd-endpoints',
  'packets passed: 5, password changed',
  '-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----',
]) {
  test(`stays: ${text.slice(0, 30)}`, (t) => t.is(redact(text, []), text));
}

test('a known secret is hidden wherever it stands, as it is or encoded', (t) => {
  const secret = 'p@ss"wörd';
  const text = `a ${secret} b ${JSON.stringify(secret)} c ${encodeURIComponent(secret)}`;
  t.is(redact(text, [secret]), 'a (not shown) b "(not shown)" c (not shown)');
  t.is(redact('a b', ['', 'a']), 'a b');
});

test('variables that are secret by their names', (t) => {
  const env = {
    WEFT_ETCD_PASSWORD: 'one',
    GITHUB_TOKEN: 'two',
    HOME: '/root',
    AWS_SECRET_KEY: 'x',
  };
  t.deepEqual(secretsOf(env), ['one', 'two', 'x']);
});

test('megabytes without a blank take no longer than others', (t) => {
  const startMs = performance.now();
  redact('a.'.repeat(1 << 20), ['secret']);
  t.true(performance.now() - startMs < 5_000);
});
