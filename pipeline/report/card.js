// One edit: the images with their slider, the card in the gallery, and the dialog with all details.

const SMALL = 128; // pixels: smaller images are shown as sharp blocks, not blurred

function imageOf(kind, number, alt) {
  const image = make("img", { class: kind, alt, decoding: "async", draggable: "false" });
  image.addEventListener("load", () => {
    if (Math.max(image.naturalWidth, image.naturalHeight) < SMALL) image.classList.add("small");
  });
  setImage(image, number);
  return image;
}

// Before and after on top of each other, cut at the slider's position, and the mask over both.
function buildCompare(row) {
  const box = make("div", { class: "compare" });
  if (!row.hasImages) {
    const why = row.status === "failed" ? "no image" : "image not embedded in this page";
    box.append(make("span", { class: "nothing" }, why));
    return box;
  }
  const both = row.before !== null && row.after !== null;
  if (row.after !== null) box.append(imageOf("after", row.after, `after: ${row.text}`));
  if (row.before !== null) {
    box.append(imageOf(both ? "before cut" : "before", row.before, `before: ${row.caption}`));
  }
  if (row.mask !== null) box.append(imageOf("mask", row.mask, ""));
  if (row.before !== null) box.append(make("span", { class: "tag left", "aria-hidden": "true" }, "before"));
  if (row.after !== null) box.append(make("span", { class: "tag right", "aria-hidden": "true" }, "after"));
  if (both) {
    const slider = make("input", {
      type: "range", min: 0, max: 100, value: 50, class: "slider",
      "aria-label": `Share of the image before, edit ${row.index} of ${row.key}`,
    });
    const cut = () => {
      box.style.setProperty("--cut", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} percent before`);
    };
    slider.addEventListener("input", cut);
    cut();
    box.append(make("div", { class: "line", "aria-hidden": "true" }), slider);
  }
  return box;
}

// A button that shows the mask over the images. Its initial state is that of the checkbox for all.
function maskButton(row, box) {
  if (row.mask === null) return null;
  const button = make("button", { type: "button", class: "show-mask" }, "Mask");
  button.addEventListener("click", () => showMask(box, button, !box.classList.contains("masked")));
  showMask(box, button, control("masks").checked);
  return button;
}

function showMask(box, button, on) {
  box.classList.toggle("masked", on);
  button.setAttribute("aria-pressed", String(on));
}

function buildTexts(row) {
  return make("p", { class: "texts" },
    make("span", { class: "caption", dir: "auto" }, row.caption || "no caption"),
    make("span", { class: "edit", dir: "auto" }, row.text || "no edit text"));
}

function scoreList(row, numbers, mark) {
  const list = make("dl", { class: "scores" });
  for (const number of numbers) {
    const score = data.scores[number];
    list.append(
      make("dt", { title: score.meaning || null, class: mark }, ...breakable(score.name)),
      make("dd", { class: mark }, shownNumber(row.scores[number])));
  }
  return list;
}

// The score that the gallery is sorted by, and the others on request. A card that is built again,
// after it was far from the window, is as open as it was.
function buildScores(row, sorted) {
  const others = [...data.scores.keys()].filter((number) => number !== sorted);
  const parts = sorted === null ? [] : [scoreList(row, [sorted], "sorted")];
  if (others.length) {
    const more = make("details", { class: "more" },
      make("summary", {}, sorted === null ? "Scores" : "Other scores"), scoreList(row, others, null));
    more.open = row.scoresShown === true;
    more.addEventListener("toggle", () => { row.scoresShown = more.open; });
    parts.push(more);
  }
  return parts;
}

// sorted: the index of the score that the gallery is sorted by, or null.
function buildCard(row, place, total, sorted, open) {
  const box = buildCompare(row);
  const details = make("button", { type: "button", class: "details" }, "Details");
  details.addEventListener("click", () => open(place));
  const why = row.reason ? ` ${row.reason}` : "";
  return make("article", {
    class: "card", role: "listitem", "aria-posinset": place + 1, "aria-setsize": total,
    "data-place": place,
  },
    box,
    buildTexts(row),
    make("p", { class: "meta" },
      make("span", { class: `status is-${row.status}` }, row.status), `${why} · `,
      make("span", { dir: "auto" }, row.key), ` · edit ${row.index} · shard ${row.shard}`),
    row.message ? make("p", { class: "meta", dir: "auto" }, row.message) : null,
    ...buildScores(row, sorted),
    make("div", { class: "buttons" }, maskButton(row, box), details));
}

// The dialog's content for one row; move(step) shows a neighboring row, close() closes the dialog.
function buildDetail(row, place, total, move, close) {
  const box = buildCompare(row);
  const facts = make("dl", { class: "facts" });
  const add = (name, value) => {
    if (value !== "" && value !== null) facts.append(make("dt", {}, name), make("dd", { dir: "auto" }, String(value)));
  };
  add("status", row.status);
  add("reason", row.reason);
  add("message", row.message);
  add("caption", row.caption);
  add("edit text", row.text);
  add("notes", row.notes);
  add("shard", row.shard);
  add("key", row.key);
  add("edit", row.index);
  if (row.width !== null) add("size", `${row.width} × ${row.height} pixels as written`);
  data.scores.forEach((score, number) => add(score.name, shownNumber(row.scores[number])));
  const button = (text, act, disabled) => {
    const element = make("button", { type: "button", disabled }, text);
    element.addEventListener("click", act);
    return element;
  };
  return [
    make("h3", { id: "detail-title", dir: "auto" }, `Edit ${row.index} of ${row.key}`),
    make("div", { class: "columns" }, box, facts),
    make("div", { class: "buttons" },
      maskButton(row, box),
      button("Previous", () => move(-1), place === 0),
      button("Next", () => move(1), place === total - 1),
      button("Close", close, false)),
  ];
}
