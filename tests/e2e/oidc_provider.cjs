// OpenID provider for tests: oidc-provider, with clients that get tokens for themselves.  Prints its port, and then a line
// for each line of its input: `keys A B` signs with the key A, and publishes B too; `away` and `back` close all
// connections, and serve them again.  Ends with its input.
const { generateKeyPairSync } = require("node:crypto");
const http = require("node:http");
const readline = require("node:readline");

console.info = () => {};  // the provider's notices, where the answers go

const pairs = {};
const jwk = (kid) => {
  pairs[kid] ??= generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" });
  return { ...pairs[kid], kid, alg: "ES256", use: "sig" };
};
const client = (client_id) => ({
  client_id, client_secret: `${client_id} needs = no & secret`, grant_types: ["client_credentials"], redirect_uris: [],
  response_types: [], scope: "orders:read orders:write", id_token_signed_response_alg: "ES256",
});
const resources = {
  "urn:orders": { audience: "orders", accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } },
  "urn:opaque": { audience: "orders", accessTokenFormat: "opaque" },
};
const settings = (kids) => ({
  jwks: { keys: kids.map(jwk) },
  clients: [client("alice"), client("sidecar")],
  scopes: ["orders:read", "orders:write"],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({ scope: "orders:read orders:write", ...resources[resource] }),
    },
  },
});

import(require.resolve("oidc-provider")).then(({ Provider }) => {
  const connections = new Set();
  let isAway = false, answer;
  const server = http.createServer((request, response) => answer(request, response));
  server.on("connection", (connection) => {
    if (isAway) { connection.destroy(); return; }
    connections.add(connection);
    connection.on("close", () => connections.delete(connection));
  });
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    const serve = (kids) => { answer = new Provider(`http://127.0.0.1:${port}`, settings(kids)).callback(); };
    serve(["first"]);
    console.log(port);
    const lines = readline.createInterface({ input: process.stdin });
    lines.on("line", (line) => {
      const [word, ...kids] = line.split(" ");
      if (word === "keys") serve(kids);
      else isAway = word === "away";
      if (isAway) for (const connection of connections) connection.destroy();
      console.log(line);
    });
    lines.on("close", () => process.exit(0));
  });
});
