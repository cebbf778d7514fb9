// What happened in the swarm while this page was open.

import { byId, element } from "./element.js";

const MOST = 100;

const STORIES = {
  joined: (c, who) => `${who} joined with layers ${range(c.layers)}`,
  left: (c, who) => `${who} is gone`,
  moved: (c, who) => `${who} moved from layers ${range(c.before)} to ${range(c.layers)}`,
  draining: (c, who) => `${who} is about to leave and takes no new answers`,
  failing: (c, who) => `${who} does not answer any more`,
  recovered: (c, who) => `${who} answers again`,
  failover: (c) => (c.count === 1 ? "a chain was mended" : `${c.count} chains were mended`),
  handover: (c) => (c.count === 1 ? "a peer handed its session over" : `${c.count} sessions were handed over`),
  broken: (c) => (c.layers ? `nobody serves layers ${range(c.layers)}` : "some layers are not served"),
  complete: () => "all layers are served",
};

export class EventLog {
  constructor(nameOf) {
    this.nameOf = nameOf;
    this.root = byId("events");
  }

  /** Tell a change of `/swarm/events`. */
  change(change) {
    const story = STORIES[change.kind];
    if (story) this.tell(change.kind, story(change, change.name || this.nameOf(change.peer_id)));
  }

  /** Tell anything; the newest comes first. */
  tell(kind, text) {
    byId("nothing").hidden = true;
    const now = new Date();
    const time = element("time", { datetime: now.toISOString() }, now.toLocaleTimeString([], { hour12: false }));
    this.root.prepend(element("li", { "data-kind": kind }, time, element("span", {}, text)));
    while (this.root.children.length > MOST) this.root.lastChild.remove();
  }
}

function range([start, end]) {
  return `${start}:${end}`;
}
