/** What the plugin prints: the result of ADD in each version (section 5, "Success"), and VERSION's. */
import type { CniAnswer, CniAttachment, CniError } from '../daemon/messages.ts';
import { type CniVersion, CNI_VERSIONS, CniCode } from '../wire/cni.ts';
import { familyOf } from './addresses.ts';
import type { Dns } from './configuration.ts';
import { CniFailure, brief } from './errors.ts';
import { type JsonObject, isObject } from './json.ts';

const areStrings = (value: unknown, ...keys: readonly string[]): value is JsonObject =>
  isObject(value) && keys.every((key) => typeof value[key] === 'string');

const areAll = (list: unknown, ...keys: readonly string[]): boolean =>
  Array.isArray(list) && list.every((it) => areStrings(it, ...keys));

const isAttachment = (it: unknown): it is CniAttachment =>
  isObject(it) &&
  areStrings(it['hostInterface'], 'name', 'mac') &&
  areStrings(it['interface'], 'name', 'mac', 'sandbox') &&
  Number.isSafeInteger(it['mtuBytes']) &&
  areAll(it['ips'], 'address', 'gateway') &&
  areAll(it['routes'], 'dst', 'gw');

const isError = (it: unknown): it is CniError =>
  areStrings(it, 'msg') &&
  Number.isSafeInteger(it['code']) &&
  (it['details'] === undefined || typeof it['details'] === 'string');

const isAnswer = (it: unknown): it is CniAnswer =>
  isObject(it) &&
  ('error' in it
    ? isError(it['error'])
    : it['attachment'] === null || isAttachment(it['attachment']));

/**
 * @param text  the body of the daemon's answer
 * @throws CniFailure with the daemon's own error; (internal) when it is not an answer
 */
export function readAnswer(status: number, text: string): CniAttachment | null {
  let answer: unknown;
  try {
    answer = status === 200 ? JSON.parse(text) : undefined;
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    answer = undefined;
  }
  if (!isAnswer(answer)) {
    throw new CniFailure(
      CniCode.internal,
      'what answers at the socket is not this version of the weft daemon; install weft-cni again',
      `HTTP ${status}: ${brief(text)}`,
    );
  }
  if ('error' in answer) {
    const { code, msg, details } = answer.error;
    throw new CniFailure(code, msg, details);
  }
  return answer.attachment;
}

const print = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** Interfaces have an MTU from 1.1.0 on; addresses had a version before 1.0.0. */
export function formatResult(version: CniVersion, it: CniAttachment, dns: Dns): string {
  const mtu = version === '1.1.0' ? { mtu: it.mtuBytes } : {};
  const hasFamily = version === '0.3.1' || version === '0.4.0';
  return print({
    cniVersion: version,
    interfaces: [
      { name: it.hostInterface.name, mac: it.hostInterface.mac, ...mtu },
      { name: it.interface.name, mac: it.interface.mac, ...mtu, sandbox: it.interface.sandbox },
    ],
    ips: it.ips.map(({ address, gateway }) => ({
      ...(hasFamily ? { version: String(familyOf(address) ?? 4) } : {}),
      address,
      gateway,
      // The container's, in the list above.
      interface: 1,
    })),
    routes: it.routes.map(({ dst, gw }) => ({ dst, gw })),
    ...(Object.keys(dns).length === 0 ? {} : { dns }),
  });
}

export const formatVersions = (version: string): string =>
  print({ cniVersion: version, supportedVersions: CNI_VERSIONS });
