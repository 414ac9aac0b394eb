import test from 'ava';
import type { EndpointSlice, WeftObject } from '../objects/types.ts';
import { endpointText } from '../test/services/ask.ts';
import {
  endpointOf,
  nodeOf,
  objectsOf,
  podOf,
  portOf,
  serviceOf,
  sliceOf,
} from '../test/services/build.ts';
import { endpointsOf, updateSlices } from './endpoints.ts';

/** Of each port and family, `address:port` and r(eady), s(erving), t(erminating), node, zone. */
const textsOf = (...objects: readonly WeftObject[]) =>
  endpointsOf(objectsOf(objects))
    .get('default/web')!
    .map(({ port, family, endpoints }) => [
      `${port.name}/${port.protocol} ${family}`,
      ...endpoints.map(
        ({ address, port, ready, serving, terminating, nodeName, zone }) =>
          `${endpointText(address, port)} ${ready ? 'r' : ''}${serving ? 's' : ''}` +
          `${terminating ? 't' : ''} ${nodeName} ${zone}`,
      ),
    ]);

const LISTED = [{ name: '', protocol: 'TCP', port: 8080 }] as const;
const bySelector = { selector: { app: 'web' }, ports: [portOf(80, { targetPort: 8080 })] };
const NODE = nodeOf('n1', ['192.0.2.1'], 'zone-a');
const APP = { app: 'web' };

for (const [name, objects, expected] of [
  [
    'both families of a headless Service',
    [
      serviceOf('web', [], { headless: true }),
      sliceOf('web-4', 'web', [endpointOf('10.244.1.5')]),
      sliceOf('web-6', 'web', [endpointOf('fd00:244::5')]),
    ],
    [
      ['/TCP 4', '10.244.1.5:8080 rs  '],
      ['/TCP 6', '[fd00:244::5]:8080 rs  '],
    ],
  ],
  [
    'duplicates: the better of the two, whichever comes first',
    [
      serviceOf('web', ['10.96.0.1']),
      sliceOf('web-1', 'web', [
        endpointOf('10.244.1.5', { ready: false, nodeName: 'n1' }),
        endpointOf('10.244.1.6', { nodeName: 'n1' }),
      ]),
      sliceOf('web-2', 'web', [
        endpointOf('10.244.1.5', { nodeName: 'n2' }),
        endpointOf('10.244.1.6', { ready: false, nodeName: 'n2' }),
      ]),
      NODE,
    ],
    [['/TCP 4', '10.244.1.5:8080 rs n2 ', '10.244.1.6:8080 rs n1 zone-a']],
  ],
  [
    'slices that list nobody are slices',
    [
      serviceOf('web', ['10.96.0.1'], bySelector),
      sliceOf('s', 'web', []),
      podOf('a', ['10.244.1.5'], APP),
    ],
    [['/TCP 4']],
  ],
  [
    'pods: ready, ending, not ready',
    [
      serviceOf('web', ['10.96.0.1'], bySelector),
      podOf('a', ['10.244.1.5', 'fd00:244::5'], APP),
      podOf('b', ['10.244.1.6'], APP, { terminating: true }),
      podOf('c', ['10.244.1.7'], APP, { ready: false }),
      NODE,
    ],
    [
      [
        '/TCP 4',
        '10.244.1.5:8080 rs n1 zone-a',
        '10.244.1.6:8080 st n1 zone-a',
        '10.244.1.7:8080  n1 zone-a',
      ],
    ],
  ],
  [
    'pods: all ready where that is asked for',
    [
      serviceOf('web', ['10.96.0.1'], { ...bySelector, publishNotReadyAddresses: true }),
      podOf('b', ['10.244.1.6'], APP, { terminating: true }),
      podOf('c', ['10.244.1.7'], APP, { ready: false }),
    ],
    [['/TCP 4', '10.244.1.6:8080 rst n1 ', '10.244.1.7:8080 r n1 ']],
  ],
] as const) {
  test(name, (t) => {
    t.deepEqual(
      textsOf(...objects),
      expected.map((it) => [...it]),
    );
  });
}

test('slices are grouped the same, whatever was known before', (t) => {
  const slice = (name: string, service: string): EndpointSlice =>
    sliceOf(name, service, [], LISTED);
  const states = [
    [slice('b', 'web'), slice('a', 'web'), slice('c', 'db')],
    [slice('a', 'web'), slice('c', 'web')],
    [slice('a', ''), slice('c', 'web'), slice('0', 'web')],
    [],
  ].map((it) => new Map(it.map((slice) => [`default/${slice.metadata.name}`, slice])));
  for (const before of states) {
    for (const now of states) {
      const found = new Map<string, readonly EndpointSlice[]>();
      updateSlices(found, new Map(), before);
      updateSlices(found, before, now);
      const fresh = new Map<string, readonly EndpointSlice[]>();
      updateSlices(fresh, new Map(), now);
      t.deepEqual(Object.fromEntries(found), Object.fromEntries(fresh));
    }
  }
});
