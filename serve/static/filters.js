// Filters of lists: each change loads the results again and keeps the address in step, so that it can be shared.

const form = document.getElementById("filters"), results = document.getElementById("results");
let request = 0, timer;

function address(page) {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) query.set(name, value);
  if (page > 1) query.set("page", page);
  return query;
}

async function load(page = 1, isNew = true) {
  const number = ++request, query = address(page), shown = `${form.action.replace(/\?.*/, "")}${query.size ? `?${query}` : ""}`;
  results.setAttribute("aria-busy", "true");
  query.set("part", "1");
  try {
    const response = await fetch(`${form.action}?${query}`, { headers: { Accept: "text/html" } });
    const text = await response.text();
    if (number !== request) return; // a later change has its own request
    results.innerHTML = response.ok ? text : `<p class="card notice">${new DOMParser().parseFromString(text, "text/html").querySelector("main p")?.textContent ?? "The server did not answer."}</p>`;
    if (isNew) history.pushState(null, "", shown);
  } catch {
    if (number === request) results.textContent = "The server does not answer: is cv-assets serve running?";
  }
  results.removeAttribute("aria-busy");
}

form.addEventListener("submit", (event) => { event.preventDefault(); load(); });
form.addEventListener("input", (event) => {
  clearTimeout(timer);
  timer = setTimeout(load, event.target.type === "search" || event.target.type === "number" ? 200 : 0);
});
results.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { page, day, month, like } = button.dataset;
  if (day !== undefined) form.elements.day.value = day;
  if (like !== undefined) form.elements.like.value = like;
  if (month) form.elements.month.value = month;
  load(page ? Number(page) : 1);
  if (page || like) scrollTo({ top: 0 });
});
addEventListener("popstate", () => location.reload());
