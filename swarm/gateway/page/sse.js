// Server-sent events out of a response's body, comments included (EventSource can neither send a key nor show those).

/** Yields `{event, data, comment}` for each event or comment of the stream. */
export async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) yield parseBlock(block);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseBlock(block) {
  const found = { event: "message", data: "", comment: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const field = line.slice(0, colon);
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (field === "") found.comment = value;
    else if (field === "data") found.data += found.data ? `\n${value}` : value;
    else if (field === "event") found.event = value;
  }
  return found;
}
