"""Commands without a network: in a network namespace without a route."""

import subprocess

WITHOUT_NETWORK = ("unshare", "--map-root-user", "--net")
"""What to put before a command; its network namespace has only an idle loopback interface."""


def can_unshare() -> bool:
    """Whether this machine allows network namespaces."""
    try:
        return subprocess.run([*WITHOUT_NETWORK, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
