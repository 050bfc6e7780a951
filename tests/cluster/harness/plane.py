"""A control plane of a test's own: etcd, kube-apiserver, kube-controller-manager. No nodes, so no pods run; enough for
CRDs, admission rules, server-side apply, RBAC, garbage collection and Leases."""

import contextlib
import itertools
import socket

import urllib3

from harness import audit, cluster, programs
from harness.api import Api
from harness.pki import Authority
from harness.process import Process

SERVICES = "10.96.0.0/16"
# The first address of SERVICES, which is the Service `kubernetes`.
KUBERNETES_SERVICE = "10.96.0.1"
PODS = "10.244.0.0/16"


class Host:
    """The plane listens on 127.0.0.1, on a port that stays taken while the API server is away."""

    enter = []
    bind = advertise = "127.0.0.1"

    def __init__(self):
        # Bound and not listening: nobody else gets the port, and the API server may share it.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.outside_port = self.port


class Plane(cluster.Cluster):
    """Started when it is made. `place` is where its programs run and listen: a `Host`, or the namespaces of a node. `flags`
    are more of the API server's."""

    def __init__(self, folder, place=None, flags=()):
        self.folder = folder
        self.place = place or Host()
        self.authority = Authority(folder / "pki")
        self.inside = f"https://{self.place.advertise}:{self.place.port}"
        self.url = f"https://127.0.0.1:{self.place.outside_port}"
        # Last started, first ended.
        self.processes = []
        self._kubeconfigs = itertools.count(1)
        self._server_flags = [*self._make_server_flags(), *flags]
        super().__init__(self.make_kubeconfig("admin", ["system:masters"]), self._make_api(), folder / "kubectl-cache")
        self.audit = audit.Audit(self._audit_log, self.api)

        try:
            self.etcd = self._start_etcd()
            self.apiserver = self._start_apiserver()
            self.controllers = self._start_controllers()
        except BaseException:
            self.stop()
            raise

    def make_kubeconfig(self, user, groups=(), inside=False):
        """The path of a kubeconfig whose client certificate says this user and groups. `inside`: for where the plane runs."""
        certificate, key = self.authority.client(user, groups)
        credentials = {"client-certificate": str(certificate), "client-key": str(key)}
        return self._write_kubeconfig(user, credentials, inside)

    def make_service_account_kubeconfig(self, namespace, name):
        """The path of a kubeconfig with a token of a ServiceAccount: for a program that runs beside the tests."""
        token = self.service_account_token(namespace, name)
        return self._write_kubeconfig(f"system:serviceaccount:{namespace}:{name}", {"token": token}, inside=False)

    def restart_apiserver(self):
        """Ends the API server as `kill -9` does, starts it again and waits until it is ready."""
        with self.apiserver_gone():
            pass

    @contextlib.contextmanager
    def apiserver_gone(self):
        """For as long as this holds, connections to the API server are refused; afterwards it is ready again."""
        self.apiserver.kill()
        self.processes.remove(self.apiserver)
        try:
            yield
        finally:
            self.apiserver = self._start_apiserver()
            # Those that found nobody look again half a minute later at worst, and act on what was until then.
            if self.controllers:
                self.controllers.kill()
                self.processes.remove(self.controllers)
                self.controllers = self._start_controllers()

    @contextlib.contextmanager
    def apiserver_paused(self):
        """For as long as this holds, the API server takes connections and answers nothing; then it goes on."""
        self.apiserver.pause()
        try:
            yield
        finally:
            self.apiserver.resume()

    def stop(self):
        """Everything goes; nothing is asked to finish, since nobody will look at it again."""
        for process in reversed(self.processes):
            process.kill()

    def start(self, name, *arguments, enter=None):
        """A program of this cluster where the cluster is; `enter` is another way to get there."""
        process = Process(name, [*(enter or self.place.enter), *arguments], self.folder)
        self.processes.append(process)
        return process

    def _is_ready(self):
        try:
            return self._pool.request("GET", f"{self.url}/readyz", retries=False, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _make_api(self):
        certificate, key = self.authority.client("admin", ["system:masters"])
        self._pool = urllib3.PoolManager(cert_file=str(certificate), key_file=str(key), ca_certs=str(self.authority.certificate))
        return Api(self.url, self._pool)

    def _write_kubeconfig(self, user, credentials, inside):
        file = self.folder / f"{user.replace(':', '-')}-{next(self._kubeconfigs)}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(cluster.kubeconfig(self.inside if inside else self.url, self.authority.certificate, credentials))
        return file

    def _start_etcd(self):
        # By Unix sockets: nobody else on the machine reaches it, and no port is needed. It wants a host and a port, and
        # makes of both the name of a socket in its working folder.
        clients, peers = "unix://clients:1", "unix://peers:1"
        etcd = self.start(
            "etcd",
            programs.plane("etcd"),
            "--name=test",
            f"--data-dir={self.folder}/etcd",
            # The data ends with the run.
            "--unsafe-no-fsync",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=test={peers}",
            "--log-level=warn",
        )
        etcd.wait_until((self.folder / "clients:1").exists)
        return etcd

    def _make_server_flags(self):
        hosts = ["127.0.0.1", "localhost", KUBERNETES_SERVICE, self.place.advertise, "kubernetes.default.svc", "kubernetes.default"]
        certificate, key = self.authority.server("kube-apiserver", hosts)
        kubelet_certificate, kubelet_key = self.authority.client("kube-apiserver-kubelet-client", ["system:masters"])
        public, private = self.authority.signing_key("service-accounts")
        self._service_account_key = private
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(audit.POLICY)
        self._audit_log = self.folder / "audit.log"
        return [
            f"--etcd-servers=unix://{self.folder}/clients:1",
            f"--bind-address={self.place.bind}",
            f"--advertise-address={self.place.advertise}",
            f"--secure-port={self.place.port}",
            "--permit-port-sharing=true",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            # Without a node nobody could reach the address, and a loopback one is not allowed in an EndpointSlice.
            f"--endpoint-reconciler-type={'none' if isinstance(self.place, Host) else 'lease'}",
            # A node's name is in no DNS.
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={kubelet_certificate}",
            f"--kubelet-client-key={kubelet_key}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._audit_log}",
            # MB; a file that begins anew in between would lose what is asked for later.
            "--audit-log-maxsize=100000",
        ]

    def _start_apiserver(self):
        apiserver = self.start("kube-apiserver", programs.plane("kube-apiserver"), *self._server_flags)
        # Ready includes that RBAC's own roles are there; the controllers end without them.
        apiserver.wait_until(self._is_ready)
        return apiserver

    def _start_controllers(self):
        """`None` when KUBEBUILDER_ASSETS does not hold the program."""
        program = programs.plane("kube-controller-manager")
        if program is None:
            return None
        kubeconfig = self.make_kubeconfig("system:kube-controller-manager", inside=True)
        return self.start(
            "kube-controller-manager",
            program,
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            # Nobody asks it anything.
            "--secure-port=0",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._service_account_key}",
            f"--root-ca-file={self.authority.certificate}",
            f"--cluster-cidr={PODS}",
            "--allocate-node-cidrs=false",
        )
