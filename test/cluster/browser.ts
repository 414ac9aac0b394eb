/** Chromium in a network namespace, driven through pipes. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Browser, chromium } from 'playwright-core';
import { findProgram } from '../../daemon/programs.ts';

/** A browser has much to load, beside other tests that want the same processors. */
const SLOW_MS = 90_000;

/** @param directory  where the little program that enters the namespace is put */
export async function openBrowser(netns: string, directory: string): Promise<Browser> {
  const program = findProgram('chromium');
  if (program === null) throw new Error('chromium is missing; run: sh scripts/setup');
  const executablePath = join(directory, `chromium-${netns}`);
  writeFileSync(executablePath, `#!/bin/sh\nexec ip netns exec '${netns}' '${program}' "$@"\n`);
  chmodSync(executablePath, 0o755);
  const browser = await chromium.launch({
    executablePath,
    timeout: SLOW_MS,
    // Root has no sandbox, and the page is ours.
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
  browser.on('context', (context) => context.setDefaultTimeout(SLOW_MS));
  return browser;
}
