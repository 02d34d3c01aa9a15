"""Whether what docs/manual.md adds up as costs is what an example makes, and whether the sums are right. The prices are its own."""

import re

from workspace import ROOT

EXAMPLE = "ec2-route-table"
HOURS = 730
METRICS_OF_A_NODE, METRICS_OF_AN_INSTANCE = 40, 2
# Of the image, in the template that makes it.
ROOT_GB = int(re.search(r"volume_size\s*= (\d+)", (ROOT / "ami/komainu.pkr.hcl").read_text())[1])


def table():
    """The rows of the table of costs, by their first words: how many, a price, and what that comes to."""
    page = (ROOT / "docs/manual.md").read_text().split("\n## Costs\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    dollars = lambda cell: float(re.search(r"\$([\d.]+)", cell)[1])
    named = {what.split(",")[0]: (many, dollars(each), dollars(sum)) for what, many, each, sum in rows[1:] if what}
    return named, dollars(rows[-1][3])


def used(stack):
    """By the table's names: each number that it must state, and how many units are billed in a month."""
    of = lambda kind: [values for _, what, values in stack if what == kind]
    instances, volumes, alarms = of("aws_instance"), of("aws_ebs_volume"), of("aws_cloudwatch_metric_alarm")
    types = {kind: sum(i["instance_type"] == kind for i in instances) for kind in ("c7g.large", "r7g.large")}
    zones = sum(len(e["subnet_ids"]) for e in of("aws_vpc_endpoint") if e["vpc_endpoint_type"] == "Interface")
    looked_at = sum(max(1, sum(bool(query["metric"]) for query in alarm["metric_query"] or [])) for alarm in alarms)
    sizes = [int(volume["size"]) for volume in volumes]
    metrics = types["c7g.large"] * METRICS_OF_A_NODE + len(instances) * METRICS_OF_AN_INSTANCE
    secrets, hosted, dashboards = (len(of(f"aws_{kind}")) for kind in ("secretsmanager_secret", "route53_zone", "cloudwatch_dashboard"))
    return {
        "nodes": ([types["c7g.large"]], types["c7g.large"] * HOURS),
        "servers": ([types["r7g.large"]], types["r7g.large"] * HOURS),
        "volumes": ([*set(sizes), len(instances), ROOT_GB], sum(sizes) + len(instances) * ROOT_GB),
        "interface endpoints": ([zones], zones * HOURS),
        "secrets": ([secrets], secrets),
        "metrics": ([], metrics),
        "alarms": ([len(alarms), looked_at], looked_at),
        "dashboard": ([dashboards], dashboards),
        "hosted zone": ([hosted], hosted),
    }


def wrong(stack):
    """What the manual states otherwise."""
    stated, total = table()
    there = used(stack)
    if set(stated) != set(there):
        yield f"docs/manual.md: costs are told of {sorted(stated)}, and are of {sorted(there)}"
        return
    for what, (many, price, comes_to) in stated.items():
        numbers, units = there[what]
        missing = [number for number in numbers if not re.search(rf"\b{number}\b", many)]
        if missing:
            yield f"docs/manual.md: {what} are said to be {many!r}, and are {missing}"
        if abs(units * price - comes_to) > 0.5:
            yield f"docs/manual.md: {what} come to ${units * price:.2f}, and not to ${comes_to:g}"
    if abs(sum(comes_to for _, _, comes_to in stated.values()) - total) > 10:
        yield f"docs/manual.md: the sums do not add up to ${total:.0f}"
