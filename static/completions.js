// Asks the gateway for a chat completion and yields the answer's parts as they come. Knows nothing of the page.

// What went wrong, in the server's own sentence; `param` names the field at fault, if one is.
export class Refused extends Error {
  constructor({ message, param = null, code = null }) {
    super(message);
    this.param = param;
    this.code = code;
  }
}

// Yields {text}, {finish}, {usage}, and {status} while the model is being started. Throws Refused, or AbortError when `signal` stops it.
export async function* complete(body, { csrf, signal }) {
  let answer;
  try {
    answer = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": csrf },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
  } catch (error) {
    throw reached(error);
  }
  if (!answer.ok || !answer.headers.get("content-type")?.startsWith("text/event-stream")) throw await refusal(answer);
  let ended = false;
  try {
    for await (const { comment, data } of events(answer.body)) {
      if (comment) yield { status: comment };
      if (!data) continue;
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) {
        ended = true;
        yield { finish: choice.finish_reason };
      }
      if (chunk.usage) yield { usage: chunk.usage };
    }
  } catch (error) {
    throw reached(error);
  }
  if (!ended) throw new Refused({ message: "The answer broke off before its end; the page of the job says why." });
}

const reached = (error) =>
  error instanceof Refused || error.name === "AbortError"
    ? error
    : new Refused({ message: "The portal can't be reached; check the connection and try again." });

async function refusal(answer) {
  try {
    const { error } = await answer.json();
    return new Refused(error);
  } catch {
    return new Refused({ message: `The portal answered ${answer.status} without a reason; try again.` });
  }
}

// The data and the comment of each server-sent event of a body.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/);
        const of = (start) => lines.filter((line) => line.startsWith(start)).map((line) => line.slice(start.length).trimStart()).join("\n");
        yield { comment: of(":"), data: of("data:") };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
