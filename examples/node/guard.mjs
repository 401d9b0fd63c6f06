// Makes every paid call of a BedrockRuntimeClient ask quotad first.
//
// The reservation is made in the SDK's Initialize step, outside its retries: one for a call, however often the SDK sends it. A second
// middleware, inside the retries, sees each response and each failure as it comes from the network, and so knows what may have cost
// something.
import { AsyncLocalStorage } from 'node:async_hooks';

// What Amazon does not charge for. Everything else is guarded, also a command that is newer than this file.
const FREE = new Set(['CountTokensCommand', 'GetAsyncInvokeCommand', 'ListAsyncInvokesCommand']);

const BYTES_PER_TOKEN = 4; // of text, as in English and as the Go guard has it; other scripts need fewer: give options.estimate there
const TOKENS_PER_FILE = 1600; // an image at the size to which models scale it down; give options.estimate for long documents

const NO_TEXT = new Set(['modelId', 'type', 'id', 'model', 'role', 'stop_reason']); // keys whose values are not of the text

// What the second middleware has seen of the call that it is in. The SDK's own context is shared by calls if it caches its middleware.
const calls = new AsyncLocalStorage();

// bucket is a name, or a function of the command's input. estimate, a function of the input, answers the amounts to hold; without it
// they come from the size of the request and its bound on the answer, or from the bucket's own estimates where it has none.
export function guard(client, quota, { bucket, estimate = estimateOf }) {
  client.middlewareStack.add(
    (next, context) => async (args) => {
      if (FREE.has(context.commandName)) return next(args);
      const id = await quota.reserve(typeof bucket === 'function' ? bucket(args.input) : bucket, estimate(args.input)); // throws: nothing is sent
      const seen = { spent: false, headers: {}, body: undefined };
      let result;
      try {
        result = await calls.run(seen, next, args);
      } catch (err) {
        if (seen.spent) quota.settle(id); // the model may have run: settled as it is held
        else quota.release(id); // refused by Amazon each time, or never sent
        throw err;
      }
      const { output } = result;
      const stream = ['stream', 'body'].find((key) => output[key]?.[Symbol.asyncIterator]);
      if (stream) output[stream] = metered(output[stream], (usage) => quota.settle(id, usage), seen.body);
      else quota.settle(id, { ...usageOf(output), ...usageOf(parsed(output.body)), ...usageOfHeaders(seen.headers) });
      return result;
    },
    { step: 'initialize', priority: 'low', name: 'quotadReserve' },
  );
  client.middlewareStack.add(
    (next) => async (args) => {
      const seen = calls.getStore();
      if (!seen) return next(args);
      try {
        const result = await next(args);
        ({ headers: seen.headers, body: seen.body } = result.response);
        seen.spent ||= result.response.statusCode < 300;
        return result;
      } catch (err) {
        seen.spent ||= !neverSent(err); // a timeout, or a connection that broke: nobody knows
        throw err;
      }
    },
    { step: 'deserialize', priority: 'low', name: 'quotadSeen' },
  );
  return client;
}

// Whether an attempt failed before there was a connection to send it on.
function neverSent(err) {
  return [err, err.cause, ...(err.errors ?? [])].some((e) => e?.syscall === 'connect' || e?.syscall === 'getaddrinfo');
}

// Hands a stream on and settles once: when the usage passes, or else with what was seen when the stream ends, breaks, or is left. A
// stream that nobody ever reads is settled by quotad, when its hold is over. The SDK leaves the connection of a stream open that its
// reader has left, and the model goes on; so it is closed here.
async function* metered(events, settle, connection) {
  const seen = { usage: {}, text: 0, settled: false };
  const end = () => {
    if (seen.settled) return;
    seen.settled = true;
    settle({ ...seen.usage, output_tokens: (seen.usage.output_tokens ?? 0) + tokens(seen.text) });
  };
  try {
    for await (const event of events) {
      if (note(event, seen)) end();
      yield event;
    }
  } finally {
    end();
    connection?.destroy?.();
  }
}

// Adds an event to what was seen of a stream, and tells whether it was the one with the whole usage.
function note(event, seen) {
  const body = event.metadata ?? parsed(event.chunk?.bytes) ?? event;
  // Claude tells its input in message_start, and in message_delta the output so far; Llama and Nova Sonic tell both so far.
  const usage = [body, body.message, body.metadata, body.event].map(usageOf).find((known) => known);
  for (const [unit, n] of Object.entries(usage ?? {})) seen.usage[unit] = Math.max(seen.usage[unit] ?? 0, n);
  if (usage?.output_tokens === undefined) seen.text += textOf(body).bytes;
  else seen.text = 0; // what is counted needs no estimate
  return usage !== undefined && (event.metadata !== undefined || 'amazon-bedrock-invocationMetrics' in body);
}

// What to hold for a call.
export function estimateOf(input) {
  const amounts = { calls: 1 };
  if (!input.modelId || input.modelInput) return amounts; // guardrails, video and the like are not counted in tokens
  if (input.body?.[Symbol.asyncIterator]) return { ...amounts, input_tokens: undefined, output_tokens: undefined }; // not known yet
  const body = parsed(input.body) ?? input;
  const { bytes, files } = textOf(body);
  const { inferenceConfig: config, textGenerationConfig: titan } = body;
  amounts.input_tokens = bytes || files ? tokens(bytes) + files * TOKENS_PER_FILE : undefined; // undefined: as the bucket estimates
  amounts.output_tokens = config?.maxTokens ?? config?.max_new_tokens ?? titan?.maxTokenCount
    ?? body.max_tokens ?? body.max_completion_tokens ?? body.max_gen_len ?? body.max_tokens_to_sample;
  return amounts;
}

// The bytes of all text in a value, and how many files are in it.
function textOf(value) {
  if (typeof value === 'string') return { bytes: Buffer.byteLength(value), files: 0 };
  if (value instanceof Uint8Array) return { bytes: 0, files: 1 };
  const sum = { bytes: 0, files: 0 };
  if (value === null || typeof value !== 'object') return sum;
  for (const [key, part] of Object.entries(value)) {
    if (NO_TEXT.has(key)) continue;
    const { bytes, files } = textOf(part);
    sum.bytes += bytes;
    sum.files += files;
  }
  return sum;
}

const tokens = (bytes) => Math.ceil(bytes / BYTES_PER_TOKEN);

// The usage in an answer, by the names that the families of models give it; undefined if there is none.
export function usageOf(body) {
  const u = body?.usage ?? body?.['amazon-bedrock-invocationMetrics'] ?? body?.usageEvent ?? body?.meta?.billed_units ?? body ?? {};
  const number = (...names) => names.map((name) => u[name]).find(Number.isFinite);
  const fresh = number('inputTokens', 'input_tokens', 'inputTokenCount', 'prompt_tokens', 'prompt_token_count',
    'inputTextTokenCount', 'totalInputTokens');
  const output = number('outputTokens', 'output_tokens', 'outputTokenCount', 'completion_tokens', 'generation_token_count',
    'totalOutputTokens', 'totalOutputTextTokenCount') ?? u.results?.reduce((sum, result) => sum + (result.tokenCount ?? 0), 0);
  const read = number('cacheReadInputTokens', 'cache_read_input_tokens', 'cacheReadInputTokenCount') ?? 0;
  const written = number('cacheWriteInputTokens', 'cache_creation_input_tokens', 'cacheWriteInputTokenCount') ?? 0;
  return amountsOf(fresh === undefined ? undefined : fresh + read + written, output);
}

function usageOfHeaders(headers) {
  const number = (name) => (name in headers ? Number(headers[name]) : undefined);
  const fresh = number('x-amzn-bedrock-input-token-count');
  const read = number('x-amzn-bedrock-cache-read-input-token-count') ?? 0;
  const written = number('x-amzn-bedrock-cache-write-input-token-count') ?? 0;
  return amountsOf(fresh === undefined ? undefined : fresh + read + written, number('x-amzn-bedrock-output-token-count'));
}

// Leaves out what is not known, which is settled as it is held.
function amountsOf(input_tokens, output_tokens) {
  const known = Object.entries({ input_tokens, output_tokens }).filter(([, n]) => n !== undefined);
  return known.length > 0 ? Object.fromEntries(known) : undefined;
}

// A JSON body as an object; undefined for anything else.
function parsed(body) {
  if (typeof body !== 'string' && !(body instanceof Uint8Array)) return undefined;
  try {
    return JSON.parse(Buffer.from(body).toString()) ?? undefined;
  } catch {
    return undefined;
  }
}
