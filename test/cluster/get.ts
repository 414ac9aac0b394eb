/**
 * A program: `OPTIONS-AS-JSON`, one HTTP request by node:http, run in a namespace. Prints the status, a space
 * and the body; `none CODE` where there is no answer.
 */
import { type RequestOptions, request } from 'node:http';

const options = JSON.parse(process.argv[2]!) as RequestOptions;
const asking = request({ ...options, timeout: 2000 }, (response) => {
  let text = '';
  response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  response.on('end', () => process.stdout.write(`${response.statusCode} ${text}`));
});
asking.on('timeout', () => asking.destroy(Object.assign(new Error(), { code: 'ETIMEDOUT' })));
asking.on('error', ({ code }: NodeJS.ErrnoException) => process.stdout.write(`none ${code}`));
asking.end();
