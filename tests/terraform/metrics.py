"""Whether what alarms and dashboards look at is what komainu, the instances and AWS really tell, by these names."""

import json
import re

from workspace import ROOT

AROUND = {"Cluster", "Node"}
# What AWS tells of its instances.
BY_AWS = {
    ("AWS/EC2", "StatusCheckFailed"): {"InstanceId"},
    ("AWS/EC2", "StatusCheckFailed_Instance"): {"InstanceId"},
    ("AWS/RDS", "FreeStorageSpace"): {"DBInstanceIdentifier"},
}
SEARCHED = re.compile(r"SEARCH\('\{([^}]*)\} MetricName=\"(\w+)\"((?: \w+=\"[^\"]*\")*)', '(\w+)', \d+\)")
STATISTICS = {"Average", "Maximum", "Minimum", "Sum"}


def table(page, title):
    """The rows of the table under a heading of docs/metrics.md, cells without their backquotes."""
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip("` ") for cell in row] for row in rows]


def catalogue():
    """What komainu sends to CloudWatch: the dimensions of each metric. A test of komainu compares the page with the code."""
    page = (ROOT / "docs/metrics.md").read_text()
    return {
        name: AROUND | set(re.findall(r"\w+", dimensions))
        for name, _unit, dimensions, _meaning in table(page, "As CloudWatch shows them")
    }


def by_the_agent():
    """What the image's CloudWatch agent sends."""
    configuration = json.loads((ROOT / "ami/files/cloudwatch-agent.json").read_text())["metrics"]
    around = set(configuration["append_dimensions"])
    kinds = configuration["metrics_collected"]
    dimensions = {"disk": {"path", "fstype"} | (set() if kinds["disk"]["drop_device"] else {"device"}), "mem": set()}
    told = {f"{kind}_{name}": around | dimensions[kind] for kind, how in kinds.items() for name in how["measurement"]}
    return configuration["namespace"], told


def unknown(stack):
    """What alarms and dashboards of a stack, as account.resources has it, look at and nobody tells."""
    namespace, agent = by_the_agent()
    known = {(namespace, name): dimensions for name, dimensions in {**catalogue(), **agent}.items()} | BY_AWS
    for _, kind, values in stack:
        if kind == "aws_cloudwatch_log_metric_filter":
            made = values["metric_transformation"][0]
            known[made["namespace"], made["name"]] = set()
    looked_at = [(address, *what) for address, kind, values in stack for what in looks(kind, values)]
    for kind in ("aws_cloudwatch_metric_alarm", "aws_cloudwatch_dashboard"):
        if not any(f".{kind}." in address for address, *_ in looked_at):
            yield f"no {kind} looks at anything"
    for address, where, name, dimensions, statistic in looked_at:
        if known.get((where, name)) != set(dimensions):
            yield f"{address}: nobody tells {where} {name} by {sorted(dimensions)}, but by {known.get((where, name))}"
        if statistic not in STATISTICS:
            yield f"{address}: {statistic} is no statistic"
    for address, kind, values in stack:
        if kind == "aws_cloudwatch_metric_alarm":
            yield from (f"{address}: {problem}" for problem in expression_problems(values["metric_query"] or []))


def unexplained(stack):
    """Alarms of which the operator's manual does not say what to do."""
    page = (ROOT / "docs/manual.md").read_text().split("\n## When an alarm goes off\n")[1].split("\n## ")[0]
    names = [name for line in page.splitlines() if line.startswith("| `") for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])]
    known = re.compile("|".join(re.sub("[A-Z]+", "[a-z0-9-]+", name) for name in names))
    for address, kind, _ in stack:
        if kind == "aws_cloudwatch_metric_alarm" and not known.fullmatch(address.split('"')[1]):
            yield f"{address}: docs/manual.md does not say what to do about it"


def looks(kind, values):
    """The metrics that a resource looks at: namespace, name, dimensions, statistic."""
    if kind == "aws_cloudwatch_metric_alarm":
        if values["metric_name"]:
            yield values["namespace"], values["metric_name"], values["dimensions"] or {}, values["statistic"]
        for query in values["metric_query"] or []:
            for metric in query["metric"] or []:
                yield metric["namespace"], metric["metric_name"], metric["dimensions"], metric["stat"]
    elif kind == "aws_cloudwatch_dashboard":
        for widget in json.loads(values["dashboard_body"])["widgets"]:
            for line in widget["properties"].get("metrics", []):
                yield from looked_at_by(line, widget["properties"])


def looked_at_by(line, properties):
    if isinstance(line[0], dict):
        found = SEARCHED.findall(line[0]["expression"])
        if len(found) != line[0]["expression"].count("SEARCH"):
            yield "?", line[0]["expression"], {}, "?"
        for schema, name, _, statistic in found:
            namespace, *dimensions = schema.split(",")
            yield namespace, name, dimensions, statistic
    else:
        namespace, name, *pairs = [part for part in line if not isinstance(part, dict)]
        yield namespace, name, pairs[::2], properties["stat"]


def expression_problems(queries):
    """An expression uses the metrics that are beside it, each of them, and only functions that alarms have."""
    ids = {query["id"] for query in queries if query["metric"]}
    for query in queries:
        if query["metric"]:
            continue
        words = set(re.findall(r"[A-Za-z_]\w*", query["expression"]))
        if words - {"MAX", "MIN", "SUM", "FILL"} != ids:
            yield f"{query['expression']} is of {sorted(words)}, and there are {sorted(ids)}"
    if len(ids) > 10:
        yield f"{len(ids)} metrics: CloudWatch takes ten"
