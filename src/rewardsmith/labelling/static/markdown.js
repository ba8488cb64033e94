"use strict";
// Markdown as nodes. Texts here are untrusted: they become text nodes, never markup, and no attribute but a link's
// address comes from them. Every step is linear in the text, or bounded, whatever the text is made of.
//
// Known: paragraphs (line breaks are kept), headings, lists, quotes, fenced and indented code, tables, rules;
// `code`, **strong**, *emphasis*, ~~deleted~~, [links](https://...), addresses. HTML is shown as it is written,
// pictures are named and not loaded, formulas are left as they are.

const DEEPEST = 12; // quotes and lists inside one another
const MOST_BLOCKS = 2000; // side by side: what follows is shown as it was written
const MOST_SHOWN = 100_000; // characters of one turn; the rest is behind a button
const MOST_COLUMNS = 40;
const LONGEST_ADDRESS = 2000;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}>[ \t]?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)|$)/;
const DASHES = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
// What is not seen, yet changes what is read: controls, marks that turn the direction, and letters without a shape.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/u;
const UNSEEN_RUNS = new RegExp(`((?:${UNSEEN.source})+)`, "u");

// `inside`: a text, or nodes. One by one, for a text may become more nodes than a call takes arguments.
const node = (tag, name = "", inside = []) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  for (const part of typeof inside === "string" ? [inside] : inside) made.append(part);
  return made;
};

// The text without the letters at its end that are among `some`.
const withoutEnd = (text, some) => {
  let end = text.length;
  while (end && some.includes(text[end - 1])) end -= 1;
  return text.slice(0, end);
};

// Text as nodes; characters that cannot be seen are shown by their number.
function plainText(text) {
  if (!UNSEEN.test(text)) return [document.createTextNode(text)];
  return text.split(UNSEEN_RUNS).filter(Boolean).map((part) => {
    if (!UNSEEN.test(part)) return document.createTextNode(part);
    const letters = [...part];
    const numbers = letters.slice(0, 3).map((c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
    if (letters.length > 3) numbers.push(`and ${letters.length - 3} more`);
    const mark = node("span", "unseen", numbers.join(" "));
    mark.title = "characters that cannot be seen";
    return mark;
  });
}

// -- blocks -------------------------------------------------------------------------------------------------

function blocksOf(lines, depth = 0) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) {
      at += 1;
      continue;
    }
    if (found.length === MOST_BLOCKS) {
      found.push(node("p", "", plainText(lines.slice(at).join("\n"))));
      break;
    }
    const taken = depth < DEEPEST ? block(lines, at, depth) : null;
    const [made, next] = taken ?? paragraph(lines, at, depth);
    found.push(made);
    at = next;
  }
  return found;
}

function block(lines, at, depth) {
  const line = lines[at];
  const fence = line.length < 500 ? FENCE.exec(line) : null;
  if (fence) return fenced(lines, at, fence);
  if (HEADING.test(line)) return heading(line, at);
  if (line.length < 500 && RULE.test(line)) return [node("hr"), at + 1];
  if (QUOTE.test(line)) return quoted(lines, at, depth);
  if (ITEM.test(line)) return listed(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  if (/^(?: {4}|\t)/.test(line)) return indented(lines, at);
  return null;
}

const begins = (lines, at) =>
  QUOTE.test(lines[at]) || HEADING.test(lines[at]) || ITEM.test(lines[at]) ||
  (lines[at].length < 500 && (FENCE.test(lines[at]) || RULE.test(lines[at]))) || isTable(lines, at);

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !(depth < DEEPEST && begins(lines, end))) end += 1;
  return [node("p", "", inlinesOf(lines.slice(at, end).join("\n").trim())), end];
}

function fenced(lines, at, [, marks, language]) {
  let end = at + 1;
  const closes = (line) => line.length < 500 && line.trim().length >= marks.length &&
    [...line.trim()].every((c) => c === marks[0]) && /^ {0,3}\S/.test(line);
  while (end < lines.length && !closes(lines[end])) end += 1;
  return [code(lines.slice(at + 1, end).join("\n"), language), end + 1];
}

function indented(lines, at) {
  let end = at;
  while (end < lines.length && (/^(?: {4}|\t)/.test(lines[end]) || !lines[end].trim())) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(/^(?: {4}|\t)/, ""));
  return [code(inside.join("\n").trimEnd(), ""), end];
}

function code(text, language) {
  const box = node("pre", "", [node("code", "", plainText(text))]);
  box.tabIndex = 0; // it scrolls sideways: the keyboard must reach it
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", language ? `code, ${language.slice(0, 40)}` : "code");
  return box;
}

function heading(line, at) {
  const marks = HEADING.exec(line)[1].length;
  let text = line.trim().slice(marks).trim();
  const closing = text.length - withoutEnd(text, "#").length;
  if (closing && (closing === text.length || text[text.length - closing - 1] === " ")) text = text.slice(0, -closing);
  // The page's own headings are of levels 1 and 2.
  return [node(`h${Math.min(6, 2 + marks)}`, "", inlinesOf(text.trim())), at + 1];
}

function quoted(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [node("blockquote", "", blocksOf(inside, depth + 1)), end];
}

function listed(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = first[2].length > 1;
  const list = node(ordered ? "ol" : "ul");
  if (ordered && Number.parseInt(first[2], 10) !== 1) list.start = Number.parseInt(first[2], 10);
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || (item[2].length > 1) !== ordered || (!ordered && item[2] !== first[2])) break;
    if (lines[end].length < 500 && RULE.test(lines[end])) break;
    const [inside, next] = itemLines(lines, end, item);
    const blocks = blocksOf(inside, depth + 1);
    // An item of one paragraph is set without a paragraph's space.
    const tight = blocks.length && blocks[0].tagName === "P" ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks;
    list.append(node("li", "", tight));
    end = next;
  }
  return [list, end];
}

// The lines of one item without its indent, and where the next one begins.
function itemLines(lines, at, item) {
  const indent = item[1].length + item[2].length + Math.min((item[3] ?? " ").length, 4);
  const inside = [lines[at].slice(item[0].length)];
  const isDeep = (line) => /^[ \t]/.test(line) && line.length - line.trimStart().length >= Math.min(indent, 2);
  let end = at + 1;
  while (end < lines.length) {
    const line = lines[end];
    if (!line.trim()) {
      let after = end + 1;
      while (after < lines.length && !lines[after].trim()) after += 1;
      if (after >= lines.length) return [inside, after];
      if (!isDeep(lines[after])) return [inside, ITEM.test(lines[after]) ? after : end];
      for (; end < after; end += 1) inside.push("");
    } else if (isDeep(line)) {
      inside.push(line.slice(Math.min(indent, line.length - line.trimStart().length)));
      end += 1;
    } else if (begins(lines, end)) {
      break;
    } else {
      inside.push(line);
      end += 1;
    }
  }
  return [inside, end];
}

function isTable(lines, at) {
  const [head, dashes] = [lines[at], lines[at + 1]];
  if (dashes === undefined || !head.includes("|") || !dashes.includes("-") || dashes.length > 2000) return false;
  if (!DASHES.test(dashes)) return false;
  const columns = cells(dashes).length;
  return columns <= MOST_COLUMNS && cells(head).length === columns;
}

function cells(line) {
  const found = [""];
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  for (let i = 0; i < inner.length; i += 1) {
    if (inner[i] === "\\" && inner[i + 1] === "|") {
      found[found.length - 1] += "|";
      i += 1;
    } else if (inner[i] === "|") found.push("");
    else found[found.length - 1] += inner[i];
  }
  return found.map((cell) => cell.trim());
}

function table(lines, at) {
  const columns = cells(lines[at]).length;
  const row = (line, tag) => {
    const given = cells(line);
    const made = Array.from({ length: columns }, (_, c) => node(tag, "", inlinesOf(given[c] ?? "")));
    if (tag === "th") made.forEach((cell) => { cell.scope = "col"; });
    return node("tr", "", made);
  };
  let end = at + 2;
  while (end < lines.length && lines[end].trim() && lines[end].includes("|")) end += 1;
  const body = node("tbody", "", lines.slice(at + 2, end).map((line) => row(line, "td")));
  const box = node("div", "scroll", [node("table", "", [node("thead", "", [row(lines[at], "th")]), body])]);
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "table");
  return [box, end];
}

// -- inside a line ------------------------------------------------------------------------------------------

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const isSpace = (c) => c === undefined || /\s/.test(c);
const isWord = (c) => c !== undefined && !isSpace(c) && !/[\p{P}\p{S}]/u.test(c);
const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };

function inlinesOf(text) {
  const done = []; // nodes so far
  const open = []; // marks that may still be closed: {mark, at}
  const runs = codeRuns(text);
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) for (const part of plainText(plain)) done.push(part);
    plain = "";
  };
  const wrap = (from, made) => {
    flush();
    for (const part of done.splice(from + 1)) made.append(part);
    done[from] = made;
    while (open.length && open.at(-1).at >= from) open.pop();
  };
  const find = (mark) => {
    for (let n = open.length - 1; n >= 0 && n >= open.length - 50; n -= 1) if (open[n].mark === mark) return open[n];
    return null;
  };
  const push = (mark, shown) => {
    flush();
    open.push({ mark, at: done.length });
    done.push(document.createTextNode(shown));
  };
  while (at < text.length) {
    const c = text[at];
    if (c === "\\" && at + 1 < text.length && PUNCTUATION.test(text[at + 1])) {
      plain += text[at + 1];
      at += 2;
    } else if (c === "`") {
      const length = runLength(text, at, "`");
      const close = runs.after(length, at + length);
      if (close === null) {
        plain += text.slice(at, at + length);
        at += length;
      } else {
        flush();
        const inside = text.slice(at + length, close).replaceAll("\n", " ");
        const bare = inside.length > 2 && inside.startsWith(" ") && inside.endsWith(" ") && inside.trim();
        done.push(node("code", "", plainText(bare ? inside.slice(1, -1) : inside)));
        at = close + length;
      }
    } else if (c === "*" || c === "_" || c === "~") {
      const length = runLength(text, at, c);
      const [before, after] = [text[at - 1], text[at + length]];
      let left = length;
      const inWord = c === "_" && isWord(before) && isWord(after);
      const usable = !inWord && length <= 3 && (c !== "~" || length === 2);
      if (usable && !isSpace(before)) {
        for (const mark of [c.repeat(2), c]) {
          const opener = left >= mark.length && TAGS[mark] ? find(mark) : null;
          if (opener && (opener.at < done.length - 1 || plain)) {
            wrap(opener.at, node(TAGS[mark]));
            left -= mark.length;
          }
        }
      }
      if (usable && left && !isSpace(after)) {
        const marks = c === "~" ? (left === 2 ? ["~~"] : []) : left === 3 ? [c, c.repeat(2)] : [c.repeat(left)];
        marks.forEach((mark) => push(mark, mark));
        if (!marks.length) plain += c.repeat(left);
      } else plain += c.repeat(left);
      at += length;
    } else if (c === "[" || (c === "!" && text[at + 1] === "[")) {
      push(c === "[" ? "[" : "![", c === "[" ? "[" : "![");
      at += c === "[" ? 1 : 2;
    } else if (c === "]" && text[at + 1] === "(") {
      const target = addressAt(text, at + 2);
      const opener = target && (find("[") || find("!["));
      const picture = target && find("![");
      if (!opener) {
        plain += c;
        at += 1;
      } else if (picture && (!find("[") || picture.at > find("[").at)) {
        wrap(picture.at, node("span", "picture"));
        done[picture.at].prepend("picture, not loaded: ");
        done[picture.at].append(" (", ...plainText(target.address), ")");
        at = target.end;
      } else {
        const link = linked(target.address);
        wrap(opener.at, link);
        if (link.textContent !== target.address) done.push(node("span", "host", plainText(` (${hostOf(target.address)})`)));
        at = target.end;
      }
    } else if (c === "h" && !isWord(text[at - 1]) && /^https?:\/\/[^\s<>]/.test(text.slice(at, at + 10))) {
      const whole = /^[^\s<>"`]+/.exec(text.slice(at, at + LONGEST_ADDRESS))[0];
      const address = withoutEnd(whole, ".,;:!?'*_~)]");
      flush();
      const link = linked(address);
      link.append(...plainText(address));
      done.push(link);
      at += address.length;
    } else {
      plain += c;
      at += 1;
    }
  }
  flush();
  return done;
}

const runLength = (text, at, c) => {
  let end = at;
  while (text[end] === c) end += 1;
  return end - at;
};

// Where runs of backticks stand, by length: each position is looked at once.
function codeRuns(text) {
  const found = new Map();
  for (const run of text.matchAll(/`+/g)) {
    if (!found.has(run[0].length)) found.set(run[0].length, { at: 0, places: [] });
    found.get(run[0].length).places.push(run.index);
  }
  return {
    after(length, from) {
      const runs = found.get(length);
      if (!runs) return null;
      while (runs.at < runs.places.length && runs.places[runs.at] < from) runs.at += 1;
      return runs.places[runs.at] ?? null;
    },
  };
}

// The address in (address "title") that begins at `from`, and where it ends.
function addressAt(text, from) {
  const within = text.slice(from, from + LONGEST_ADDRESS);
  const found = /^\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)?)>?(?:\s+"[^"]{0,200}")?\s*\)/.exec(within);
  return found && found[1] ? { address: found[1], end: from + found[0].length } : null;
}

// Where a link leads, in a few words: its text may say something else.
function hostOf(address) {
  try {
    return new URL(address).host || address;
  } catch {
    return address;
  }
}

// A link that leads out tells nobody where it came from; every other address is shown and leads nowhere.
function linked(address) {
  let url = null;
  try {
    url = new URL(address);
  } catch {
    // no address of its own
  }
  if (!url || !["http:", "https:"].includes(url.protocol)) {
    const dead = node("span", "dead");
    dead.title = address;
    return dead;
  }
  const link = node("a");
  link.href = url.href;
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  link.referrerPolicy = "no-referrer";
  link.title = address;
  return link;
}

// -- the whole ----------------------------------------------------------------------------------------------

// One text as a box. `raw`: as it was written, without markdown.
function shownText(text, raw) {
  const whole = text.replace(/\r\n?/g, "\n");
  const start = whole.length > MOST_SHOWN ? whole.slice(0, MOST_SHOWN) : whole;
  const box = node("div", raw ? "md raw" : "md");
  box.dir = "auto";
  const fill = (part) => {
    box.replaceChildren();
    for (const made of raw ? plainText(part) : blocksOf(part.split("\n"))) box.append(made);
  };
  if (!whole.trim()) {
    box.append(node("p", "soft", [node("i", "", "(empty)")]));
    return box;
  }
  fill(start);
  if (start.length < whole.length) {
    const more = node("button", "more", `Show the other ${(whole.length - start.length).toLocaleString("en")} characters`);
    more.type = "button";
    more.addEventListener("click", () => fill(whole));
    box.append(more);
  }
  return box;
}
