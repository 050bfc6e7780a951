"""Hard budgets hold over all proxies, whatever happens to proxies and operator meanwhile. The provider's own invoice is
what is compared with the limit."""

import collections
import concurrent.futures
import json

import pytest

from harness import faults, programs
from harness.provider import cost

SCRIPT = (programs.SUITE / "inside/agents.py").read_text()
# Of a token, by the prices of `Installation.model`: $2.50 and $10 for a million.
INPUT_NANO, OUTPUT_NANO = 2_500, 10_000
LIMIT = "0.05"
LIMIT_NANO = 50_000_000
AGENTS = 16
SECONDS = 90


@pytest.fixture
def spend(tollgate, agent, request):
    """`spend(until, agents)` begins to spend the money of this test's own key on its own model; its result is how often
    each answer came. An agent ends when it is refused with the code `until`."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    tollgate.apply(
        tollgate.model(name),
        tollgate.key(name, models=[name], budget={"limit": LIMIT, "period": {"lifetime": {}}}),
    )
    tollgate.wait_ready(f"modeldeployment/{name}", f"virtualkey/{name}")
    key = tollgate.generated_key(name)
    pool = concurrent.futures.ThreadPoolExecutor()

    def begin(until, agents=AGENTS, calls=10_000):
        settings = {"url": tollgate.url, "key": key, "model": name, "agents": agents, "calls": calls, "seconds": SECONDS, "until": until}
        return pool.submit(lambda: collections.Counter(json.loads(agent.run(SCRIPT, json.dumps(settings), seconds=SECONDS + 30))))

    begin.name = name
    begin.hold = hold_of_a_call(tollgate, begin)
    yield begin
    pool.shutdown()


def hold_of_a_call(tollgate, spend):
    """What a call holds, nano-dollars: read while the provider keeps one waiting."""
    tollgate.provider.script(spend.name, {"reply": {}, "gate": spend.name})
    running = spend("never", agents=1, calls=1)
    tollgate.provider.control("GET", "wait?in_flight=1")
    held = sum(tollgate.metric(pod, "tollgate_budget_held", f'budget="{tollgate.tenant}/VirtualKey/{spend.name}"') for pod in tollgate.proxies())
    tollgate.provider.control("POST", f"gate/{spend.name}")
    assert running.result() == {"200": 1} and held > 0
    return held


def billed(tollgate, model):
    return cost(tollgate.provider.invoice(model), INPUT_NANO, OUTPUT_NANO)


def wait_until_billed(tollgate, model, rows):
    """Until the provider has answered so many calls for a model."""
    before = tollgate.provider.control("GET", "status")["rows"] - len(tollgate.provider.invoice(model))
    tollgate.provider.control("GET", f"wait?rows={before + rows}")


def tell(fault, tollgate, spend, answers, total, counted):
    """What a fault came to. Of agents that are told that all is spent, no one may be told so while there is room."""
    left = LIMIT_NANO - counted >= spend.hold
    faults.tell(
        fault, len(tollgate.provider.invoice(spend.name)), limit=LIMIT_NANO, billed=total, counted=counted,
        false_refusals=answers["429 budget_exhausted"] if left else 0, unavailable=answers["503 budget_unavailable"],
    )


def test_many_agents_spend_all_of_a_budget_and_no_more(tollgate, spend):
    answers = spend("budget_exhausted").result()
    total = billed(tollgate, spend.name)
    print(f"answers {answers}; the provider billed {total} of {LIMIT_NANO} nano-dollars; a call holds {spend.hold}")
    assert total <= LIMIT_NANO
    # Nobody was told that it is spent while there was room for a call.
    assert total + spend.hold > LIMIT_NANO
    assert answers["429 budget_exhausted"] == AGENTS
    assert answers["200"] + 1 == len(tollgate.provider.invoice(spend.name))
    assert set(answers) <= {"200", "429 budget_exhausted", "429 budget_reserved"}, answers
    # Both proxies served.
    of_proxies = [tollgate.metric(pod, "tollgate_spend_usd_total", f'model="{spend.name}"') for pod in tollgate.proxies()]
    assert all(of_proxies) and sum(of_proxies) == total, of_proxies
    tollgate.wait_until_spent("VirtualKey", spend.name, total)
    tollgate.wait_until_booked(f"{tollgate.tenant}/VirtualKey/{spend.name}", lambda used: used == total)


def test_it_holds_when_a_proxy_is_killed(tollgate, spend):
    running = spend("budget_exhausted")
    wait_until_billed(tollgate, spend.name, 100)
    victim = tollgate.proxies()[0]["metadata"]["name"]
    tollgate.kubectl.delete("pod", victim, namespace=tollgate.namespace, options=["--grace-period=0", "--force"])
    answers = running.result()
    total = billed(tollgate, spend.name)
    print(f"answers {answers}; the provider billed {total} of {LIMIT_NANO} nano-dollars")
    # What the killed proxy had and nobody knows the use of is charged, and nothing else is lost.
    used, charged = tollgate.wait_until_booked(f"{tollgate.tenant}/VirtualKey/{spend.name}", lambda used: used >= total)
    tell("pod-killed", tollgate, spend, answers, total, used)
    assert total <= LIMIT_NANO
    assert answers["429 budget_exhausted"] == AGENTS
    assert total <= used <= charged <= LIMIT_NANO
    assert used + spend.hold > LIMIT_NANO
    tollgate.wait_for_proxies(2, without=[victim])


def test_without_an_operator_calls_go_on_within_what_was_granted(tollgate, spend):
    # Both proxies get allowance.
    begun = spend("never", agents=4, calls=10).result()
    assert begun == {"200": 40}
    scale = ["scale", "deployment/tollgate-operator", "--namespace", tollgate.namespace]
    tollgate.kubectl.run(*scale, "--replicas=0")
    try:
        for pod in tollgate.operators():
            tollgate.kubectl.wait(f"pod/{pod['metadata']['name']}", "delete", namespace=tollgate.namespace)
        alone = spend("budget_unavailable").result()
        within = billed(tollgate, spend.name)
        print(f"without an operator: {alone}; the provider billed {within} of {LIMIT_NANO} nano-dollars")
        assert alone["200"] > 0 and alone["503 budget_unavailable"] == AGENTS, alone
        assert within <= LIMIT_NANO
    finally:
        tollgate.kubectl.run(*scale, "--replicas=2")
    tollgate.kubectl.run("rollout", "status", "deployment/tollgate-operator", "--timeout=60s", "--namespace", tollgate.namespace, seconds=70)
    answers = spend("budget_exhausted").result()
    total = billed(tollgate, spend.name)
    print(f"with it again: {answers}; the provider billed {total} of {LIMIT_NANO} nano-dollars")
    tell("operators-away", tollgate, spend, answers + alone, total, total)
    assert total <= LIMIT_NANO
    assert total + spend.hold > LIMIT_NANO
