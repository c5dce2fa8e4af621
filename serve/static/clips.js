// Buttons that make a clip of a track or of a range, and download it once it is whole.

import { make } from "./tables.js";

const DRAWN = ["boxes", "labels", "trails", "zones"];

// layers: what is shown, by the name of the layer; query: {track} or {from_s, to_s}; status: element for a sentence.
export async function downloadClip(address, layers, query, button, status) {
  const say = (text) => { status.textContent = text; status.hidden = !text; };
  const draw = DRAWN.filter((name) => layers[name]), values = new URLSearchParams(query);
  for (const name of [...draw, "clock"]) values.append("draw", name);
  button.disabled = true;
  say("The clip is being made …");
  try {
    const response = await fetch(`${address}/clip?${values}`, { method: "POST" });
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail || "The clip cannot be made.");
    const name = /filename="?([^";]+)/.exec(response.headers.get("Content-Disposition") || "")?.[1] || "clip.mp4";
    const link = make("a", { href: URL.createObjectURL(await response.blob()), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say("");
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}
