/** Dashboard and alerts ask for metrics and labels that there are. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { parse } from 'yaml';
import { collect } from '../linux/program.ts';
import { findProgram } from '../daemon/programs.ts';
import { METRICS } from '../daemon/metrics.ts';
import { dropNames } from '../wire/drop-reason.ts';

const read = (path: string): string =>
  readFileSync(join(import.meta.dirname, '..', 'deploy', path), 'utf8');

interface Board {
  readonly uid: string;
  readonly panels: readonly {
    readonly title: string;
    readonly targets: readonly { readonly expr: string; readonly legendFormat: string }[];
  }[];
  readonly templating: { readonly list: readonly { readonly query: unknown }[] };
}
interface Rules {
  readonly groups: readonly {
    readonly rules: readonly {
      readonly alert: string;
      readonly expr: string;
      readonly annotations: Readonly<Record<string, string>>;
    }[];
  }[];
}

const board = JSON.parse(read('grafana/weft.json')) as Board;
const alerts = (parse(read('prometheus/weft.rules.yaml')) as Rules).groups.flatMap(
  (it) => it.rules,
);

const labelsOf = new Map<string, readonly string[]>(METRICS.map((it) => [it.name, it.labels]));
/** What Prometheus adds to every series, and what it has of its own. */
const GIVEN = new Set(['instance', 'job']);
labelsOf.set('up', []);

/** Words of PromQL that are no names of metrics. */
const WORDS = new Set(
  'sum min max count avg by without rate increase vector and or unless on ignoring'.split(' '),
);

/** @returns what is wrong with an expression, a line each */
function problems(expr: string): string[] {
  const found: string[] = [];
  const labels = new Set<string>();
  const bare = expr
    .replaceAll(/\b(?:by|without|on|ignoring) *\(([^)]*)\)/g, (_, list: string) => {
      for (const it of list.split(',')) labels.add(it.trim());
      return ' ';
    })
    .replaceAll(/\{([^}]*)\}/g, (_, matchers: string) => {
      for (const [, it] of matchers.matchAll(/(\w+) *(?:=~|!~|!=|=) *"/g)) labels.add(it!);
      return ' ';
    })
    .replaceAll(/\[[^\]]*\]/g, ' ');
  const metrics = Array.from(bare.matchAll(/[a-zA-Z_]\w*/g), ([it]) => it).filter(
    (it) => !WORDS.has(it),
  );
  if (metrics.length === 0) found.push('no metric');
  for (const it of metrics) if (!labelsOf.has(it)) found.push(`there is no metric ${it}`);
  for (const it of labels) {
    if (GIVEN.has(it) || metrics.some((name) => labelsOf.get(name)?.includes(it))) continue;
    found.push(`none of ${metrics.join(', ')} has the label ${it}`);
  }
  const reasons = Array.from(expr.matchAll(/reason=~?"([^"]+)"/g), ([, it]) => it!.split('|'));
  for (const it of reasons.flat()) {
    const known = [...dropNames, 'receiveQueueFull', 'tunQueueFull'];
    if (!known.includes(it)) found.push(`there is no drop reason ${it}`);
  }
  return found;
}

test('the test finds what it looks for', (t) => {
  t.deepEqual(problems('sum by (peer) (rate(weft_pods{reason="x"}[5m])) / weft_nope'), [
    'there is no metric weft_nope',
    'none of weft_pods, weft_nope has the label peer',
    'none of weft_pods, weft_nope has the label reason',
    'there is no drop reason x',
  ]);
});

for (const { title, targets } of board.panels) {
  test(`dashboard: ${title}`, (t) => {
    for (const { expr, legendFormat } of targets) {
      t.deepEqual(problems(expr), [], expr);
      for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g)) {
        t.true(
          GIVEN.has(label!) ||
            METRICS.some((it) => expr.includes(it.name) && it.labels.includes(label!)),
          `${title}: ${label}`,
        );
      }
    }
  });
}

for (const { alert, expr, annotations } of alerts) {
  test(`alert: ${alert}`, (t) => {
    t.deepEqual(problems(expr), []);
    t.truthy(annotations['summary']);
    const page = readFileSync(
      join(import.meta.dirname, '..', 'docs', 'troubleshooting.md'),
      'utf8',
    );
    t.true(page.includes(`| \`${alert}\` `), 'docs/troubleshooting.md says what to do');
  });
}

interface Cases {
  readonly tests: readonly {
    readonly alert_rule_test: readonly {
      readonly alertname: string;
      readonly exp_alerts: readonly object[];
    }[];
  }[];
}

test('each alert is tried by series with which it comes and with which it does not', (t) => {
  const cases = (parse(read('prometheus/weft.rules.test.yaml')) as Cases).tests.flatMap(
    (it) => it.alert_rule_test,
  );
  for (const { alert } of alerts) {
    const counts = cases.filter((it) => it.alertname === alert).map((it) => it.exp_alerts.length);
    t.true(counts.includes(0) && counts.some((it) => it > 0), alert);
  }
});

test('the alerts do to these series what they should, where promtool is there to say so', async (t) => {
  const promtool = findProgram('promtool');
  if (promtool === null) {
    t.log('not tried: promtool is not installed (Debian package prometheus)');
    t.pass();
    return;
  }
  const file = join(import.meta.dirname, '..', 'deploy', 'prometheus', 'weft.rules.test.yaml');
  const { exitCode, stdout, stderr } = await collect([promtool, 'test', 'rules', file]);
  t.is(exitCode, 0, stdout + stderr);
});

test('the dashboard can be imported: an id for each panel, none upon another', (t) => {
  t.is(board.uid, 'weft');
  t.is(new Set(board.panels.map((it) => it.title)).size, board.panels.length);
});
