#!/usr/bin/env python3
"""Records where a real nginx sends keys with `hash $arg_k consistent`, for tests/golden/nginx_ring.txt.

Every server of the upstream refuses connections, so nginx tries one after another and its access log holds the order:
first choice, then fallbacks. A temporary hosts file, mounted in a private namespace, resolves the names to loopback
addresses. Needs root, nginx (Debian: nginx-core) and unshare.

    scripts/record_nginx_ring.py > tests/golden/nginx_ring.txt
"""

import http.client
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

KEYS = 2000
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

# Each set: members as `name*weight`, in the order of nginx's configuration.
SETS = {
    "three": ["server1", "server2", "server3"],
    "weights": ["server1", "server2*2", "server3*5"],
    "reversed": ["server3*5", "server2*2", "server1"],
    "ports": [f"127.0.0.1:{9001 + i}" for i in range(5)],
    "mixed": ["zeta", "alpha:8080*3", "mid-name:81*2", "127.66.9.9", "b.example:65535"],
    "unix": ["unix:/nonexistent/a", "unix:/nonexistent/b:1*2", "unix:/nonexistent/c"],
    "thirty": [f"server{i}" for i in range(1, 31)],
}


def main():
    if os.environ.get("RING_INSIDE") != "1":
        os.environ["RING_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, __file__])
    with tempfile.TemporaryDirectory() as folder:
        print(f"# Recorded by scripts/record_nginx_ring.py from {version()}.")
        print(f"# A set's line: name, members. Then, for keys k0 to k{KEYS - 1}, one digit (base 36, a member's")
        print("# position) per key: the first choice, and on the next line the first fallback.")
        for name, members in SETS.items():
            record(pathlib.Path(folder), name, members)


def version():
    return subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.split()[-1]


def record(folder, name, members):
    address, hosts = addresses(members)
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + hosts)
    subprocess.run(["mount", "--bind", folder / "hosts", "/etc/hosts"], check=True)
    port = free_port()
    (folder / "nginx.conf").write_text(config(folder, members, port))
    nginx = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-p", folder])
    try:
        send_keys(port)
    finally:
        nginx.terminate()
        nginx.wait()
        subprocess.run(["umount", "/etc/hosts"], check=True)
    walks = [line.split(", ") for line in (folder / "picks.log").read_text().splitlines()]
    os.unlink(folder / "picks.log")
    assert len(walks) == KEYS, len(walks)
    print(name, *members)
    for choice in (0, 1):
        print("".join(DIGITS[address.index(walk[choice])] for walk in walks))


def addresses(members):
    """The address that nginx logs for each member, and the hosts file that resolves the names to it."""
    found, hosts = [], ""
    for i, member in enumerate(members):
        name = member.split("*")[0]
        if name.startswith("unix:"):
            found.append(name)
            continue
        host, _, port = name.partition(":")
        if not host[0].isdigit():
            hosts += f"127.66.0.{i + 1} {host}\n"
            host = f"127.66.0.{i + 1}"
        found.append(f"{host}:{port or 80}")
    return found, hosts


def config(folder, members, port):
    servers = ""
    for member in members:
        name, _, weight = member.partition("*")
        servers += f"server {name} weight={weight or 1} max_fails=0;\n"
    return f"""
daemon off; master_process off; pid {folder}/pid; error_log /dev/null;
events {{}}
http {{
  log_format picks '$upstream_addr';
  upstream ring {{ hash $arg_k consistent; {servers} }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000;
    access_log {folder}/picks.log picks;
    location / {{ proxy_pass http://ring; proxy_next_upstream error; }}
  }}
}}
"""


def send_keys(port):
    connection = connect(port)
    for key in range(KEYS):
        connection.request("GET", f"/?k=k{key}")
        connection.getresponse().read()
    connection.close()


def connect(port):
    for _ in range(10_000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return http.client.HTTPConnection("127.0.0.1", port)
        except ConnectionRefusedError:
            os.sched_yield()
    sys.exit("nginx did not start")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


if __name__ == "__main__":
    main()
