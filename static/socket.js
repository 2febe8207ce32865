// A websocket that comes back: reconnects with back-off, and asks `path()` anew each time, so that it goes on from the last cursor.
export function connect(path, onMessage) {
  let delay = 500;
  let socket;
  const open = () => {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}${path()}`);
    socket.addEventListener("message", (event) => {
      delay = 500;
      onMessage(JSON.parse(event.data));
    });
    socket.addEventListener("close", (event) => {
      if (event.code >= 4400 && event.code < 4500) return; // refused: asking again would not help
      setTimeout(open, delay);
      delay = Math.min(delay * 2, 10_000);
    });
  };
  open();
  addEventListener("online", () => socket.readyState === WebSocket.CLOSED && (delay = 500));
  return { drop: () => socket.close() };
}
