// A small part of Markdown as elements: paragraphs, headings, lists, code, bold and italics. Everything else, links and
// HTML above all, stays the text that it is.

import { element } from "./element.js";

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)|(\*[^*\s][^*\n]*\*)/g;
const BULLET = /^\s*[-*+]\s+/;
const NUMBER = /^\s*\d+[.)]\s+/;

/** The text as a list of elements. */
export function markdown(text) {
  const lines = text.split("\n");
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const kind = [BULLET, NUMBER].find((mark) => mark.test(line));
    if (line.trim() === "") {
      at += 1;
    } else if (line.startsWith("```")) {
      const end = endOf(lines, at + 1, (one) => one.startsWith("```"));
      made.push(element("pre", { tabindex: "0" }, element("code", {}, lines.slice(at + 1, end).join("\n"))));
      at = end + 1;
    } else if (/^#{1,6}\s/.test(line)) {
      made.push(element("h4", {}, ...inline(line.replace(/^#+\s+/, ""))));
      at += 1;
    } else if (kind) {
      const end = endOf(lines, at, (one) => !kind.test(one));
      const items = lines.slice(at, end).map((one) => element("li", {}, ...inline(one.replace(kind, ""))));
      made.push(element(kind === BULLET ? "ul" : "ol", {}, ...items));
      at = end;
    } else {
      const end = endOf(lines, at + 1, startsBlock);
      made.push(element("p", {}, ...broken(lines.slice(at, end))));
      at = end;
    }
  }
  return made;
}

function endOf(lines, from, ends) {
  const found = lines.slice(from).findIndex(ends);
  return found < 0 ? lines.length : from + found;
}

function startsBlock(line) {
  return line.trim() === "" || line.startsWith("```") || /^#{1,6}\s/.test(line) || BULLET.test(line) || NUMBER.test(line);
}

/** Lines of one paragraph, with the breaks that they have. */
function broken(lines) {
  return lines.flatMap((line, i) => (i ? [element("br"), ...inline(line)] : inline(line)));
}

function inline(text) {
  const made = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    made.push(text.slice(at, match.index));
    const [found, code, bold] = match;
    if (code) made.push(element("code", {}, found.slice(1, -1)));
    else if (bold) made.push(element("strong", {}, found.slice(2, -2)));
    else made.push(element("em", {}, found.slice(1, -1)));
    at = match.index + found.length;
  }
  return [...made, text.slice(at)].filter((part) => part !== "");
}
