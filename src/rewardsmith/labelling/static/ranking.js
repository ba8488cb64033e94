"use strict";
// A ranking in the making: answers are picked one after the other, the best first. An answer that is picked as a tie
// shares the place of the pick before. Answers are numbered from 0, from the left on; places from 1.

class Ranking {
  // picks: [{ answer, tie }] in their order.
  constructor(size, picks = []) {
    this.size = size;
    this.picks = [...picks];
    this.tie = false; // whether the next pick is one
  }

  has(answer) {
    return this.picks.some((pick) => pick.answer === answer);
  }

  // Whether the answer got a place: not where it has one.
  pick(answer) {
    if (answer >= this.size || this.has(answer)) return false;
    this.picks.push({ answer, tie: this.tie });
    this.tie = false;
    return true;
  }

  // Whether there is a pick before, and an answer left, for a tie.
  toggleTie() {
    if (!this.picks.length || this.whole) return false;
    this.tie = !this.tie;
    return true;
  }

  // Takes the tie back that waits for its answer, else the last pick; whether there was one.
  back() {
    if (this.tie) {
      this.tie = false;
      return true;
    }
    return this.picks.pop() !== undefined;
  }

  get whole() {
    return this.picks.length === this.size;
  }

  // Answers by place, the best first: [[2], [0, 3], [1]].
  get groups() {
    const found = [];
    for (const { answer, tie } of this.picks) {
      if (tie) found.at(-1).push(answer);
      else found.push([answer]);
    }
    return found;
  }

  // Of each answer, from the left on; null: not picked yet.
  get places() {
    const found = new Array(this.size).fill(null);
    this.groups.forEach((group, place) => group.forEach((answer) => { found[answer] = place + 1; }));
    return found;
  }

  // The place that the next pick takes.
  get next() {
    return this.groups.length + (this.tie ? 0 : 1);
  }

  get left() {
    return [...new Array(this.size).keys()].filter((answer) => !this.has(answer));
  }
}

const ordinal = (n) => `${n}${["th", "st", "nd", "rd"][n] ?? "th"}`; // up to 9th
// "3 > 1 = 4 > 2", from places.
function inWords(places) {
  const last = Math.max(...places);
  return [...new Array(last).keys()]
    .map((place) => places.flatMap((at, answer) => (at === place + 1 ? [answer + 1] : [])).join(" = "))
    .join(" > ");
}
