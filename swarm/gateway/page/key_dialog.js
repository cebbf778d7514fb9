// Asks for the API key where the gateway wants one.

import { knownKey, useKey } from "./api.js";
import { byId } from "./element.js";

/** Args: `onKey` is called when there is another key. */
export class KeyDialog {
  constructor(onKey) {
    this.dialog = byId("key-dialog");
    this.form = byId("key-form");
    this.opener = byId("open-key");
    this.opener.addEventListener("click", () => this.open(""));
    this.opener.hidden = !knownKey();
    byId("key-cancel").addEventListener("click", () => this.dialog.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      useKey(this.form.elements.key.value.trim());
      this.form.reset();
      this.dialog.close();
      onKey();
    });
  }

  /** The gateway refused the key, or wants one. */
  refused() {
    this.opener.hidden = false;
    this.open(knownKey() ? "This key is not known here." : "");
  }

  open(wrong) {
    if (this.dialog.open) return;
    byId("key-wrong").textContent = wrong;
    this.dialog.showModal();
  }
}
