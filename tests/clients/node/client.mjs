// One case of the unmodified `openai` package for Node: `node client.mjs CASE`, settings as JSON on standard input, the
// outcome as JSON on standard output. What it should be is decided by test_openai_node.py.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

// The packages are installed in the cache, beside no source file.
const require = createRequire(join(process.env.TOLLGATE_NODE_MODULES, "..", "client.js"));
const { OpenAI, AzureOpenAI } = require("openai");

const settings = JSON.parse(readFileSync(0, "utf8"));
const { url, key, model, request = {}, retries = 0 } = settings;
let requests = 0;
const counted = (input, init) => {
  requests += 1;
  return fetch(input, init);
};
const client = settings.azure
  ? new AzureOpenAI({ endpoint: url, apiKey: key, apiVersion: "2025-04-01-preview", maxRetries: retries, fetch: counted })
  : new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: retries, fetch: counted });
const messages = [{ role: "user", content: "Say hello." }];

const cases = {
  async text() {
    const { data, response, request_id } = await client.chat.completions.create({ model, messages, ...request }).withResponse();
    return { answer: data, requestId: request_id, cost: response.headers.get("x-litellm-response-cost") };
  },
  async stream() {
    const stream = await client.chat.completions.create({ model, messages, stream: true, ...request });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return { chunks };
  },
  // The package's own helper puts the stream together and checks that it is complete.
  async helper() {
    const runner = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true }, ...request });
    return { answer: await runner.finalChatCompletion() };
  },
  async abort() {
    const stream = await client.chat.completions.create({ model, messages, stream: true, ...request });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.content) stream.controller.abort();
    }
    return { aborted: stream.controller.signal.aborted };
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model, input: ["one", "two"] });
    return { counts: answer.data.map((item) => item.embedding.length), usage: answer.usage };
  },
  async models() {
    const listed = [];
    for await (const item of client.models.list()) listed.push(item.id);
    return { listed };
  },
  async parallel() {
    const ask = (n) => client.chat.completions.create({ model, messages: [{ role: "user", content: `number ${n}` }] });
    const answers = await Promise.all([...Array(10).keys()].map(ask));
    return { texts: answers.map((answer) => answer.choices[0].message.content) };
  },
};

let outcome;
try {
  outcome = await cases[process.argv[2]]();
} catch (error) {
  const { status, code, type, param, message, requestID } = error;
  outcome = { error: { name: error.constructor.name, status, code, type, param, message, requestId: requestID } };
}
process.stdout.write(JSON.stringify({ ...outcome, requests }));
