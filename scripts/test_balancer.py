#!/usr/bin/env python3
"""Sends ten requests for /home to a running balancer and shows how they spread over its replicas.

    scripts/test_balancer.py [URL] [COUNT]        default: http://127.0.0.1:8000/home 10

Exit status 1 if a request fails.
"""

import collections
import sys
import urllib.error
import urllib.request


def main():
    if "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__.strip())
        return 0
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/home"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    seen, failed = collections.Counter(), 0
    for number in range(1, count + 1):
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                answer = response.read().decode()
            print(f"{number:>3}  {answer}")
            seen[answer] += 1
        except (urllib.error.URLError, OSError) as why:
            print(f"{number:>3}  failed: {why}")
            failed += 1
    print()
    for answer, times in sorted(seen.items()):
        print(f"{answer:<24} {'#' * round(40 * times / count):<40} {times:>4}  {100 * times / count:.0f}%")
    if failed:
        print(f"{failed} of {count} failed: is a balancer running? Start one with `cargo run --release -- run`")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
