"use strict";
// One set of answers at a time: two, of which one key says which is better, or more, which are ranked pick by pick
// (ranking.js). What is decided goes into the outbox (outbox.js) and the next set is shown at once; the outbox sees to it
// that the server gets it.

const SHORTEST_MS = 350; // before that, a key was meant for the set before
const HISTORY = 50;
const TEAM_EVERY_MS = 10_000;

const session = new Shelf("rewardsmith.label.");

// set: on the screen; next: fetched ahead; ranking: of the one on the screen; picks: what was picked of others, by number.
const now = {
  set: null, next: null, ranking: null, picks: new Map(), shownAt: 0, seen: 0, seenSince: 0, raw: false, asking: null,
  done: [], back: null,
};
let outbox = null;
let trouble = "";

// -- which set ----------------------------------------------------------------------------------------------

// Sets that are this tab's business: on the screen, fetched ahead, or decided and still on their way.
const inHand = () => {
  const waiting = outbox ? outbox.mine().map(([, entry]) => entry.body.number).filter(Boolean) : [];
  return [...new Set([now.set?.number, now.next?.number, ...waiting].filter(Boolean))];
};

async function fetchSet() {
  const mine = outbox;
  const answer = await askPatiently("/api/next", { annotator: me.name, holding: inHand() });
  return mine === outbox ? answer : null;
}

// Show the set that was fetched ahead, or the next one there is; then fetch one ahead.
async function forward() {
  if (now.asking) return;
  if (now.next) {
    show(now.next);
    now.next = null;
  }
  const mine = outbox;
  now.asking = mine;
  try {
    while (mine && mine === outbox && (!now.set || !now.next)) {
      const answer = await fetchSet();
      if (answer === null) return;
      counted(answer.progress);
      if (answer.set && !now.set) show(answer.set);
      else if (answer.set) now.next = answer.set;
      else {
        if (!now.set) empty(answer);
        if (now.set) return;
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

function show(set) {
  now.set = set;
  now.ranking = new Ranking(set.answers.length, now.picks.get(set.number));
  now.picks.delete(set.number);
  now.shownAt = performance.now();
  now.seen = 0;
  now.seenSince = document.hidden ? 0 : now.shownAt;
  const two = set.answers.length === 2;
  at("ask").textContent = two ? "Which answer is better?" : "Rank the answers, best first";
  at("verdicts").hidden = !two;
  at("ranking").hidden = two;
  draw();
  only("set");
  at("verdict").hidden = false;
  window.scrollTo(0, 0);
  at("ask").focus({ preventScroll: true });
  enable();
  delete at("set").dataset.ready;
  at("set").removeAttribute("aria-busy");
  setTimeout(() => { if (now.set === set) at("set").dataset.ready = ""; }, SHORTEST_MS + 10);
}

// What is on the screen is decided: it takes no key any more.
function clear() {
  now.set = null;
  delete at("set").dataset.ready;
  at("set").setAttribute("aria-busy", "true");
}

function draw() {
  drawSet(now.set, now.raw, pick);
  drawPlaces(now.ranking);
}

function empty({ waiting, progress }) {
  at("empty-head").textContent = waiting ? "Others have the last pairs" : "Nothing left to label";
  at("empty-why").textContent = waiting
    ? "Each pair that is left is before somebody else just now. Should one come back, it appears here."
    : progress.total ? "Every pair has the labels it needs. Should more be proposed, they appear here." : "No pair has been proposed yet. They appear here when there are some.";
  at("empty-undo").hidden = !now.done.length;
  delete at("set").dataset.number;
  const was = at("empty").hidden;
  only("empty");
  at("verdict").hidden = false;
  if (was) at("empty-head").focus({ preventScroll: true });
  enable();
}

// -- deciding -----------------------------------------------------------------------------------------------

const tooSoon = () => !now.set || performance.now() - now.shownAt < SHORTEST_MS;

function decide(verdict, places, note = "") {
  if (tooSoon()) return;
  const { set } = now;
  const body = {
    key: newKey(),
    annotator: me.name,
    number: set.number,
    verdict,
    ...(places && { places }),
    order: set.order,
    seconds: Math.round(seenMs() / 10) / 100,
    at: Date.now() / 1000,
    note,
  };
  remember({ key: body.key, number: set.number, picks: now.ranking.picks }, set);
  clear();
  outbox.add("/api/label", body);
  told_(`${wordsOf(body)}.`);
  forward();
  enable();
}

const better = (places) => decide("ranked", places); // of two

function pick(answer) {
  if (tooSoon()) return;
  const { ranking } = now;
  const isTie = ranking.tie;
  if (ranking.pick(answer)) ranked(`Answer ${answer + 1}: ${ordinal(ranking.places[answer])}${isTie ? ", a tie" : ""}.`);
  else if (ranking.has(answer)) ranked(`Answer ${answer + 1} has its place. Backspace takes the last pick back.`);
}

function tie() {
  if (tooSoon()) return;
  if (now.ranking.toggleTie()) ranked(now.ranking.tie ? "The next pick is a tie with the last one." : "No tie.");
  else ranked(now.ranking.whole ? "Every answer has its place." : "Pick an answer first, then its tie.");
}

function back() {
  if (tooSoon()) return;
  if (now.ranking.back()) ranked("Taken back.");
}

function send() {
  if (tooSoon()) return;
  const { whole, left, places } = now.ranking;
  if (whole) decide("ranked", places);
  else ranked(`No place yet: ${left.length > 1 ? "answers" : "answer"} ${left.map((answer) => answer + 1).join(", ")}.`);
}

// Say what changed, and show the places.
function ranked(text) {
  drawPlaces(now.ranking);
  told_(text);
}

// Done things by key, so that they can be undone; the last set itself, to show it again at once.
function remember(entry, set) {
  now.done = [...now.done, entry].slice(-HISTORY);
  now.back = { key: entry.key, set };
  session.put(`done.${server.project}.${me.name}`, now.done);
}

function undo() {
  const last = now.done.at(-1);
  if (!last || !outbox) return;
  now.done = now.done.slice(0, -1);
  session.put(`done.${server.project}.${me.name}`, now.done);
  const again = now.back?.key === last.key ? now.back.set : null;
  now.back = null;
  // The set on the screen becomes the next one; what was fetched ahead of it goes back to the others.
  if (now.set) {
    if (now.next) release([now.next.number]);
    aside();
  }
  now.picks.set(last.number, last.picks);
  clear();
  outbox.add("/api/undo", { key: last.key, annotator: me.name, number: last.number });
  told_("Undone. Decide it again.");
  if (again) show(again);
  else if (now.next) forward();
  enable();
}

// Another set goes first: this one is the next, with what was picked of it.
function aside() {
  now.picks.set(now.set.number, now.ranking.picks);
  now.next = now.set;
}

function kept(entry, answer) {
  if (answer.progress) counted(answer.progress);
  if (entry.path === "/api/undo" && answer.set && !inHand().includes(answer.set.number)) {
    // It is not in this page (any more, or decided anew and on its way): the server gave it again.
    if (now.set && !now.next) aside();
    show(answer.set);
  }
  if (entry.path === "/api/label" && !now.set) forward();
}

function refused(entry, error) {
  now.done = now.done.filter((done) => done.key !== entry.body.key);
  session.put(`done.${server.project}.${me.name}`, now.done);
  told({ ...entry, why: error.message });
  if (!now.set) forward();
  enable();
}

// -- what is on the screen -----------------------------------------------------------------------------------

function only(shown) {
  for (const id of ["sign-in", "set", "empty"]) at(id).hidden = id !== shown;
}

function enable() {
  const has = now.set !== null && !at("set").hidden;
  document.querySelectorAll("#verdicts button, #ranking button, #skip, #flag").forEach((button) => { button.disabled = !has; });
  if (has) drawPlaces(now.ranking);
  at("raw").disabled = !has;
  at("undo").disabled = !now.done.length || !at("sign-in").hidden;
  at("empty-undo").hidden = !now.done.length;
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

// -- keys, time, leaving ------------------------------------------------------------------------------------

const seenMs = () => now.seen + (now.seenSince ? performance.now() - now.seenSince : 0);

function openFlag() {
  if (!now.set) return;
  at("flag-note").value = "";
  at("flag-box").showModal();
}

function toggleRaw() {
  now.raw = !now.raw;
  at("raw").setAttribute("aria-pressed", String(now.raw));
  if (now.set) draw();
}

const OF_TWO_KEYS = { 1: () => better([1, 2]), 2: () => better([2, 1]), 0: () => better([1, 1]) };
const OF_MORE_KEYS = { 0: tie, "=": tie, backspace: back, enter: send };
for (let digit = 1; digit <= 9; digit += 1) OF_MORE_KEYS[digit] = () => pick(digit - 1);
const KEYS = {
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
  const name = event.key.toLowerCase();
  const act = { ...KEYS, ...(now.set?.answers.length > 2 ? OF_MORE_KEYS : OF_TWO_KEYS) }[name];
  if (!act || (name === "enter" && event.target.closest("button, summary, a"))) return;
  event.preventDefault();
  act();
});

document.querySelectorAll("#verdicts button").forEach((button) => {
  button.addEventListener("click", OF_TWO_KEYS[button.getAttribute("aria-keyshortcuts")]);
});
at("tie").addEventListener("click", tie);
at("back").addEventListener("click", back);
at("send").addEventListener("click", send);
at("skip").addEventListener("click", KEYS.s);
at("flag").addEventListener("click", openFlag);
at("flag-cancel").addEventListener("click", () => at("flag-box").close());
at("flag-form").addEventListener("submit", () => decide("flag", null, at("flag-note").value.trim()));
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

// Who reads keeps the set: without this, a lease runs out and somebody else gets it.
let renewed = performance.now();
setInterval(() => {
  const held = inHand();
  if (!outbox || !held.length || document.hidden || performance.now() - renewed < (1000 * server.leaseSeconds) / 3) return;
  renewed = performance.now();
  ask("/api/renew", { annotator: me.name, holding: held }).catch(() => {});
}, 2000);

function release(numbers) {
  if (numbers.length) ask("/api/release", { annotator: me.name, holding: numbers }, { keepalive: true }).catch(() => {});
}

function giveBack() {
  release([now.set?.number, now.next?.number].filter(Boolean));
}

window.addEventListener("pagehide", () => { if (outbox) giveBack(); });
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
window.addEventListener("beforeunload", (event) => {
  if (outbox && !outbox.shelf.lasting && outbox.mine().length) event.preventDefault();
});
window.addEventListener("online", () => outbox?.send());

begin();
