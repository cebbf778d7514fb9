// The conversation: what was said, and the answer that is being written.

import { Refused } from "./api.js";
import { takeovers } from "./chain_text.js";
import { byId } from "./element.js";
import { MessageView } from "./message_view.js";
import { write } from "./writing.js";

const NEAR_END_PX = 60;

/**
 * Args: `parameters`; `people` knows the peers (`name(id)`, `model`); `stage` shows where the answer is written:
 * `began()`, `chain(hops)`, `token()`, `ended()`, `tookOver({from, to, start, end})`, `refused(status)`.
 */
export class Chat {
  constructor(parameters, people, stage) {
    this.parameters = parameters;
    this.people = people;
    this.stage = stage;
    this.turns = [];
    this.views = [];
    this.running = null;
    this.input = byId("prompt");
    this.talk = byId("talk");
    this.follows = true; // the reader is at the end, and stays there
    this.listen();
    this.fitInput();
  }

  listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("input", () => this.fitInput());
    this.talk.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.talk;
      this.follows = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    });
    const grown = new ResizeObserver(() => {
      if (this.follows) this.toEnd();
    });
    grown.observe(byId("messages"));
    grown.observe(this.talk);
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => this.clear());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !byId("key-dialog").open) this.stop();
    });
    for (const starter of document.querySelectorAll(".starter")) {
      starter.addEventListener("click", () => {
        this.input.value = starter.textContent;
        this.send();
      });
    }
  }

  send() {
    const text = this.input.value.trim();
    if (!text || this.running || !this.people.model || !this.parameters.check()) return;
    this.input.value = "";
    this.fitInput();
    this.input.focus();
    this.add("user", text);
    this.answer();
  }

  /** Write the last answer anew. */
  regenerate() {
    if (this.running || this.turns.at(-1)?.role !== "assistant" || !this.parameters.check()) return;
    this.turns.pop();
    this.views.pop().remove();
    this.input.focus();
    this.answer();
  }

  /** A new conversation. */
  clear() {
    this.stop();
    for (const view of this.views) view.remove();
    [this.turns, this.views] = [[], []];
    byId("welcome").hidden = false;
    this.input.focus();
  }

  stop() {
    this.running?.abort();
  }

  add(role, text) {
    byId("welcome").hidden = true;
    const turn = { role, text };
    const view = new MessageView(turn, this.people, () => this.regenerate());
    for (const old of this.views) old.settle();
    this.turns.push(turn);
    this.views.push(view);
    byId("messages").append(view.root);
    this.toEnd();
    return { turn, view };
  }

  async answer() {
    const asked = this.turns.slice();
    const { turn, view } = this.add("assistant", "");
    const running = new AbortController();
    this.setRunning(running);
    this.announce("The answer is being written.");
    let hops = [];
    const sink = {
      chain: (next) => {
        for (const change of takeovers(hops, next)) {
          view.failedOver();
          this.stage.tookOver(change);
        }
        hops = next;
        view.chain(next);
        this.stage.chain(next);
      },
      text: (piece) => {
        turn.text += piece;
        view.piece();
        this.stage.token();
      },
    };
    try {
      const result = await write(this.people.model, asked, this.parameters.values(), sink, running.signal);
      view.end(result);
      this.announce(`The answer is complete: ${turn.text}`);
    } catch (error) {
      this.failed(error, view);
    } finally {
      this.setRunning(null);
      this.stage.ended();
    }
  }

  failed(error, view) {
    if (error.name === "AbortError") {
      view.end({ finish: "stopped", tokens: null });
      this.announce("Stopped.");
      return;
    }
    view.fail(`No answer: ${error.message}.`);
    this.announce(`No answer: ${error.message}`);
    if (error instanceof Refused) this.stage.refused(error.status);
  }

  setRunning(running) {
    this.running = running;
    const stopHadFocus = document.activeElement === byId("stop");
    byId("send").hidden = Boolean(running);
    byId("stop").hidden = !running;
    if (running) this.stage.began();
    else if (stopHadFocus) this.input.focus();
  }

  toEnd() {
    this.follows = true;
    this.talk.scrollTop = this.talk.scrollHeight;
  }

  fitInput() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }

  announce(text) {
    byId("announcer").textContent = text;
  }
}
