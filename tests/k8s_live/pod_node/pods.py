"""A Pod's life: network, volumes, init containers, containers with probes and restarts, status."""

import json
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from containers import Container, expanded
from network import NODE_IP, Network
from node_api import NodeApi, Object, stamp
from volumes import Volumes
from volumes import field as pod_field

_SERVICE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 10.0, 300.0


@dataclass(kw_only=True)
class Probe:
    """When a probe is asked next, and how it answered."""

    spec: Object
    next: float = 0.0
    bad: int = 0

    @property
    def failed(self) -> bool:
        """Whether it has failed often enough."""
        return self.bad >= int(self.spec.get("failureThreshold", 3))


@dataclass(kw_only=True)
class Life:
    """How a container stands."""

    state: Object = field(default_factory=lambda: {"waiting": {"reason": "PodInitializing"}})
    last: Object = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restarts: int = 0
    again_at: float = 0.0
    probes: dict[str, Probe] = field(default_factory=dict)


class Pod:
    """One Pod that is bound to this node."""

    def __init__(
        self, pod: Object, *, api: NodeApi, network: Network, folder: Path, extensions: str
    ) -> None:
        self.pod, self._api, self._network, self._extensions = pod, api, network, extensions
        metadata = pod["metadata"]
        self.namespace, self.name = metadata["namespace"], metadata["name"]
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self._folder = folder / metadata["uid"]
        self._folder.mkdir(parents=True)
        self._specs: list[Object] = pod["spec"]["containers"]
        self._firsts: list[Object] = pod["spec"].get("initContainers") or []
        self._lives = {each["name"]: Life() for each in (*self._firsts, *self._specs)}
        self.containers: dict[str, Container] = {}
        self._volumes: Volumes | None = None
        self._phase, self._initialized, self._since = "Pending", False, stamp()
        self._held: dict[str, tuple[str, str]] = {}
        """By condition: whether it holds, and since when."""
        self._said = self._net = self._ip = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop it in its time of grace, and take it off the API server."""
        if self._ending.is_set():
            return
        self._ending.set()
        grace_s = float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))
        given = self.pod["metadata"].get("deletionGracePeriodSeconds")
        threading.Thread(
            target=self._end, args=(grace_s if given is None else float(given),), daemon=True
        ).start()

    def _end(self, grace_s: float) -> None:
        self._say("stops")
        stops = [
            threading.Thread(target=each.stop, args=(grace_s,)) for each in self.containers.values()
        ]
        for each in stops:
            each.start()
        for each in stops:
            each.join()
        self._network.remove(self._net)
        self._api.remove(self._path, self.pod["metadata"]["uid"])
        if self._volumes:
            self._volumes.remove()
        self._say("is gone")

    def _live(self) -> None:
        while not self._ending.is_set():
            try:
                self._set_up()
                break
            except (OSError, KeyError) as error:
                self._say(f"cannot start: {error}")
                for life in self._lives.values():
                    life.state = {
                        "waiting": {"reason": "CreateContainerConfigError", "message": str(error)}
                    }
                self._report()
                self._ending.wait(5)
        try:
            self._initialize()
            while not self._ending.is_set() and self._phase in ("Pending", "Running"):
                if self._volumes:
                    self._volumes.refresh_when_due()
                for spec in self._specs:
                    self._look(spec)
                self._settle()
                self._report()
                self._ending.wait(0.5)
        except Exception:
            self._say(traceback.format_exc())

    def _set_up(self) -> None:
        if not self._net:
            self._net, self._ip = self._network.add(self.pod)
        self._volumes = volumes = Volumes(self._api, self.pod, self._folder, self._ip)
        volumes.make()
        for spec in (*self._firsts, *self._specs):
            self.containers[spec["name"]] = Container(
                spec,
                self.pod,
                folder=self._folder,
                volumes=volumes.paths,
                env=self._env(spec),
                net=self._net,
                ip=self._ip,
                extensions=self._extensions,
            )
        self._report()

    def _initialize(self) -> None:
        """Run the init containers, one after the other, until each has succeeded."""
        for spec in self._firsts:
            while not self._ending.is_set():
                life = self._lives[spec["name"]]
                self._begin(spec)
                self._report()
                while (code := self.containers[spec["name"]].ended()) is None:
                    if self._ending.wait(0.2):
                        return
                life.state = self._terminated(spec, code)
                life.ready = code == 0
                self._report()
                if code == 0:
                    break
                self._ending.wait(_FIRST_BACKOFF_S)
                life.restarts += 1
        self._initialized = True
        for spec in self._specs:
            if not self._ending.is_set():
                self._begin(spec)
        self._phase = "Running"

    def _begin(self, spec: Object) -> None:
        now = time.monotonic()
        life = self._lives[spec["name"]]
        kinds = ("startupProbe", "readinessProbe", "livenessProbe")
        life.probes = {
            kind: Probe(spec=spec[kind], next=now + spec[kind].get("initialDelaySeconds", 0))
            for kind in kinds
            if kind in spec
        }
        self.containers[spec["name"]].start()
        life.state = {"running": {"startedAt": stamp()}}
        life.started = "startupProbe" not in spec
        life.ready = life.started and "readinessProbe" not in spec
        self._say(f"{spec['name']} started")

    def _look(self, spec: Object) -> None:
        """See whether a container has ended, and ask its probes."""
        life, container = self._lives[spec["name"]], self.containers[spec["name"]]
        if "terminated" in life.state:
            return
        if "waiting" in life.state:
            if time.monotonic() >= life.again_at:
                self._begin(spec)
            return
        code = container.ended()
        if code is None:
            self._ask_probes(spec, life)
            return
        self._say(f"{spec['name']} ended with {code}")
        life.ready = life.started = False
        ended = self._terminated(spec, code)
        policy = self.pod["spec"].get("restartPolicy", "Always")
        if policy == "Always" or (policy == "OnFailure" and code):
            pause_s = min(_FIRST_BACKOFF_S * 2 ** (life.restarts - 1), _LAST_BACKOFF_S)
            life.again_at = time.monotonic() + (pause_s if life.restarts else 0)
            life.restarts += 1
            life.last = ended
            life.state = {"waiting": {"reason": "CrashLoopBackOff"}}
        else:
            life.state = ended

    def _ask_probes(self, spec: Object, life: Life) -> None:
        for kind, probe in life.probes.items():
            if (kind == "startupProbe") == life.started or time.monotonic() < probe.next:
                continue
            good = self._probe(spec, probe.spec)
            probe.next = time.monotonic() + probe.spec.get("periodSeconds", 10)
            probe.bad = 0 if good else probe.bad + 1
            if kind == "readinessProbe":
                ready = good or (life.ready and not probe.failed)
                if ready != life.ready:
                    self._say(f"{spec['name']} is {'ready' if ready else 'not ready'}")
                life.ready = ready
            elif kind == "startupProbe" and good:
                life.started = True
                life.ready = "readinessProbe" not in life.probes
            elif probe.failed:
                self._say(f"{spec['name']}: its {kind} failed {probe.bad} times")
                self.containers[spec["name"]].stop(30)
                return

    def _probe(self, spec: Object, probe: Object) -> bool:
        timeout_s = float(probe.get("timeoutSeconds", 1))
        if "exec" in probe:
            return self.containers[spec["name"]].execute(probe["exec"]["command"], timeout_s)
        given = probe["httpGet"]
        port = given["port"]
        if isinstance(port, str):
            named = {each.get("name"): each["containerPort"] for each in spec["ports"]}
            port = named[port]
        try:
            url = f"http://{self._ip}:{port}{given.get('path', '/')}"
            answer = requests.get(url, timeout=timeout_s, proxies={"http": ""})
        except requests.RequestException:
            return False
        return 200 <= answer.status_code < 400

    def _settle(self) -> None:
        states = [self._lives[each["name"]].state for each in self._specs]
        if all("terminated" in each for each in states):
            good = all(each["terminated"]["exitCode"] == 0 for each in states)
            self._phase = "Succeeded" if good else "Failed"
            self._network.remove(self._net)

    def _terminated(self, spec: Object, code: int) -> Object:
        ended: Object = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": self._since,
            "finishedAt": stamp(),
        }
        if code and spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            ended["message"] = self.containers[spec["name"]].said_last()
        return {"terminated": ended}

    def _env(self, spec: Object) -> dict[str, str]:
        env = dict(_SERVICE)
        for each in spec.get("env") or []:
            source = each.get("valueFrom") or {}
            if "fieldRef" in source:
                value = pod_field(self.pod, source["fieldRef"]["fieldPath"], self._ip)
            elif "secretKeyRef" in source or "configMapKeyRef" in source:
                kind = "secrets" if "secretKeyRef" in source else "configmaps"
                [chosen] = source.values()
                entries = self._api.entries(self.namespace, kind, chosen["name"])
                if chosen["key"] not in entries and chosen.get("optional"):
                    continue
                value = entries[chosen["key"]].decode()
            elif "resourceFieldRef" in source:
                kind, name = source["resourceFieldRef"]["resource"].split(".", 1)
                value = str(spec["resources"][kind][name])
            else:
                value = expanded(each.get("value", ""), env)
            env[each["name"]] = value
        return env

    def _report(self) -> None:
        """Write the Pod's status where it has changed."""
        ready = all(self._lives[each["name"]].ready for each in self._specs)
        ready = ready and self._phase == "Running"
        statuses: dict[str, Any] = {
            "initContainerStatuses": [self._status(each) for each in self._firsts],
            "containerStatuses": [self._status(each) for each in self._specs],
        }
        told = json.dumps([self._phase, self._ip, ready, statuses])
        if told == self._said or self._ending.is_set():
            return
        states = {
            "PodScheduled": True,
            "Initialized": self._initialized,
            "ContainersReady": ready,
            "Ready": ready,
        }
        for kind, holds in states.items():
            if self._held.get(kind, ("", ""))[0] != str(holds):
                self._held[kind] = (str(holds), stamp())
        body: Object = {
            "phase": self._phase,
            "hostIP": NODE_IP,
            "startTime": self._since,
            **statuses,
            "conditions": [
                {"type": kind, "status": status, "lastTransitionTime": since}
                for kind, (status, since) in self._held.items()
            ],
        }
        if self._ip:
            body |= {"podIP": self._ip, "podIPs": [{"ip": self._ip}]}
        try:
            self._api.merge(f"{self._path}/status", {"status": body})
            self._said = told
        except OSError as error:
            self._say(f"its status was not taken: {error}")

    def _status(self, spec: Object) -> Object:
        life = self._lives[spec["name"]]
        return {
            "name": spec["name"],
            "image": spec["image"],
            "imageID": spec["image"],
            "containerID": f"process://{self.pod['metadata']['uid']}/{spec['name']}",
            "ready": life.ready,
            "started": life.started,
            "restartCount": life.restarts,
            "state": life.state,
            "lastState": life.last,
        }

    def _say(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {self.namespace}/{self.name} {text}\n"
        sys.stderr.write(line)
        sys.stderr.flush()
