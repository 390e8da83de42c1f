"""A client that asks on and on: `python client_loop.py URL KEY_FILE A_SECOND SECONDS`.

Each request has a connection of its own, as of another client, and begins on time whatever became
of the one before. Each answer is a line of JSON: when it began, seconds, status (0 where there was
no answer).
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 10.0


def ask(url: str, key: str) -> None:
    """One request and its line."""
    parts, began, status = urlsplit(url), time.time(), 0
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    line = {"at": round(began, 3), "took_s": round(time.time() - began, 3), "status": status}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Ask in step."""
    url, key_file, a_second, seconds = sys.argv[1:]
    key = Path(key_file).read_text(encoding="utf-8").strip()
    began, number = time.monotonic(), 0
    while time.monotonic() - began < float(seconds):
        threading.Thread(target=ask, args=(url, key)).start()
        number += 1
        time.sleep(max(0.0, began + number / float(a_second) - time.monotonic()))


if __name__ == "__main__":
    main()
