#!/usr/bin/env python3
"""Writes `cases.jsonl`: what calls cost, computed apart from the gateway.

Reads the same price data (`snapshot/data/prices.jsonl`) and applies the providers' rules once more, in another language
and with exact fractions; nothing of the Rust code is used. `main.rs` compares. Examples whose costs were computed by
others are checked first. Deterministic; run it after the price data changed:

    snapshot/tests/prices/derive.py > snapshot/tests/prices/cases.jsonl
"""

import json
import math
import pathlib
import sys
from datetime import datetime, timezone
from fractions import Fraction

DATA = pathlib.Path(__file__).parent.parent.parent / "data" / "prices.jsonl"

# Unit in the data file: its name in cases, and what is paid where the model has no rate for it.
UNITS = {
    "in": ("input_token", None),
    "out": ("output_token", None),
    "think": ("reasoning_token", "out"),
    "cr": ("cache_read_token", "in"),
    "xcr": ("explicit_cache_read_token", "cr"),
    "cra": ("cache_read_audio_token", "cr"),
    "cri": ("cache_read_image_token", "cr"),
    "cw": ("cache_write_token", "in"),
    "cw1h": ("cache_write_1h_token", "cw"),
    "cw12h": ("cache_write_12h_token", "cw1h"),
    "cwa": ("cache_write_audio_token", "cw"),
    "aud": ("input_audio_token", "in"),
    "oaud": ("output_audio_token", "out"),
    "imt": ("input_image_token", "in"),
    "oimt": ("output_image_token", "out"),
    "vidt": ("input_video_token", "in"),
    "ovidt": ("output_video_token", "out"),
    "cite": ("citation_token", None),
    "chr": ("input_character", None),
    "ochr": ("output_character", None),
    "sec": ("input_second", None),
    "osec": ("output_second", None),
    "asec": ("input_audio_second", None),
    "vsec": ("input_video_second", None),
    "ovsec": ("output_video_second", None),
    "img": ("input_image", None),
    "oimg": ("output_image", None),
    "px": ("input_pixel", None),
    "opx": ("output_pixel", None),
    "req": ("request", None),
    "qry": ("query", None),
    "web": ("web_search", None),
    "map": ("maps_grounding_query", None),
    "code": ("code_interpreter_session", None),
    "ocr": ("ocr_page", None),
    "note": ("annotation_page", None),
}
TOKENS = {unit for unit, (_, other) in UNITS.items() if other or unit in ("in", "out")}
CODES = {name: unit for unit, (name, _) in UNITS.items()}


class Rate:
    """One rate of a model, and when it holds."""

    def __init__(self, text):
        unit, usd, *conditions = text.split(" ")
        self.unit, self.usd = unit, Fraction(usd)
        self.tier = self.size = self.results = None
        self.least_tokens = self.more_units_than = 0
        self.off_peak = False
        for condition in conditions:
            name, _, value = condition.partition("=")
            if name == "tier":
                self.tier = value
            elif name == "from":
                self.least_tokens = int(value)
            elif name == "off":
                self.off_peak = True
            elif name == "size":
                self.size = value
            elif name == "results":
                self.results = tuple(int(end) for end in value.split("-"))
            elif name == "above":
                self.more_units_than = int(value)
            else:
                raise ValueError(text)


class Model:
    def __init__(self, line):
        data = json.loads(line)
        self.name = data["m"]
        self.rates = [Rate(text) for text in data["r"]]
        self.factors = {name: Fraction(millionths, 1_000_000) for name, millionths in data.get("x", {}).items()}
        self.windows = data.get("w", [])

    def has(self, unit):
        return any(rate.unit == unit for rate in self.rates)

    def is_off_peak(self, at):
        if at is None:
            return False
        moment = datetime.fromtimestamp(at, timezone.utc)
        minute = moment.hour * 60 + moment.minute
        for weekdays, start, end in self.windows:
            # An end that is not after the start is midnight or lies behind it.
            inside = start <= minute < end if start < end else minute >= start or minute < end
            if weekdays & (1 << moment.weekday()) and inside:
                return True
        return False

    def rate_of(self, unit, quantity, case):
        """The rate of a unit: the served tier before the usual one, within a tier the highest context threshold that
        the whole input reaches, then off-peak, then the rate that names the case's size before one that names none."""
        fitting = [rate for rate in self.rates if rate.unit == unit]
        asked = (case.get("size") or "medium") if unit == "web" else case.get("resolution")
        tiers = ["" if case.get("tier") is None else case["tier"], None]
        thresholds = sorted({rate.least_tokens for rate in fitting}, reverse=True)
        for tier in tiers:
            for least in thresholds:
                if least > case.get("input_tokens", 0):
                    continue
                for off_peak in [True, False]:
                    if off_peak and not self.is_off_peak(case.get("at")):
                        continue
                    here = [
                        rate
                        for rate in fitting
                        if (rate.tier, rate.least_tokens, rate.off_peak) == (tier, least, off_peak)
                    ]
                    found = self.of_size(here, asked, quantity, case.get("results"))
                    if found is not None:
                        return found
        return None

    @staticmethod
    def of_size(rates, asked, quantity, results):
        named = []
        for rate in rates:
            if rate.size is not None and asked in (None, rate.size):
                named.append((1, rate.usd))
            if rate.results is not None and (results is None or rate.results[0] <= results <= rate.results[1]):
                named.append((1, rate.usd))
            if rate.more_units_than and quantity > rate.more_units_than:
                named.append((rate.more_units_than + 1, rate.usd))
        if named:
            # Where the case does not say which, the dearest.
            most = max(rank for rank, _ in named)
            return max(usd for rank, usd in named if rank == most)
        plain = [r.usd for r in rates if r.size is None and r.results is None and not r.more_units_than]
        return max(plain, default=None)

    def rate_or_other(self, unit, quantity, case):
        while unit is not None:
            found = self.rate_of(unit, quantity, case)
            if found is not None:
                return found
            unit = UNITS[unit][1]
        return None

    def factor(self, case):
        """All that applies to the region and the speed, multiplied."""
        region, product = case.get("region"), Fraction(1)
        for name, factor in self.factors.items():
            if name == "fast":
                applies = case.get("speed") == "fast"
            elif name == "regional_endpoint_uplift":
                applies = region is not None and region != "global"
            elif name.startswith("regional_processing_uplift_"):
                applies = region == name.removeprefix("regional_processing_uplift_")
            else:
                applies = region == name
            if applies:
                product *= factor
        return product

    def nano_usd(self, case):
        """The exact sum, rounded up to a nano-USD once. `None`: something has no rate."""
        quantities = case["quantities"] if "quantities" in case else split(case["usage"])
        case = {"input_tokens": case.get("usage", {}).get("input_tokens", 0), **case}
        paid_by_call = self.has("req") and not self.has("in") and not self.has("out")
        total = Fraction(0)
        for name, quantity in quantities.items():
            if quantity == 0:
                continue
            rate = self.rate_or_other(CODES[name], quantity, case)
            if rate is None:
                if paid_by_call and CODES[name] in TOKENS:
                    continue
                return None
            total += rate * quantity
        if "request" not in quantities:
            total += self.rate_of("req", 1, case) or 0
        return math.ceil(total * self.factor(case) * 1_000_000_000)


def split(usage):
    """A report's totals as parts that do not overlap: totals hold what caches did, what other media are, and thinking."""
    part = lambda name: usage.get(name, 0)
    inside = ["cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"]
    media = ["audio_input_tokens", "image_input_tokens"]
    said = ["reasoning_tokens", "audio_output_tokens", "image_output_tokens"]
    text = part("input_tokens") - sum(map(part, inside + media))
    words = part("output_tokens") - sum(map(part, said))
    assert text >= 0 and words >= 0, usage
    return {
        "input_token": text,
        "cache_read_token": part("cache_read_tokens"),
        "cache_write_token": part("cache_write_5m_tokens"),
        "cache_write_1h_token": part("cache_write_1h_tokens"),
        "input_audio_token": part("audio_input_tokens"),
        "input_image_token": part("image_input_tokens"),
        "output_token": words,
        "reasoning_token": part("reasoning_tokens"),
        "output_audio_token": part("audio_output_tokens"),
        "output_image_token": part("image_output_tokens"),
        "web_search": part("web_searches"),
    }


# Costs that others computed: published price lists times usage, and LiteLLM 1.109.1.
KNOWN = [
    ("gpt-4o", {"input_tokens": 1000, "cache_read_tokens": 600, "output_tokens": 200}, {}, "0.00375"),
    (
        "claude-sonnet-4-5",
        {
            "input_tokens": 8300,
            "cache_read_tokens": 5000,
            "cache_write_5m_tokens": 2000,
            "cache_write_1h_tokens": 1000,
            "output_tokens": 400,
        },
        {},
        "0.0219",
    ),
    ("gemini/gemini-2.5-pro", {"input_tokens": 250_000, "output_tokens": 1000, "reasoning_tokens": 400}, {}, "0.64"),
    ("gemini/gemini-2.5-pro", {"input_tokens": 150_000, "output_tokens": 1000}, {}, "0.1975"),
    ("gpt-5.5", {"input_tokens": 300_000, "output_tokens": 1000}, {}, "3.045"),
    ("gpt-5.5", {"input_tokens": 300_000, "output_tokens": 1000}, {"tier": "flex"}, "1.5225"),
    ("gpt-5.5", {"input_tokens": 1000, "output_tokens": 1000}, {"tier": "priority"}, "0.0875"),
    ("dashscope/qwen-flash", {"input_tokens": 20_000, "output_tokens": 1000}, {}, "0.0014"),
    (
        "gpt-audio",
        {"input_tokens": 1000, "audio_input_tokens": 400, "output_tokens": 500, "audio_output_tokens": 300},
        {},
        "0.0355",
    ),
    ("gpt-4o", {"input_tokens": 1_000_000, "output_tokens": 100_000}, {"tier": "batch"}, "1.75"),
    ("whisper-1", {"input_second": 90}, {}, "0.009"),
    ("gpt-image-1", {"input_token": 50, "input_image_token": 1000, "output_image_token": 4160}, {}, "0.17665"),
    ("rerank-v3.5", {"query": 3}, {}, "0.006"),
    ("tts-1", {"input_character": 1000}, {}, "0.015"),
]

# Monday 2026-11-16 00:00 UTC; a deep night, a morning, a Saturday.
MONDAY = 1_794_787_200
MOMENTS = [MONDAY + 1800, MONDAY + 9 * 3600, MONDAY + 5 * 86_400 + 12 * 3600]


def known_cases():
    for model, counted, more, usd in KNOWN:
        kind = "usage" if "input_tokens" in counted else "quantities"
        yield {"model": model, **more, kind: counted}, Fraction(usd)


def features(model):
    """What is particular about a model's prices: each combination is a reason to have a case."""
    for rate in model.rates:
        sized = "size" if rate.size else "results" if rate.results else "above" if rate.more_units_than else ""
        yield (rate.unit, rate.tier, rate.least_tokens, rate.off_peak, sized)
    for name in model.factors:
        yield ("factor", name)


def chosen(models):
    """Of all that share a feature the first, one from the middle and the last."""
    having = {}
    for model in models:
        for feature in set(features(model)):
            having.setdefault(feature, []).append(model.name)
    names = set()
    for with_it in having.values():
        names.update((with_it[0], with_it[len(with_it) // 2], with_it[-1]))
    return [model for model in models if model.name in names]


def usages(model, turn):
    """Reports on both sides of every threshold of the model, of several compositions."""
    thresholds = sorted({rate.least_tokens for rate in model.rates} - {0})
    sizes = [1, 997, 12_345] + [size for at in thresholds for size in (at - 1, at)]
    for size in sizes:
        turn += 1
        output = 7 * turn % 4001 + 1
        usage = {"input_tokens": size, "output_tokens": output}
        if turn % 3 == 0:
            usage |= {"cache_read_tokens": size // 3, "cache_write_5m_tokens": size // 5}
            usage |= {"cache_write_1h_tokens": size // 7, "reasoning_tokens": output // 2}
        if turn % 4 == 1:
            usage |= {"audio_input_tokens": size // 5, "image_input_tokens": size // 9}
            usage |= {"audio_output_tokens": output // 3, "image_output_tokens": output // 7}
        if turn % 5 == 2:
            usage |= {"web_searches": turn % 4, "reasoning_tokens": output // 3}
        yield usage


def cases_of(model, turn):
    tiers = [None] + sorted({rate.tier for rate in model.rates if rate.tier})
    regions = [None, "eu", "us", "us-east5", "global"] if model.factors else [None]
    speeds = [None, "fast"] if "fast" in model.factors else [None]
    moments = MOMENTS if model.windows else [None]
    if model.has("in") or model.has("out") or model.has("req"):
        for usage in usages(model, turn):
            turn += 1
            for tier in tiers if len(tiers) < 4 else (tiers[turn % len(tiers)], tiers[(turn + 2) % len(tiers)]):
                yield {
                    "model": model.name,
                    "tier": tier,
                    "region": regions[turn % len(regions)],
                    "speed": speeds[turn % len(speeds)],
                    "at": moments[turn % len(moments)],
                    "usage": usage,
                }
    for unit in sorted({rate.unit for rate in model.rates} - {"in", "out"}):
        rates = [rate for rate in model.rates if rate.unit == unit]
        asked = "size" if unit == "web" else "resolution"
        sizes = sorted({rate.size for rate in rates if rate.size}) + [None]
        results = sorted({end for rate in rates if rate.results for end in rate.results}) + [None]
        above = sorted({rate.more_units_than for rate in rates if rate.more_units_than})
        unit_tiers = [None] + sorted({rate.tier for rate in rates if rate.tier})
        for quantity in [1 + turn % 17, 1000] + [edge for at in above for edge in (at, at + 1)]:
            for size in sizes:
                for count in results:
                    turn += 1
                    tier = unit_tiers[turn % len(unit_tiers)]
                    case = {"model": model.name, "tier": tier, asked: size, "results": count}
                    yield case | {"quantities": {UNITS[unit][0]: quantity}}


def main():
    models = [Model(line) for line in DATA.read_text().splitlines()]
    by_name = {model.name: model for model in models}
    cases = []
    for case, usd in known_cases():
        computed = by_name[case["model"]].nano_usd(case)
        assert computed == usd * 1_000_000_000, (case, computed)
        cases.append(case)
    for index, model in enumerate(chosen(models)):
        cases.extend(cases_of(model, index))
    for case in cases:
        case["nano_usd"] = by_name[case["model"]].nano_usd(case)
        # `nano_usd` stays where it is null: no price is a result.
        kept = {name: value for name, value in case.items() if value is not None or name == "nano_usd"}
        print(json.dumps(kept, separators=(",", ":")))
    priced = sum(case["nano_usd"] is not None for case in cases)
    print(f"{len(cases)} cases, {priced} with a price, of {len({c['model'] for c in cases})} models", file=sys.stderr)


if __name__ == "__main__":
    main()
