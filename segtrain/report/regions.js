for (const card of document.querySelectorAll(".card[data-parts]")) {
  const parts = JSON.parse(card.dataset.parts), slider = card.querySelector("input"), now = card.querySelector(".now");
  const outputs = now.querySelectorAll("span output");
  const show = () => {
    parts[+slider.value].flat().forEach((count, k) => { outputs[k].value = count; });
    slider.setAttribute("aria-valuetext", now.textContent);
  };
  slider.addEventListener("input", show);
  card.querySelector(".profile").addEventListener("click", show);
  show();
}
for (const choice of document.querySelectorAll(".regions input")) {
  const show = () => {
    document.querySelectorAll(`i.region${choice.value}`).forEach(layer => { layer.hidden = !choice.checked; });
  };
  choice.addEventListener("change", show);
  show();
}
for (const choice of document.querySelectorAll(".contrasts input")) {
  const show = () => {
    if (!choice.checked) return;
    for (const cards of document.querySelectorAll(".cards")) {
      const layers = JSON.parse(cards.dataset.contrasts);
      const contrast = choice.value in layers ? choice.value : Object.keys(layers)[0];
      cards.querySelectorAll("i.grey").forEach(layer => { layer.className = `${layers[contrast]} grey`; });
      cards.querySelectorAll(".flair-pane figcaption").forEach(caption => { caption.textContent = contrast; });
    }
  };
  choice.addEventListener("change", show);
  show();
}
