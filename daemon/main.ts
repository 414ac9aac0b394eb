/**
 * `weft`: the daemon and the operator's commands. Exit codes: 0 done; 1 it failed; 2 it refused as it was
 * asked, one line on stderr says why, and nothing on the host was touched.
 */
import { createReadStream } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import pico from 'picocolors';
import type { Argv } from 'yargs';
import { CNI_VERSIONS, NETWORK_NAME } from '../wire/cni.ts';
import { ConfigError, OPTIONS, flagOf, optionNames, printConfig } from './config.ts';
import type { IpamCheckMessage, IpamMessage, LeaseMessage } from './messages.ts';
import { didYouMean } from '../objects/nearest.ts';
import {
  type Flags,
  NAMESPACE_OPTION,
  OUTPUT_OPTION,
  UsageError,
  ask,
  asking,
  configOf,
  etcdOptions,
  outputOf,
  print,
  printAs,
  show,
  textOf,
  textsOf,
  withOptions,
} from './cli.ts';
import { capture, withCaptureOptions } from './capture-command.ts';
import { trace, withTraceOptions } from './trace-command.ts';
import {
  OPERATOR_COMMANDS,
  OPERATOR_FLAGS,
  completeWords,
  withOperatorCommands,
} from './operator-commands.ts';
import { flowsCommand } from './flow-commands.ts';
import { policyDiff, shadowCommand, startShadow } from './what-if-commands.ts';
import { VERSION } from './version.ts';

/** Refused before anything was touched. */
const REFUSALS = new Set([
  'ERR_USAGE',
  'ERR_CONFIG',
  'ERR_MISSING_PROGRAM',
  'ERR_STATE_DIR_BUSY',
  'ERR_UNDERLAY',
  'ERR_ETCD_OPTIONS',
  'ERR_OBJECTS',
  'ERR_POLICY_QUERY',
  'ERR_FILTER',
  'ERR_TRACE',
  'ERR_OBJECT',
  'ERR_CAPTURE_FILE',
  'ERR_PCAPNG',
]);

async function daemon(flags: Flags): Promise<void> {
  const resolved = configOf(flags);
  if (flags['print-config'] === true) {
    print(printConfig(resolved));
    return;
  }
  const { config } = resolved;
  const [{ runDaemon }, { openLog }] = await Promise.all([
    import('./daemon.ts'),
    import('./log.ts'),
  ]);
  const log = openLog(config.logLevel, config.nodeName);
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      // Asked twice: at once.
      if (stop.signal.aborted) process.exit(1);
      log.info({ signal }, 'stopping');
      stop.abort();
    });
  }
  await runDaemon(config, log, stop.signal, () => printConfig(resolved));
}

async function cleanup(flags: Flags): Promise<void> {
  const { config } = configOf(flags);
  const [{ cleanUp }, { openLog }] = await Promise.all([
    import('./cleanup.ts'),
    import('./log.ts'),
  ]);
  const options = { releaseLease: flags['release-lease'] === true, purge: flags['purge'] === true };
  const log = openLog('error', config.nodeName);
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  const removed = await cleanUp(config, options, log, stop.signal);
  for (const it of removed) print(`removed ${it}`);
  if (removed.length === 0) print('nothing to remove');
}

/** Problems on stderr, a line each, before the line that says what follows. */
async function tellingProblems(work: () => Promise<void>): Promise<void> {
  const { ObjectsError, problemLine } = await import('./object-commands.ts');
  try {
    await work();
  } catch (error) {
    if (error instanceof ObjectsError) {
      for (const it of error.problems) process.stderr.write(`${problemLine(it)}\n`);
    }
    throw error;
  }
}

const apply = (flags: Flags): Promise<void> =>
  tellingProblems(async () => {
    if (flags['shadow'] === true) {
      await startShadow(flags);
      return;
    }
    if (flags['replace'] !== undefined) throw new UsageError('--replace is for --shadow');
    const { applyObjects } = await import('./object-commands.ts');
    const options = {
      paths: textsOf(flags, 'filename'),
      set: textOf(flags, 'set') ?? 'default',
      prune: flags['prune'] === true,
      dryRun: flags['dry-run'] === true,
    };
    const warn = (line: string): void => void process.stderr.write(`weft: ${line}\n`);
    const lines = applyObjects(options, asking(flags), process.stdin, warn);
    for await (const line of lines) print(line);
  });

const remove = (flags: Flags): Promise<void> =>
  tellingProblems(async () => {
    const { deleteObjects } = await import('./object-commands.ts');
    const options = {
      paths: textsOf(flags, 'filename'),
      kind: textOf(flags, 'kind'),
      name: textOf(flags, 'name'),
      namespace: textOf(flags, 'namespace') ?? 'default',
    };
    const { lines, isDone } = await deleteObjects(options, asking(flags), process.stdin);
    for (const it of lines) print(it);
    if (!isDone) process.exitCode = 1;
  });

const get = (flags: Flags): Promise<void> =>
  tellingProblems(async () => {
    const { asOne, getObjects } = await import('./object-commands.ts');
    const isAll = flags['all-namespaces'] === true;
    const got = await getObjects(
      {
        kind: textOf(flags, 'kind') ?? '',
        name: textOf(flags, 'name'),
        namespace: isAll ? null : (textOf(flags, 'namespace') ?? 'default'),
      },
      asking(flags),
    );
    await printAs(flags, asOne(got), async () => {
      const { objectsTable } = await import('./tables.ts');
      return objectsTable(got.names.kind, got.items, isAll);
    });
  });

const FILES_OPTION = {
  alias: 'f',
  type: 'string',
  requiresArg: true,
  describe:
    'a file, a directory of .yaml, .yml and .json files, or - for stdin; as often as needed',
} as const;

const withFiles = (command: Argv): Argv =>
  withOptions(command, ['stateDir']).option('filename', FILES_OPTION);

/** Of files alone, but for `diff`, which asks the daemon. */
const policy = (flags: Flags): Promise<void> =>
  tellingProblems(async () => {
    const action = textOf(flags, 'action') ?? 'verdict';
    if (action === 'diff') {
      await policyDiff(flags);
      return;
    }
    outputOf(flags);
    if (action !== 'verdict' && action !== 'matrix') {
      throw new UsageError(`weft policy: "${action}" is none of verdict, matrix, diff`);
    }
    outputOf(flags);
    const paths = textsOf(flags, 'filename');
    if (paths.length === 0) throw new UsageError('say which objects: -f FILE');
    const { answerPolicyQuestion } = await import('./policy-cli.ts');
    const { value, table, isAllowed } = await answerPolicyQuestion(
      {
        action,
        paths,
        from: textOf(flags, 'from'),
        to: textOf(flags, 'to'),
        port: textOf(flags, 'port'),
        protocol: textOf(flags, 'protocol'),
        probes: textOf(flags, 'probes'),
      },
      process.stdin,
    );
    await printAs(flags, value, table);
    if (!isAllowed) process.exitCode = 1;
  });

async function releaseLease(flags: Flags): Promise<void> {
  const which = encodeURIComponent(String(flags['key']));
  const query = flags['reservations'] === true ? '?reservations=true' : '';
  const { kind, key } = await ask<{ kind: string; key?: string }>(
    flags,
    'DELETE',
    `/v1/leases/${which}${query}`,
  );
  print(kind === 'released' ? `released ${key}` : `not released: ${kind}`);
  if (kind !== 'released') process.exitCode = 1;
}

/** All pods, or the one that has the address. */
async function showIpam(flags: Flags): Promise<void> {
  const ip = flags['ip'] as string | undefined;
  const path = ip === undefined ? '/v1/ipam' : `/v1/ipam?ip=${encodeURIComponent(ip)}`;
  await show<IpamMessage>(flags, path, (tables, ipam) => tables.ipamTable(ipam));
}

async function checkIpam(flags: Flags): Promise<void> {
  const { attachments, problems } = await ask<IpamCheckMessage>(flags, 'GET', '/v1/ipam/check');
  await printAs(flags, { attachments, problems }, () =>
    problems.length === 0 ? `${attachments} pods, all as they should be` : problems.join('\n'),
  );
  if (problems.length > 0) process.exitCode = 1;
}

const directories = (flags: Flags) => ({
  binDir: resolve(String(flags['bin-dir'])),
  confDir: resolve(String(flags['conf-dir'])),
});

async function installPlugin(flags: Flags): Promise<void> {
  const cniVersion = CNI_VERSIONS.find((it) => it === flags['cni-version']);
  if (cniVersion === undefined) {
    throw new UsageError(`--cni-version is not one of ${CNI_VERSIONS.join(', ')}`);
  }
  const networkName = String(flags['network-name']);
  if (!NETWORK_NAME.test(networkName)) {
    throw new UsageError(`--network-name: "${networkName}" is not the name of a network`);
  }
  const wait = String(flags['wait']);
  if (!/^[0-9]{1,5}$/.test(wait)) throw new UsageError(`--wait: "${wait}" is no number of seconds`);
  const { stateDir } = configOf(flags).config;
  const waitMs = Number(wait) * 1000;
  const { installCni } = await import('./cni-install.ts');
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort());
  const options = { ...directories(flags), stateDir, cniVersion, networkName, waitMs };
  for (const line of await installCni(options, stop.signal)) print(line);
}

async function uninstallPlugin(flags: Flags): Promise<void> {
  const { uninstallCni } = await import('./cni-install.ts');
  const removed = await uninstallCni(directories(flags));
  for (const it of removed) print(`removed ${it}`);
  if (removed.length === 0) print('nothing to remove');
}

const withDirectories = (command: Argv): Argv =>
  command
    .option('bin-dir', {
      type: 'string',
      requiresArg: true,
      default: '/opt/cni/bin',
      describe: "the container runtime's directory of plugins",
    })
    .option('conf-dir', {
      type: 'string',
      requiresArg: true,
      default: '/etc/cni/net.d',
      describe: "the container runtime's directory of network configurations",
    });

async function logs(flags: Flags): Promise<void> {
  const { formatLine } = await import('./log.ts');
  const path = flags['file'] as string | undefined;
  const input = path === undefined ? process.stdin : createReadStream(path);
  const opened = new Promise<never>((_, reject) => {
    input.once('error', (cause: Error) => {
      reject(new ConfigError(`${path ?? 'stdin'} cannot be read: ${cause.message}`, { cause }));
    });
  });
  const colors = pico.createColors(process.stdout.isTTY && pico.isColorSupported);
  const read = async (): Promise<void> => {
    for await (const line of createInterface({ input })) print(formatLine(line, colors));
  };
  await Promise.race([read(), opened]);
}

const COMMANDS = [
  'apply',
  'capture',
  'daemon',
  'cleanup',
  'cni',
  'delete',
  'flows',
  'get',
  'ipam',
  'lease',
  'logs',
  'policy',
  'shadow',
  'trace',
  ...OPERATOR_COMMANDS,
];

/** Yargs's complaint, with the word it was likely meant to be. */
function explain(message: string, args: readonly string[], flags: readonly string[]): string {
  const unknown = /^Unknown (?:argument|command)s?: (.*)$/.exec(message)?.[1];
  if (unknown === undefined) return message.split('\n')[0]!;
  const [word = ''] = unknown.split(', ');
  const flag = args.find((it) => it === `--${word}` || it.startsWith(`--${word}=`));
  return flag === undefined
    ? `there is no command "${word}"${didYouMean(word, COMMANDS)}`
    : `there is no option "--${word}"${didYouMean(word, flags)}`;
}

/**
 * `daemon --name=value... --name` as a service manager starts it, without yargs, which takes as long to load as
 * the lease takes to be had: pods wait for a daemon that starts again. Null: yargs is to look at it.
 */
function plainDaemonFlags([command, ...rest]: readonly string[]): Flags | null {
  if (command !== 'daemon') return null;
  const names = new Set([...optionNames.map(flagOf), 'config']);
  const booleans = new Set(optionNames.filter((it) => OPTIONS[it].kind === 'boolean').map(flagOf));
  const flags: Record<string, string> = {};
  for (const word of rest) {
    const [, name = '', value] = /^--([a-z0-9-]+)(?:=(.*))?$/s.exec(word) ?? [];
    if (!names.has(name) || Object.hasOwn(flags, name)) return null;
    if (value === undefined && !booleans.has(name)) return null;
    flags[name] = value ?? '';
  }
  return flags;
}

async function main(given: readonly string[]): Promise<void> {
  const [first, ...words] = given;
  const args = first === '__complete' ? await completeWords(words) : given;
  if (args === null) return;
  const plain = plainDaemonFlags(args);
  if (plain !== null) {
    await daemon(plain);
    return;
  }
  const { default: yargs } = await import('yargs');
  const cli = withOperatorCommands(yargs([...args]))
    .scriptName('weft')
    .usage(
      '$0 COMMAND\n\nA userspace VXLAN overlay network for Kubernetes and bare-metal clusters.',
    )
    .locale('en')
    .version(VERSION)
    .wrap(Math.min(110, process.stdout.columns ?? 110))
    .parserConfiguration({
      'camel-case-expansion': false,
      'dot-notation': false,
      'boolean-negation': false,
      'parse-positional-numbers': false,
      'short-option-groups': false,
    })
    .command(
      'daemon',
      'Run this node: lease a subnet, carry the traffic of its pods',
      (it) =>
        withOptions(it, optionNames)
          .option('print-config', {
            type: 'boolean',
            describe: 'print each value with its origin, and end; secrets are left out',
          })
          .epilogue(
            'A flag wins over the environment (in brackets), the environment over the file, the ' +
              'file over the default.\nSIGTERM and SIGINT end the daemon and keep the lease, the ' +
              'interface, its routes and the nft table, so that\nthe next start takes over; ' +
              '`weft cleanup` removes them.',
          ),
      daemon,
    )
    .command(
      'cleanup',
      'Remove every trace of the daemon from this host; run it when the daemon is stopped',
      (it) =>
        withOptions(it, [
          'nodeName',
          'tunName',
          'stateDir',
          'subnetFile',
          'flowFile',
          ...etcdOptions,
        ])
          .option('release-lease', {
            type: 'boolean',
            describe: 'give the subnet back first; otherwise the lease ends by itself',
          })
          .option('purge', {
            type: 'boolean',
            describe: 'remove the files of our own etcd too, and with them the network config',
          })
          .epilogue(
            'Removes the interface, our routes, the nft table, the subnet file and the state, and ' +
              'puts kernel settings\nback to what they were. Doing it twice is fine.',
          ),
      cleanup,
    )
    .command('cni', 'Give pods to Weft: the plugin that container runtimes run', (it) =>
      it
        .command(
          'install',
          'Install the plugin and its network configuration, once the daemon is ready',
          (one) =>
            withDirectories(withOptions(one, ['stateDir']))
              .option('cni-version', {
                type: 'string',
                requiresArg: true,
                default: '1.0.0',
                describe: `version of the network configuration: ${CNI_VERSIONS.join(', ')}`,
              })
              .option('network-name', {
                type: 'string',
                requiresArg: true,
                default: 'weft',
                describe: "the network's name in the configuration",
              })
              .option('wait', {
                type: 'string',
                requiresArg: true,
                default: '0',
                describe: 'seconds to wait for the daemon to become ready',
              })
              .epilogue(
                'For example: weft cni install --wait 60\n\nWrites BIN-DIR/weft-cni, then ' +
                  'CONF-DIR/10-weft.conflist, with portmap and bandwidth in it if they are ' +
                  'in\nBIN-DIR. Doing it again replaces both.',
              ),
          installPlugin,
        )
        .command(
          'uninstall',
          'Remove the network configuration and the plugin; pods that run keep their network',
          withDirectories,
          uninstallPlugin,
        )
        .demandCommand(1, 'say what to do with the plugin: install or uninstall')
        .epilogue('For example: weft cni install --wait 60'),
    )
    .command('ipam', 'Look at the pods of this node and the addresses they have', (it) =>
      it
        .command(
          'show',
          'Addresses in use, and what is left',
          (list) =>
            withOptions(list, ['stateDir'])
              .option('ip', {
                type: 'string',
                requiresArg: true,
                describe: 'only the pod that has this address',
              })
              .option('output', OUTPUT_OPTION)
              .epilogue('For example: weft ipam show --ip 10.244.1.7'),
          showIpam,
        )
        .command(
          'check',
          'Compare what is recorded with what is on the host; exit code 1 if they differ',
          (check) =>
            withOptions(check, ['stateDir'])
              .option('output', OUTPUT_OPTION)
              .epilogue(
                'A pod whose namespace is gone without a DEL shows as leaked: the next start of the ' +
                  "daemon, or the\nruntime's GC, frees its address.",
              ),
          checkIpam,
        )
        .demandCommand(1, 'say what to do with addresses: show or check'),
    )
    .command('lease', 'Look at one subnet that a node holds, and take it back', (it) =>
      it
        .command(
          'show <key>',
          'One lease',
          (one) =>
            withOptions(one, ['stateDir'])
              .positional('key', {
                type: 'string',
                describe: 'the lease (10.5.52.0-24), a public address of its node, or "own"',
              })
              .option('output', OUTPUT_OPTION),
          (flags) =>
            show<LeaseMessage>(
              flags,
              `/v1/leases/${encodeURIComponent(String(flags.key))}`,
              (tables, lease) => tables.leaseTable(lease),
            ),
        )
        .command(
          'release <key>',
          "Give a subnet back: a dead node's, or our own, which ends the daemon",
          (one) =>
            withOptions(one, ['stateDir'])
              .positional('key', {
                type: 'string',
                describe: 'the lease (10.5.52.0-24), a public address of its node, or "own"',
              })
              .option('reservations', {
                type: 'boolean',
                describe: 'also when it is a reservation, which otherwise stays',
              })
              .epilogue(
                'A node that lives but is cut off from etcd goes on using its subnet until its lease ' +
                  'ends: release\nonly what is gone for good.',
              ),
          releaseLease,
        )
        .demandCommand(1, 'say what to do with a lease: show or release; weft leases lists them'),
    )
    .command(
      'apply',
      'Write Kubernetes objects into etcd: policies, Services, labels of pods and namespaces',
      (it) =>
        withFiles(it)
          .option('prune', {
            type: 'boolean',
            describe:
              'delete what an earlier apply of the same set wrote and is not in the files now',
          })
          .option('set', {
            type: 'string',
            requiresArg: true,
            describe: 'name of the set that --prune looks at; "default" if it is left out',
          })
          .option('dry-run', { type: 'boolean', describe: 'say what would change, and end' })
          .option('shadow', {
            type: 'boolean',
            describe: 'try the policies beside those in force, on all nodes: see weft shadow',
          })
          .option('replace', {
            type: 'boolean',
            describe: 'with --shadow: try them alone, without those in force',
          })
          .epilogue(
            'For example: weft apply -f policies/ --prune --set policies\n\nAll is checked first: ' +
              'one object that is not valid, and nothing is written (exit code 2).',
          ),
      apply,
    )
    .command(
      'get <kind> [name]',
      'Objects in etcd, and the pods that nodes have attached',
      (it) =>
        withOptions(it, ['stateDir'])
          .positional('kind', { type: 'string', describe: 'po, svc, netpol, cnp, ns, no, eps' })
          .positional('name', { type: 'string', describe: 'only this one' })
          .option('namespace', NAMESPACE_OPTION)
          .option('all-namespaces', {
            alias: 'A',
            type: 'boolean',
            describe: 'of all namespaces',
          })
          .option('output', OUTPUT_OPTION),
      get,
    )
    .command(
      'delete [kind] [name]',
      'Delete objects from etcd',
      (it) =>
        withFiles(it)
          .positional('kind', { type: 'string', describe: 'po, svc, netpol, cnp, ns, no, eps' })
          .positional('name', { type: 'string', describe: 'the one to delete' })
          .option('namespace', NAMESPACE_OPTION)
          .epilogue('For example: weft delete netpol deny-all -n web, or weft delete -f policies/'),
      remove,
    )
    .command(
      'policy [action]',
      'What NetworkPolicies in files allow, and why; and what they would change here (diff)',
      (it) =>
        withOptions(it, ['stateDir'])
          .positional('action', {
            type: 'string',
            describe:
              'verdict (of one flow, or of --probes), matrix (of all pods), or diff: which flows that ' +
              'the nodes have seen would be denied or let through, with the policies of -f besides ' +
              "the cluster's, by kind and name in their place",
          })
          .option('filename', FILES_OPTION)
          .option('from', {
            type: 'string',
            requiresArg: true,
            describe: 'NAMESPACE/POD or an address',
          })
          .option('to', {
            type: 'string',
            requiresArg: true,
            describe: 'NAMESPACE/POD, an address, or a Service: NAMESPACE/NAME or its ClusterIP',
          })
          .option('port', { type: 'string', requiresArg: true, describe: 'its number or name' })
          .option('protocol', {
            type: 'string',
            requiresArg: true,
            describe: 'TCP (if it is left out), UDP, SCTP, or other for those without ports',
          })
          .option('against', {
            type: 'string',
            requiresArg: true,
            describe:
              "diff: flows (all nodes' flow logs, if it is left out), or a capture: FILE.pcapng, FILE.pcap",
          })
          .option('replace', {
            type: 'boolean',
            describe: "diff: the policies of -f alone count, none of the cluster's",
          })
          .option('since', {
            type: 'string',
            requiresArg: true,
            describe: 'diff: flows not older than this: 30s, 5m, 2h',
          })
          .option('probes', {
            type: 'string',
            requiresArg: true,
            describe: 'JSON file: a list of {"from", "to", "protocol", "port"}; - for stdin',
          })
          .option('output', OUTPUT_OPTION)
          .epilogue(
            'For example: weft policy verdict -f policies/ -f pods.yaml --from web/a --to db/b --port 5432\n' +
              '             weft policy diff -f new-policies/ --since 1h\n\n' +
              'Exit code 0: allowed, or nothing changes; 1: denied, or something does; 2: the ' +
              'question or the objects are wrong.',
          ),
      policy,
    )
    .command(
      'capture',
      'Packets of this node, with what was decided about each: in lines, or as a file',
      withCaptureOptions,
      capture,
    )
    .command(flowsCommand)
    .command(shadowCommand)
    .command(
      'trace',
      'The way of a packet from a pod, stage by stage on both nodes, and where it would end',
      withTraceOptions,
      trace,
    )
    .command(
      'logs [file]',
      "Make the daemon's log readable, from a file or stdin",
      (it) =>
        it
          .positional('file', { type: 'string', describe: 'the log; stdin if it is left out' })
          .epilogue('For example: journalctl -u weft -f -o cat | weft logs'),
      logs,
    )
    .demandCommand(1, `say what to do: ${COMMANDS.join(', ')}; weft --help tells more`)
    .strict()
    .exitProcess(false)
    .fail((complaint: string | null, error: Error | undefined) => {
      // Yargs's own are complaints too; a command's are what they are.
      if (error !== undefined && error.name !== 'YError') throw error;
      const message = complaint ?? error?.message ?? 'the command line cannot be understood';
      const known = [
        ...optionNames.map(flagOf),
        'config',
        'print-config',
        'release-lease',
        'bin-dir',
        'conf-dir',
        'cni-version',
        'network-name',
        'wait',
        'ip',
        'filename',
        'prune',
        'set',
        'dry-run',
        'namespace',
        'all-namespaces',
        'output',
        'from',
        'to',
        'port',
        'protocol',
        'probes',
        'write',
        'pod',
        'peer',
        'outer',
        'snaplen',
        'count',
        'duration',
        'live',
        ...OPERATOR_FLAGS,
        'follow',
        'verdict',
        'reason',
        'with',
        'service',
        'since',
        'last',
        'against',
        'replace',
        'shadow',
      ];
      throw new UsageError(explain(message, args, known));
    });
  await cli.parseAsync();
}

/** One line: what happened, and unless it was refused, why. */
function oneLine(error: Error, isRefusal: boolean): string {
  const parts = [error.message];
  const causes = isRefusal ? undefined : error.cause;
  for (let it = causes; it instanceof Error && parts.length < 4; it = it.cause) {
    const { message } = it;
    if (!parts.some((part) => part.includes(message))) parts.push(message);
  }
  return parts.join(': ').replaceAll(/\s*\n\s*/g, ' ');
}

// `weft logs | head`: the reader has enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});

try {
  await main(process.argv.slice(2));
} catch (error) {
  const { code } = error as { code?: string };
  const isRefusal = code !== undefined && REFUSALS.has(code);
  process.exitCode = isRefusal ? 2 : 1;
  const text =
    error instanceof Error && code !== undefined
      ? oneLine(error, isRefusal || code === 'ERR_DAEMON_ABSENT')
      : ((error as Error).stack ?? String(error));
  process.stderr.write(`weft: ${text}\n`);
}
