// A websocket that comes back: reconnects with back-off, and asks `path()` anew each time, so that it goes on from the
// last cursor. While it is away the page says so; where the session has ended, the page is loaded again to sign in.
const SIGN_IN = 4401;

export function connect(path, onMessage) {
  const page = document.documentElement.classList;
  let delay = 500;
  let socket;
  let retry;
  const open = () => {
    clearTimeout(retry);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}${path()}`);
    socket.addEventListener("open", () => {
      delay = 500;
      page.remove("cut-off");
    });
    socket.addEventListener("message", (event) => onMessage(JSON.parse(event.data)));
    socket.addEventListener("close", ({ code }) => {
      if (code === SIGN_IN) location.reload();
      if (code >= 4400 && code < 4500) return; // refused: asking again would not help
      page.add("cut-off");
      retry = setTimeout(open, delay);
      delay = Math.min(delay * 2, 10_000);
    });
  };
  open();
  addEventListener("online", () => socket.readyState === WebSocket.CLOSED && open());
  return { drop: () => socket.close() };
}
