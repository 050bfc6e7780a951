"""Where a node lives: namespaces of its own for network, mounts and processes. Inside, every program has its usual paths
and ports; outside, nothing of it is seen. When the first process goes, the kernel ends all others, drops the mounts and
the network with them."""

from harness import programs
from harness.forward import Forwarder
from harness.process import Process

ADDRESS = "10.244.0.1"

# What a kubelet would set in the whole machine, among it that an oops of the kernel restarts it. It finds these values
# in files of the run instead.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}

# The node's address is on a bridge without ports, so that it is there whatever pods come and go. Traffic to Services
# needs a route before kube-proxy changes where it goes.
SETUP = """\
set -eu
ip link set lo up
ip link add node type bridge
ip address add {address}/24 dev node
ip link set node up
ip route add default dev node
echo 1 >/proc/sys/net/ipv4/ip_forward

# In memory: images are thousands of small files, which a disk takes ten seconds to write and to remove.
for folder in /var/lib /var/log /run; do
    mount -t tmpfs node "$folder"
done
for setting in {settings}; do
    mount --bind "{folder}/kernel/$setting" "/proc/sys/$setting"
done
touch {folder}/inside
exec {pause}
"""


class Namespaces:
    """A place for a plane and for what runs containers."""

    bind = advertise = ADDRESS
    port = 6443

    def __init__(self, folder):
        for name, value in KERNEL_SETTINGS.items():
            file = folder / "kernel" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        settings = " ".join(KERNEL_SETTINGS)
        setup = SETUP.format(address=ADDRESS, folder=folder, settings=settings, pause=programs.built() / "pause")
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = Process("namespaces", [*unshare, "sh", "-c", setup], folder)
        self._holder.wait_until((folder / "inside").exists)
        of_holder = f"/proc/{self._holder.child.pid}/ns"
        # The process identifier stays that of what is started.
        self.enter = ["nsenter", f"--net={of_holder}/net"]
        # For what starts containers: it sees the processes and mounts inside, and its own stay there.
        self.enter_all = [*self.enter, f"--mount={of_holder}/mnt", f"--pid={of_holder}/pid_for_children"]
        self._forwarders = {}
        self._network = f"{of_holder}/net"
        self.outside_port = self.forward(ADDRESS, self.port).port

    def forward(self, host, port):
        """What leads from 127.0.0.1 outside to an address inside."""
        if (host, port) not in self._forwarders:
            self._forwarders[host, port] = Forwarder(self._network, host, port)
        return self._forwarders[host, port]

    def stop(self):
        for forwarder in self._forwarders.values():
            forwarder.stop()
        self._holder.kill()
