// SPDX-License-Identifier: MIT
// A click on a row hides what is below it, or shows it again. No names of processes are in here.
const picture = document.documentElement;
const rows = [...document.querySelectorAll(".row")];
const head = document.getElementById("head");
const foot = document.getElementById("foot");
const ground = document.getElementById("ground");
const above = head.transform.baseVal[0].matrix.f;
const below = foot.transform.baseVal[0].matrix.f;
const whole = {width: picture.viewBox.baseVal.width, height: picture.viewBox.baseVal.height};

// The time stays in sight.
addEventListener("scroll", () => {
  head.setAttribute("transform", `translate(0,${Math.max(above, scrollY + 37)})`);
});

function arrange() {
  let hidden = 0, y = 0;
  for (const row of rows) {
    row.style.display = hidden ? "none" : "";
    if (hidden) {
      hidden -= 1;
      continue;
    }
    row.setAttribute("transform", `translate(0,${y})`);
    y += Number(row.dataset.height);
    hidden = row.classList.contains("folded") ? Number(row.dataset.below) : 0;
  }
  ground.setAttribute("height", y);
  foot.setAttribute("transform", `translate(0,${above + y})`);
  const {width, height} = whole;
  const shown = height - (below - above - y);
  picture.setAttribute("viewBox", `0 0 ${width} ${shown}`);
  picture.setAttribute("height", shown);
}

for (const row of rows.filter((row) => row.dataset.below !== "0")) {
  row.style.cursor = "pointer";
  row.addEventListener("click", () => {
    row.classList.toggle("folded");
    arrange();
  });
}
