// Peer of gRPC with @grpc/grpc-js: `client PORT` calls shop.Echo and prints what it got as JSON; `server` serves some of
// its methods until its input ends, and prints its port.
const grpc = require("@grpc/grpc-js");

const plain = (value) => value;
const method = (name, requestStream, responseStream) => ({
  path: name.includes("/") ? name : `/shop.Echo/${name}`, requestStream, responseStream,
  requestSerialize: plain, requestDeserialize: plain, responseSerialize: plain, responseDeserialize: plain,
});
const methods = {
  Unary: method("Unary", false, false), Status: method("Status", false, false), Out: method("Out", false, true),
  In: method("In", true, false), Both: method("Both", true, true),
};

if (process.argv[2] === "server") {
  const server = new grpc.Server();
  server.addService(methods, {
    Unary: (call, done) => done(null, call.request),
    Status: (call, done) => { const { code, message } = JSON.parse(call.request); done({ code, details: message }); },
    Out: (call) => {
      for (let number = 0; number < Number(call.request); number += 1) call.write(Buffer.from(String(number).padStart(1024)));
      call.end();
    },
    In: (call, done) => {
      let count = 0, size = 0;
      call.on("data", (message) => { count += 1; size += message.length; });
      call.on("end", () => done(null, Buffer.from(`${count} ${size}`)));
    },
    Both: (call) => { call.on("data", (message) => call.write(message)); call.on("end", () => call.end()); },
  });
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(port);
  });
  process.stdin.resume();
  process.stdin.on("end", () => { server.forceShutdown(); process.exit(0); });
} else {
  const client = new grpc.Client(`127.0.0.1:${process.argv[3]}`, grpc.credentials.createInsecure());
  const options = () => ({ deadline: Date.now() + 20000 });
  const unary = ({ path }, request) => new Promise((done) => {
    client.makeUnaryRequest(path, plain, plain, request, options(), (error, answer) => done([error, answer]));
  });
  const run = async () => {
    const sent = [Buffer.alloc(27182), Buffer.alloc(8), Buffer.alloc(45904)];
    const found = { unary: [], both: [] };
    for (const size of [0, 70000]) found.unary.push((await unary(methods.Unary, Buffer.alloc(size)))[1].length);
    found.out = await new Promise((done, broken) => {
      let count = 0;
      const call = client.makeServerStreamRequest("/shop.Echo/Out", plain, plain, Buffer.from("100"), options());
      call.on("data", () => { count += 1; });
      call.on("error", broken);
      call.on("end", () => done(count));
    });
    found.in = await new Promise((done, broken) => {
      const call = client.makeClientStreamRequest(
        "/shop.Echo/In", plain, plain, options(), (error, answer) => (error ? broken(error) : done(answer.toString())));
      for (const message of sent) call.write(message);
      call.end();
    });
    await new Promise((done, broken) => {
      const call = client.makeBidiStreamRequest("/shop.Echo/Both", plain, plain, options());
      call.on("data", (message) => {
        found.both.push(message.length);
        if (found.both.length < sent.length) call.write(sent[found.both.length]); else call.end();
      });
      call.on("error", broken);
      call.on("end", done);
      call.write(sent[0]);
    });
    const [refused] = await unary(methods.Status, Buffer.from('{"code": 9, "message": "n\\u00f6"}'));
    found.status = [refused.code, refused.details];
    found.unknown = (await unary({ path: "/shop.Unknown/Nothing" }, Buffer.alloc(0)))[0].code;
    console.log(JSON.stringify(found));
    client.close();
  };
  run().catch((error) => { console.log(JSON.stringify({ error: String(error) })); process.exit(1); });
}
