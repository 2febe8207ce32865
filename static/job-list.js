// Redraws the list when any job changes, at most once a second.
import { connect } from "./socket.js";

let timer = null;
connect(
  () => "/ws/jobs/",
  () => {
    timer ??= setTimeout(() => {
      timer = null;
      htmx.ajax("GET", location.href, { target: "#job-list", select: "#job-list", swap: "outerHTML" });
    }, 1000);
  },
);
