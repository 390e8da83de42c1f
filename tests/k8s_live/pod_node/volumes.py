"""Volumes of a Pod as folders of the node, with the owners and modes that a kubelet gives them."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from network import run
from node_api import NodeApi, Object

REFRESH_S = 60.0
"""How often files of Secrets and ConfigMaps are exchanged, as kubelets do."""


class Volumes:
    """The volumes of one Pod."""

    def __init__(self, api: NodeApi, pod: Object, folder: Path, ip: str) -> None:
        self._api, self._pod, self._folder, self._ip = api, pod, folder, ip
        self._namespace = pod["metadata"]["namespace"]
        self._group = int((pod["spec"].get("securityContext") or {}).get("fsGroup", 0))
        self._written: dict[str, dict[str, bytes]] = {}
        self._read_at = 0.0
        self.paths: dict[str, Path] = {}

    def make(self) -> None:
        """Make all volumes; what is missing raises."""
        for volume in self._pod["spec"].get("volumes") or []:
            path = self._folder / f"volume-{volume['name']}"
            path.mkdir(parents=True, exist_ok=True)
            if "persistentVolumeClaim" in volume:
                path = self._claimed(volume["persistentVolumeClaim"]["claimName"])
                self._own(path)
            elif "hostPath" in volume:
                path = Path(volume["hostPath"]["path"])
            elif "emptyDir" in volume:
                given = volume["emptyDir"]
                if given.get("medium") == "Memory" and not os.path.ismount(path):
                    size = str(given.get("sizeLimit", "1Gi")).removesuffix("i")
                    run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path))
                os.chown(path, -1, self._group)
                path.chmod(0o2777)
            elif not {"secret", "configMap", "projected"} & set(volume):
                raise OSError(f"volume {volume['name']} is of no kind that this node knows")
            self.paths[volume["name"]] = path
        self.refresh()

    def refresh(self) -> None:
        """Exchange files whose Secret or ConfigMap has changed."""
        self._read_at = time.monotonic()
        for volume in self._pod["spec"].get("volumes") or []:
            if not {"secret", "configMap", "projected"} & set(volume):
                continue
            name = volume["name"]
            files, mode = self._files(volume)
            if files != self._written.get(name):
                self._exchange(self.paths[name], files, mode)
                self._written[name] = files

    def refresh_when_due(self) -> None:
        """The same, once in `REFRESH_S`."""
        if time.monotonic() - self._read_at > REFRESH_S:
            with contextlib.suppress(OSError):
                self.refresh()

    def remove(self) -> None:
        """Let go of memory and disk; claims stay."""
        for path in self.paths.values():
            if not path.is_relative_to(self._folder):
                continue
            if os.path.ismount(path):
                run("umount", "--lazy", str(path))
            shutil.rmtree(path, ignore_errors=True)

    def _claimed(self, claim: str) -> Path:
        """The folder of a claim's volume, which must be of the node."""
        base = f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims/{claim}"
        name = self._api.get(base)["spec"]["volumeName"]
        volume = self._api.get(f"/api/v1/persistentvolumes/{name}")
        path = Path(volume["spec"]["hostPath"]["path"])
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _own(self, path: Path) -> None:
        """Give a volume to the Pod's group, where its root is not that group's yet."""
        status = path.stat()
        if self._group and (status.st_gid != self._group or status.st_mode & 0o2070 != 0o2070):
            run("chgrp", "-R", str(self._group), str(path))
            run("chmod", "-R", "g+rwX", str(path))
            run("find", str(path), "-type", "d", "-exec", "chmod", "g+s", "{}", "+")

    def _files(self, volume: Object) -> tuple[dict[str, bytes], int]:
        if "projected" in volume:
            files: dict[str, bytes] = {}
            for source in volume["projected"]["sources"]:
                files |= self._projected(source, volume["name"])
            return files, int(volume["projected"].get("defaultMode", 0o644))
        kind = "secret" if "secret" in volume else "configMap"
        given = volume[kind]
        name = given["secretName"] if kind == "secret" else given["name"]
        entries = self._api.entries(self._namespace, f"{kind.lower()}s", name)
        return _chosen(entries, given), int(given.get("defaultMode", 0o644))

    def _projected(self, source: Object, name: str) -> dict[str, bytes]:
        [(kind, given)] = source.items()
        if kind == "configMap":
            return _chosen(self._api.entries(self._namespace, "configmaps", given["name"]), given)
        if kind == "downwardAPI":
            return {
                each["path"]: str(
                    field(self._pod, each["fieldRef"]["fieldPath"], self._ip)
                ).encode()
                for each in given["items"]
            }
        path = given["path"]
        if path in self._written.get(name, {}):  # it lives for as long as a test
            return {path: self._written[name][path]}
        account = self._pod["spec"]["serviceAccountName"]
        metadata = self._pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"]}
        made = self._api.create(
            f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "expirationSeconds": max(7200, given.get("expirationSeconds", 3600)),
                    "boundObjectRef": {**bound, "uid": metadata["uid"]},
                },
            },
        )
        return {path: made["status"]["token"].encode()}

    def _exchange(self, path: Path, files: dict[str, bytes], mode: int) -> None:
        """Write files beside the old ones, then exchange all at once by a link."""
        fresh = path / f"..{time.time_ns()}"
        fresh.mkdir(mode=0o755)
        for name, content in files.items():
            file = fresh / name
            file.write_bytes(content)
            file.chmod(mode | (0o040 if self._group else 0))
            os.chown(file, -1, self._group)
            link = path / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        old = (path / "..data").readlink() if (path / "..data").is_symlink() else None
        (path / "..next").symlink_to(fresh.name)
        (path / "..next").replace(path / "..data")
        for link in path.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if old:
            shutil.rmtree(path / old, ignore_errors=True)


def field(pod: Object, path: str, ip: str) -> str:
    """What the downward API says of a Pod."""
    metadata = pod["metadata"]
    if path.startswith(("metadata.labels[", "metadata.annotations[")):
        kind, key = path.removeprefix("metadata.").rstrip("]").split("[")
        return str((metadata.get(kind) or {}).get(key.strip("'\""), ""))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.podIP": ip,
        "status.hostIP": "10.99.0.1",
    }
    return str(known[path])


def _chosen(entries: dict[str, bytes], given: Object) -> dict[str, bytes]:
    items = given.get("items")
    return {each["path"]: entries[each["key"]] for each in items} if items else entries
