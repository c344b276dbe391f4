// What the types of the package take from Node.js, so that the test needs no further package.

declare module 'node:net' {
  export class Server {}
  export class Socket {}
}

declare class Buffer extends Uint8Array {}
