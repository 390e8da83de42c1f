"""A container as processes of its own: namespaces, a root made of mounts, user, rights, log.

The image is this machine's own file system, below a layer that is thrown away, with the project's
environment at /opt/sonoray and the settings of `k8s/Dockerfile`. One whose name begins with
`earlier/` stands for an image from before KubeRay's calls of `ray` were made lean. Limits of CPU
and memory and the filter of system calls are not enforced.
"""

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from network import DNS_IP
from node_api import Object

ROOT = Path(__file__).resolve().parents[3]
_SETTING = re.compile(r"^(?:ENV| ) +([A-Z_]+)=(\S+?)(?: \\)?$", re.MULTILINE)
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NICE = "10"
"""Above the node, which runs at `RESERVED` of `real_cluster`: containers run as all else does."""
_VARIABLE = re.compile(r"\$\((\w+)\)")


def image_env() -> dict[str, str]:
    """What the image's Dockerfile sets."""
    text = (ROOT / "k8s" / "Dockerfile").read_text(encoding="utf-8")
    found = dict(_SETTING.findall(text[text.rindex("\nFROM ") :]))
    return {key: value.replace("$PATH", _SYSTEM_PATH) for key, value in found.items()}


def expanded(text: str, env: dict[str, str]) -> str:
    """A text with $(NAME) replaced by what is known."""
    return _VARIABLE.sub(lambda found: env.get(found[1], found[0]), text)


class Container:
    """One container of a Pod; it can be started again and again."""

    def __init__(
        self,
        spec: Object,
        pod: Object,
        *,
        folder: Path,
        volumes: dict[str, Path],
        env: dict[str, str],
        net: str,
        ip: str,
        extensions: str,
    ) -> None:
        self.spec, self._pod, self._volumes = spec, pod, volumes
        self._net, self._ip, self._extensions = net, ip, extensions
        # cgroups keep a Pod's share on a real node; here Ray's workers, which lower their own
        # priority, would wait for everything else
        self._env = {**image_env(), "RAY_worker_niceness": "0", **env}
        self.folder = folder / f"container-{spec['name']}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "log"
        self._root, self._layer = self.folder / "root", self.folder / "layer"
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None

    def start(self) -> None:
        """Start it; its output goes to the log, each line with its time."""
        script = self.folder / "start.sh"
        script.write_text("\n".join(self._script()) + "\n", encoding="utf-8")
        for path in (self._root, self._layer):
            path.mkdir(exist_ok=True)
        name = self._pod["metadata"]["name"]
        if self.log.exists():
            self.log.rename(self.folder / "log.before")
        self.log.write_bytes(b"")
        self._process = subprocess.Popen(
            [
                *("/usr/sbin/ip", "netns", "exec", self._net, "/usr/bin/nice", "-n", _NICE),
                *("/usr/bin/unshare", "--mount", "--pid", "--uts", "--ipc", "--fork"),
                "--kill-child",
                *("/bin/bash", "-c", f"hostname {name[-60:]}; exec /bin/bash {script}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._env,
            start_new_session=True,
        )
        self._pump = threading.Thread(target=self._write_log, daemon=True)
        self._pump.start()

    def ended(self) -> int | None:
        """The exit status, None while it runs; 137 after SIGKILL, as a runtime says it."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        if self._pump:
            self._pump.join(timeout=5)
        return code if code >= 0 else 128 - code

    def stop(self, grace_s: float) -> None:
        """SIGTERM to its first process, SIGKILL to all once the time is over."""
        if self._process is None or self._process.poll() is not None:
            return
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def execute(self, words: list[str], timeout_s: float) -> bool:
        """Run a command in it, and say whether it succeeded."""
        if not (first := self._first()):
            return False
        command = ["/usr/bin/nsenter", "-t", str(first), "-m", "-p", "-n", "-u", "-i", "--"]
        command += ["/usr/sbin/chroot", str(self._root), *self._user(), *words]
        try:
            return not subprocess.run(
                command, env=self._env, capture_output=True, timeout=timeout_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return False

    def said_last(self) -> str:
        """The log's end, without times."""
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join(line.partition(" ")[2] for line in lines)[-2048:]

    def _first(self) -> int:
        """The first process of its namespace of processes."""
        if self._process is None or self._process.poll() is not None:
            return 0
        outer = self._process.pid
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except FileNotFoundError:
            return 0
        return int(children[0]) if children else 0

    def _signal(self, number: signal.Signals) -> None:
        if first := self._first():
            os.kill(first, number)

    def _write_log(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with self.log.open("ab", buffering=0) as out:
            for line in self._process.stdout:
                now = time.time_ns()
                when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
                text = line if line.endswith(b"\n") else line + b"\n"
                out.write(f"{when}.{now % 1_000_000_000:09d}Z ".encode() + text)

    def _security(self) -> Object:
        own = self.spec.get("securityContext") or {}
        return {**(self._pod["spec"].get("securityContext") or {}), **own}

    def _user(self) -> list[str]:
        given = self._security()
        user, group = given.get("runAsUser", 0), given.get("runAsGroup", 0)
        words = [f"--reuid={user}", f"--regid={group}", f"--groups={given.get('fsGroup', group)}"]
        if given.get("allowPrivilegeEscalation") is False:
            words.append("--no-new-privs")
        if "ALL" in (given.get("capabilities") or {}).get("drop", []):
            words += ["--bounding-set=-all", "--inh-caps=-all"]
        return ["/usr/bin/setpriv", *words]

    def _script(self) -> list[str]:
        """What makes the root, from within the container's namespace of mounts, and enters it."""
        root, layer, given = self._root, self._layer, self._security()
        user, group = given.get("runAsUser", 0), given.get("runAsGroup", 0)
        shut = [path for path in Path(sys.base_prefix).parents if not _is_open(path)]
        is_earlier = str(self.spec.get("image", "")).startswith("earlier/")
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mount -t tmpfs none {layer}",
            f"mkdir {layer}/upper {layer}/work",
            f"mount -t overlay -o lowerdir=/,upperdir={layer}/upper,workdir={layer}/work"
            f" overlay {root}",
            *(f"chmod o+x {root}{path}" for path in shut),
            f"mkdir -p {root}/home/sonoray {root}/opt",
            f"ln -sfn {sys.prefix} {root}/opt/sonoray",
            f"ln -sfn {self._extensions} {root}/opt/torch_extensions",
            *([] if is_earlier else [f"ln -sfn {ROOT}/k8s/lean {root}/opt/sonoray-lean"]),
            f"echo sonoray:x:{user}:{group}::/tmp:/bin/bash >> {root}/etc/passwd",
            f"rm -f {root}/etc/resolv.conf {root}/etc/hosts",
            f"printf 'nameserver {DNS_IP}\\nsearch {self._search()}\\noptions ndots:5\\n'"
            f" > {root}/etc/resolv.conf",
            f"printf '127.0.0.1 localhost\\n{self._ip} {self._pod['metadata']['name']}\\n'"
            f" > {root}/etc/hosts",
            f"mount -t tmpfs none {root}/tmp",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs -o size=64m,mode=1777 none {root}/dev/shm",
            f"mount --rbind /sys {root}/sys",
        ]
        mounts = self.spec.get("volumeMounts") or []
        for mount in sorted(mounts, key=lambda each: str(each["mountPath"])):
            # links, such as /var/run, mean places below this root
            inside = f"/usr/sbin/chroot {root} readlink -m {mount['mountPath']}"
            lines += [
                f'target={root}"$({inside})"; mkdir -p "$target"',
                f'mount --bind {self._volumes[mount["name"]]} "$target"',
            ]
            if mount.get("readOnly"):
                lines.append('mount -o remount,bind,ro "$target"')
        if given.get("readOnlyRootFilesystem"):
            lines.append(f"mount -o remount,ro {root}")
        words = [*(self.spec.get("command") or []), *(self.spec.get("args") or [])]
        command = shlex.join([expanded(word, self._env) for word in words])
        folder = self.spec.get("workingDir", "/home/sonoray")
        enter = shlex.join(["/bin/sh", "-c", f'cd {folder}; exec "$@"', "sh"])
        lines.append(f"exec /usr/sbin/chroot {root} {shlex.join(self._user())} {enter} {command}")
        return lines

    def _search(self) -> str:
        namespace = self._pod["metadata"]["namespace"]
        return f"{namespace}.svc.cluster.local svc.cluster.local cluster.local"


def _is_open(path: Path) -> bool:
    """Whether everybody may pass a folder."""
    return bool(path.stat().st_mode & stat.S_IXOTH)
