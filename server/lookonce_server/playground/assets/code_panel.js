/** The code of an answer, shown beneath its row and copied. */

import { CODES, isPixels } from "./code.js";

let language = "curl"; // of the last code that was looked at: the next one begins with it

/**
 * Show the code of an answer, or hide it where it is shown.
 * @param {HTMLElement} panel a row has one
 * @param {HTMLButtonElement} opener
 * @param {import("./code.js").Sent} sent
 */
export function toggleCode(panel, opener, sent) {
  const isShown = opener.getAttribute("aria-expanded") === "true";
  for (const button of panel.parentElement.querySelectorAll("[aria-expanded]")) button.setAttribute("aria-expanded", false);
  opener.setAttribute("aria-expanded", !isShown);
  panel.hidden = isShown;
  if (!isShown) show(panel, sent);
}

function show(panel, sent) {
  const server = new URL(".", location.href).href.replace(/\/$/, "");
  const code = CODES[language](sent, server);
  panel.querySelector("pre").textContent = code;
  const choices = Object.keys(CODES).map((name) => {
    const button = smallButton(name, () => {
      language = name;
      show(panel, sent);
      panel.querySelector("[aria-pressed=true]").focus();
    });
    button.setAttribute("aria-pressed", name === language);
    return button;
  });
  const copy = smallButton("Copy", () => copyText(panel, copy, code));
  panel.querySelector(".languages").replaceChildren(...choices, copy);
  panel.querySelector(".files").replaceChildren(...filesOf(sent));
}

/** Name the files that the code reads, each as a link that saves it. */
function filesOf({ pictures }) {
  const links = pictures.filter(isPixels).flatMap(({ files, saved }) =>
    files.map((name, i) => {
      const link = document.createElement("a");
      link.href = saved[i];
      link.download = name;
      link.textContent = name;
      return link;
    }),
  );
  return links.flatMap((link, i) => [i ? ", " : "It reads what it is run beside: ", link]);
}

async function copyText(panel, button, code) {
  try {
    await navigator.clipboard.writeText(code);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(panel.querySelector("pre")); // pages without TLS get no clipboard
    button.textContent = "Selected: copy it by hand";
  }
}

function smallButton(label, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small";
  button.textContent = label;
  button.addEventListener("click", onClick);
  return button;
}
