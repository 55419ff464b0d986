"use strict";
// What a record costs in what people use in Node: npm's dataloader, async.cargoQueue, and a list of promises
// written by hand. The same work as in shapes.lua: batches of 256, each record answered with itself; in a round
// one producer hands in 256 and awaits them, or 256 producers each await their own.
// usage: node peers.js ROUNDS      (environment: NODE_PATH, the folder with dataloader and async)
// Prints lines "PEER_SHAPE nanoseconds a record, the median round".

const DataLoader = require("dataloader");
const async = require("async");

const BATCH = 256;
const RECORDS = 200 * BATCH; // a round
const ROUNDS = Number(process.argv[2] || 30);
const record = { text: "What is 2+2?" };

// Each gives submit(record): a promise of its answer.
const peers = {
  dataloader() {
    const loader = new DataLoader(async (records) => records, { cache: false, maxBatchSize: BATCH });
    return (given) => loader.load(given);
  },

  cargoqueue() {
    const queue = async.cargoQueue((records, done) => done(null), 1, BATCH);
    return (given) => queue.pushAsync(given);
  },

  promises() {
    let waiting = [];
    async function infer(records) { return records; }
    async function flush() {
      const batch = waiting;
      waiting = [];
      try {
        const results = await infer(batch.map((entry) => entry.record));
        batch.forEach((entry, i) => entry.resolve(results[i]));
      } catch (error) {
        batch.forEach((entry) => entry.reject(error));
      }
    }
    return (given) => new Promise((resolve, reject) => {
      waiting.push({ record: given, resolve, reject });
      if (waiting.length === 1) setImmediate(flush);
    });
  },
};

const shapes = {
  async one(submit) {
    const futures = new Array(BATCH);
    for (let k = 0; k < RECORDS / BATCH; k++) {
      for (let i = 0; i < BATCH; i++) futures[i] = submit(record);
      for (let i = 0; i < BATCH; i++) await futures[i];
    }
  },

  async awaiting(submit) {
    await Promise.all(Array.from({ length: BATCH }, async () => {
      for (let k = 0; k < RECORDS / BATCH; k++) await submit(record);
    }));
  },
};

async function measure(peer, shape) {
  const submit = peers[peer]();
  const took = [];
  await shapes[shape](submit); // compile
  for (let i = 0; i < ROUNDS; i++) {
    const started = process.hrtime.bigint();
    await shapes[shape](submit);
    took.push(Number(process.hrtime.bigint() - started) / RECORDS);
  }
  took.sort((a, b) => a - b);
  console.log(`${peer}_${shape} ${took[Math.floor(ROUNDS / 2)].toFixed(1)} ns`);
}

(async () => {
  for (const shape of Object.keys(shapes)) {
    for (const peer of Object.keys(peers)) await measure(peer, shape);
  }
})();
