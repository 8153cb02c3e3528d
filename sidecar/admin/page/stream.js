// Server-sent events, read with `fetch`, because an EventSource cannot send the token.  The token is stored for this tab
// only and is sent in the Authorization field.  It is in no URL and no cookie, so other pages cannot use it.

const KEY = "sidecar.token";
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;
const SILENT_FOR = 10000;

let token = sessionStorage.getItem(KEY) ?? "";

export function setToken(value) {
  token = value;
  sessionStorage.setItem(KEY, value);
}

const fields = () => (token ? { Authorization: `Bearer ${token}` } : {});

/* Sends a POST, with a value as JSON if there is one, and returns the JSON of the answer.  Throws an Error with the text of the problem and its `status`. */
export const post = (path, value) => call(path, { method: "POST", body: value === undefined ? undefined : JSON.stringify(value) });

/* Returns the JSON of a document.  Throws as `post` does. */
export const get = (path) => call(path, { cache: "no-store" });

async function call(path, options) {
  const response = await fetch(path, { ...options, headers: fields() });
  const document = await response.json();
  if (!response.ok) {
    const error = new Error([document.detail, ...(document.problems ?? [])].join("\n"));
    throw Object.assign(error, { status: response.status });
  }
  return document;
}

/* Reads the stream for ever, and connects again when it ends.  Calls `on.full(data)` and `on.tick(data)` for events,
   `on.link(state)` for changes of the connection, and `await on.token()` if a token is needed. */
export async function follow(path, on) {
  let pause = FIRST_PAUSE;
  for (;;) {
    try {
      await once(path, on, () => (pause = FIRST_PAUSE));
    } catch (error) {
      if (error.status === 401) {
        on.link("locked");
        await on.token();
        continue;
      }
    }
    on.link("lost");
    await new Promise((wake) => setTimeout(wake, pause));
    pause = Math.min(LONGEST_PAUSE, pause * 2);
  }
}

async function once(path, on, alive) {
  const end = new AbortController();
  let silence = setTimeout(() => end.abort(), SILENT_FOR);
  try {
    const response = await fetch(path, { headers: fields(), signal: end.signal, cache: "no-store" });
    if (!response.ok) throw Object.assign(new Error(response.statusText), { status: response.status });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(() => end.abort(), SILENT_FOR);
      text += value;
      let at;
      while ((at = text.indexOf("\n\n")) >= 0) {
        const [event, data] = text.slice(0, at).split("\n");
        text = text.slice(at + 2);
        alive();
        on.link("live");
        on[event.slice("event: ".length)]?.(JSON.parse(data.slice("data: ".length)));
      }
    }
  } finally {
    clearTimeout(silence);
    end.abort();
  }
}
