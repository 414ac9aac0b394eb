import test from 'ava';
import { objectSetOf } from '../objects/set.ts';
import type { NetworkPolicy, WeftObject } from '../objects/types.ts';
import { parseAddress } from '../wire/address.ts';
import { parseCidr } from '../wire/cidr.ts';
import { endpointOf, podOf, serviceOf, sliceOf } from '../test/services/build.ts';
import { type ExplainInputs, explain } from './explain.ts';

/** Nobody reaches b's pods. */
const DENY: NetworkPolicy = {
  kind: 'NetworkPolicy',
  metadata: { name: 'deny', namespace: 'b', labels: {}, annotations: {} },
  podSelector: { matchLabels: {}, matchExpressions: [] },
  policyTypes: ['Ingress'],
  ingress: [],
  egress: [],
};
const OBJECTS: readonly WeftObject[] = [
  podOf('a/x', ['10.244.1.2'], {}),
  podOf('a/y', ['10.244.1.3'], {}),
  podOf('b/z', ['10.244.2.2'], {}, { nodeName: 'n2' }),
  serviceOf('a/open', ['10.96.0.1']),
  sliceOf('a/open-1', 'open', [endpointOf('10.244.1.3')]),
  serviceOf('a/mixed', ['10.96.0.2']),
  sliceOf('a/mixed-1', 'mixed', [endpointOf('10.244.1.3'), endpointOf('10.244.2.2')]),
  serviceOf('a/empty', ['10.96.0.3']),
  DENY,
];
const INPUTS: ExplainInputs = {
  objects: objectSetOf(OBJECTS),
  nodeName: 'n1',
  nodeAddresses: [parseAddress('192.0.2.1')],
  serviceNetworks: [parseCidr('10.96.0.0/16')],
  externalIpBlocks: [],
  around: { nodeName: 'n1', nodeAddresses: [], subjects: 'all' },
};

const ANSWERS: readonly [string, string, RegExp][] = [
  ['from=a/x&to=a/y&port=80', 'allow', /egress of a\/x.*ingress of a\/y/],
  ['from=a/x&to=b/z&port=80', 'deny', /ingress of b\/z.*b\/deny/],
  ['from=b/z&to=a/x&port=80', 'allow', /ingress of a\/x/],
  ['from=192.0.2.77&to=b/z&port=80&protocol=udp', 'deny', /b\/deny/],
  ['from=a/x&to=b/z&protocol=ICMP', 'deny', /b\/deny/],
  [
    'from=a/x&to=service/a/open&port=80',
    'allow',
    /Service a\/open.*one of 10\.244\.1\.3 port 8080/,
  ],
  ['from=a/x&to=10.96.0.1&port=80', 'allow', /10\.96\.0\.1.*one of 10\.244\.1\.3/],
  ['from=a/x&to=a/mixed&port=80', 'partly', /b\/deny/],
  ['from=a/x&to=a/empty&port=80', 'deny', /no ready endpoint/],
  ['from=a/x&to=a/open&port=81', 'deny', /no such port/],
  ['from=a/x&to=10.96.77.77&port=80', 'deny', /no Service has the address/],
];
for (const [question, verdict, because] of ANSWERS) {
  test(`explain: ${question}: ${verdict}`, (t) => {
    const answer = explain(INPUTS, new URLSearchParams(question));
    t.is(answer.verdict, verdict as never, JSON.stringify(answer));
    t.regex(answer.steps.map(({ what, because }) => `${what}: ${because}`).join('; '), because);
  });
}

const REFUSED: readonly [string, RegExp][] = [
  ['to=a/y&port=80', /say from whom/],
  ['from=a/x&port=80', /say to whom/],
  ['from=a/x&to=a/y', /say which port/],
  ['from=a/x&to=a/y&port=0', /1\.\.65535/],
  ['from=a/x&to=a/y&port=99999', /1\.\.65535/],
  ['from=a/nobody&to=a/y&port=80', /there is no pod a\/nobody/],
  ['from=a/x&to=service/a/none&port=80', /there is no Service a\/none/],
  ['from=a/x&to=a/open&port=nope', /no TCP port "nope"/],
  ['from=a/x&to=a/y&port=80&protocol=__proto__', /protocol/],
  [`from=${'x'.repeat(301)}&to=a/y&port=80`, /too long/],
  ['from=__proto__&to=a/y&port=80', /there is no pod/],
];
for (const [question, message] of REFUSED) {
  test(`explain refuses: ${question.slice(0, 60)}`, (t) => {
    t.throws(() => explain(INPUTS, new URLSearchParams(question)), {
      code: 'ERR_EXPLAIN',
      message,
    });
  });
}
