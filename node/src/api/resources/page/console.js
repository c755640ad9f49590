// A guest's console: a WebSocket of the node's, shown by xterm.js. Binary messages are the console's bytes, both ways; a text
// from the node is a sentence about it. Without this the page shows the console's last lines.
"use strict";

const place = document.getElementById("console");
const seat = document.getElementById("seat");
const guest = place.dataset.guest;
const mayType = place.dataset.types === "true";
const decoder = new TextDecoder();
const encoder = new TextEncoder();
const buttons = document.createElement("p");
let terminal = null;
let socket = null;
let types = false;
// Who was refused or has left is not connected again unless they say so.
let wanted = true;

function active() {
  return document.getElementById(`guest-${guest}`)?.dataset.active === "true";
}

function say(text, ...offers) {
  seat.textContent = text;
  buttons.replaceChildren(...offers.map(([label, mode]) => {
    const button = document.createElement("button");
    button.textContent = label;
    button.addEventListener("click", () => connect(mode));
    return button;
  }));
}

function fit() {
  const cell = terminal._core.renderer.dimensions;
  const room = document.getElementById("terminal");
  const columns = Math.floor((room.clientWidth - terminal._core.viewport.scrollBarWidth) / cell.actualCellWidth);
  // What hides it leaves no room to be measured.
  if (columns > 1) terminal.resize(columns, Math.max(8, Math.min(30, Math.floor(innerHeight * 0.7 / cell.actualCellHeight))));
}

function show() {
  if (terminal) return;
  place.classList.add("open");
  terminal = new Terminal({ fontFamily: "monospace", fontSize: 14, scrollback: 5000, screenReaderMode: true });
  terminal.open(document.getElementById("terminal"));
  terminal.on("data", (keys) => { if (types && socket) socket.send(encoder.encode(keys)); });
  fit();
  addEventListener("resize", fit);
}

function connect(mode) {
  if (socket) socket.onclose = null;
  socket?.close();
  wanted = true;
  show();
  const query = { look: "", write: "?write=true", force: "?force=true" }[mode];
  const origin = location.origin.replace(/^http/, "ws");
  socket = new WebSocket(`${origin}/v1/guests/${guest}/console${query}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    terminal.reset();
    types = mode !== "look";
    terminal.setOption("disableStdin", !types);
    if (types) say("You type here.", ["Look on only", "look"]);
    else if (mayType) say("You look on.", ["Type", "write"]);
    else say("You look on.");
    if (types) terminal.focus();
  };
  socket.onmessage = (message) => {
    if (typeof message.data !== "string") {
      terminal.write(decoder.decode(message.data, { stream: true }));
      return;
    }
    types = false;
    terminal.setOption("disableStdin", true);
    // What is meant for the command line has buttons here.
    const text = message.data.replace(/ \(--[a-z-]+\)/g, "");
    const sentence = `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
    if (mayType) say(sentence, ["Look on", "look"], ["Take over", "force"]);
    else say(sentence, ["Look on", "look"]);
  };
  socket.onclose = (end) => {
    socket = null;
    types = false;
    if (end.code >= 4000) wanted = false;
    else if (end.code === 1006) say("The connection is lost.", ["Connect", mode]);
    else say("The console has ended: the guest is off.");
  };
}

// The page is replaced now and then: what it says of the guest by then may be new.
function follow() {
  if (active() && wanted && !socket) connect(mayType ? "write" : "look");
  if (!active()) wanted = true;
}

seat.after(buttons);
addEventListener("fresh", follow);
addEventListener("pagehide", () => socket?.close());
follow();
