"""A provider that terraform takes for hashicorp/aws: the real one's schema, and a world behind it.

It speaks terraform's plugin protocol 6, and runs in this process, to which every terraform is told to attach itself
(TF_REATTACH_PROVIDERS): otherwise each would start a Python of its own, several times.
"""

import json
import os
import tempfile
from concurrent import futures
from contextlib import contextmanager

# Before it is loaded: else it tells of each process that is begun here.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import msgpack
from tf.gen import grpc_stdio_pb2_grpc as stdio_rpc
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

import rules

UNKNOWN = object()
# Any extension value of kind 0 is "not known yet".
UNKNOWN_BYTES = msgpack.ExtType(0, b"\0")
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}


def decode(value):
    """A dynamic value as Python data, with UNKNOWN where nothing is known yet."""
    if not value.msgpack:
        return json.loads(value.json) if value.json else None
    return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False, ext_hook=lambda *_: UNKNOWN)


def encode(value):
    default = lambda other: UNKNOWN_BYTES if other is UNKNOWN else str(other)
    return pb.DynamicValue(msgpack=msgpack.packb(value, default=default, use_bin_type=True))


class Schemas:
    """The schema in terraform's own terms."""

    def __init__(self, raw):
        """What `schema.extract` makes."""
        self.raw = raw

    def message(self, block, filled):
        return pb.Schema(version=0, block=self.block(block, filled))

    def block(self, block, filled=frozenset()):
        message = pb.Schema.Block(version=0)
        for name, attribute in sorted(block["attributes"].items()):
            message.attributes.append(
                pb.Schema.Attribute(
                    name=name,
                    type=json.dumps(attribute["type"]).encode(),
                    required=attribute["required"],
                    optional=attribute["optional"],
                    computed=attribute["computed"] or (attribute["optional"] and name in filled),
                )
            )
        for name, nested in sorted(block["blocks"].items()):
            message.block_types.append(
                pb.Schema.NestedBlock(
                    type_name=name,
                    block=self.block(nested["block"]),
                    nesting=NESTING[nested["nesting"]],
                    min_items=int(nested["required"] and nested["nesting"] != "single"),
                    max_items=int(nested["single"] and nested["nesting"] != "single"),
                )
            )
        return message

    def answer(self):
        return pb.GetProviderSchema.Response(
            provider=self.message(self.raw["provider"], frozenset()),
            resource_schemas={
                kind: self.message(block, rules.filled_in(kind)) for kind, block in self.raw["resource"].items()
            },
            data_source_schemas={
                kind: self.message(block, rules.filled_in(kind)) for kind, block in self.raw["data"].items()
            },
        )


def problem(response, summary, attribute=None):
    diagnostic = pb.Diagnostic(severity=pb.Diagnostic.ERROR, summary=summary)
    if attribute:
        diagnostic.attribute.steps.append(pb.AttributePath.Step(attribute_name=attribute))
    response.diagnostics.append(diagnostic)


class Provider(rpc.ProviderServicer):
    def __init__(self, schemas, world):
        self.schemas = schemas
        self.world = world

    def GetMetadata(self, request, context):
        # Terraform then asks for the whole schema.
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for the schema")

    def GetProviderSchema(self, request, context):
        return self.schemas.answer()

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ConfigureProvider(self, request, context):
        config = decode(request.config)
        defaults = config.get("default_tags") or []
        self.world.region = config.get("region") or os.environ.get("AWS_REGION") or "eu-central-1"
        self.world.default_tags = (defaults[0].get("tags") or {}) if defaults else {}
        return pb.ConfigureProvider.Response()

    def ValidateResourceConfig(self, request, context):
        response = pb.ValidateResourceConfig.Response()
        self.validate(response, self.schemas.raw["resource"], request.type_name, decode(request.config))
        return response

    def ValidateDataResourceConfig(self, request, context):
        response = pb.ValidateDataResourceConfig.Response()
        self.validate(response, self.schemas.raw["data"], request.type_name, decode(request.config))
        return response

    def validate(self, response, schemas, kind, config):
        for name, attribute in schemas[kind]["attributes"].items():
            value = config.get(name)
            if attribute["computed"] and value is not None:
                problem(response, f"{kind}.{name} is set by AWS and not by a configuration", name)
            if not isinstance(value, str):
                continue
            longest = rules.LONGEST.get((kind, name))
            if longest and len(value) > longest:
                problem(response, f"{kind}.{name} is longer than {longest}: {value}", name)
            if name in rules.DOCUMENTS:
                try:
                    json.loads(value)
                except ValueError as error:
                    problem(response, f"{kind}.{name} is no JSON: {error}", name)
            if name == "user_data" and len(value.encode()) > rules.USER_DATA_BYTES:
                problem(response, f"user_data has more than {rules.USER_DATA_BYTES} bytes", name)
        for names in rules.ONE_OF.get(kind, []):
            given = sorted(name for name in names if config.get(name) is not None)
            if len(given) != 1:
                problem(response, f"{kind} takes exactly one of {', '.join(sorted(names))}: {given or 'none is given'}")

    def UpgradeResourceState(self, request, context):
        return pb.UpgradeResourceState.Response(upgraded_state=encode(json.loads(request.raw_state.json)))

    def PlanResourceChange(self, request, context):
        prior, planned = decode(request.prior_state), decode(request.proposed_new_state)
        response = pb.PlanResourceChange.Response()
        if planned is None:
            response.planned_state.CopyFrom(encode(None))
            return response
        kind = request.type_name
        schema = self.schemas.raw["resource"][kind]["attributes"]
        if prior is None:
            for name, attribute in schema.items():
                if planned.get(name) is None and (attribute["computed"] or name in rules.filled_in(kind)):
                    planned[name] = UNKNOWN
        if "region" in schema and planned["region"] in (None, UNKNOWN):
            planned["region"] = self.world.region
        if "tags_all" in schema:
            tags = planned.get("tags")
            planned["tags_all"] = UNKNOWN if tags is UNKNOWN else {**self.world.default_tags, **(tags or {})}
        if prior is not None:
            replacing = rules.REPLACES.get(kind, {"name"})
            if planned.get("user_data_replace_on_change"):
                replacing = replacing | {"user_data"}
            for name in sorted(replacing):
                if name in planned and planned[name] != prior.get(name):
                    response.requires_replace.append(
                        pb.AttributePath(steps=[pb.AttributePath.Step(attribute_name=name)])
                    )
        response.planned_state.CopyFrom(encode(planned))
        return response

    def ApplyResourceChange(self, request, context):
        prior, planned = decode(request.prior_state), decode(request.planned_state)
        response = pb.ApplyResourceChange.Response()
        kind = request.type_name
        try:
            if planned is None:
                self.world.delete(kind, prior)
                new = None
            elif prior is None:
                new = self.known(kind, planned, self.world.create(kind, planned))
            else:
                new = self.known(kind, planned, self.world.update(kind, prior, planned) or prior)
        except Exception as error:  # whatever the double says is shown as AWS's answer would be
            problem(response, f"{kind}: {type(error).__name__}: {error}")
            response.new_state.CopyFrom(request.prior_state)
            return response
        response.new_state.CopyFrom(encode(new))
        return response

    def known(self, kind, planned, made):
        """The planned state with what was made in the place of what was not known."""
        schema = self.schemas.raw["resource"][kind]["attributes"]
        new = {}
        for name, value in planned.items():
            if value is UNKNOWN:
                value = made.get(name)
                if value is None and name != "id":
                    value = self.world.made_up(kind, name, schema[name]["type"], made["id"])
            new[name] = value
        return new

    def ReadResource(self, request, context):
        state = decode(request.current_state)
        response = pb.ReadResource.Response()
        try:
            state = self.world.read(request.type_name, state)
        except Exception as error:
            problem(response, f"{request.type_name}: {type(error).__name__}: {error}")
        response.new_state.CopyFrom(encode(state))
        return response

    def ReadDataSource(self, request, context):
        config = decode(request.config)
        response = pb.ReadDataSource.Response()
        kind = request.type_name
        try:
            seen = self.world.look(kind, config)
        except Exception as error:
            problem(response, f"{kind}: {type(error).__name__}: {error}")
            return response
        response.state.CopyFrom(encode({**config, "id": config.get("id") or seen.get("id") or kind, **seen}))
        return response

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()


class Stdio(stdio_rpc.GRPCStdioServicer):
    def StreamStdio(self, request, context):
        return iter(())


@contextmanager
def serving(schemas, world):
    """What terraform's environment must have, while it runs."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    rpc.add_ProviderServicer_to_server(Provider(schemas, world), server)
    stdio_rpc.add_GRPCStdioServicer_to_server(Stdio(), server)
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/provider.sock"
        server.add_insecure_port(f"unix://{socket}")
        server.start()
        attach = {
            "registry.terraform.io/hashicorp/aws": {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "unix", "String": socket},
            }
        }
        try:
            yield {"TF_REATTACH_PROVIDERS": json.dumps(attach)}
        finally:
            server.stop(grace=1).wait()
