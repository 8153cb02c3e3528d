// Client of node:http2 for tests: streams side by side, and a WebSocket by an extended CONNECT.  Prints what it got as JSON.
import { connect } from "node:http2";

const client = connect(process.argv[2]);
const fail = (error) => { console.log(JSON.stringify({ error: String(error) })); process.exit(1); };
client.on("error", fail);

const ask = (path, body) => new Promise((done, broken) => {
  const stream = client.request({ ":path": path, ":method": body ? "POST" : "GET" });
  let status = 0, size = 0;
  stream.on("response", (head) => { status = head[":status"]; });
  stream.on("data", (data) => { size += data.length; });
  stream.on("end", () => done([status, size]));
  stream.on("error", broken);
  stream.end(body);
});

const talk = (path, sent) => new Promise((done, broken) => {
  const stream = client.request(
    { ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13" },
    { endStream: false },
  );
  let status = 0;
  const got = [];
  stream.on("response", (head) => { status = head[":status"]; stream.write(sent); });
  stream.on("data", (data) => {
    got.push(data);
    if (Buffer.concat(got).length >= sent.length - 4) {
      stream.close();
      done([status, Buffer.concat(got).toString("hex")]);
    }
  });
  stream.on("error", broken);
});

client.once("remoteSettings", async (settings) => {
  try {
    const asked = [];
    for (let number = 0; number < 30; number += 1) {
      asked.push(number % 2 ? ask("/app/large") : ask("/app/echo", Buffer.alloc(200000, number)));
    }
    const answers = await Promise.all(asked);
    const message = await talk("/app/socket", Buffer.from(process.argv[3], "hex"));
    console.log(JSON.stringify({ connects: settings.enableConnectProtocol, answers, message }));
    client.close();
  } catch (error) {
    fail(error);
  }
});
