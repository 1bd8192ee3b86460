# SPDX-License-Identifier: Apache-2.0
"""The benchmark's table: ratios to native in groups, geometric means, and what is wanted of doppel."""
import math
import statistics

GROUPS = [
    ("int", "integer, branches, calls, indirect jumps"),
    ("ia32", "32-bit code"),
    ("fp", "floating point, SSE, AVX2"),
    ("mem", "memory streams, rep movs, pointer chase"),
    ("code", "generated code"),
    ("kernel", "kernel work"),
    ("everyday", "everyday"),
]
# Of the engine that translates, as times native; of the boots in seconds: required, aimed for.
WANTED = {
    "int": (1.3, 1.1), "fp": (1.1, 1.02), "mem": (1.15, 1.05), "code": (8, 2), "kernel": (8, 4), "everyday": (3, 1.4),
    "getpid": (2, 1.3), "fork": (10, 5), "boot": (1.5, 0.6),
}
UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns"))


def best(samples):
    """The least disturbed one: other work on the host only ever adds."""
    return min(samples)


def spread(samples):
    return statistics.median(samples) / min(samples) - 1


def time_text(ns):
    for scale, unit in UNITS:
        if ns >= scale or unit == "ns":
            v = ns / scale
            return f"{v:.3g} {unit}" if v < 1000 else f"{v:.0f} {unit}"
    return ""


def ratio_text(v):
    return f"{v:.2f}" if v < 10 else f"{v:.1f}" if v < 100 else f"{v:.0f}"


def verdict(value, wanted):
    if value is None or wanted is None:
        return ""
    return "at the aim" if value <= wanted[1] else "as required" if value <= wanted[0] else "too slow"


class Report:
    """results: machine name -> {"title", "works", "boot", "shell", "clock", "notes"}; groups: group -> works to show,
    whole: the groups that are complete."""

    def __init__(self, results, groups, whole, engine, boot):
        self.results, self.groups, self.whole, self.boot = results, groups, whole, boot
        self.native = results.get("native", {"works": {}})
        self.vms = [m for m in results if m != "native"]
        self.engine = engine if engine in results else None     # the one that is held against what is wanted
        self.rows = []
        self.notes = []
        self.wrong = False

    def ratio(self, machine, work):
        """Ratio to native and its text."""
        mine, host = self.results[machine]["works"].get(work), self.native["works"].get(work)
        if not mine:
            return None, "-"
        if "samples" not in mine:
            text = "no CPU" if mine["why"] == "unsupported" else "-" if mine["why"].startswith("not run") else "FAILED"
            if text == "FAILED":
                self.notes.append(f"{self.results[machine]['title']}: {work}: {mine['why']}")
            return None, text
        if not host or "samples" not in host:
            return None, time_text(best(mine["samples"]))
        if mine["sum"] != host["sum"]:
            self.wrong = True
            self.notes.append(f"{self.results[machine]['title']}: {work}: computed {mine['sum']}, the host {host['sum']}")
            return None, "WRONG"
        r = best(mine["samples"]) / best(host["samples"])
        noise = spread(mine["samples"]) + spread(host["samples"])
        return r, ratio_text(r) + (f" ±{noise * 100:.0f}%" if noise > 0.05 else "")

    def add_work(self, work):
        host = self.native["works"].get(work, {})
        cells = [self.ratio(m, work) for m in self.vms]
        judged = cells[self.vms.index(self.engine)][0] if self.engine else None
        self.rows.append([f"  {work}", time_text(best(host["samples"])) if "samples" in host else "-"] +
                         [c[1] for c in cells] + self.wanted_cells(WANTED.get(work), judged))

    def wanted_cells(self, wanted, value):
        return [f"{wanted[0]:g}", f"{wanted[1]:g}", verdict(value, wanted)] if wanted else ["", "", ""]

    def mean(self, machine, works):
        """Geometric mean of what could be measured, and its text."""
        got = [r for r in (self.ratio(machine, w)[0] for w in works) if r]
        if not got:
            return None, "-"
        m = math.exp(sum(map(math.log, got)) / len(got))
        return m, ratio_text(m) + (f" ({len(got)}/{len(works)})" if len(got) < len(works) else "")

    def add_group(self, group, title):
        works = self.groups.get(group, [])
        if not works:
            return
        self.rows.append([title] + [""] * (len(self.vms) + 4))
        for w in works:
            self.add_work(w)
        if group not in self.whole:
            return
        means = [self.mean(m, works) for m in self.vms]
        judged = means[self.vms.index(self.engine)][0] if self.engine else None
        self.rows.append(["  geometric mean", ""] + [m[1] for m in means] + self.wanted_cells(WANTED.get(group), judged))

    def add_boot(self):
        rows = []
        for field, title in (("boot", "  start to first process, s"), ("shell", "  start to shell of `make run`, s")):
            values = [self.results[m].get(field) for m in self.vms]
            if not any(values):
                continue
            cells = [f"{best(v):.2f}" + (f" ±{spread(v) * 100:.0f}%" if spread(v) > 0.05 else "") if v else "-" for v in values]
            mine = self.results[self.engine].get(field) if self.engine else None
            rows.append([title, "-"] + cells + self.wanted_cells(WANTED.get(field), best(mine) if mine else None))
        if rows:
            self.rows += [["boot of Debian's cloud kernel"] + [""] * (len(self.vms) + 4)] + rows

    def text(self):
        for group, title in GROUPS:
            self.add_group(group, title)
        if self.boot:
            self.add_boot()
        head = ["work, in the guest", "native"] + [f"{self.results[m]['title']}, x native" for m in self.vms]
        head += ["required", "aim for", f"{self.engine} is" if self.engine else ""]
        widths = [max(len(r[i]) for r in [head] + self.rows) for i in range(len(head))]
        out = []
        for r in [head, ["-" * n for n in widths]] + self.rows:
            out.append("| " + " | ".join(c.ljust(n) if k == 0 else c.rjust(n) for k, (c, n) in enumerate(zip(r, widths))) + " |")
        return "\n".join(out)

    def all_notes(self):
        """What the table cannot say, after text() has made it."""
        notes = list(self.notes)
        for m in self.vms:
            title = self.results[m]["title"]
            notes += [f"{title}: {n}" for n in self.results[m]["notes"]]
            off = [f"{name} ({own:.2f} s were {host:.2f} s)" for name, own, host in self.results[m]["clock"]
                   if host > 0.2 and abs(own / host - 1) > 0.1]
            if off:
                notes.append(f"{title}: the guest's clock is off by more than a tenth in: {', '.join(off)}")
        return list(dict.fromkeys(notes))
