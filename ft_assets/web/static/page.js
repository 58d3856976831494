// What the page adds where scripts run. Without them every view works: links, forms, and a refresh by <meta>.
"use strict";

// A live view fetches itself again and replaces only what changes.
const live = document.querySelector("[data-live]");
if (live) {
  const seconds = Number(live.dataset.live);
  setInterval(async () => {
    if (document.hidden || document.activeElement?.closest("[data-live] form")) return;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-live]");
      if (next) document.querySelector("[data-live]").replaceWith(next);
      else location.reload();
    } catch { /* the server is away: the next look may find it */ }
  }, seconds * 1000);
}

// A slider shows its value.
for (const slider of document.querySelectorAll("input[type=range]")) {
  const shown = document.querySelector(`output[for="${slider.id}"]`);
  slider.addEventListener("input", () => { if (shown) shown.value = Number(Number(slider.value).toPrecision(4)); });
}

// The button that compares needs two choices.
const compare = document.querySelector("[data-compare]");
if (compare) {
  const boxes = [...document.querySelectorAll("input[name=ids]")];
  const show = () => {
    const chosen = boxes.filter((box) => box.checked).length;
    compare.disabled = chosen < 2;
    compare.textContent = chosen < 2 ? "Choose two or more to compare" : `Compare these ${chosen}`;
  };
  for (const box of boxes) box.addEventListener("change", show);
  addEventListener("pageshow", show);
}
