"use strict";
// While a draft is edited, shows what the customer would get: a paragraph for each block, a break for
// each line, as the server makes it. Without this script a button asks the server for the same.

function paragraphs(text) {
  return text
    .replaceAll("\r\n", "\n")
    .trim()
    .split("\n\n")
    .map((block) => block.replace(/^\n+|\n+$/g, ""))
    .filter((block) => block)
    .map((block) => {
      const paragraph = document.createElement("p");
      block.split("\n").forEach((line, number) => {
        if (number) paragraph.append(document.createElement("br"));
        paragraph.append(line);
      });
      return paragraph;
    });
}

// The link to unsubscribe stays: a text without it gets it back at its end, as the server does it.
function whole(text, { link, line }) {
  const there = !link || text.split(link).slice(1).some((rest) => !/^[A-Za-z0-9_-]/.test(rest));
  return there ? text : `${text.trimEnd()}\n\n${line}\n`;
}

document.querySelectorAll("form[data-draft]").forEach((form) => {
  const place = form.querySelector("[data-preview]");
  const show = () => {
    place.querySelector("[data-preview-subject]").textContent = form.elements.subject.value;
    place.querySelector("[data-preview-text]").replaceChildren(...paragraphs(whole(form.elements.text.value, place.dataset)));
  };
  place.hidden = false;
  form.querySelector("[data-without-script]").hidden = true;
  form.addEventListener("input", show);
  show();
});
