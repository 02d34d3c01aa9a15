"""The AWS provider's schema, read from the bindings that the package cdktf-cdktf-provider-aws carries.

The provider itself is a download of half a gigabyte from HashiCorp. Its bindings have the name, the type and the direction
of every argument, which is what terraform checks a configuration against. They do not tell which arguments exclude each
other, which force a replacement, or which values are allowed.
"""

import re
import tarfile
import zipfile

SIMPLE = {"string": "string", "boolean": "bool", "number": "number"}
ELEMENTS = {"stringList": "string", "stringMap": "string", "numberList": "number", "numberMap": "number"}
GETTERS = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
}
ENTRY = re.compile(
    r"^            (\w+): \{\n\s+value: (.*),\n\s+isBlock: (true|false),\n\s+type: \"(\w+)\",\n\s+storageClassType: \"(\w+)\"",
    re.M,
)
# The same inside of a block, indented less.
NESTED_ENTRY = re.compile(ENTRY.pattern.replace("^            ", "^        "), re.M)


def wanted_types(sources):
    """Every resource and data source that the configurations name, as (kind, type)."""
    found = set()
    for source in sources:
        found.update(re.findall(r'^(resource|data) "(aws_\w+)"', source.read_text(), re.M))
    return sorted(found)


def extract(wheel, wanted):
    """{"provider": block, "resource": {type: block}, "data": {type: block}}"""
    folders = {"provider": ("provider", None)}
    for kind, name in wanted:
        stem = name.removeprefix("aws_").replace("_", "-")
        folders[f"data-aws-{stem}" if kind == "data" else stem] = (kind, name)
    texts = {folder: {} for folder in folders}
    with zipfile.ZipFile(wheel) as archive:
        inner = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        with archive.open(inner) as stream, tarfile.open(fileobj=stream, mode="r|gz") as tar:
            for member in tar:
                folder = re.fullmatch(r"package/lib/([\w-]+)/index\.(js|d\.ts)", member.name)
                if folder and folder[1] in texts:
                    texts[folder[1]][folder[2]] = tar.extractfile(member).read().decode()
    schema = {"provider": None, "resource": {}, "data": {}}
    for folder, (kind, name) in folders.items():
        # A name that JavaScript reserves has "-resource" appended; nothing here is called so.
        if not texts[folder]:
            raise SystemExit(f"schema: the provider has no {kind} {name}")
        block = Bindings(texts[folder]["js"], texts[folder]["d.ts"]).root()
        if kind == "provider":
            schema["provider"] = block
        else:
            schema[kind][name] = block
    return schema


class Bindings:
    """The bindings of one resource: a root class, and for each kind of block in it a struct and a class."""

    def __init__(self, js, types):
        self.js = js
        self.required = {
            name: set(re.findall(r"^    readonly (\w+): ", body, re.M))
            for name, body in re.findall(r"^export interface (\w+)(?: extends [\w.]+)? \{\n(.*?)^\}", types, re.M | re.S)
        }
        self.classes = dict(re.findall(r"^class (\w+) extends [\w.]+ \{\n(.*?)^\}", js, re.M | re.S))
        self.functions = dict(re.findall(r"^function (\w+ToHclTerraform)\(struct\) \{\n(.*?)^\}", js, re.M | re.S))

    def root(self):
        name = next(name for name, body in self.classes.items() if "synthesizeHclAttributes() {" in body)
        body = self.classes[name]
        entries = ENTRY.findall(body[body.index("synthesizeHclAttributes() {"):])
        return self.block(name, f"{name}Config", entries)

    def block(self, class_name, struct, entries):
        required = self.required.get(struct, set())
        attributes, blocks = {}, {}
        for name, value, is_block, kind, storage in entries:
            need = camel(name) in required
            if is_block == "false":
                of = SIMPLE[storage] if kind == "simple" else [kind, ELEMENTS[storage]]
                attributes[name] = {"type": of, "required": need, "optional": not need, "computed": False}
                continue
            function = re.search(r"(\w+)ToHclTerraform", value)[1]
            inner = function[0].upper() + function[1:]
            nested = NESTED_ENTRY.findall(self.functions[f"{function}ToHclTerraform"])
            blocks[name] = {
                "nesting": "single" if kind == "struct" else kind,
                "required": need,
                "single": "listMapperHcl" not in value,
                "block": self.block(f"{inner}OutputReference", inner, nested),
            }
        for name, of in self.computed(class_name).items():
            attributes.setdefault(name, {"type": of, "required": False, "optional": False, "computed": True})
        return {"attributes": attributes, "blocks": blocks}

    def computed(self, class_name):
        """What only the provider sets."""
        body = self.classes.get(class_name, "")
        found = {}
        for name, getter in re.findall(
            r"// (\w+) - computed: true, optional: false, required: false\n\s+(?:get \w+\(\) \{\n\s+return )?(.*);", body
        ):
            inner = re.search(r"new (\w+)List\(this, ", getter)
            if inner:
                found[name] = ["list", ["object", self.computed(f"{inner[1]}OutputReference")]]
                continue
            of = GETTERS.get(next(iter(re.findall(r"this\.(get\w+)\(", getter)), ""), None)
            if of is not None:
                found[name] = ["set", of[1]] if "Fn.tolist" in getter else of
        return found


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)
