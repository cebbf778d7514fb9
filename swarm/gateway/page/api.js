// Requests to this gateway, with the key of this tab if there is one.

const KEY = "api-key";

/** What the gateway said instead of an answer; `status` 0: it could not be reached. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function knownKey() {
  return sessionStorage.getItem(KEY);
}

export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** The response to a request. Throws `Refused`, or an AbortError when `signal` says so. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (knownKey()) headers.authorization = `Bearer ${knownKey()}`;
  if (body) headers["content-type"] = "application/json";
  const options = { headers, signal, cache: "no-store", credentials: "omit" };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the gateway cannot be reached");
  }
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the gateway answered ${response.status}`;
  }
}
