import type { Server } from 'node:net';

/** What an HTTP server offers, and where the Distributor is. */
export interface Offer {
  /** 1 to 128 of `A-Z a-z 0-9 . _ -`; instances of one service share it. */
  name: string;
  /** Paths that it answers, with all that is below them; the longest that fits a request wins. */
  prefixes: string[];
  /** It wants to be asked for `/x` instead of `/prefix/x`. */
  strip?: boolean;
  /** Of the Distributor; `127.0.0.1` unless given. */
  host?: string;
  /** Of the Distributor; 9000 unless given. */
  port?: number;
  /** Where others can call it, `host:port`, if that is not where the Distributor sees it. */
  advertise?: string;
  onLog?: (text: string, isTrouble?: boolean) => void;
}

/** Keeps a server registered once it listens. */
export function offerHttp(server: Server, offer: Offer): {
  /** Leaves the list; requests are still answered. */
  leave(): void;
  /** Leaves, lets requests in flight finish, and closes the server. */
  close(): Promise<void>;
};
