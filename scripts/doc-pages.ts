/** The pages of docs/ that are made from the code: options, drop reasons, metrics, commands. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { format } from 'prettier';
import { type Option, OPTIONS, flagOf, optionNames, variableOf } from '../daemon/config.ts';
import { METRICS } from '../daemon/metrics.ts';
import { DROP_TEXTS } from '../wire/drop-texts.ts';

const HOUSE = join(import.meta.dirname, '..');
const MADE = '<!-- Made from the code by `npm run docs`. -->';

const cell = (text: string): string => text.replaceAll('|', '\\|');
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows]
    .map((row) => `| ${row.map(cell).join(' | ')} |`)
    .join('\n');

function optionsPage(): string {
  const rows = optionNames.map((name) => {
    const { text, textMeans, description }: Option<unknown> = OPTIONS[name];
    const shown = text === '' ? (textMeans ?? 'none') : `\`${text}\``;
    const meaning = text !== '' && textMeans !== undefined ? `${shown} (${textMeans})` : shown;
    return [`\`--${flagOf(name)}\``, `\`${variableOf(name)}\``, meaning, description];
  });
  return `# Options of the daemon

A flag wins over the environment, the environment over \`--config FILE\` (YAML, the flags' names without
dashes as keys), the file over the default. \`weft daemon --print-config\` prints each value with its origin.
[daemon.md](daemon.md) says more about some of them. Other commands take those that they need: most of them
\`--state-dir\` only.

${table(['flag', 'environment', 'default', 'what it is'], rows)}
`;
}

function dropReasonsPage(): string {
  const rows = Object.entries(DROP_TEXTS).map(([name, { stage, means, action }]) => [
    `\`${name}\``,
    stage,
    means,
    action,
  ]);
  return `# Drop reasons

A packet that is not delivered has one of these reasons. Each has a counter: \`weft status\` shows those that
are not 0 as \`drop.REASON\`, \`GET /metrics\` has \`weft_drops_total{reason, direction}\`, and \`weft status -o json\`
all of them. \`GET /v1/flows\` says which packets they were.

The stage says where: ingress is on the way in from a peer, egress out of the TUN, sending towards a peer, flow
in connection tracking, Services and policy, either way; kernel is before Weft has seen the packet.

${table(['reason', 'stage', 'what it means', 'what to do'], rows)}

Two more are counted by the host's nft table, as \`host.REASON\` and \`weft_host_drops_total{reason}\`:

${table(
  ['reason', 'what it means', 'what to do'],
  [
    [
      '`spoofedSource`',
      "a pod's interface brought an Ethernet or IP address that is not the pod's, or another one brought an address of this node's subnet",
      'look what runs in that pod; an attack, or a pod that routes for others',
    ],
    [
      '`vxlanFromPod`',
      'a pod sent to the VXLAN port of a node',
      'an attack, or an overlay inside a pod: give it another port',
    ],
  ],
)}
`;
}

function metricsPage(): string {
  const rows = METRICS.map(({ name, type, labels, help }) => [
    `\`${name}\``,
    type,
    labels.map((it) => `\`${it}\``).join(', '),
    help,
  ]);
  return `# Metrics

\`GET /metrics\` on \`--healthz-port\` tells them in Prometheus's text format. All is read when somebody asks:
counters lie in shared memory until then, and nobody who asks costs the packet path anything. What is not known
(yet) is left out. No label names pods: their number has no bound.

    scrape_configs:
      - job_name: weft
        static_configs:
          - targets: ['192.0.2.1:10256', '192.0.2.2:10256']

\`deploy/grafana/weft.json\` is a dashboard over them, \`deploy/prometheus/weft.rules.yaml\` are alerts;
[troubleshooting.md](troubleshooting.md) goes on from there. What the counters mean and how they add up is in
[packet-path.md](packet-path.md#what-is-counted).

${table(['metric', 'type', 'labels', 'what it tells'], rows)}
`;
}

const run = promisify(execFile);
const ENVIRONMENT = { PATH: process.env['PATH'] };

async function helpOf(words: readonly string[]): Promise<string> {
  const main = join(HOUSE, 'daemon', 'main.ts');
  const { stdout } = await run(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', main, ...words, '--help'],
    { env: ENVIRONMENT, cwd: HOUSE },
  );
  return stdout.trimEnd();
}

/** Of a command and of those below it, in the order of its help. */
async function helps(words: readonly string[]): Promise<readonly (readonly [string, string])[]> {
  const help = await helpOf(words);
  const prefix = ['weft', ...words].join(' ');
  const below = new RegExp(`^  ${prefix} ([a-z-]+)(?: |$)`, 'gm');
  const found: (readonly [string, string])[] = [[prefix, help]];
  for (const [, word] of help.matchAll(below)) found.push(...(await helps([...words, word!])));
  return found;
}

async function commandsPage(): Promise<string> {
  const sections = (await helps([])).map(
    ([name, help]) => `## ${name}\n\n\`\`\`\n${help}\n\`\`\`\n`,
  );
  return `# Commands

What \`--help\` says of each. Exit codes: 0 it was done; 1 it failed, or the answer is no; 2 it was refused as it
was asked. Those that ask the daemon find it by \`--state-dir\`, and need to be root. \`-o yaml\` and \`-o json\`
print everything, tables what fits.

${sections.join('\n')}`;
}

/** Every page that is made, by its path from the repository's root, as Prettier writes it. */
export async function docPages(): Promise<ReadonlyMap<string, string>> {
  const pages = [
    ['docs/options.md', optionsPage()],
    ['docs/drop-reasons.md', dropReasonsPage()],
    ['docs/metrics.md', metricsPage()],
    ['docs/commands.md', await commandsPage()],
  ] as const;
  const formatted = pages.map(
    async ([path, text]) =>
      [path, await format(`${MADE}\n\n${text}`, { parser: 'markdown', printWidth: 100 })] as const,
  );
  return new Map(await Promise.all(formatted));
}
