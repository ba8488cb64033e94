"use strict";
// One pair at a time. What is decided goes into the outbox (outbox.js) and the next pair is shown at once; the outbox
// sees to it that the server gets it. Texts are shown by markdown.js, which makes no markup of them.

const SHORTEST_MS = 350; // before that, a key was meant for the pair before
const MOST_FOLDED = 4; // turns of a prompt; of a longer one the earlier turns are folded
const HISTORY = 50;
const TEAM_EVERY_MS = 10_000;
const WORDS = { left: "Answer 1 is better", right: "Answer 2 is better", tie: "A tie", skip: "Skipped", flag: "Flagged" };

const at = (id) => document.getElementById(id);
const session = new Shelf("rewardsmith.label.");

const me = { key: "", name: "" };
const server = { project: "", needsKey: false, leaseSeconds: 600 };
const now = { pair: null, next: null, shownAt: 0, seen: 0, seenSince: 0, raw: false, asking: null, done: [], back: null };
let outbox = null;
let trouble = "";

// -- the server ---------------------------------------------------------------------------------------------

async function ask(path, body, more = {}) {
  const headers = { "content-type": "application/json" };
  if (me.key) headers.authorization = `Bearer ${me.key}`;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(path, { ...options, ...more, signal: more.keepalive ? undefined : AbortSignal.timeout(20_000) });
  } catch {
    throw new Error("The server does not answer.");
  }
  let answer = null;
  try {
    answer = await reply.json();
  } catch {
    // a proxy's page, or an answer that broke off
  }
  if (reply.ok && answer !== null) return answer;
  const error = new Error(answer?.error?.message ?? `The server answers ${reply.status}.`);
  error.status = reply.ok ? 502 : reply.status;
  error.retryAfter = Number(reply.headers.get("retry-after")) || 0;
  throw error;
}

// Asked until it is answered, or refused for good.
async function askPatiently(path, body) {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      const answer = await ask(path, body);
      say("");
      return answer;
    } catch (error) {
      if (error.status && !AGAIN.has(error.status)) throw error;
      say(error.message);
      await sleep(Math.max(pause * (0.5 + Math.random() / 2), 1000 * (error.retryAfter ?? 0)));
    }
  }
}

// -- who ----------------------------------------------------------------------------------------------------

async function begin() {
  at("loading").hidden = true;
  try {
    me.key = sessionStorage.getItem("rewardsmith.key") ?? "";
  } catch {
    // asked for each time
  }
  let hello;
  try {
    hello = await askPatiently("/api/hello");
  } catch (error) {
    if (error.status !== 401) return alert_(error.message);
    return signIn(true, me.key ? "The server does not know this key." : "");
  }
  server.project = hello.project;
  server.needsKey = hello.needs_key;
  server.leaseSeconds = hello.lease_seconds;
  at("project").textContent = hello.title;
  me.name = hello.annotator ?? session.get("name") ?? "";
  if (!me.name) return signIn(false, "");
  return enter();
}

function signIn(needsKey, problem) {
  at("name-field").hidden = needsKey;
  at("key-field").hidden = !needsKey;
  only("sign-in");
  at("verdict").hidden = false;
  alert_(problem);
  at(needsKey ? "key-input" : "name-input").focus();
}

function enter() {
  alert_("");
  at("name").textContent = me.name;
  at("who").hidden = false;
  at("team").hidden = false;
  outbox?.close();
  outbox = new Outbox(server.project, me.name, ask, { kept, refused, changed, unknown });
  now.done = session.get(`done.${server.project}.${me.name}`) ?? [];
  outbox.send();
  changed("");
  for (const name of outbox.refused.names()) told(outbox.refused.get(name));
  forward();
}

function leave() {
  giveBack();
  outbox?.close();
  outbox = null;
  now.pair = now.next = now.asking = now.back = null;
  me.key = me.name = "";
  session.drop("name");
  try {
    sessionStorage.removeItem("rewardsmith.key");
  } catch {
    // nothing was kept
  }
  at("who").hidden = true;
  at("team").hidden = true;
  begin();
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (at("key-field").hidden) {
    const name = at("name-input").value.trim();
    if (!name) return alert_("Give a name.");
    me.name = name;
    session.put("name", name);
    return enter();
  }
  me.key = at("key-input").value.trim();
  at("key-input").value = "";
  try {
    sessionStorage.setItem("rewardsmith.key", me.key);
  } catch {
    // asked for again after a reload
  }
  return begin();
});
at("leave").addEventListener("click", leave);

// -- which pair ---------------------------------------------------------------------------------------------

// Pairs that are this tab's business: on the screen, fetched ahead, or decided and still on their way.
const inHand = () => {
  const waiting = outbox ? outbox.mine().map(([, entry]) => entry.body.comparison).filter(Boolean) : [];
  return [...new Set([now.pair?.comparison, now.next?.comparison, ...waiting].filter(Boolean))];
};

async function fetchPair() {
  const mine = outbox;
  const answer = await askPatiently("/api/next", { annotator: me.name, holding: inHand() });
  return mine === outbox ? answer : null;
}

// Show the pair that was fetched ahead, or the next one there is; then fetch one ahead.
async function forward() {
  if (now.asking) return;
  if (now.next) {
    show(now.next);
    now.next = null;
  }
  const mine = outbox;
  now.asking = mine;
  try {
    while (mine && mine === outbox && (!now.pair || !now.next)) {
      const answer = await fetchPair();
      if (answer === null) return;
      counted(answer.progress);
      if (answer.pair && !now.pair) show(answer.pair);
      else if (answer.pair) now.next = answer.pair;
      else {
        if (!now.pair) empty(answer);
        if (now.pair) return;
        await sleep(answer.waiting ? 3000 : 10_000);
        if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      }
    }
  } catch (error) {
    if (error.status === 401) unknown();
    else alert_(error.message);
  } finally {
    if (now.asking === mine) now.asking = null;
  }
}

function show(pair) {
  now.pair = pair;
  now.shownAt = performance.now();
  now.seen = 0;
  now.seenSince = document.hidden ? 0 : now.shownAt;
  draw();
  only("pair");
  at("verdict").hidden = false;
  window.scrollTo(0, 0);
  at("ask").focus({ preventScroll: true });
  enable();
  delete at("pair").dataset.ready;
  at("pair").removeAttribute("aria-busy");
  setTimeout(() => { if (now.pair === pair) at("pair").dataset.ready = ""; }, SHORTEST_MS + 10);
}

// What is on the screen is decided: it takes no key any more.
function clear() {
  now.pair = null;
  delete at("pair").dataset.ready;
  at("pair").setAttribute("aria-busy", "true");
}

function draw() {
  const { pair, raw } = now;
  at("pair").dataset.comparison = pair.comparison;
  at("prompt").replaceChildren(...promptNodes(pair.prompt, raw), ...toolNodes(pair.tools));
  at("first").replaceChildren(...turnNodes(pair.left, raw, "assistant"));
  at("second").replaceChildren(...turnNodes(pair.right, raw, "assistant"));
}

function promptNodes(turns, raw) {
  if (!turns.length) return [node("p", "soft", [node("i", "", "(none)")])];
  const usual = turns.length === 1 ? "user" : null;
  if (turns.length <= MOST_FOLDED) return turnNodes(turns, raw, usual);
  const early = turns.slice(0, 1 - MOST_FOLDED);
  const fold = node("details", "", [node("summary", "", `${early.length} earlier turns`), ...turnNodes(early, raw, null)]);
  return [fold, ...turnNodes(turns.slice(1 - MOST_FOLDED), raw, null)];
}

// `usual`: the role that goes without saying where there is one turn.
function turnNodes(turns, raw, usual) {
  return turns.flatMap((turn) => {
    const named = turns.length > 1 || turn.role !== usual;
    const role = named ? [node("p", "role", plainText(turn.role))] : [];
    const more = Object.keys(turn.more).length ? [shownText(JSON.stringify(turn.more, null, 1), true)] : [];
    return [...role, shownText(turn.content, raw), ...more];
  });
}

function toolNodes(tools) {
  if (!tools?.length) return [];
  const title = `${tools.length} tool${tools.length > 1 ? "s" : ""} the answer may use`;
  return [node("details", "", [node("summary", "", title), shownText(JSON.stringify(tools, null, 1), true)])];
}

function empty({ waiting, progress }) {
  at("empty-head").textContent = waiting ? "Others have the last pairs" : "Nothing left to label";
  at("empty-why").textContent = waiting
    ? "Each pair that is left is before somebody else just now. Should one come back, it appears here."
    : progress.total ? "Every pair has the labels it needs. Should more be proposed, they appear here." : "No pair has been proposed yet. They appear here when there are some.";
  at("empty-undo").hidden = !now.done.length;
  delete at("pair").dataset.comparison;
  const was = at("empty").hidden;
  only("empty");
  at("verdict").hidden = false;
  if (was) at("empty-head").focus({ preventScroll: true });
  enable();
}

// -- deciding -----------------------------------------------------------------------------------------------

function decide(verdict, note = "") {
  const pair = now.pair;
  if (!pair || performance.now() - now.shownAt < SHORTEST_MS) return;
  const key = newKey();
  const body = {
    key,
    annotator: me.name,
    comparison: pair.comparison,
    verdict,
    shown: pair.shown,
    seconds: Math.round(seenMs() / 10) / 100,
    at: Date.now() / 1000,
    note,
  };
  remember({ key, comparison: pair.comparison }, pair);
  clear();
  outbox.add("/api/label", body);
  told_(`${WORDS[verdict]}.`);
  forward();
  enable();
}

// Done things by key, so that they can be undone; the last pair itself, to show it again at once.
function remember(entry, pair) {
  now.done = [...now.done, entry].slice(-HISTORY);
  now.back = { key: entry.key, pair };
  session.put(`done.${server.project}.${me.name}`, now.done);
}

function undo() {
  const last = now.done.at(-1);
  if (!last || !outbox) return;
  now.done = now.done.slice(0, -1);
  session.put(`done.${server.project}.${me.name}`, now.done);
  const again = now.back?.key === last.key ? now.back.pair : null;
  now.back = null;
  // The pair on the screen becomes the next one; what was fetched ahead of it goes back to the others.
  if (now.pair) {
    if (now.next) release([now.next.comparison]);
    now.next = now.pair;
  }
  clear();
  outbox.add("/api/undo", { key: last.key, annotator: me.name, comparison: last.comparison });
  told_("Undone. Decide it again.");
  if (again) show(again);
  else if (now.next) forward();
  enable();
}

function kept(entry, answer) {
  if (answer.progress) counted(answer.progress);
  if (entry.path === "/api/undo" && answer.pair && !inHand().includes(answer.pair.comparison)) {
    // It is not in this page (any more, or decided anew and on its way): the server gave it again.
    if (now.pair && !now.next) now.next = now.pair;
    show(answer.pair);
  }
  if (entry.path === "/api/label" && !now.pair) forward();
}

function refused(entry, error) {
  now.done = now.done.filter((done) => done.key !== entry.body.key);
  session.put(`done.${server.project}.${me.name}`, now.done);
  told({ ...entry, why: error.message });
  if (!now.pair) forward();
  enable();
}

// A label that the server will never take is said, and stays on this device until it was read.
function told(entry) {
  const what = entry.path === "/api/undo" ? "An undo" : `“${WORDS[entry.body.verdict]}” for pair ${entry.body.comparison}`;
  alert_(`${what} was not taken: ${entry.why}`, () => {
    outbox.refused.names().forEach((name) => outbox.refused.drop(name));
  });
}

function unknown() {
  signIn(true, "The server no longer knows this key. Your labels wait on this device.");
}

// -- what is said -------------------------------------------------------------------------------------------

function only(shown) {
  for (const id of ["sign-in", "pair", "empty"]) at(id).hidden = id !== shown;
}

function enable() {
  const has = now.pair !== null && !at("pair").hidden;
  document.querySelectorAll("[data-verdict], #flag").forEach((button) => { button.disabled = !has; });
  at("raw").disabled = !has;
  at("undo").disabled = !now.done.length || !at("sign-in").hidden;
  at("empty-undo").hidden = !now.done.length;
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

async function team() {
  if (!at("team").open || document.hidden || !me.name || !outbox) return;
  try {
    const found = await ask("/api/team");
    at("team-body").replaceChildren(...teamNodes(found));
  } catch {
    // the next round asks again
  }
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

// -- keys, time, leaving ------------------------------------------------------------------------------------

const seenMs = () => now.seen + (now.seenSince ? performance.now() - now.seenSince : 0);

function openFlag() {
  if (!now.pair) return;
  at("flag-note").value = "";
  at("flag-box").showModal();
}

function toggleRaw() {
  now.raw = !now.raw;
  at("raw").setAttribute("aria-pressed", String(now.raw));
  if (now.pair) draw();
}

const KEYS = {
  1: () => decide("left"),
  2: () => decide("right"),
  0: () => decide("tie"),
  s: () => decide("skip"),
  f: openFlag,
  u: undo,
  m: toggleRaw,
  "?": () => at("help-box").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !at("sign-in").hidden || !outbox) return;
  if (event.target.closest("input, textarea, select, dialog") || document.querySelector("dialog[open]")) return;
  if (!at("keys-on").checked) return;
  const act = KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

document.querySelectorAll("[data-verdict]").forEach((button) => {
  button.addEventListener("click", () => decide(button.dataset.verdict));
});
at("flag").addEventListener("click", openFlag);
at("flag-cancel").addEventListener("click", () => at("flag-box").close());
at("flag-form").addEventListener("submit", () => decide("flag", at("flag-note").value.trim()));
at("undo").addEventListener("click", undo);
at("empty-undo").addEventListener("click", undo);
at("raw").addEventListener("click", toggleRaw);
at("help").addEventListener("click", () => at("help-box").showModal());
at("keys-on").checked = session.get("keys") ?? true;
at("keys-on").addEventListener("change", () => session.put("keys", at("keys-on").checked));
at("team").addEventListener("toggle", team);
setInterval(team, TEAM_EVERY_MS);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    now.seen = seenMs();
    now.seenSince = 0;
  } else {
    now.seenSince = performance.now();
    outbox?.send();
  }
});

// Who reads keeps the pair: without this, a lease runs out and somebody else gets it.
let renewed = performance.now();
setInterval(() => {
  const held = inHand();
  if (!outbox || !held.length || document.hidden || performance.now() - renewed < (1000 * server.leaseSeconds) / 3) return;
  renewed = performance.now();
  ask("/api/renew", { annotator: me.name, holding: held }).catch(() => {});
}, 2000);

function release(comparisons) {
  if (comparisons.length) ask("/api/release", { annotator: me.name, holding: comparisons }, { keepalive: true }).catch(() => {});
}

function giveBack() {
  release([now.pair?.comparison, now.next?.comparison].filter(Boolean));
}

window.addEventListener("pagehide", () => { if (outbox) giveBack(); });
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
window.addEventListener("beforeunload", (event) => {
  if (outbox && !outbox.shelf.lasting && outbox.mine().length) event.preventDefault();
});
window.addEventListener("online", () => outbox?.send());

begin();
