// Asks quotad before a call that costs money, and tells it afterwards what the call really used.
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const types = loadSync(['quotad/v1/quota.proto', here('rpc.proto')], {
  includeDirs: [here('../../proto')],
  longs: Number, // amounts end at 1e15, which a number holds exactly
  enums: String,
  defaults: true,
});

const DEADLINE = 1000; // ms, of one try
const TRIES = 4;
const BACKOFF = 50; // ms before the second try, doubled before each later one, less a random part of up to a half

// With these codes quotad may or may not have decided. The same request id is sent again, so that it is charged once.
const AGAIN = new Set([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED]);

// quotad refused: the call must not be made, and nothing was charged.
export class QuotaDenied extends Error {
  constructor(denial, cause) {
    super(denial.message, { cause }); // for operators: it names the bucket
    this.name = 'QuotaDenied';
    const { balance, cap } = denial.violations.sort(longest)[0];
    this.bucket = balance.bucket;
    this.unit = balance.unit;
    this.limit = cap; // the limit that refused, or the share of it that one reservation may hold
    this.used = balance.used;
    this.held = balance.held;
    this.remaining = Math.max(0, cap - balance.used - balance.held);
    this.resetTime = date(balance.end); // when the count starts anew; undefined if it never does
    this.retryTime = date(denial.retryAt); // when this very request could pass; undefined if no wait is known to help
    this.userMessage = FOR_USERS[balance.window] ?? 'The AI limit is reached.'; // names neither buckets nor figures
  }
}

const FOR_USERS = {
  WINDOW_MINUTE: 'The limit for this minute is reached. Try again later.',
  WINDOW_HOUR: 'The limit for this hour is reached. Try again later.',
  WINDOW_DAY: 'Daily AI limit reached. Try again tomorrow.',
  WINDOW_WEEK: 'The AI limit for this week is reached.',
  WINDOW_MONTH: 'The AI limit for this month is reached.',
  WINDOW_YEAR: 'The AI limit for this year is reached.',
};

// quotad gave no answer. The call must not be made either, unless the application decides that it may.
export class QuotaUnreachable extends Error {
  constructor(cause) {
    super(`quotad gave no answer in ${TRIES} tries: ${cause.message}`, { cause });
    this.name = 'QuotaUnreachable';
  }
}

// What lasts longest comes first: of a limit that never helps to wait for and one that does, the first is worth telling.
function longest(a, b) {
  return b.never - a.never || (b.balance.end?.seconds ?? 0) - (a.balance.end?.seconds ?? 0);
}

function date(timestamp) {
  return timestamp ? new Date(timestamp.seconds * 1000 + timestamp.nanos / 1e6) : undefined;
}

// The denial that an error carries. gRPC itself answers RESOURCE_EXHAUSTED for other things, so the code alone is not enough.
function denial(err) {
  const bin = err.metadata?.get('grpc-status-details-bin')[0];
  if (err.code !== grpc.status.RESOURCE_EXHAUSTED || !bin) return undefined;
  const details = {};
  for (const any of types['google.rpc.Status'].deserialize(bin).details) {
    const name = any.type_url.slice(any.type_url.lastIndexOf('/') + 1);
    details[name] = types[name]?.deserialize(any.value);
  }
  const info = details['google.rpc.ErrorInfo'];
  return info?.reason === 'LIMIT_EXCEEDED' && info.domain === 'quotad' ? details['quotad.v1.Denial'] : undefined;
}

// An id that sorts by the time at which it was made (UUIDv7, RFC 9562): the cheapest for quotad to keep.
export function uuidv7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

// { calls: 1, output_tokens: undefined } as the contract has it; undefined leaves the amount to the estimates of the bucket.
const charges = (amounts) => Object.entries(amounts).map(([unit, amount]) => ({ unit, amount }));

export class Quota {
  #client;
  #ending = new Set(); // settlements and releases under way
  #lost;

  // target is host:port or unix:///path. lost(err, requestId) is told of a settlement or release that could not be delivered: the
  // reservation then ends as its bucket says, charged by default.
  constructor(target = process.env.QUOTAD_SERVER ?? '127.0.0.1:7070', { lost = (err) => process.emitWarning(err) } = {}) {
    this.#lost = lost;
    const QuotaService = grpc.makeClientConstructor(types['quotad.v1.QuotaService']);
    this.#client = new QuotaService(target, grpc.credentials.createInsecure(), {
      'grpc.enable_http_proxy': 0, // quotad is on this machine
      'grpc.enable_retries': 0, // what is sent again is sent again below, and nowhere else
      'grpc.initial_reconnect_backoff_ms': 100, // so that the next try finds a daemon that starts anew
      'grpc.max_reconnect_backoff_ms': 1000,
    });
  }

  // Takes amounts for good. Throws QuotaDenied or QuotaUnreachable, or the gRPC error that says what is wrong with the request.
  async acquire(bucket, amounts = {}) {
    return this.#take({ bucket, requestId: uuidv7(), charges: charges(amounts) });
  }

  // Takes amounts until they are settled or released, and answers the id for that. Throws like acquire.
  async reserve(bucket, amounts = {}) {
    return this.#take({ bucket, requestId: uuidv7(), charges: charges(amounts), hold: {} }); // {}: for as long as the bucket says
  }

  // Says what a reservation really used; a unit without an amount settles as held. Does not keep the caller waiting: see close.
  settle(requestId, amounts = {}) {
    this.#end('Settle', { requestId, charges: charges(amounts) });
  }

  // Gives a reservation back, as the call cost nothing. Does not keep the caller waiting.
  release(requestId) {
    this.#end('Release', { requestId });
  }

  // Waits for settlements and releases under way, and lets the connection go.
  async close() {
    await Promise.all(this.#ending);
    this.#client.close();
  }

  async #take(request) {
    try {
      await this.#send('Acquire', request);
    } catch (err) {
      // It may have been granted all the same, and nobody makes the call now.
      if (err instanceof QuotaUnreachable) this.#track(this.#send('Release', { requestId: request.requestId }).catch(() => {}));
      throw err;
    }
    return request.requestId;
  }

  #end(method, request) {
    this.#track(this.#send(method, request).catch((err) => this.#lost(err, request.requestId)));
  }

  #track(promise) {
    this.#ending.add(promise);
    promise.finally(() => this.#ending.delete(promise));
  }

  async #send(method, request) {
    for (let tries = 1; ; tries++) {
      try {
        return await new Promise((resolve, reject) => {
          this.#client[method](request, { deadline: Date.now() + DEADLINE }, (err, answer) => (err ? reject(err) : resolve(answer)));
        });
      } catch (err) {
        const denied = denial(err);
        if (denied) throw new QuotaDenied(denied, err);
        if (!AGAIN.has(err.code)) throw err;
        if (tries === TRIES) throw new QuotaUnreachable(err);
      }
      await sleep(BACKOFF * 2 ** (tries - 1) * (1 - Math.random() / 2));
    }
  }
}
