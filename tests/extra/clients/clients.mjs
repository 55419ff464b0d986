// A real client of OpenAI's API against a gateway whose upstream is tests/nginx/upstream.lua: 64 requests at once, some of
// which leave before their answer. Every vector that comes is checked.
//
//     node clients.mjs CLIENT BASE_URL REQUESTS        CLIENT: a name in `clients`
//
// prints one line of JSON: {answered, left, closed, failed, wrong, example}. 3 where node is older than the package wants.

import { readFileSync } from "node:fs";

const [name, baseURL, requests] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const AT_ONCE = 64, MODEL = "m", KEY = "sk-test";

// --- what is expected ------------------------------------------------------------------------

const table = Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function checksum(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = table[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

// As a client may see it: numbers as they are, or made of 32-bit floats.
function isVectorOf(vector, input) {
  const bytes = Buffer.from(Array.isArray(input) ? input.join(",") : input);
  const expected = [bytes.length, checksum(bytes), bytes[0] ?? 0];
  return Array.isArray(vector) && vector.length === 3 &&
    expected.every((x, i) => vector[i] === x || vector[i] === Math.fround(x));
}

// Base64 that was asked for is handed out as it is.
function numbersOf(vector) {
  if (typeof vector !== "string") return vector;
  return Array.from(new Float32Array(Uint8Array.from(Buffer.from(vector, "base64")).buffer));
}

// --- who leaves --------------------------------------------------------------------------------

// Every seventh request of a client's is called off after a moment.
let sent = 0;
function leavingFetch(url, options = {}) {
  if (++sent % 7 !== 0) return fetch(url, options);
  const leave = AbortSignal.timeout(1 + sent % 5);
  const signal = options.signal && AbortSignal.any ? AbortSignal.any([options.signal, leave]) : leave;
  return fetch(url, { ...options, signal });
}

// --- the clients: (inputs, n) -> their vectors. `only`: what kind of inputs they send ---------------

const clients = {
  openai: async () => {
    const { default: OpenAI } = await import("openai");
    const client = new OpenAI({ apiKey: KEY, baseURL, fetch: leavingFetch, maxRetries: 0 });
    const formats = [undefined, "float", "base64"];
    return async (input, n) => {
      const encoding_format = formats[n % 3];
      const answer = await client.embeddings.create({ model: MODEL, input, ...(encoding_format && { encoding_format }) });
      return answer.data.map((item) => numbersOf(item.embedding));
    };
  },
  "@langchain/openai": async () => {
    const { OpenAIEmbeddings } = await import("@langchain/openai");
    const make = (encodingFormat) => new OpenAIEmbeddings({ model: MODEL, apiKey: KEY, maxRetries: 0, encodingFormat,
      configuration: { baseURL, fetch: leavingFetch } });
    const both = [make("float"), make("base64")];
    return async (input, n) => (await both[n % 2].embedDocuments(input)).map(numbersOf);
  },
  "@ai-sdk/openai": async () => {
    const [{ embedMany }, { createOpenAI }] = await Promise.all([import("ai"), import("@ai-sdk/openai")]);
    const model = createOpenAI({ apiKey: KEY, baseURL, fetch: leavingFetch }).embedding(MODEL);
    return async (values) => (await embedMany({ model, values, maxRetries: 0 })).embeddings;
  },
  "@ai-sdk/openai-compatible": async () => {
    const [{ embedMany }, { createOpenAICompatible }] =
      await Promise.all([import("ai"), import("@ai-sdk/openai-compatible")]);
    const provider = createOpenAICompatible({ name: "gateway", apiKey: KEY, baseURL, fetch: leavingFetch });
    return async (values) => (await embedMany({ model: provider.textEmbeddingModel(MODEL), values, maxRetries: 0 }))
      .embeddings;
  },
  "@chroma-core/openai": async () => {
    const { OpenAIEmbeddingFunction } = await import("@chroma-core/openai");
    const embed = new OpenAIEmbeddingFunction({ apiKey: KEY, modelName: MODEL, apiBase: baseURL });
    embed.client.fetch = leavingFetch;
    embed.client.maxRetries = 0;
    return (input) => embed.generate(input);
  },
};

// --- the run --------------------------------------------------------------------------------------

// What a package wants, "20" of ">=20" or of ">=20.1 || 22"; 0: anything.
function wants(packageName) {
  const path = new URL(`node_modules/${packageName}/package.json`, import.meta.url);
  const engines = JSON.parse(readFileSync(path)).engines;
  return Number(/\d+/.exec(engines?.node ?? "0")[0]);
}

function inputsOf(n) {
  const list = Array.from({ length: 1 + n % 5 }, (_, i) => `request ${n}, input ${i}: ${"ü".repeat(n % 9)}`);
  return name === "openai" && n % 11 === 0 ? list.map((_, i) => [n, i, 7]) : list;
}

// Of a connection that was kept alive and has just been closed: to send again is the client's to do, and retries are off.
const CLOSED = /other side closed|socket hang up|ECONNRESET|EPIPE/;

const count = { answered: 0, left: 0, closed: 0, failed: 0, wrong: 0 };

async function one(embed, n) {
  const inputs = inputsOf(n);
  const before = sent;
  try {
    const vectors = await embed(inputs, n);
    count.answered++;
    if (vectors.length === inputs.length && inputs.every((input, i) => isVectorOf(vectors[i], input))) return;
    count.wrong++;
    count.example = JSON.stringify([inputs, vectors]).slice(0, 500);
  } catch (error) {
    const text = `${error?.name} ${error?.message} ${error?.cause?.name} ${error?.cause?.message}`;
    if (/abort|timeout|timed out/i.test(text)) count.left++;
    else if (CLOSED.test(text)) count.closed++;
    else {
      count.failed++;
      count.example = `${before}: ${text}`.slice(0, 500);
    }
  }
}

const major = Number(process.versions.node.split(".")[0]);
if (major < wants(name)) {
  console.log(`node ${process.versions.node} is older than ${name} wants (${wants(name)})`);
  process.exit(3);
}
const embed = await clients[name]();
let begun = 0;
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  while (begun < requests) await one(embed, ++begun);
}));
console.log(JSON.stringify(count));
process.exit(0);
