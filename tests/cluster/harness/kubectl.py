"""kubectl as a user calls it."""

import json
import os
import re
import subprocess

import yaml

COMMAND_SECONDS = 60


class KubectlError(Exception):
    """kubectl said no. Its text is what it wrote to standard error."""


class Kubectl:
    """kubectl for one cluster and user. `as_user` gives one that acts as somebody else."""

    def __init__(self, program, kubeconfig, cache, options=()):
        self.program = program
        self.kubeconfig = kubeconfig
        self.cache = cache
        self.options = list(options)

    def as_user(self, user, *groups):
        """The administrator, impersonating: what this may do is what `user` may do."""
        options = [f"--as={user}", *[f"--as-group={group}" for group in groups]]
        return Kubectl(self.program, self.kubeconfig, self.cache, options)

    def command(self, *arguments):
        """The command line and environment, for who starts it."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.cache)}
        return [str(self.program), *self.options, *map(str, arguments)], environment

    def run(self, *arguments, text=None, seconds=COMMAND_SECONDS):
        """What it prints."""
        command, environment = self.command(*arguments)
        done = subprocess.run(command, input=text or "", env=environment, capture_output=True, text=True, timeout=seconds)
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def apply(self, documents, *options, namespace=None):
        """`documents` is YAML, an object, or a list of objects; what they do not say about the namespace is `namespace`."""
        return self.run("apply", *_in(namespace), *options, "-f", "-", text=to_yaml(documents))

    def create(self, documents, *options, namespace=None):
        return self.run("create", *_in(namespace), *options, "-f", "-", text=to_yaml(documents))

    def delete(self, kind, *names, namespace=None, options=()):
        return self.run("delete", kind, *names, *_in(namespace), *options)

    def get_json(self, kind, name=None, *, namespace=None, selector=None):
        """An object, or the list of objects without a name."""
        arguments = ["get", kind, *([name] if name else []), *_in(namespace), "-o", "json"]
        if selector:
            arguments += ["-l", selector]
        answer = json.loads(self.run(*arguments))
        return answer if name else answer["items"]

    def get_table(self, kind, *, namespace, wide=False):
        """What `kubectl get` shows, as it is printed and as rows: {column: text} by name."""
        text = self.run("get", kind, *_in(namespace), *(["--output=wide"] if wide else []))
        heading, *lines = text.splitlines()
        # Columns are as wide as their widest entry, and three spaces apart.
        starts = [found.start() for found in re.finditer(r"(?<!\S)\S", heading)]
        ends = [*starts[1:], None]
        columns = [heading[start:end].strip() for start, end in zip(starts, ends)]
        rows = [{column: line[start:end].strip() for column, start, end in zip(columns, starts, ends)} for line in lines]
        return text, {row["NAME"]: row for row in rows}

    def wait(self, target, condition, *, namespace=None, seconds=COMMAND_SECONDS):
        """`target` is `kind/name`, `condition` what `--for` takes: `condition=Ready`, `delete`, `jsonpath={.status.x}=y`."""
        return self.run("wait", target, f"--for={condition}", f"--timeout={seconds}s", *_in(namespace), seconds=seconds + 10)

    def logs(self, pod, *options, namespace=None):
        return self.run("logs", pod, *options, *_in(namespace))

    def execute(self, pod, *command, namespace=None, text=None, seconds=COMMAND_SECONDS):
        """Runs a command in a pod, `text` as its standard input."""
        stdin = [] if text is None else ["--stdin"]
        return self.run("exec", *stdin, *_in(namespace), pod, "--", *command, text=text, seconds=seconds)


def to_yaml(documents):
    if isinstance(documents, str):
        return documents
    return yaml.safe_dump_all(documents if isinstance(documents, list) else [documents], sort_keys=False)


def _in(namespace):
    return ["--namespace", namespace] if namespace else []
