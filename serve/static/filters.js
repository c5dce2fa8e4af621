// Filters of lists: each change loads the results again and keeps the address in step, so that it can be shared.

export const form = document.getElementById("filters");
const results = document.getElementById("results");
let request = 0, timer;

function address(page) {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) query.set(name, value);
  if (page > 1) query.set("page", page);
  return query;
}

// On a phone the calendar would hide the recordings.
function foldCalendar() {
  const calendar = results.querySelector("details");
  if (calendar) calendar.open = !matchMedia("(max-width: 700px)").matches;
}

foldCalendar();

export function showSentence(text) {
  const notice = document.createElement("p");
  notice.className = "card notice";
  notice.textContent = text;
  results.replaceChildren(notice);
}

export async function load(page = 1) {
  if (form.elements.like) form.elements.order.disabled = form.elements.like.value !== ""; // similar objects have their own
  const number = ++request, query = address(page), shown = `${form.action.replace(/\?.*/, "")}${query.size ? `?${query}` : ""}`;
  results.setAttribute("aria-busy", "true");
  query.set("part", "1");
  try {
    const response = await fetch(`${form.action}?${query}`, { headers: { Accept: "text/html" } });
    const text = await response.text();
    if (number !== request) return; // a later change has its own request
    if (response.ok) { results.innerHTML = text; foldCalendar(); }
    else showSentence(new DOMParser().parseFromString(text, "text/html").querySelector("main p")?.textContent ?? `The server answered with ${response.status}.`);
    history.pushState(null, "", shown);
  } catch {
    if (number === request) showSentence("The server does not answer: is cv-assets serve running?");
  }
  if (number === request) results.removeAttribute("aria-busy");
}

const labelOf = (button) => button.getAttribute("aria-label") || button.textContent;

// The button that was pressed has been replaced: the one in its place gets the focus, or else the results.
function focusAgain(label) {
  const button = [...results.querySelectorAll("button:not(:disabled)")].find((other) => labelOf(other) === label);
  (button ?? results).focus({ preventScroll: true });
}

form.addEventListener("submit", (event) => { event.preventDefault(); load(); });
form.addEventListener("input", (event) => {
  if (event.target.type === "file") return;
  clearTimeout(timer);
  timer = setTimeout(() => load(), event.target.type === "search" || event.target.type === "number" ? 200 : 0);
});
results.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { page, day, month, like } = button.dataset;
  if (day !== undefined) form.elements.day.value = day;
  if (like !== undefined) form.elements.like.value = like;
  if (month) form.elements.month.value = month;
  load(page ? Number(page) : 1).then(() => focusAgain(labelOf(button)));
  if (page || like) scrollTo({ top: 0 });
});
addEventListener("popstate", () => location.reload());
