import test from 'ava';
import { interfacesOf } from './clean-up.ts';

const links = JSON.stringify([
  { ifname: 'lo' },
  { ifname: 'weft1', ifalias: 'weft1 c1 eth0 default/web' },
  { ifname: 'weft2', ifalias: 'weft1 c1 eth1' },
  { ifname: 'weft3', ifalias: 'weft1 c10 eth0' },
  { ifname: 'weft4', ifalias: 'weft2 c1 eth0' },
  { ifname: 'weft5', ifalias: 'weft1  c1 eth0' },
  { ifname: 'weft6', ifalias: 'x weft1 c1 eth0' },
  1,
]);

for (const [containerId, ifname, expected] of [
  ['c1', 'eth0', ['weft1']],
  ['c1', 'eth1', ['weft2']],
  ['c10', 'eth0', ['weft3']],
  ['c', 'eth0', []],
] as const) {
  test(`the host's interface of ${containerId} ${ifname}`, (t) => {
    t.deepEqual(interfacesOf(links, containerId, ifname), [...expected]);
  });
}

test('without any interface ip prints nothing, or a list', (t) => {
  t.deepEqual(interfacesOf('', 'c1', 'eth0'), []);
  t.deepEqual(interfacesOf('[]', 'c1', 'eth0'), []);
  t.throws(() => interfacesOf('{}', 'c1', 'eth0'), { instanceOf: TypeError });
});
