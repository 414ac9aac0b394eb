import test from 'ava';
import { PeerRates } from './peer-traffic.ts';

const traffic = (sentBytes: number, receivedBytes: number) => ({
  sentDatagrams: 1,
  sentBytes,
  receivedDatagrams: 1,
  receivedBytes,
});

test('a rate is of two looks; a peer that is new, or counted anew, has none yet', (t) => {
  const rates = new PeerRates();
  const told = (key: string) => {
    const it = rates.message(key);
    return it && [it.sentBytes, it.sentBytesPerS, it.receivedBytesPerS];
  };
  t.is(told('a'), null);
  rates.look(new Map([['a', traffic(1_000, 0)]]), 10_000);
  t.deepEqual(told('a'), [1_000, null, null]);
  rates.look(
    new Map([
      ['a', traffic(5_000, 300)],
      ['b', traffic(7, 7)],
    ]),
    12_000,
  );
  t.deepEqual(told('a'), [5_000, 2_000, 150]);
  t.deepEqual(told('b'), [7, null, null]);
  rates.look(new Map([['a', traffic(10, 400)]]), 14_000);
  t.deepEqual(told('a'), [10, null, 50]);
  t.is(told('b'), null);
});
