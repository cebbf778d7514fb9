// Follows `/swarm/events` for as long as the page is open.

import { ask } from "./api.js";
import { serverEvents } from "./sse.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;

/**
 * Args: `sink.map(state)`, `sink.change(change)`, `sink.lost(message, status)` when it cannot be watched.
 * `again()` of what is returned tries at once, with the key that there is now.
 */
export function watch(sink) {
  let waitMs = FIRST_WAIT_MS;
  let current = null;
  let wake = null;

  async function follow() {
    current = new AbortController();
    const response = await ask("swarm/events", { signal: current.signal });
    for await (const { event, data } of serverEvents(response)) {
      waitMs = FIRST_WAIT_MS;
      if (event === "map") sink.map(JSON.parse(data));
      else if (event === "change") sink.change(JSON.parse(data));
    }
  }

  async function run() {
    for (;;) {
      try {
        await follow();
        sink.lost("the gateway ended the connection", 0);
      } catch (error) {
        if (error.name !== "AbortError") sink.lost(error.message, error.status);
      }
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, waitMs);
      });
      waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
    }
  }

  run();
  return {
    again() {
      waitMs = FIRST_WAIT_MS;
      current?.abort();
      wake?.();
    },
  };
}
