// The map of the swarm: layers across, peers down. Knows the peers for everybody else.

import { byId, element } from "./element.js";

const CLIENT = "client";
const MARK_PX = 26; // room for a number on the axis
const TEXT_PX = 44; // room for a span's text in its bar
const CELL_PX = 5; // cells of layers that are narrower are drawn without gaps

/** Args: `overlay` draws the chain over the map. */
export class SwarmMap {
  constructor(overlay) {
    this.overlay = overlay;
    this.rows = new Map();
    this.names = new Map();
    this.hops = [];
    this.state = null;
    this.body = byId("peers");
    new ResizeObserver(() => this.draw()).observe(byId("map"));
  }

  /** What the model is, or null before the first look. */
  get model() {
    return this.state && this.state.model;
  }

  /** How a peer is called: by its name, or by the end of its id. */
  name(peerId) {
    return this.names.get(peerId) || peerId.slice(-8);
  }

  /** Draw what `/swarm/state` says. */
  show(state) {
    this.state = state;
    for (const peer of state.peers) if (peer.name) this.names.set(peer.peer_id, peer.name);
    this.draw();
    byId("swarm-summary").textContent = this.summary();
  }

  /** Light the hops of the current answer; none ends that. */
  light(hops) {
    this.hops = hops;
    this.draw();
  }

  draw() {
    if (!this.state) return;
    this.drawAxis();
    this.drawRows();
    this.drawChain();
  }

  drawAxis() {
    const axis = byId("axis");
    const { layers } = this.state.model;
    const counts = this.coverage();
    const cells = counts.map((count, layer) => {
      const cell = element("i", { "data-peers": count });
      place(cell, layer, layer + 1, layers);
      return cell;
    });
    const most = Math.max(2, Math.floor(axis.clientWidth / MARK_PX));
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((count) => layers / count < most) || layers;
    const at = [...Array(most).keys()].map((i) => i * step).filter((layer) => layer <= layers - step);
    const marks = [...at, layers].map((layer) => {
      const mark = element("b", {}, String(layer));
      mark.style.left = `${(100 * layer) / layers}%`;
      return mark;
    });
    axis.classList.toggle("fine", axis.clientWidth / layers < CELL_PX);
    if (layers) axis.replaceChildren(...cells, ...marks);
  }

  /** How many peers serve each layer that this gateway can use. */
  coverage() {
    const counts = Array(this.state.model.layers).fill(0);
    for (const peer of this.state.peers) {
      if (peer.state !== "online" || peer.failing) continue;
      for (let layer = peer.span[0]; layer < peer.span[1]; layer += 1) counts[layer] += 1;
    }
    return counts;
  }

  drawRows() {
    const wanted = [CLIENT, ...this.state.peers.map((peer) => peer.peer_id)];
    for (const [id, row] of this.rows) {
      if (wanted.includes(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    if (!this.rows.has(CLIENT)) this.rows.set(CLIENT, clientRow());
    this.rows.get(CLIENT).querySelector(".peer-state").textContent = workText(this.state.gateway);
    for (const peer of this.state.peers) {
      const row = this.rows.get(peer.peer_id) || peerRow();
      this.rows.set(peer.peer_id, row);
      fillRow(row, peer, this.name(peer.peer_id), this.state.model.layers, this.hops);
    }
    const ordered = wanted.map((id) => this.rows.get(id));
    if (ordered.some((row, i) => this.body.children[i] !== row)) this.body.append(...ordered);
  }

  drawChain() {
    const { layers } = this.state.model;
    for (const [id, row] of this.rows) {
      const mine = this.hops.filter((hop) => hop.peer === id);
      row.classList.toggle("in-chain", id === CLIENT ? this.hops.length > 0 : mine.length > 0);
      for (const old of row.querySelectorAll(".lit")) old.remove();
      for (const hop of mine) {
        const lit = element("span", { class: "lit" });
        place(lit, hop.start, hop.end, layers);
        row.querySelector(".track").append(lit);
      }
    }
    this.overlay.draw(this.hops, this.rows, layers);
  }

  summary() {
    const { peers, model } = this.state;
    const failing = peers.filter((peer) => peer.failing).length;
    const parts = [counted(peers.length, "peer"), counted(model.layers, "layer")];
    if (failing) parts.push(`${failing} failing`);
    return parts.join(" · ");
  }

  /** `{good, text}`: whether an answer can be written now. */
  health() {
    const missing = this.coverage().indexOf(0);
    if (!this.state.model.layers) return { good: false, text: "no peers" };
    if (missing < 0) return { good: true, text: "all layers served" };
    return { good: false, text: `nobody serves layer ${missing}` };
  }
}

function place(node, start, end, layers) {
  node.style.left = `${(100 * start) / layers}%`;
  node.style.width = `${(100 * (end - start)) / layers}%`;
}

function clientRow() {
  const head = element("th", { scope: "row" });
  head.append(element("span", { class: "peer-name" }, "gateway"), element("span", { class: "peer-state" }));
  const track = element("span", { class: "track" }, element("i", { class: "end" }), element("i", { class: "end last" }));
  const layers = element("td", {}, element("span", { class: "hidden" }, "embeddings and head"), track);
  return element("tr", { "data-state": CLIENT }, head, layers, element("td", { class: "number" }), element("td", { class: "number" }));
}

function peerRow() {
  const head = element("th", { scope: "row" }, element("span", { class: "peer-name" }), element("span", { class: "peer-state" }));
  const bar = element("span", { class: "span" }, element("span", { class: "span-text" }));
  const load = element("span", { class: "load" }, element("span", { class: "load-text" }), element("span", { class: "load-bar", "aria-hidden": "true" }, element("i")));
  return element(
    "tr", {}, head,
    element("td", {}, element("span", { class: "track" }, bar)),
    element("td", { class: "number speed" }),
    element("td", { class: "number" }, load),
  );
}

function fillRow(row, peer, name, layers, hops) {
  const state = peer.failing ? "failing" : peer.state;
  const [start, end] = peer.span;
  row.dataset.state = state;
  row.dataset.peer = peer.peer_id;
  row.title = `${peer.peer_id}${peer.failing ? `: ${peer.failing}` : ""}`;
  row.querySelector(".peer-name").textContent = name;
  row.querySelector(".peer-state").replaceChildren(...stateText(peer, state, hops.some((hop) => hop.peer === peer.peer_id)));
  row.querySelector(".span-text").textContent = `${start}:${end}`;
  const bar = row.querySelector(".span");
  place(bar, start, end, layers);
  const isNarrow = (row.querySelector(".track").clientWidth * (end - start)) / layers < TEXT_PX;
  bar.dataset.text = isNarrow ? (end < layers * 0.7 ? "after" : "before") : "inside";
  row.querySelector(".speed").textContent = peer.tokens_per_s ? short(peer.tokens_per_s) : "–";
  const used = peer.total_tokens ? 1 - peer.free_tokens / peer.total_tokens : 0;
  const load = row.querySelector(".load");
  load.title = `${counted(peer.sessions, "session")}, ${Math.round(100 * used)}% of its cache, ${Math.round(1000 * peer.queue_s)} ms of work waits`;
  load.querySelector(".load-text").textContent = `${Math.round(100 * used)}%`;
  load.querySelector("i").style.width = `${100 * used}%`;
}

function workText({ running, waiting, failovers }) {
  const parts = [counted(running, "answer")];
  if (waiting) parts.push(`${waiting} waiting`);
  if (failovers) parts.push(counted(failovers, "failover"));
  return parts.join(", ");
}

/** The state and, where there is room, how far the peer is from the gateway. */
function stateText(peer, state, answering) {
  if (state !== "online") return [state];
  const sessions = answering ? "answering" : counted(peer.sessions, "session"); // which it announces later
  if (!peer.rtt_s) return [sessions];
  const away = `, ${(1000 * peer.rtt_s).toFixed(peer.rtt_s < 0.01 ? 1 : 0)} ms away`;
  return [sessions, element("span", { class: "away" }, away)];
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function short(rate) {
  return rate >= 10000 ? `${Math.round(rate / 1000)}k` : rate >= 100 ? String(Math.round(rate)) : rate.toFixed(1);
}
