// A producer in Node (npm install redis@4): node producer.js SOCKET
const { createClient } = require('redis');
(async () => {
  const w = createClient({ socket: { path: process.argv[2] } }), r = w.duplicate();
  await Promise.all([w.connect(), r.connect()]);
  const me = '{prompts}:r:' + require('crypto').randomUUID(), texts = ['What is 2+2?', 'Name a river.', 'Explain a loom.'];
  for (const [i, text] of texts.entries())
    await w.xAdd('prompts', '*', { id: String(i), record: JSON.stringify({ text }), cost: String(text.length >> 2), reply_to: me });
  for (let left = texts.length; left;)
    for (const s of await r.xRead({ key: me, id: '0' }, { BLOCK: 5000, COUNT: 100 }) || [])
      for (const { id, message: a } of s.messages) { console.log(a.id, a.result ?? a.error); await w.xDel(me, id); left--; }
  await Promise.all([w.quit(), r.quit()]);
})();
