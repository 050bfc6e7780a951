"""`tests/run cluster up`: a cluster for work by hand, until ctrl-c."""

import os
import signal
import sys
import time

from harness import images, programs
from harness.node import Node
from harness.run_folder import RunFolder

READY = """
The cluster runs until ctrl-c. In another terminal:

    export KUBECONFIG={kubeconfig} PATH={programs}:$PATH
    kubectl get pods --all-namespaces

On its node are the images {images} (imagePullPolicy: IfNotPresent).
Tollgate's CRDs are installed. Logs: {folder}/*.log
"""


def main():
    lacks = os.environ.get("TOLLGATE_NODE_LACKS")
    if lacks:
        sys.exit(f"no pods can run on this machine, which lacks {lacks}")
    # Both end the pause below, and the cluster with it.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))
    run = RunFolder()
    try:
        begun = time.monotonic()
        folder = run.path / "node"
        folder.mkdir()
        node = Node(folder, run.name)
        try:
            for archive in (images.gateway(run.path), images.client(run.path)):
                node.load(archive)
            node.install_crds()
            print(f"ready in {time.monotonic() - begun:.1f} s")
            print(READY.format(kubeconfig=node.kubeconfig, programs=programs.built(), images=f"{images.GATEWAY} and {images.CLIENT}", folder=folder), flush=True)
            signal.pause()
        finally:
            node.stop()
    finally:
        run.remove()


if __name__ == "__main__":
    main()
