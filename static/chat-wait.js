// Shows what a launch does until its model answers, then loads the chat; a launch that ends shows its end.
import { connect } from "./socket.js";

const root = document.getElementById("chat-wait");
const drawn = root.dataset.status;
const phase = document.getElementById("phase");

connect(
  () => `/ws/jobs/${root.dataset.jobId}/`,
  (message) => {
    if (message.type === "snapshot") {
      const { endpoint, status, queue } = message.job;
      if (endpoint || status !== drawn) location.reload();
      else if (queue?.waiting_for) phase.textContent = queue.waiting_for;
    } else if (message.type === "events") {
      const last = message.events.findLast((event) => event.type === "phase");
      if (last) phase.textContent = last.name;
    }
  },
);
