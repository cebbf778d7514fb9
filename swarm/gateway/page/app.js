// Puts the page together.

import { ChainOverlay } from "./chain_overlay.js";
import { Chat } from "./chat.js";
import { byId } from "./element.js";
import { EventLog } from "./event_log.js";
import { KeyDialog } from "./key_dialog.js";
import { Parameters } from "./parameters.js";
import { SwarmMap } from "./swarm_map.js";
import { watch } from "./watch.js";

const UNAUTHORIZED = 401;
const LIT_AFTER_MS = 2500; // the chain of an answer stays in sight for a moment

const overlay = new ChainOverlay();
const map = new SwarmMap(overlay);
const log = new EventLog((peer) => map.name(peer));
const parameters = new Parameters();
const keys = new KeyDialog(() => watching.again());
let tokens = 0;
let fading = null;

const stage = {
  began() {
    clearTimeout(fading);
    tokens = 0;
  },
  chain(hops) {
    map.light(hops);
    tellChain(hops);
  },
  token() {
    tokens += 1;
    overlay.pulse();
    tellChain(map.hops);
  },
  tookOver({ from, to, start, end }) {
    log.tell("took-over", `${map.name(to)} took over layers ${start}:${end} from ${map.name(from)}`);
  },
  refused(status) {
    if (status === UNAUTHORIZED) keys.refused();
  },
  ended() {
    fading = setTimeout(() => {
      map.light([]);
      tellChain([]);
    }, LIT_AFTER_MS);
  },
};

const chat = new Chat(parameters, map, stage);

const watching = watch({
  map(state) {
    const first = !map.model;
    map.show(state);
    byId("model").textContent = state.model.name;
    document.title = `${state.model.name} · layerswarm`;
    parameters.fit(state.model);
    const { good, text } = map.health();
    tellHealth(good ? "good" : "bad", text);
    if (first) chat.input.focus();
  },
  change(change) {
    // of a failover of its own answer this page knows more: who took over from whom
    if (change.kind === "failover" && chat.running) return;
    log.change(change);
  },
  lost(message, status) {
    tellHealth("bad", status === UNAUTHORIZED ? "needs a key" : message);
    if (status === UNAUTHORIZED) keys.refused();
  },
});

function tellHealth(kind, text) {
  byId("health").dataset.health = kind;
  byId("health").textContent = text;
}

function tellChain(hops) {
  const names = hops.map((hop) => map.name(hop.peer)).join(" → ");
  byId("chain-text").textContent = names ? `This answer: ${names}, ${tokens} tokens` : "";
}

for (const button of document.querySelectorAll("[data-shows]")) {
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.shows;
    for (const other of document.querySelectorAll("[data-shows]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    map.draw();
  });
}
