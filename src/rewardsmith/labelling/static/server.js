"use strict";
// What the page asks of the server, and who asks.

const me = { key: "", name: "" };
const server = { project: "", needsKey: false, leaseSeconds: 600 };

// The answer, or an error with `status` (none: the server was not reached).
async function ask(path, body, more = {}) {
  const headers = { "content-type": "application/json" };
  if (me.key) headers.authorization = `Bearer ${me.key}`;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(path, { ...options, ...more, signal: more.keepalive ? undefined : AbortSignal.timeout(20_000) });
  } catch {
    throw new Error("The server does not answer.");
  }
  let answer = null;
  try {
    answer = await reply.json();
  } catch {
    // a proxy's page, or an answer that broke off
  }
  if (reply.ok && answer !== null) return answer;
  const error = new Error(answer?.error?.message ?? `The server answers ${reply.status}.`);
  error.status = reply.ok ? 502 : reply.status;
  error.retryAfter = Number(reply.headers.get("retry-after")) || 0;
  throw error;
}

// Asked until it is answered, or refused for good.
async function askPatiently(path, body) {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      const answer = await ask(path, body);
      say("");
      return answer;
    } catch (error) {
      if (error.status && !AGAIN.has(error.status)) throw error;
      say(error.message);
      await sleep(Math.max(pause * (0.5 + Math.random() / 2), 1000 * (error.retryAfter ?? 0)));
    }
  }
}
