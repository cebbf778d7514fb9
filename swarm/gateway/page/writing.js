// One answer, from the request to its last token.

import { ask } from "./api.js";
import { chainOfComment, parseChain } from "./chain_text.js";
import { serverEvents } from "./sse.js";

/**
 * Ask for an answer and report what comes to `sink`:
 * `chain(hops)` at the start and whenever peers were replaced, `text(piece)` with each piece of text.
 * Returns `{finish, tokens}`; `tokens` is null where the gateway did not count.
 */
export async function write(model, turns, parameters, sink, signal) {
  const { path, body } = requestOf(model, turns, parameters);
  const response = await ask(path, { body, signal });
  sink.chain(parseChain(response.headers.get("x-swarm-chain")));
  const result = { finish: null, tokens: null };
  for await (const { data, comment } of serverEvents(response)) {
    const hops = comment ? chainOfComment(comment) : null;
    if (hops) sink.chain(hops);
    if (!data || data === "[DONE]") continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) result.tokens = chunk.usage.completion_tokens;
    for (const choice of chunk.choices) {
      const piece = choice.delta ? choice.delta.content : choice.text;
      if (piece) sink.text(piece);
      result.finish = choice.finish_reason || result.finish;
    }
  }
  return result;
}

/** A model without a chat template continues what was written so far as one text. */
function requestOf(model, turns, { system, ...sampling }) {
  const shared = { model: model.name, stream: true, stream_options: { include_usage: true }, ...sampling };
  if (!model.chat) {
    const prompt = turns.map((turn) => turn.text).join("");
    return { path: "v1/completions", body: { ...shared, prompt } };
  }
  const messages = turns.map((turn) => ({ role: turn.role, content: turn.text }));
  if (system) messages.unshift({ role: "system", content: system });
  return { path: "v1/chat/completions", body: { ...shared, messages } };
}
