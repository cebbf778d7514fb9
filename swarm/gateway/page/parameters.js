// How the next answer is to be written. Kept in this browser; prompts and answers are not.

import { byId } from "./element.js";

const STORED = "parameters";
const DEFAULT_TOKENS = 256;

/** The form of parameters, as it was left. */
export class Parameters {
  constructor() {
    this.root = byId("parameters");
    this.fields = [...this.root.querySelectorAll("[name]")];
    this.restore();
    this.root.addEventListener("input", () => this.store());
    byId("reset").addEventListener("click", () => this.reset());
    // Enter belongs to the message: here it would send it
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.tagName === "INPUT") event.preventDefault();
    });
  }

  /** What the model cannot do is not offered. */
  fit(model) {
    byId("system-field").hidden = !model.chat;
    if (model.positions) this.field("max_tokens").max = model.positions;
  }

  /** Whether all can be sent; the first that cannot is shown, with the browser's own words about it. */
  check() {
    const wrong = this.fields.find((field) => !field.validity.valid);
    if (wrong) this.root.open = true;
    return wrong ? wrong.reportValidity() : true;
  }

  /** As the API takes them; fields that are empty are left to the model. */
  values() {
    const found = { max_tokens: DEFAULT_TOKENS };
    for (const field of this.fields) {
      if (field.value === "") continue;
      found[field.name] = field.type === "number" ? Number(field.value) : field.value;
    }
    return found;
  }

  field(name) {
    return this.fields.find((field) => field.name === name);
  }

  store() {
    const values = Object.fromEntries(this.fields.filter((f) => f.value).map((f) => [f.name, f.value]));
    localStorage.setItem(STORED, JSON.stringify(values));
    this.count();
  }

  restore() {
    let values = {};
    try {
      values = JSON.parse(localStorage.getItem(STORED)) || {};
    } catch {
      localStorage.removeItem(STORED);
    }
    for (const field of this.fields) field.value = values[field.name] || "";
    this.count();
  }

  reset() {
    for (const field of this.fields) field.value = "";
    this.store();
  }

  count() {
    const set = this.fields.filter((field) => field.value).length;
    byId("parameters-set").textContent = set ? `${set} set` : "";
  }
}
