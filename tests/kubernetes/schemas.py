#!/usr/bin/env python3
"""Compares the resources of envoy/kubernetes and envoy/istio with the schemas of CustomResourceDefinitions, as strictly as a
server with `--validate=strict`: types, required fields, words, patterns, and no field that a schema does not know.

schemas.py CRDS RESOURCES...    each a YAML file or a folder of them; a kind without a schema is named, and passed over

Kubernetes' own kinds are checked by PyPI's kubernetes-validate where that is installed. Rules in CEL, which only a server can
run, are not looked at.
"""

import re
import sys
from pathlib import Path

import yaml

try:
    import kubernetes_validate
except ImportError:
    kubernetes_validate = None


def documents(places):
    for place in map(Path, places):
        files = [place] if place.is_file() else sorted(place.rglob("*.yaml"))
        for file in files:
            for document in yaml.safe_load_all(file.read_text()):
                if isinstance(document, dict):
                    yield file, document


def schemas(place):
    """(group/version, kind) -> schema."""
    found = {}
    for _, document in documents([place]):
        if document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        for version in spec["versions"]:
            key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            found[key] = version["schema"]["openAPIV3Schema"]
    return found


KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def faults(schema, value, path):
    """Every way in which the value is not what the schema says."""
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, (int, str)):
            yield f"{path}: neither a number nor a string"
        return
    for part in schema.get("allOf", []):
        yield from faults({**part, "x-kubernetes-preserve-unknown-fields": True}, value, path)
    for way in ("anyOf", "oneOf"):
        ways = [list(faults({**part, "x-kubernetes-preserve-unknown-fields": True}, value, path)) for part in schema.get(way, [])]
        if ways and all(ways):
            yield f"{path}: fits no {way}: {min(ways, key=len)[0]}"
    if "not" in schema and not list(faults({**schema["not"], "x-kubernetes-preserve-unknown-fields": True}, value, path)):
        yield f"{path}: is what it must not be"
    kind = schema.get("type")
    if kind and (not isinstance(value, KINDS[kind]) or (kind != "boolean" and isinstance(value, bool))):
        yield f"{path}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} does not fit {schema['pattern']}"
        if len(value) > schema.get("maxLength", len(value)):
            yield f"{path}: longer than {schema['maxLength']}"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path}: {len(value)} items"
        for number, item in enumerate(value):
            yield from faults(schema.get("items", {}), item, f"{path}[{number}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield f"{path}.{name}: is missing"
        more = schema.get("additionalProperties")
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or not (known or more) and "type" not in schema
        for name, inner in value.items():
            if name in known:
                yield from faults(known[name], inner, f"{path}.{name}")
            elif isinstance(more, dict):
                yield from faults(more, inner, f"{path}.{name}")
            elif not (more or open_ended):
                yield f"{path}.{name}: there is no such field"


def kubernetes_own(resource):
    """Of a kind that comes with Kubernetes: whether it fits its schema, or why not."""
    if kubernetes_validate is None or "kustomize" in resource.get("apiVersion", ""):
        return "passed over"
    try:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"WRONG {error.message}"
    return "fits"


def main():
    crds, *places = sys.argv[1:]
    known, checked, wrong = schemas(crds), 0, 0
    if not known or not places:
        sys.exit(__doc__)
    for file, resource in documents(places):
        key = resource.get("apiVersion"), resource.get("kind")
        name = f"{file}: {key[1]} {resource.get('metadata', {}).get('name')}"
        if key not in known:
            said = kubernetes_own(resource)
            checked += said == "fits"
            wrong += said.startswith("WRONG")
            print(f"{said:12} {name}")
            continue
        checked += 1
        # What every kind has is not in each schema.
        rest = {name: value for name, value in resource.items() if name not in ("apiVersion", "kind", "metadata")}
        found = [one for one in faults(known[key], rest, "") if not one.startswith(".metadata")]
        wrong += bool(found)
        print(f"{'WRONG' if found else 'fits':12} {name}", *found, sep="\n    ")
    print(f"{checked} resources beside {len(known)} schemas, {wrong} wrong")
    sys.exit(1 if wrong or not checked else 0)


main()
