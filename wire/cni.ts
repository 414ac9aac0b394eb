/** Names and numbers of the Container Network Interface (CNI specification 1.1.0), and ours within it. */

export const CNI_VERSIONS = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof CNI_VERSIONS)[number];

export const CNI_COMMANDS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;
export type CniCommand = (typeof CNI_COMMANDS)[number];

/** Section 5, "Error": below 100 the specification's, from 100 on ours. */
export const CniCode = {
  incompatibleVersion: 1,
  unsupportedField: 2,
  /** The container is unknown, or no longer exists. */
  unknownContainer: 3,
  invalidEnvironment: 4,
  io: 5,
  decode: 6,
  invalidConfig: 7,
  tryAgainLater: 11,
  /** STATUS: no ADD is possible. */
  unavailable: 50,
  /** STATUS: no ADD is possible, and pods that are there may be cut off. */
  limited: 51,
  /** The container has an interface of that name already. */
  interfaceExists: 100,
  /** CHECK: what ADD made is no longer so. */
  notAsAdded: 101,
  /** An address that was asked for cannot be given. */
  addressUnavailable: 102,
  internal: 103,
} as const;
export type CniCode = (typeof CniCode)[keyof typeof CniCode];

/** The specification sets no limit; 128 characters fit the kernel's alias of an interface beside the rest. */
export const CONTAINER_ID = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
/** What Linux takes as an interface's name (dev_valid_name), and no dot or dash to begin with. */
export const INTERFACE_NAME = /^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,14}$/;
/** Section 1: the name of a network. */
export const NETWORK_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
/** An absolute path without "." and ".." parts. */
export const NETNS_PATH = /^(?:\/(?!\.{1,2}(?:\/|$))[\w.+:@-]{1,255}){1,16}$/;

/** Labels (Kubernetes): an optional DNS subdomain before a slash, and a name; a value may be empty. */
export const LABEL_KEY =
  /^(?:(?=[^/]{1,253}\/)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$/;
export const LABEL_VALUE = /^(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$/;

/** Names of container ports (RFC 6335 section 5.1), and protocols that have ports. */
export const PORT_NAME = /^(?=.{1,15}$)(?=[-0-9]*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*$/;
export const PORT_PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;

/** A port of a container that policies and Services may speak of by its name. */
export interface NamedContainerPort {
  readonly name: string;
  /** 1..65535 */
  readonly containerPort: number;
  readonly protocol: (typeof PORT_PROTOCOLS)[number];
}
/** More than any pod has; what is stored stays small. */
export const NAMED_PORTS_MAX = 256;
