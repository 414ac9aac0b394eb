import test from 'ava';
import { Drop, dropNames } from './drop-reason.ts';

test('each reason stands at its own number: counters are found by it', (t) => {
  dropNames.forEach((name, index) => t.is(Drop[name], index as Drop, name));
  t.is(dropNames[0], 'none');
});
