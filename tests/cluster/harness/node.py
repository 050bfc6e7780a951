"""A cluster of one node that runs pods: a control plane, scheduler, containerd, kubelet, kube-proxy and CoreDNS, in
namespaces of its own."""

import pathlib
import subprocess

import yaml

from harness import cgroups, images, programs
from harness.cluster import condition
from harness.namespaces import ADDRESS, Namespaces
from harness.plane import PODS, Plane

NAME = "node"
# Of PODS; the node's own address is in another part of it.
PODS_OF_NODE = "10.244.1.0/24"
DOMAIN = "cluster.local"
CNI_PLUGINS = [folder for folder in map(pathlib.Path, ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"]) if (folder / "ptp").exists()]

CONTAINERD = """\
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE no process may get a lower score than its parent, and runc ends when it tries.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{configuration}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""

# A link for each pod and no bridge: on a bridge, a pod whose call to a Service lands on its neighbour is answered past
# the node, by an address that it never called.
NETWORK = """\
{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{{
    "type": "ptp",
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{subnet}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}
  }}]
}}
"""

# No other servers are asked: a name outside of the cluster is an error at once, on every machine.
COREFILE = """\
.:53 {{
    bind {address}
    errors
    ready {address}:8181
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
}}
"""


class Node(Plane):
    """A plane with a node. `load` puts an image on it, `url_of` reaches a Service from where the tests run. `name` is
    that of the control group of its pods."""

    def __init__(self, folder, name):
        self._spaces = Namespaces(folder)
        self._cgroup = name
        self._inside = []
        try:
            super().__init__(folder, self._spaces)
        except BaseException:
            self._spaces.stop()
            raise
        try:
            self._start_node()
        except BaseException:
            self.stop()
            raise

    def load(self, archive):
        """Imports an image from the file that `images` made."""
        loaded = subprocess.run(
            [*self._spaces.enter_all, "ctr", "--namespace", "k8s.io", "images", "import", archive],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )
        assert loaded.returncode == 0, f"{archive} cannot be loaded: {loaded.stderr}"

    def url_of(self, namespace, service, port):
        """A URL that leads through the Service to its pods, as a client inside of the cluster would be led. Waits until
        kube-proxy knows of a pod that is ready."""
        address = self.api.get(f"/api/v1/namespaces/{namespace}/services/{service}")["spec"]["clusterIP"]
        forwarder = self._spaces.forward(address, port)
        forwarder.wait_until_taken()
        return f"http://127.0.0.1:{forwarder.port}"

    def address_of(self, host, port):
        """(host, port) here that lead to an address inside, such as a pod's."""
        return "127.0.0.1", self._spaces.forward(host, port).port

    def stop(self):
        # The kernel ends everything that is inside, containers too. What entered from here waits for its program.
        self._spaces.stop()
        for process in self._inside:
            process.child.wait()
        super().stop()
        cgroups.remove(self._cgroup)

    def _start_node(self):
        scheduler = self.make_kubeconfig("system:kube-scheduler", inside=True)
        self.start(
            "kube-scheduler",
            programs.built() / "kube-scheduler",
            f"--kubeconfig={scheduler}",
            f"--authentication-kubeconfig={scheduler}",
            f"--authorization-kubeconfig={scheduler}",
            "--leader-elect=false",
        )
        proxy = self._write_yaml("kube-proxy.yaml", {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self.make_kubeconfig("system:kube-proxy", inside=True))},
            "hostnameOverride": NAME,
            "clusterCIDR": PODS,
            "mode": "nftables",
            # Tests wait for it; a cluster that is busy would rather gather changes for a second.
            "nftables": {"minSyncPeriod": "50ms"},
            # The table of connections belongs to the whole machine.
            "conntrack": {"maxPerCore": 0},
        })
        self.start("kube-proxy", programs.built() / "kube-proxy", f"--config={proxy}")
        corefile = self.folder / "Corefile"
        corefile.write_text(COREFILE.format(address=ADDRESS, domain=DOMAIN, kubeconfig=self.make_kubeconfig("coredns", ["system:masters"], inside=True)))
        self.start("coredns", programs.built() / "coredns", "-conf", corefile)

        containerd = self._start_containerd()
        # Seen through the root of a process that is inside.
        containerd.wait_until(pathlib.Path(f"/proc/{containerd.child.pid}/root/run/containerd/containerd.sock").exists)
        self.load(images.pause(self.folder))
        self._start_kubelet()
        self.api.wait_until(f"/api/v1/nodes/{NAME}", _takes_pods, seconds=60)

    def _start_containerd(self):
        network = self.folder / "cni"
        network.mkdir()
        (network / "pods.conflist").write_text(NETWORK.format(subnet=PODS_OF_NODE))
        configuration = self.folder / "containerd.toml"
        configuration.write_text(CONTAINERD.format(pause=images.PAUSE, plugins=CNI_PLUGINS[0], configuration=network))
        return self._start_inside("containerd", "containerd", "--config", configuration)

    def _start_kubelet(self):
        cgroups.make(self._cgroup)
        certificate, key = self.authority.server("kubelet", [NAME, ADDRESS])
        resolver = self.folder / "resolv.conf"
        resolver.write_text(f"nameserver {ADDRESS}\n")
        configuration = self._write_yaml("kubelet.yaml", {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(self.authority.certificate)}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": [ADDRESS],
            "clusterDomain": DOMAIN,
            "resolvConf": str(resolver),
            # The machine is not the node's: it keeps its swap, its control groups and its memory killer's preferences.
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "enforceNodeAllocatable": [],
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            # A machine that is nearly full still tests.
            "localStorageCapacityIsolation": False,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
            # Its usual folder is the machine's.
            "volumePluginDir": str(self.folder / "volume-plugins"),
        })
        kubeconfig = self.make_kubeconfig(f"system:node:{NAME}", ["system:nodes"], inside=True)
        return self._start_inside(
            "kubelet",
            programs.built() / "kubelet",
            f"--config={configuration}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NAME}",
            f"--node-ip={ADDRESS}",
        )

    def _write_yaml(self, name, document):
        file = self.folder / name
        file.write_text(yaml.safe_dump(document))
        return file

    def _start_inside(self, name, *arguments):
        process = self.start(name, *arguments, enter=self._spaces.enter_all)
        self._inside.append(process)
        return process


def _takes_pods(node):
    return condition(node, "Ready") == "True" and not node["spec"].get("taints")
