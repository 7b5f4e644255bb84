// Decodes the page's embedded rows and images for the other scripts.

const control = (id) => document.getElementById(id);

const data = JSON.parse(document.getElementById("rows").textContent);
const NUM_FACTS = 11; // columns of a row before its scores

function toRow(packed, place) {
  const [shard, key, index, status, reason, message, caption, text, notes, width, height] = packed;
  const numScores = data.scores.length;
  const scores = packed.slice(NUM_FACTS, NUM_FACTS + numScores);
  const [before, after, mask] = packed.slice(NUM_FACTS + numScores);
  return {
    place,
    shard: data.shards[shard],
    key,
    index,
    status: status === null ? "unknown" : data.statuses[status],
    reason: reason === null ? "" : data.reasons[reason],
    message: message ?? "",
    caption: caption ?? "",
    text: text ?? "",
    notes: notes ?? "",
    width,
    height,
    scores: scores.map((value) => (typeof value === "string" ? Number(value) : value)),
    before,
    after,
    mask,
    hasImages: before !== null || after !== null,
    searched: `${key}\n${caption ?? ""}\n${text ?? ""}\n${message ?? ""}\n${notes ?? ""}`.toLowerCase(),
  };
}

const rows = data.rows.map(toRow);
data.rows = null; // frees the packed form

const imageChunks = new Map();

// The URL of an image; undefined while the browser is still loading the element that holds it.
function imageUrl(number) {
  const chunk = Math.floor(number / data.images_in_chunk);
  if (!imageChunks.has(chunk)) {
    const element = document.getElementById(`images-${chunk}`);
    const complete = element && (element.nextElementSibling || document.readyState !== "loading");
    if (!complete) return undefined;
    imageChunks.set(chunk, element.textContent.split("\n"));
  }
  const line = imageChunks.get(chunk)[number % data.images_in_chunk];
  const kind = line.startsWith("iVBOR") ? "png" : "webp";
  return `data:image/${kind};base64,${line}`;
}

const waiting = [];

// Sets an <img>'s source, now or when the page has loaded.
function setImage(image, number) {
  const url = imageUrl(number);
  if (url === undefined) waiting.push([image, number]);
  else image.src = url;
}

document.addEventListener("DOMContentLoaded", () => {
  for (const [image, number] of waiting.splice(0)) setImage(image, number);
});

// Makes an element with attributes and children; text becomes text nodes, never markup.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(attribute, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A column's name with line-break opportunities after its underscores.
function breakable(name) {
  return name.split("_").flatMap((word, place) => (place ? ["_", make("wbr"), word] : [word]));
}

function shownNumber(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return String(value).replace("-", "−");
}
