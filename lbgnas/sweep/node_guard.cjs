// Loaded into NNI's server before its own code.
// Its REST interface has no password and would listen on every interface: keep it to this machine.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  const port = typeof first === "string" ? Number(first) : first;
  if (Number.isInteger(port) && typeof rest[0] !== "string") {
    return listen.call(this, port, "127.0.0.1", ...rest);
  }
  return listen.call(this, first, ...rest);
};

// The server is a process group of its own and would outlive a killed sweep.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) {
    process.kill(process.pid, "SIGTERM");
    setTimeout(() => process.exit(1), 20000).unref();
  }
}, 1000).unref();
