"""Makes the accounts `writer` and `reader` on an MLflow server, or gives them their new password.

Runs in the migration Job (`python -m sonoray_jobs.cluster.kubernetes.mlflow_accounts`), as often as
wanted. Passwords come from the environment, which Kubernetes fills from a Secret.
"""

import os
import sys
import time

ACCOUNTS = ("writer", "reader")
WAIT_S = 1500.0
"""Time for the server to answer: it may pull its image."""
_TIMEOUT_S = 10.0


def make_accounts(uri: str, passwords: dict[str, str], *, wait_s: float = WAIT_S) -> list[str]:
    """Bring the accounts up to date and say what was done.

    Args:
        uri: of the server.
        passwords: by account, of `admin` too.
        wait_s: time for the server to answer.
    """
    import requests

    admin = ("admin", passwords["admin"])
    deadline = time.monotonic() + wait_s
    while True:
        try:
            if requests.get(f"{uri}/health", timeout=_TIMEOUT_S).ok:
                break
        except requests.RequestException:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"MLflow at {uri} has not answered in {wait_s:g} s; see its own log")
        time.sleep(2)
    done = []
    for name in ACCOUNTS:
        api = f"{uri}/api/2.0/mlflow/users"
        there = requests.get(
            f"{api}/get", params={"username": name}, auth=admin, timeout=_TIMEOUT_S
        )
        given = {"username": name, "password": passwords[name]}
        if there.status_code == requests.codes.not_found:
            answer = requests.post(f"{api}/create", json=given, auth=admin, timeout=_TIMEOUT_S)
            done.append(f"made the account {name}")
        else:
            there.raise_for_status()
            answer = requests.patch(
                f"{api}/update-password", json=given, auth=admin, timeout=_TIMEOUT_S
            )
            done.append(f"set the password of {name}")
        answer.raise_for_status()
    return done


def main() -> None:
    """Read the environment and make the accounts."""
    names = ("admin", *ACCOUNTS)
    passwords = {name: os.environ[f"SONORAY_{name.upper()}_PASSWORD"] for name in names}
    for line in make_accounts(os.environ["MLFLOW_TRACKING_URI"], passwords):
        print(line, file=sys.stderr)  # noqa: T201 - the Pod's log


if __name__ == "__main__":
    main()
