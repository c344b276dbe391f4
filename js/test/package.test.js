'use strict';

// The package as it is installed, in projects of both kinds of modules, and its types.

const assert = require('node:assert/strict');
const { execFileSync, spawn } = require('node:child_process');
const { once } = require('node:events');
const { existsSync, readFileSync, readdirSync } = require('node:fs');
const { cp, mkdtemp, rm, writeFile } = require('node:fs/promises');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { test } = require('node:test');
const { pathToFileURL } = require('node:url');
const pilcrow = require('../lib');
const { Distributor, start } = require('./helpers');

const HOME = path.join(__dirname, '..');

// In CI nothing is skipped.
function mayLack(what) {
  assert.equal(process.env.CI, undefined, `${what} is not there: \`.ci/run tools\` installs it`);
}

// A program that offers a url, calls itself over the mesh, and ends. It prints what it got.
const program = (load, address) => `${load}
async function main() {
  const node = new Node('packed', { distributor: '${address}', log: false });
  node.route('GET/packed/{id}', ({ params }) => params);
  await node.start();
  const other = new Node('other', { distributor: '${address}', log: false });
  await other.start();
  await other.waitFor(['GET/packed/7']);
  console.log(JSON.stringify(await other.call('GET/packed/한글')), typeof Server.Client);
  await Promise.all([node.stop(), other.stop()]);
}
main();
`;

// The service of the README, which ends in order as soon as it is listed.
function readmeProgram(address) {
  const readme = readFileSync(path.join(HOME, 'README.md'), 'utf8');
  const [service, , http] = [...readme.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code);
  const whole = service.replace('await node.start();', `${http}await node.start();`);
  assert.notEqual(whole, service);
  return `${whole.replace('127.0.0.1:9000', address)}process.kill(process.pid, 'SIGTERM');\n`;
}

test('the package is installed without a network, and loads by import and by require', async (t) => {
  try {
    execFileSync('npm', ['--version'], { stdio: 'ignore' });
  } catch {
    mayLack('npm');
    t.skip('npm is not there');
    return;
  }
  const distributor = await new Distributor().start(t);
  const home = await mkdtemp(path.join(tmpdir(), 'pilcrow-'));
  t.after(() => rm(home, { recursive: true }));
  const quietly = ['--offline', '--no-audit', '--no-fund', '--loglevel=error', `--cache=${home}/cache`];
  const npm = (...args) => execFileSync('npm', [...args, ...quietly], { cwd: home, encoding: 'utf8' });
  const [{ filename, files }] = JSON.parse(npm('pack', HOME, '--json', '--pack-destination', home));
  const packed = files.map((file) => file.path);
  assert.ok(packed.includes('index.mjs') && packed.includes('index.d.ts') && packed.includes('lib/mesh.d.ts'), packed.join());
  assert.ok(!packed.some((file) => /^(test|node_modules)/.test(file)), packed.join());
  await writeFile(path.join(home, 'package.json'), '{"private":true}');
  npm('install', `./${filename}`);
  const asModule = "import { Node } from 'pilcrow';\nimport Server from 'pilcrow/mesh';";
  const asScript = "const { Node } = require('pilcrow');\nconst Server = require('pilcrow/mesh');";
  const run = async (file, text) => {
    await writeFile(path.join(home, file), text);
    const child = spawn(process.execPath, [path.join(home, file)], { stdio: ['ignore', 'pipe', 'pipe'] });
    const said = [];
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => said.push(String(data)));
    const [code] = await once(child, 'close');
    return [code, said.join('')];
  };
  for (const [file, load] of [['main.mjs', asModule], ['main.cjs', asScript]]) {
    const seen = await run(file, program(load, distributor.address));
    assert.deepEqual(seen, [0, '{"id":"한글"} function\n'], file);
  }
  const [code, said] = await run('readme.mjs', readmeProgram(distributor.address));
  assert.deepEqual([code, said.split('\n')[0].replace(/\d+ as/, 'N as')], [0, 'listening on 127.0.0.1:N as orders'], said);
  assert.ok(distributor.registered.at(-1).params.urls.includes('GET/me'));
  await checkTypes(t, home);
});

// Runs the compiler over test/types, against the package that is installed in `home`.
async function checkTypes(t, home) {
  const tsc = path.join(HOME, 'node_modules/typescript/bin/tsc');
  if (!existsSync(tsc)) {
    mayLack('the compiler of TypeScript');
    t.diagnostic('the types are not compiled: `npm ci` in js/ installs the compiler');
    return;
  }
  await cp(path.join(__dirname, 'types'), path.join(home, 'types'), { recursive: true });
  const options = ['--strict', '--noEmit', '--target', 'es2022', '--module', 'node16', '--moduleResolution', 'node16'];
  const result = (() => {
    try {
      return execFileSync(process.execPath, [tsc, ...options, 'types/service.ts', 'types/shims.d.ts'], { cwd: home, encoding: 'utf8' });
    } catch (error) {
      return error.stdout;
    }
  })();
  assert.equal(result, '');
}

test('the types name what there is, and both ways of loading give the same', async () => {
  const text = readFileSync(path.join(HOME, 'index.d.ts'), 'utf8');
  const declared = [...text.matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  const passedOn = [...text.matchAll(/^export \{ Offer, (\w+) \} from/gm)].map(([, name]) => name);
  assert.deepEqual([...new Set([...declared, ...passedOn])].sort(), Object.keys(pilcrow).sort());
  const asModule = await import(pathToFileURL(path.join(HOME, 'index.mjs')));
  assert.deepEqual(Object.keys(asModule).sort(), Object.keys(pilcrow).sort());
  for (const name of Object.keys(pilcrow)) assert.equal(asModule[name], pilcrow[name], name);
});

test('no line is too long to read', () => {
  const home = path.join(HOME, '..');
  for (const [folder, most] of [['js', 120], ['js/lib', 120], ['js/test', 140], ['examples/js', 120]]) {
    for (const file of readdirSync(path.join(home, folder), { recursive: folder !== 'js' })) {
      if (!/\.(js|mjs|ts)$/.test(file)) continue;
      const lines = readFileSync(path.join(home, folder, file), 'utf8').split('\n');
      lines.forEach((line, n) => assert.ok(line.length <= most, `${folder}/${file}:${n + 1} has ${line.length} columns`));
    }
  }
});

test('the types name the members of a node and of a call', async (t) => {
  const text = readFileSync(path.join(HOME, 'index.d.ts'), 'utf8');
  const membersOf = (name) => {
    const body = new RegExp(`^export (?:class|interface) ${name}\\b[^{]*\\{\\n(.*?)^\\}`, 'ms').exec(text)[1];
    const all = [...body.matchAll(/^ {2}(?:readonly )?(\w+)[<(?:]/gm)].map(([, member]) => member);
    return [...new Set(all)].filter((one) => one !== 'constructor');
  };
  const distributor = await new Distributor().start(t);
  let call;
  const node = await start(t, distributor, 'a', (one) => one.route('GET/a', (given) => { call = given; }));
  await node.call('GET/a');
  for (const [name, value] of [['Node', node], ['IncomingCall', call]]) {
    for (const member of membersOf(name)) {
      if (member === 'items' || member === 'request') continue; // they want more of the call
      assert.notEqual(value[member], undefined, `${name}.${member}`);
    }
  }
});
