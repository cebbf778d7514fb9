// One message of the conversation, as it is shown.

import { button, element } from "./element.js";
import { markdown } from "./markdown.js";

/** Args: `turn` `{role, text}`; `people.name(id)`; `onAgain` writes this answer anew. */
export class MessageView {
  constructor(turn, people, onAgain) {
    this.turn = turn;
    this.people = people;
    this.onAgain = onAgain;
    this.pieces = 0;
    this.failovers = 0;
    this.hops = [];
    this.beganMs = performance.now();
    this.firstMs = null;
    this.root = element("li", { class: `message ${turn.role}` });
    const who = element("span", { class: "hidden" }, turn.role === "user" ? "You: " : "Answer: ");
    if (turn.role === "user") {
      this.root.append(element("div", { class: "text" }, who, turn.text));
      return;
    }
    this.root.classList.add("running");
    this.body = element("div", { class: "answer" });
    this.problem = element("p", { class: "problem", hidden: "" });
    this.hopList = element("ul", { class: "hops", "aria-label": "Chain" });
    this.numbers = element("span", { class: "numbers" });
    this.actions = element("span", { class: "actions", hidden: "" });
    const meta = element("div", { class: "meta" }, this.hopList, this.numbers, this.actions);
    this.root.append(who, this.body, this.problem, meta);
    this.addActions();
  }

  addActions() {
    this.again = button("Regenerate", this.onAgain);
    this.actions.append(this.again);
    if (!navigator.clipboard) return; // only where the page came over TLS or from this machine
    const copy = button("Copy", async () => {
      await navigator.clipboard.writeText(this.turn.text);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    this.actions.append(copy);
  }

  chain(hops) {
    this.hops = hops;
    this.hopList.replaceChildren(
      ...hops.map((hop) => element("li", {}, `${this.people.name(hop.peer)} ${hop.start}:${hop.end}`)),
    );
  }

  failedOver() {
    this.failovers += 1;
  }

  /** Text was added to the turn. */
  piece() {
    this.pieces += 1;
    this.lastMs = performance.now();
    this.firstMs ??= this.lastMs;
    this.drawing ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.drawing = null;
    this.body.replaceChildren(...markdown(this.turn.text));
    this.numbers.textContent = this.story(this.pieces);
  }

  end({ finish, tokens }) {
    this.root.classList.remove("running");
    cancelAnimationFrame(this.drawing);
    this.draw();
    const ends = { length: "cut off at the most tokens", stopped: "stopped" };
    this.numbers.textContent = this.story(tokens ?? this.pieces, ends[finish]);
    this.actions.hidden = false;
  }

  fail(text) {
    this.end({ finish: null, tokens: this.pieces });
    this.problem.textContent = text;
    this.problem.hidden = false;
  }

  /** Only the last answer can be written anew. */
  settle() {
    if (this.again) this.again.hidden = true;
  }

  remove() {
    this.root.remove();
  }

  story(tokens, ending) {
    const parts = [`${tokens} tokens`];
    const seconds = (this.lastMs - this.firstMs) / 1000;
    if (this.pieces > 2 && seconds > 0) parts.push(`${((this.pieces - 1) / seconds).toFixed(0)} tok/s`);
    if (this.firstMs) parts.push(`first after ${(this.firstMs - this.beganMs).toFixed(0)} ms`);
    if (this.failovers) parts.push(`${this.failovers} ${this.failovers === 1 ? "hop" : "hops"} replaced`);
    if (ending) parts.push(ending);
    return parts.join(" · ");
  }
}
