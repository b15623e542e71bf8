"""The Python part of the mix load: parsing, regular expressions, sorting and objects, in the interpreter."""
import json
import os
import re
import sys
import time

LINE = re.compile(r"(?P<verb>GET|POST) (?P<path>/[a-z0-9/]*) (?P<status>\d{3}) (?P<ms>\d+)")


class Route:
    def __init__(self, path):
        self.path = path
        self.times = []

    def add(self, ms):
        self.times.append(ms)

    def quantile(self, q):
        times = sorted(self.times)
        return times[int(q * (len(times) - 1))]


def log(seed, count):
    for i in range(count):
        seed = (seed * 1103515245 + 12345) % 2**31
        yield f"{'GET' if seed % 3 else 'POST'} /api/v{seed % 4}/items 200 {seed % 997}"


def analyse(lines):
    routes = {}
    for line in lines:
        match = LINE.fullmatch(line)
        route = routes.setdefault(match["path"], Route(match["path"]))
        route.add(int(match["ms"]))
    return {path: [route.quantile(q) for q in (0.5, 0.9, 0.99)] for path, route in routes.items()}


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: worker.py SECONDS")
    start = time.monotonic()
    deadline = start + float(sys.argv[1])
    iterations = 0
    while time.monotonic() < deadline:
        json.loads(json.dumps(analyse(log(iterations, 300))))
        iterations += 1
    print(json.dumps({"program": "mix-python", "pid": os.getpid(),
                      "seconds": round(time.monotonic() - start, 3), "iterations": iterations}))


main()
