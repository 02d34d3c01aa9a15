"""Makes Markdown of the figures: tables, and what was to be reached with what was.

Pure: no measuring, no clock. Losses are printed like wins.
"""

from statistics import median

BASE = "direct"
RIVAL = "PgBouncer"


def markdown(about, results, notes):
    figures = {
        case: {target: medians(rounds) for target, rounds in targets.items()}
        for case, targets in results.items()
    }
    parts = [header(about)]
    parts += pgbench_tables(figures, about["targets"])
    parts += connect_tables(figures, about["targets"])
    parts += copy_table(figures, about)
    parts += memory_table(figures, about["targets"])
    parts += goals(figures)
    if notes:
        parts.append("### Notes\n\n" + "\n".join(f"- {' '.join(note.split())}" for note in notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def medians(rounds):
    keys = rounds[0].keys()
    present = {key: [figures[key] for figures in rounds if figures[key] is not None] for key in keys}
    return {key: median(values) if values else None for key, values in present.items()}


def header(about):
    versions = "; ".join(about["versions"][name] for name in distinct_versions(about))
    return (
        f"{about['date']}, {about['processors']} × {about['processor']}, {about['memory_gb']} GB, "
        f"Linux {about['kernel']}. {versions}.\n"
        f"Clients, proxies and servers share the machine (load before: {about['load']:.1f}). {about['rounds']} rounds of {about['seconds']} s "
        f"in turn, medians; {about['standbys']} standbys; pools of {about['pool_size']} connections to a server."
    )


def distinct_versions(about):
    seen = {}
    for name in about["targets"]:
        seen.setdefault(about["versions"][name], name)
    return seen.values()


def table(title, explanation, columns, rows):
    if not rows:
        return ""
    lines = [f"### {title}", ""]
    if explanation:
        lines += [explanation, ""]
    lines += ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows]
    return "\n".join(lines)


def pgbench_tables(figures, targets):
    cases = [case for case in figures if case.split()[0] in ("simple", "extended", "prepared", "TLS")]
    if not cases:
        return []
    proxies = [target for target in targets if target != BASE]
    label = lambda case: case + (" client" if case.endswith(" 1") else " clients")
    absolute = lambda case, key: show(value(figures, case, BASE, key), key)
    ratios = lambda case, key: [show_ratio(ratio(figures, case, target, BASE, key)) for target in proxies]
    base_columns = [f"{BASE}, per second", *proxies]
    return [
        table(
            "Throughput, `pgbench -S`",
            "As a ratio to PostgreSQL direct; more is better. TLS rows, where direct has none, per second.",
            base_columns,
            [
                (label(case), [absolute(case, "tps")] + (
                    ratios(case, "tps") if BASE in figures[case]
                    else [show(value(figures, case, target, "tps"), "tps") for target in proxies]
                ))
                for case in cases
            ],
        ),
        table(
            "Latency, `pgbench -S`",
            "Mean, as a ratio to direct, and in brackets the 99th percentile in ms; less is better. "
            "TLS rows, where direct has none, in ms.",
            [f"{BASE}, ms", *proxies],
            [
                (label(case), latency_cells(figures, case, [BASE])
                 + latency_cells(figures, case, proxies, BASE if BASE in figures[case] else None))
                for case in cases
            ],
        ),
        table(
            "CPU of the proxy, µs per query",
            f"User and system time of all its threads and processes from /proc (ms per 1,000 queries); "
            f"in brackets as a ratio to {RIVAL}; less is better. The bare relay reads nothing, so no proxy can take less.",
            proxies,
            [(label(case), cpu_cells(figures, case, proxies)) for case in cases],
        ),
    ]


def connect_tables(figures, targets):
    cases = [case for case in figures if case.startswith("connect ")]
    if not cases:
        return []
    proxies = [target for target in targets if target != BASE]
    return [
        table(
            "A new connection for each transaction, `pgbench -S -C`, 10 clients",
            "Connections per second. *trust* leaves out what SCRAM costs.",
            [BASE, *proxies],
            [
                (case.removeprefix("connect "), [show(value(figures, case, t, "tps"), "tps") for t in [BASE, *proxies]])
                for case in cases
            ],
        ),
        table(
            "Latency of a connection with its transaction",
            "Mean in ms, and in brackets the 99th percentile of the transaction alone; less is better.",
            [BASE, *proxies],
            [(case.removeprefix("connect "), latency_cells(figures, case, [BASE, *proxies])) for case in cases],
        ),
        table(
            "CPU of the proxy, µs per connection with its transaction",
            f"In brackets as a ratio to {RIVAL}.",
            proxies,
            [(case.removeprefix("connect "), cpu_cells(figures, case, proxies)) for case in cases],
        ),
    ]


def copy_table(figures, about):
    cases = [case for case in figures if case.startswith("copy ")]
    targets = [target for target in about["targets"] if any(target in figures[case] for case in cases)]
    rows = []
    for case in cases:
        format = case.removeprefix("copy ")
        rate = [show(value(figures, case, target, "mb_per_s"), "tps") for target in targets]
        rows.append((f"{format}, MB per second", rate))
        cpu = [show(value(figures, case, target, "cpu_s_per_gb"), "s") for target in targets]
        rows.append((f"{format}, CPU s per GB", blank_base(targets, cpu)))
        growth = [show(value(figures, case, target, "growth_kb"), "tps") for target in targets]
        rows.append((f"{format}, memory grows by, kB", blank_base(targets, growth)))
    if not rows:
        return []
    title = f"`COPY large TO STDOUT`, {about['copy_mb']} MB in rows of 1 kB"
    explanation = "As text the server is the limit: it looks at every byte. Pgpool-II asks a standby."
    return [table(title, explanation, targets, rows)]


def blank_base(targets, cells):
    return ["" if target == BASE else cell for target, cell in zip(targets, cells)]


def memory_table(figures, targets):
    cases = [case for case in figures if case.startswith("idle ")]
    if not cases:
        return []
    proxies = [target for target in targets if target != BASE]
    row = lambda case: [show(value(figures, case, target, "kb_per_client"), "kb") for target in proxies]
    return [
        table(
            "Memory for each idle client, kB",
            "Logged in by SCRAM, one query asked, then idle. Pgpool-II, with a process for each client, has fewer.",
            proxies,
            [(f"{int(case.split()[1]):,} clients", row(case)) for case in cases],
        )
    ]


def goals(figures):
    """What was to be reached, what was, and whether."""
    rows = []

    def at_most(text, measured, limit):
        if measured is not None:
            rows.append((text, [f"≤ {limit:g}", f"{measured:.2f}", "yes" if measured <= limit else "**no**"]))

    def at_least(text, measured, limit):
        if measured is not None:
            rows.append((text, [f"≥ {limit:g}", f"{measured:.2f}", "yes" if measured >= limit else "**no**"]))

    for mode in ("simple", "extended", "prepared"):
        for clients, limit in ((10, 0.95), (50, 0.85), (200, 0.85)):
            case = f"{mode} {clients}"
            cpu = ratio(figures, case, "komainu", RIVAL, "cpu_us")
            at_most(f"CPU per query to {RIVAL}'s, {case} clients", cpu, limit)
        for clients in (50, 200):
            case = f"{mode} {clients}"
            tps = ratio(figures, case, "komainu", RIVAL, "tps")
            at_least(f"throughput to {RIVAL}'s, {case} clients", tps, 1)
        case = f"{mode} 50"
        two = ratio(figures, case, "komainu 2 workers", "komainu", "cpu_us")
        at_most(f"CPU per query with two workers to one's, {case} clients", two, 1.1)
        split = ratio(figures, case, "komainu split", RIVAL, "cpu_us")
        at_most(f"CPU per query, splitting, to {RIVAL}'s without, {case} clients", split, 1)
    for case in figures:
        if case.startswith("connect "):
            cpu = ratio(figures, case, "komainu", RIVAL, "cpu_us")
            at_most(f"CPU per connection to {RIVAL}'s, {case.removeprefix('connect ')}", cpu, 1)
        if case.startswith("idle "):
            memory = value(figures, case, "komainu", "kb_per_client")
            at_most(f"kB for each of {int(case.split()[1]):,} idle clients", memory, 6)
    for case in ("copy text", "copy binary"):
        rate = ratio(figures, case, "komainu", RIVAL, "mb_per_s")
        at_least(f"COPY rate to {RIVAL}'s, {case.removeprefix('copy ')}", rate, 1.25)
    if not rows:
        return []
    return [table("What was to be reached", "", ["wanted", "measured", "reached"], rows)]


def cpu_cells(figures, case, proxies):
    cells = []
    for target in proxies:
        cpu = value(figures, case, target, "cpu_us")
        share = ratio(figures, case, target, RIVAL, "cpu_us")
        bracket = "" if target == RIVAL or share is None else f" ({share:.2f})"
        cells.append("" if cpu is None else f"{cpu:.1f}{bracket}")
    return cells


def latency_cells(figures, case, targets, base=None):
    """In milliseconds, or as ratios to a base."""
    cells = []
    for target in targets:
        if base is None:
            text = show(value(figures, case, target, "latency_ms"), "ms")
        else:
            text = show_ratio(ratio(figures, case, target, base, "latency_ms"))
        cells.append(with_p99(text, figures, case, target))
    return cells


def with_p99(text, figures, case, target):
    p99 = value(figures, case, target, "p99_ms")
    return text if p99 is None or not text else f"{text} ({p99:.2f})"


def value(figures, case, target, key):
    return figures.get(case, {}).get(target, {}).get(key)


def ratio(figures, case, target, base, key):
    above, below = value(figures, case, target, key), value(figures, case, base, key)
    return above / below if above is not None and below else None


def show(number, kind):
    if number is None:
        return ""
    return f"{number:,.0f}" if kind == "tps" else f"{number:.2f}"


def show_ratio(number):
    return "" if number is None else f"{number:.2f}"
