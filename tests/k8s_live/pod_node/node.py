"""A node that runs the Pods bound to it as real processes: `python node.py FOLDER`.

It stands in for kubelet, container runtime, network plugin with policies, kube-proxy, NodeLocal
DNSCache and the provisioner of volumes, as far as the manifests use them. It has to be root, in
namespaces of its own for network, mounts and processes, so that nothing of it outlives them.
`FOLDER` holds `admin.kubeconfig` and gets all that is written.
"""

import contextlib
import sys
import threading
import time
from pathlib import Path

from logs import PORT, serve
from network import NODE_IP, Network
from node_api import NodeApi, Object, stamp
from pods import Pod

_ROOM = {"cpu": "8", "memory": "24Gi", "pods": "110", "ephemeral-storage": "500Gi"}
_BEAT_S, _POLL_S = 10.0, 0.5


class Node:
    """One node, by its name."""

    def __init__(self, name: str, folder: Path, extensions: str) -> None:
        self._name, self._folder, self._extensions = name, folder, extensions
        self._api = NodeApi(folder / "admin.kubeconfig")
        self._network = Network(self._api)
        self._pods: dict[str, Pod] = {}

    def run(self) -> None:
        """Register, then look after Pods for ever."""
        metadata = {"name": self._name, "labels": {"kubernetes.io/hostname": self._name}}
        self._api.create(
            "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        )
        for target, arguments in (
            (self._beat, ()),
            (self._network.serve_names, ()),
            (serve, (self._folder, self._find)),
            (self._keep_network, ()),
        ):
            threading.Thread(target=target, args=arguments, daemon=True).start()
        while True:
            try:
                self._provide_volumes()
                self._look()
            except OSError as error:
                sys.stderr.write(f"node: {error}\n")
            time.sleep(_POLL_S)

    def _look(self) -> None:
        bound = self._api.items("/api/v1/pods", fieldSelector=f"spec.nodeName={self._name}")
        there = {pod["metadata"]["uid"]: pod for pod in bound}
        for uid, pod in there.items():
            leaving = "deletionTimestamp" in pod["metadata"]
            if uid not in self._pods and leaving:
                metadata = pod["metadata"]
                path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
                self._api.remove(path, uid)
            elif uid not in self._pods:
                self._pods[uid] = Pod(
                    pod,
                    api=self._api,
                    network=self._network,
                    folder=self._folder / "pods",
                    extensions=self._extensions,
                )
            elif leaving:
                self._pods[uid].pod = pod
                self._pods[uid].end()
        for uid in set(self._pods) - set(there):
            self._pods[uid].end()

    def _find(self, namespace: str, name: str) -> Pod | None:
        named = [
            each for each in self._pods.values() if (each.namespace, each.name) == (namespace, name)
        ]
        return named[-1] if named else None

    def _keep_network(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self._network.refresh()
            time.sleep(_POLL_S)

    def _beat(self) -> None:
        since = stamp()
        while True:
            ready = {
                "type": "Ready",
                "status": "True",
                "reason": "Node",
                "message": "runs",
                "lastHeartbeatTime": stamp(),
                "lastTransitionTime": since,
            }
            status: Object = {
                "capacity": _ROOM,
                "allocatable": _ROOM,
                "conditions": [ready],
                "addresses": [{"type": "InternalIP", "address": NODE_IP}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
            }
            with contextlib.suppress(OSError):
                self._api.merge(f"/api/v1/nodes/{self._name}/status", {"status": status})
            time.sleep(_BEAT_S)

    def _provide_volumes(self) -> None:
        """A folder of the node for each claim that has no volume yet."""
        known = {each["metadata"]["name"] for each in self._api.items("/api/v1/persistentvolumes")}
        for claim in self._api.items("/api/v1/persistentvolumeclaims"):
            metadata, spec = claim["metadata"], claim["spec"]
            name = f"volume-{metadata['uid']}"
            if spec.get("volumeName") or name in known:
                continue
            place = {"namespace": metadata["namespace"], "name": metadata["name"]}
            volume = {
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "accessModes": spec["accessModes"],
                "storageClassName": spec.get("storageClassName", ""),
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": place,
                "hostPath": {"path": str(self._folder / "claims" / name)},
            }
            self._api.create(
                "/api/v1/persistentvolumes",
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": name},
                    "spec": volume,
                },
            )


if __name__ == "__main__":
    Node(sys.argv[1], Path(sys.argv[2]), sys.argv[3]).run()
