// A service in TypeScript: `tsc` accepts it, and rejects each line below @ts-expect-error.

import {
  CallError, Node, ServiceError, StartError, accepted, created, html, noContent, offerHttp, optional, redirect, reply,
  stopOnSignals, text,
} from 'pilcrow';
import type { CallStream, HttpRequest, Handler, IncomingCall } from 'pilcrow';
import Server = require('pilcrow/mesh');

interface Order {
  id: number;
  good: string;
}

const node = new Node('orders', { distributor: '127.0.0.1:9000', zone: 'a', weight: 50, publicRoutes: false });

node
  .route('GET/orders/{id}', async ({ params, call, trace, timeLeft, caller }) => {
    const id: number = params.id;
    const all: boolean | undefined = params.all;
    const tags: string[] = params.tags;
    // @ts-expect-error
    const text: string = params.id;
    const good = await call<Order>('GET/goods/7', { id, all, tags }, { timeout: 100, stickyKey: trace });
    // @ts-expect-error
    good.price;
    if (timeLeft < 10 || caller.name === undefined) throw new ServiceError(409, 'late', text, { retryAfter: 100 });
    return created(good);
  }, { params: { id: Number, all: optional(Boolean), tags: [String] }, concurrency: 8, public: true })
  .route('POST/orders', ({ params }) => params.anything)
  .route('GET/ticks', async function* ticks({ signal }) {
    for (let n = 0; !signal.aborted; n++) yield n;
  })
  .route('POST/sum', async ({ items, detach }) => {
    let sum = 0;
    for await (const item of items) sum += item;
    detach(async () => node.emit('summed', sum));
    return sum > 0 ? accepted(sum) : noContent();
  })
  .on<Order>('goods.sold', async (order, { caller }) => console.log(order.good, caller.address));

node
  .route('POST/sign-in', ({ request, hasRequest }) => {
    const known: HttpRequest = request;
    const session: string | undefined = known.cookies.get('session');
    if (!hasRequest || session === undefined) {
      throw new ServiceError(401, 'sign_in', 'sign in first', { headers: { 'www-authenticate': 'Bearer' } });
    }
    return redirect('/', 303, { cookies: { session: { value: session, maxAge: 60, sameSite: 'strict' }, old: null } });
  }, { headers: ['cookie'], public: true })
  .route('GET/page', ({ request }) => (request.header('x') === '1' ? html('<p>') : text('a', { type: 'text/csv' })))
  // @ts-expect-error
  .route('GET/tag', () => reply(1, { headers: { etag: '"1"' }, status: 304, cookies: { a: { maxAge: 1 } } }));

const handler: Handler<{ id: string }> = (call: IncomingCall<{ id: string }>) => call.params.id;
node.route('GET/other/{id}', handler);

// @ts-expect-error
new Node('orders', { distribtor: '127.0.0.1:9000' });
// @ts-expect-error
node.route('GET/a', () => 1, { limit: 1 });
// @ts-expect-error
node.route('GET/a');
// @ts-expect-error
node.on('a', () => 1, { public: true });

export async function main(): Promise<void> {
  await node.start();
  stopOnSignals(() => node.stop());
  for await (const tick of node.stream<number>('GET/ticks')) console.log(tick.toFixed());
  const stream: CallStream<number> = await node.stream<number>('GET/ticks');
  for await (const tick of stream) console.log(tick.toFixed());
  await stream.send({ any: 1 });
  try {
    const order: Order = await node.call('GET/orders/7', {}, { signal: AbortSignal.abort() });
    console.log(order, node.lostEvents, node.nodes[0].urls);
  } catch (error) {
    if (error instanceof CallError && error.code === 'refused') console.log(error.status, error.reason, error.wasSent);
    // @ts-expect-error
    if (error instanceof CallError && error.code === 'unknown') console.log(error);
    if (error instanceof StartError) console.log(error.message);
  }
}

class Old extends Server {
  onRead(): void {}
}

console.log(new Old('old', 0, ['GET/old'], { version: 2 }), offerHttp);
