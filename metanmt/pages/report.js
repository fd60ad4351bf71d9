"use strict";
for (const tools of document.querySelectorAll(".tools")) {
  const list = document.getElementById(tools.dataset.list);
  const select = tools.querySelector("select");
  const value = (item, key) => Number(item.dataset[key]);
  tools.hidden = false;
  select.addEventListener("change", () => {
    const [key, way] = select.value.split(" ");
    const sign = way === "down" ? -1 : 1;
    const items = [...list.children];
    items.sort((a, b) => sign * (value(a, key) - value(b, key)) || value(a, "number") - value(b, "number"));
    list.append(...items);
  });
}
// On paper nothing can be opened.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const item of closed) item.open = true;
});
addEventListener("afterprint", () => {
  for (const item of closed) item.open = false;
});
