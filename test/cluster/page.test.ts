/**
 * The page in a real browser, on a lab of two nodes with the example application: what it shows is what the
 * daemons answer. With WEFT_SCREENSHOTS set, pictures go to docs/images/.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { Browser, Page } from 'playwright-core';
import { askDaemon } from '../../daemon/api-client.ts';
import type {
  ClusterMessage,
  FlowMessage,
  LinkProbeMessage,
  PeersMessage,
} from '../../daemon/messages.ts';
import { poll } from '../../linux/program.ts';
import { type Lab, type LabNode, createLab } from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';
import { SHOP_ALLOWS, Shop } from '../lab/shop.ts';
import { within } from '../overlay/pair.ts';
import { openBrowser } from './browser.ts';
import { bigCluster, bigFlows } from './synthetic.ts';

const PAGE = 'http://127.0.0.1:8476/';
const IMAGES = join(import.meta.dirname, '..', '..', 'docs', 'images');
const SECTIONS = ['nodes', 'services', 'drops', 'flows', 'subnets', 'explain', 'timeline'];

let lab: Lab;
let node: LabNode;
let browser: Browser;
let page: Page;
const complaints: string[] = [];

async function openPage(): Promise<Page> {
  const it = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  it.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  it.on('pageerror', (error) => complaints.push(error.message));
  it.on('request', (request) => {
    if (!request.url().startsWith(PAGE)) complaints.push(`asks ${request.url()}`);
  });
  return it;
}

test.before(async () => {
  lab = await createLab({ nodes: 2, prefix: `${labPrefix()}pg` });
  node = lab.nodes[0]!;
  await Promise.all(lab.nodes.map((it) => it.startDaemon(['--ip-masq'])));
  for (const it of lab.nodes) await it.installPlugin();
  const shop = await Shop.open(lab);
  await shop.apply('shop.yaml');
  await shop.becomes(SHOP_ALLOWS);
  // Once more, now that the policies are everywhere.
  await shop.ask();
  browser = await openBrowser(node.netns, lab.directory);
  page = await openPage();
  await page.goto(PAGE);
  await page.locator('[role=tab]').first().waitFor();
});
test.after.always(async () => {
  await browser?.close();
  await lab?.[Symbol.asyncDispose]();
});

const daemon = <T>(path: string): Promise<T> => askDaemon<T>(node.stateDir, 'GET', path);
const tab = (id: string): Promise<void> => page.locator(`#tab-${id}`).click();
const rows = (): Promise<string[]> => page.locator('tbody tr:not(.u-series)').allInnerTexts();
async function picture(name: string): Promise<void> {
  if (process.env['WEFT_SCREENSHOTS'] === undefined) return;
  mkdirSync(IMAGES, { recursive: true });
  await page.screenshot({ path: join(IMAGES, `${name}.png`) });
}

test.serial('nodes and links: those of the daemon, both ready and measured', async (t) => {
  const shown = await poll(async () => {
    const it = await page.locator('#nodes tbody tr').allInnerTexts();
    return it.length === 2 && it.every((row) => /ready.* ms/s.test(row)) ? it : undefined;
  }, within(20_000));
  const { nodes } = await daemon<ClusterMessage>('/v1/cluster');
  for (const [i, { name, publicIp, subnet }] of nodes.entries()) {
    for (const it of [name, publicIp!, subnet!]) t.true(shown[i]!.includes(it), shown[i]);
  }
  await page.waitForTimeout(4000);
  await picture('page-nodes');
});

test.serial('links: each way what weft peers says on the node it begins at', async (t) => {
  const percent = (loss: number): string =>
    loss === 0 ? '' : `, ${Math.round(loss * 100)} % lost`;
  const textOf = ({ sent, received, avgMs }: LinkProbeMessage): string =>
    `${avgMs!.toFixed(2)} ms${percent((sent - received) / sent)}`;
  const { nodes } = await daemon<ClusterMessage>('/v1/cluster');
  const names = new Map(nodes.map(({ key, name }) => [key, name]));
  /** As the page has them; some seconds may lie between the page's question and ours. */
  const told = async (): Promise<readonly string[]> => {
    const answers = await Promise.all(
      lab.nodes.map((it) => askDaemon<PeersMessage>(it.stateDir, 'GET', '/v1/peers')),
    );
    return answers.flatMap(({ peers }, i) =>
      peers.flatMap(({ lease, probe, traffic }) => {
        t.true(traffic!.sentBytes > 0 && traffic!.receivedBytes > 0);
        const of = (kind: string) => probe!.links.filter((it) => it.kind === kind).map(textOf);
        // Of two families either may be the worse one.
        return of('overlay').flatMap((overlay) =>
          of('underlay').map((underlay) =>
            [`n${i + 1}`, names.get(lease.key), overlay, underlay].join(),
          ),
        );
      }),
    );
  };
  const seen = new Set<string>();
  await poll(async () => {
    for (const it of await told()) seen.add(it);
    const shown = await page.locator('#links tbody tr').allInnerTexts();
    const cells = shown.map((row) => row.split('\t').map((cell) => cell.trim()));
    const areTold = cells.every((row) => seen.has(row.slice(0, 4).join()));
    const haveRates = cells.every((row) => row.slice(4).every((it) => / [kM]?b\/s$/.test(it)));
    return cells.length === 2 && areTold && haveRates ? true : undefined;
  }, within(20_000));
  t.pass();
});

test.serial('Service map: the edges of the daemon, denied ones too', async (t) => {
  await tab('services');
  const { edges } = await daemon<ClusterMessage>('/v1/cluster');
  const shown = await poll(async () => {
    const it = (await rows()).map((row) => row.split('\t').map((cell) => cell.trim()));
    return it.length === edges.length ? it : undefined;
  }, within(10_000));
  const wanted = edges.map(({ from, to, forwarded, dropped }) =>
    [from.name, to.kind === 'service' ? `Service ${to.name}` : to.name, forwarded, dropped].join(),
  );
  t.deepEqual(shown.map((it) => it.join()).sort(), wanted.sort());
  t.true(shown.some(([from, to]) => from === 'shop/web' && to === 'Service shop/api'));
  t.true(shown.some(([from, , , dropped]) => from === 'default/client' && Number(dropped) > 0));
  await page.waitForTimeout(1500);
  await picture('page-services');
});

test.serial('drops lead to their rule', async (t) => {
  await tab('drops');
  const row = page.locator('tbody tr', { hasText: 'policyIngress' }).first();
  await row.waitFor();
  t.regex(await row.innerText(), /shop\/default-deny/);
  await picture('page-drops');
  await row.getByRole('button', { name: 'the rule' }).click();
  await page.locator('.verdict').waitFor();
  t.is(await page.locator('#tab-explain').getAttribute('aria-selected'), 'true');
  t.regex(await page.locator('.verdict').innerText(), /^No/);
  t.regex(await page.locator('ol').innerText(), /deny.*ingress of .*shop\/default-deny/s);
});

test.serial('explain: allowed through a Service, and a question that cannot be', async (t) => {
  await tab('explain');
  const ask = async (from: string, to: string, port: string): Promise<void> => {
    await page.locator('[name=from]').fill(from);
    await page.locator('[name=to]').fill(to);
    await page.locator('[name=port]').fill(port);
    await page.keyboard.press('Enter');
  };
  await ask('shop/web', 'service/shop/api', '80');
  await page.locator('.verdict', { hasText: 'Yes' }).waitFor();
  t.regex(await page.locator('ol').innerText(), /becomes one of 10\.244\.\d+\.\d+ port 8080/);
  await picture('page-explain');
  await ask('shop/<b>nobody</b>', 'shop/api', '80');
  await page.locator('[role=alert]', { hasText: 'there is no pod shop/<b>nobody</b>' }).waitFor();
  // Chromium's own words on the answer.
  t.regex(complaints.splice(0).join(), /^Failed to load resource: [^,]* 400 [^,]*$/);
});

test.serial('flows: those of the daemons, filtered', async (t) => {
  await tab('flows');
  await page.locator('[role=table] [role=row]').first().waitFor();
  await page.locator('select').selectOption('dropped');
  await page.locator('input[type=search]').fill('default/client');
  const shown = await poll(async () => {
    const it = await page.locator('[role=table] [role=row]').allInnerTexts();
    return it.length > 0 && it.every((row) => row.includes('default/client')) ? it : undefined;
  }, within(10_000));
  const { flows } = await daemon<{ flows: readonly FlowMessage[] }>(
    '/v1/cluster/flows?verdict=dropped&with=default/client',
  );
  t.is(shown.length, flows.length);
  t.true(shown.every((row) => row.includes('dropped')));
  await page.locator('input[type=search]').fill('');
  await page.locator('select').selectOption('');
  await page.waitForTimeout(2500);
  await picture('page-flows');
});

test.serial('subnets and timeline', async (t) => {
  await tab('subnets');
  for (const row of await rows()) t.regex(row, /10\.244\.\d+\.0\/24.*23 h/s);
  await tab('timeline');
  t.true((await rows()).some((row) => row.includes('NetworkPolicy shop/default-deny came')));
  await picture('page-timeline');
});

test.serial('by keyboard alone', async (t) => {
  await tab('nodes');
  const selected = () => page.locator('[aria-selected=true]').getAttribute('id');
  for (const [key, id] of [
    ['ArrowRight', 'services'],
    ['End', 'timeline'],
    ['ArrowRight', 'nodes'],
    ['ArrowLeft', 'timeline'],
    ['Home', 'nodes'],
  ] as const) {
    await page.keyboard.press(key);
    await page.locator(`#tab-${id}[aria-selected=true]`).waitFor({ timeout: 2000 });
    t.is(await selected(), `tab-${id}`);
    t.is(await page.evaluate('document.activeElement.id'), `tab-${id}`);
  }
  t.is(await page.locator('[role=tab][tabindex="0"]').count(), 1);
});

test.serial('light and dark, as the reader has it', async (t) => {
  const back = () => page.evaluate<string>('getComputedStyle(document.body).backgroundColor');
  await page.emulateMedia({ colorScheme: 'light' });
  t.is(await back(), 'rgb(251, 251, 250)');
  await page.emulateMedia({ colorScheme: 'dark' });
  t.is(await back(), 'rgb(20, 24, 28)');
  await tab('services');
  await page.waitForTimeout(1500);
  await picture('page-dark');
  await page.emulateMedia({ colorScheme: 'light' });
});

test.serial('300 nodes and 5,000 flows: few elements, and frames go on', async (t) => {
  page = await openPage();
  const answer = (body: unknown) => ({ json: body, status: 200 });
  await page.route('**/v1/cluster', (route) => route.fulfill(answer(bigCluster())));
  await page.route('**/v1/cluster/flows?*', (route) => route.fulfill(answer(bigFlows())));
  await page.goto(PAGE);
  await page.locator('tbody tr').nth(299).waitFor();
  const frames = (name: string) =>
    page
      .evaluate<number[]>(
        `new Promise((resolve) => {
          const times = [];
          const box = document.querySelector('.list');
          const step = (now) => {
            times.push(now);
            if (box) box.scrollTop += 400;
            if (times.length < 120) requestAnimationFrame(step);
            else resolve(times.slice(1).map((it, i) => it - times[i]));
          };
          requestAnimationFrame(step);
        })`,
      )
      .then((gaps) => {
        const sorted = gaps.toSorted((a, b) => a - b);
        const [median, late] = [sorted[59]!, sorted[113]!];
        t.log(`${name}: a frame in ${median.toFixed(1)} ms, 95 of 100 in ${late.toFixed(1)} ms`);
        return median;
      });
  // Two cores draw without a graphics card, and run the lab too.
  t.true((await frames('300 nodes, their links moving')) < 100);
  await page.waitForTimeout(1000);
  await picture('page-many');
  await tab('flows');
  await page.locator('[role=status]', { hasText: '5000 flows' }).waitFor();
  t.true((await frames('5,000 flows, scrolling')) < 60);
  t.true((await page.locator('[role=table] [role=row]').count()) < 80);
});

test.serial(
  'every section was shown without an error, and nothing was asked elsewhere',
  async (t) => {
    for (const it of SECTIONS) await tab(it);
    t.deepEqual(complaints, []);
  },
);
