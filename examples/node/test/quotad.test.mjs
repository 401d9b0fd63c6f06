import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { Quota, QuotaDenied, QuotaUnreachable, uuidv7 } from '../quotad.mjs';

const types = loadSync('quotad/v1/quota.proto', { includeDirs: [fileURLToPath(new URL('../../../proto', import.meta.url))] });
const { UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL } = grpc.status;

// A daemon that answers each call with the next of these codes, and then with success.
let codes = [];
let sent = [];
const answer = (method) => (call, done) => {
  sent.push({ method, ...call.request });
  const code = codes.shift();
  done(code ? { code, details: 'as told' } : null, {});
};

const server = new grpc.Server();
let quota;
let lost = [];
before(async () => {
  server.addService(types['quotad.v1.QuotaService'], { Acquire: answer('Acquire'), Settle: answer('Settle'), Release: answer('Release') });
  const port = await new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (err, port) => (err ? reject(err) : resolve(port)));
  });
  quota = new Quota(`127.0.0.1:${port}`, { lost: (err, id) => lost.push(id) });
});
beforeEach(() => {
  codes = [];
  sent = [];
  lost = [];
});
after(async () => {
  await quota.close();
  server.forceShutdown();
});

test('what got no answer is sent again under its id', async () => {
  codes = [UNAVAILABLE, DEADLINE_EXCEEDED];
  const id = await quota.reserve('b', { calls: 1 });
  assert.deepEqual(sent.map((s) => s.requestId), [id, id, id]);
});

test('after four tries the call is not to be made, and what may have been taken is given back', async () => {
  codes = Array(4).fill(UNAVAILABLE);
  await assert.rejects(quota.acquire('b'), QuotaUnreachable);
  assert.equal(new Set(sent.map((s) => s.requestId)).size, 1);
  while (sent.length < 5) await new Promise(setImmediate);
  assert.deepEqual(sent.map((s) => s.method), ['Acquire', 'Acquire', 'Acquire', 'Acquire', 'Release']);
});

for (const code of [RESOURCE_EXHAUSTED, INTERNAL]) {
  test(`${grpc.status[code]} of gRPC's own is no denial, and is not sent again`, async () => {
    codes = [code];
    await assert.rejects(quota.acquire('b'), (err) => err.code === code && !(err instanceof QuotaDenied));
    assert.equal(sent.length, 1);
  });
}

test('a settlement that cannot be delivered is reported', async () => {
  codes = [INTERNAL];
  quota.settle('r1', { output_tokens: 5 });
  while (lost.length === 0) await new Promise(setImmediate);
  assert.deepEqual(lost, ['r1']);
});

test('ids are UUIDs of version 7, and sort by time', async () => {
  const first = uuidv7();
  assert.match(first, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  const made = Number.parseInt(first.replaceAll('-', '').slice(0, 12), 16);
  assert.ok(Math.abs(Date.now() - made) < 60_000);
  while (Date.now() <= made) await new Promise(setImmediate);
  assert.ok(uuidv7() > first);
});
