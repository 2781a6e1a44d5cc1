// The API of this application: fetch with the session's token, and errors that say what the server said.
export class ApiError extends Error {
  constructor(status, answer) {
    super(Object.entries(answer.errors ?? {}).map(([field, text]) => `${field}: ${text}`).join("; ") || answer.detail);
    this.status = status;
    this.errors = answer.errors ?? {};
  }
}

const token = () => document.querySelector("meta[name=csrf-token]").content;

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = token();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(`/api/e2e${path}`, { method, headers, body: body && JSON.stringify(body) });
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({ detail: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new ApiError(answer.status, found);
  return found;
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);
export const put = (path, body) => call("PUT", path, body);
export const patch = (path, body) => call("PATCH", path, body);
export const remove = (path) => call("DELETE", path);
