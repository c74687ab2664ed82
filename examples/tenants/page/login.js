// The form to log in. The server answers with a cookie that scripts cannot read, and with the calendar after that.
"use strict";

const form = document.getElementById("login");
const refused = document.getElementById("refused");

form.addEventListener("submit", async event => {
  event.preventDefault();
  refused.hidden = true;
  try {
    const response = await fetch("/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(Object.fromEntries(new FormData(form))),
    });
    if (response.ok) return location.reload();
    refused.textContent = response.status === 401 ? "No such user, or another password." : "That did not work.";
  } catch {
    refused.textContent = "The server cannot be reached.";
  }
  refused.hidden = false;
});
