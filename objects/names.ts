/** What Kubernetes lets a name, a label or a port be called (apimachinery's validation). */
import { PORT_NAME } from '../wire/cni.ts';

/** RFC 1123 label: Namespaces, Services, the parts of a subdomain. */
export const isDnsLabel = (text: string): boolean =>
  text.length <= 63 && /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(text);

/** RFC 1123 subdomain: the other objects. Its parts may be longer than a label, as in Kubernetes. */
export const isDnsSubdomain = (text: string): boolean =>
  text.length <= 253 && text.split('.').every((it) => /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(it));

/** `app`, `example.com/app`: at most 63 characters after the slash. */
export function isLabelKey(text: string): boolean {
  const slash = text.indexOf('/');
  const name = text.slice(slash + 1);
  return (
    (slash === -1 || isDnsSubdomain(text.slice(0, slash))) && name !== '' && isLabelValue(name)
  );
}

export const isLabelValue = (text: string): boolean =>
  text.length <= 63 && /^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$/.test(text);

/** As a label's key, in whatever case. */
export const isAnnotationKey = (text: string): boolean => isLabelKey(text.toLowerCase());

/** With a letter in it, so that a number in quotes is none. */
export const isPortName = (text: string): boolean => PORT_NAME.test(text);
