// The way of a token over the map: from the gateway down through its hops and back; each token runs along it once.

import { byId, shape } from "./element.js";

const RUN_MS = 480;
const LINE_PX = 4; // above the lower edge of a bar, below its text
const PAUSE_MS = 90; // between two comets; tokens that come sooner share one
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class ChainOverlay {
  constructor() {
    this.root = byId("chain");
    this.way = shape("path", { class: "way" });
    this.line = "";
    this.lastMs = 0;
  }

  /** Draw the way through `hops`, whose peers stand in `rows` (by id; "client" is the gateway). */
  draw(hops, rows, layers) {
    const points = hops.length && layers ? this.points(hops, rows, layers) : null;
    this.line = points ? `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}` : "";
    this.way.setAttribute("d", this.line);
    if (this.line && !this.way.isConnected) this.root.append(this.way);
    if (!this.line) this.root.replaceChildren();
  }

  points(hops, rows, layers) {
    const origin = this.root.getBoundingClientRect();
    const track = (id) => rows.get(id)?.querySelector(".track").getBoundingClientRect();
    const client = track("client");
    if (!client || !client.width) return null;
    const x = (layer) => client.left - origin.left + (client.width * layer) / layers;
    const y = (box) => box.bottom - origin.top - LINE_PX;
    const points = [[x(0) + 4, y(client)]];
    for (const hop of hops) {
      const box = track(hop.peer);
      if (!box) return null; // this peer is not on the map yet
      const inset = hop.start === 0 ? 4 : 0;
      const outset = hop.end === layers ? 4 : 0;
      points.push([x(hop.start) + inset, y(box)], [x(hop.end) - outset, y(box)]);
    }
    return [...points, [x(layers) - 4, y(client)]];
  }

  /** A token went through the chain. */
  pulse() {
    const now = performance.now();
    if (!this.line || still.matches || now - this.lastMs < PAUSE_MS) return;
    this.lastMs = now;
    const comet = shape("path", { class: "comet", d: this.line, pathLength: 100, "stroke-dasharray": "5 200" });
    this.root.append(comet);
    const run = comet.animate([{ strokeDashoffset: 5 }, { strokeDashoffset: -100 }], { duration: RUN_MS, easing: "ease-in-out" });
    run.onfinish = run.oncancel = () => comet.remove();
  }
}
