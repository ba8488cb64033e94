"use strict";
// What the page says of itself: what was just done, what waits to be sent, how far it went, how far people agree.

const WORDS = { skip: "Skipped", flag: "Flagged" };
const OF_TWO = { "1 > 2": "Answer 1 is better", "2 > 1": "Answer 2 is better", "1 = 2": "A tie" };

// What an entry of the outbox says of its answers.
function wordsOf({ verdict, places }) {
  if (verdict !== "ranked") return WORDS[verdict];
  const words = inWords(places);
  return OF_TWO[words] ?? words;
}

// A label that the server will never take is said, and stays on this device until it was read.
function told(entry) {
  const { number, order } = entry.body;
  const what = entry.path === "/api/undo" ? "An undo" : `“${wordsOf(entry.body)}” for ${order.length > 2 ? "set" : "pair"} ${number}`;
  alert_(`${what} was not taken: ${entry.why}`, () => {
    outbox.refused.names().forEach((name) => outbox.refused.drop(name));
  });
}

let last = "";
function told_(text) {
  last = text;
  changed(trouble);
}

function changed(problem) {
  trouble = problem;
  const waiting = outbox ? outbox.mine().filter(([, entry]) => entry.path === "/api/label").length : 0;
  const others = outbox ? outbox.ofOthers() : [];
  const parts = [last];
  if (trouble && waiting) parts.push(`${trouble} ${waiting} label${waiting > 1 ? "s are" : " is"} kept on this device and sent when it does.`);
  else if (trouble) parts.push(`${trouble} Trying again.`);
  if (others.length) parts.push(`This device holds labels of ${others.join(", ")}: sign in as ${others[0]} to send them.`);
  if (outbox && waiting && !outbox.shelf.lasting) parts.push("This browser keeps nothing: leave the page open until they are sent.");
  at("status").textContent = parts.filter(Boolean).join(" ");
  at("status").dataset.unsent = outbox ? outbox.mine().length : 0;
  at("status").classList.toggle("trouble", Boolean(trouble));
}

const say = (problem) => changed(problem);

function alert_(text, then) {
  at("alert").replaceChildren(...(text ? [text] : []));
  if (text && then) {
    const button = node("button", "plain", "dismiss");
    button.type = "button";
    button.addEventListener("click", () => {
      then();
      alert_("");
    });
    at("alert").append(" ", button);
  }
}

function counted(progress) {
  const { total, labelled, mine, flagged } = progress;
  at("progress").max = Math.max(total, 1);
  at("progress").value = labelled;
  const aside = flagged ? `, ${flagged} flagged` : "";
  at("counted").textContent = `${labelled} of ${total} pairs done${aside} · ${mine} label${mine === 1 ? "" : "s"} by you`;
}

function teamNodes({ annotators, agreement }) {
  const head = node("tr", "", ["", "decided", "ties", "skipped", "flagged"].map((text) => node("th", "", text)));
  const rows = annotators.map((row) => node("tr", "", [
    node("td", "", [node("bdi", "", row.name)]),
    ...[row.a + row.b, row.tie, row.skip, row.flag].map((count) => node("td", "", String(count))),
  ]));
  const table = node("table", "", [node("thead", "", [head]), node("tbody", "", rows)]);
  const lines = agreement.measures.map((row) => node("li", "", `${row.name}: ${interval(row)}`));
  const words = agreement.n_pairs
    ? `${agreement.n_pairs} pair${agreement.n_pairs > 1 ? "s" : ""} with labels of two or more. 1 is full agreement, 0 what chance gives; in brackets the 95% interval.`
    : "No pair has two labels yet, so agreement is not known.";
  return [table, node("h2", "", "Agreement"), node("p", "soft small", words), node("ul", "", lines)];
}

const fixed = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
function interval({ value, low, high }) {
  if (value === null) return "cannot be said (everybody says the same of everything)";
  return low === null ? fixed(value) : `${fixed(value)} [${fixed(low)}, ${fixed(high)}]`;
}
