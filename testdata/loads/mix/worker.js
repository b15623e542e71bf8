// The JavaScript part of the mix load: JSON, maps, closures and sorting, compiled by V8 while it runs.
'use strict';

class Index {
  constructor() {
    this.postings = new Map();
  }
  add(id, text) {
    for (const word of text.split(/\W+/)) {
      let list = this.postings.get(word);
      if (!list) this.postings.set(word, (list = []));
      list.push(id);
    }
  }
  search(words) {
    const score = new Map();
    for (const word of words) {
      for (const id of this.postings.get(word) ?? []) score.set(id, (score.get(id) ?? 0) + 1);
    }
    return [...score].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, 10);
  }
}

const words = ['stack', 'frame', 'sample', 'window', 'label', 'series', 'block', 'table', 'row', 'pilot'];

function document(id) {
  const text = [];
  for (let i = 0; i < 40; i++) text.push(words[(id * 7 + i * i) % words.length] + ((id + i) % 13));
  return { id, text: text.join(' ') };
}

function iterate(seed) {
  const index = new Index();
  const documents = JSON.parse(JSON.stringify(Array.from({ length: 50 }, (_, i) => document(seed + i))));
  for (const { id, text } of documents) index.add(id, text);
  return index.search(['stack1', 'frame2', 'pilot3']).length;
}

const seconds = Number(process.argv[2]);
if (process.argv.length !== 3 || !(seconds > 0)) {
  console.error('usage: worker.js SECONDS');
  process.exit(2);
}
const start = performance.now();
let iterations = 0;
for (; performance.now() - start < seconds * 1000; iterations++) iterate(iterations);
console.log(JSON.stringify({
  program: 'mix-node',
  pid: process.pid,
  seconds: Math.round(performance.now() - start) / 1000,
  iterations,
}));
