// The queue page follows the pipeline: its runs are loaded again every two seconds while the page is visible.

const runs = document.getElementById("runs");
let shownText = "";

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch("/queue?part=1", { headers: { Accept: "text/html" } });
      if (response.ok) {
        const text = await response.text();
        if (text !== shownText) { runs.innerHTML = text; shownText = text; }
      }
    } catch { /* the server restarts: the next attempt follows */ }
  }
  setTimeout(refresh, 2000);
}

setTimeout(refresh, 2000);
