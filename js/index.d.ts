export { Offer, offerHttp } from './lib/http';

/** Arguments and results are whatever has a JSON form. */
export type Json = any;

export interface NodeOptions {
  /** Of the Distributor, `host:port`; `127.0.0.1:9000` unless set. */
  distributor?: string;
  /** The address to listen on; `127.0.0.1` unless set: this machine only. `0.0.0.0` for all. */
  host?: string;
  /** The port to listen on; unless set, any that is free. */
  port?: number;
  /**
   * Where others can call this node, `host:port`, if that is not where the Distributor sees it come from and the port
   * that it listens on. Unless set, the environment variable `NODE_ADVERTISE`.
   */
  advertise?: string;
  /** Nodes of one zone are preferred to others. */
  zone?: string;
  /** The node's share of calls, in hundredths of the usual one: 0 to 1000. */
  weight?: number;
  /** Of the service; everybody sees it. */
  version?: string;
  /** Anything else that everybody should see. */
  meta?: Json;
  /**
   * Whether clients of a gateway can call all routes of this node; `false` unless set. A route with the option `public`
   * decides for itself.
   */
  publicRoutes?: boolean;
  /** Bytes that are kept for all callers together; 256 MiB unless set. */
  buffers?: number;
  /** What callers of version 1 can read at once; 65536 unless set. */
  maxLegacyResponseBytes?: number;
  /** Gets the lines of the log; they go to standard error unless set. `false`: no lines. */
  log?: ((text: string, isTrouble: boolean) => void) | false;
}

export interface CallOptions {
  /** Milliseconds for the whole call with all its attempts; 5000 unless set. */
  timeout?: number;
  /** The call may be carried out twice. `GET`, `HEAD`, `PUT`, `DELETE` and `OPTIONS` may unless this is `false`. */
  idempotent?: boolean;
  /** Calls with one key go to one node, whichever node calls. */
  stickyKey?: string;
  /** The id of the only instance that is called. */
  instance?: string;
  /** Gives the call up. */
  signal?: AbortSignal;
}

/** Texts of a query string are read as these; a list may be one text. */
export type ParamType =
  | StringConstructor
  | NumberConstructor
  | BooleanConstructor
  | [StringConstructor]
  | [NumberConstructor]
  | [BooleanConstructor];

/** A member that may be missing. */
export interface Optional<T extends ParamType> {
  readonly type: T;
}
export function optional<T extends ParamType>(type: T): Optional<T>;

export type ParamTypes = { [name: string]: ParamType | Optional<ParamType> };

type Read<T> = T extends StringConstructor
  ? string
  : T extends NumberConstructor
    ? number
    : T extends BooleanConstructor
      ? boolean
      : T extends [infer U]
        ? Read<U>[]
        : never;

/** The arguments of a route with these types. */
export type Params<T extends ParamTypes> = {
  [K in keyof T]: T[K] extends Optional<infer U> ? Read<U> | undefined : Read<T[K]>;
};

export interface RouteOptions<T extends ParamTypes = ParamTypes> {
  /** Calls that run at a time. One more is answered 503 `overloaded`; of events 256 wait. */
  concurrency?: number;
  /** The types of arguments. Others are answered 400 `bad_params`. */
  params?: T;
  /**
   * Whether clients of a gateway can call the route. Unless it is `true`, or `publicRoutes` of the node is, the route
   * is internal: nodes call it, and to clients it does not exist.
   */
  public?: boolean;
}

/** Events are for nodes only, so these are the options of a route without `public`. */
export type EventOptions = Omit<RouteOptions, 'public'>;

/** The node that calls, as far as it says who it is. */
export interface Caller {
  instance?: string;
  name?: string;
  address: string;
}

/** A call as its handler sees it. */
export interface IncomingCall<P = Json> {
  readonly method: string;
  /** The path as it was called. */
  readonly uri: string;
  /** The route as it was given. */
  readonly url: string;
  /** The arguments, with what stands in the path. */
  readonly params: P;
  readonly caller: Caller;
  /** Aborts when nobody waits any more for a call that may be dropped, or when its stream ends. */
  readonly signal: AbortSignal;
  /** The W3C `traceparent` of the call. */
  readonly trace: string;
  /** Milliseconds that the caller still waits; Infinity if it does not say. */
  readonly timeLeft: number;
  /** What the caller sends after the call; the call becomes a stream. */
  readonly items: AsyncIterableIterator<Json>;
  /** As `Node.call`; a call in a handler ends a little before the call that is handled. */
  readonly call: <T = Json>(url: string, params?: Json, options?: CallOptions) => Promise<T>;
  readonly stream: <T = Json>(url: string, params?: Json, options?: CallOptions) => Promise<CallStream<T>>;
  readonly emit: (event: string, payload?: Json) => Promise<number>;
  readonly broadcast: (event: string, payload?: Json) => Promise<number>;
  /** Runs work that may outlast the call; `stop` waits for it. */
  detach<T>(work: () => T | Promise<T>): Promise<T>;
}

/** A result, an async iterable for a stream of parts, or a `Reply`. */
export type Handler<P = Json> = (call: IncomingCall<P>) => unknown;
export type EventHandler<E = Json> = (payload: E, call: IncomingCall) => unknown;

/** A stream that a call has opened. */
export interface CallStream<T = Json> extends AsyncIterableIterator<T> {
  /** Sends an item to the node, as soon as it takes it. */
  send(item: Json): Promise<void>;
  /** Says that no item follows; what the node sends still comes. */
  end(): Promise<void>;
  /** Takes no more parts. */
  cancel(): void;
}

export interface Entry {
  host: string;
  port: number;
  name: string;
  urls: string[];
  $?: { id?: string; [member: string]: unknown };
  [member: string]: unknown;
}

/** A node of the mesh: it offers routes, and calls those of others. */
export class Node {
  constructor(name: string, options?: NodeOptions);

  readonly name: string;
  /** The id of this instance. */
  readonly id: string;
  /** The port that it listens on; 0 before it does. */
  readonly port: number;
  /** Whether the Distributor lists this node at this moment. */
  readonly isRegistered: boolean;
  /** Events, and other calls without an answer, that were lost. */
  readonly lostEvents: number;
  /** The entries of all nodes that are listed. */
  readonly nodes: Entry[];

  /** Offers a route, such as `GET/orders/{id}`. Nodes can call it; clients of a gateway can if it is public. */
  route<T extends ParamTypes>(
    url: string,
    handler: Handler<Params<T>>,
    options: RouteOptions<T> & { params: T },
  ): this;
  route(url: string, handler: Handler, options?: RouteOptions): this;
  /** Subscribes to an event, such as `orders.created`. One node of each name gets it. */
  on<E = Json>(event: string, handler: EventHandler<E>, options?: EventOptions): this;

  /**
   * Listens and registers. Resolves when the node is listed; or when there is no Distributor, which the log tells: the
   * node serves without it, and tries again every 3 s. Rejects with a `StartError` when the port cannot be listened on,
   * or the Distributor does not accept the node.
   */
  start(): Promise<this>;
  /** Leaves, finishes the calls in flight and detached work, and ends. */
  stop(): Promise<void>;

  /** Calls a url, such as `GET/orders/7`. Rejects with a `CallError`. */
  call<T = Json>(url: string, params?: Json, options?: CallOptions): Promise<T>;
  /** As `call`, for answers in parts: `for await (const part of await node.stream('GET/ticks'))`. */
  stream<T = Json>(url: string, params?: Json, options?: CallOptions): Promise<CallStream<T>>;
  /** Tells one node of each name that has subscribed. Resolves to how many it was sent to. */
  emit(event: string, payload?: Json): Promise<number>;
  /** Tells all nodes that have subscribed. Resolves to how many it was sent to. */
  broadcast(event: string, payload?: Json): Promise<number>;
  /** Resolves when nodes that take calls offer all these urls; rejects after `timeout`, 10 s unless set. */
  waitFor(urls: string[], options?: { timeout?: number }): Promise<void>;
  /** Runs work that may outlast the call that is handled; `stop` waits for it. */
  detach<T>(work: () => T | Promise<T>): Promise<T>;
}

/** A result with a status of its own, 200 to 299. */
export class Reply {
  constructor(status: number, value?: Json);
  readonly status: number;
  readonly value: Json;
}
/** 201 */
export function created(value?: Json): Reply;
/** 202 */
export function accepted(value?: Json): Reply;
/** 204 */
export function noContent(): Reply;

/** What a handler throws to refuse a call: an HTTP status, a stable word, and a text that callers can read. */
export class ServiceError extends Error {
  constructor(status: number, reason: string, message: string, options?: { retryAfter?: number; cause?: unknown });
  static badRequest(reason: string, message: string): ServiceError;
  static notFound(reason: string, message: string): ServiceError;
  static conflict(reason: string, message: string): ServiceError;
  readonly status: number;
  readonly reason: string;
  /** Milliseconds until another try is worthwhile. */
  readonly retryAfter?: number;
}

export type CallErrorCode =
  | 'bad_url'
  | 'no_route'
  | 'no_list'
  | 'no_provider'
  | 'overloaded'
  | 'too_large'
  | 'params'
  | 'deadline'
  | 'lost'
  | 'refused'
  | 'ended'
  | 'cancelled';

/** Why a call has no result. A handler that lets it pass answers 502, 503 or 504 without its text. */
export class CallError extends Error {
  readonly code: CallErrorCode;
  readonly url: string;
  /** Whether a node may have carried the call out. */
  readonly wasSent: boolean;
  /** Of a refusal: the HTTP status, and a stable word. */
  readonly status?: number;
  readonly reason?: string;
  /** Milliseconds until another try is worthwhile. */
  readonly retryAfter?: number;
  /** The address of the node that was called. */
  readonly node?: string;
}

/** Why a node does not start, with what to do about it. */
export class StartError extends Error {}

/** Has SIGTERM, Ctrl-C and the end of the terminal stop a service: `stopOnSignals(() => node.stop())`. */
export function stopOnSignals(stop: () => unknown): void;
