/** The form that asks a person for the API key. */

const at = (id) => document.getElementById(id);

/** Ask for the API key; `refused` tells that the last one was wrong. */
export async function askForKey(refused) {
  const form = at("key-form");
  if (refused) at("key-why").textContent = "The server does not know that key. Try another one.";
  form.hidden = false;
  at("key").focus();
  await new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      resolve();
    }, { once: true });
  });
  form.hidden = true;
  const key = at("key").value;
  at("key").value = "";
  return key;
}
