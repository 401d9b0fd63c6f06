// Stands in for Bedrock where there is no account: answers every ConverseStream with the words of the prompt. It listens on
// 127.0.0.1, on the port that it is given, and prints its address.
//
//   node fake.mjs [PORT]
import { createServer } from 'node:http2';
import { fileURLToPath } from 'node:url';
import { EventStreamCodec } from '@smithy/core/event-streams';

const codec = new EventStreamCodec((bytes) => Buffer.from(bytes).toString(), (text) => Buffer.from(text));

// One event of a stream, as Bedrock sends it.
export function frame(type, payload) {
  const text = (value) => ({ type: 'string', value });
  const headers = { ':message-type': text('event'), ':event-type': text(type), ':content-type': text('application/json') };
  return codec.encode({ headers, body: Buffer.from(JSON.stringify(payload)) });
}

const server = createServer(async (request, response) => {
  let words;
  try {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    words = JSON.parse(Buffer.concat(chunks)).messages.at(-1).content[0].text.split(' ');
  } catch (err) { // no JSON, no text in it, or a caller that is gone
    response.writeHead(400, { 'content-type': 'application/json', 'x-amzn-errortype': 'ValidationException' });
    response.end(JSON.stringify({ message: `want a Converse request whose last message is a text: ${err.message}` }));
    return;
  }
  response.writeHead(200, { 'content-type': 'application/vnd.amazon.eventstream' });
  response.write(frame('messageStart', { role: 'assistant' }));
  for (const word of words) response.write(frame('contentBlockDelta', { contentBlockIndex: 0, delta: { text: `${word} ` } }));
  response.write(frame('messageStop', { stopReason: 'end_turn' }));
  const usage = { inputTokens: words.length + 3, outputTokens: words.length, totalTokens: 2 * words.length + 3 };
  response.end(frame('metadata', { usage, metrics: { latencyMs: 1 } }));
});
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
}
