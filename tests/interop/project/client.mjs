// A client and a worker in JavaScript: celery-node. Arguments: the folder of its modules, broker, results, two queues.
import { createRequire } from "node:module";

const answer = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const [modules, broker, backend, ours, theirs] = process.argv.slice(2);
const celery = createRequire(modules + "/")("celery-node");

const worker = celery.createWorker(broker, backend, theirs);
worker.register("node.multiply", (a, b) => a * b);
worker.start();

async function calls(protocol) {
  const client = celery.createClient(broker, backend, ours);
  client.conf.TASK_PROTOCOL = protocol;
  await client.isReady();
  const add = client.createTask("proj.add");
  const results = [add.applyAsync([1, 2]), add.applyAsync([1], { y: 2 }), client.sendTask("proj.echo", [{ a: ["é"] }], {})];
  const values = [];
  for (const result of results) values.push(await result.get(40000, 20));
  const failing = client.sendTask("proj.fail", ["plain"], {});
  await failing.get(40000, 20).catch(() => null);
  return { values, status: await failing.status() };
}

try {
  answer({ 1: await calls(1), 2: await calls(2) });
} catch (error) {
  answer({ error: String(error.stack) });
}
process.stdin.on("end", () => process.exit(0)).resume();
