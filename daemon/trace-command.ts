/** `weft trace`: the stages of a packet's way. Exit code 1: it would not arrive. */
import type { Argv } from 'yargs';
import {
  textOption,
  type Flags,
  UsageError,
  OUTPUT_OPTION,
  ask,
  printAs,
  textOf,
  warnOf,
  withOptions,
} from './cli.ts';
import type { LiveTraceMessage, TraceMessage } from './messages.ts';

export const withTraceOptions = (command: Argv): Argv =>
  withOptions(command, ['stateDir'])
    .option('from', textOption('the pod that sends: NAMESPACE/POD'))
    .option('to', textOption('NAMESPACE/POD, an address, or a Service: NAMESPACE/NAME'))
    .option('port', textOption('its number or name'))
    .option('protocol', textOption('TCP (if it is left out), UDP, SCTP or ICMP'))
    .option('live', {
      type: 'boolean',
      describe:
        'send one packet from the pod, which is on this node, and watch what becomes of it, also ' +
        'where it arrives',
    })
    .option('output', OUTPUT_OPTION)
    .epilogue(
      'For example: weft trace --from shop/web --to shop/api --port 80\n\nUnless it is --live nothing is sent: this is ' +
        'what the daemon on this machine knows, of its own pods by the tables that the\npacket path ' +
        'reads. Exit code 0: it arrives; 1: it would not, by one path at least.',
    );

/** @throws UsageError, DaemonAbsentError, ApiError */
export async function trace(flags: Flags): Promise<void> {
  const query = new URLSearchParams();
  for (const name of ['from', 'to', 'port', 'protocol']) {
    const value = textOf(flags, name);
    if (value !== null) query.set(name, value);
  }
  if (!query.has('from') || !query.has('to'))
    throw new UsageError('say between whom: --from, --to');
  if (flags['live'] === true) {
    const live = await ask<LiveTraceMessage>(flags, 'POST', `/v1/trace/live?${query.toString()}`);
    warnOf(live.absent, 'not watched on ');
    await printAs(flags, live, async () => (await import('./tables.ts')).liveTraceText(live));
    if (live.outcome !== 'answered') process.exitCode = 1;
    return;
  }
  const message = await ask<TraceMessage>(flags, 'GET', `/v1/trace?${query.toString()}`);
  await printAs(flags, message, async () => (await import('./tables.ts')).traceText(message));
  if (!message.arrives) process.exitCode = 1;
}
