// A chat with a model on Bedrock, in which each user has a share of what all may use.
//
//   node chat.mjs USER PROMPT...
import { BedrockRuntimeClient, ConverseStreamCommand } from '@aws-sdk/client-bedrock-runtime';
import { guard } from './guard.mjs';
import { Quota, QuotaDenied } from './quotad.mjs';

const [user, ...words] = process.argv.slice(2);
if (words.length === 0) {
  console.error('usage: node chat.mjs USER PROMPT...');
  process.exit(2);
}
if (!/^[\w.@-]+$/.test(user)) { // with a / in it the name would be that of another bucket
  console.error(`chat.mjs: ${JSON.stringify(user)} cannot be a user; want a name of the letters a to z, A to Z, digits and . _ @ -, such as alice`);
  process.exit(2);
}

const quota = new Quota();
const bedrock = guard(new BedrockRuntimeClient(), quota, {
  bucket: (input) => `chat/${input.requestMetadata.user}`, // charged together with its parent, chat
});

try {
  const { stream } = await bedrock.send(
    new ConverseStreamCommand({
      modelId: process.env.MODEL_ID ?? 'amazon.nova-lite-v1:0',
      messages: [{ role: 'user', content: [{ text: words.join(' ') }] }],
      inferenceConfig: { maxTokens: 500 },
      requestMetadata: { user },
    }),
  );
  for await (const { contentBlockDelta } of stream) process.stdout.write(contentBlockDelta?.delta.text ?? '');
  process.stdout.write('\n');
} catch (err) {
  console.error(err instanceof QuotaDenied ? err.userMessage : err.message);
  process.exitCode = err instanceof QuotaDenied ? 3 : 1;
} finally {
  await quota.close(); // waits until the settlement is delivered
}
