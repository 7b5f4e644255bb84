// Search, filters and order: applies the form to the rows, and shows the result in the list.

const controls = control("controls");

function fillControls() {
  const counted = new Map();
  for (const row of rows) counted.set(row.status, (counted.get(row.status) ?? 0) + 1);
  for (const status of [...data.statuses, "unknown"]) {
    const count = counted.get(status);
    if (!count) continue;
    const box = make("input", { type: "checkbox", name: "status", value: status, checked: true });
    control("statuses").append(make("label", {}, box, `${status} (${count})`));
  }
  for (const reason of data.reasons) control("reason").append(make("option", { value: reason }, reason));
  data.scores.forEach((score, number) => {
    const better = score.better ? ` (${score.better} is better)` : "";
    control("sort").append(make("option", { value: number }, score.name + better));
    control("score").append(make("option", { value: number }, score.name));
  });
  control("with-images").closest("label").hidden = rows.every((row) => row.hasImages);
}

// Returns a function that tells whether a row matches all filters of the form.
function wanted() {
  const words = control("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const statuses = new Set([...controls.querySelectorAll("[name=status]:checked")].map((box) => box.value));
  const reason = control("reason").value;
  const score = control("score").value;
  const number = (id, otherwise) => (control(id).value === "" ? otherwise : Number(control(id).value));
  const low = number("low", -Infinity);
  const high = number("high", Infinity);
  const withImages = control("with-images").checked;
  return (row) =>
    statuses.has(row.status) &&
    (!reason || row.reason === reason) &&
    (!withImages || row.hasImages) &&
    (score === "" || (row.scores[score] !== null && row.scores[score] >= low && row.scores[score] <= high)) &&
    words.every((word) => row.searched.includes(word));
}

// Rows without the score come last in both orders; rows with equal scores keep the output's order.
function ordered(shown) {
  const sort = control("sort").value;
  if (sort === "") return control("order").value === "up" ? shown : shown.reverse();
  const sign = control("order").value === "up" ? 1 : -1;
  return shown.sort((one, other) => {
    const [left, right] = [one.scores[sort], other.scores[sort]];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (left === right ? 0 : left < right ? -1 : 1);
  });
}

function update() {
  const shown = ordered(rows.filter(wanted()));
  const sort = control("sort").value;
  showRows(shown, sort === "" ? null : Number(sort));
  control("count").textContent = `${shown.length} of ${rows.length} edits in this page`;
  const ranged = control("score").value !== "";
  control("low").disabled = control("high").disabled = !ranged;
}

let timer = 0;
control("search").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(update, 120); // waits for a pause in typing
});
controls.addEventListener("change", (event) => {
  if (event.target.id !== "masks") return update();
  for (const button of cards.querySelectorAll(".show-mask")) {
    showMask(button.closest(".card").querySelector(".compare"), button, event.target.checked);
  }
});
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(update)); // after the form has been reset
for (const button of document.querySelectorAll(".show-reason")) {
  button.addEventListener("click", () => {
    controls.reset(); // this queues an update, which runs before the next timeout
    setTimeout(() => {
      control("reason").value = button.dataset.reason;
      update();
      control("gallery").focus();
    });
  });
}

fillControls();
controls.hidden = false;
update();
firstGallery();
