"use strict";
// A set of answers on the screen: texts by markdown.js, which makes no markup of them; places by ranking.js.

const MOST_FOLDED = 4; // turns of a prompt; of a longer one the earlier turns are folded

const at = (id) => document.getElementById(id);

// The prompt and the answers. `pick(answer)` is called when an answer's own button is pressed, where there are more than
// two.
function drawSet(set, raw, pick) {
  document.body.dataset.answers = set.answers.length;
  at("set").dataset.number = set.number;
  at("prompt").replaceChildren(...promptNodes(set.prompt, raw), ...toolNodes(set.tools));
  at("answers").replaceChildren(...set.answers.map((turns, answer) => {
    const head = node("h2", "", `Answer ${answer + 1}`);
    head.id = `head-${answer + 1}`;
    const text = node("div", "", turnNodes(turns, raw, "assistant"));
    text.id = `answer-${answer + 1}`;
    const top = node("div", "top", set.answers.length > 2 ? [head, pickButton(answer, pick)] : [head]);
    const shown = node("article", "answer", [top, text]);
    shown.setAttribute("aria-labelledby", head.id);
    return shown;
  }));
}

function pickButton(answer, pick) {
  const button = node("button", "pick", [node("kbd", "", String(answer + 1)), " ", node("span")]);
  button.type = "button";
  button.setAttribute("aria-keyshortcuts", String(answer + 1));
  button.addEventListener("click", (event) => {
    pick(answer);
    if (event.detail) at("ask").focus({ preventScroll: true }); // pressed by hand: Enter is to send, not to press again
  });
  return button;
}

// The places so far: on each answer's button, and in one line.
function drawPlaces(ranking) {
  const { places, whole, tie } = ranking;
  const next = `${tie ? "Tie at" : "Pick as"} ${ordinal(ranking.next)}`;
  document.querySelectorAll(".pick").forEach((button, answer) => {
    const place = places[answer];
    const shares = places.filter((other) => other === place).length > 1;
    const said = place === null ? next : `${ordinal(place)}${shares ? ", a tie" : ""}`;
    button.querySelector("span").textContent = said;
    button.setAttribute("aria-label", `Answer ${answer + 1}: ${said.toLowerCase()}`);
    button.setAttribute("aria-pressed", String(place !== null));
    button.closest(".answer").classList.toggle("placed", place !== null);
  });
  at("so-far").textContent = soFar(ranking);
  at("tie").setAttribute("aria-pressed", String(tie));
  at("tie").disabled = !ranking.picks.length || whole;
  at("back").disabled = !ranking.picks.length;
  at("send").disabled = !whole;
}

function soFar({ picks, places, whole, tie, left }) {
  if (!picks.length) return "Pick the best answer first.";
  const words = inWords(places.map((place) => place ?? 0));
  if (whole) return `${words}. Send it, or take the last pick back.`;
  return `${words} ${tie ? "=" : ">"} … (left: ${left.map((answer) => answer + 1).join(", ")})`;
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
