/** The objects that `npm run bench:services` measures with, the same for Weft and for kube-proxy's rules. */

/** Of the Service that the client asks. */
export const VIP = '10.96.255.10';
/** Of a Service that has an endpoint now and then. */
export const SWITCH_VIP = '10.96.255.11';
export const POD_NETWORK = '10.244.0.0/16';
/** The server's ports. */
export const PORT = 9000;
export const PROBE_PORT = 9001;
export const STREAM_PORT = 9002;
/** How many policies change by turns under `--rate`. */
export const CHURN = 100;

export interface Sizes {
  readonly services: number;
  readonly endpoints: number;
  readonly policies: number;
  readonly pods: number;
  /** Of a Service that only a set of this size has: who is answered there knows that the set is in effect. */
  readonly markerVip: string;
}
export const SMALL: Sizes = {
  services: 10,
  endpoints: 10,
  policies: 10,
  pods: 50,
  markerVip: '10.96.255.21',
};
export const LARGE: Sizes = {
  services: 10_000,
  endpoints: 10,
  policies: 1000,
  pods: 5000,
  markerVip: '10.96.255.22',
};

interface Named<Kind extends string> {
  readonly apiVersion: string;
  readonly kind: Kind;
  readonly metadata: {
    readonly namespace: string;
    readonly name: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
}

export interface PodObject extends Named<'Pod'> {
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly phase: 'Running';
    readonly podIP: string;
    readonly podIPs: readonly { readonly ip: string }[];
  };
}

export interface ServiceObject extends Named<'Service'> {
  readonly spec: {
    readonly clusterIP: string;
    readonly clusterIPs: readonly string[];
    readonly ports: readonly { readonly port: number; readonly targetPort: number }[];
  };
}

export interface SliceObject extends Named<'EndpointSlice'> {
  readonly addressType: 'IPv4';
  readonly ports: readonly {
    readonly name: string;
    readonly protocol: 'TCP';
    readonly port: number;
  }[];
  readonly endpoints: readonly {
    readonly addresses: readonly string[];
    readonly conditions: { readonly ready: true };
  }[];
}

/** All pods, or those with a label. */
export interface Selector {
  readonly matchLabels?: Readonly<Record<string, string>>;
}

/** Pods of the policy's namespace, of all namespaces (`namespaceSelector: {}`), or a block. */
export type Peer =
  | { readonly podSelector: Selector; readonly namespaceSelector?: Record<string, never> }
  | { readonly ipBlock: { readonly cidr: string } };

export interface PolicyPort {
  /** TCP unless given. */
  readonly protocol?: 'UDP';
  readonly port: number;
}

export interface PolicyObject extends Named<'NetworkPolicy'> {
  readonly spec: {
    readonly podSelector: Record<string, never>;
    readonly policyTypes: readonly ('Ingress' | 'Egress')[];
    readonly ingress?: readonly {
      readonly from?: readonly Peer[];
      readonly ports?: readonly PolicyPort[];
    }[];
    readonly egress?: readonly {
      readonly to?: readonly Peer[];
      readonly ports?: readonly PolicyPort[];
    }[];
  };
}

export type ClusterObject = PodObject | ServiceObject | SliceObject | PolicyObject;

const podAddress = (i: number): string => `10.244.${100 + ((i >> 8) % 100)}.${i & 255 || 1}`;

const service = (name: string, clusterIP: string, targetPort: number): ServiceObject => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { namespace: 'lab', name },
  spec: { clusterIP, clusterIPs: [clusterIP], ports: [{ port: 80, targetPort }] },
});

const slice = (name: string, addresses: readonly string[], port: number): SliceObject => ({
  apiVersion: 'discovery.k8s.io/v1',
  kind: 'EndpointSlice',
  metadata: {
    namespace: 'lab',
    name: `${name}-1`,
    labels: { 'kubernetes.io/service-name': name },
  },
  addressType: 'IPv4',
  ports: [{ name: '', protocol: 'TCP', port }],
  endpoints: addresses.map((it) => ({ addresses: [it], conditions: { ready: true } })),
});

const policy = (namespace: string, name: string, spec: PolicyObject['spec']): PolicyObject => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { namespace, name },
  spec,
});

/**
 * Objects of other nodes, Services whose endpoint is the server, and policies that select both pods. Kube-proxy
 * walks Services in no order; the one that is asked is in the middle, where it is on average.
 */
export function objectsOf(sizes: Sizes, serverAddress: string): readonly ClusterObject[] {
  const items: ClusterObject[] = [];
  for (let i = 0; i < sizes.pods; i++) {
    items.push({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        namespace: `team-${i % 100}`,
        name: `pod-${i}`,
        labels: { app: `app-${i % 50}`, tier: `tier-${i % 3}` },
      },
      spec: { nodeName: `other-${i >> 8}` },
      status: { phase: 'Running', podIP: podAddress(i), podIPs: [{ ip: podAddress(i) }] },
    });
  }
  const others = sizes.services - 2;
  for (let i = 0; i < others; i++) {
    if (i === others >> 1) {
      items.push(service('target', VIP, PORT), slice('target', [serverAddress], PORT));
    }
    const name = `service-${i}`;
    items.push(
      service(name, `10.97.${i >> 8}.${i & 255}`, 8080),
      slice(
        name,
        Array.from({ length: sizes.endpoints }, (_, e) => podAddress(i * 7 + e)),
        8080,
      ),
    );
  }
  items.push(service('marker', sizes.markerVip, PORT), slice('marker', [serverAddress], PORT));
  for (let i = 0; i < sizes.policies; i++) {
    // Every other one selects the pods that are measured.
    items.push(
      policy(i % 2 === 0 ? 'lab' : `team-${i % 100}`, `policy-${i}`, {
        podSelector: {},
        policyTypes: ['Ingress', 'Egress'],
        ingress: [
          {
            from: [
              { namespaceSelector: {}, podSelector: { matchLabels: { app: `app-${i % 50}` } } },
              { ipBlock: { cidr: `10.${i % 200}.0.0/16` } },
              { podSelector: {} },
            ],
            ports: [{ port: 1000 + i }, { port: PORT }, { port: 5201 }],
          },
        ],
        egress: [{ to: [{ podSelector: {} }] }],
      }),
    );
  }
  items.push(
    policy('lab', 'stream', {
      podSelector: {},
      policyTypes: ['Ingress'],
      ingress: [{ ports: [{ protocol: 'UDP', port: STREAM_PORT }] }],
    }),
  );
  return items;
}

/** One policy more or less: the client may, or may not, ask the server's other port. */
export const gate = (isOpen: boolean): PolicyObject =>
  policy('lab', 'gate', {
    podSelector: {},
    policyTypes: ['Ingress'],
    ingress: isOpen ? [{ ports: [{ port: PROBE_PORT }] }] : [],
  });

/** The policy number `i` of those that change by turns; each turn admits another block at other ports. */
export const churn = (i: number, turn: number): PolicyObject =>
  policy('lab', `churn-${i}`, {
    podSelector: {},
    policyTypes: ['Ingress'],
    ingress: [
      {
        from: [{ ipBlock: { cidr: `10.${turn % 200}.${i}.0/24` } }],
        ports: [{ port: 20_000 + (turn % 1000) }, { port: 30_000 + i }],
      },
    ],
  });

/** A Service that has the server as its endpoint, or none. */
export const switched = (isOn: boolean, serverAddress: string): readonly ClusterObject[] => [
  service('switch', SWITCH_VIP, PORT),
  slice('switch', isOn ? [serverAddress] : [], PORT),
];
