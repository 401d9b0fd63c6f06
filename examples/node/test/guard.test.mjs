import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttp1 } from 'node:http';
import { createServer as createHttp2 } from 'node:http2';
import { test } from 'node:test';
import { BedrockRuntimeClient, ConverseStreamCommand } from '@aws-sdk/client-bedrock-runtime';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { frame } from '../fake.mjs';
import { estimateOf, guard, usageOf } from '../guard.mjs';

const usages = {
  'Converse': [{ usage: { inputTokens: 5, outputTokens: 7, totalTokens: 12 } }, { input_tokens: 5, output_tokens: 7 }],
  'Converse with a cache': [
    { usage: { inputTokens: 5, outputTokens: 7, cacheReadInputTokens: 100, cacheWriteInputTokens: 20 } },
    { input_tokens: 125, output_tokens: 7 },
  ],
  'Claude': [
    { usage: { input_tokens: 5, output_tokens: 7, cache_read_input_tokens: 100, cache_creation_input_tokens: 20 } },
    { input_tokens: 125, output_tokens: 7 },
  ],
  'Nova': [{ usage: { inputTokens: 5, outputTokens: 7, cacheReadInputTokenCount: 100 } }, { input_tokens: 105, output_tokens: 7 }],
  'Nova Sonic': [{ usageEvent: { totalInputTokens: 5, totalOutputTokens: 7 } }, { input_tokens: 5, output_tokens: 7 }],
  'Llama': [{ generation: 'x', prompt_token_count: 5, generation_token_count: 7 }, { input_tokens: 5, output_tokens: 7 }],
  'Titan': [{ inputTextTokenCount: 5, results: [{ tokenCount: 3 }, { tokenCount: 4 }] }, { input_tokens: 5, output_tokens: 7 }],
  'Titan in a stream': [{ outputText: '', inputTextTokenCount: 5, totalOutputTextTokenCount: 7 }, { input_tokens: 5, output_tokens: 7 }],
  'Cohere': [{ text: 'x', meta: { billed_units: { input_tokens: 5, output_tokens: 7 } } }, { input_tokens: 5, output_tokens: 7 }],
  'Titan embeddings': [{ embedding: [0.1], inputTextTokenCount: 5 }, { input_tokens: 5 }],
  'as OpenAI does': [{ usage: { prompt_tokens: 5, completion_tokens: 7 } }, { input_tokens: 5, output_tokens: 7 }],
  'a stream of InvokeModel': [
    { 'amazon-bedrock-invocationMetrics': { inputTokenCount: 5, outputTokenCount: 7 } },
    { input_tokens: 5, output_tokens: 7 },
  ],
  'nothing, as Mistral 7B': [{ outputs: [{ text: 'x' }] }, undefined],
  'a guardrail': [{ usage: { contentPolicyUnits: 3 } }, undefined],
  'zero': [{ usage: { inputTokens: 5, outputTokens: 0 } }, { input_tokens: 5, output_tokens: 0 }],
  'no object': [undefined, undefined],
};

for (const [name, [body, want]] of Object.entries(usages)) {
  test(`usage: ${name}`, () => assert.deepEqual(usageOf(body), want));
}

const body = (value) => ({ modelId: 'm', body: JSON.stringify(value) });
const text = 'x'.repeat(40);
const estimates = {
  'Converse': [
    { modelId: 'm', messages: [{ role: 'user', content: [{ text }] }], inferenceConfig: { maxTokens: 99 } },
    { calls: 1, input_tokens: 10, output_tokens: 99 },
  ],
  'text in two bytes a letter': [
    { modelId: 'm', messages: [{ content: [{ text: 'ж'.repeat(40) }] }] },
    { calls: 1, input_tokens: 20, output_tokens: undefined },
  ],
  'an image': [
    { modelId: 'm', messages: [{ content: [{ image: { source: { bytes: new Uint8Array(1e6) } } }] }], inferenceConfig: { maxTokens: 99 } },
    { calls: 1, input_tokens: 1600, output_tokens: 99 },
  ],
  'Claude': [body({ messages: [{ content: text }], max_tokens: 99 }), { calls: 1, input_tokens: 10, output_tokens: 99 }],
  'Claude before messages': [body({ prompt: text, max_tokens_to_sample: 99 }), { calls: 1, input_tokens: 10, output_tokens: 99 }],
  'Nova': [body({ messages: [{ content: [{ text }] }], inferenceConfig: { max_new_tokens: 99 } }), { calls: 1, input_tokens: 10, output_tokens: 99 }],
  'Llama': [body({ prompt: text, max_gen_len: 99 }), { calls: 1, input_tokens: 10, output_tokens: 99 }],
  'Titan': [body({ inputText: text, textGenerationConfig: { maxTokenCount: 99 } }), { calls: 1, input_tokens: 10, output_tokens: 99 }],
  'as OpenAI does': [body({ messages: [{ content: text }], max_completion_tokens: 99 }), { calls: 1, input_tokens: 10, output_tokens: 99 }],
  'a body as bytes': [
    { modelId: 'm', body: Buffer.from(JSON.stringify({ prompt: text })) },
    { calls: 1, input_tokens: 10, output_tokens: undefined },
  ],
  'speech': [{ modelId: 'm', body: (async function* () {})() }, { calls: 1, input_tokens: undefined, output_tokens: undefined }],
  'a video': [{ modelId: 'm', modelInput: { prompt: text } }, { calls: 1 }],
  'a guardrail': [{ guardrailIdentifier: 'g', content: [{ text: { text } }] }, { calls: 1 }],
};

for (const [name, [input, want]] of Object.entries(estimates)) {
  test(`estimate: ${name}`, () => assert.deepEqual(estimateOf(input), want));
}

for (const [protocol, createServer, requestHandler] of [['HTTP/1.1', createHttp1, new NodeHttpHandler()], ['HTTP/2', createHttp2, undefined]]) {
  test(`a stream that its reader leaves is settled and closed, over ${protocol}`, { timeout: 10_000 }, async (t) => {
    const server = createServer((request, response) => {
      request.resume();
      response.writeHead(200, { 'content-type': 'application/vnd.amazon.eventstream' });
      response.write(frame('contentBlockDelta', { contentBlockIndex: 0, delta: { text: 'sixteen letters.' } })); // and no end
    });
    const closed = new Promise((resolve) => server.on('request', (_, response) => (response.stream ?? response).on('close', resolve)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    const client = new BedrockRuntimeClient({
      endpoint: `http://127.0.0.1:${server.address().port}`,
      region: 'eu-west-1',
      credentials: { accessKeyId: 'a', secretAccessKey: 'b' },
      requestHandler,
    });
    t.after(() => client.destroy());
    const calls = [];
    const quota = { reserve: async (bucket) => `of ${bucket}`, settle: (...call) => calls.push(call) };
    guard(client, quota, { bucket: (input) => input.requestMetadata.user });

    const { stream } = await client.send(new ConverseStreamCommand({ modelId: 'm', messages: [], requestMetadata: { user: 'alice' } }));
    for await (const event of stream) {
      assert.ok(event.contentBlockDelta);
      break;
    }
    assert.deepEqual(calls, [['of alice', { output_tokens: 4 }]]);
    await closed;
  });
}
