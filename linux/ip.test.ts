import test from 'ava';
import { IpError, apply, words } from './ip.ts';

for (const [name, command, expected] of [
  ['literal', words`link show`, ['link', 'show']],
  ['a value is a word', words`link set ${'eth0'} mtu ${1500}`, 'link set eth0 mtu 1500'.split(' ')],
  [
    'a value within a word',
    words`addr add ${'10.0.0.1'}/${32} dev x`,
    'addr add 10.0.0.1/32 dev x'.split(' '),
  ],
  [
    'lines and ends',
    words`
    route
      add ${'a'}
  `,
    ['route', 'add', 'a'],
  ],
  ['a value with spaces stays one', words`link del ${'a b'}`, ['link', 'del', 'a b']],
  ['an empty value stays', words`link del ${''}`, ['link', 'del', '']],
] as const) {
  test(`words: ${name}`, (t) => t.deepEqual([...command], [...expected]));
}

for (const word of ['a b', 'a\nlink del lo', '', 'a#b', '"a"', "'", 'a\\', 'a\tb']) {
  test(`a batch refuses the word ${JSON.stringify(word)} before it runs anything`, async (t) => {
    await t.throwsAsync(apply([words`link show ${word}`]), {
      instanceOf: IpError,
      code: 'ERR_IP',
      message: /is not one word/,
    });
  });
}
