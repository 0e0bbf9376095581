// The operator's page, from the top: sign in, then the desk with its views, until somebody signs out.
//
// Everything that is shown after signing in is made then and thrown away on signing out: a page that is signed out has
// nothing of the engine left in it. `session.js` lets in, `desk.js` is the frame, each view has a file of its own.

import { announce } from "./dom.js";
import { openDesk } from "./desk.js";
import { signInForm } from "./session.js";

const root = document.getElementById("root");

function showSignIn(message = "") {
  const form = signInForm(message, (api, claims, refusal) => {
    const desk = openDesk(api, claims, (farewell) => {
      desk.close();
      api.end();
      showSignIn(farewell);
    });
    refusal.listener = (error) => desk.leave(`Signed out. ${error.message}`);
    root.replaceChildren(desk.node);
    desk.open();
    announce(`Signed in as ${claims.name}.`);
  });
  root.replaceChildren(form.node);
  document.title = "Trade engine operations";
  form.focus();
}

showSignIn();
