"""People label in a real browser while the server is killed again and again: is a label lost, or kept twice?

    python benchmarks/labelling_faults.py [--labels 200] [--answers 2] [--annotators 3] [--kills 5] [--output FILE.json]

Each annotator has a page in a headless Chromium and presses keys: mostly verdicts, now and then undo and a verdict
anew. With --answers K above 2 each verdict is a ranking of K answers, pick by pick, with ties and picks taken back; it
is K (K - 1) / 2 labels in the store. Most sets want one verdict, some (--shared) one of each annotator. The server gets
SIGKILL at moments spread over the run, stays away for up to --away seconds, and is started again on the same port;
meanwhile one page after the other is closed and opened anew. A ledger notes what was pressed for which answer, by the
text that stood on the screen. At the end the store must hold exactly that:

lost      a label that was pressed, and is not in the store
wrong     in the store with another verdict than was pressed
doubled   kept twice for one press, or a pair with more labels than it wants
again     pressed for a set that the same person had decided and not undone: it was shown once too often
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from rewardsmith.data.schema import Message
from rewardsmith.refresh.project import init_project, open_project
from rewardsmith.refresh.rankings import n_pairs
from rewardsmith.refresh.records import Comparison, NewComparison, NewPrompt, NewResponse

LETTERS = "abcdefghi"
UNDO_EVERY = 12  # presses, about
TIE_SHARE = 0.25  # of the picks
TAKEN_BACK_SHARE = 0.1
PATIENCE_S = 15.0  # with the driver
STATE = """() => {
  const set = document.getElementById("set");
  if (!document.getElementById("empty").hidden) return { empty: document.getElementById("empty-head").textContent };
  if (set.hidden || set.dataset.ready === undefined) return {};
  const texts = [...document.querySelectorAll("#answers .answer > div:last-child")];
  return { number: Number(set.dataset.number), letters: texts.map((text) => text.textContent[0]) };
}"""
UNSENT = "() => Number(document.getElementById('status').dataset.unsent || 0)"


@dataclass
class Ledger:
    """What was pressed: (annotator, number of the set) -> the place of each letter."""

    held: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    presses: int = 0
    undone: int = 0
    reloads: int = 0


class Server:
    """`rewardsmith refresh label`, started and killed."""

    def __init__(self, project: Path, port: int) -> None:
        self.command = [sys.executable, "-m", "rewardsmith.cli", "refresh", "label", str(project), "--port", str(port)]
        self.address = f"http://127.0.0.1:{port}/"
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.command, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        if "http://" not in line:
            raise SystemExit(f"the server did not start: {line}{self.process.stderr.read()}")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def fill(folder: Path, *, answers: int, single: int, shared: int, annotators: int) -> None:
    """Sets whose texts say which answer is a, which b, and so on."""
    project, _ = init_project(folder)
    with project.open() as store:
        wanted = [1] * single + [annotators] * shared
        random.Random(0).shuffle(wanted)
        asked = store.add_prompts(NewPrompt(messages=(Message("user", f"question {n}"),)) for n in range(len(wanted)))
        said = store.add_responses(
            NewResponse(
                prompt_id=prompt,
                messages=(Message("assistant", f"**{side}** is what this answer to {prompt} is called."),),
                policy="p",
                round=1,
            )
            for prompt in asked.ids
            for side in LETTERS[:answers]
        ).ids
        store.add_sets(
            [
                [
                    NewComparison(prompt_id=prompt, a_id=a, b_id=b, round=1, why="a test", overlap=wanted[n])
                    for a, b in combinations(said[answers * n : answers * (n + 1)], 2)
                ]
                for n, prompt in enumerate(asked.ids)
            ],
            at=time.time(),
        )


def decided(letters: list[str], rng: random.Random) -> tuple[list[str], dict[str, int]]:
    """(keys to press, the place of each letter that they say), for answers that begin with these letters."""
    if len(letters) == 2:
        key = rng.choice("120")
        return [key], dict(zip(letters, {"1": (1, 2), "2": (2, 1), "0": (1, 1)}[key], strict=True))
    keys: list[str] = []
    places: dict[str, int] = {}
    place = 0
    for answer in rng.sample(range(len(letters)), len(letters)):
        tie = bool(places) and rng.random() < TIE_SHARE
        place += 0 if tie else 1
        pick = ["="] * tie + [str(answer + 1)]
        keys += [*pick, "Backspace", *pick] if rng.random() < TAKEN_BACK_SHARE else pick
        places[letters[answer]] = place
    return [*keys, "Enter"], places


async def annotate(browser: Any, address: str, name: str, ledger: Ledger, close_at: int, seed: int) -> None:
    """One person, until nothing is left to label and everything was sent."""
    rng = random.Random(seed)
    context = await browser.new_context(viewport={"width": 375, "height": 812} if seed == 0 else None)
    page = await opened(context, address, name)
    mine: list[int] = []
    pressed = 0
    while True:
        state = await page.evaluate(STATE)
        if state.get("empty") == "Nothing left to label" and not await page.evaluate(UNSENT):
            break
        if pressed >= close_at and name not in ledger.closed:
            ledger.closed.add(name)
            ledger.reloads += 1
            await closed(page)
            page = await opened(context, address, None)
            mine = []  # what a page before showed is undone by asking the server, which another test does
        elif "number" not in state:
            await asyncio.sleep(0.03)
        elif mine and rng.random() < 1 / UNDO_EVERY:
            await page.keyboard.press("u")
            del ledger.held[name, mine.pop()]
            ledger.undone += 1
        else:
            keys, places = decided(state["letters"], rng)
            if len(state["letters"]) > 2:  # one that was undone is shown again as it was sent
                keys = ["Backspace"] * len(state["letters"]) + keys
            for key in keys:
                await page.keyboard.press(key)
            ledger.held[name, state["number"]] = places
            ledger.presses += 1
            pressed += 1
            mine.append(state["number"])
    await context.close()


async def opened(context: Any, address: str, name: str | None) -> Any:
    """The page, signed in; a server that is away just now is waited for."""
    from playwright.async_api import Error

    while True:
        await listening(address)
        page = await asyncio.wait_for(context.new_page(), PATIENCE_S)
        try:
            await asyncio.wait_for(page.goto(address), PATIENCE_S)
            if await page.locator("#loading").is_hidden():
                break  # else the server was killed between the page and its scripts; the page says to reload it
        except (Error, TimeoutError):
            pass  # killed a moment ago; the browser goes on loading its error page, so take another
        await closed(page)
    if name is not None:
        await page.wait_for_selector("#sign-in:not([hidden])")
        await page.fill("#name-input", name)
        await page.keyboard.press("Enter")
    return page


async def closed(page: Any) -> None:
    """Close a page; the driver does not always hear that it is done."""
    with suppress(TimeoutError):
        await asyncio.wait_for(page.close(), PATIENCE_S)


async def listening(address: str) -> None:
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return


async def murder(server: Server, ledger: Ledger, at: list[int], away: float, rng: random.Random) -> list[float]:
    """Kill the server as the presses pass each number; returns how long it was away each time, in seconds."""
    seconds = []
    for presses in at:
        while ledger.presses < presses:
            await asyncio.sleep(0.01)
        await asyncio.sleep(rng.uniform(0, 0.3))
        started = time.monotonic()
        server.kill()
        await asyncio.sleep(rng.uniform(0.1, away))
        await asyncio.to_thread(server.start)
        seconds.append(time.monotonic() - started)
    return seconds


async def run(
    *, labels: int, answers: int, shared: int, annotators: int, kills: int, away: float, seed: int, work: Path
) -> dict:
    from playwright.async_api import async_playwright

    single = labels - shared * annotators
    fill(work, answers=answers, single=single, shared=shared, annotators=annotators)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(work, port)
    ledger = Ledger()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    names = [f"annotator {n + 1}" for n in range(annotators)]
    started = time.monotonic()
    try:
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            at = [round(labels * (n + 0.5) / kills) for n in range(kills)]
            closing = [round(labels / annotators * (n + 1) / (annotators + 1)) for n in range(annotators)]
            killing = asyncio.create_task(murder(server, ledger, at, away, random.Random(seed)))
            people = [
                annotate(browser, server.address, name, ledger, closing[n], seed + n) for n, name in enumerate(names)
            ]
            await asyncio.gather(*people)
            seconds_away = await killing
            await browser.close()
    finally:
        server.kill()
    seconds = time.monotonic() - started
    return {"answers": answers} | verdict_on(work, ledger, n_pairs(answers)) | {
        "annotators": annotators, "kills": kills, "seconds_away": [round(s, 2) for s in seconds_away],
        "seconds": round(seconds, 1),
    }  # fmt: skip


def verdict_on(folder: Path, ledger: Ledger, labels_each: int) -> dict[str, Any]:
    """The store beside the ledger; a press is `labels_each` labels."""
    with open_project(folder).open() as store:
        all_labels = list(store.labels(undone=True))
        live = {(label.annotator, label.comparison_id): label.verdict for label in all_labels if not label.undone_at}
        counts = store.counts(time.time())
        pairs = store.comparisons(range(1, counts.comparisons + 1))
    of_set: dict[int, list[Comparison]] = {}
    for pair in pairs:
        of_set.setdefault(pair.set_id or pair.id, []).append(pair)
    wanted = {}
    for (name, number), places in ledger.held.items():
        for pair in of_set[number]:
            a, b = (places[answer.text.removeprefix("**")[0]] for answer in (pair.a, pair.b))
            wanted[name, pair.id] = "tie" if a == b else "a" if a < b else "b"
    given = Counter(pair for _, pair in live)
    return {
        "pressed": ledger.presses,
        "undone": ledger.undone,
        "pages_closed": ledger.reloads,
        "kept": len(live),
        "kept_and_undone": len(all_labels),
        "lost": len(set(wanted) - set(live)),
        "not_pressed": len(set(live) - set(wanted)),
        "wrong": sum(live[key] != verdict for key, verdict in wanted.items() if key in live),
        "doubled": len(all_labels)
        - ledger.presses * labels_each
        + sum(given[pair.id] > pair.overlap for pair in pairs),
        "again": ledger.presses - ledger.undone - len(ledger.held),
        "open": counts.open,
        "by_annotator": {name: sum(verdicts.values()) for name, verdicts in counts.annotators.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=200, help="verdicts; with --answers above 2, rankings")
    parser.add_argument("--answers", type=int, default=2, help="shown at once, up to 9")
    parser.add_argument("--shared", type=int, default=10, help="pairs that every annotator labels")
    parser.add_argument("--annotators", type=int, default=3)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--away", type=float, default=2.5, help="longest time before a new start, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(
            run(
                labels=options.labels,
                answers=options.answers,
                shared=options.shared,
                annotators=options.annotators,
                kills=options.kills,
                away=options.away,
                seed=options.seed,
                work=Path(folder),
            )
        )
    for name, value in found.items():
        print(f"{name:<16} {value}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(any(found[name] for name in ("lost", "not_pressed", "wrong", "doubled", "again", "open")))


if __name__ == "__main__":
    main()
