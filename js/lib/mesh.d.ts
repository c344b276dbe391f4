import { Server as NetServer, Socket } from 'node:net';

/** A service of the mesh, in the shape that version 1 services extend. */
declare class MeshServer {
  /**
   * Listens at once; port 0 lets the system pick one. A url such as `GET/goods/{id}` puts what stands there
   * into `params`.
   */
  constructor(name: string, port: number | string, urls?: string[], options?: MeshServer.Options);

  /** What is registered; a service may add members, which all peers see, such as `$: { zone: 'a' }`. */
  context: { port: number | string; name: string; urls: string[]; [member: string]: unknown };
  /** Whether there is a connection to the Distributor. */
  isConnectedDistributor: boolean;
  readonly server: NetServer;

  /** Registers, and stays registered. `onNoti` gets the whole list whenever it changes. */
  connectToDistributor(host: string, port: number | string, onNoti?: (list: MeshServer.List) => void): void;

  /** A caller has connected. */
  onCreate(socket: Socket): void;
  /** A caller has gone. */
  onClose(socket: Socket): void;
  /**
   * A call. Whatever is written to `socket` goes out as its answer, in the form that the caller knows:
   * `JSON.stringify({ key, errorcode, errormessage, results })`, a `¶` behind it or not. A throw, or a
   * promise that fails, is answered with an error.
   */
  onRead(socket: Socket, call: MeshServer.Call): void | Promise<void>;
  /** A line for the log; goes to the console unless overridden. */
  onLog(text: string, isTrouble?: boolean): void;
  /** The port cannot be listened on. */
  onError(error: Error): void;

  /** Leaves the list; calls are still served. */
  leave(): void;
  /** Leaves, finishes the calls in flight, and ends. */
  close(): Promise<void>;
}

declare namespace MeshServer {
  export { MeshServer as Server };

  export interface Options {
    /**
     * 1 (unless set): registers as version 1 services do, so that HTTP clients behind the gateway still see whole
     * packets. 2: is told of changes and pinged, and HTTP clients see results alone.
     */
    version?: 1 | 2;
    /**
     * What callers of version 1 can read at once, in bytes: 65536 unless set, or what all peers of version 1 of their
     * host register as `readWindow`. A larger answer becomes an error. Set more only if all of them join what they
     * read; most end when a packet comes in two reads. 8 MiB at most.
     */
    maxLegacyResponseBytes?: number;
    /**
     * How many bytes callers may send at once to this service of version 1, such as 8388608: it registers that. Unless
     * set, calls of more than 65536 bytes are refused by callers, as version 1 services end of them.
     */
    readWindow?: number;
    /**
     * false: packets that come are not sent to the node `logs`. Otherwise they are, as version 1 services do, when
     * there is one: each before it is handled, with whatever is in it.
     */
    logs?: boolean;
    /**
     * Bytes that are kept for all callers together: packets that have come in part, calls at work, answers that are not
     * read. 256 MiB unless set. A caller has 16 KiB whatever others have; beyond that at most 64 MiB, and half of what
     * is free: one that would have more is not read from. An answer that there is no room for becomes 503 `no_room`.
     */
    buffers?: number;
    /** Where it listens: at all addresses of the machine unless set, as version 1 services do. */
    host?: string;
    /**
     * Where others can call the service, `host:port`, if that is not where the Distributor sees it come from and the
     * port that it listens on: behind a NAT, in a container. Unless set, the environment variable `NODE_ADVERTISE`.
     */
    advertise?: string;
  }

  /** A number or text; a number that JavaScript would change comes as the text of its digits. */
  export type Key = number | string;

  export interface Call {
    uri: string;
    method: string;
    /** Goes into the answer. Missing when the caller does not want one. */
    key?: Key;
    /** Never missing; has the key too, where it is an object. */
    params: any;
    /** What a version 2 caller says of its call, such as `d`, the milliseconds that it still waits. */
    $?: { d?: number; [member: string]: unknown };
    [member: string]: unknown;
  }

  export interface Entry {
    host: string;
    port: number;
    name: string;
    urls: string[];
    $?: { id?: string; [member: string]: unknown };
    [member: string]: unknown;
  }

  export interface List {
    uri: '/distributes';
    method: 'GET';
    key: 0;
    params: Entry[];
  }

  export interface Address {
    host: string;
    port: number;
  }

  /** A connection to a server, in the shape that version 1 services use. */
  export class Client {
    constructor(
      host: string,
      port: number,
      onCreate?: (options: Address) => void,
      onRead?: (options: Address, packet: any, text: string) => void,
      onEnd?: (options: Address) => void,
      onError?: (options: Address, error: Error) => void,
    );

    options: Address;
    /** Longest packet that is read, in bytes. */
    limit: number;

    /** Does nothing while there is a connection, or one is being made. */
    connect(): void;
    /** False when the packet has to wait, or is lost because there is no connection. */
    write(packet: unknown): boolean;
    /** As `write`, for JSON that is text already. */
    send(text: string): boolean;
    /** Gives up when nothing goes either way for so many milliseconds; 0: never. */
    patience(ms: number): void;
    end(): void;
  }

  /** What a node knows of the registry. */
  export class Replica {
    readonly state: { epoch: number; rev: number } | null;
    readonly digest: number;
    /** `far`: where the Distributor is, if on another machine; loopback hosts of entries are read as that. */
    connected(far?: string | null): void;
    disconnected(): void;
    take(packet: any, text: string, now: number): 'changed' | 'same' | 'stale' | 'gap' | 'bad';
    expire(now: number): boolean;
    list(): Entry[];
  }

  /** Cuts a stream of bytes into packets. */
  export class PacketReader {
    constructor(
      onPacket: (packet: any, text: string) => void,
      onBad?: (why: string) => void,
      limit?: number,
    );

    /** False once a frame is too long: the stream is of no use then. */
    push(chunk: Buffer): boolean;
  }

  /** A packet as it goes over the wire. */
  export function encode(packet: unknown): Buffer;
  /** As `encode`, for JSON that is text already. */
  export function seal(text: string): Buffer;
  /** Cuts what a version 1 writer wrote into packets. */
  export function cut(text: string): string[];
  /** The direct parts of sound JSON as they came. */
  export function parts(text: string): string[] | [string, string][];
  export function crc32(bytes: Uint8Array): number;
  export function isObject(value: unknown): value is Record<string, unknown>;
  export function parseAddress(text: string): Address;
  export function explain(error: Error): string;
  export const FRAME_LIMIT: number;
  export const LEGACY_READ_BYTES: number;
}

export = MeshServer;
