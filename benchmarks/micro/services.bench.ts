import { addressBytes, parseAddress } from '../../wire/address.ts';
import { parseCidr } from '../../wire/cidr.ts';
import { ServiceCompiler } from '../../service/compile.ts';
import { createServiceLookup } from '../../service/table.ts';
import { endpointOf, objectsOf, serviceOf, sliceOf } from '../../test/services/build.ts';
import { bench } from './runner.ts';

/** Addresses that take turns, so that no place in the table stays in the first cache. */
const ADDRESSES = 1024;
const SERVICES = 10_000;
const TCP = 6;

let sink = 0;

const vipOf = (i: number): string => `10.96.${i >> 8}.${i & 255}`;
const vip6Of = (i: number): string => `fd00:96::${i.toString(16)}`;

function layServices(services: number, endpoints: number, bytes: 4 | 16, first = 0) {
  const objects = objectsOf(
    Array.from({ length: services }, (_, i) => [
      serviceOf(`s${i}`, [vipOf(i), vip6Of(i)]),
      sliceOf(
        `s${i}-1`,
        `s${i}`,
        Array.from({ length: endpoints }, (_, j) => endpointOf(`10.244.${j >> 8}.${j & 255}`)),
      ),
    ]).flat(),
  );
  const { table } = new ServiceCompiler().compile({
    objects,
    nodeName: 'n1',
    nodeAddresses: [],
    serviceNetworks: [parseCidr('10.96.0.0/14'), parseCidr('fd00:96::/108')],
    externalIpBlocks: [],
  });
  const memory = new Uint8Array(ADDRESSES * bytes);
  for (let i = 0; i < ADDRESSES; i++) {
    const place = first + ((i * 4099) % services);
    const text = bytes === 4 ? vipOf(place) : vip6Of(place);
    memory.set(addressBytes(parseAddress(text)), i * bytes);
  }
  const lookup = createServiceLookup(new DataView(memory.buffer));
  lookup.install(table);
  return { lookup, frontend: lookup.frontendOf(0, bytes === 4, TCP, 80) };
}

for (const bytes of [4, 16] as const) {
  const is4 = bytes === 4;
  const family = is4 ? 4 : 6;
  for (const [name, first, port] of [
    ['hit', 0, 80],
    ['unused-port', 0, 81],
    ['miss', 16_384, 80],
  ] as const) {
    bench(`services.frontend${family}.${name}`, {
      setup: () => layServices(SERVICES, 1, bytes, first),
      run: ({ lookup }, n) => {
        for (let i = 0; i < n; i++) {
          sink ^= lookup.frontendOf((i & (ADDRESSES - 1)) * bytes, is4, TCP, port);
        }
      },
    });
  }
}

for (const endpoints of [10, 1000]) {
  bench(`services.pick.${endpoints}`, {
    setup: () => layServices(1, endpoints, 4),
    run: ({ lookup, frontend }, n) => {
      for (let i = 0; i < n; i++) sink ^= lookup.pick(frontend, 0, true, Math.imul(i, 0x9e3779b1));
    },
  });
}
