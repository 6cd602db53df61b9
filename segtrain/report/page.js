"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value;
    const compare = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      const order = isNaN(key(a)) || isNaN(key(b)) ? key(a).localeCompare(key(b)) : key(a) - key(b);
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => { one.open = true; }));

const words = ["number", "tp", "fp", "fn"];
for (const card of document.querySelectorAll(".card")) {
  const slices = JSON.parse(card.dataset.slices), columns = +card.dataset.columns, rows = +card.dataset.rows;
  const slider = card.querySelector("input"), profile = card.querySelector(".profile");
  const outputs = words.map(word => card.querySelector(`.${word}-of`));
  const show = () => {
    const place = +slider.value;
    card.style.setProperty("--x", `${100 * (place % columns) / Math.max(columns - 1, 1)}%`);
    card.style.setProperty("--y", `${100 * Math.floor(place / columns) / Math.max(rows - 1, 1)}%`);
    outputs.forEach((output, k) => { output.value = slices[place][k]; });
    slider.setAttribute("aria-valuetext", card.querySelector(".now").textContent);
  };
  slider.addEventListener("input", show);
  profile.addEventListener("click", event => {
    const box = profile.getBoundingClientRect();
    slider.value = Math.floor((event.clientX - box.left) / box.width * slices.length);
    show();
  });
  show();
}
const moveTo = (card, place) => {
  const slider = card.querySelector("input");
  slider.value = place;
  slider.dispatchEvent(new Event("input"));
};
for (const button of document.querySelectorAll(".wrong button")) {
  button.addEventListener("click", () => moveTo(button.closest(".card"), button.dataset.place));
}
for (const choice of document.querySelectorAll(".sorts input")) {
  const show = () => {
    if (!choice.checked) return;
    for (const cards of document.querySelectorAll(".cards")) {
      if (cards.dataset.sort === choice.value) continue;
      cards.dataset.sort = choice.value;
      cards.append(...[...cards.children].sort((a, b) => a.dataset[choice.value] - b.dataset[choice.value]));
      const start = choice.value === "lesion" ? "startLesion" : "startDsc";
      for (const card of cards.children) moveTo(card, card.dataset[start]);
    }
  };
  choice.addEventListener("change", show);
  show();
}
for (const choice of document.querySelectorAll(".views input")) {
  const show = () => {
    if (choice.checked) document.querySelectorAll(".cards").forEach(cards => { cards.dataset.view = choice.value; });
  };
  choice.addEventListener("change", show);
  show();
}
