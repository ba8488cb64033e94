// Search and sorting of the table of wrong pairs. It reads the page and holds no data; without it the table is whole.
(() => {
  "use strict";
  const folds = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => { opened = [...folds()]; for (const fold of opened) fold.open = true; });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; opened = []; });

  const table = document.querySelector("table.wrong");
  if (!table) return;
  const plain = (text) => text.normalize("NFKC").toLowerCase().replace(/\s+/g, " ");
  const pairs = [...table.tBodies].map((body) => ({
    body,
    text: plain(body.textContent),
    rank: Number(body.dataset.rank),
    size: Number(body.dataset.size),
    longer: Number(body.dataset.longer),
    opening: plain(body.querySelector(".opening").textContent),
    tags: plain(body.querySelector(".tags").textContent),
  }));

  const finder = document.querySelector(".finder");
  const input = finder.querySelector("input");
  const said = finder.querySelector("output");
  const find = () => {
    const words = plain(input.value).split(" ").filter(Boolean);
    let shown = 0;
    for (const pair of pairs) {
      pair.body.hidden = !words.every((word) => pair.text.includes(word));
      shown += pair.body.hidden ? 0 : 1;
    }
    table.classList.toggle("searched", words.length > 0);
    said.textContent = words.length ? `${shown} of ${pairs.length} pairs` : `${pairs.length} pairs`;
  };
  input.addEventListener("input", find);
  finder.hidden = false;
  find();

  const falling = new Set(["size", "longer"]); // what is looked at from its largest first
  for (const head of table.querySelectorAll("th[data-sort]")) {
    const key = head.dataset.sort;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const up = now ? now === "descending" : !falling.has(key);
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => (typeof a[key] === "number" ? a[key] - b[key] : a[key].localeCompare(b[key]));
      pairs.sort((a, b) => (up ? order(a, b) : order(b, a)) || a.rank - b.rank);
      table.append(...pairs.map((pair) => pair.body));
    });
  }
})();
