// The list of cards: pages whose cards exist only while they are near the window.

const CARDS_IN_PAGE = 24;
const NEAR = "1200px"; // above and below the window

const cards = document.getElementById("cards");
const detail = document.getElementById("detail");
const list = { rows: [], sorted: null };

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) fillPage(entry.target);
    else emptyPage(entry.target);
  }
}, { rootMargin: `${NEAR} 0px` });

// Shows these rows in this order; a page is an empty placeholder until it comes near the window.
function showRows(shown, sorted) {
  observer.disconnect();
  list.rows = shown;
  list.sorted = sorted;
  cards.replaceChildren();
  for (let first = 0; first < shown.length; first += CARDS_IN_PAGE) {
    cards.append(make("div", { class: "page", role: "presentation", "data-first": first }));
  }
  const [firstPage] = cards.children;
  if (firstPage) {
    fillPage(firstPage);
    reserve(firstPage.offsetHeight);
  }
  for (const page of cards.children) observer.observe(page);
}

// Pages that are not built yet get the first page's height, so that the scroll bar is right.
function reserve(height) {
  for (const page of cards.children) {
    if (page.childElementCount) continue;
    const share = Math.min(CARDS_IN_PAGE, list.rows.length - Number(page.dataset.first)) / CARDS_IN_PAGE;
    page.style.minHeight = `${Math.ceil(height * share)}px`;
  }
}

function fillPage(page) {
  if (page.childElementCount) return;
  const first = Number(page.dataset.first);
  const last = Math.min(first + CARDS_IN_PAGE, list.rows.length);
  for (let place = first; place < last; place += 1) {
    page.append(buildCard(list.rows[place], place, list.rows.length, list.sorted, openDetail));
  }
  page.style.minHeight = "";
}

function emptyPage(page) {
  if (!page.childElementCount || page.contains(document.activeElement)) return;
  page.style.minHeight = `${page.offsetHeight}px`;
  page.replaceChildren();
}

function openDetail(place) {
  const move = (step) => openDetail(place + step);
  detail.replaceChildren(...buildDetail(list.rows[place], place, list.rows.length, move, () => detail.close()));
  detail.dataset.place = place;
  if (!detail.open) detail.showModal();
  const slider = detail.querySelector("input, button");
  slider?.focus();
}

detail.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return; // arrow keys move the slider
  const place = Number(detail.dataset.place) + { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (place >= 0 && place < list.rows.length) openDetail(place);
});

// Marks the gallery as ready once the images of the first cards in the window are decoded.
async function firstGallery() {
  const inWindow = [...cards.querySelectorAll("img[src]")]
    .filter((image) => image.getBoundingClientRect().top < Math.max(innerHeight, 900) + cards.offsetTop);
  await Promise.allSettled(inWindow.slice(0, CARDS_IN_PAGE).map((image) => image.decode()));
  performance.mark("gallery");
  document.documentElement.dataset.gallery = "ready";
}
