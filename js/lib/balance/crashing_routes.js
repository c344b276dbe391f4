'use strict';

// Routes whose calls crash the nodes that handle them: such a call is not tried at the next node.
// Without a clock.

const WINDOW_MS = 30_000; // two nodes lost within this time, with no answer in between, count as crashed
const ONE_LOSS_MS = 1000; // calls that one connection loses at once are one loss
const NO_RETRY_MS = 60_000; // how long after a loss calls of such a route are not tried again
const MAX_ROUTES = 1024; // routes that are remembered; with more, later ones count as harmless

class CrashingRoutes {
  #losses = new Map(); // route -> {node, at, until}

  // A node was lost while it handled a call of this route. Returns whether the call may be tried
  // again.
  recordLoss(now, route, node) {
    if (this.#losses.size >= MAX_ROUTES) {
      for (const [one, { at, until }] of this.#losses) if (now >= (until ?? at + WINDOW_MS)) this.#losses.delete(one);
    }
    const loss = this.#losses.get(route);
    if (!loss) {
      if (this.#losses.size < MAX_ROUTES) this.#losses.set(route, { node, at: now, until: null });
      return true;
    }
    const passed = now - loss.at;
    const isKnown = loss.until !== null && now < loss.until;
    const isSame = loss.node === node && passed < ONE_LOSS_MS;
    const isCrashing = isKnown || (!isSame && passed < WINDOW_MS);
    Object.assign(loss, { node, at: now, until: isCrashing ? now + NO_RETRY_MS : null });
    return !isCrashing;
  }

  // Another node has answered such a call.
  recordAnswer(route) {
    this.#losses.delete(route);
  }
}

module.exports = { CrashingRoutes };
