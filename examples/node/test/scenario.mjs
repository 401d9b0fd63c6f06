// Takes lines of JSON, each a scenario, does them one after the other with a guarded client, and prints what came of each as a line of
// JSON, once its settlement is delivered.
import { createInterface } from 'node:readline';
import {
  ApplyGuardrailCommand,
  BedrockRuntimeClient,
  ConverseCommand,
  ConverseStreamCommand,
  CountTokensCommand,
  InvokeModelCommand,
  InvokeModelWithResponseStreamCommand,
} from '@aws-sdk/client-bedrock-runtime';
import { ConfiguredRetryStrategy } from '@smithy/core/retry';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { guard } from '../guard.mjs';
import { Quota } from '../quotad.mjs';

const modelId = 'anthropic.claude-x';
const messages = [{ role: 'user', content: [{ text: 'hello' }] }];
const converse = { modelId, messages, inferenceConfig: { maxTokens: 50 } };
const invoke = { modelId, body: JSON.stringify({ messages, max_tokens: 50 }) };
const count = { modelId, input: { converse: { messages } } };
const guardrail = { guardrailIdentifier: 'g', guardrailVersion: '1', source: 'INPUT', content: [{ text: { text: 'hello' } }] };

const scenarios = {
  'converse': (client) => client.send(new ConverseCommand(converse)),
  'invoke': (client) => client.send(new InvokeModelCommand(invoke)),
  'stream': async (client, told) => read((await client.send(new ConverseStreamCommand(converse))).stream, told),
  'stream-left': async (client, told) => read((await client.send(new ConverseStreamCommand(converse))).stream, told, 2),
  'invoke-stream': async (client, told) => read((await client.send(new InvokeModelWithResponseStreamCommand(invoke))).body, told),
  'guardrail': (client) => client.send(new ApplyGuardrailCommand(guardrail)),
  'free': (client) => client.send(new CountTokensCommand(count)),
  // A command that is newer than the guard.
  'unknown': (client) => {
    const renamed = (next, context) => (args) => next(args, (context.commandName = 'SomethingNewCommand'));
    client.middlewareStack.add(renamed, { step: 'initialize', priority: 'high' });
    return client.send(new CountTokensCommand(count));
  },
  'many': async (client, told) => {
    const done = await Promise.allSettled(Array.from({ length: 60 }, () => client.send(new ConverseCommand(converse))));
    told.granted = done.filter((d) => d.status === 'fulfilled').length;
    told.denied = done.filter((d) => d.reason?.name === 'QuotaDenied').length;
  },
};

// Counts the pieces of text in a stream, also if it breaks.
async function read(stream, told, most = Infinity) {
  told.texts = 0;
  for await (const event of stream) {
    const part = event.contentBlockDelta?.delta.text ?? (event.chunk && JSON.parse(Buffer.from(event.chunk.bytes)).delta?.text);
    if (part === undefined) continue;
    told.texts++;
    if (told.texts === most) break;
  }
}

async function play({ scenario, bedrock, quotad, bucket, http1, timeout = 10_000 }) {
  const told = { lost: [] };
  const quota = new Quota(quotad, { lost: (err) => told.lost.push(err.message) });
  const client = new BedrockRuntimeClient({
    endpoint: bedrock,
    region: 'eu-west-1',
    credentials: { accessKeyId: 'a', secretAccessKey: 'b' },
    retryStrategy: new ConfiguredRetryStrategy(3, 1), // waits a millisecond
    // What the SDK uses by itself is HTTP/2.
    requestHandler: http1 ? new NodeHttpHandler({ requestTimeout: timeout, throwOnRequestTimeout: true }) : { requestTimeout: timeout },
  });
  guard(client, quota, { bucket });
  try {
    await scenarios[scenario](client, told);
  } catch (err) {
    const { name, message, bucket, unit, limit, used, held, remaining, resetTime, retryTime, userMessage } = err;
    told.error = { name, message, bucket, unit, limit, used, held, remaining, resetTime, retryTime, userMessage };
  }
  await quota.close();
  client.destroy();
  return told;
}

for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await play(JSON.parse(line))));
