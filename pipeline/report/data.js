// The rows and pictures that the page carries, as the other parts see them.

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
    pictured: before !== null || after !== null,
    searched: `${key}\n${caption ?? ""}\n${text ?? ""}\n${message ?? ""}\n${notes ?? ""}`.toLowerCase(),
  };
}

const rows = data.rows.map(toRow);
data.rows = null; // the packed form has served

const pictureChunks = new Map();

// The url of a picture; undefined while the part of the page that holds it is still being read.
function pictureUrl(number) {
  const chunk = Math.floor(number / data.pictures_in_chunk);
  if (!pictureChunks.has(chunk)) {
    const element = document.getElementById(`pictures-${chunk}`);
    const whole = element && (element.nextElementSibling || document.readyState !== "loading");
    if (!whole) return undefined;
    pictureChunks.set(chunk, element.textContent.split("\n"));
  }
  const line = pictureChunks.get(chunk)[number % data.pictures_in_chunk];
  const kind = line.startsWith("iVBOR") ? "png" : "webp";
  return `data:image/${kind};base64,${line}`;
}

const waiting = [];

// Gives the image its picture, now or as soon as the page has been read to it.
function setPicture(image, number) {
  const url = pictureUrl(number);
  if (url === undefined) waiting.push([image, number]);
  else image.src = url;
}

document.addEventListener("DOMContentLoaded", () => {
  for (const [image, number] of waiting.splice(0)) setPicture(image, number);
});

// An element with attributes and children; a text is always a text node, never markup.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(attribute, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A column's name that may break after its underscores.
function breakable(name) {
  return name.split("_").flatMap((word, place) => (place ? ["_", make("wbr"), word] : [word]));
}

function shownNumber(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return String(value).replace("-", "−");
}
