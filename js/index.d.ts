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
  /** The version of the service, which all peers see. */
  version?: string;
  /** Anything else that all peers should see. */
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
  /**
   * The header fields that the route reads of a client's request, in any case of letters, at most 32. Give `[]` if it
   * reads none of them, but the rest of the request, or answers with a status, fields or a media type of its own.
   */
  headers?: string[];
}

/** Events are for nodes only, so a subscription has no `public` and no `headers`. */
export type EventOptions = Omit<RouteOptions, 'public' | 'headers'>;

/** The node that calls, as far as it says who it is. */
export interface Caller {
  instance?: string;
  name?: string;
  address: string;
}

/** The request of a client, for which a gateway makes a call. It is what the gateway and the client say. */
export interface HttpRequest {
  /** The method of the request: `HEAD` also calls a route of `GET`. */
  readonly method: string;
  /** Path and query as the client has sent them, with their escapes. */
  readonly target: string;
  readonly path: string;
  /** What stands behind `?`. */
  readonly query?: string;
  /** The host that the client names, with a port if it names one; empty if none. */
  readonly host: string;
  /** Whether the client speaks TLS, with the gateway or with a trusted proxy in front of it. */
  readonly isHttps: boolean;
  /** The address of the client, IPv4 or IPv6. */
  readonly clientAddress: string;
  /** The id of the request, which is also in the gateway's log. */
  readonly id: string;
  /** Names, in small letters, and values of the header fields that the route reads, in their order. */
  readonly headers: [string, string][];
  /** The first value of a header field, in any case of letters. Throws if the route does not register the field. */
  header(name: string): string | undefined;
  /** The cookies of the client, by name. Throws if the route does not register the header field `cookie`. */
  readonly cookies: Map<string, string>;
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
  /** Whether the call is made for the client of a gateway. */
  readonly hasRequest: boolean;
  /**
   * The request of a gateway's client. The route gives the option `headers`. Where a node makes the call itself,
   * reading this refuses the call: 400 `not_http`.
   */
  readonly request: HttpRequest;
  /** Aborts when no caller waits any more for a call that may be dropped, or when its stream ends. */
  readonly signal: AbortSignal;
  /** The W3C `traceparent` of the call. */
  readonly trace: string;
  /** Milliseconds that the caller still waits; Infinity if it does not say. */
  readonly timeLeft: number;
  /** What the caller sends after the call; the call becomes a stream. */
  readonly items: AsyncIterableIterator<Json>;
  /** As `Node.call`; a call in a handler ends a little before the call that is handled. */
  readonly call: <T = Json>(url: string, params?: Json, options?: CallOptions) => Promise<T>;
  readonly stream: <T = Json>(url: string, params?: Json, options?: CallOptions) => OpeningStream<T>;
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

/** A stream that is being opened. `for await` takes it as it is; awaited, it is the stream. */
export type OpeningStream<T = Json> = Promise<CallStream<T>> & AsyncIterable<T>;

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
  /** As `call`, for answers in parts: `for await (const part of node.stream('GET/ticks'))`. */
  stream<T = Json>(url: string, params?: Json, options?: CallOptions): OpeningStream<T>;
  /** Tells one node of each name that has subscribed. Resolves to how many it was sent to. */
  emit(event: string, payload?: Json): Promise<number>;
  /** Tells all nodes that have subscribed. Resolves to how many it was sent to. */
  broadcast(event: string, payload?: Json): Promise<number>;
  /** Resolves when nodes that take calls offer all these urls; rejects after `timeout`, 10 s unless set. */
  waitFor(urls: string[], options?: { timeout?: number }): Promise<void>;
  /** Runs work that may outlast the call that is handled; `stop` waits for it. */
  detach<T>(work: () => T | Promise<T>): Promise<T>;
}

/** A cookie for a client. */
export interface Cookie {
  /** Characters of RFC 6265 only: encode others, such as by `encodeURIComponent`. */
  value: string;
  /** How long the client keeps it, in seconds; until the browser closes unless set. */
  maxAge?: number;
  /** It is sent with this path and those below it; `/` unless set. */
  path?: string;
  /** It is sent to this domain and those below it; to its host alone unless set. */
  domain?: string;
  /** Which requests that other sites cause it is sent with; `lax` unless set. */
  sameSite?: 'strict' | 'lax' | 'none';
  /** Whether scripts of the page cannot read it; `true` unless set. */
  httpOnly?: boolean;
  /** Whether it is sent over TLS only; unless set, that is so if the client speaks TLS now. */
  secure?: boolean;
}

/** What a client is given beside a result. A node that calls gets none of it. */
export interface ClientFields {
  /** Header fields by name; a list for several of one name. */
  headers?: { [name: string]: string | number | string[] };
  /** Cookies by name; `null` has the client forget one. */
  cookies?: { [name: string]: string | Cookie | null };
}

export interface ReplyOptions extends ClientFields {
  /** The media type of the body. If it is not JSON, the value is a text, and that text is the body. */
  type?: string;
}

/**
 * A result with a status, header fields or a media type of its own. Header fields and media type are for clients of a
 * gateway, and the route gives the option `headers`, `[]` at least.
 */
export class Reply {
  /** `status` is 200 to 399; with a `type` to 599, for pages about errors. */
  constructor(status: number, value?: Json, options?: ReplyOptions);
  readonly status: number;
  readonly value: Json;
}
/** A result with what the options say; status 200 unless they say so. */
export function reply(value?: Json, options?: ReplyOptions & { status?: number }): Reply;
/** A plain text as the body. A node that calls gets it as a JSON text. */
export function text(value: string, options?: ReplyOptions & { status?: number }): Reply;
/** A page of HTML as the body. Texts of others that stand in it have to be escaped. */
export function html(value: string, options?: ReplyOptions & { status?: number }): Reply;
/**
 * Sends the client elsewhere. 303, unless given: it gets that page with `GET`, as after a form was sent; 307 and 308:
 * it repeats this very request there. Check a place that comes from the client.
 */
export function redirect(location: string, status?: 301 | 302 | 303 | 307 | 308, options?: ClientFields): Reply;
/** 201 */
export function created(value?: Json, options?: ReplyOptions): Reply;
/** 202 */
export function accepted(value?: Json, options?: ReplyOptions): Reply;
/** 204 */
export function noContent(options?: ClientFields): Reply;

/** What a handler throws to refuse a call: an HTTP status, a stable word, and a text that callers can read. */
export class ServiceError extends Error {
  constructor(
    status: number,
    reason: string,
    message: string,
    options?: ClientFields & { retryAfter?: number; cause?: unknown },
  );
  static badRequest(reason: string, message: string): ServiceError;
  static notFound(reason: string, message: string): ServiceError;
  static conflict(reason: string, message: string): ServiceError;
  readonly status: number;
  readonly reason: string;
  /** Milliseconds until another try is worthwhile. */
  readonly retryAfter?: number;
}

export type CallErrorCode =
  | 'not_started'
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
