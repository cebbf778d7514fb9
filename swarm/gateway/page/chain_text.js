// Chains as the gateway's header `x-swarm-chain` and the stream's comments tell them: `PEER=A:B, PEER=B:C`.

const COMMENT = "x-swarm-chain: ";

/** The hops `{peer, start, end}` of a header; empty if there is none. */
export function parseChain(text) {
  return (text || "")
    .split(", ")
    .map((hop) => /^(.+)=(\d+):(\d+)$/.exec(hop))
    .filter((found) => found)
    .map(([, peer, start, end]) => ({ peer, start: Number(start), end: Number(end) }));
}

/** The chain that a comment tells; null if it is about something else. */
export function chainOfComment(comment) {
  return comment.startsWith(COMMENT) ? parseChain(comment.slice(COMMENT.length)) : null;
}

/** What differs between two chains: `{start, end, from, to}` for each hop of the new one whose peer is another. */
export function takeovers(before, after) {
  return after
    .map((hop) => ({ hop, old: before.find((old) => old.start < hop.end && hop.start < old.end) }))
    .filter(({ hop, old }) => old && old.peer !== hop.peer)
    .map(({ hop, old }) => ({ start: hop.start, end: hop.end, from: old.peer, to: hop.peer }));
}
