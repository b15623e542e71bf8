// native: work that node does in C++, called from JavaScript: parsing, compression, JSON, hashes, regular expressions.
'use strict';
const crypto = require('crypto');
const vm = require('vm');
const zlib = require('zlib');

const text = JSON.stringify(Array.from({ length: 2000 }, (_, i) => ({ id: i, name: 'item ' + i * 7919, tags: ['a', 'b', i] })));
const deep = '(function () { return ' + '['.repeat(200) + '1' + ']'.repeat(200) + '; })';
const source = Array.from({ length: 300 }, (_, i) => `function f${i}(x) { return x > ${i} ? f${i}(x - 1) + ${i} : x; }`).join('\n');

for (let round = 0; ; round++) {
  new vm.Script(source + '// ' + round); // the comment keeps V8 from taking it from its cache
  new vm.Script(deep + '// ' + round);
  zlib.inflateSync(zlib.deflateSync(text));
  JSON.parse(text);
  crypto.createHash('sha256').update(text).digest();
  crypto.pbkdf2Sync('password', 'salt', 500, 32, 'sha256');
  /(x+x+)+y/.test('x'.repeat(15));
}
