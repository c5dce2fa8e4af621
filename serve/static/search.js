// The page of the search: its filters, and the upload of a picture as the example of similar objects.

import { form, load, showSentence } from "./filters.js";
import { byId, getJson } from "./tables.js";

const picture = byId("picture");

picture?.addEventListener("change", async () => {
  const [file] = picture.files;
  if (!file) return;
  byId("results").setAttribute("aria-busy", "true");
  showSentence("The picture is compared with the stored crops …");
  try {
    const { like } = await getJson("/search/picture", { method: "POST", body: file, headers: { "Content-Type": file.type || "image/jpeg", Accept: "application/json" } });
    form.elements.like.value = like;
    await load();
  } catch (error) {
    showSentence(error.message);
    byId("results").removeAttribute("aria-busy");
  }
  picture.value = ""; // so that the same file can be chosen again
});
